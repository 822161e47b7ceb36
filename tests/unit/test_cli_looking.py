"""The commands that look at experiments: what they print, and how they end."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.simulated import pbt, write_experiment

from shoal.cli import main
from shoal.journal.lock import lock, unlock
from shoal.reading import Experiment
from shoal.results import ResultGrid

Shoal = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shoal(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shoal:
    """Run a command in this process, with ``tmp_path / "results"`` as the storage folder."""
    monkeypatch.setenv("SHOAL_DIR", str(tmp_path / "results"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experiment(tmp_path_factory.mktemp("written") / "pbt", members=6, steps=20, files=True)


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """An experiment in the storage folder."""
    return Path(shutil.copytree(written, tmp_path / "results" / "mnist_first"))


# ------------------------------------------------------------------------------------------------------------- finding


@pytest.mark.parametrize("name", ["mnist_first", "mnist", "latest"])
def test_an_experiment_is_found_by_its_name_by_the_beginning_of_it_and_as_the_latest(
    shoal: Shoal, folder: Path, name: str
) -> None:
    code, out, _ = shoal("best", name, "--format", "json")
    assert code == 0
    assert json.loads(out)["path"].startswith(str(folder))


def test_an_experiment_is_found_by_its_path_and_by_that_of_its_journal(shoal: Shoal, folder: Path) -> None:
    for path in (folder, folder / "journal.sqlite"):
        assert shoal("status", str(path))[0] == 0


def test_a_beginning_that_several_share_is_refused_and_they_are_listed(
    shoal: Shoal, folder: Path, tmp_path: Path
) -> None:
    write_experiment(tmp_path / "results" / "mnist_second", members=2, steps=2)
    code, out, err = shoal("status", "mnist")
    assert (code, out) == (2, "")
    assert "mnist_first" in err
    assert "mnist_second" in err


def test_a_misspelled_experiment_is_told_with_what_could_be_meant_in_one_line(shoal: Shoal, folder: Path) -> None:
    code, out, err = shoal("status", "mnist_frist")
    assert (code, out) == (2, "")
    assert err.startswith("shoal: error: There is no experiment 'mnist_frist'. Did you mean 'mnist_first'?")
    assert err.count("\n") == 1


def test_without_any_experiment_it_says_where_it_has_looked(shoal: Shoal, tmp_path: Path) -> None:
    code, _, err = shoal("status", "latest")
    assert code == 2
    assert str(tmp_path / "results") in err
    assert "SHOAL_DIR" in err


def test_a_folder_with_experiments_is_told_apart_from_one(shoal: Shoal, folder: Path) -> None:
    code, _, err = shoal("status", str(folder.parent))
    assert code == 2
    assert "mnist_first" in err


@pytest.mark.parametrize("trial", ["3", "trial_00003", "trial_00003/", "00003"])
def test_a_trial_is_found_by_number_id_and_folder(shoal: Shoal, folder: Path, trial: str) -> None:
    code, out, _ = shoal("show", "mnist", trial, "--format", "json")
    assert code == 0
    assert json.loads(out)["trial"] == 3


def test_a_trial_that_is_not_there_is_told_with_those_that_are(shoal: Shoal, folder: Path) -> None:
    assert "they are 0 to 5" in shoal("show", "mnist", "17")[2]
    code, _, err = shoal("show", "mnist", "trial_0003")
    assert code == 2
    assert "Did you mean 'trial_00003'?" in err
    assert "Several trials" in shoal("show", "mnist", "trial_")[2]


def test_the_tab_key_completes_experiments_and_trials(
    shoal: Shoal, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def complete(words: str) -> str:
        monkeypatch.setenv("_SHOAL_COMPLETE", "complete_zsh")
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", words)
        with pytest.raises(SystemExit):
            main([])
        return capsys.readouterr().out

    assert "mnist_first" in complete("shoal status mn")
    assert "trial_00003" in complete("shoal show mnist_first trial_00003")
    assert "trial" not in complete("shoal show nothing_there tri")
    assert "trial_00003" in complete("shoal schedule mnist_first --trial trial_00003")
    assert "trial_00003" in complete("shoal plot mnist_first lineage -t trial_00003")
    assert "best" in complete("shoal lineage mnist_first -t be")
    assert "trial" not in complete("shoal lineage -t tri")
    assert "python" in complete("shoal schedule mnist_first --format py")


# ---------------------------------------------------------------------------------------------------------------- list


def test_list_has_a_row_for_each_experiment_with_its_numbers_in_full(
    shoal: Shoal, folder: Path, tmp_path: Path
) -> None:
    write_experiment(tmp_path / "results" / "other", members=3, steps=5, facts={"started_at": 1_600_000_000.0})
    code, out, _ = shoal("list", "--format", "json")
    rows = {row["name"]: row for row in json.loads(out)}
    experiment = Experiment.open(folder)
    best = experiment.best
    assert code == 0
    assert set(rows) == {"mnist_first", "other"}
    row = rows["mnist_first"]
    assert best is not None
    assert row["best_score"] == best.value("accuracy")
    assert (row["best_trial"], row["state"], row["trials"], row["iterations"]) == (best.trial_id, "ended", 6, 20)
    assert (row["exploits"], row["results"]) == (experiment.history.perturbations, experiment.history.results)
    assert row["duration_s"] == experiment.timeline.duration
    assert row["started"].startswith("2023-11-14T")


def test_a_second_list_does_not_read_what_has_not_changed_and_says_the_same(
    shoal: Shoal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shoal("list", "--format", "json")
    monkeypatch.setattr(Experiment, "open", lambda *args, **kwargs: pytest.fail("the journal was read again"))
    assert shoal("list", "--format", "json") == first


def test_what_has_changed_since_the_last_list_is_read_again(shoal: Shoal, folder: Path, tmp_path: Path) -> None:
    shoal("list")
    shutil.rmtree(folder)
    write_experiment(folder, members=2, steps=4)
    (row,) = json.loads(shoal("list", "--format", "json")[1])
    assert (row["trials"], row["iterations"]) == (2, 4)


def test_a_damaged_experiment_is_a_row_that_says_so(shoal: Shoal, folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "results" / "broken"
    broken.mkdir()
    (broken / "journal.sqlite").write_bytes(b"this is no journal, whatever its name is" * 99)
    code, out, err = shoal("list")
    assert code == 0
    assert any(line.split()[:2] == ["broken", "damaged"] for line in out.splitlines())
    assert "shoal: broken: The journal" in err
    assert "mnist_first" in out


def test_a_running_experiment_is_listed_and_shown_as_running_with_its_process(shoal: Shoal, folder: Path) -> None:
    shoal("list")
    held = lock(folder)
    try:
        assert json.loads(shoal("list", "--format", "json")[1])[0]["state"] == "running"
        assert "running by process" in shoal("status", "mnist")[1]
    finally:
        unlock(held)
    assert json.loads(shoal("list", "--format", "json")[1])[0]["state"] == "ended"


def test_an_empty_folder_lists_nothing_and_says_so(shoal: Shoal, tmp_path: Path) -> None:
    code, out, err = shoal("list", str(tmp_path))
    assert (code, out) == (0, "")
    assert "no experiments" in err
    assert shoal("list", str(tmp_path), "--format", "json")[1] == "[]\n"
    assert shoal("list", str(tmp_path / "nowhere"))[0] == 2


def test_names_that_look_like_markup_are_shown_as_they_are(shoal: Shoal, folder: Path) -> None:
    odd = folder.with_name("[red]odd[bold] [link=x]")
    folder.rename(odd)
    for command in ("list", "status"):
        arguments = [command] if command == "list" else [command, "latest"]
        assert "[red]odd[bold] [link=x]" in shoal(*arguments)[1]


def test_csv_has_a_header_and_as_many_cells_in_each_row(shoal: Shoal, folder: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(shoal("list", "--format", "csv")[1])))
    assert rows[0]["name"] == "mnist_first"
    assert None not in rows[0]
    assert float(rows[0]["best_score"]) > 0


# ------------------------------------------------------------------------------------------------------ status and show


def test_status_shows_every_member_and_the_best_one_whole_in_a_pipe(shoal: Shoal, folder: Path) -> None:
    code, out, _ = shoal("status", "mnist")
    assert code == 0
    assert all(f"trial_{index:05d}" in out for index in range(6))
    assert "best  trial_" in out
    assert "…" not in out
    assert "\x1b" not in out


def test_watching_what_has_ended_shows_it_once(shoal: Shoal, folder: Path) -> None:
    code, out, _ = shoal("status", "mnist", "--watch")
    assert code == 0
    assert out.count("best  trial_") == 1


def test_status_shows_as_many_members_as_asked_for_and_counts_the_rest(shoal: Shoal, folder: Path) -> None:
    out = shoal("status", "mnist", "--rows", "2")[1]
    assert "and 4 more" in out


def test_status_for_programs_has_all_trials_whatever_the_table_shows(shoal: Shoal, folder: Path) -> None:
    found = json.loads(shoal("status", "mnist", "--rows", "1", "--format", "json")[1])
    grid = ResultGrid.read(folder)
    assert found["state"] == "ended"
    assert found["best_trial"] == grid.get_best_result().trial_id
    assert [trial["score"] for trial in found["trials"]] == [result.metrics["accuracy"] for result in grid]
    assert [trial["config"] for trial in found["trials"]] == [
        trial.config for trial in Experiment.open(folder).history.in_order()
    ]
    rows = list(csv.DictReader(io.StringIO(shoal("status", "mnist", "--format", "csv")[1])))
    assert [float(row["config/lr"]) for row in rows] == [trial["config"]["lr"] for trial in found["trials"]]
    assert [int(row["iteration"]) for row in rows] == [20] * 6
    assert shoal("status", "mnist", "--watch", "--format", "csv")[0] == 2


def test_show_has_config_exploits_checkpoints_and_the_last_lines_of_the_log(shoal: Shoal, folder: Path) -> None:
    history = Experiment.open(folder).history
    trial = next(trial for trial in history.in_order() if trial.exploits and trial.checkpoints)
    (folder / trial.folder / "output.log").write_text("".join(f"line {n}\x1b[2J\n" for n in range(100)))
    code, out, _ = shoal("show", "mnist", str(trial.index), "--log", "3")
    assert code == 0
    assert repr(trial.config["lr"]) in out
    assert f"(began with {trial.initial_config['lr']!r})" in out
    assert out.endswith("line 97\nline 98\nline 99\n")
    assert all(str(folder / trial.folder / f"checkpoint_{number:06d}") in out for number in trial.checkpoints)
    values = json.loads(shoal("show", "mnist", str(trial.index), "--format", "json", "-n", "2")[1])
    assert values["log"] == ["line 98", "line 99"]
    assert values["config"] == trial.config
    assert len(values["exploits"]) == len(trial.exploits)
    assert all(each["there"] for each in values["checkpoints"])


def test_show_says_of_a_checkpoint_whose_files_are_gone_that_they_are(shoal: Shoal, folder: Path) -> None:
    trial = next(trial for trial in Experiment.open(folder).history.in_order() if trial.checkpoints)
    shutil.rmtree(folder / trial.folder / f"checkpoint_{max(trial.checkpoints):06d}")
    assert f"checkpoint_{max(trial.checkpoints):06d} (gone)" in shoal("show", "mnist", str(trial.index))[1]


# ---------------------------------------------------------------------------------------------------------------- best


@pytest.mark.parametrize("scope", ["last", "all", "avg", "last-5-avg"])
def test_best_is_the_trial_that_the_result_grid_says_with_its_score(shoal: Shoal, folder: Path, scope: str) -> None:
    grid = ResultGrid.read(folder)
    best = grid.get_best_result(metric="loss", mode="min", scope=scope)
    values = json.loads(shoal("best", "mnist", "-m", "loss", "--mode", "min", "--scope", scope, "--format", "json")[1])
    assert values["trial_id"] == best.trial_id
    losses = [row.value("loss") for row in Experiment.open(folder).history.trials[best.trial_id].rows]
    expected = {
        "last": losses[-1], "all": min(losses), "avg": sum(losses) / len(losses), "last-5-avg": sum(losses[-5:]) / 5,
    }  # fmt: skip
    assert values["score"] == expected[scope]
    assert values["config"] == best.config


def test_best_names_the_newest_checkpoint_and_the_best_one(shoal: Shoal, folder: Path) -> None:
    result = ResultGrid.read(folder).get_best_result()
    values = json.loads(shoal("best", "mnist", "--format", "json")[1])
    assert result.checkpoint is not None
    assert values["newest_checkpoint"] == str(result.checkpoint.path)
    assert values["best_checkpoint"] == str(result.get_best_checkpoint("accuracy", "max").path)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [("--metric", "acuracy", "'accuracy'"), ("--mode", "maxx", "'max'"), ("--scope", "lst", "Did you mean 'last'?")],
)
def test_what_best_cannot_know_is_told_in_one_line(
    shoal: Shoal, folder: Path, option: str, value: str, expected: str
) -> None:
    code, out, err = shoal("best", "mnist", option, value)
    assert code == 2
    assert (out, err.count("\n")) == ("", 1)
    assert expected in err


# ------------------------------------------------------------------------------------------------- schedule and lineage


def test_a_schedule_as_python_runs_by_itself_and_is_exact_at_every_step(
    shoal: Shoal, folder: Path, tmp_path: Path
) -> None:
    result = ResultGrid.read(folder).get_best_result()
    path = tmp_path / "schedule.py"
    assert shoal("schedule", "mnist", "--format", "python", "-o", str(path))[0] == 0
    code = (
        "import json, sys; names = {}; exec(open(sys.argv[1]).read(), names); "
        "print(json.dumps([names['config'](step) for step in range(1, names['STEPS'] + 1)]))"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    schedule = result.schedule()
    assert json.loads(run.stdout) == [schedule.at(step) for step in range(1, 21)]


def test_a_schedule_with_numpys_numbers_and_infinities_is_exact_in_every_format(shoal: Shoal, tmp_path: Path) -> None:
    import numpy as np

    def train(config: dict[str, Any], state: Any) -> tuple[dict[str, Any], Any]:
        return {"accuracy": 0.5}, None

    values = [np.float64(0.1) + np.float64(0.2)]
    scheduler = pbt(hyperparam_mutations={"eta": values, "clip": [math.inf], "size": [np.int64(3)]})
    folder = write_experiment(tmp_path / "results" / "np", members=2, steps=2, train=train, scheduler=scheduler)
    best = ResultGrid.read(folder).get_best_result().schedule().changes[0][1]
    assert type(best["eta"]) is np.float64
    for trust in ((), ("--trust",)):
        (first,) = json.loads(shoal("schedule", "np", "-f", "json", *trust)[1])
        assert first["config"]["eta"] == best["eta"] == 0.1 + 0.2
        assert float(first["config"]["clip"]) == math.inf
        (row,) = csv.DictReader(io.StringIO(shoal("schedule", "np", "-f", "csv", *trust)[1]))
        assert (float(row["eta"]), float(row["clip"]), int(row["size"])) == (0.1 + 0.2, math.inf, 3)
        names: dict[str, Any] = {}
        exec(shoal("schedule", "np", "-f", "python", *trust)[1], names)
        assert {key: names["config"](1)[key] for key in best} == dict(best)
    assert "np.float64" not in shoal("schedule", "np")[1]


def test_values_that_python_source_cannot_say_are_told_with_their_key() -> None:
    from shoal.cli.source import schedule_source, source_of
    from shoal.errors import ConfigError
    from shoal.lineage import Schedule

    with pytest.raises(ConfigError, match=r"config\['model/layers/1'\].*object"):
        schedule_source(Schedule(((0, {"model": {"layers": [1, object()]}}),)), "x", "y", 1)
    values: dict[str, Any] = {
        "a": [1, (2.5,), (), None, True], "b": {"c": -0.0, "d": float("inf")}, "é": "'\n\"", "e": b"\0", "f": 1e-320,
    }  # fmt: skip
    back = eval(source_of(values, ""))
    assert back == values
    assert math.copysign(1.0, back["b"]["c"]) == -1.0


def test_a_schedule_as_json_and_csv_is_exact(shoal: Shoal, folder: Path) -> None:
    schedule = ResultGrid.read(folder).get_best_result().schedule()
    values = json.loads(shoal("schedule", "mnist", "--format", "json")[1])
    assert [(each["step"], each["config"]) for each in values] == list(schedule.changes)
    rows = list(csv.DictReader(io.StringIO(shoal("schedule", "mnist", "--format", "csv")[1])))
    assert [float(row["lr"]) for row in rows] == [config["lr"] for _, config in schedule.changes]


def test_a_file_that_cannot_be_written_is_left_as_it_was_and_told_in_one_line(
    shoal: Shoal, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "schedule.json"
    target.write_text("the old one")
    target.chmod(0o640)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", full)
        code, _, err = shoal("schedule", "mnist", "-f", "json", "-o", str(target))
    assert code == 2
    assert err == f"shoal: error: {target} cannot be written: No space left on device.\n"
    assert target.read_text() == "the old one"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert shoal("schedule", "mnist", "-f", "json", "-o", str(target))[0] == 0
    assert json.loads(target.read_text())[0]["step"] == 0
    assert target.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("format", ["json", "csv", "python"])
def test_a_text_that_is_no_unicode_can_be_written_to_a_file(shoal: Shoal, tmp_path: Path, format: str) -> None:
    def odd(config: dict[str, Any], state: Any) -> tuple[dict[str, Any], Any]:
        return {"accuracy": 1.0}, None

    scheduler = pbt(hyperparam_mutations={"file": ["\udc80", "\udc81"]})
    write_experiment(tmp_path / "results" / "odd", members=2, steps=2, train=odd, scheduler=scheduler)
    target = tmp_path / "schedule"
    assert shoal("schedule", "odd", "-f", format, "-o", str(target))[0] == 0
    assert "\\udc8" in target.read_text(encoding="utf-8")


def test_the_lineage_is_that_of_the_result_for_any_trial(shoal: Shoal, folder: Path) -> None:
    for index, result in enumerate(ResultGrid.read(folder)):
        values = json.loads(shoal("lineage", "mnist", "--trial", str(index), "--format", "json")[1])
        assert values == json.loads(result.lineage().to_json())


def test_all_exploits_are_there_with_who_copied_whom_and_what_changed(shoal: Shoal, folder: Path) -> None:
    history = Experiment.open(folder).history
    values = json.loads(shoal("lineage", "mnist", "--all", "--format", "json")[1])
    assert history.exploits
    assert [(each["trial_id"], each["donor_id"], each["new_config"]) for each in values] == [
        (each.trial_id, each.donor_id, each.new_config) for each in history.exploits
    ]
    rows = list(csv.DictReader(io.StringIO(shoal("lineage", "mnist", "--all", "--format", "csv")[1])))
    assert [float(row["score"]) for row in rows] == [each.score for each in history.exploits]
    assert len(shoal("lineage", "mnist", "--all")[1].splitlines()) == len(values) + 1


def test_the_card_says_what_the_report_card_says(shoal: Shoal, folder: Path) -> None:
    from shoal.card import report_card

    made = list(report_card(folder))
    assert [each["text"] for each in json.loads(shoal("card", "mnist", "--format", "json")[1])] == [
        each.text for each in made
    ]
    assert "report card" in shoal("card", "mnist")[1]


# --------------------------------------------------------------------------------------------------------- odd values


def test_values_that_are_no_numbers_are_null_in_json_and_empty_in_csv() -> None:
    from shoal.cli.output import csv_text, plain

    odd = {"nan": math.nan, "inf": -math.inf, "set": {1}, 3: object, "path": Path("x"), "true": True}
    shown = plain(odd)
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    assert (shown["nan"], shown["inf"], shown["set"], shown["path"], shown["true"]) == (None, None, [1], "x", True)
    assert csv_text([{"a": math.nan, "b": [1, None]}]) == 'a,b\n,"[1, null]"\n'


# --------------------------------------------------------------------------------------------------------------- usage


def test_help_tells_all_commands_with_examples_and_the_exit_codes(shoal: Shoal) -> None:
    code, out, _ = shoal("--help")
    assert code == 0
    look, others = "list status show best schedule lineage card plot report dashboard", "run resume replay stop demo"
    commands = [*look.split(), *others.split(), "doctor", "gc"]
    assert all(f" {command} " in out for command in commands)
    assert all(f" {number}  " in out for number in (0, 1, 2, 75, 130))
    for command in commands:
        text = " ".join(shoal(command, "--help")[1].split())
        assert "Examples" in text
        assert f"$ shoal {command}" in text


def test_without_a_command_the_help_is_shown(shoal: Shoal) -> None:
    assert shoal()[1].split() == shoal("--help")[1].split()


def test_the_version_is_that_of_the_package(shoal: Shoal) -> None:
    import shoal as package

    assert shoal("--version")[:2] == (0, f"shoal {package.__version__}\n")


@pytest.mark.parametrize("arguments", [["lst"], ["list", "--fromat", "json"], ["show"], ["list", "-f", "xml"]])
def test_wrong_usage_is_one_line_that_says_where_to_read_on(shoal: Shoal, arguments: list[str]) -> None:
    code, out, err = shoal(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("shoal: error: ")
    assert "--help" in err


def test_the_error_of_a_trial_is_one_line_with_what_was_raised_and_a_bug_keeps_its_traceback() -> None:
    from shoal.cli.errors import told
    from shoal.errors import TrialFailed

    text = "Trial t_0 failed after iteration 3:\nTraceback (most recent call last):\n  ...\nValueError: no\n"
    assert told(TrialFailed(text)) == ("shoal: error: Trial t_0 failed after iteration 3: ValueError: no", 1)
    assert told(ZeroDivisionError("a bug")) == (None, 1)
