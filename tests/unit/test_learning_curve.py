"""The learning curve of a result: the steps that made its weights, whoever trained them, each once."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.journal.codec import Record
from shoal.results import Result

from .stories import Story


@pytest.fixture
def story(tmp_path: Path) -> Story:
    told = Story(tmp_path)
    told.add_usual()
    return told


def result(story: Story, index: int) -> Result:
    return Result(story.history.trials[story.name(index)], story.history, story.folder)


def curve(story: Story, index: int) -> list[tuple[int, int, int, float]]:
    frame = result(story, index).learning_curve()
    columns = ("training_iteration", "trial", "generation", "mean_accuracy")
    return list(zip(*(frame[name].tolist() for name in columns), strict=True))


def test_the_learning_curve_has_the_donors_steps_and_then_the_own_ones(story: Story) -> None:
    for index, scores in ((1, (0.1, 0.2)), (0, (0.01, 0.02, 0.03))):
        for score in scores:
            story.report(index, {"mean_accuracy": score}, save=True)
    story.exploit(0, 1, lr=0.5)
    story.report(1, {"mean_accuracy": 0.25})
    story.report(0, {"mean_accuracy": 0.3}, iteration=3, save=True)
    story.exploit(2, 0, lr=0.6)
    story.report(2, {"mean_accuracy": 0.4}, iteration=4)
    assert curve(story, 0) == [(1, 1, 0, 0.1), (2, 1, 0, 0.2), (3, 0, 1, 0.3)]
    assert curve(story, 1) == [(1, 1, 0, 0.1), (2, 1, 0, 0.2), (3, 1, 0, 0.25)]
    assert curve(story, 2) == [*curve(story, 0), (4, 2, 1, 0.4)]
    frame = result(story, 2).learning_curve()
    assert frame["trial_id"].tolist() == [story.name(index) for index in (1, 1, 0, 2)]
    assert frame["config/lr"].tolist() == [0.2, 0.2, 0.5, 0.6]


def test_steps_that_were_copied_stay_on_the_curve_of_the_copy_when_their_donor_has_to_train_them_again(
    story: Story,
) -> None:
    story.report(1, {"mean_accuracy": 0.1}, save=True)
    older = story.saved[story.name(1)]
    story.report(1, {"mean_accuracy": 0.2}, save=True)
    story.exploit(0, 1)
    story.report(0, {"mean_accuracy": 0.3}, iteration=3)
    story.launch(1, 1, older)  # its newest checkpoint is damaged
    story.report(1, {"mean_accuracy": 0.7}, iteration=2)
    assert curve(story, 0) == [(1, 1, 0, 0.1), (2, 1, 0, 0.2), (3, 0, 1, 0.3)]
    assert curve(story, 1) == [(1, 1, 0, 0.1), (2, 1, 0, 0.7)]
    frame = result(story, 1).metrics_dataframe
    assert frame is not None
    assert frame["mean_accuracy"].tolist() == [0.1, 0.7]


def test_a_trial_without_a_result_has_an_empty_learning_curve(story: Story) -> None:
    assert result(story, 0).learning_curve().empty


def test_a_curve_of_a_hundred_thousand_steps_can_be_followed_and_forgotten(story: Story) -> None:
    for step in range(1, 100_001):
        story.history.add(Record(step, 0.0, story.reported(0, iteration=step)))
    trial = story.history.trials[story.name(0)]
    assert trial.last is not None
    assert [row.report.iteration for row in trial.last.steps()] == list(range(1, 100_001))
    story.history.forget_rows()
    assert trial.last.steps() == [trial.last]
