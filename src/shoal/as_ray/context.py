"""What a trial was given, in the form of Ray, and the context that says so."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..resources import PlacementGroupFactory
from ..worker import session

__all__ = ["TrialContext", "TrialResources", "context_of"]


class TrialResources(PlacementGroupFactory, dict[str, float]):
    """What a trial was given: ``bundles`` and ``required_resources`` as in Ray, and a dict of ``cpu`` and ``gpu``.

    Args:
        cpu, gpu: how much. As in Ray, the bundle names only what there is any of.
    """

    def __init__(self, cpu: float, gpu: float) -> None:
        bundle = {name: amount for name, amount in (("CPU", cpu), ("GPU", gpu)) if amount}
        PlacementGroupFactory.__init__(self, [bundle])
        dict.__init__(self, cpu=cpu, gpu=gpu)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PlacementGroupFactory):
            return (self.bundles, self.strategy) == (other.bundles, other.strategy)
        return dict.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other  # a dict's own would compare as dicts

    def __hash__(self) -> int:  # type: ignore[override]
        return hash((self["cpu"], self["gpu"]))

    def __reduce__(self) -> tuple[Any, ...]:
        return TrialResources, (self["cpu"], self["gpu"])


class TrialContext(session.TrialContext):
    """See :class:`shoal.worker.session.TrialContext`."""

    def get_trial_resources(self) -> TrialResources:
        """Return what the trial was given."""
        return TrialResources(self.cpus, self.gpus)


def context_of(context: session.TrialContext) -> TrialContext:
    """Return the same context, whose resources can be read as in Ray."""
    return TrialContext(**{each.name: getattr(context, each.name) for each in dataclasses.fields(context)})
