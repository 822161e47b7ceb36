"""Which experiment and which trial are meant: by path, by name, by the beginning of a name, by number."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import did_you_mean
from ..location import is_url, join, location_of, name_of
from .errors import UsageProblem

if TYPE_CHECKING:
    from ..history import TrialHistory
    from ..reading import Experiment

__all__ = [
    "LATEST", "ExperimentArgument", "FolderArgument", "TrialArgument", "TrialOption", "experiment_folder",
    "experiment_folders", "find_experiment", "find_trial", "name_for", "name_in", "newest_first", "no_permission",
    "open_experiment", "storage_root",
]  # fmt: skip

LATEST = "latest"
"""Stands for the experiment in which something happened last."""
_NAMED = 8
"""How many names an error lists."""


def storage_root() -> Path | str:
    """Return the folder that experiments are in by default: the variable ``SHOAL_DIR``, else ``./shoal_results``.

    Where the variable holds the URL of a folder in object storage, that.
    """
    root = os.environ.get("SHOAL_DIR") or "shoal_results"
    return root if is_url(root) else location_of(root).folder


def name_in(experiment: Path | str) -> str:
    """Return the name of an experiment, given by its folder or its URL."""
    return name_of(experiment) if is_url(experiment) else Path(experiment).name


def newest_first(root: Path) -> list[Path]:
    """Return the folders of experiments in a folder, the one in which something happened last first."""
    from ..reading import find_experiments

    return sorted(find_experiments(root), key=_last_written, reverse=True)


def _last_written(folder: Path) -> float:
    """Return when the journal was written last; while a driver runs, that is its log beside it."""
    from ..journal import JOURNAL_NAME

    times = [0.0]
    for name in (JOURNAL_NAME, f"{JOURNAL_NAME}-wal"):
        with contextlib.suppress(OSError):
            times.append((folder / name).stat().st_mtime)
    return max(times)


def experiment_folder(given: str, why: str = "") -> Path:
    """Return the folder of the experiment that is meant, on this machine.

    Args:
        given: a path; or, of one in the default storage folder, its name, the beginning of its name, or ``latest``.
        why: why it has to be on this machine, in a sentence.

    Raises:
        UsageProblem: there is none, several could be meant, or it is in object storage.
    """
    found = find_experiment(given)
    if isinstance(found, str):
        raise UsageProblem(f"{found} is in object storage. {why or 'Give the folder of an experiment.'}")
    return found


def find_experiment(given: str) -> Path | str:
    """Return the folder, or in object storage the URL, of the experiment that is meant.

    Args:
        given: a path or a URL; or, of one in the default storage folder, its name, the beginning of its name, or
            ``latest``.

    Raises:
        UsageProblem: there is none, or several could be meant.
        ConfigError: the kind of URL is not known, or a package is missing.
        StorageError: object storage cannot be read.
    """
    from ..journal import JOURNAL_NAME
    from ..reading import is_experiment
    from ..viewing import find_urls

    if is_url(given):
        return location_of(given).url or given
    path = location_of(given).folder if "://" in given else Path(given).expanduser()
    if given and path.name == JOURNAL_NAME and path.is_file():
        return path.parent
    if given and (is_experiment(path) or _is_remains(path)):
        return path
    root = storage_root()
    folders: list[Path] | list[str] = find_urls(root) if isinstance(root, str) else newest_first(root)
    by_name = {name_in(folder): folder for folder in folders}
    if given in by_name:
        return by_name[given]
    if given == LATEST and folders:
        return folders[0]
    is_path = os.sep in given or given in ("", ".", "..") or given.startswith("~")
    if not is_path:
        starting = [name for name in by_name if name.startswith(given)]
        if len(starting) == 1:
            return by_name[starting[0]]
        if starting:
            raise UsageProblem(
                f"Several experiments in {root} begin with {given!r}: {_some(starting)}. Give more of the name."
            )
    raise UsageProblem(_not_found(given, path, root, list(by_name)))


def no_permission(folder: Path) -> str | None:
    """Return what of an experiment this user may not read, and needs to; None where nothing is in the way."""
    from ..journal import JOURNAL_NAME

    if not os.path.isdir(folder):
        return None
    if not os.access(folder, os.R_OK | os.X_OK):
        return f"{folder} cannot be entered: permission denied."
    for name in (JOURNAL_NAME, f"{JOURNAL_NAME}-wal"):
        if (folder / name).exists() and not os.access(folder / name, os.R_OK):
            return f"{folder / name} cannot be read: permission denied."
    return None


def _all_in(root: Path) -> list[Path]:
    """Return the folders of experiments in a folder, newest first; then what is left of some, or cannot be entered."""
    found = newest_first(root)
    known = {path.name for path in found}
    with contextlib.suppress(OSError):
        if found != [root]:
            for path in sorted(root.iterdir()):
                if path.name not in known and path.is_dir() and (no_permission(path) or _is_remains(path)):
                    found.append(path)
    return found


def _is_remains(path: Path) -> bool:
    """Return whether a folder is what is left of an experiment: whoever opens it says what is gone."""
    from ..journal import JOURNAL_NAME
    from ..journal.lock import LOCK_NAME

    return any(os.path.lexists(path / name) for name in (JOURNAL_NAME, f"{JOURNAL_NAME}-wal", LOCK_NAME))


def _not_found(given: str, path: Path, root: Path | str, names: list[str]) -> str:
    if os.sep in given and not path.exists():
        return f"There is no experiment {given!r}: the path does not exist."
    inside = [folder.name for folder in newest_first(path)] if given and path.is_dir() else []
    if inside:
        return f"{given} is no experiment but a folder with some: {_some(inside)}. Give the path of one of them."
    if not names:
        gone = isinstance(root, Path) and not root.is_dir()
        there = f"The folder {root} does not exist" if gone else f"In {root} there is none"
        return (
            f"There is no experiment {given!r}. {there}; give the path of one, or set SHOAL_DIR to the folder that "
            f"experiments are in."
        )
    return f"There is no experiment {given!r}.{did_you_mean(given, names)} In {root} there are: {_some(names)}."


def name_for(folder: Path | str) -> str:
    """Return how an experiment is named on the command line: by its name where that finds it, else by its path."""
    from ..reading import is_experiment

    root = storage_root()
    if isinstance(folder, str) or isinstance(root, str):
        same = isinstance(root, str) and location_of(join(root, name_in(folder))).url == folder
        return shlex.quote(name_in(folder) if same else str(folder))
    in_root = root / folder.name
    same = is_experiment(in_root) and os.path.realpath(in_root) == os.path.realpath(folder)
    return shlex.quote(folder.name if same else str(folder))


def experiment_folders(given: str | None, why: str | None = None) -> tuple[list[Path | str], bool]:
    """Return the experiments in a folder, newest first, and whether one experiment was meant.

    What is left of one that has lost its journal, and what cannot be entered, is among them, at the end.

    Args:
        given: a folder with experiments or its URL, or what :func:`find_experiment` takes; None: the default storage
            folder.
        why: why they have to be on this machine, in a sentence; None: they may be in object storage.

    Raises:
        UsageProblem: there is no such folder, or it is in object storage.
        ConfigError: the kind of URL is not known, or a package is missing.
        StorageError: object storage cannot be read.
    """
    from ..reading import is_experiment
    from ..viewing import find_urls

    root = storage_root() if given is None else given
    if is_url(root):
        if why is not None:
            raise UsageProblem(f"{root} is in object storage. {why}")
        urls = find_urls(root)
        return [*urls], urls == [location_of(root).url] if name_of(root) else False
    path = root if isinstance(root, Path) else Path(root).expanduser()
    if is_experiment(path) or (given is not None and (_is_remains(path) or no_permission(path))):
        return [path], True
    if path.is_dir() and (folders := _all_in(path)):
        return [*folders], False
    if given is None or (path.is_dir() and os.sep in given):
        return [], False
    try:
        return [find_experiment(given) if why is None else experiment_folder(given, why)], True
    except UsageProblem:
        if path.is_dir():
            return [], False
        raise


def open_experiment(given: str, *, unpickle: bool = False) -> Experiment:
    """Read the experiment that is meant.

    Args:
        given: as for :func:`find_experiment`.
        unpickle: whether objects in configs are loaded, which runs code of whoever wrote the journal.

    Raises:
        UsageProblem: there is none, or several could be meant.
        JournalError: its journal is damaged.
    """
    from ..reading import Experiment

    return Experiment.open(find_experiment(given), unpickle=unpickle)


def find_trial(experiment: Experiment, given: str) -> TrialHistory:
    """Return the trial that is meant: by number, id, name, folder, the beginning of one of these, or ``best``.

    Raises:
        UsageProblem: there is none, or several could be meant.
    """
    trials = experiment.history.in_order()
    wanted = given.rstrip(os.sep)
    wanted = os.path.basename(wanted) or wanted
    for trial in trials:
        if wanted in (trial.trial_id, trial.name, trial.folder):
            return trial
    if wanted.isdecimal():
        for trial in trials:
            if trial.index == int(wanted):
                return trial
        last = trials[-1].index if trials else None
        allowed = "there is none yet" if last is None else f"they are 0 to {last}"
        raise UsageProblem(f"There is no trial {wanted} in {experiment.name}: {allowed}.")
    if wanted == "best":
        if experiment.best is None:
            raise UsageProblem(f"No trial of {experiment.name} is best yet: give the number of one.")
        return experiment.best
    found = [
        trial
        for trial in trials
        if wanted and any(name.startswith(wanted) for name in (trial.trial_id, trial.name, trial.folder))
    ]
    if len(found) == 1:
        return found[0]
    names = [trial.name for trial in (found or trials)]
    if found:
        raise UsageProblem(f"Several trials of {experiment.name} begin with {given!r}: {_some(names)}.")
    near = did_you_mean(wanted, [name for trial in trials for name in (trial.trial_id, trial.name)])
    raise UsageProblem(
        f"There is no trial {given!r} in {experiment.name}.{near} Give a number, an id, a name or a folder of: "
        f"{_some(names) or 'none yet'}."
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


# --------------------------------------------------------------------------------------------- completing with the tab


def complete_experiment(incomplete: str) -> list[str]:
    """Return the names of experiments, for a shell."""
    with contextlib.suppress(Exception):
        root = storage_root()
        if isinstance(root, str):
            return []  # nobody who presses the tab wants to wait for a network
        folders = newest_first(root)
        return [name for name in (*(folder.name for folder in folders), LATEST) if name.startswith(incomplete)]
    return []


def complete_trial(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the numbers and ids of an experiment's trials, for a shell."""
    with contextlib.suppress(Exception):
        # Behind an option, an argument that is there already has not been taken in yet.
        given = ctx.params.get("experiment") or next(iter(ctx.args))
        trials = open_experiment(str(given)).history.in_order()
        pairs = [(name, trial.name) for trial in trials for name in (str(trial.index), trial.trial_id)]
        return [pair for pair in (*pairs, ("best", "the best one")) if pair[0].startswith(incomplete)]
    return []


ExperimentArgument = Annotated[
    str,
    typer.Argument(
        metavar="EXPERIMENT",
        show_default=False,
        autocompletion=complete_experiment,
        help="Its path or URL; or its name in the storage folder, the beginning of that, or 'latest'.",
    ),
]
FolderArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="FOLDER",
        show_default=False,
        help="A folder with experiments, or its URL. Default: the variable SHOAL_DIR, else ./shoal_results.",
    ),
]
TrialArgument = Annotated[
    str,
    typer.Argument(
        metavar="TRIAL",
        show_default=False,
        autocompletion=complete_trial,
        help="Its number, id, name or folder, or 'best'.",
    ),
]
TrialOption = Annotated[
    str | None,
    typer.Option(
        "--trial",
        "-t",
        metavar="TRIAL",
        show_default=False,
        autocompletion=complete_trial,
        help="Of which trial: its number, id, name or folder. Default: the best one.",
    ),
]
