"""Objects are stored once, come back equal, share their memory, and are gone when they should be."""

from __future__ import annotations

import copy
import datetime
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import shoal
from shoal import objects, resources, scratch
from shoal.errors import ConfigError, StorageError
from shoal.objects import ObjectRef, free_all, get, put


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """Stand-ins for /dev/shm and /tmp, of this test alone."""
    free_all()
    shared, temporary = tmp_path / "shm", tmp_path / "tmp"
    shared.mkdir()
    temporary.mkdir()
    monkeypatch.setattr(objects, "_SHARED_MEMORY", shared)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    yield shared, temporary
    free_all()
    assert not [*shared.iterdir(), *temporary.glob("shoal*")]


def round_trip(obj: Any) -> Any:
    return get(put(obj))


# Any object


class Point(NamedTuple):
    x: int
    y: int


@pytest.mark.parametrize(
    "obj",
    [
        None,
        0,
        "text",
        b"bytes" * 1000,
        bytearray(b"x"),
        [],
        {"a": [1, (2, {3})]},
        Point(1, 2),
        datetime.date(2020, 1, 1),
        range(5),
        len,
    ],
    ids=repr,
)
def test_an_object_comes_back_equal(obj: Any) -> None:
    found = round_trip(obj)
    assert found == obj
    assert type(found) is type(obj)


def test_functions_and_classes_travel_by_value_where_nobody_can_import_them() -> None:
    class Local:
        def __init__(self, value: int) -> None:
            self.value = value

    assert round_trip(lambda value: value + 1)(1) == 2
    assert isinstance(round_trip(Local(3)), Local)


def test_a_second_get_in_the_process_returns_the_same_object() -> None:
    ref = put({"a": [1]})
    assert get(ref) is get(ref)
    assert get(pickle.loads(pickle.dumps(ref))) is get(ref)


def test_what_is_stored_is_the_object_as_it_was() -> None:
    data = np.zeros(3)
    ref = put([data])
    data[:] = 1
    assert get(ref)[0].tolist() == [0, 0, 0]
    assert get(ref)[0] is not data


def test_a_list_of_references_gives_a_list_in_its_order() -> None:
    one, two, three = put("one"), put("two"), put("three")
    assert get([three, one, two, one]) == ["three", "one", "two", "one"]
    assert get((two, one)) == ["two", "one"]
    assert get([[one, two], three]) == [["one", "two"], "three"]
    assert get([]) == []
    assert get(one, timeout=1.5) == "one"


def test_an_object_may_hold_references() -> None:
    inner = put("inner")
    assert round_trip({"ref": inner}) == {"ref": inner}


def test_threads_that_get_at_once_receive_one_object() -> None:
    ref = put(list(range(100_000)))
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(get(ref))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(each) for each in found}) == 1


def test_threads_that_put_at_once_share_one_folder(places: tuple[Path, Path]) -> None:
    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(places[0].iterdir())) == 1
    assert len(list(places[0].rglob("*.object"))) == 8


def test_a_reference_is_small_frozen_hashable_and_says_what_it_stands_for() -> None:
    ref = put(np.zeros(12_345_678 // 8))
    assert len(pickle.dumps(ref)) < 500
    assert repr(ref) == f"ObjectRef({ref.id[:8]}..., 12.3 MB)"
    again = pickle.loads(pickle.dumps(ref))
    assert again == ref
    assert copy.deepcopy(ref) == ref
    assert {ref: 1}[again] == 1
    assert put(0) != put(0)
    with pytest.raises(AttributeError):
        ref.id = "other"  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000, "2.5 MB"), (3.2e9, "3.2 GB"), (7e12, "7000.0 GB")],
)
def test_sizes_are_shown_in_decimal_units(size: float, text: str) -> None:
    assert repr(ObjectRef("0123456789", int(size), "/nowhere")) == f"ObjectRef(01234567..., {text})"


