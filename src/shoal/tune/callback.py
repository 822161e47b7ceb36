"""The base class of callbacks under the name that people know: ``from shoal.tune.callback import Callback``."""

from __future__ import annotations

from ..callbacks import Callback

__all__ = ["Callback"]
