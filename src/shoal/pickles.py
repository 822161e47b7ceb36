"""Pickles of what the user has written in scripts and notebooks: cloudpickle, with the names of the source files kept.

cloudpickle 3.1.3 gives every function that it carries the file name ``<dynamic-code>``. The traceback of a member that
fails would then show neither the user's file nor its lines, and a debugger would find no source.
"""

from __future__ import annotations

import functools
import io
from collections import ChainMap
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any

__all__ = ["dumps", "pickler"]


def dumps(value: object) -> bytes:
    """Return any object as bytes, also what is defined in ``__main__``; ``pickle.loads`` is the way back.

    Raises:
        Exception: whatever the objects' own methods raise where something in it cannot be pickled.
    """
    stream = io.BytesIO()
    _plain_pickler()(stream).dump(value)
    return stream.getvalue()


def pickler(reducers: Mapping[type[Any], Callable[[Any], Any]]) -> Any:
    """Return a class of picklers that reduces some types in its own way.

    Args:
        reducers: for a type, the function that takes an object of it and returns what ``__reduce__`` returns.
    """
    import cloudpickle

    inherited: Any = cloudpickle.Pickler.dispatch_table
    reduce_code = inherited[CodeType]

    def with_its_file(code: CodeType) -> tuple[Any, ...]:
        make, arguments, *rest = reduce_code(code)
        # Of the arguments of a code object, the name of its file is the first text.
        place = next(place for place, value in enumerate(arguments) if isinstance(value, str))
        return (make, (*arguments[:place], code.co_filename, *arguments[place + 1 :]), *rest)

    # A class, because pickle looks its table up in the class.
    table = ChainMap({**reducers, CodeType: with_its_file}, inherited)
    return type("SourcePickler", (cloudpickle.Pickler,), {"dispatch_table": table})


@functools.cache
def _plain_pickler() -> Any:
    return pickler({})
