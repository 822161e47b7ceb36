"""What can be done with an experiment in object storage: its checkpoints, the command line, the live page."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.in_memory import cache, fail_once, interrupted, root, run

from shoal import tune
from shoal.cli import main
from shoal.errors import ConfigError, JournalError, StorageError
from shoal.reading import Experiment, State
from shoal.storage import shipping
from shoal.storage.place import Place
from shoal.storage.trying import PlaceError
from shoal.viewing import Followed, find_urls

__all__ = ["cache", "root"]  # fixtures


# -------------------------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_in_storage_is_read_as_one_in_a_folder(root: str, tmp_path: Path) -> None:
    Place(f"{root}/mine/weights.txt").write_bytes(b"1 2 3")
    Place(f"{root}/mine/deep/er.txt").write_bytes(b"4")
    checkpoint = tune.Checkpoint(f"{root}/mine/")
    assert checkpoint.path == f"{root}/mine"
    assert checkpoint == tune.Checkpoint.from_directory(f"{root}/mine")
    target = checkpoint.to_directory(tmp_path / "copy")
    assert Path(target, "deep", "er.txt").read_text() == "4"
    assert checkpoint.get_metadata() == {}
    checkpoint.set_metadata({"classes": ["cat"]})
    checkpoint.update_metadata({"size": 3})
    assert tune.Checkpoint(f"{root}/mine").get_metadata() == {"classes": ["cat"], "size": 3}
    with pytest.raises(ConfigError, match=r"is a folder with .*weights\.txt"):
        checkpoint.to_dict()
    assert root in repr(checkpoint)
    html = checkpoint._repr_html_()
    assert html is not None
    assert root in html


def test_a_dict_is_read_from_a_checkpoint_in_storage(root: str) -> None:
    def saves(config: dict[str, Any]) -> None:
        tune.report({"score": 1}, checkpoint=tune.Checkpoint.from_dict({"weights": [1, 2]}))

    grid = run(root, saves, run={"name": "a"}, num_samples=1, scheduler=tune.schedulers.FIFOScheduler())
    assert grid[0].checkpoint is not None
    assert grid[0].checkpoint.to_dict() == {"weights": [1, 2]}


def test_a_checkpoint_that_is_not_there_or_not_what_it_was_says_so(root: str) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        tune.Checkpoint(f"{root}/nothing").to_directory()
    grid = run(root, run={"name": "a"}, num_samples=1, scheduler=tune.schedulers.FIFOScheduler())
    checkpoint = grid[0].checkpoint
    assert checkpoint is not None
    Place(f"{checkpoint.path}/state.json").write_bytes(b"[20, 0.25]")
    for broken in (checkpoint, tune.Checkpoint(checkpoint.path)):
        with pytest.raises(StorageError, match=r"digest|sizes"), broken.as_directory():
            pass


def test_a_url_that_lost_a_slash_is_no_checkpoint() -> None:
    with pytest.raises(ConfigError, match="lacks a slash"):
        tune.Checkpoint(Path("s3://bucket/a"))


def test_a_member_can_begin_with_a_checkpoint_from_storage(root: str) -> None:
    grid = run(root, run={"name": "a"}, num_samples=1, scheduler=tune.schedulers.FIFOScheduler(), engine="inline")
    given = grid[0].checkpoint
    assert given is not None

    def goes_on(config: dict[str, Any]) -> None:
        with tune.Checkpoint(config["from"]).as_directory() as folder:
            tune.report({"score": json.loads(Path(folder, "state.json").read_text())[0]})

    space = {"from": given.path}
    once: dict[str, Any] = {"num_samples": 1, "engine": "inline", "scheduler": tune.schedulers.FIFOScheduler()}
    again = run(root, goes_on, run={"name": "b"}, space=space, **once)
    assert again[0].metrics["score"] == 20

    def reports_it(config: dict[str, Any]) -> None:
        tune.report({"score": 1}, checkpoint=tune.Checkpoint(config["from"]))

    again = run(root, reports_it, run={"name": "c"}, space=space, **once)
    assert "is in object storage: download it" in str(again.errors[0])


# ------------------------------------------------------------------------------------------------------- command line


Shoal = Callable[..., str]


@pytest.fixture
def shoal(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shoal:
    """Call the command line in this process, which has the storage in its memory; return what it prints."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        ended = main([*arguments])
        out, err = capsys.readouterr()
        assert ended == code, out + err
        return f"{out}{err}"

    return call


