"""What you need to test a scheduler of your own: simulated experiments on a virtual clock."""

from __future__ import annotations

from .engine import BrokenContract, Fault, Faults, SimulatedEngine, Train, VirtualClock, random_faults
from .simulation import Simulation, SimulationResult, Watch

__all__ = [
    "BrokenContract",
    "Fault",
    "Faults",
    "SimulatedEngine",
    "Simulation",
    "SimulationResult",
    "Train",
    "VirtualClock",
    "Watch",
    "random_faults",
]
