"""Population Based Training (Jaderberg et al. 2017, arXiv:1711.09846): exploit and explore while members train.

The settings (:class:`PopulationBasedTraining`) are the user's; the decisions (:class:`PBTPolicy`) are one experiment's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..arguments import check_arguments
from ..core.commands import CheckpointRecord
from ..core.events import Config
from ..core.policy import Copy, Decision, Explored, GiveUp, Proceed
from ..core.reports import flatten, lookup
from ..core.rng import stream, uniform_key
from ..core.trial import replaced
from ..errors import ConfigError, SpaceError, did_you_mean, similar_name
from ..space import log_keys, same
from .base import TrialScheduler, check_mode
from .explore import Mutations, explore, fill, parse_mutations
from .ranking import Group, Member, Rank, Top, group_key

__all__ = ["SECOND_CHANCES", "PBTPolicy", "PopulationBasedTraining"]

KEPT = ("seed", "random_seed")
"""Config keys that stay with the member by default, where there are such keys."""
SECOND_CHANCES = 3
"""How often in a row a member may copy a checkpoint that is not later than those it has copied before."""

Donors: TypeAlias = Top | list[Rank]
"""Those whom a member may copy, the lowest rank first."""


@check_arguments
class PopulationBasedTraining(TrialScheduler):
    """Members in the bottom quantile copy members of the top quantile, then mutate their hyperparameters.

    Every ``perturbation_interval`` of ``time_attr`` a member is *ready*. If its score is among the lowest
    ``quantile_fraction``, it takes over (exploit) the checkpoint and the config of a member drawn from the highest
    ``quantile_fraction``, and then changes (explore) the keys of ``hyperparam_mutations``. Source: Jaderberg et al.
    2017, arXiv:1711.09846, section 3 and appendix A (truncation selection; perturb and resample).

    Only a committed checkpoint is ever copied, and score and checkpoint of a donor belong to the same step. A score
    that is NaN or infinite ranks last and is never a donor. Ties are broken at random. A member that has reached its
    stop condition can still be copied, from its last checkpoint before that.

    Args:
        time_attr: key of a report that measures progress, and only grows; ``training_iteration`` counts reports.
        metric: key of a report that is compared. Default: ``TuneConfig.metric``.
        mode: ``max`` or ``min``. Default: ``TuneConfig.mode``.
        perturbation_interval: a member is ready this often, in units of ``time_attr``. Match it with the interval at
            which the function saves checkpoints.
        burn_in_period: nobody is ready before this ``time_attr``.
        hyperparam_mutations: for each key that may change, a distribution (``tune.uniform(...)``), a list of values, a
            function that returns a value, or a dict of these. Keys that the search space lacks are filled from here.
        quantile_fraction: 0 to 0.5. 0 turns exploitation off.
        resample_probability: 0 to 1; how often a key is drawn anew instead of perturbed.
        perturbation_factors: a perturbed number is multiplied by one of these two, drawn evenly.
        custom_explore_fn: ``config -> config``, called after the built-in mutations; and once before anything starts,
            on a copy of the first config, so that its errors come early.
        log_config: whether exploits are written to ``pbt_global.txt`` and ``pbt_policy_<trial_id>.txt``.
        require_attrs: whether a report without ``metric`` or ``time_attr`` is an error.
        synch: nobody goes on before all members have reached the boundary. The lineage of a seeded run then does not
            depend on the number of slots.
        seed: of all decisions. Default: ``TuneConfig.seed``.
        keep_in_bounds: whether perturbed numbers stay inside the bounds of their distribution. Ray Tune lets them
            leave.
        keep: config keys that stay with the member when it copies a donor's config, for example random seeds. Nested
            keys are written ``a/b``.
        fixed: config keys that weights depend on, such as the number of layers: a donor whose values of them differ
            from the member's is never copied. Nested keys are written ``a/b``. They cannot mutate. Members with the
            same values of them are a population of their own: low and high scores are told among these alone, so that
            each architecture is trained on. One of which there is only one member copies nobody, and that is said.

    Raises:
        ConfigError: an argument is out of its range; the message tells which.
    """

    needs_metric = True
    needs_checkpoints = True
    controls = True
    settled: tuple[str, ...] = (
        "perturbation_interval",
        "burn_in_period",
        "quantile_fraction",
        "synch",
        "seed",
        "fixed",
    )

    def __init__(
        self,
        time_attr: str = "time_total_s",
        metric: str | None = None,
        mode: str | None = None,
        perturbation_interval: float = 60.0,
        burn_in_period: float = 0.0,
        hyperparam_mutations: Mapping[str, Any] | None = None,
        quantile_fraction: float = 0.25,
        resample_probability: float = 0.25,
        perturbation_factors: Sequence[float] = (1.2, 0.8),
        custom_explore_fn: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        log_config: bool = True,
        require_attrs: bool = True,
        synch: bool = False,
        *,
        seed: int | None = None,
        keep_in_bounds: bool = True,
        keep: Sequence[str] = KEPT,
        fixed: Sequence[str] = (),
    ) -> None:
        _check_text("time_attr", time_attr)
        if metric is not None:
            _check_text("metric", metric)
        check_mode(mode, "PopulationBasedTraining")
        _check_number("perturbation_interval", perturbation_interval, above=0.0)
        _check_number("burn_in_period", burn_in_period, least=0.0)
        _check_number("quantile_fraction", quantile_fraction, least=0.0, most=0.5)
        _check_number("resample_probability", resample_probability, least=0.0, most=1.0)
        _check_factors(perturbation_factors)
        for name, flag in (
            ("log_config", log_config),
            ("require_attrs", require_attrs),
            ("synch", synch),
            ("keep_in_bounds", keep_in_bounds),
        ):
            if not isinstance(flag, bool):
                raise ConfigError(f"PopulationBasedTraining: {name} must be True or False, but is {flag!r}.")
        if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
            raise ConfigError(f"PopulationBasedTraining: seed must be an int or None, but is {seed!r}.")
        for name, keys in (("keep", keep), ("fixed", fixed)):
            if not isinstance(keys, (list, tuple)) or not all(isinstance(key, str) and key for key in keys):
                raise ConfigError(f"PopulationBasedTraining: {name} must be a list of config keys, but is {keys!r}.")
        if custom_explore_fn is not None and not callable(custom_explore_fn):
            raise ConfigError(
                f"PopulationBasedTraining: custom_explore_fn must be a function config -> config, "
                f"but is {custom_explore_fn!r}."
            )
        if hyperparam_mutations is not None and not isinstance(hyperparam_mutations, Mapping):
            raise ConfigError(
                "PopulationBasedTraining: hyperparam_mutations must be a dict such as "
                f"{{'lr': tune.loguniform(1e-4, 1e-1)}}, but is {hyperparam_mutations!r}."
            )
        if not hyperparam_mutations and custom_explore_fn is None:
            raise ConfigError(
                "PopulationBasedTraining: nothing to mutate. Give hyperparam_mutations, for example "
                "{'lr': tune.loguniform(1e-4, 1e-1)}, or custom_explore_fn."
            )
        self.time_attr = time_attr
        self.metric = metric
        self.mode = mode
        self.perturbation_interval = float(perturbation_interval)
        self.burn_in_period = float(burn_in_period)
        self.hyperparam_mutations: dict[str, Any] = dict(hyperparam_mutations or {})
        self.quantile_fraction = float(quantile_fraction)
        self.resample_probability = float(resample_probability)
        self.perturbation_factors = tuple(float(factor) for factor in perturbation_factors)
        self.custom_explore_fn = custom_explore_fn
        self.logs_policies = log_config
        self.require_attrs = require_attrs
        self.synch = synch
        self.seed = seed
        self.keep_in_bounds = keep_in_bounds
        self.keep = tuple(keep)
        self.fixed = tuple(fixed)
        self._mutations: Mutations = parse_mutations(self.hyperparam_mutations)
        self._check_fixed()

    def describe(self) -> str:
        """Return the name that the status shows."""
        return "PopulationBasedTraining"

    def check(self, param_space: dict[str, Any]) -> None:
        """Raise ConfigError where a key looks like a misspelling of a key of the search space."""
        _check_keys(self.hyperparam_mutations, param_space, "")
        known = {**self.hyperparam_mutations, **param_space}
        for name in ("keep", "fixed"):
            for path in getattr(self, name):
                head = path.partition("/")[0]
                if head not in known and path not in KEPT:
                    raise ConfigError(
                        f"PopulationBasedTraining: {name} names {path!r}, but no trial's config has a key {head!r}."
                        f"{did_you_mean(head, known)} Config keys: {', '.join(map(repr, known)) or 'none'}."
                    )

    def _check_fixed(self) -> None:
        for path in self.fixed:
            touched = [key for key in self.mutated() if key == path or f"{key}/".startswith(f"{path}/")]
            touched += [key for key in self.mutated() if path.startswith(f"{key}/")]
            if touched:
                raise ConfigError(
                    f"PopulationBasedTraining: {path!r} is in fixed, but {touched[0]!r} is in hyperparam_mutations. A "
                    f"key that weights depend on cannot mutate; take it out of one of the two."
                )

    def rehearse(self, config: Config, seed: int) -> None:
        """Explore once, for nothing, to see that ``custom_explore_fn`` and functions among the mutations work."""
        self.explored(config, config, 0, 0, seed)

    def mutated(self) -> list[str]:
        """Return the keys of ``hyperparam_mutations``, nested ones as ``a/b``."""
        return [path for path, _ in flatten(self.hyperparam_mutations)]

    def kin(self, config: Config) -> Hashable:
        """Return the values of ``fixed``, in a form that can be compared."""
        key: Hashable = group_key(config, self.fixed)
        return key

    def log_keys(self) -> list[str]:
        """Return those keys whose distribution is logarithmic."""
        return log_keys(self.hyperparam_mutations)

    def prepare(self, config: Config, index: int, seed: int) -> Config:
        """Fill keys of ``hyperparam_mutations`` that the config lacks.

        Raises:
            ConfigError: a value of ``fixed`` is an object.
        """
        filled = fill(config, self._mutations, stream(seed, "fill", index))
        for path in self.fixed:
            value = lookup(filled, path)
            if not _is_plain(value):
                raise ConfigError(
                    f"PopulationBasedTraining: {path!r} is in fixed, and its value must be made of numbers, texts, "
                    f"True, False and None, to be compared with another trial's also after a restore, but is "
                    f"{value!r:.200} ({type(value).__name__}). Put a name or numbers there, and make it from these."
                )
        return filled

    def policy(self, *, mode: str, seed: int, control: frozenset[int] = frozenset()) -> PBTPolicy:
        """Return the decisions for one experiment."""
        sign = 1.0 if mode == "max" else -1.0
        return PBTPolicy(self, sign=sign, seed=seed if self.seed is None else self.seed, control=control)

    def explored(self, donor: Config, own: Config, index: int, generation: int, seed: int) -> Config:
        """Return the config of a member that copies a donor: the donor's, with what it keeps, mutated."""
        config = explore(
            _with_kept(donor, own, self.keep),
            self._mutations,
            resample_probability=self.resample_probability,
            perturbation_factors=self.perturbation_factors,
            custom_explore_fn=self.custom_explore_fn,
            rng=stream(seed, "explore", index, generation),
            keep_in_bounds=self.keep_in_bounds,
        )
        for path in self.fixed:
            if not same(lookup(config, path), lookup(donor, path)):
                raise SpaceError(
                    f"custom_explore_fn has changed {path!r} from {lookup(donor, path)!r} to {lookup(config, path)!r}, "
                    f"but it is in PopulationBasedTraining(fixed=...): the donor's weights do not fit then. Leave it "
                    f"as it is, or take it out of fixed."
                )
        return config


