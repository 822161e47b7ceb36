"""What a process prints, cut into lines."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.engines.members import LineReader


def lines(*chunks: bytes) -> list[str]:
    """Return the lines that a reader makes of these chunks."""
    reader = LineReader()
    return [*(line for chunk in chunks for line in reader.feed(chunk)), *reader.end()]


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([b"one\ntwo\n"], ["one", "two"]),
        ([b"one\n\ntwo"], ["one", "", "two"]),
        ([b"on", b"e", b"\nt", b"wo"], ["one", "two"]),
        ([b""], []),
        ([b"\n"], [""]),
        ([b"dos\r\nlines\r\n"], ["dos", "lines"]),
        ([b"dos\r", b"\nlines\r", b"\n"], ["dos", "lines"]),
        ([b"10%\r50%\r100%\n"], ["100%"]),
        ([b"10%\r", b"50%\r", b"100%", b"\n"], ["100%"]),
        ([b"10%\r50%\r"], ["50%"]),
        ([b"caf\xc3", b"\xa9\n"], ["café"]),
        ([b"\xff\xfe\n"], ["\ufffd\ufffd"]),
        ([b"nul \x00 and esc \x1b[1m\n"], ["nul \x00 and esc \x1b[1m"]),
    ],
)
def test_lines_are_as_a_terminal_would_show_them_at_last(chunks: list[bytes], expected: list[str]) -> None:
    assert lines(*chunks) == expected


def test_a_line_is_there_as_soon_as_it_ends_and_what_was_begun_at_the_end() -> None:
    reader = LineReader()
    assert list(reader.feed(b"one\ntw")) == ["one"]
    assert list(reader.feed(b"o")) == []
    assert list(reader.feed(b"\n")) == ["two"]
    assert list(reader.end()) == []
    assert list(reader.feed(b"three")) == []
    assert list(reader.end()) == ["three"]
    assert list(reader.end()) == []


def test_a_line_without_end_is_cut_and_nothing_of_it_is_lost() -> None:
    reader = LineReader()
    chunk = b"x" * (1 << 16)
    found = [line for _ in range(40) for line in reader.feed(chunk)]
    assert len(found) >= 19  # what is kept stays small
    found += reader.end()
    assert "".join(found) == "x" * (40 << 16)
    assert max(map(len, found)) <= 2 << 16


def test_a_progress_bar_without_end_is_neither_kept_nor_cut() -> None:
    reader = LineReader()
    for step in range(20_000):
        assert list(reader.feed(f"{step} of 20000 done, a bar of some length ====>\r".encode())) == []
    assert list(reader.feed(b"done\n")) == ["done"]


PRINTED = st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r", b"\r\n", b" ", "é".encode(), "漢".encode(), b"\xff"]))


@given(printed=PRINTED, cuts=st.lists(st.integers(0, 200)))
def test_how_the_bytes_arrive_makes_no_difference(printed: list[bytes], cuts: list[int]) -> None:
    data = b"".join(printed)
    places = sorted({0, len(data), *(cut for cut in cuts if cut <= len(data))})
    chunks = [data[start:end] for start, end in itertools.pairwise(places)]
    assert b"".join(chunks) == data
    assert lines(*chunks) == lines(data)
    assert lines(*(data[at : at + 1] for at in range(len(data)))) == lines(data)


@given(texts=st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=50)))
def test_whole_lines_come_out_as_they_were_printed(texts: list[str]) -> None:
    assert lines("".join(f"{text}\n" for text in texts).encode()) == texts
