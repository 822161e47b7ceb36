"""``pbt_global.txt`` and ``pbt_policy_*.txt``: what replays and people's scripts read."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.core.commands import FallBack
from shoal.history import History
from shoal.sinks import PolicyFiles

from .stories import Story, make_info


@pytest.fixture
def story(tmp_path: Path) -> Story:
    told = Story(tmp_path, PolicyFiles())
    told.add_usual()
    return told


def lines(story: Story, name: str) -> list[Any]:
    return [json.loads(line) for line in (story.folder / name).read_text().splitlines()]


def policy(story: Story, index: int) -> list[Any]:
    return lines(story, f"pbt_policy_{story.name(index)}.txt")


def names(story: Story) -> list[str]:
    return sorted(path.name for path in story.folder.iterdir())


def test_without_an_exploit_there_are_no_files(story: Story) -> None:
    story.report(0, save=True)
    story.close()
    assert names(story) == []


def test_a_line_has_tags_true_iterations_and_both_configs(story: Story) -> None:
    for _ in range(5):
        story.report(1, save=True)
    for _ in range(2):
        story.report(1)  # the donor trains on; its checkpoint is of iteration 5
    for _ in range(10):
        story.report(0)
    story.exploit(0, 1, lr=0.2434)
    expected = [
        "0_lr=0.1,momentum=0.9",
        "1_lr=0.2,momentum=0.9",
        10,
        5,
        {"lr": 0.2, "momentum": 0.9, "checkpoint_interval": 5},
        {"lr": 0.2434, "momentum": 0.9, "checkpoint_interval": 5},
    ]
    assert lines(story, "pbt_global.txt") == [expected]
    assert policy(story, 0) == [expected]
    assert names(story) == ["pbt_global.txt", "pbt_policy_40bd6_00000.txt"]


def test_lines_look_as_ray_tune_writes_them(story: Story) -> None:
    story.report(1, save=True)
    story.report(0)
    story.exploit(0, 1, lr=0.2434)
    assert (story.folder / "pbt_global.txt").read_text() == (
        '["0_lr=0.1,momentum=0.9", "1_lr=0.2,momentum=0.9", 1, 1, '
        '{"lr": 0.2, "momentum": 0.9, "checkpoint_interval": 5}, '
        '{"lr": 0.2434, "momentum": 0.9, "checkpoint_interval": 5}]\n'
    )


def test_a_policy_file_is_the_ancestry_of_the_weights(story: Story) -> None:
    for index in range(4):
        story.report(index, save=True)
    story.exploit(0, 1, lr=0.5)
    story.report(0, save=True, iteration=2)
    story.exploit(2, 3, lr=0.6)
    story.report(2, iteration=2)
    story.exploit(2, 0, lr=0.7)
    first, second, third = lines(story, "pbt_global.txt")
    assert policy(story, 0) == [first]
    assert policy(story, 2) == [first, third]  # its own earlier line is gone, with those weights
    assert second[0].startswith("2_")
    assert not (story.folder / "pbt_policy_40bd6_00001.txt").exists()


def test_a_policy_file_can_be_replayed_from_its_first_line_on(story: Story) -> None:
    for index in range(3):
        story.report(index, save=True)
    for step in range(2, 9):
        target, donor = step % 3, (step + 1) % 3
        story.exploit(target, donor, lr=step / 10)
        story.report(target, save=True, iteration=step)
    for index in range(3):
        schedule = policy(story, index)
        iterations = [line[3] for line in schedule]
        assert iterations == sorted(iterations)
        for before, after in itertools.pairwise(schedule):
            assert after[4] == before[5]
        assert schedule[-1][5] == story.history.trials[story.name(index)].config


def test_tags_are_those_of_the_first_sample_however_often_a_config_changes(story: Story) -> None:
    story.report(0, save=True)
    story.report(1)
    for step in range(3):
        story.exploit(1, 0, lr=step)
        story.report(1, iteration=2)
    assert {tuple(line[:2]) for line in lines(story, "pbt_global.txt")} == {
        ("1_lr=0.2,momentum=0.9", "0_lr=0.1,momentum=0.9")
    }


def test_values_that_json_cannot_hold_are_numbers_or_text(story: Story) -> None:
    story.report(1, save=True)
    story.report(0)
    story.exploit(0, 1, lr=np.float64(0.3), data=Path("/data"), n=np.int64(2))
    assert policy(story, 0)[0][5] == {
        "lr": 0.3,
        "momentum": 0.9,
        "checkpoint_interval": 5,
        "data": "/data",
        "n": 2,
    }


def test_a_scheduler_that_logs_no_policies_has_no_files(tmp_path: Path) -> None:
    story = Story(tmp_path, PolicyFiles(), info=make_info(logs_policies=False))
    story.add_usual()
    story.report(1, save=True)
    story.report(0)
    story.exploit(0, 1)
    story.close()
    assert names(story) == []


def test_a_restored_experiment_keeps_earlier_lines_and_goes_on(story: Story) -> None:
    story.report(1, save=True)
    story.report(0)
    story.exploit(0, 1, lr=0.5)
    story.close()
    before = {name: (story.folder / name).read_text() for name in names(story)}
    (story.folder / "pbt_global.txt").write_text("torn")
    (story.folder / "pbt_policy_40bd6_00000.txt").unlink()
    again = PolicyFiles()
    again.start(story.info, story.folder, History.of(story.journal.read()))
    assert {name: (story.folder / name).read_text() for name in names(story)} == before
    again.close()


def test_two_exploits_in_a_row_of_one_batch_are_both_there(story: Story) -> None:
    for index in range(4):
        story.report(index, save=True)
    sink = story.readers[0]
    story.readers = ()
    exploits = [story.exploit(0, 1, lr=0.5), story.exploit(2, 3, lr=0.6)]
    story.readers = (sink,)
    for record in story.journal.read():
        if record.item in exploits:
            sink.take(record)
    sink.flush()
    assert [line[5]["lr"] for line in lines(story, "pbt_global.txt")] == [0.5, 0.6]
    sink.close()


def test_a_member_that_falls_back_behind_all_of_its_exploits_has_no_policy_any_more(story: Story) -> None:
    story.report(1, save=True)
    own = story.saved[story.name(1)]
    story.report(0, save=True)
    story.exploit(1, 0, lr=0.6)
    assert len(policy(story, 1)) == 1
    story.tell(FallBack(story.name(1), 2, story.saved[story.name(0)].id, own, "its bytes have changed"))
    story.launch(1, checkpoint=own)
    assert names(story) == ["pbt_global.txt"]
