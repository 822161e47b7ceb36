"""``ray.tune.Trainable``: Shoal's, with what scripts read of Ray's."""

from __future__ import annotations

from .. import trainable

__all__ = ["Trainable"]


class Trainable(trainable.Trainable):
    """See :class:`shoal.tune.Trainable`."""

    @property
    def _iteration(self) -> int:
        """The same as ``iteration``. No public name, but that by which many scripts know it."""
        return self.iteration

    @_iteration.setter
    def _iteration(self, value: int) -> None:
        self.iteration = value

    @property
    def trial_resources(self) -> dict[str, float]:
        """What the trial was given, as ``tune.get_trial_resources()`` returns it; empty outside of a run."""
        found = super().trial_resources
        if not found:
            return found
        # Late: a script that only sets up a run needs none of it.
        from .context import TrialResources

        return TrialResources(**found)
