"""Run the code of docs/guide.md with ``quick = False``; make the page's pictures and what its code prints.

    make pictures        or: python docs/make_pictures.py [--only TEXT]

The ```python blocks of a chapter (``## ...``) are one script. What it saves as PNG goes to docs/pictures/. Where a
```text block follows a ```python block, what that block printed is put into it. Takes some five minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "guide.md"
PICTURES = DOCS / "pictures"
SWITCH = "quick = True"
COLOURS = 64
"""Of a picture: plots and grey digits need no more, and the repository keeps every version of it."""
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
_MARK = "---- end of block"


@dataclass(frozen=True)
class Fence:
    """A fenced block of a page."""

    chapter: str
    """The title of the ``##`` section that it is in."""
    language: str
    code: str
    start: int
    """Where its code begins in the page's text."""

    @property
    def end(self) -> int:
        """Where its code ends."""
        return self.start + len(self.code)


def fences(text: str) -> list[Fence]:
    """Return the fenced blocks of a page, in their order."""
    titles = [(match.start(), match[1]) for match in re.finditer(r"^## (.+)$", text, flags=re.MULTILINE)]
    return [
        Fence(
            chapter=next((title for start, title in reversed(titles) if start < match.start()), ""),
            language=match[1],
            code=match[2],
            start=match.start(2),
        )
        for match in _FENCE.finditer(text)
    ]


def scripts(text: str) -> dict[str, list[Fence]]:
    """Return the Python blocks of each chapter that has some: together they are its script."""
    found: dict[str, list[Fence]] = {}
    for fence in fences(text):
        if fence.language == "python":
            found.setdefault(fence.chapter, []).append(fence)
    return found


def outputs(text: str) -> Iterator[tuple[Fence, Fence]]:
    """Yield each Python block whose output the page shows, and the text block that does."""
    for block, shown in pairwise(fences(text)):
        between = text[block.end + len("```") : shown.start - len("```text\n")]
        if (block.language, shown.language) == ("python", "text") and not between.strip():
            yield block, shown


def run(blocks: Sequence[Fence], folder: Path) -> list[str]:
    """Run a chapter's script with its switch turned, in a folder, and return what each of its blocks printed.

    Raises:
        SystemExit: the script has no switch, or failed.
    """
    source = "".join(f"{block.code}print({_MARK!r}, flush=True)\n" for block in blocks)
    if source.count(SWITCH) != 1:
        raise SystemExit(f"{blocks[0].chapter}: exactly one line must be: {SWITCH}")
    (folder / "script.py").write_text(source.replace(SWITCH, SWITCH.replace("True", "False")), encoding="utf-8")
    printed = [""]
    with subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=folder,
        env={**os.environ, "MPLBACKEND": "Agg", "SHOAL_DIR": str(folder / "results"), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            if line.rstrip() == _MARK:
                printed.append("")
            else:
                printed[-1] += line
    if process.returncode != 0:
        raise SystemExit(f"{blocks[0].chapter}: the script failed with {process.returncode}")
    return printed[: len(blocks)]


def replaced(text: str, printed: dict[str, str]) -> str:
    """Return the page with what its Python blocks printed, given by their code, in the text blocks behind them."""
    for block, shown in reversed(list(outputs(text))):  # from the end, so that the places before it stay
        if block.code in printed:
            text = text[: shown.start] + printed[block.code].strip("\n") + "\n" + text[shown.end :]
    return text


def keep(folder: Path) -> list[str]:
    """Take over the pictures that a script has saved, with few colours, and return their names."""
    PICTURES.mkdir(exist_ok=True)
    paths = sorted(folder.glob("*.png"))
    for path in paths:
        with Image.open(path) as picture:
            few = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        few.save(PICTURES / path.name, optimize=True)
    return [path.name for path in paths]


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="only chapters whose titles hold this text")
    only = parser.parse_args().only
    text = PAGE.read_text(encoding="utf-8")
    chosen = {title: blocks for title, blocks in scripts(text).items() if only in title}
    if not chosen:
        parser.error(f"no chapter of {PAGE.name} has {only!r} in its title")
    made: list[str] = []
    printed: dict[str, str] = {}
    for blocks in chosen.values():
        with tempfile.TemporaryDirectory(prefix="shoal_pictures_") as folder:
            texts = run(blocks, Path(folder))
            printed.update({block.code: lines for block, lines in zip(blocks, texts, strict=True)})
            made += keep(Path(folder))
    # Read again: the runs take minutes, and somebody may be writing.
    PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), printed), encoding="utf-8")
    print(f"made {', '.join(made) or 'no picture'}; wrote {PAGE.name}")


if __name__ == "__main__":
    main()
