"""``shoal doctor``: what it finds, and how it says so."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.simulated import learn, write_experiment
from tests.unit.tended import (
    Shoal,
    command_line,
    cut_off,
    explore_nothing,
    findings,
    lose_records,
    problems,
    run_in,
    snapshot,
)

from shoal import tune
from shoal.core.commands import checkpoint_name
from shoal.history import History
from shoal.journal.lock import lock, unlock
from shoal.reading import Experiment, State
from shoal.sinks import LogFiles, PolicyFiles
from shoal.testing.faults import Fault, random_faults


@pytest.fixture
def shoal(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shoal:
    return command_line(capsys, tmp_path / "results", monkeypatch)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run, whole and ended: four members, fifteen steps, a checkpoint at each."""
    return Path(run_in(tmp_path_factory.mktemp("ran")).experiment_path)


@pytest.fixture
def folder(ran: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ran, tmp_path / "results" / "pbt"))


def test_a_whole_experiment_is_healthy_and_nothing_in_it_is_changed(shoal: Shoal, folder: Path) -> None:
    before = snapshot(folder)
    code, out, _ = shoal("doctor", "pbt")
    assert code == 0
    assert "problem" not in out
    assert {each["check"] for each in findings(shoal, "pbt") if each["level"] == "ok"} == {
        "journal", "decisions", "checkpoints", "logs", "disk",
    }  # fmt: skip
    assert snapshot(folder) == before


def test_a_changed_record_is_a_problem_of_the_journal(shoal: Shoal, folder: Path) -> None:
    import sqlite3

    with sqlite3.connect(folder / "journal.sqlite") as connection:
        connection.execute("UPDATE journal SET body = replace(body, '0.1', '0.9') WHERE seq = 2")
    connection.close()
    code, out, _ = shoal("doctor", "pbt")
    assert code == 1
    assert "record 2 is not what was written" in " ".join(out.split())
    assert problems(shoal, "pbt") == ["journal"]


def test_an_experiment_whose_journal_is_gone_is_told_so_and_not_taken_for_no_experiment(
    shoal: Shoal, folder: Path
) -> None:
    (folder / "journal.sqlite").rename(folder / "journal.sqlite-wal")
    assert problems(shoal, str(folder)) == ["journal"]
    code, _, err = shoal("status", str(folder))
    assert code == 1
    assert "only journal.sqlite-wal is left" in err


def test_a_decision_that_does_not_follow_is_a_problem(shoal: Shoal, folder: Path) -> None:
    from shoal.core.commands import Notice
    from shoal.journal.sqlite import SQLiteJournal

    journal = SQLiteJournal.open_for_writing(folder)
    journal.append([Notice("nobody", "has decided this")], 0.0)
    journal.close()
    assert problems(shoal, "pbt") == ["decisions"]


def test_a_checkpoint_that_is_gone_or_changed_is_a_problem_that_says_whom_it_concerns(
    shoal: Shoal, folder: Path
) -> None:
    trials = Experiment.open(folder).history.in_order()
    newest = folder / trials[0].folder / checkpoint_name(max(trials[0].checkpoints))
    oldest = folder / trials[1].folder / checkpoint_name(min(trials[1].checkpoints))
    shutil.rmtree(newest)
    (oldest / "state.json").write_text("[0, 0]")
    found = [each for each in findings(shoal, "pbt") if each["level"] == "problem"]
    assert [each["check"] for each in found] == ["checkpoints", "checkpoints"]
    assert f"{trials[0].trial_id}/{newest.name}" in found[0]["what"]
    assert "go on from" in found[0]["meaning"]
    assert f"{trials[1].trial_id}/{oldest.name}" in found[1]["what"]


