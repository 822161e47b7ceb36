"""The Tuner: checks what the user gave, and hands it on."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .arguments import check_arguments
from .config import RunConfig, TuneConfig
from .errors import ConfigError, EngineError

if TYPE_CHECKING:
    from .results import ResultGrid

__all__ = ["Tuner"]


@check_arguments
class Tuner:
    """Trains a population and returns its results.

    Args:
        trainable: the function that trains one member: ``train(config)``, which calls ``tune.report(metrics,
            checkpoint=)`` once an iteration.
        param_space: the config of a member: constants, distributions (``tune.uniform(...)``),
            ``tune.grid_search([...])``, nested dicts and lists of these.
        tune_config: what is optimised and how.
        run_config: where and how long.

    Raises:
        ConfigError: an argument is wrong; the message says which and what is allowed.
    """

    def __init__(
        self,
        trainable: Callable[..., Any] | None = None,
        *,
        param_space: Mapping[str, Any] | None = None,
        tune_config: TuneConfig | None = None,
        run_config: RunConfig | None = None,
    ) -> None:
        self._trainable = _check_trainable(trainable)
        if param_space is not None and not isinstance(param_space, Mapping):
            raise ConfigError(
                f"Tuner: param_space must be a dict such as {{'lr': tune.uniform(0, 1)}}, but is {param_space!r}."
            )
        for name, value, kind in (("tune_config", tune_config, TuneConfig), ("run_config", run_config, RunConfig)):
            if value is not None and not isinstance(value, kind):
                raise ConfigError(f"Tuner: {name} must be a tune.{kind.__name__}(...), but is {value!r}.")
        self._space = dict(param_space or {})
        self._tune = tune_config or TuneConfig()
        self._run = run_config or RunConfig()

    def fit(self) -> ResultGrid:
        """Train the population to its end and return its results.

        Returns:
            One result a trial. A trial that failed does not make ``fit`` raise; see ``ResultGrid.errors``.

        Raises:
            ConfigError: the settings do not fit together; nothing was started.
            StorageError: the experiment's folder cannot be used.
            EngineError: members cannot be started, or one asks for more than the machine has.
            TrialFailed: a trial failed, with ``FailureConfig(fail_fast="raise")``.
            KeyboardInterrupt: the user pressed Ctrl-C. Everything reported so far is kept:
                ``tune.ResultGrid.read(folder)`` returns it.
        """
        _check_not_loading()
        # Late, so that importing shoal costs next to nothing.
        from .plan import make_plan
        from .results import ResultGrid
        from .wiring import execute, make_folder

        plan = make_plan(self._trainable, self._space, self._tune, self._run)
        folder = make_folder(self._run, plan.info.name)
        execute(plan, folder, self._run)
        grid = ResultGrid.read(folder)
        if plan.raises and grid.errors:
            raise grid.errors[0]
        return grid


def _check_not_loading() -> None:
    """Refuse to start an experiment while members' modules are imported: each parent process would start another."""
    nursery = sys.modules.get("shoal.worker.nursery")
    if nursery is not None and nursery.loading:
        raise EngineError(
            "Tuner.fit() was called by a module that is only imported to find the trainable in it. Put the call under "
            "if __name__ == '__main__': or into a function."
        )


def _check_trainable(trainable: object) -> Callable[..., Any]:
    if trainable is None or not callable(trainable):
        raise ConfigError(
            f"Tuner: the trainable must be a function that takes a config, such as train(config), but is {trainable!r}."
        )
    if inspect.isclass(trainable):
        raise ConfigError(
            f"Tuner: the trainable must be a function train(config), but is the class {trainable.__name__}. Class "
            f"trainables "
            f"are not supported yet; write its loop as a function that calls tune.report."
        )
    for kind, test in (("async def", inspect.iscoroutinefunction), ("generator", inspect.isgeneratorfunction)):
        if test(trainable):
            name = getattr(trainable, "__name__", trainable)
            raise ConfigError(
                f"Tuner: the trainable must be an ordinary function train(config), but {name} is an {kind} function: "
                f"calling it would run none of its code."
            )
    try:
        inspect.signature(trainable).bind({})
    except ValueError:
        pass  # a built-in function without a signature
    except TypeError as error:
        raise ConfigError(
            f"Tuner: the trainable must take one argument, the config, but "
            f"{getattr(trainable, '__name__', trainable)} does not: {error}."
        ) from error
    return trainable
