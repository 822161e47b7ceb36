"""Plots where members begin anew, checkpoints are damaged, members are kept out, values are huge or diverge."""

from __future__ import annotations

import json
import math
import random
import statistics
from itertools import pairwise
from pathlib import Path

import matplotlib.colors
import pytest
from tests.simulated import pbt, write_experiment
from tests.unit.pictured import pictured, simulated, without_copies
from tests.unit.stories import Story, make_info

import shoal.plots
from shoal.cli import main
from shoal.core.commands import Launch, Status
from shoal.core.events import Opened, Started
from shoal.core.limits import Limits, RetentionRules
from shoal.errors import ConfigError, ResultError
from shoal.plots import PLOTS
from shoal.plots.choose import axis_of, owner_colours
from shoal.plots.families import Spread
from shoal.plots.info import Ancestry, Line, Member, Stretch, ancestry, learning_curves, schedules
from shoal.plots.lanes import score_scale
from shoal.plots.population import diversity, gains
from shoal.plots.style import DARK, LIGHT
from shoal.plots.tree import lineage_tree
from shoal.reading import Experiment


def reports(story: Story, index: int, *scores: float, save: bool = False) -> None:
    for place, score in enumerate(scores):
        story.now += 1.0
        origin = story.history.trials[story.name(index)].origin
        step = 1 if origin is None else origin.report.iteration + 1
        story.report(index, {"mean_accuracy": score}, save=save and place + 1 == len(scores), iteration=step)


def copy(story: Story, target: int, donor: int, until: float) -> None:
    """Let a member copy another, and be launched up to its next boundary."""
    story.now += 1.0
    item = story.exploit(target, donor, lr=0.7)
    trial = story.history.trials[item.trial_id]
    number = trial.launches + 1
    story.tell(
        Launch(
            trial.trial_id, number, 0, trial.config, item.checkpoint, item.checkpoint.iteration, 0.0, 0, until, True,
            item.generation,
        ),
        Started(trial.trial_id, number, 1, "host"),
    )  # fmt: skip


def begin_anew(story: Story, index: int) -> None:
    story.fail(index, ValueError("x"))
    story.now += 5.0
    story.tell(Opened(Limits(("", "")), RetentionRules(), anew=(story.name(index),)))
    story.launch(index)


def anew(folder: Path, *, results: bool = True, again: bool = False) -> Experiment:
    """Return three members, of which the second copies the first, then begins anew; then the third may copy it."""
    story = Story(folder)
    story.add_usual(3)
    reports(story, 0, 0.5, 0.6, save=True)
    reports(story, 1, 0.1, 0.2)
    reports(story, 2, 0.15)
    copy(story, 1, 0, until=4.0)
    reports(story, 1, 0.65)
    begin_anew(story, 1)
    if results:
        reports(story, 1, 0.05, 0.06, 0.07, 0.08, save=True)
    reports(story, 0, 0.7, 0.8)
    if again:
        copy(story, 2, 1, until=6.0)
        reports(story, 2, 0.3)
    return pictured(story)


def test_a_member_that_begins_anew_has_its_own_curve_and_no_copy(tmp_path: Path) -> None:
    for x in ("training_iteration", "time"):
        curve = learning_curves(anew(tmp_path / x), x=x).curves[1]
        assert [line.y for line in curve.lines] == [(0.05, 0.06, 0.07, 0.08)]
        assert (curve.copies, curve.donors) == ((), ())
    (rate,) = schedules(anew(tmp_path / "s"), ["lr"]).parameters
    assert [(line.x, line.y) for line in rate.curves[1].lines] == [((0, 4), (0.2, 0.2))]
    assert rate.curves[1].donors == ()


def test_the_branch_of_a_member_that_begins_anew_is_a_root(tmp_path: Path) -> None:
    branches = {branch.id: branch for branch in lineage_tree(anew(tmp_path, again=True)).branches}
    root = branches[1, 1]
    assert (root.parent, root.parent_x, root.copied) == (None, None, None)
    assert (root.x, root.scores) == ((0, 1, 2, 3, 4), (None, 0.05, 0.06, 0.07, 0.08))
    assert root.config["lr"] == 0.2
    assert (branches[2, 1].parent, branches[2, 1].x) == ((1, 1), (4, 5))
    for branch in lineage_tree(anew(tmp_path / "t"), x="time").branches:
        assert list(branch.x) == sorted(branch.x)
    silent = {branch.id: branch for branch in lineage_tree(anew(tmp_path / "u", results=False)).branches}
    assert (silent[1, 1].parent, silent[1, 1].x, silent[1, 1].present) == (None, (0,), True)


