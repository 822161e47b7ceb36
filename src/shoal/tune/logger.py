"""Loggers under the name that people know: ``from shoal.tune.logger import LoggerCallback``."""

from __future__ import annotations

from ..loggers import CSVLoggerCallback, JsonLoggerCallback, LoggerCallback, TBXLoggerCallback

__all__ = ["CSVLoggerCallback", "JsonLoggerCallback", "LoggerCallback", "TBXLoggerCallback"]
