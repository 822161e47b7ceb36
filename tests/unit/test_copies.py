"""Checkpoints on their way between machines: they arrive whole and as they were, or nothing is left of them."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.checkpoints.leftovers import is_unfinished
from shoal.checkpoints.store import damage, delete, digest_of, is_full
from shoal.engines import copies
from shoal.engines.copies import Piece, bring, pieces_of, read_piece
from shoal.errors import StorageError

NAMES = st.sampled_from(["a", "b", "weights ü.pt", "in/a", "in/deeper/b", "in/line\nbreak"])
FILES = st.dictionaries(NAMES, st.binary(max_size=40))


def make(folder: Path, files: dict[str, bytes], empty: tuple[str, ...] = ()) -> Path:
    """Write the files of a checkpoint, and empty folders; return the folder."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    for name in empty:
        (folder / name).mkdir(parents=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return all that is below a folder: bytes of files, None for folders."""
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }  # fmt: skip


def reading(source: Path, size: int) -> Callable[[int], Piece]:
    """Return what gives pieces of a folder, of so many bytes."""

    def read(index: int) -> Piece:
        with pieces_have(size):
            return read_piece(source, index)

    return read


@contextlib.contextmanager
def pieces_have(size: int) -> Generator[None, None, None]:
    before, copies.PIECE = copies.PIECE, size
    try:
        yield
    finally:
        copies.PIECE = before


@settings(deadline=None, max_examples=40)
@given(files=FILES, empty=st.sampled_from([(), ("nothing",), ("in/nothing", "more/nothing")]), size=st.integers(1, 50))
def test_any_checkpoint_arrives_as_it_was_in_pieces_of_any_size(
    files: dict[str, bytes], empty: tuple[str, ...], size: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = make(Path(folder, "there"), files, empty)
        read = reading(source, size)
        bring(Path(folder, "here"), "trial", 4, digest_of(source), read(0), read)
        assert contents(Path(folder, "here/trial/checkpoint_000004")) == contents(source)
        assert [path.name for path in Path(folder, "here/trial").iterdir()] == ["checkpoint_000004"]


@settings(deadline=None, max_examples=40)
@given(files=FILES, size=st.integers(1, 50))
def test_the_pieces_are_as_many_as_is_said_and_none_is_larger(files: dict[str, bytes], size: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pieces_have(size):
        source = make(Path(folder, "there"), files)
        pieces = [read_piece(source, index).data for index in range(pieces_of(source).pieces)]
        assert b"".join(pieces) == b"".join(data for _, data in sorted(files.items()))
        assert all(len(piece) == size for piece in pieces[:-1])
        assert read_piece(source, len(pieces)).data == b""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make(tmp_path / "there/trial/checkpoint_000004", {"a": b"1" * 30, "in/b": b"2" * 30})


def arrive(source: Path, here: Path, **changes: object) -> Path:
    """Bring the checkpoint here in pieces of 16 bytes; return where it is."""
    read = reading(source, 16)
    arguments: dict[str, object] = {"digest": digest_of(source), "first": read(0), "read": read, **changes}
    bring(here, "trial", 4, **arguments)  # type: ignore[arg-type]
    return here / "trial/checkpoint_000004"


def test_a_file_keeps_its_mode(source: Path, tmp_path: Path) -> None:
    (source / "a").chmod(0o750)
    assert (arrive(source, tmp_path / "here") / "a").stat().st_mode & 0o777 == 0o750


def nothing_is_left(here: Path) -> bool:
    return not here.exists() or list(here.rglob("checkpoint_*")) == list(here.rglob(".*")) == []


def test_nothing_is_left_of_one_that_is_not_what_it_should_be(source: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"trial/checkpoint_000004 has arrived with the digest .* instead of 00"):
        arrive(source, tmp_path / "here", digest="0" * 64)
    assert nothing_is_left(tmp_path / "here")


def test_nothing_is_left_where_the_other_machine_dies_on_the_way(source: Path, tmp_path: Path) -> None:
    def gone(index: int) -> Piece:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        arrive(source, tmp_path / "here", read=gone)
    assert nothing_is_left(tmp_path / "here")


def test_nothing_is_left_where_it_is_deleted_on_the_way(source: Path, tmp_path: Path) -> None:
    read, digest = reading(source, 16), digest_of(source)

    def then(index: int) -> Piece:
        delete(source.parent, 4)
        return read(index)

    with pytest.raises(StorageError, match="cannot be read"):
        bring(tmp_path / "here", "trial", 4, digest, read(0), then)
    assert nothing_is_left(tmp_path / "here")


def test_nothing_is_left_where_a_file_becomes_shorter_on_the_way(source: Path, tmp_path: Path) -> None:
    read, digest = reading(source, 16), digest_of(source)

    def then(index: int) -> Piece:
        (source / "in/b").write_bytes(b"2")
        return read(index)

    with pytest.raises(StorageError, match="became shorter"):
        bring(tmp_path / "here", "trial", 4, digest, read(0), then)
    assert nothing_is_left(tmp_path / "here")


def test_a_full_disk_is_told_as_one_and_nothing_is_left(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, mode: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "chmod", full)
    with pytest.raises(StorageError, match="cannot be written") as caught:
        arrive(source, tmp_path / "here")
    assert is_full(caught.value)
    assert nothing_is_left(tmp_path / "here")


def test_one_that_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_piece(tmp_path / "there", 0)


def test_one_that_is_here_already_is_left_alone_by_who_reads_it(source: Path, tmp_path: Path) -> None:
    here = arrive(source, tmp_path / "here")
    before = here.stat().st_ino
    assert arrive(source, tmp_path / "here").stat().st_ino == before


def test_another_of_the_same_number_makes_room(source: Path, tmp_path: Path) -> None:
    make(tmp_path / "here/trial/checkpoint_000004", {"a": b"of a process that is gone"})
    here = arrive(source, tmp_path / "here")
    assert damage(here, digest_of(source)) is None
    assert [path.name for path in here.parent.iterdir()] == [here.name]


def test_one_that_is_wanted_no_more_when_it_is_here_does_not_get_its_name(source: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "here/trial/checkpoint_000004", {"a": b"of the process that took its place"})

    @contextlib.contextmanager
    def over() -> Generator[None, None, None]:
        raise StorageError("it is over")
        yield

    with pytest.raises(StorageError, match="it is over"):
        arrive(source, tmp_path / "here", wanted=over)
    assert contents(other) == {"a": b"of the process that took its place"}
    assert [path.name for path in other.parent.iterdir()] == [other.name]


def test_what_is_on_its_way_when_this_machine_dies_is_known_to_be_left_over(source: Path, tmp_path: Path) -> None:
    names: list[str] = []
    read = reading(source, 16)

    def look(index: int) -> Piece:
        names.extend(path.name for path in (tmp_path / "here/trial").iterdir())
        return read(index)

    arrive(source, tmp_path / "here", read=look)
    assert names
    assert all(map(is_unfinished, names))