def test_log_files_that_differ_from_the_journal_are_a_problem_that_tells_how(shoal: Shoal, folder: Path) -> None:
    trial = Experiment.open(folder).history.in_order()[2]
    path = folder / trial.folder / "result.json"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    (folder / trial.folder / "progress.csv").unlink()
    (found,) = [each for each in findings(shoal, "pbt") if each["level"] == "problem"]
    assert found["check"] == "logs"
    assert f"{trial.trial_id}: result.json has" in found["what"]
    assert "progress.csv is missing" in found["what"]


@pytest.mark.parametrize("name", ["result.json", "progress.csv", "params.json", "pbt_global.txt", "pbt_policy_*.txt"])
def test_one_other_digit_in_a_log_file_is_found(shoal: Shoal, folder: Path, name: str) -> None:
    path = next(iter([*folder.glob(name), *folder.glob(f"*/{name}")]))
    text = path.read_text()
    digits = [place for place, letter in enumerate(text) if letter in "123456789" and text[place - 1] == "."]
    place = digits[len(digits) // 2]
    path.write_text(f"{text[:place]}{int(text[place]) % 9 + 1}{text[place + 1 :]}")
    (found,) = [each for each in findings(shoal, "pbt") if each["level"] == "problem"]
    assert found["check"] == "logs"
    assert path.name in found["what"]


@pytest.mark.parametrize("seed", range(3))
def test_log_files_as_a_driver_writes_them_are_as_the_journal_says_whatever_has_failed(
    tmp_path: Path, seed: int
) -> None:
    from shoal.cli.logs import differences
    from shoal.journal.sqlite import SQLiteJournal

    def odd(config: dict[str, Any], state: Any) -> tuple[dict[str, Any], Any]:
        metrics, state = learn(config, state)
        more = {"val": {"a, b": [1, "two\n", None]}, "text": "x\udc80", "nan": math.nan, "yes": True}
        return {**metrics, **(more if state[0] % 3 else {})}, state

    faults = random_faults(seed, {Fault.CRASH: 0.1, Fault.RAISE: 0.05, Fault.DAMAGE: 0.2, Fault.LATE_REPORT: 0.05})
    folder = write_experiment(
        tmp_path / "sim", members=6, steps=20, train=odd, faults=faults, max_failures=-1, replace_failed=True,
        checkpoint_every=2, seed=seed,
    )  # fmt: skip
    experiment = Experiment.open(folder)
    with contextlib.closing(SQLiteJournal.open_for_reading(folder)) as journal:
        records = list(journal.read())
    history = History()
    writers = LogFiles(), PolicyFiles()
    for writer in writers:
        writer.start(experiment.info, folder, history)
    for record in records:
        history.add(record)
        for writer in writers:
            writer.take(record)
            writer.flush()
    for writer in writers:
        writer.close()
    assert history.exploits
    assert list(differences(folder, experiment.history, policies=True)) == []
    for writer in (LogFiles(), PolicyFiles()):
        writer.start(experiment.info, folder, experiment.history)
        writer.close()
    assert list(differences(folder, experiment.history, policies=True)) == []


def test_an_interrupted_experiment_is_healthy_and_told_how_to_go_on(shoal: Shoal, folder: Path) -> None:
    cut_off(folder)
    assert Experiment.open(folder).state is State.INTERRUPTED
    notes = {each["check"]: each for each in findings(shoal, "pbt") if each["level"] == "note"}
    assert "shoal resume pbt MODULE:save_always" in notes["driver"]["to_do"]
    assert "leftovers" in notes
    assert shoal("doctor", "pbt")[0] == 0


def test_where_the_journal_has_lost_records_that_is_a_problem_and_gc_leaves_the_checkpoints_alone(
    shoal: Shoal, folder: Path
) -> None:
    before = snapshot(folder)
    lose_records(folder)
    (found,) = [each for each in findings(shoal, "pbt") if each["level"] == "problem"]
    assert found["check"] == "records"
    assert "result.json has" in found["what"]
    assert "whole checkpoint" in found["what"]
    assert "Copy the folder before" in found["to_do"]
    assert all(each["check"] != "leftovers" for each in findings(shoal, "pbt"))
    code, _, err = shoal("gc", "pbt", "--yes")
    assert code == 0
    assert "has lost its records" in err
    assert snapshot(folder).keys() == before.keys()
    code, _, err = shoal("gc", "pbt", "--keep-newest", "1", "--yes")
    assert code == 2
    assert "has lost records" in err
    assert snapshot(folder).keys() == before.keys()
    assert "shoal resume pbt MODULE" not in shoal("doctor", "pbt")[1]
    told = json.loads(shoal("gc", "pbt", "--yes", "--lost-records", "--format", "json")[1])
    assert {each["what"] for each in told[0]["items"]} == {"a checkpoint whose records are lost"}
    assert snapshot(folder).keys() < before.keys()


def test_without_its_log_files_many_unknown_checkpoints_tell_that_records_are_lost(shoal: Shoal, folder: Path) -> None:
    lose_records(folder)
    for path in folder.glob("*/result.json"):
        path.unlink()
    assert "records" in problems(shoal, "pbt")


def test_results_that_were_undone_are_not_taken_for_lost_ones(tmp_path: Path) -> None:
    from shoal.cli.files import read_files
    from shoal.core.events import Reported
    from shoal.journal.sqlite import SQLiteJournal

    crashes = random_faults(3, {Fault.CRASH: 0.3})
    folder = write_experiment(
        tmp_path / "sim", members=2, steps=8, files=True, faults=crashes, max_failures=-1, checkpoint_every=3
    )
    with contextlib.closing(SQLiteJournal.open_for_reading(folder)) as journal:
        records = list(journal.read())
    reports = [record.item for record in records if isinstance(record.item, Reported)]
    history = History.of(records)
    assert len(reports) > history.results  # some were undone
    for report in reports:
        with (folder / history.trials[report.trial_id].folder / "result.json").open("a") as file:
            print(json.dumps({"training_iteration": report.iteration, "timestamp": int(report.timestamp)}), file=file)
    assert read_files(folder, records).unreported() == {}
    first = reports[0].trial_id
    with (folder / history.trials[first].folder / "result.json").open("a") as file:
        print(json.dumps({"training_iteration": 9, "timestamp": 1}), file=file)
    assert read_files(folder, records).unreported() == {first: 1}


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_log_beside_the_journal_is_a_problem_and_nothing_is_called_a_leftover(
    shoal: Shoal, folder: Path, tmp_path: Path, damage: str
) -> None:
    from shoal.journal.sqlite import SQLiteJournal

    with contextlib.closing(SQLiteJournal.open_for_reading(folder)) as journal:
        records, meta = list(journal.read()), journal.meta()
    (folder / "journal.sqlite").unlink()
    driver = SQLiteJournal.create(folder)
    driver.set_meta(**meta)
    for record in records:
        driver.append([record.item], record.at)
    killed = Path(shutil.copytree(folder, tmp_path / "results" / "killed"))
    driver.close()
    (killed / "journal.sqlite-shm").unlink()
    wal = killed / "journal.sqlite-wal"
    assert problems(shoal, "killed") == []
    data = bytearray(wal.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    wal.write_bytes(data if damage == "flipped" else data[: len(data) // 2] if damage == "cut" else b"")
    (killed / "journal.sqlite-shm").unlink(missing_ok=True)
    code, out, _ = shoal("doctor", "killed")
    assert code == 1
    assert "shoal gc killed" not in out
    assert "ever began" not in out
    before = {name: data for name, data in snapshot(killed).items() if "journal" not in name}
    shoal("gc", "killed", "--yes")
    assert {name: data for name, data in snapshot(killed).items() if "journal" not in name} == before


def test_an_experiment_that_is_just_starting_is_no_damage(shoal: Shoal, tmp_path: Path) -> None:
    from shoal.journal.sqlite import SQLiteJournal

    new = tmp_path / "results" / "new"
    new.mkdir(parents=True)
    driver = SQLiteJournal.create(new)
    try:
        code, out, _ = shoal("doctor", "new")
        assert code == 0
        assert "just starting" in out
        assert json.loads(shoal("list", "--format", "json")[1])[0]["state"] == "starting"
        code, _, err = shoal("status", "new")
        assert code == 1
        assert "just starting" in err
        assert "argument" not in err
    finally:
        driver.close()


def test_one_that_has_only_its_lock_so_far_is_just_starting(shoal: Shoal, tmp_path: Path) -> None:
    new = tmp_path / "results" / "new"
    new.mkdir(parents=True)
    held = lock(new)
    try:
        code, out, _ = shoal("doctor", str(new))
        assert code == 0
        assert "just starting" in out
        assert json.loads(shoal("list", "--format", "json")[1])[0]["state"] == "starting"
    finally:
        unlock(held)


@pytest.mark.parametrize("what", [b"", None])
def test_an_experiment_that_never_began_is_no_damage_and_can_be_deleted(
    shoal: Shoal, tmp_path: Path, what: bytes | None
) -> None:
    from shoal.journal.sqlite import SQLiteJournal

    new = tmp_path / "results" / "new"
    new.mkdir(parents=True)
    if what is None:
        SQLiteJournal.create(new).close()
    else:
        (new / "journal.sqlite").write_bytes(what)
    (found,) = findings(shoal, "new")
    assert found["level"] == "note"
    assert "never began" in found["meaning"]
    assert "rm -r" in found["to_do"]
    assert json.loads(shoal("list", "--format", "json")[1])[0]["state"] == "never began"


def test_what_is_left_of_an_experiment_without_its_journal_is_not_skipped_in_its_folder(
    shoal: Shoal, folder: Path
) -> None:
    write_experiment(folder.parent / "whole", members=2, steps=3, files=True)
    (folder / "journal.sqlite").rename(folder / "journal.sqlite-wal")
    code, out, _ = shoal("doctor", str(folder.parent))
    assert code == 1
    assert "problems in pbt" in out or "pbt" in out.splitlines()[-1]
    rows = json.loads(shoal("list", "--format", "json")[1])
    assert {row["name"]: row["state"] for row in rows} == {"whole": "ended", "pbt": "damaged"}


def test_what_may_not_be_read_is_told_apart_from_damage(
    shoal: Shoal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access

    def no_journal(path: Any, mode: int, **more: Any) -> bool:
        return Path(path).name != "journal.sqlite" and access(path, mode, **more)

    with monkeypatch.context() as patched:
        patched.setattr("os.access", no_journal)
        (found,) = findings(shoal, "pbt")
        assert "permission denied" in found["what"]
        assert "copy" not in found["to_do"]
        code, _, err = shoal("gc", "pbt", "--yes")
        assert code == 1
        assert "permission denied" in err
    from shoal.checkpoints import store

    def closed(path: Path, digest: str) -> str:
        return f"its files cannot be read: {PermissionError(13, 'Permission denied', str(path))}"

    monkeypatch.setattr(store, "damage", closed)
    (found,) = [each for each in findings(shoal, "pbt") if each["level"] == "problem"]
    assert "for want of permission" in found["what"]


def test_while_gc_has_the_lock_nobody_calls_the_experiment_running_or_ends_that(shoal: Shoal, folder: Path) -> None:
    held = lock(folder, "gc")
    try:
        assert Experiment.open(folder).state is State.ENDED
        code, _, err = shoal("stop", "pbt")
        assert code == 1
        assert "is not running. 'shoal gc' works on it now" in err
        assert any("'shoal gc' works on it now" in each["what"] for each in findings(shoal, "pbt"))
        code, _, err = shoal("gc", "pbt", "--yes")
        assert code == 1
        assert "in the hands of 'shoal gc'" in err
    finally:
        unlock(held)


def test_what_an_interrupted_gc_has_left_is_told_as_such(
    shoal: Shoal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shoal.cli.removal as removal

    with monkeypatch.context() as patched:
        patched.setattr(removal, "_remove", lambda path: False)
        assert shoal("gc", "pbt", "--keep-newest", "1", "--yes")[0] == 1
    texts = [each["what"] for each in findings(shoal, "pbt") if each["check"] == "leftovers"]
    assert len(texts) == 1
    assert texts[0].startswith("A 'shoal gc' that was interrupted has left")


def test_damage_that_was_found_and_what_was_freed_are_counted_apart(shoal: Shoal, folder: Path) -> None:
    from shoal.core.events import Damaged, Freed
    from shoal.journal.sqlite import SQLiteJournal

    trial = Experiment.open(folder).history.in_order()[0]
    oldest, second, *_ = sorted(trial.checkpoints)
    damaged = Damaged(trial.trial_id, trial.launches, f"{trial.trial_id}/{checkpoint_name(second)}", "for a test")
    journal = SQLiteJournal.open_for_writing(folder)
    journal.append([Freed(trial.trial_id, oldest), damaged], 0.0)
    journal.close()
    texts = [each["what"] for each in findings(shoal, "pbt") if each["check"] == "checkpoints"]
    assert any("1 were freed" in text for text in texts)
    assert any("1 were found to be damaged" in text for text in texts)
    _, out, _ = shoal("show", "pbt", "0", "--format", "json")
    assert [each["freed"] for each in json.loads(out)["checkpoints"]][:2] == [True, False]
    assert "(freed)" in shoal("show", "pbt", "0")[1]


def test_trials_whose_driver_was_killed_are_said_to_have_been_running(shoal: Shoal, folder: Path) -> None:
    cut_off(folder)
    running = [trial for trial in Experiment.open(folder).history.in_order() if trial.status.value == "RUNNING"]
    assert running
    assert "was RUNNING" in shoal("status", "pbt")[1]
    assert "was RUNNING" in shoal("show", "pbt", str(running[0].index))[1]


def test_settings_with_objects_of_the_users_are_followed_only_where_they_are_trusted(
    shoal: Shoal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_in(tmp_path / "results", custom_explore_fn=explore_nothing)
    levels = {each["check"]: each for each in findings(shoal, "pbt")}
    assert levels["decisions"]["level"] == "note"
    assert "--trust" in levels["decisions"]["to_do"]
    levels = {each["check"]: each for each in findings(shoal, "pbt", "--trust")}
    assert levels["decisions"]["level"] == "ok"


def test_settings_that_would_run_code_are_not_loaded(tmp_path: Path) -> None:
    import base64
    import pickle

    from shoal.cli.plain_settings import NotPlain, plain_scheduler

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "was_run"),)

    for value in (Evil(), {"x": Evil()}, os.rmdir, tune.Tuner.fit):
        entry = {"pickle": base64.b64encode(pickle.dumps(value)).decode()}
        with pytest.raises(NotPlain):
            plain_scheduler({"settings_tune": entry})
    assert not (tmp_path / "was_run").exists()


def test_a_lock_that_is_held_by_nobody_it_names_is_a_problem(shoal: Shoal, folder: Path) -> None:
    held = lock(folder)
    try:
        (folder / "journal.lock").write_text(f"process {os.getppid()} on {socket.gethostname()}")
        assert problems(shoal, "pbt") == ["driver"]
    finally:
        unlock(held)


def test_a_lock_that_is_no_file_is_a_problem(shoal: Shoal, folder: Path) -> None:
    (folder / "journal.lock").unlink()
    (folder / "journal.lock").mkdir()
    assert problems(shoal, "pbt") == ["driver"]


def test_all_experiments_of_a_folder_are_examined_and_one_bad_one_tells(
    shoal: Shoal, folder: Path, tmp_path: Path
) -> None:
    write_experiment(tmp_path / "results" / "without_files", members=2, steps=3)
    code, out, _ = shoal("doctor", str(tmp_path / "results"))
    assert code == 1
    assert "2 examined: problems in without_files" in out
