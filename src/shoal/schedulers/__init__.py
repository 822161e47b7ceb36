"""Schedulers: pure policies that the population asks."""

from .base import TrialScheduler
from .fifo import FIFOScheduler
from .pbt import PopulationBasedTraining

__all__ = ["FIFOScheduler", "PopulationBasedTraining", "TrialScheduler"]
