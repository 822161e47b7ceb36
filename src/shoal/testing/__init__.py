"""What you need to test a scheduler of your own: simulated experiments on a virtual clock.

For an engine of your own there is :mod:`shoal.testing.contracts`, which needs pytest.
"""

from __future__ import annotations

from .clock import VirtualClock
from .engine import BrokenContract, HandsOn, SimulatedEngine, Train
from .faults import Fault, Faults, random_faults
from .nodes import Node, random_nodes
from .simulation import Simulation, SimulationResult, Watch

__all__ = [
    "BrokenContract",
    "Fault",
    "Faults",
    "HandsOn",
    "Node",
    "SimulatedEngine",
    "Simulation",
    "SimulationResult",
    "Train",
    "VirtualClock",
    "Watch",
    "random_faults",
    "random_nodes",
]
