"""Seeded experiments for the simulated engine."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from shoal import space
from shoal.core.events import Config, Metrics, Reported
from shoal.schedulers import FIFOScheduler, PopulationBasedTraining, TrialScheduler
from shoal.testing import Fault, Node, Simulation, SimulationResult, random_faults, random_nodes

from .invariants import Invariants

State = tuple[int, float, int, int]
"""(steps, level, frames, chain): the chain is a digest of all that made these weights."""


@dataclass(frozen=True)
class Scenario:
    """One experiment. Everything follows from these numbers."""

    knows_all_faults: ClassVar[bool] = True
    """Whether members fail only where ``faults`` says so."""

    seed: int
    members: int = 4
    slots: int = 2
    devices: Sequence[str] | None = None
    nodes: tuple[Node, ...] = ()
    """Nodes that come and go. Then there are no other slots."""
    residents: int | None = None
    pbt: bool = True
    synch: bool = False
    interval: float = 3.0
    burn_in: float = 0.0
    quantile: str = "0.25"
    mode: str = "max"
    time_attr: str = "training_iteration"
    landscape: str = "noise"
    not_finite: float = 0.0
    length: int = 10
    returns: bool = False
    """Members return after ``length`` steps, some of them earlier, instead of being stopped."""
    target: float | None = None
    """``stop={"score": target}``, too."""
    stopper: bool = False
    stop_asked_at: float | None = None
    gently: bool = False
    checkpoint_every: int = 1
    of_class: bool = False
    """Whether members can save at any time, and do so at each boundary."""
    checkpoint_at_end: bool = False
    """Whether members of a class are asked for a checkpoint at their end."""
    num_to_keep: int | None = None
    score_attribute: str | None = None
    score_order: str = "max"
    max_failures: int = 0
    fail_fast: bool = False
    replace_failed: bool = False
    architectures: int = 0
    """How many values there are of a key in ``fixed``; the larger one is, the better the scores. 0: no such key."""
    faults: tuple[tuple[Fault, float], ...] = ()
    uneven: bool = True
    """Whether steps differ in duration."""
    start_time: float = 0.0
    hands_on: bool = False
    """Whether members hand their slot on by themselves."""

    def scheduler(self) -> TrialScheduler:
        if not self.pbt:
            return FIFOScheduler()
        return PopulationBasedTraining(
            time_attr=self.time_attr,
            perturbation_interval=self.interval,
            burn_in_period=self.burn_in,
            hyperparam_mutations={"h": space.uniform(0.0, 1.0)},
            quantile_fraction=float(self.quantile),
            synch=self.synch,
            fixed=["layers"] if self.architectures else [],
        )

    def train(self, config: Config, state: State | None) -> tuple[Metrics, State] | None:
        steps, level, frames, chain = state or (0, 0.0, 0, 1)
        if self.returns and steps >= max(1, self.length - config["seed"] % 4):
            return None
        steps += 1
        chain = (chain * 6364136223846793005 + int(config["h"] * 1e9) * 1442695040888963407 + steps) % 2**64
        drawn = (chain >> 11) / 2**53
        frames += 1 + int(drawn * 5)
        level += config["h"]
        score = {"improves": level, "worsens": -level, "noise": drawn, "ties": float(steps // 4), "constant": 1.0}
        value = (score[self.landscape] + 5.0 * config.get("layers", 0)) * (1.0 if self.mode == "max" else -1.0)
        if (drawn * 1000) % 1.0 < self.not_finite:
            value = (math.nan, math.inf, -math.inf)[chain % 3]
        return {"score": value, "steps": steps, "info": {"frames": frames}}, (steps, level, frames, chain)

    def simulation(self, watch: Invariants | None = None, *, validate: bool = True) -> Simulation:
        draws = [random.Random(f"{self.seed}/{index}").random() for index in range(self.members)]
        layers = [{"layers": index % self.architectures} if self.architectures else {} for index in range(self.members)]
        stop: dict[str, float] = {} if self.returns else {"training_iteration": self.length}
        if self.target is not None:
            stop["score"] = self.target
        return Simulation(
            self.train,
            [{"h": drawn, "seed": index, **layers[index]} for index, drawn in enumerate(draws)],
            self.scheduler(),
            mode=self.mode,
            seed=self.seed,
            slots=None if self.nodes else self.slots,
            devices=None if self.nodes else self.devices,
            nodes=self.nodes,
            residents=self.residents,
            max_failures=self.max_failures,
            fail_fast=self.fail_fast,
            replace_failed=self.replace_failed,
            stop=stop,
            num_to_keep=self.num_to_keep,
            score_attribute=self.score_attribute,
            score_order=self.score_order,
            stopper=self._stopper if self.stopper else None,
            stop_asked_at=self.stop_asked_at,
            gently=self.gently,
            duration=self._duration if self.uneven else 1.0,
            start_time=self.start_time,
            checkpoint_every=self.checkpoint_every,
            saves_when_needed=self.of_class,
            hands_on=self._hands_on if self.hands_on else None,
            checkpoint_at_end=self.of_class and self.checkpoint_at_end,
            faults=random_faults(self.seed, dict(self.faults)) if self.faults else None,
            validate=validate,
            watch=watch,
            max_events=200_000,
        )

    def run(self) -> SimulationResult:
        """Run it with every invariant checked after each event, and at the end."""
        watch = Invariants(self)
        try:
            result = self.simulation(watch).run()
            watch.at_the_end(result)
        except Exception as error:
            raise AssertionError(f"{error}\nin {self!r}") from error
        return result

    def time_of(self, event: Reported) -> float:
        if self.time_attr == "info/frames":
            return float(event.metrics["info"]["frames"])
        return event.time_total_s if self.time_attr == "time_total_s" else float(event.iteration)

    def _duration(self, index: int, iteration: int, config: Config) -> float:
        return 0.5 + (index * 7919 + iteration * 104729 + self.seed) % 16 / 16

    def _hands_on(self, index: int, iteration: int) -> float | None:
        drawn = random.Random(f"{self.seed}/{index}/{iteration}/hands_on").random()
        return None if drawn < 0.1 else max(0.0, 2.0 * drawn - 0.8)

    @staticmethod
    def _stopper(event: Reported) -> str | None:
        return "a stopper said so" if event.metrics["steps"] > 6 and event.metrics["info"]["frames"] % 11 == 0 else None


def run_through(*lives: tuple[Scenario, int | None], **resume: Any) -> SimulationResult:
    """Run an experiment that is restored again and again, with every invariant checked after each event and at the end.

    Args:
        lives: the settings of each driver, and the event after which it is killed, counted from the beginning, or None.
        resume: given to each :meth:`Simulation.go_on`.
    """
    watch = Invariants(lives[0][0])
    result: SimulationResult | None = None
    try:
        for scenario, kill_after in lives:
            watch.scenario = scenario
            simulation = scenario.simulation(watch)
            if result is None:
                result = simulation.run(kill_after=kill_after)
            else:
                result = simulation.go_on(result, kill_after=kill_after, **resume)
        assert result is not None
        watch.at_the_end(result)
    except Exception as error:
        told = "\n".join(f"{scenario!r}, killed after {kill_after}" for scenario, kill_after in lives)
        raise AssertionError(f"{error}\nin {told}\n{resume}") from error
    return result


_APART = {
    Fault.DAMAGE: ("damage", (0.02, 0.1, 0.5)),
    Fault.ORPHAN: ("orphan", (0.02, 0.1)),
    Fault.CRASH_COMMITTING: ("committing", (0.02, 0.1)),
}
"""Faults whose rates are drawn from streams of their own, so that they leave the other draws as they are."""


def drawn_scenario(seed: int, largest: int, **fixed: Any) -> Scenario:
    """Draw an experiment with up to ``largest`` members."""
    rng = random.Random(seed)
    members = rng.choice((1, 2, 3, 4, rng.randint(1, largest), rng.randint(1, largest)))
    slots = rng.choice((1, 2, 4, 8, rng.randint(1, 32)))
    devices = None
    if rng.random() < 0.2:
        devices = tuple(rng.choice(("0", "1", "2")) for _ in range(slots))
    faults: list[tuple[Fault, float]] = []
    if rng.random() < 0.5:
        faults = [(fault, rng.choice((0.0, 0.01, 0.05))) for fault in Fault if fault not in _APART]
    for fault, (name, rates) in _APART.items():
        apart = random.Random(f"{seed}/{name}")
        if apart.random() < 0.3:
            faults.append((fault, apart.choice(rates)))
    architectures = random.Random(f"{seed}/architectures")
    drawn = Scenario(
        seed=seed,
        members=members,
        slots=slots,
        devices=devices,
        residents=rng.choice((None, None, slots, slots + rng.randint(0, 4))),
        pbt=rng.random() < 0.93,
        synch=rng.random() < 0.5,
        interval=rng.choice((1.0, 2.0, 3.0, 4.0, 7.0, 2.5)),
        burn_in=rng.choice((0.0, 0.0, 5.0, 8.0, 30.0)),
        quantile=rng.choice(("0.25", "0.5", "0", "0.2", "0.07", "0.33", "1e-9")),
        mode=rng.choice(("max", "min")),
        time_attr=rng.choice(("training_iteration", "training_iteration", "info/frames", "time_total_s")),
        landscape=rng.choice(("improves", "improves", "noise", "ties", "constant", "worsens")),
        not_finite=rng.choice((0.0, 0.0, 0.1, 0.5, 1.0)),
        length=rng.randint(1, 16),
        returns=rng.random() < 0.2,
        target=rng.choice((None, None, 3.0)),
        stopper=rng.random() < 0.1,
        stop_asked_at=rng.choice((None,) * 9 + (rng.random() * 30,)),
        checkpoint_every=rng.choice((1, 1, 1, 2, 3, 5, 0)),
        num_to_keep=rng.choice((None, 1, 1, 2, 3)),
        score_attribute=rng.choice((None, None, "score")),
        score_order=rng.choice(("max", "min")),
        max_failures=rng.choice((0, 1, 3, -1)),
        fail_fast=rng.random() < 0.1,
        gently=random.Random(f"{seed}/gently").random() < 0.5,
        replace_failed=random.Random(f"{seed}/replace_failed").random() < 0.5,
        architectures=architectures.choice((1, 2, 3)) if architectures.random() < 0.3 else 0,
        faults=tuple(faults),
        uneven=rng.random() < 0.7,
        start_time=rng.choice((0.0, 0.0, 3.0)),
        of_class=rng.random() < 0.2,
        checkpoint_at_end=rng.random() < 0.5,
        hands_on=random.Random(f"{seed}/hands_on").random() < 0.6,
    )
    if not fixed.keys() & {"slots", "devices", "nodes"}:
        drawn = replace(drawn, nodes=drawn_nodes(seed))
    return replace(drawn, **fixed)


def drawn_nodes(seed: int, *, often: float = 0.25) -> tuple[Node, ...]:
    """Draw nodes that come and go, or, mostly, none."""
    rng = random.Random(f"{seed}/nodes")
    if rng.random() >= often:
        return ()
    return random_nodes(
        seed,
        count=rng.randint(1, 5),
        seconds=rng.choice((3.0, 10.0, 30.0)),
        slots=rng.choice((1, 3)),
        residents=rng.choice((1, 3, 6)),
        alike=rng.random() < 0.3,
    )
