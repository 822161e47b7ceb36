"""The scheduler of an experiment, out of its journal, without running code of whoever wrote that."""

from __future__ import annotations

import base64
import io
import pickle
from typing import Any

__all__ = ["NotPlain", "plain_scheduler"]

_ROOMS = ("shoal.config", "shoal.schedulers", "shoal.space", "shoal.applied", "shoal.replay", "shoal.core.limits")
_OTHERS = frozenset(
    {
        ("builtins", "complex"),
        ("builtins", "frozenset"),
        ("builtins", "set"),
        ("collections", "OrderedDict"),
        ("copyreg", "_reconstructor"),
        ("builtins", "object"),
    }
)


class NotPlain(Exception):
    """The settings hold objects of the user's, or cannot be loaded.

    Args:
        text: why.
        helps: whether it helps to trust them.
    """

    def __init__(self, text: str, *, helps: bool = True) -> None:
        super().__init__(text)
        self.helps = helps


class _Careful(pickle.Unpickler):
    """Loads classes of settings and of search spaces, which do nothing when they are made, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        ours = "." not in name and any(module == room or module.startswith(f"{room}.") for room in _ROOMS)
        if not ours and (module, name) not in _OTHERS:
            raise NotPlain(f"they hold {module}.{name}")
        found = super().find_class(module, name)
        if ours and not (isinstance(found, type) and found.__module__.startswith("shoal.")):
            raise NotPlain(f"they hold {module}.{name}")
        return found


def plain_scheduler(meta: dict[str, Any], *, trust: bool = False) -> Any:
    """Return the scheduler that an experiment was started with.

    Args:
        meta: the journal's facts.
        trust: whether anything may be loaded, which runs code of whoever wrote the journal.

    Raises:
        NotPlain: it holds objects of the user's and is not trusted, or cannot be loaded.
    """
    from ..config import TuneConfig
    from ..schedulers import FIFOScheduler

    entry = meta.get("settings_tune")
    if not isinstance(entry, dict) or "pickle" not in entry:
        raise NotPlain("the journal does not hold them", helps=False)
    try:
        data = base64.b64decode(entry["pickle"])
        settings = pickle.loads(data) if trust else _Careful(io.BytesIO(data)).load()
    except NotPlain:
        raise
    except Exception as error:
        raise NotPlain(f"they cannot be loaded: {type(error).__name__}: {error}", helps=False) from error
    if settings is None:
        return FIFOScheduler()
    if not isinstance(settings, TuneConfig):
        raise NotPlain(f"they are a {type(settings).__name__}")
    return settings.scheduler or FIFOScheduler()
