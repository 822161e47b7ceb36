"""Where an experiment is kept: in a folder of this machine, or under a URL in object storage.

With a URL, such as ``s3://bucket/runs/name``, a driver runs the experiment in a *working folder* on its machine, and
has it copied to storage all the while. The working folder is ``<16 hex digits, made from the URL>/<name>`` in
``$SHOAL_CACHE``, else in ``$XDG_CACHE_HOME/shoal``, else in ``~/.cache/shoal``. It is an experiment's folder as any
other: its log files can be read there while it is run.

It is deleted when all trials have ended and storage has everything. After an interruption it stays, so that a restore
on the same machine finds the checkpoints, and what storage may lack. One that nobody has used for 30 days is deleted by
the next run with a URL; so the cache does not grow for ever.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from .errors import ConfigError

__all__ = [
    "Location", "cache_folder", "check_no_password", "check_slashes", "is_url", "join", "location_of", "name_of",
    "parent_of",
]  # fmt: skip

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LOST_A_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)(.*)", re.DOTALL)
_LOCAL = ("file", "local")


@dataclass(frozen=True, slots=True)
class Location:
    """Where an experiment is."""

    folder: Path
    """Its folder on this machine, absolute; with a URL the working folder, which need not exist."""
    url: str | None = None
    """Where it is kept in object storage; None: only in the folder."""

    @property
    def name(self) -> str:
        """The experiment's name: the last part of the path."""
        return self.folder.name

    @property
    def storage(self) -> str:
        """The folder or the URL that it is in."""
        return str(self.folder.parent) if self.url is None else parent_of(self.url)

    def __str__(self) -> str:
        return str(self.folder) if self.url is None else self.url


def is_url(path: object) -> TypeGuard[str]:
    """Return whether a path is a URL of object storage. ``file://`` is none: it is a path of this machine."""
    if not isinstance(path, str):
        return False
    found = _URL.match(path)
    return found is not None and found[0][:-3].lower() not in _LOCAL


def location_of(path: str | os.PathLike[str]) -> Location:
    """Return where an experiment is, by its path or its URL.

    Raises:
        ConfigError: it is a URL that has lost a slash, has a password in it, or names no experiment.
    """
    text = os.fspath(path)
    check_slashes("The path of an experiment", path)
    check_no_password("The path of an experiment", text)
    if not is_url(text):
        # Without '..', because the last part is the experiment's name.
        return Location(Path(os.path.abspath(Path(_without_scheme(text)).expanduser())))
    scheme, _, rest = text.partition("://")
    url = f"{scheme.lower()}://{rest.rstrip('/')}"
    name = name_of(url)
    if not name or name in (".", ".."):
        raise ConfigError(f"{text!r} is no experiment's URL: it has to end with the experiment's name.")
    return Location(cache_folder() / _digits(url) / name, url)


def join(root: str, name: str) -> str:
    """Return the path, or the URL, of something in a folder."""
    if is_url(root):
        return f"{root}{name}" if root.endswith("://") else f"{root.rstrip('/')}/{name}"
    return os.path.join(_without_scheme(root), name)


def name_of(url: str) -> str:
    """Return the last part of a URL."""
    return url.partition("://")[2].rstrip("/").rpartition("/")[2]


def parent_of(url: str) -> str:
    """Return a URL without its last part."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rstrip('/').rpartition('/')[0]}"


def check_slashes(where: str, path: object) -> None:
    """Refuse a URL that has lost a slash, as in ``pathlib.Path("s3://bucket")`` it does.

    Raises:
        ConfigError: it has.
    """
    found = _LOST_A_SLASH.fullmatch(str(path))
    if found is None or (isinstance(path, Path) and path.exists()):
        return
    why = " pathlib.Path makes one slash of two: give the URL as a text." if isinstance(path, os.PathLike) else ""
    raise ConfigError(f"{where} is {str(path)!r}, a URL that lacks a slash: '{found[1]}://{found[2]}'.{why}")


def check_no_password(where: str, url: str) -> None:
    """Refuse a URL with a password: it would be in the journal, in messages and on pages that others read.

    Raises:
        ConfigError: it has one.
    """
    found = _URL.match(url)
    user = url[found.end() :].partition("/")[0].rpartition("@")[0] if found is not None and is_url(url) else ""
    if found is not None and ":" in user:
        scheme = found[0][:-3].lower()
        hidden = url.replace(user, f"{user.partition(':')[0]}:...", 1)
        raise ConfigError(
            f"{where} is {hidden!r}, with a password in it, which would be written down with the experiment. Leave it "
            f"out, and give it as fsspec takes it from the environment: FSSPEC_{scheme.upper()}_PASSWORD."
        )


def cache_folder() -> Path:
    """Return the folder that working folders are in: see the module."""
    for name, inner in (("SHOAL_CACHE", ""), ("XDG_CACHE_HOME", "shoal")):
        root = os.environ.get(name)
        if root and (name == "SHOAL_CACHE" or os.path.isabs(root)):
            return Path(os.path.abspath(os.path.expanduser(root))) / inner
    return Path(os.path.expanduser("~")) / ".cache" / "shoal"


def _digits(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def _without_scheme(text: str) -> str:
    """Return a path on this machine without ``file://``."""
    if _URL.match(text) is None:
        return text
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(text)
    return unquote(parts.path) if parts.netloc in ("", "localhost") else f"{parts.netloc}{unquote(parts.path)}"