ALONE = (
    "alone",
    "PBT has only one member, so there is nobody to copy and its hyperparameters never change. Set "
    "TuneConfig(num_samples=...) to 2 or more.",
)
NO_CHECKPOINT = (
    "no-checkpoint",
    "PBT wants to exploit, but no member has a checkpoint to copy, so every member trains alone. Save one "
    "at least every perturbation_interval: tune.report(metrics, "
    "checkpoint=tune.Checkpoint.from_directory(folder)), and load it at the start of the function: "
    "tune.get_checkpoint().",
)


@dataclass
class PBTPolicy:
    """The decisions of one experiment. Costs O(log n) comparisons a decision, whatever the size of the population."""

    settings: PopulationBasedTraining
    sign: float
    seed: int
    control: frozenset[int] = frozenset()
    """Numbers of the members that are kept out of exploits. Each is a population of its own."""
    _competing: int = 0
    """How many others there are."""
    _members: dict[str, Member] = field(default_factory=dict[str, Member])
    _ended: dict[str, Member] = field(default_factory=dict[str, Member])
    """Those that are gone, as they were."""
    _by_index: dict[int, Member] = field(default_factory=dict[int, Member])
    _groups: dict[Any, Group] = field(default_factory=dict[Any, Group])
    _arrived: dict[str, tuple[float, float | None]] = field(default_factory=dict[str, "tuple[float, float | None]"])
    _waiting: dict[str, None] = field(default_factory=dict[str, None])
    """Those that have failed for good, and wait for a donor or at the barrier, in the order in which they did."""
    _barrier: float = 0.0
    _notices: dict[str, str] = field(default_factory=dict[str, str])
    _looked: bool = False
    """Whether it was looked for members that can never copy."""
    _explored: Explored = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._barrier = self._next(0.0)

    def add(self, trial_id: str, index: int, config: Config) -> None:
        """A trial joined the population."""
        self._competing += index not in self.control
        self._notices = {} if self._competing != 1 else dict([ALONE])
        group = self._group_of(index, config)
        member = Member(trial_id, index, config, self._next(0.0), group, chances=SECOND_CHANCES)
        self._members[trial_id] = self._by_index[index] = member

    def until(self, trial_id: str) -> float | None:
        """Return the trial's next boundary."""
        return self._barrier if self.settings.synch else self._members[trial_id].boundary

    def observe(self, trial_id: str, score: float | None, checkpoint: CheckpointRecord | None) -> None:
        """Remember a new checkpoint with the score of its own step."""
        member = self._members[trial_id]
        member.last_score = score
        if checkpoint is None:
            return
        member.checkpoint = checkpoint
        # By the evaluation to come: a member at its boundary has one place in both rankings.
        rank = self._next_rank(member, score)
        member.group.offer(member, rank if math.isfinite(rank[0]) else None)

    def spoiled(self, checkpoint: CheckpointRecord) -> None:
        """Take a damaged checkpoint out of what can be copied; its member donates again when it has saved the next."""
        member = self._members.get(checkpoint.trial_id) or self._ended[checkpoint.trial_id]
        if member.checkpoint is not None and member.checkpoint.id == checkpoint.id:
            if self._by_index.get(member.index) is member:
                member.group.offer(member, None)
            member.donor_rank = member.checkpoint = None

    def fell_back(self, trial_id: str, checkpoint: CheckpointRecord) -> Config | None:
        """Return None: who has copied keeps the config that it was given."""
        return None

    def decide(self, trial_id: str, time: float, score: float | None) -> list[Decision]:
        """Decide for a member at its boundary; with ``synch`` for all, once the last has arrived."""
        if self.settings.synch:
            self._arrived[trial_id] = (time, score)
            return self._decide_barrier()
        member = self._members[trial_id]
        self._evaluate(member, score)
        decision = self._exploit(member, self._top(member.group)) if self._is_low(member) else None
        start = decision.checkpoint.time if decision is not None else time
        member.boundary = self._next(start)
        return [decision or Proceed(trial_id)]

    def reseed(self, trial_id: str) -> list[Decision] | None:
        """Have a member that has failed for good copy a member of the top quantile; with ``synch`` at the barrier.

        At the barrier, so that a seeded run does not depend on who was how far when it failed. Where no other has a
        checkpoint yet, it waits for the first. What it has saved itself is where it failed: nobody copies that, and it
        does not go on from there.
        """
        member = self._members[trial_id]
        if not self.settings.quantile_fraction or member.index in self.control:
            return None
        member.group.fail(member)
        self._waiting[trial_id] = None
        if self.settings.synch:
            self._arrived[trial_id] = (-math.inf, None)
            return self._decide_barrier()
        self._evaluate(member, None)
        return self._decide_waiting([member])

    def withdraw(self, trial_id: str) -> None:
        """A member that waited at the barrier goes back to an earlier step."""
        self._arrived.pop(trial_id, None)

    def gone(self, trial_id: str, donates: bool = False) -> None:
        """A trial ended: nobody waits for it, and it no longer ranks, unless it can still be copied."""
        member = self._members.pop(trial_id)
        if donates and member.rank is not None and member.donor_rank is not None and not member.failed:
            # It stays with what it had reached at its end, which is later than its last boundary.
            member.group.evaluate(member, (self._value(member.last_score), *member.rank[1:]))
        else:
            member.group.leave(member)
            del self._by_index[member.index]
        member.failed = False
        self._arrived.pop(trial_id, None)
        self._waiting.pop(trial_id, None)
        self._ended[trial_id] = member

    def settle(self) -> list[Decision]:
        """Return what is decided for those that waited: at the barrier, where all that are left have arrived; else for
        those that have failed, where there is a donor now or nobody can become one."""
        if self.settings.synch:
            return self._decide_barrier()
        return self._decide_waiting([self._members[trial_id] for trial_id in self._waiting])

    def back(self, trial_id: str, anew: Config | None) -> None:
        """A trial that had ended takes its place in the rankings again."""
        member = self._members[trial_id] = self._ended.pop(trial_id)
        if self._by_index.get(member.index) is not member:
            self._by_index[member.index] = member
            member.group.join(member)
        if anew is None:
            return
        member.group.leave(member)
        member.rank = member.donor_rank = member.checkpoint = member.last_score = None
        member.config, member.group, member.boundary = anew, self._group_of(member.index, anew), self._next(0.0)
        member.copied_time, member.chances = -math.inf, SECOND_CHANCES

    def recall(self, explored: Explored) -> None:
        """Take these configs, where they are asked for, instead of exploring anew."""
        self._explored = explored

    def replace(self, config: Config) -> None:
        """Values of every trial's config were replaced, perhaps of fixed keys."""
        for member in (*self._members.values(), *self._ended.values()):
            member.config = replaced(member.config, config)
            group = self._group_of(member.index, member.config)
            if group is not member.group:
                there = self._by_index.get(member.index) is member
                if there:
                    member.group.leave(member)
                    group.join(member)
                member.group = group

    def notice(self) -> tuple[str, str] | None:
        """Return, once, what is in the way of exploits."""
        if not self._looked:
            self._looked = True
            self._look_for_loners()
        if not self._notices:
            return None
        key = next(iter(self._notices))
        return key, self._notices.pop(key)

    # ------------------------------------------------------------------------------------------------------------------

    def _group_of(self, index: int, config: Config) -> Group:
        """Return those that a member may copy or be copied by; of a control, nobody but itself."""
        key = ("control", index) if index in self.control else group_key(config, self.settings.fixed)
        return self._groups.setdefault(key, Group())

    def _decide_barrier(self) -> list[Decision]:
        if not self._arrived or len(self._arrived) < len(self._members):
            return []
        arrived, self._arrived = self._arrived, {}
        members = sorted((self._members[trial_id] for trial_id in arrived), key=lambda member: member.index)
        for member in members:
            self._evaluate(member, arrived[member.trial_id][1])
        latest = max(time for time, _ in arrived.values())
        self._barrier = max(self._next(self._barrier), latest)
        if latest >= self._barrier:
            # A time_attr that grows in leaps has passed the next boundary too.
            self._barrier = self._next(latest)
        low = self._low(members)
        # All donors are as they were at the barrier: a member that copies in this round is nobody's donor in it.
        donors = {
            id(group): [entry for entry in self._top(group) if entry[2] not in low] for group in self._groups.values()
        }
        decisions: list[Decision] = []
        for member in members:
            found = donors[id(member.group)]
            if not member.failed:
                copy = self._exploit(member, found) if member.index in low else None
                decisions.append(copy or Proceed(member.trial_id))
            elif (instead := self._instead(member, found)) is not None:
                decisions.append(instead)
            else:
                self._arrived[member.trial_id] = (-math.inf, None)  # at the next barrier too
        return decisions

    def _decide_waiting(self, waiting: list[Member]) -> list[Decision]:
        """Return what is decided for members that have failed for good, without those that wait on."""
        decisions: list[Decision] = []
        for member in waiting:
            instead = self._instead(member, self._top(member.group))
            if instead is not None:
                decisions.append(instead)
            if isinstance(instead, Copy):
                member.boundary = self._next(instead.checkpoint.time)
        return decisions

    def _instead(self, member: Member, donors: Donors) -> Copy | GiveUp | None:
        """Return what a member does that has failed for good: None where it waits for somebody to save a checkpoint."""
        copy = self._copy(member, donors)
        if copy is None and not donors and any(self._mates(member)):
            return None
        self._waiting.pop(member.trial_id, None)
        return copy or GiveUp(member.trial_id, self._why(member))

    def _mates(self, member: Member) -> Iterator[Member]:
        """Yield those that train, and that the member may copy as soon as they have a checkpoint."""
        for other in self._members.values():
            if other is not member and not other.failed and other.group is member.group:
                yield other

    def _why(self, member: Member) -> str:
        """Return why a member that has failed for good copies nobody."""
        others = [other for other in (*self._members.values(), *self._ended.values()) if other is not member]
        mates = [other for other in others if other.group is member.group]
        if member.group.donors:
            return "copies of others have led it no further"
        if not others:
            return "there is no other member"
        if not mates:
            return f"no other member has the same values of fixed={list(self.settings.fixed)}"
        if not any(other.checkpoint is not None or other.generation for other in mates):
            return "no other member has saved a checkpoint"
        return "no other member is left that could be copied"

    def _look_for_loners(self) -> None:
        """Say who can never copy, because nobody has the same values of the fixed keys."""
        members = [member for member in self._by_index.values() if member.index not in self.control]
        count = Counter(id(member.group) for member in members)
        alone = [member.trial_id for member in members if count[id(member.group)] == 1]
        if not alone or len(members) == 1 or not self.settings.quantile_fraction:
            return
        more = f" and {len(alone) - 5} more" if len(alone) > 5 else ""
        self._notices["alone-by-fixed"] = (
            f"With PopulationBasedTraining(fixed={list(self.settings.fixed)}) members copy only those with the same "
            f"values of these keys, and nobody else has those of {', '.join(alone[:5])}{more}. So nobody is copied "
            f"there, and hyperparameters never change. Have 2 or more members of each, for example with "
            f"TuneConfig(num_samples=...), which repeats a grid_search."
        )

    def _evaluate(self, member: Member, score: float | None) -> None:
        rank = self._next_rank(member, score)
        member.evaluations += 1
        member.next_rank = None
        member.group.evaluate(member, rank)

    def _low(self, members: list[Member]) -> set[int]:
        """Return the indices of those members that have failed or are in the bottom quantile."""
        low = {id(group): group.low(self.settings.quantile_fraction) for group in self._groups.values()}
        return {member.index for member in members if member.failed or member.index in low[id(member.group)]}

    def _is_low(self, member: Member) -> bool:
        return member.group.is_low(member, self.settings.quantile_fraction)

    def _top(self, group: Group) -> Top:
        return group.top(self.settings.quantile_fraction)

    def _exploit(self, member: Member, donors: Donors) -> Copy | None:
        """Return what a member copies whose score is among the lowest."""
        if all(other.checkpoint is None for other in self._by_index.values()):
            self._notices.update([NO_CHECKPOINT])
        return self._copy(member, donors)

    def _copy(self, member: Member, donors: Donors) -> Copy | None:
        donor = self._draw_donor(member, donors)
        if donor is None:
            return None
        member.generation += 1
        assert donor.checkpoint is not None
        donor_config = donor.config
        new_config = self._explored.get((member.trial_id, member.generation))
        if new_config is None:
            new_config = self.settings.explored(donor_config, member.config, member.index, member.generation, self.seed)
        copy = Copy(member.trial_id, donor.trial_id, donor.checkpoint, donor_config, new_config)
        # Its own checkpoint holds the weights that it gives up, so it is no donor before it saves the next.
        member.group.offer(member, None)
        member.checkpoint = None
        member.failed = False
        if copy.checkpoint.time > member.copied_time:
            member.copied_time, member.chances = copy.checkpoint.time, SECOND_CHANCES
        else:
            member.chances -= 1
        member.config = new_config
        return copy

    def _draw_donor(self, member: Member, donors: Donors) -> Member | None:
        """Draw evenly among the donors that the member may copy."""
        if not donors:
            return None
        draw = stream(self.seed, "donor", member.index, member.generation + 1)
        for _ in range(8):
            # Nearly always all may be copied: then this takes one draw, and need not look at each.
            entry = draw.choice(donors)
            if self._fits(entry, member):
                return self._by_index[entry[2]]
        fitting = [entry for entry in donors if self._fits(entry, member)]
        return self._by_index[draw.choice(fitting)[2]] if fitting else None

    def _fits(self, entry: Rank, member: Member) -> bool:
        assert member.rank is not None
        return entry[2] != member.index and entry[0] >= member.rank[0] and self._leads_on(entry, member)

    def _leads_on(self, entry: Rank, member: Member) -> bool:
        """Whether a donor's checkpoint is later than all that the member has copied, or the member has a chance left.

        A member whose copy diverged may copy the same step again, with other hyperparameters. Without a limit it could
        do so for ever, and where scores get worse with time members would draw each other back for ever: a run without
            an end.
        """
        checkpoint = self._by_index[entry[2]].checkpoint
        return checkpoint is not None and (checkpoint.time > member.copied_time or member.chances > 0)

    def _value(self, score: float | None) -> float:
        """The score with larger is better; a missing, NaN or infinite one ranks last."""
        if score is None or not math.isfinite(score):
            return -math.inf
        return self.sign * score

    def _next_rank(self, member: Member, score: float | None) -> Rank:
        """Return the member's rank, should its next evaluation be by this score."""
        value, known = self._value(score), member.next_rank
        if known is not None and known[0] == value:
            return known
        tie = uniform_key(self.seed, "tie", member.index, member.evaluations + 1) if known is None else known[1]
        member.next_rank = rank = (value, tie, member.index)
        return rank

    def _next(self, time: float) -> float:
        return max(time + self.settings.perturbation_interval, self.settings.burn_in_period)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(entry) for key, entry in value.items())
    return value is None or type(value) in (bool, int, float, str)


