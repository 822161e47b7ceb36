"""Stage one of the plots, recomputed here in another way."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import pytest
from tests.simulated import pbt
from tests.unit.pictured import known, odd, simulated, without_copies

from shoal.core.commands import Status
from shoal.core.reports import lookup
from shoal.errors import ConfigError, ResultError
from shoal.plots.info import ancestry, learning_curves, schedules
from shoal.plots.population import diversity, gains, times
from shoal.plots.tree import lineage_tree
from shoal.reading import Experiment

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module", params=[(seed, synch) for seed in SEEDS for synch in (False, True)], ids=str)
def experiment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    seed, synch = request.param
    folder = tmp_path_factory.mktemp("plots") / "run"
    return simulated(folder, members=7, steps=30, seed=seed, scheduler=pbt(synch=synch))


# ----------------------------------------------------------------------------------------------------- known stories


def test_a_curve_that_was_copied_begins_at_the_donors_result(tmp_path: Path) -> None:
    curves = learning_curves(known(tmp_path))
    second = curves.curves[1]
    assert [(line.x, line.y) for line in second.lines] == [((1, 2), (0.1, 0.2)), ((2, 3, 4), (0.6, 0.65, 0.75))]
    assert second.copies == ((2, 0.6),)
    assert second.donors == (0,)
    assert curves.best == 2
    assert curves.curves[2].last == (5, 0.9)


def test_the_ancestry_has_the_steps_of_all_donors(tmp_path: Path) -> None:
    found = ancestry(known(tmp_path))
    assert [(each.member.index, each.generation, each.line.x, each.line.y) for each in found.stretches] == [
        (0, 0, (1, 2), (0.5, 0.6)),
        (1, 1, (3, 4), (0.65, 0.75)),
        (2, 1, (5,), (0.9,)),
    ]


def test_the_winners_schedule_goes_through_its_donors_and_has_both_ends_of_each_value(tmp_path: Path) -> None:
    (rate,) = schedules(known(tmp_path), ["lr"]).parameters
    assert rate.winner.x == (0, 2, 2, 4, 4, 5)
    assert rate.winner.y == (0.1, 0.1, 0.4, 0.4, 0.5, 0.5)
    assert [(line.x, line.y) for line in rate.curves[2].lines] == [((0, 4), (0.3, 0.3)), ((4, 5), (0.5, 0.5))]


def test_the_tree_says_who_was_copied_where_and_marks_the_winners_path(tmp_path: Path) -> None:
    tree = lineage_tree(known(tmp_path))
    copies = {branch.id: (branch.parent, branch.parent_x, branch.x, branch.scores) for branch in tree.branches}
    assert copies[1, 1] == ((0, 0), 2, (2, 3, 4), (0.6, 0.65, 0.75))
    assert copies[2, 1] == ((1, 1), 4, (4, 5), (0.75, 0.9))
    assert [(step.branch, step.begin, step.end) for step in tree.path] == [
        ((0, 0), 0, 2),
        ((1, 1), 2, 4),
        ((2, 1), 4, 5),
    ]


def test_founders_shares_follow_each_copy(tmp_path: Path) -> None:
    found = diversity(known(tmp_path))
    assert found.shares == ((1, 1, 1), (2, 0, 1), (3, 0, 0), (3, 0, 0))
    assert found.effective == pytest.approx((3, 9 / 5, 1, 1))
    assert (found.takeover, found.fixation) == (1, 2)
    assert found.x == (0, 2, 4, 5)
    begin = statistics.pstdev([0.1, 0.2, 0.3])
    now = [1.0, statistics.pstdev([0.1, 0.4, 0.3]) / begin, statistics.pstdev([0.1, 0.4, 0.5]) / begin]
    assert found.spread["lr"] == pytest.approx((*now, now[-1]))
    assert found.spread["momentum"] == (None, None, None, None)  # all had the same from the beginning


def test_without_copies_the_population_stays_as_it_was(tmp_path: Path) -> None:
    found = diversity(without_copies(tmp_path, members=3))
    assert found.shares == ((1, 1, 1), (1, 1, 1))
    assert found.x == (0, 4)
    assert (found.takeover, found.fixation) == (None, None)
    assert gains(without_copies(tmp_path / "other", members=3)).gains == ()


def test_scores_that_are_none_are_gaps(tmp_path: Path) -> None:
    found = learning_curves(odd(tmp_path))
    assert list(found.curves[1].lines[0].y) == pytest.approx([0.1, 0.11, None, None, 0.14])
    assert lineage_tree(odd(tmp_path / "2")).branches[0].scores[3] is None
    assert found.curves[2].member.status is Status.ERROR


# --------------------------------------------------------------------------------------------- recomputed, simulations


def test_every_curve_has_all_results_that_count(experiment: Experiment) -> None:
    for curve, trial in zip(learning_curves(experiment).curves, experiment.history.in_order(), strict=True):
        own = [
            (x, y)
            for place, line in enumerate(curve.lines)
            for x, y in list(zip(line.x, line.y, strict=True))[place > 0 :]
        ]
        assert own == [(row.report.iteration, row.value("accuracy")) for row in trial.rows]
        copied = [(exploit.checkpoint.iteration, exploit.checkpoint.score) for exploit in trial.exploits]
        assert curve.copies == tuple(copied)[: len(curve.copies)]


def test_the_ancestry_is_that_of_the_results(experiment: Experiment) -> None:
    for trial in experiment.history.in_order():
        assert trial.last is not None
        found = ancestry(experiment, trial_id=trial.trial_id)
        points = [pair for each in found.stretches for pair in zip(each.line.x, each.line.y, strict=True)]
        assert points == [(row.report.iteration, row.value("accuracy")) for row in trial.last.steps()]
        assert [x for x, _ in points] == list(range(1, trial.iteration + 1))


def test_the_path_of_the_tree_is_the_ancestry(experiment: Experiment) -> None:
    stretches = ancestry(experiment).stretches
    path = lineage_tree(experiment).path
    assert [step.branch for step in path] == [(each.member.index, each.generation) for each in stretches]
    assert [step.end for step in path] == [each.line.x[-1] for each in stretches]


def test_a_branch_begins_where_its_donors_weights_were(experiment: Experiment) -> None:
    branches = {branch.id: branch for branch in lineage_tree(experiment).branches}
    for branch in branches.values():
        if branch.parent is None:
            continue
        parent = branches[branch.parent]
        assert branch.parent_x in parent.x
        assert branch.scores[0] == parent.scores[parent.x.index(branch.parent_x)]
        first = next(
            (
                row
                for row in experiment.history.trials[branch.member.trial_id].rows
                if row.generation == branch.generation
            ),
            None,
        )
        if first is not None:
            assert first.before is not None
            owner = experiment.history.trials[first.before.report.trial_id]
            assert (owner.index, first.before.generation) == branch.parent


def test_founders_are_those_that_lineages_begin_with(experiment: Experiment) -> None:
    trials = experiment.history.in_order()
    final = diversity(experiment).shares[-1]
    counts = [0] * len(trials)
    for trial in trials:
        founder = trial.trial_id
        generation = len(trial.exploits)
        order = experiment.history.exploits
        place = len(order)
        while generation:  # backwards through who copied whom
            place = next(
                at
                for at in range(place - 1, -1, -1)
                if order[at].trial_id == founder and order[at].generation == generation
            )
            founder = order[place].donor_id
            generation = sum(each.trial_id == founder for each in order[:place])
        counts[experiment.history.trials[founder].index] += 1
    assert final == tuple(counts)


def test_effective_numbers_are_between_one_and_all(experiment: Experiment) -> None:
    found = diversity(experiment)
    for shares, effective in zip(found.shares, found.effective, strict=True):
        assert sum(shares) == len(found.founders)
        assert effective == pytest.approx(1 / sum((each / sum(shares)) ** 2 for each in shares))
    assert found.donors[0] is None
    assert list(found.x) == sorted(found.x)


def test_the_spread_is_the_standard_deviation_of_what_members_train_with(experiment: Experiment) -> None:
    final = [trial.config for trial in experiment.history.in_order()]
    begin = [trial.initial_config for trial in experiment.history.in_order()]
    found = diversity(experiment).spread
    assert set(found) == {"lr", "momentum"}
    for name, scaled in (("lr", math.log), ("momentum", float)):
        wide, now = (statistics.pstdev([scaled(config[name]) for config in configs]) for configs in (begin, final))
        assert found[name][-1] == pytest.approx(now / wide)


def test_a_gain_is_the_difference_of_two_results_of_the_member(experiment: Experiment) -> None:
    found = gains(experiment)
    assert len(found.gains) == len(experiment.history.exploits)
    for gain, exploit in zip(found.gains, experiment.history.exploits, strict=True):
        rows = experiment.history.trials[exploit.trial_id].rows
        before = [row for row in rows if row.generation == exploit.generation - 1][-1]
        assert gain.before == before.value("accuracy")
        after = [
            row for row in rows
            if row.generation == exploit.generation and row.report.iteration >= exploit.checkpoint.iteration + 5
        ]  # fmt: skip
        assert gain.after == (after[0].value("accuracy") if after else None)
        if gain.gain is not None and gain.before is not None and gain.after is not None:
            assert gain.gain == pytest.approx(gain.after - gain.before)


def test_where_less_is_better_a_gain_is_a_fall(tmp_path: Path) -> None:
    losing = simulated(tmp_path / "run", members=5, steps=20, scheduler=pbt(metric="loss", mode="min"))
    found = [gain for gain in gains(losing).gains if gain.gain is not None]
    assert found
    for gain in found:
        assert gain.before is not None
        assert gain.after is not None
        assert gain.copied is not None
        assert gain.copied < gain.before
        assert gain.gain == pytest.approx(gain.before - gain.after)
    best = learning_curves(losing).best
    scores = [curve.member.score for curve in learning_curves(losing).curves]
    assert best == min(range(len(scores)), key=lambda place: scores[place] or 0.0)


def test_schedules_are_the_configs_of_the_results(experiment: Experiment) -> None:
    best = experiment.best
    assert best is not None
    assert best.last is not None
    for each in schedules(experiment).parameters:
        line = each.winner
        for row in best.last.steps():
            middle = row.report.iteration - 0.5
            place = next(at for at in range(0, len(line), 2) if line.x[at] <= middle <= line.x[at + 1])
            value = lookup(row.config, each.name)
            assert line.y[place] == (each.categories.index(value) if each.categories else value)


def test_times_are_no_more_than_there_was(experiment: Experiment) -> None:
    found = times(experiment)
    assert sum(each.training for each in found.members) <= found.slot_seconds + 1e-6
    assert all(each.total <= found.duration + 1e-6 for each in found.members)
    for each in found.members:
        rows = experiment.history.trials[each.member.trial_id].rows
        assert each.training == pytest.approx(sum(row.report.time_this_iter_s for row in rows))


def test_over_time_nothing_goes_back(experiment: Experiment) -> None:
    for curve in learning_curves(experiment, x="time").curves:
        xs = [x for line in curve.lines for x in line.x]
        assert xs == sorted(xs)
    for branch in lineage_tree(experiment, x="time").branches:
        assert list(branch.x) == sorted(branch.x)


# -------------------------------------------------------------------------------------------------------------- errors


def test_what_nobody_reported_is_named_with_what_there_is(tmp_path: Path) -> None:
    experiment = known(tmp_path)
    with pytest.raises(ResultError, match=r"number called 'mean_acuracy'\. Did you mean 'mean_accuracy'\?"):
        learning_curves(experiment, "mean_acuracy")
    with pytest.raises(ResultError, match="number called 'epoch'"):
        learning_curves(experiment, x="epoch")
    with pytest.raises(ResultError, match="No config has the key 'learning_rate'"):
        schedules(experiment, ["learning_rate"])
    with pytest.raises(ConfigError, match="parameters must be a list of config keys"):
        schedules(experiment, "lr")
    with pytest.raises(ResultError, match="has no trial '40bd6_00009'"):
        ancestry(experiment, trial_id="40bd6_00009")


def test_without_a_metric_one_has_to_be_named(tmp_path: Path) -> None:
    experiment = known(tmp_path, metric=None)
    with pytest.raises(ConfigError, match="Which metric"):
        learning_curves(experiment)
    assert learning_curves(experiment, "mean_accuracy").best is None
    assert lineage_tree(experiment).metric is None