def test_neither_numpy_nor_torch_is_imported_for_objects_without_them() -> None:
    source = (
        "import sys, shoal.objects as objects\n"
        "loaded = set(sys.modules)\n"
        "assert objects.get(objects.put({'a': [1]})) == {'a': [1]}\n"
        "print(*sorted({'cloudpickle', 'numpy', 'torch', 'mmap'} & loaded), '-',"
        " *sorted({'numpy', 'torch'} & set(sys.modules)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.split() == ["-"]


# Errors


def iter_nothing() -> Iterator[None]:
    yield


@pytest.mark.parametrize("value", [3, "ref", None, {"a": 1}], ids=repr)
def test_what_is_no_reference_is_an_error_that_says_what_one_is(value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"get: .*{type(value).__name__}.* is no reference.*shoal\.put.*ObjectRef"):
        get(value)
    with pytest.raises(ConfigError, match="is no reference"):
        get([put(1), value])


def test_a_reference_is_not_stored_again() -> None:
    ref = put(1)
    with pytest.raises(ConfigError, match=r"put: .*reference already, ObjectRef\(.*Pass it on"):
        put(ref)


@pytest.mark.parametrize(
    ("obj", "reason"),
    [
        (iter_nothing(), "generator"),
        ({"lock": threading.Lock()}, "_thread.lock"),
        ([threading.local()], "_thread._local"),
    ],
    ids=["generator", "lock", "local"],
)
def test_what_cannot_be_pickled_is_an_error_with_type_and_reason(obj: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"put: the object \({type(obj).__name__}\) cannot be pickled.*{reason}"):
        put(obj)


@pytest.mark.parametrize("cached", [True, False])
def test_the_object_of_a_reference_is_gone_after_shutdown(cached: bool) -> None:
    ref = put([1])
    if cached:
        get(ref)
    shoal.shutdown()
    with pytest.raises(ConfigError, match=r"is gone.*Put it again.*Tuner\.restore\(\.\.\., param_space=\.\.\.\)"):
        get(ref)
    assert get(put([2])) == [2]


def test_what_is_in_use_outlives_its_file() -> None:
    array = round_trip(np.arange(10_000))
    tensor = round_trip(torch.arange(10_000))
    free_all()
    assert array.sum() == tensor.sum() == 49_995_000


def test_an_object_whose_class_cannot_be_loaded_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_of_an_object.py").write_text("class Thing: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import module_of_an_object  # type: ignore[import-not-found] # pyright: ignore[reportMissingImports]

    ref = put(module_of_an_object.Thing())
    monkeypatch.delitem(sys.modules, "module_of_an_object")
    (tmp_path / "module_of_an_object.py").unlink()
    with pytest.raises(ConfigError, match=r"cannot be loaded in this process: ModuleNotFoundError: .*module_of_an"):
        get(ref)


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_a_file_that_holds_something_else_is_an_error(content: bytes) -> None:
    ref = put([1])
    Path(ref.path).write_bytes(content)
    with pytest.raises(StorageError, match=r"Put the object again"):
        get(ref)


# Where objects lie, and for how long


def test_objects_lie_in_shared_memory_in_a_folder_of_this_process_that_no_other_user_enters(
    places: tuple[Path, Path],
) -> None:
    ref, other = put(1), put(2)
    folder = Path(ref.path).parent
    assert folder.parent == places[0]
    assert Path(other.path).parent == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not list(places[1].glob("shoal*"))


@pytest.mark.parametrize("room", ["shared", "memory", "container"])
def test_an_object_that_takes_more_than_half_of_the_room_goes_to_the_temporary_folder(
    room: str, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = {"shared": 1e15, "memory": 1e15, "container": 1e15, room: 1e6}

    monkeypatch.setattr(objects, "_free_space", lambda folder: free["shared"] if folder == places[0] else 1e15)
    monkeypatch.setattr(objects, "_memory_left_in_container", lambda: free["container"])
    monkeypatch.setattr(resources, "memory_available", lambda: free["memory"])
    small, large = put(bytes(400_000)), put(bytes(600_000))
    assert Path(small.path).parents[1] == places[0]
    assert Path(large.path).parents[1] == places[1]
    assert get([small, large]) == [bytes(400_000), bytes(600_000)]


def test_without_shared_memory_objects_lie_in_the_temporary_folder(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_SHARED_MEMORY", places[0] / "missing")
    assert Path(put(1).path).parents[1] == places[1]


def test_where_shared_memory_turns_out_to_be_full_the_temporary_folder_is_tried(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_write", full(places[0]))
    ref = put(5)
    assert Path(ref.path).parents[1] == places[1]
    assert get(ref) == 5


def test_no_room_anywhere_is_an_error_that_names_the_places_and_what_to_set(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_write", full(places[0], places[1]))
    with pytest.raises(StorageError, match=r"no room for an object of 1\.0 MB.*shm.*No space left.*tmp.*TMPDIR"):
        put(bytes(1_000_000))


def full(*bases: Path) -> Any:
    write = objects._write

    def write_unless_full(path: Path, pickled: Any) -> None:
        if path.parents[1] in bases:
            raise OSError(28, "No space left on device")
        write(path, pickled)

    return write_unless_full


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    source = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from shoal import objects\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        f"objects._SHARED_MEMORY = Path({str(tmp_path)!r}, 'shm')\n"
        "objects.put(b'small')\n"
        "try:\n"
        "    objects.put(bytes(1 << 23))\n"
        "except objects.StorageError as error:\n"
        "    print(error)\n"
        f"print([path.stat().st_size > 1000 for path in Path({str(tmp_path)!r}).rglob('*.object')])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "no room for an object of 8.4 MB" in ran.stdout
    assert "File too large" in ran.stdout
    assert ran.stdout.endswith("[False]\n")


def test_no_folder_for_temporary_files_is_an_error(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(objects, "_SHARED_MEMORY", places[0] / "missing")
    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(StorageError, match=r"No usable temporary directory found.*TMPDIR"):
        put(1)


def ended_pid() -> int:
    """Return the number of a process that is gone."""
    ran = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    return int(ran.stdout)


def left_behind(base: Path, pid: int, *, prefix: str | None = None) -> Path:
    """Make what a killed process leaves."""
    folder = base / f"{scratch._prefix('objects') if prefix is None else prefix}{pid}-abc"
    folder.mkdir(mode=0o700)
    (folder / "1.object").write_bytes(b"x")
    return folder


def test_what_a_killed_process_left_is_swept_by_the_next_put(places: tuple[Path, Path]) -> None:
    folder = left_behind(places[0], ended_pid())
    put(1)
    assert not folder.exists()


@pytest.mark.parametrize("place", [0, 1])
def test_what_a_killed_process_left_is_swept_by_the_next_run_too(
    place: int, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "SHARED_MEMORY", places[0])
    folder = left_behind(places[place], ended_pid())
    scratch.sweep()
    assert not folder.exists()


def test_what_is_not_surely_left_behind_stays(places: tuple[Path, Path]) -> None:
    fcntl = pytest.importorskip("fcntl")
    dead = ended_pid()
    alive = left_behind(places[0], os.getppid())
    locked = left_behind(places[0], dead)
    lock = os.open(locked, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    other_machine = left_behind(places[0], dead, prefix=f"shoal-objects-{os.geteuid()}-0123-")
    other_user = left_behind(places[0], dead, prefix=f"shoal-objects-{os.geteuid() + 1}-")
    elsewhere = left_behind(places[0], dead, prefix="elsewhere-")
    link = places[0] / f"{scratch._prefix('objects')}{dead}-link"
    link.symlink_to(elsewhere)
    put(1)
    kept = [alive, locked, other_machine, other_user, elsewhere]
    assert all((folder / "1.object").exists() for folder in kept)
    assert link.is_symlink()
    os.close(lock)
    free_all()  # sweeps too
    assert not locked.exists()
    link.unlink()
    for folder in kept:
        if folder.exists():
            (folder / "1.object").unlink()
            folder.rmdir()


def test_files_of_others_in_a_folder_that_is_swept_stay(places: tuple[Path, Path]) -> None:
    folder = left_behind(places[0], ended_pid())
    (folder / "notes.txt").write_text("keep")
    put(1)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "notes.txt").unlink()
    folder.rmdir()


def test_a_folder_that_is_swept_while_it_is_made_is_made_again(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = tempfile.mkdtemp
    made: list[str] = []

    def make_and_lose(*args: Any, **kwargs: Any) -> str:
        made.append(make(*args, **kwargs))
        if len(made) == 1:
            opened = os.open(made[0], os.O_RDONLY)
            monkeypatch.setattr(os, "open", lambda path, flags: opened)
            os.rmdir(made[0])
        else:
            monkeypatch.undo()
            monkeypatch.setattr(objects, "_SHARED_MEMORY", places[0])
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", make_and_lose)
    monkeypatch.setattr(scratch, "_sweep_in", lambda base: None)
    ref = put(7)
    assert len(made) == 2
    assert Path(ref.path).parent == Path(made[1])
    assert get(ref) == 7


# Files of members


def dead_member(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> str:
    """Have a process be a member of a warm parent, and both be killed; return how the names of its files begin."""
    monkeypatch.setattr(scratch, "SHARED_MEMORY", places[0])
    monkeypatch.setenv("TMPDIR", str(places[1]))
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        files = scratch.MemberFiles()
        files.enter(1)
        os.write(tell, tempfile.template.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(tell)
    with os.fdopen(told) as pipe:
        return pipe.read()


def test_of_a_member_that_was_killed_what_is_called_like_its_files_goes_and_no_more(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = dead_member(places, monkeypatch)
    outside = places[1] / "mine"
    outside.mkdir()
    (outside / "keep").touch()
    (places[1] / f"{prefix}link").symlink_to(outside)
    (places[1] / f"{prefix}file").touch()
    (places[1] / f"{prefix}folder" / "inner").mkdir(parents=True)
    (places[1] / f"{prefix}folder" / "link").symlink_to(outside)
    (places[1] / f"{prefix.removesuffix('-1-')}-12-other").touch()  # another member's, which ended in order
    scratch.sweep()
    assert {path.name for path in places[1].iterdir()} == {"mine", f"{prefix.removesuffix('-1-')}-12-other"}
    assert (outside / "keep").exists()
    (places[1] / f"{prefix.removesuffix('-1-')}-12-other").unlink()


def test_what_belongs_to_another_user_stays(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = dead_member(places, monkeypatch)
    theirs = places[1] / f"{prefix}theirs"
    theirs.touch()
    try:
        os.chown(theirs, 12345, -1)
    except PermissionError:
        pytest.skip("only root can give a file away")
    scratch.sweep()
    assert theirs.exists()
    theirs.unlink()


def test_a_socket_of_a_member_has_a_path_that_is_short_enough(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = dead_member(places, monkeypatch)
    scratch.sweep()
    assert len(f"/tmp/{prefix}mp/listener-12345678") < 60


def test_on_a_node_of_a_cluster_one_that_is_not_there_may_have_found_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_OBJECTS", str(tmp_path))
    with pytest.raises(ConfigError, match=r"is not on this node\. Either there was no room for it here"):
        shoal.get(ObjectRef("0" * 24, 10, str(tmp_path / "none.object")))


def test_what_a_machine_left_that_lost_its_power_goes_when_nobody_has_touched_it_for_a_week(tmp_path: Path) -> None:
    uid = os.geteuid()
    names = {
        "old": f"shoal-files-{uid}-{'0' * 32}-4711-abcd",
        "touched": f"shoal-files-{uid}-{'1' * 32}-4711-abcd",
        "others": f"shoal-files-{uid + 1}-{'0' * 32}-4711-abcd",
        "not ours": "somebody-else",
    }
    for name in names.values():
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").touch()
        os.utime(tmp_path / name, (1, 1))
    os.utime(tmp_path / names["touched"])
    owner = scratch.Owner("files")
    mine = owner.folder(tmp_path)
    os.utime(mine, (1, 1))
    scratch.sweep_untouched(tmp_path)
    assert not (tmp_path / names["old"]).exists()
    assert all((tmp_path / names[name]).exists() for name in ("touched", "others", "not ours"))
    assert mine.exists()
    owner.touch()
    assert mine.stat().st_mtime > 1
    os.utime(mine, (1, 1))
    owner.touch()
    assert mine.stat().st_mtime == 1, "once an hour is enough"
    owner.free()
