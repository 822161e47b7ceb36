"""``module:function``: finds what trains a member, as ``python -m module`` would find the module."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import did_you_mean
from .errors import UsageProblem

__all__ = ["TrainableArgument", "load_trainable"]


def complete_trainable(incomplete: str) -> list[str]:
    """Return the modules in the working directory, for a shell."""
    return [f"{name}:" for name in _modules_here() if name.startswith(incomplete)]


TrainableArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:FUNCTION",
        show_default=False,
        autocompletion=complete_trainable,
        help="What trains a member: a function train(config) or a tune.Trainable, found as 'python -m MODULE' would.",
    ),
]


def load_trainable(given: str) -> Callable[..., Any]:
    """Import what ``module:function`` names; the working directory comes first.

    Members get it by its name and import the module themselves, with the same ``sys.path``.

    Raises:
        UsageProblem: there is no such module or function, or importing it fails.
    """
    name, colon, attribute = given.partition(":")
    if not colon or not name or not attribute or os.sep in name or name.endswith(".py"):
        raise UsageProblem(_malformed(given, name, attribute))
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    module = _import(name)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [key for key in dir(found) if not key.startswith("_") and callable(getattr(found, key, None))]
            own = [key for key in names if getattr(getattr(found, key), "__module__", None) == name]
            listed = f" It has: {', '.join(own[:8])}." if own else ""
            raise UsageProblem(f"The module {name} has no {attribute!r}.{did_you_mean(part, names)}{listed}")
        found = getattr(found, part)
    if not callable(found):
        raise UsageProblem(f"{given} is no function train(config) and no class, but {found!r:.100}.")
    trainable: Callable[..., Any] = found
    return trainable


def _malformed(given: str, name: str, attribute: str) -> str:
    text = f"What trains a member is given as MODULE:FUNCTION, for example train:train, but was {given!r}."
    path = Path(name)
    if path.suffix == ".py" or os.sep in name:
        dotted = ".".join(part for part in path.with_suffix("").parts if part not in (".", os.sep))
        return f"{text} Name the module, not its file: {dotted}:{attribute or 'train'}."
    return text if ":" in given else f"{text} Which function of it? For example {given}:train."


def _import(name: str) -> Any:
    """Return a module.

    Raises:
        UsageProblem: there is none, or its own code fails.
    """
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        missing = getattr(error, "name", None)
        if isinstance(error, ModuleNotFoundError) and isinstance(missing, str) and f"{name}.".startswith(f"{missing}."):
            near = did_you_mean(missing, _modules_here())
            raise UsageProblem(
                f"There is no module {missing!r}, neither in {os.getcwd()} nor installed.{near}"
            ) from error
        if isinstance(error, SystemExit):
            raise UsageProblem(
                f"Importing {name} ended with SystemExit: what it does when it is run belongs under "
                f"if __name__ == '__main__':."
            ) from error
        raise UsageProblem(f"Importing {name} failed: {type(error).__name__}: {error}{_place(error)}.") from error


def _place(error: BaseException) -> str:
    """Return where in the user's code an error was raised."""
    inner = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    own = [frame for frame in inner if frame.filename != __file__]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


def _modules_here() -> list[str]:
    found: list[str] = []
    with contextlib.suppress(OSError):
        for entry in sorted(Path().iterdir()):
            if entry.suffix == ".py" or (entry / "__init__.py").is_file():
                found.append(entry.stem)
    return [name for name in found if name.isidentifier()]
