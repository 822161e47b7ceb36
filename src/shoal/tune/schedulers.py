"""Schedulers under the name that people know: ``from shoal.tune.schedulers import PopulationBasedTraining``."""

from __future__ import annotations

from ..replay import PopulationBasedTrainingReplay
from ..schedulers import FIFOScheduler, PopulationBasedTraining, TrialScheduler

__all__ = ["FIFOScheduler", "PopulationBasedTraining", "PopulationBasedTrainingReplay", "TrialScheduler"]
