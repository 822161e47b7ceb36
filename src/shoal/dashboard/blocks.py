"""Pages as blocks: pieces of HTML, each with an id. A page that is open asks which of them have changed."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["BlockStore", "Blocks", "Update"]

_MOST_PAGES = 100


@dataclass(frozen=True, slots=True)
class Update:
    """What a browser has to change."""

    version: str
    blocks: dict[str, str]
    """HTML by the element's id; where there is no such element yet, it joins the list that it is of."""
    lists: dict[str, list[str]]
    """For each list, by its element's id, the ids of its children; only where those have changed."""


@dataclass(slots=True)
class Blocks:
    """The blocks of one page, and with which version each has changed."""

    _epoch: str = field(default_factory=lambda: secrets.token_hex(4))
    _count: int = 0
    _blocks: dict[str, tuple[str, int]] = field(default_factory=dict[str, tuple[str, int]])
    _lists: dict[str, tuple[list[str], int]] = field(default_factory=dict[str, tuple[list[str], int]])

    @property
    def version(self) -> str:
        """Changes with every change of a block."""
        return f"{self._epoch}-{self._count}"

    def set(self, blocks: Mapping[str, str], lists: Mapping[str, Sequence[str]]) -> None:
        """Take in how the page looks now.

        Args:
            blocks: HTML by id, all of them.
            lists: ids of children by the id of their list.
        """
        count = self._count + 1
        changed = False
        for name, text in blocks.items():
            if name not in self._blocks or self._blocks[name][0] != text:
                self._blocks[name] = (text, count)
                changed = True
        for name in self._blocks.keys() - blocks.keys():
            del self._blocks[name]
            changed = True
        for name, children in lists.items():
            if name not in self._lists or self._lists[name][0] != list(children):
                self._lists[name] = (list(children), count)
                changed = True
        if changed:
            self._count = count

    def since(self, have: str) -> Update | None:
        """Return what has changed since a version; None: nothing. All, where the version is not one of this page's."""
        if have == self.version:
            return None
        epoch, _, text = have.partition("-")
        known = int(text) if epoch == self._epoch and text.isdecimal() and len(text) < 10 else -1
        blocks = {name: html for name, (html, at) in self._blocks.items() if at > known}
        lists = {name: children for name, (children, at) in self._lists.items() if at > known}
        return Update(self.version, blocks, lists)


class BlockStore:
    """Keeps the blocks of the pages that were asked for last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        """Held while a page's blocks are used."""
        self._pages: OrderedDict[tuple[str, ...], Blocks] = OrderedDict()

    def page(self, key: tuple[str, ...]) -> Blocks:
        """Return the blocks of a page."""
        page = self._pages.setdefault(key, Blocks())
        self._pages.move_to_end(key)
        while len(self._pages) > _MOST_PAGES:
            self._pages.popitem(last=False)
        return page
