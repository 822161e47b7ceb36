"""What you need to test a scheduler of your own: simulated experiments on a virtual clock."""

from __future__ import annotations

from .engine import BrokenContract, Fault, SimulatedEngine, VirtualClock, random_faults
from .simulation import Simulation, SimulationResult

__all__ = [
    "BrokenContract",
    "Fault",
    "SimulatedEngine",
    "Simulation",
    "SimulationResult",
    "VirtualClock",
    "random_faults",
]