def test_who_begins_anew_is_a_founder_again_with_its_first_config(tmp_path: Path) -> None:
    begin = statistics.pstdev([0.1, 0.2, 0.3])
    for results in (True, False):
        found = diversity(anew(tmp_path / str(results), results=results), x="time")
        assert found.shares[:3] == ((1, 1, 1), (2, 0, 1), (1, 1, 1))
        assert found.shares[-1] == (1, 1, 1)
        assert found.spread["lr"][1] == pytest.approx(statistics.pstdev([0.1, 0.7, 0.3]) / begin)
        assert found.spread["lr"][-1] == pytest.approx(1.0)
    found = diversity(anew(tmp_path / "again", again=True), x="time")
    assert [shares for place, shares in enumerate(found.shares) if not place or shares != found.shares[place - 1]] == [
        (1, 1, 1), (2, 0, 1), (1, 1, 1), (1, 2, 0),
    ]  # fmt: skip
    assert (found.takeover, found.fixation) == (len(found.x) - 2, None)


def test_what_a_member_came_to_from_scratch_is_no_gain_of_a_copy(tmp_path: Path) -> None:
    (gain,) = gains(anew(tmp_path)).gains
    assert (gain.before, gain.copied, gain.after, gain.donor_after) == (0.2, 0.6, None, None)


