"""Object storage: the copy of an experiment that any machine can go on with. fsspec is used here, and imported late."""

from __future__ import annotations