def test_the_command_line_reads_urls(shoal: Shoal, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(root, run={"name": "first"})
    run(root, run={"name": "second"}, num_samples=2)
    monkeypatch.chdir(tmp_path)
    url = f"{root}/first"
    assert find_urls(root) == [f"{root}/second", url]
    rows = json.loads(shoal("list", root, "--format", "json"))
    assert [(row["name"], row["path"], row["state"], row["trials"]) for row in rows] == [
        ("second", f"{root}/second", "ended", 2),
        ("first", url, "ended", 4),
    ]
    assert rows == json.loads(shoal("list", root, "--format", "json"))  # from what was remembered
    assert [row["name"] for row in json.loads(shoal("list", url, "--format", "json"))] == ["first"]
    status = shoal("status", url)
    assert "ended" in status
    assert url in status
    assert json.loads(shoal("status", url, "--format", "json"))["path"] == url
    assert f"{url}/climb_" in shoal("show", url, "0")
    assert all(entry["there"] for entry in json.loads(shoal("show", url, "0", "--format", "json"))["checkpoints"])
    best = json.loads(shoal("best", url, "--format", "json"))
    assert best["newest_checkpoint"].startswith(f"{url}/climb_")
    assert best["best_checkpoint"].startswith(f"{url}/climb_")
    assert "lineage of" in shoal("lineage", url)
    assert "schedule of" in shoal("schedule", url)
    assert shoal("card", url)
    assert "plots/diversity.json" in shoal("plot", url, "diversity", "--format", "json")
    assert (tmp_path / "first-plots" / "diversity.json").exists()
    assert "first-report.html" in shoal("report", url)
    assert url in (tmp_path / "first-report.html").read_text()
    assert "is in object storage" in shoal("gc", url, code=2)
    assert "is not running" in shoal("stop", url, code=1)
    assert "It is a folder with some: second, first" in shoal("status", root, code=1)


def test_one_that_is_damaged_hides_no_others(shoal: Shoal, root: str) -> None:
    for name in ("good", "bad"):
        run(root, run={"name": name}, num_samples=1)
    for name in Place(f"{root}/bad/journal").list_sizes():
        if name.endswith("facts.json"):
            (Place(f"{root}/bad/journal") / name).write_bytes(b"{}")
    assert find_urls(root) == [f"{root}/good", f"{root}/bad"]
    listed = shoal("list", root)
    assert "good" in listed
    assert "bad" in listed
    assert "is damaged" in shoal("status", f"{root}/bad", code=1)
    followed = Followed(root, every_s=3600.0)
    assert [folder.name for folder in followed.folder.iterdir()] == ["good"]
    followed.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shoal-look")]


def test_one_that_this_user_may_not_read_hides_no_others(
    shoal: Shoal, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("good", "secret"):
        run(root, run={"name": name}, num_samples=1)
    refused = {"secret"}
    real = Place.list_sizes

    def list_sizes(place: Place) -> dict[str, int]:
        if refused & set(place.url.split("/")):
            raise PlaceError(f"Access to {place} is denied.")
        return real(place)

    monkeypatch.setattr(Place, "list_sizes", list_sizes)
    assert find_urls(root) == [f"{root}/good", f"{root}/secret"]
    listed = {row["name"]: row for row in json.loads(shoal("list", root, "--format", "json"))}
    assert listed["good"]["state"] == "ended"
    assert listed["secret"]["state"] != "ended"
    followed = Followed(root, every_s=3600.0)
    assert [folder.name for folder in followed.folder.iterdir()] == ["good"]
    refused.add("good")
    with pytest.raises(StorageError, match="denied"):
        find_urls(root)
    with pytest.raises(StorageError, match="denied"):
        followed.refresh()
    followed.close()


def test_of_a_large_output_only_the_end_is_read(shoal: Shoal, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = run(root, run={"name": "a"}, num_samples=1)
    log = Place(f"{grid[0].path}/output.log")
    log.write_bytes(b"".join(b"line %d\n" % number for number in range(200_000)))
    read: list[int] = []
    real = Place._ask

    def ask(place: Place, files: Any, method: str, *arguments: Any, **settings: Any) -> Any:
        found = real(place, files, method, *arguments, **settings)
        if place.url == log.url and method == "cat_file":
            read.append(len(found))
        return found

    monkeypatch.setattr(Place, "_ask", ask)
    shown = shoal("show", f"{root}/a", "0", "--log", "2")
    assert "line 199998" in shown
    assert "line 199999" in shown
    assert read == [256 << 10]
    lines = json.loads(shoal("show", f"{root}/a", "0", "--log", "100000", "--format", "json"))["log"]
    assert len(lines) > 20_000
    assert set(lines) <= {f"line {number}" for number in range(200_000)}

    def refuses(*_: object) -> Any:
        raise PlaceError("Access to it is denied.")

    monkeypatch.setattr(Place, "read_end", refuses)
    assert "cannot be shown: Access to it is denied." in shoal("show", f"{root}/a", "0")


def test_objects_beside_experiments_are_not_looked_into(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(root, run={"name": "a"}, num_samples=1)
    for number in range(50):
        (Place(root) / f"{number}.jpg").write_bytes(b"")
    looked: list[str] = []
    real = shipping.look

    def look(place: Place) -> Any:
        looked.append(place.name)
        return real(place)

    monkeypatch.setattr(shipping, "look", look)
    assert find_urls(root) == [f"{root}/a"]
    assert looked == ["a"]


def test_a_folder_that_cannot_be_looked_into_soon_is_not_waited_for(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    (Place(root) / "x" / "y").write_bytes(b"")
    monkeypatch.setattr("shoal.viewing._INSIDE_S", 0.05)
    monkeypatch.setattr("shoal.viewing.find_urls", lambda url: over.wait(60) and [])
    with pytest.raises(JournalError, match="There is no experiment"):
        Experiment.open(root)
    over.set()


def test_names_are_found_where_the_variable_says(shoal: Shoal, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(root, run={"name": "first"}, num_samples=1)
    run(root, run={"name": "second"}, num_samples=1)
    monkeypatch.setenv("SHOAL_DIR", root)
    assert f"{root}/first" in shoal("status", "fir")
    assert f"{root}/second" in shoal("status", "latest")
    assert [row["name"] for row in json.loads(shoal("list", "--format", "json"))] == ["second", "first"]
    assert "There is no experiment 'third'" in shoal("status", "third", code=2)
    assert "no experiment" in shoal("status", f"{root}/third", code=1)


def test_doctor_examines_what_is_in_storage(shoal: Shoal, root: str) -> None:
    grid = run(root, run={"name": "a"}, num_samples=2)
    found = shoal("doctor", f"{root}/a")
    assert "all as they were written" in found
    assert "each with the manifest that the journal expects" in found
    assert grid[0].checkpoint is not None
    Place(f"{grid[0].checkpoint.path}.json").delete()
    assert "it is gone" in shoal("doctor", f"{root}/a", code=1)


def test_the_command_line_goes_on_with_a_url(shoal: Shoal, root: str, tmp_path: Path) -> None:
    interrupted(root, tmp_path / "flag")
    assert "shoal resume" in shoal("doctor", f"{root}/a")
    shoal("resume", f"{root}/a", "tests.end_to_end.in_memory:fail_once", "--verbose", "0")
    assert {result.metrics["training_iteration"] for result in tune.ResultGrid.read(f"{root}/a")} == {20}
    again = shoal("resume", f"{root}/a", "tests.end_to_end.in_memory:fail_once", "--verbose", "0")
    assert "Nothing was left to do" in again


def test_a_running_experiment_is_seen_as_running(shoal: Shoal, root: str, tmp_path: Path) -> None:
    seen: list[Any] = []
    here = os.environ["SHOAL_CACHE"]

    class Looks(tune.Callback):
        def on_trial_result(self, iteration: int, *_: Any, **__: Any) -> None:
            if iteration == 10 and not seen:
                seen.append(Experiment.open(f"{root}/a").state)  # by its working folder
                os.environ["SHOAL_CACHE"] = str(tmp_path / "another machine")
                try:
                    experiment = Experiment.open(f"{root}/a")  # by what storage has
                    seen.append(experiment.state)
                    seen.append(f"by process {os.getpid()}" in shoal("status", f"{root}/a"))
                    seen.append("this is another machine" in shoal("stop", f"{root}/a", code=1))
                finally:
                    os.environ["SHOAL_CACHE"] = here

    run(root, run={"name": "a", "callbacks": [Looks()]}, engine="inline")
    assert seen[:3] == [State.RUNNING, State.RUNNING, True]


def test_an_experiment_is_followed_while_it_goes_on(root: str, tmp_path: Path) -> None:
    interrupted(root, tmp_path / "flag")
    os.environ["SHOAL_CACHE"] = str(tmp_path / "another machine")
    experiment = Experiment.open(f"{root}/a")
    assert not experiment.refresh()
    tune.Tuner.restore(f"{root}/a", fail_once).fit()
    before = experiment.seq
    assert experiment.refresh()
    assert experiment.seq > before
    assert experiment.state is State.ENDED
    experiment.close()


# ------------------------------------------------------------------------------------------------------ the live page


def test_the_live_page_shows_experiments_in_storage(root: str) -> None:
    testclient = pytest.importorskip("starlette.testclient")
    from shoal.dashboard import make_app

    run(root, run={"name": "first"})
    run(root, run={"name": "second"}, num_samples=2)
    with testclient.TestClient(make_app(root), base_url="http://127.0.0.1") as page:
        overview = page.get("/").text
        assert "first" in overview
        assert "second" in overview
        one = page.get("/e/first").text
        assert f"{root}/first" in one
    with testclient.TestClient(make_app(f"{root}/first"), base_url="http://127.0.0.1") as page:
        assert f"{root}/first" in page.get("/e/first").text
