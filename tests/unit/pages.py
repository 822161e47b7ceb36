"""HTML as tests look at it: its words, its tags, and whether it is well-formed."""

from __future__ import annotations

from html.parser import HTMLParser

EVIL = "<img src=x onerror=alert(1)>\"'&</style></script></title>\x00\x1b[31m\ud800"
"""A name that would be markup, end what it stands in, or cannot be written, where it is not escaped."""


class Parsed(HTMLParser):
    """What a page says and is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        """Texts outside of styles and scripts."""
        self.inside: list[str] = []
        """Elements that are open."""
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in ("br", "input", "link", "meta"):
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.inside):
            self.found.append(data)


def parsed(html: str) -> Parsed:
    """Read HTML, and see that all that it opens it closes in order."""
    parser = Parsed()
    parser.feed(html)
    parser.close()
    assert parser.inside == []
    return parser


def words(html: str) -> str:
    """Return the words of a page, with single blanks."""
    return " ".join(" ".join(parsed(html).found).split())
