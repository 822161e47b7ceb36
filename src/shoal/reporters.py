"""Progress reporters: what Ray Tune prints with. Shoal has a status of its own, so here they only hold their settings.

Scripts make a ``CLIReporter`` to choose the columns of Ray Tune's table, and hand it over as ``progress_reporter``. In
Shoal that is accepted and has no effect: its status chooses its columns itself, and ``verbose`` says how much it shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .arguments import check_arguments, warn_user
from .errors import ConfigError

__all__ = ["CLIReporter", "JupyterNotebookReporter", "ProgressReporter", "check_reporter"]

Columns = Sequence[str] | Mapping[str, str]


class ProgressReporter:
    """Base class of progress reporters. Shoal calls none of its methods, and warns where one is overridden.

    To be told of what happens, write a :class:`shoal.tune.Callback` instead.
    """

    def setup(self, **info: Any) -> None:
        """Never called."""

    def should_report(self, trials: list[Any], done: bool = False) -> bool:
        """Never called; returns False."""
        return False

    def report(self, trials: list[Any], done: bool, *sys_info: Any) -> None:
        """Never called."""


@check_arguments
class CLIReporter(ProgressReporter):
    """Accepted as in Ray Tune, without effect: Shoal's status chooses its columns itself.

    Args:
        metric_columns, parameter_columns: names of metrics and of config keys, or dicts from these to titles.
        total_samples, max_progress_rows, max_error_rows, max_column_length, max_report_frequency, infer_limit,
            print_intermediate_tables, metric, mode, sort_by_metric: as in Ray Tune; not looked at.

    Raises:
        ConfigError: an argument is misspelled.
    """

    def __init__(
        self,
        metric_columns: Columns | None = None,
        parameter_columns: Columns | None = None,
        total_samples: int | None = None,
        max_progress_rows: int = 20,
        max_error_rows: int = 20,
        max_column_length: int = 20,
        max_report_frequency: float = 5,
        infer_limit: int = 3,
        print_intermediate_tables: bool | None = None,
        metric: str | None = None,
        mode: str | None = None,
        sort_by_metric: bool = False,
    ) -> None:
        self.metric_columns = _titles(metric_columns)
        self.parameter_columns = _titles(parameter_columns)

    def add_metric_column(self, metric: str, representation: str | None = None) -> None:
        """Add a metric, and its title, to ``metric_columns``; without effect as well."""
        self.metric_columns[metric] = representation or metric

    def add_parameter_column(self, parameter: str, representation: str | None = None) -> None:
        """Add a config key, and its title, to ``parameter_columns``; without effect as well."""
        self.parameter_columns[parameter] = representation or parameter


class JupyterNotebookReporter(CLIReporter):
    """Accepted as in Ray Tune, without effect: Shoal's status knows a notebook when it is in one.

    Args:
        overwrite: as in Ray Tune; not looked at.
        **columns: see :class:`CLIReporter`.
    """

    def __init__(self, overwrite: bool = True, **columns: Any) -> None:
        super().__init__(**columns)


_METHODS = ("setup", "should_report", "report")


def check_reporter(reporter: object, where: str) -> None:
    """Check a ``progress_reporter``, and warn where it overrides what is never called.

    Raises:
        ConfigError: it is no progress reporter.
    """
    if reporter is None:
        return
    if not isinstance(reporter, ProgressReporter):
        raise ConfigError(
            f"{where}: progress_reporter must be None or a reporter such as tune.CLIReporter(), but is {reporter!r}. "
            f"Either has no effect in Shoal: verbose says how much its status shows."
        )
    kind = type(reporter)
    overridden = [name for name in _METHODS if getattr(kind, name) is not getattr(ProgressReporter, name)]
    if overridden:
        warn_user(
            f"{where}: {kind.__name__}.{overridden[0]} is never called, because Shoal prints its own status and not "
            f"with a progress_reporter. To be told of what happens, write a tune.Callback."
        )


def _titles(columns: Columns | None) -> dict[str, str]:
    if columns is None:
        return {}
    return dict(columns) if isinstance(columns, Mapping) else {name: name for name in columns}
