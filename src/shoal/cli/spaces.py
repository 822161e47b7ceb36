"""Search spaces in files: ``space.toml``, read strictly and without running anything, and ``space.py``.

::

    batch_size = 64                              # a constant
    lr = "loguniform(1e-4, 1e-1)"                # a distribution, written as in Python
    momentum = { uniform = [0.5, 0.99] }         # the same as a table
    activation = { choice = ["relu", "gelu"] }

    [model]                                      # nested
    dropout = "uniform(0, 0.5)"

    [shoal]                                      # settings
    mutate = ["lr", "model/dropout"]             # default: all that is sampled
    fixed = ["model/depth"]                      # only those with the same value are copied

    [mutations]                                  # in place of 'mutate': how it mutates, if other than it is sampled
    lr = "loguniform(1e-5, 1.0)"

A text that looks like a call but is none is written ``{ constant = "f(x)" }``.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import ConfigError, SpaceError, did_you_mean
from .errors import UsageProblem

__all__ = ["SpaceFile", "load_space"]

_DISTRIBUTIONS = (
    "choice", "grid_search", "lograndint", "loguniform", "qlograndint", "qloguniform", "qrandint", "qrandn",
    "quniform", "randint", "randn", "uniform",
)  # fmt: skip
_OF_A_LIST = ("choice", "grid_search")
"""These take one argument, a list of values."""
_CONSTANT = "constant"
_SETTINGS = ("fixed", "mutate")
_CALL = re.compile(r"\s*(?:(?:shoal\.)?tune\.)?([A-Za-z_]\w*)\(.*\)\s*", re.DOTALL)
_DISTRIBUTION = rf"(?:{'|'.join(_DISTRIBUTIONS)})"
_WIDE_CALL = re.compile(rf"\s*(?:(?:shoal\.)?tune\.)?({_DISTRIBUTION})\s*\(.*\)\s*", re.DOTALL)
_NEARLY = re.compile(rf"\s*(?:[A-Za-z_]\w*\.)*({_DISTRIBUTION})\s*[(\[{{]", re.DOTALL)
"""The beginning of what is meant as a distribution, and must not become a constant by a slip."""
_TABLES = ("mutations", "shoal")
_NEAR = 0.8
_MODULE = "shoal_space"


@dataclass(frozen=True, slots=True)
class SpaceFile:
    """What a file says about the search space."""

    space: dict[str, Any]
    """For ``Tuner(param_space=...)``."""
    mutations: dict[str, Any] = field(default_factory=dict[str, Any])
    """For ``PopulationBasedTraining(hyperparam_mutations=...)``."""
    fixed: tuple[str, ...] = ()
    """For ``PopulationBasedTraining(fixed=...)``."""


def load_space(given: str) -> SpaceFile:
    """Read ``space.toml``, or the dict ``space`` of ``space.py``, or that of another name: ``space.py:name``.

    Raises:
        UsageProblem: there is no such file, or it cannot be read.
        SpaceError: what it says is wrong; the message names the key.
    """
    path, name = given, "space"
    head, colon, tail = given.rpartition(":")
    if colon and head.endswith(".py") and not os.path.exists(given):
        path, name = head, tail
    file = Path(path).expanduser()
    if file.suffix not in (".toml", ".py"):
        raise UsageProblem(f"--space must be a file whose name ends with .toml or .py, but is {given!r}.")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageProblem(f"--space: {path} cannot be read: {error.strerror or error}.") from error
    return _from_toml(data, path) if file.suffix == ".toml" else _from_python(data, file, name)


# --------------------------------------------------------------------------------------------------------------- Python


def _from_python(data: bytes, file: Path, name: str) -> SpaceFile:
    names = _executed(data, file)
    if name not in names:
        dicts = [key for key, value in names.items() if isinstance(value, dict) and not key.startswith("_")]
        listed = f" It has the dicts: {', '.join(dicts)}." if dicts else " It has no dict."
        raise UsageProblem(f"--space: {file} has no {name!r}.{did_you_mean(name, dicts)}{listed}")
    space = names[name]
    if not isinstance(space, Mapping):
        raise UsageProblem(f"--space: {name} in {file} must be a dict, but is a {type(space).__name__}.")
    mutations = names.get("mutations")
    if mutations is not None and not isinstance(mutations, Mapping):
        raise UsageProblem(f"--space: mutations in {file} must be a dict, but is a {type(mutations).__name__}.")
    whole: dict[str, Any] = dict(space)
    fixed = names.get("fixed", ())
    if not isinstance(fixed, (list, tuple)) or not all(isinstance(key, str) for key in fixed):
        raise UsageProblem(f"--space: fixed in {file} must be a list of keys, but is {fixed!r:.100}.")
    fixed = tuple(fixed)
    return SpaceFile(whole, _sampled(whole, without=fixed) if mutations is None else dict(mutations), fixed)


def _executed(data: bytes, file: Path) -> dict[str, Any]:
    """Run a file in the working directory, and return the names that it defines.

    Raises:
        UsageProblem, SpaceError: it fails; the message names the line.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    # Of no module that could be imported later: what it defines travels by value, also to members.
    module = ModuleType(_MODULE)
    module.__file__ = str(file.absolute())
    before = sys.modules.get(_MODULE)
    sys.modules[_MODULE] = module  # as long as it runs: dataclasses look themselves up there
    try:
        exec(compile(data, str(file), "exec"), module.__dict__)
    except ConfigError as error:
        raise SpaceError(f"{file}{_line_of(error, file)}: {error}") from error
    except SystemExit as error:
        raise UsageProblem(
            f"--space: {file}{_line_of(error, file)} ended with SystemExit: what it does when it is run belongs under "
            f"if __name__ == '__main__':."
        ) from error
    except Exception as error:
        text = error.msg if isinstance(error, SyntaxError) else error
        raise UsageProblem(f"--space: {file}{_line_of(error, file)} failed: {type(error).__name__}: {text}.") from error
    finally:
        if before is None:
            del sys.modules[_MODULE]
        else:
            sys.modules[_MODULE] = before
    return module.__dict__


