"""Log files that people's scripts read. They follow the journal, which is the record; nothing reads them back."""

from __future__ import annotations

from .logfiles import LogFiles
from .policies import PolicyFiles

__all__ = ["LogFiles", "PolicyFiles"]
