"""``RESULTS.md``: what each of the commands has printed last, on which machine."""

from __future__ import annotations

import datetime
import os
import platform
import re
from importlib import metadata
from pathlib import Path

__all__ = ["machine", "write_section"]

RESULTS = Path(__file__).with_name("RESULTS.md")
_HEAD = """# Results

Each table is what the command above it printed last, with `--write`. Other load on a machine changes every figure, and
no two machines give the same: run the command on yours, and compare only what one run has measured side by side.
"""


def machine() -> str:
    """Describe this machine and what runs on it, in one line."""
    cpu = _first(r"model name\s*:\s*(.*)", "/proc/cpuinfo") or platform.processor() or platform.machine()
    memory = _first(r"MemTotal:\s*(\d+) kB", "/proc/meminfo")
    parts = [
        f"{os.cpu_count()} x {cpu}",
        *([f"{int(memory) / (1 << 20):.0f} GiB"] if memory else []),
        f"{platform.system()} {platform.release().split('-')[0]}",
        f"Python {platform.python_version()}",
        *(f"{name} {version}" for name in ("torch", "shoal") if (version := _version(name)) is not None),
    ]
    return ", ".join(parts)


def write_section(command: str, text: str) -> None:
    """Put what a command printed into ``RESULTS.md``, in place of what it printed before."""
    before = RESULTS.read_text() if RESULTS.exists() else _HEAD
    head, *sections = re.split(r"(?m)^(?=## )", before)
    kept = {section.partition("\n")[0]: section for section in sections}
    title = f"## `{command}`"
    day = datetime.datetime.now(datetime.UTC).date()
    kept[title] = f"{title}\n\n{day}, {machine()}\n\n```\n{text.rstrip()}\n```\n\n"
    RESULTS.write_text(head.rstrip() + "\n\n" + "\n\n".join(kept[each].rstrip() for each in sorted(kept)) + "\n")


def _first(pattern: str, path: str) -> str | None:
    try:
        found = re.search(pattern, Path(path).read_text())
    except OSError:
        return None
    return found[1].strip() if found else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