def _line_of(error: BaseException, file: Path) -> str:
    """Return at which line of a file an error was raised, as ``, line 3``."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f", line {error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f", line {frames[-1].lineno}" if frames else ""


# ----------------------------------------------------------------------------------------------------------------- TOML


def _from_toml(data: bytes, path: str) -> SpaceFile:
    toml = _toml()
    try:
        values: dict[str, Any] = toml.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UsageProblem(f"--space: {path} is no TOML: {error}.") from error
    settings = values.pop("shoal", {})
    mutations = values.pop("mutations", None)
    if not isinstance(settings, dict):
        raise SpaceError(f"{path}: [shoal] must be a table of settings, but is {settings!r:.100}.")
    for key, value in settings.items():
        if key not in _SETTINGS:
            raise SpaceError(
                f"{path}: [shoal] has no setting {key!r}.{did_you_mean(key, _SETTINGS)} It knows: "
                f"{', '.join(_SETTINGS)}."
            )
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise SpaceError(f"{path}: [shoal] {key} must be a list of keys, but is {value!r:.100}.")
    _check_tables(values, path)
    space = {key: _value(value, path, key) for key, value in values.items()}
    fixed = tuple(settings.get("fixed", ()))
    _check_keys(fixed, space, path, "fixed")
    if mutations is not None:
        if "mutate" in settings:
            raise SpaceError(f"{path}: [mutations] and [shoal] mutate exclude each other; give one of them.")
        if not isinstance(mutations, dict):
            raise SpaceError(f"{path}: [mutations] must be a table, but is {mutations!r:.100}.")
        found = {key: _value(value, path, f"mutations/{key}") for key, value in mutations.items()}
        return SpaceFile(space, found, fixed)
    if "mutate" in settings:
        _check_keys(settings["mutate"], space, path, "mutate")
        return SpaceFile(space, _chosen(space, settings["mutate"], path), fixed)
    return SpaceFile(space, _sampled(space, without=fixed), fixed)


def _check_tables(values: Mapping[str, Any], path: str) -> None:
    """Make sure that no table is a misspelled one of settings, which would become a constant."""
    for key, value in values.items():
        near = get_close_matches(key.lower(), (*_TABLES, *_SETTINGS), 1, _NEAR)
        if isinstance(value, dict) and near:
            meant = near[0] if near[0] in _TABLES else "shoal"
            raise SpaceError(
                f"{path}: there is no table [{key}]. Did you mean [{meant}]? If it is a part of the config, give it "
                f"another name."
            )


def _toml() -> Any:
    for name in ("tomllib", "tomli"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise ImportError("Before Python 3.11, reading space.toml needs tomli: pip install tomli. Or give a space.py.")


def _value(value: Any, path: str, key: str) -> Any:
    """Return what a value of the file means: a distribution, a constant, or a table or list of these."""
    if isinstance(value, str):
        call = _CALL.fullmatch(value) or _WIDE_CALL.fullmatch(value)
        if call is None and (nearly := _NEARLY.match(value)):
            raise SpaceError(
                f"{path}: {key} is {value!r}, which is nearly a distribution. Write it as in Python, for example "
                f"'{_EXAMPLES.get(nearly[1], f'{nearly[1]}(...)')}'. If it is meant as a text: {{ constant = ... }}."
            )
        return value if call is None else _called(value, call[1], path, key)
    if isinstance(value, list):
        return [_value(entry, path, f"{key}/{place}") for place, entry in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        name, given = next(iter(value.items()))
        if name == _CONSTANT:
            return given
        if name in _DISTRIBUTIONS and not (isinstance(given, str) and _CALL.fullmatch(given)):
            return _of_table(name, given, path, key)
        near = did_you_mean(name, _DISTRIBUTIONS)
        if near and isinstance(given, list):
            raise SpaceError(f"{path}: {key} has the one key {name!r}.{near} {_KNOWN}")
    for name, given in value.items():
        if name in _DISTRIBUTIONS and isinstance(given, list):
            others = ", ".join(repr(other) for other in value if other != name)
            raise SpaceError(
                f"{path}: {key} has {name!r} and besides it {others}. A distribution is a table of one key: "
                f"{{ {name} = {given!r:.60} }}. A list of that name is written {name} = {{ constant = ... }}."
            )
    return {name: _value(entry, path, f"{key}/{name}") for name, entry in value.items()}


_EXAMPLES = {"uniform": "uniform(0, 1)", "choice": "choice(1, 2)", "loguniform": "loguniform(1e-4, 1)"}
_KNOWN = f"Distributions are: {', '.join(_DISTRIBUTIONS)}."


def _called(text: str, name: str, path: str, key: str) -> Any:
    """Return the distribution that a text such as ``uniform(0, 1)`` names."""
    if name not in _DISTRIBUTIONS:
        what = "sample_from needs a function; write a space.py" if name == "sample_from" else _KNOWN.rstrip(".")
        raise SpaceError(
            f"{path}: {key} is {text!r}, but there is no distribution {name!r}.{did_you_mean(name, _DISTRIBUTIONS)} "
            f"{what}. A text that only looks like a call is written {{ constant = ... }}."
        )
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if not isinstance(node, ast.Call):
            raise ValueError("it is more than one call")
        args = [_plain(argument) for argument in node.args]
        named = {str(entry.arg): _plain(entry.value) for entry in node.keywords if entry.arg is not None}
        if len(named) != len(node.keywords):
            raise ValueError("** has no place in it")
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise SpaceError(
            f"{path}: {key} is {text!r}, whose arguments must be plain values, as in 'uniform(0, 1)' or "
            f'\'choice("a", "b")\': {reason}.'
        ) from error
    if name in _OF_A_LIST and not named and not (len(args) == 1 and isinstance(args[0], (list, tuple))):
        args = [args]
    return _made(name, args, named, path, key)


def _plain(node: ast.expr) -> Any:
    """Return the value of an argument.

    Raises:
        ValueError: it is more than a plain value.
    """
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"{ast.unparse(node)} is none") from None


def _of_table(name: str, given: Any, path: str, key: str) -> Any:
    """Return the distribution that a table such as ``{ uniform = [0, 1] }`` names."""
    if name in _OF_A_LIST:
        if not isinstance(given, list):
            raise SpaceError(f"{path}: {key} must give {name} a list of values, but gives {given!r:.100}.")
        return _made(
            name, [[_value(entry, path, f"{key}/{place}") for place, entry in enumerate(given)]], {}, path, key
        )
    if isinstance(given, dict):
        return _made(name, [], given, path, key)
    if not isinstance(given, list):
        raise SpaceError(f"{path}: {key} must give {name} its arguments as a list, but gives {given!r:.100}.")
    return _made(name, given, {}, path, key)


def _made(name: str, args: list[Any], named: Mapping[str, Any], path: str, key: str) -> Any:
    from .. import space

    make: Callable[..., Any] = getattr(space, name)
    try:
        return make(*args, **named)
    except ConfigError as error:
        raise SpaceError(f"{path}: {key}: {error}") from error
    except TypeError as error:
        raise SpaceError(f"{path}: {key}: {str(error).replace('()', '', 1)}.") from error


# --------------------------------------------------------------------------------------------------------- what mutates


def _sampled(space: Mapping[str, Any], prefix: str = "", without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return all distributions in a space that can mutate, nested as they are in it."""
    from ..schedulers.pbt import KEPT
    from ..space import Choice, Function, GridSearch, holds_domains, is_domain

    found: dict[str, Any] = {}
    for key, value in space.items():
        path = f"{prefix}{key}"
        if path in without or key in KEPT or not isinstance(key, str):
            continue
        if is_domain(value):
            nested = isinstance(value, Choice) and any(map(holds_domains, value.categories))
            grid = isinstance(value, (GridSearch, Function, Mapping))
            if not nested and not grid:
                found[key] = value
        elif isinstance(value, Mapping) and (inside := _sampled(value, f"{path}/", without)):
            found[key] = inside
    return found