def _with_kept(donor: Config, own: Config, keep: tuple[str, ...]) -> Config:
    """Return the donor's config with the member's own values of ``keep``; neither input changes."""
    config = dict(donor)
    for path in keep:
        head, _, tail = path.partition("/")
        if tail and isinstance(config.get(head), dict) and isinstance(own.get(head), dict):
            config[head] = _with_kept(config[head], own[head], (tail,))
        elif not tail and head in own:
            config[head] = own[head]
    return config


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"PopulationBasedTraining: {name} must be the name of a reported value, but is {value!r}.")


def _check_number(
    name: str, value: object, *, least: float = -math.inf, most: float = math.inf, above: float | None = None
) -> None:
    if above is not None:
        allowed = f"greater than {above:g}"
    else:
        allowed = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if (
        not fits
        or not isinstance(value, (int, float))
        or not least <= value <= most
        or (above is not None and value <= above)
    ):
        raise ConfigError(f"PopulationBasedTraining: {name} must be a number {allowed}, but is {value!r}.")


def _check_factors(factors: object) -> None:
    good = (
        isinstance(factors, (tuple, list))
        and len(factors) == 2
        and all(isinstance(factor, (int, float)) and not isinstance(factor, bool) for factor in factors)
        and all(math.isfinite(factor) and factor > 0 for factor in factors)
    )
    if not good:
        raise ConfigError(
            f"PopulationBasedTraining: perturbation_factors must be two positive numbers such as (1.2, 0.8), "
            f"but is {factors!r}."
        )


def _check_keys(mutations: Mapping[str, Any], space: Mapping[str, Any], prefix: str) -> None:
    for key, value in mutations.items():
        if key in space:
            inner = space[key]
            if isinstance(value, Mapping) and isinstance(inner, Mapping):
                _check_keys(value, inner, f"{prefix}{key}/")
            continue
        # A key that is itself mutated is no victim of this misspelling.
        close = similar_name(key, [name for name in space if name not in mutations])
        if close is not None:
            raise ConfigError(
                f"hyperparam_mutations has the key {prefix + key!r}, which param_space has not, but param_space has "
                f"{prefix + close!r}, which would never mutate. If that is what you mean, write {prefix + close!r}; if "
                f"{prefix + key!r} is another hyperparameter, add it to param_space."
            )
