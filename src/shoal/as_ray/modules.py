"""Modules called ``ray...``: they look their names up in the table, and say so where it has none."""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Iterable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

from ..errors import did_you_mean
from .names import HINTS, MODULES

__all__ = ["RayFinder", "RayModule", "absent", "names_of"]

_MANY = 20
"""An error that names more than so many leaves the submodules out."""


class RayModule(types.ModuleType):
    """A module whose names are looked up when they are asked for, so that importing it costs nothing.

    Every one of them is a package to the import system. ``from ray.tune import X`` then asks the finder for a module
    ``ray.tune.X`` where the module has no ``X``, and the finder's error reaches the user; an AttributeError from here
    would be replaced by Python's own.
    """

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":
            return _public(self.__name__)  # what ``from ... import *`` takes
        full = f"{self.__name__}.{name}"
        if full in MODULES:
            return importlib.import_module(full)
        found = _find(self.__name__, name)
        if found is None:
            # Python and its libraries ask modules for all sorts of dunder names; nobody reads those errors.
            dunder = name.startswith("__") and name.endswith("__")
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}" if dunder else absent(full))
        setattr(self, name, found[0])
        return found[0]

    def __reduce__(self) -> tuple[Any, ...]:
        # cloudpickle carries modules by their names, but only those that are of exactly the usual type.
        return _import, (self.__name__,)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *names_of(self.__name__)})


class RayFinder(MetaPathFinder, Loader):
    """Finds ``ray`` and all that is in it, before anything else can."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to make a module of the table; None where the name is not one of Ray's.

        None, too, where Shoal has nothing for a name of Ray's and it is only asked whether there is such a module, as
        libraries do with ``importlib.util.find_spec`` to see what they can use.

        Raises:
            ModuleNotFoundError: it is one of Ray's and is being imported, but Shoal has nothing for it.
        """
        if fullname != "ray" and not fullname.startswith("ray."):
            return None
        if fullname in MODULES:
            return ModuleSpec(fullname, self, is_package=True)
        steps = _steps_of_the_import()
        if _IMPORTS not in steps:
            return None
        # With its `name`, an error about just the module that a "from ... import" asks for would be swallowed.
        raise ModuleNotFoundError(absent(fullname), name=None if _FROM in steps else fullname)

    def create_module(self, spec: ModuleSpec) -> RayModule:
        """Return the module."""
        return RayModule(spec.name, f"Shoal in the place of {spec.name}; see shoal.as_ray.")

    def exec_module(self, module: types.ModuleType) -> None:
        """Do nothing: its names come when they are asked for."""


_IMPORT_SYSTEM = "<frozen importlib._bootstrap>"
_IMPORTS = "_find_and_load_unlocked"
"""The function of the import system that asks finders in order to import; others ask them, too."""
_FROM = "_handle_fromlist"
"""That for the names of a ``from ... import`` which the module itself does not have."""


def _steps_of_the_import() -> set[str]:
    """Return the functions of the import system that have led to the finder, back to the code that called it.

    A finder is told what is looked for and not why, and one that returns None to an import leaves it to Python to say
    "No module named ...". So this looks at who calls. Where a Python to come names these functions otherwise, that
    shorter text is all that is lost.
    """
    steps: set[str] = set()
    here = inspect.currentframe()
    frame = here.f_back.f_back if here is not None and here.f_back is not None else None  # who called the finder
    while frame is not None and frame.f_code.co_filename == _IMPORT_SYSTEM:
        steps.add(frame.f_code.co_name)
        frame = frame.f_back
    return steps


def _import(name: str) -> types.ModuleType:
    """Return a module of Ray's name in a process that may not have installed anything yet."""
    from . import install

    install()
    return importlib.import_module(name)


def _find(module: str, name: str) -> tuple[Any] | None:
    """Return what a module of the table calls ``name``, in a tuple; None where there is nothing."""
    for source in MODULES[module]:
        if isinstance(source, str):
            home = importlib.import_module(source)
            if name in getattr(home, "__all__", ()):
                return (getattr(home, name),)
        elif name in source:
            where, _, attribute = source[name].partition(":")
            return (getattr(importlib.import_module(where), attribute),)
    return None


def names_of(module: str) -> list[str]:
    """Return the names that a module of the table has, its submodules included."""
    inner = (found.removeprefix(f"{module}.") for found in MODULES if found.startswith(f"{module}."))
    return _sorted({*_public(module), *(name for name in inner if "." not in name)})


def _public(module: str) -> list[str]:
    """Return the names that a module of the table has, short of its submodules."""
    found: set[str] = set()
    for source in MODULES[module]:
        names: Iterable[str] = source
        if isinstance(source, str):
            names = getattr(importlib.import_module(source), "__all__", ())
        found.update(name for name in names if not name.startswith("_"))
    return _sorted(found)


def _sorted(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (name.casefold(), name))


def absent(full: str) -> str:
    """Return what to say about a name of Ray's that Shoal does not have, such as ``ray.tune.schedulers.PB2``."""
    module = full.rpartition(".")[0]
    while module not in MODULES:
        module = module.rpartition(".")[0]
    name = full.removeprefix(f"{module}.").partition(".")[0]
    names = names_of(module)
    hint = next((hint for hint in HINTS if full == hint or full.startswith(f"{hint}.")), None)
    advice = "" if hint is None else f" {HINTS[hint]}"
    meant = "" if hint == full else did_you_mean(name, names)
    if len(names) > _MANY:
        names = _public(module)
    return (
        f"Shoal has no {full} (this script runs on Shoal in the place of Ray, with shoal.as_ray).{meant}{advice} "
        f"{module} has: {', '.join(names) or 'nothing'}."
    )