def _chosen(space: Mapping[str, Any], keys: list[str], path: str) -> dict[str, Any]:
    """Return the distributions of some keys, nested as they are in the space."""
    from ..space import is_domain

    found: dict[str, Any] = {}
    for key in keys:
        *parents, last = key.split("/")
        source: Any = space
        target = found
        for part in parents:
            source, target = source[part], target.setdefault(part, {})
        if not is_domain(source[last]):
            raise SpaceError(
                f"{path}: [shoal] mutate has {key!r}, which is the constant {source[last]!r:.60}, so nothing says how "
                f"it may change. Give it a distribution, or write [mutations]."
            )
        target[last] = source[last]
    return found


def _check_keys(keys: tuple[str, ...] | list[str], space: Mapping[str, Any], path: str, setting: str) -> None:
    known = _paths(space, "")
    for key in keys:
        if key not in known:
            raise SpaceError(
                f"{path}: [shoal] {setting} has {key!r}, which the space lacks.{did_you_mean(key, known)} It has: "
                f"{', '.join(known) or 'nothing'}."
            )


def _paths(space: Mapping[str, Any], prefix: str) -> list[str]:
    from ..space import is_domain

    found: list[str] = []
    for key, value in space.items():
        found.append(f"{prefix}{key}")
        if isinstance(value, Mapping) and not is_domain(value):
            found += _paths(value, f"{prefix}{key}/")
    return found