def test_what_a_donor_came_to_from_scratch_is_not_compared_with_its_copy(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.add_usual(2)
    reports(story, 0, 0.5, 0.6, save=True)
    reports(story, 1, 0.1, 0.2)
    copy(story, 1, 0, until=4.0)
    begin_anew(story, 0)
    reports(story, 0, 0.3, 0.4, 0.5, 0.55)
    reports(story, 1, 0.65, 0.75)
    (gain,) = gains(pictured(story)).gains
    assert (gain.after, gain.donor_after) == (0.75, None)


def damaged(folder: Path) -> Experiment:
    """Return two members; the second copies the first, whose checkpoint is damaged, and goes on from its own."""
    story = Story(folder)
    story.add_usual(3)
    reports(story, 0, 0.5, 0.6, 0.7, save=True)
    reports(story, 1, 0.1, save=True)
    own = story.saved[story.name(1)]
    reports(story, 1, 0.2)
    copy(story, 1, 0, until=5.0)
    story.launch(1, own.iteration, own)
    for step in (2, 3, 4, 5):
        story.report(1, {"mean_accuracy": 0.2 + step / 100}, iteration=step)
    return pictured(story)


def test_a_branch_begins_where_its_weights_did_when_the_donors_checkpoint_is_damaged(tmp_path: Path) -> None:
    experiment = damaged(tmp_path)
    branches = {branch.id: branch for branch in lineage_tree(experiment).branches}
    assert (branches[1, 1].parent, branches[1, 1].parent_x, branches[1, 1].copied) == ((1, 0), 1, None)
    assert branches[1, 1].x == (1, 2, 3, 4, 5)
    curve = learning_curves(experiment).curves[1]
    assert curve.lines[1].x == (1, 2, 3, 4, 5)
    assert curve.copies == ()
    assert diversity(experiment).shares[-1] == (1, 1, 1)
    (gain,) = gains(experiment).gains
    assert (gain.after, gain.donor_after) == (None, None)


def test_controls_are_neither_founders_nor_in_the_spread(tmp_path: Path) -> None:
    experiment = simulated(tmp_path / "run", members=8, steps=30, control=[1, 4])
    control = set(experiment.info.control)
    assert len(control) == 2
    found = diversity(experiment)
    assert [member.index for member in found.founders] == [index for index in range(8) if index not in control]
    assert all(sum(shares) == 6 for shares in found.shares)
    taking_part = [trial for trial in experiment.history.in_order() if trial.index not in control]
    begin, now = (
        statistics.pstdev([math.log(config["lr"]) for config in configs])
        for configs in ([trial.initial_config for trial in taking_part], [trial.config for trial in taking_part])
    )
    assert found.spread["lr"][-1] == pytest.approx(now / begin)


def test_there_is_one_entry_for_each_place_on_the_axis_and_never_very_many(tmp_path: Path) -> None:
    experiment = simulated(tmp_path / "run", members=30, steps=60, scheduler=pbt(perturbation_interval=2))
    assert len(experiment.history.exploits) > 80
    found = diversity(experiment)
    assert len(set(found.x)) == len(found.x) <= 61
    over_time = diversity(experiment, x="time")
    assert over_time.shares[-1] == found.shares[-1]
    assert over_time.donors[-1] == pytest.approx(found.donors[-1])


def test_of_very_many_entries_some_are_kept_and_those_that_matter_are_among_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = simulated(tmp_path / "run", members=12, steps=60, scheduler=pbt(perturbation_interval=2))
    whole = diversity(experiment, x="time")
    monkeypatch.setattr("shoal.plots.population._ENTRIES", 5)
    some = diversity(experiment, x="time")
    assert 5 <= len(some.x) <= 7
    assert whole.takeover is not None
    assert some.takeover is not None
    assert some.x[some.takeover] == whole.x[whole.takeover]
    places = [whole.x.index(at) for at in some.x]
    assert (places[0], places[-1]) == (0, len(whole.x) - 1)
    assert some.shares == tuple(whole.shares[place] for place in places)
    assert some.effective == tuple(whole.effective[place] for place in places)


def test_the_spread_follows_each_change_exactly() -> None:
    rng = random.Random(3)
    values = [rng.uniform(-5, 5) for _ in range(9)]
    spread = Spread(values)
    begin = statistics.pstdev(values)
    for step in range(400):
        place = rng.randrange(9)
        values[place] = values[rng.randrange(9)] + rng.uniform(-1, 1) * 0.9**step
        spread.replace(place, values[place])
        assert spread.now == pytest.approx(statistics.pstdev(values) / begin, rel=1e-9, abs=1e-15)
    for place in range(9):
        spread.replace(place, 0.1)
    assert spread.now == 0.0
    spread.replace(2, None)
    assert spread.now is None


def test_hyperparameters_may_be_as_large_as_numbers_can_be(tmp_path: Path) -> None:
    spread = Spread([1.7e308, -1.7e308])
    assert spread.now == pytest.approx(1.0)
    spread.replace(0, -1.7e308)
    assert spread.now == 0.0
    assert Spread([1e-308, 2e-308]).now == pytest.approx(1.0)
    grown = Spread([1e-308, 2e-308])
    grown.replace(0, 1.7e308)
    assert grown.now is None
    story = Story(tmp_path, info=make_info(parameters=["lr"]))
    story.add(*({"lr": value} for value in (1.7e308, -1.7e308, 1e200)))
    for index in range(3):
        story.launch(index)
        reports(story, index, 0.1 * index, save=True)
    copy(story, 0, 2, until=4.0)
    reports(story, 0, 0.3)
    experiment = pictured(story)
    assert diversity(experiment).spread["lr"][-1] is not None


# --------------------------------------------------------------------------------------------- what is asked for, drawn


def scored(folder: Path, scores: list[list[float]], other: list[list[float]] | None = None) -> Experiment:
    """Return members with these scores, a list for each; the first has copied the last in the middle."""
    story = Story(folder)
    story.add_usual(len(scores))
    middle = len(scores[0]) // 2
    for step in range(len(scores[0])):
        if step == middle:
            copy(story, 0, len(scores) - 1, until=middle + 2)
        for index, own in enumerate(scores):
            more = {} if other is None else {"loss": other[index][step]}
            story.report(index, {"mean_accuracy": own[step], **more}, save=True, iteration=step + 1)
    return pictured(story)


@pytest.mark.parametrize("largest", [1.7e308, 1e306, 1e200, 1e155])
@pytest.mark.parametrize("sign", [1, -1])
def test_scores_as_large_as_numbers_can_be_are_drawn(tmp_path: Path, largest: float, sign: int) -> None:
    scores = [[largest / (1 + index + step / 9) * (sign if step % 2 else 1) for step in range(9)] for index in range(4)]
    experiment = scored(tmp_path, scores)
    for plot in PLOTS.values():
        info = plot.info(experiment)
        plot.figure(info).draw_without_rendering()
        json.dumps(plot.spec(info), allow_nan=False)


@pytest.mark.parametrize("name", ["diversity", "gains"])
def test_an_x_axis_that_there_is_not_is_refused(tmp_path: Path, name: str) -> None:
    experiment = simulated(tmp_path / "run", members=4, steps=15)
    with pytest.raises(
        ConfigError, match=r"x must be 'training_iteration' or 'time', but is 'tme'\. Did you mean 'time'"
    ):
        PLOTS[name].info(experiment, x="tme")
    with pytest.raises(ConfigError, match="but is 'loss'"):
        PLOTS[name].info(experiment, x="loss")


def test_a_lineage_of_what_nobody_reported_is_refused(tmp_path: Path) -> None:
    experiment = simulated(tmp_path / "run", members=4, steps=15)
    with pytest.raises(ResultError, match=r"number called 'accurcy'\. Did you mean 'accuracy'\?"):
        lineage_tree(experiment, "accurcy")
    with pytest.raises(ResultError, match="number called 'epoch'"):
        lineage_tree(experiment, x="epoch")


def test_of_another_metric_nobody_is_best_unless_one_says_what_is_better(tmp_path: Path) -> None:
    experiment = simulated(tmp_path / "run", members=6, steps=25)
    losses = [trial.value("loss") for trial in experiment.history.in_order()]
    for name in ("learning-curves", "lineage"):
        plot = PLOTS[name]
        unsaid = plot.info(experiment, metric="loss")
        assert (unsaid.best, unsaid.mode) == (None, None)
        heading = plot.spec(unsaid)["layout"]["meta"]
        assert "best" not in heading["title"] + heading["note"]
        assert LIGHT.winner not in json.dumps(plot.spec(unsaid))
        plot.figure(unsaid).draw_without_rendering()
        said = plot.info(experiment, metric="loss", mode="min")
        best = losses.index(min(losses))
        assert said.best == best
        assert f"member {best}" in plot.spec(said)["layout"]["meta"]["title"]
    own = PLOTS["learning-curves"].info(experiment, metric="accuracy")
    assert (own.best, own.mode) == (PLOTS["learning-curves"].info(experiment).best, "max")
    assert ancestry(experiment, "loss", mode="min").member.index == losses.index(min(losses))
    experiment_best = experiment.best
    assert experiment_best is not None
    assert ancestry(experiment, "loss").member.index == experiment_best.index


def test_a_mode_that_there_is_not_is_refused(tmp_path: Path) -> None:
    experiment = simulated(tmp_path / "run", members=3, steps=10)
    for name in ("learning-curves", "lineage", "ancestry"):
        with pytest.raises(ConfigError, match=r"mode must be 'max' or 'min', but is 'maxx'\. Did you mean 'max'"):
            PLOTS[name].info(experiment, mode="maxx")
    assert shoal.plots.plot_lineage(experiment, "loss", mode="min") is not None


def test_without_a_better_the_colours_of_a_lineage_follow_the_numbers(tmp_path: Path) -> None:
    scale = score_scale(lineage_tree(simulated(tmp_path / "run", members=6, steps=25), "loss"))
    assert scale is not None
    assert scale.colours(LIGHT) == LIGHT.neutral
    assert scale.part(scale.low) == 0
    assert scale.part(scale.high) == 1


@pytest.mark.parametrize("diverging", [1, 3, 6])
def test_losses_that_diverge_leave_the_others_readable(tmp_path: Path, diverging: int) -> None:
    def loss(index: int, step: int) -> float:
        falling = 2.0 * 0.9**step + 0.01 * index
        return falling * 4.0 ** max(0, step - 12) if index < diverging else falling

    scores = [[loss(index, step) for step in range(60)] for index in range(10)]
    info = learning_curves(scored(tmp_path, scores), mode="min")
    low, high, outside = axis_of(info)
    assert -5 < low < 0.01
    assert 2.0 < high < 100.0
    assert outside > 10 * diverging
    tree = lineage_tree(scored(tmp_path / "2", scores), mode="min")
    scale = score_scale(tree)
    assert scale is not None
    assert scale.high < 1e4
    assert "outside of the axis" in PLOTS["learning-curves"].spec(info)["layout"]["meta"]["note"]


def test_a_schedule_over_time_holds_its_value_while_nobody_trains(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.add_usual(2)
    reports(story, 0, 0.5, 0.6, save=True)
    reports(story, 1, 0.1, 0.2)
    story.now += 100.0
    copy(story, 1, 0, until=4.0)
    reports(story, 1, 0.7, 0.8)
    (rate,) = schedules(pictured(story), ["lr"], "time").parameters
    assert rate.winner.y == (0.1, 0.1, 0.7, 0.7)
    (_, held, begun, _) = rate.winner.x
    assert held == begun > 100
    assert len(rate.winner.x) == 4


def test_copies_that_have_not_come_to_their_boundary_never_will_where_the_run_has_ended(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.add_usual(3)
    for index in range(3):
        reports(story, index, 0.1 * (index + 1), 0.1 * (index + 1) + 0.01, save=True)
    copy(story, 0, 2, until=3.0)
    reports(story, 0, 0.5)
    copy(story, 1, 2, until=9.0)
    reports(story, 1, 0.6)
    plot = PLOTS["gains"]
    running = plot.info(pictured(story))
    assert not running.ended
    assert "1 not known yet" in plot.spec(running)["layout"]["meta"]["note"]
    for index in range(3):
        story.finish(index)
    ended = plot.info(pictured(story))
    assert ended.ended
    assert "1 never came there" in plot.spec(ended)["layout"]["meta"]["note"]


def test_members_that_trained_one_after_the_other_have_different_colours() -> None:
    rng = random.Random(1)
    members = [Member(index, str(index), str(index), Status.RUNNING, 0.5) for index in range(60)]
    order = [rng.randrange(60) for _ in range(80)]
    path = [index for place, index in enumerate(order) if not place or index != order[place - 1]]
    stretches = tuple(Stretch(members[index], 0, Line((float(place),), (0.5,))) for place, index in enumerate(path))
    info = Ancestry("run", "accuracy", "max", "iteration", "training_iteration", members[path[-1]], stretches)
    for theme in (LIGHT, DARK):
        colours = owner_colours(info, theme)
        assert all(colours[one] != colours[other] for one, other in pairwise(path))
        assert colours[path[-1]] == theme.winner


def test_a_picture_of_very_many_members_is_no_higher_than_a_few_screens(tmp_path: Path) -> None:
    experiment = without_copies(tmp_path, members=900, steps=1)
    for name in ("lineage", "times"):
        plot = PLOTS[name]
        info = plot.info(experiment)
        assert plot.figure(info).get_size_inches()[1] < 25
        assert plot.spec(info)["layout"]["height"] < 2500


def test_an_axis_of_iterations_has_whole_ticks_however_short_it_is(tmp_path: Path) -> None:
    for steps in (1, 2, 4):
        experiment = without_copies(tmp_path / str(steps), members=2, steps=steps)
        for name in ("learning-curves", "lineage", "schedules", "ancestry", "diversity"):
            plot = PLOTS[name]
            info = plot.info(experiment)
            axes = plot.figure(info).axes[0]
            low, high = axes.get_xlim()
            ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
            assert ticks
            assert all(tick == round(tick) for tick in ticks)
            spec = plot.spec(info)["layout"]["xaxis"]
            if spec["range"][1] - spec["range"][0] < 4:
                assert spec["dtick"] == 1


def test_large_numbers_stand_at_their_ticks_and_not_beside_the_axis(tmp_path: Path) -> None:
    figure = PLOTS["gains"].figure(PLOTS["gains"].info(scored(tmp_path, [[1e30 * step for step in range(1, 9)]] * 3)))
    figure.draw_without_rendering()
    for axes in figure.axes:
        assert axes.yaxis.get_offset_text().get_text() == ""
    assert any("e" in label.get_text() for label in figure.axes[0].get_yticklabels())


def test_the_legend_shows_the_marks_that_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = PLOTS["gains"].info(simulated(tmp_path / "run", members=8, steps=40))
    for most in (1000, 1):
        monkeypatch.setattr("shoal.plots.figures_population.MANY_GAINS", most)
        axes = PLOTS["gains"].figure(info).axes[0]
        legend = axes.get_legend()
        assert legend is not None
        handle = legend.legend_handles[0]
        hollow = matplotlib.colors.to_hex(handle.get_markerfacecolor()) == LIGHT.background  # type: ignore[union-attr]
        assert hollow == (most == 1000)


def test_all_plots_over_a_key_are_drawn_but_those_that_have_no_such_axis(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_experiment(tmp_path / "run", members=4, steps=15)
    assert main(["plot", str(folder), "--x", "loss", "--format", "json"]) == 0
    out, err = capsys.readouterr()
    drawn = [Path(line).stem for line in out.splitlines()]
    assert drawn == ["learning-curves", "lineage", "schedules", "ancestry", "times"]
    assert [line.split(":")[1].strip() for line in err.splitlines()] == ["diversity", "gains"]
