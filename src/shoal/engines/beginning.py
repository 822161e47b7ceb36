"""Hosts that are about to work, what is said of those that take long, and why one cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import EngineError
from .backend import HostLine
from .orders import HostFacts

__all__ = ["Beginning", "Late", "Slot", "not_at_home", "waiting_for", "why_not"]

_NAMED_AT_MOST = 3


@dataclass(frozen=True, slots=True)
class Slot:
    """What the cluster has granted for one trial."""

    reservation: str
    device: str


@dataclass(slots=True)
class Beginning:
    """A host that is about to work."""

    line: HostLine
    slots: list[Slot]
    home: bool
    """Whether it is one that only keeps copies."""
    since: float
    until: float
    """When it counts as one that will not begin."""


class Late(EngineError):
    """A host has not begun in time."""


def waiting_for(hosts: Sequence[str], slots: Sequence[str]) -> str:
    """Say what is waited for.

    Args:
        hosts: where hosts are to begin.
        slots: where slots are of which nobody has told the GPUs yet.
    """
    things = [f"a host to begin on {where}" for where in hosts]
    things += [f"word of which GPUs a slot on {where} has" for where in slots]
    more = f", and {len(things) - _NAMED_AT_MOST} more" if len(things) > _NAMED_AT_MOST else ""
    return f"Waiting for {', '.join(things[:_NAMED_AT_MOST])}{more}."


def not_at_home(facts: HostFacts, folder: str) -> EngineError:
    """Return why a host cannot keep copies in the driver's folder, which does not work there."""
    return EngineError(
        f"a host on {facts.hostname} cannot use {folder}. It can where Ray runs as the same user as this script, and "
        f"in the same container."
    )


def why_not(error: BaseException) -> str:
    """Return the text of an error that something could not be done for."""
    return str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
