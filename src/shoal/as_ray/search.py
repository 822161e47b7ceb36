"""``BasicVariantGenerator``: random and grid search as an object, which in Shoal is how it always searches."""

from __future__ import annotations

import numbers
from typing import Any

from ..arguments import check_arguments
from ..errors import ConfigError

__all__ = ["BasicVariantGenerator", "settle_search"]


@check_arguments
class BasicVariantGenerator:
    """Random and grid search. What it says is taken over into ``max_concurrent_trials`` and ``seed``.

    Args:
        points_to_evaluate: only None or empty.
        max_concurrent: at most so many trials run at a time; 0: as many as the machine has slots for.
        constant_grid_search: only False.
        random_state: a whole number, which is the seed of the experiment; or None.

    Raises:
        ConfigError: an argument is misspelled, or is something that Shoal does not have.
    """

    def __init__(
        self,
        points_to_evaluate: list[dict[str, Any]] | None = None,
        max_concurrent: int = 0,
        constant_grid_search: bool = False,
        random_state: Any = None,
    ) -> None:
        if points_to_evaluate:
            raise ConfigError(
                f"BasicVariantGenerator: Shoal has no points_to_evaluate (it is {points_to_evaluate!r:.100}). Leave it "
                f"out, and give values that are to be tried with tune.grid_search([...]) in the space."
            )
        if constant_grid_search:
            raise ConfigError(
                "BasicVariantGenerator: Shoal has no constant_grid_search (it is True). Leave it out: each trial of a "
                "grid samples the rest of the space anew."
            )
        if not _is_int(max_concurrent) or max_concurrent < 0:
            raise ConfigError(
                f"BasicVariantGenerator: max_concurrent must be a whole number of 1 or more, or 0 for no limit, but is "
                f"{max_concurrent!r}."
            )
        if random_state is not None and not _is_int(random_state):
            raise ConfigError(
                f"BasicVariantGenerator: random_state must be a whole number or None, but is {random_state!r:.100}. "
                f"Shoal keeps generators of its own: give a number to seed them."
            )
        self.max_concurrent = int(max_concurrent)
        self.random_state: int | None = None if random_state is None else int(random_state)


def _is_int(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def settle_search(
    where: str, search_alg: Any, limit: int | None, seed: int | None
) -> tuple[Any, int | None, int | None]:
    """Return ``search_alg``, ``max_concurrent_trials`` and ``seed`` with what a generator says taken over.

    Args:
        where: what was called.
        search_alg, limit, seed: what it was given; anything but a :class:`BasicVariantGenerator` stays as it is.

    Raises:
        ConfigError: the generator contradicts the other two.
    """
    if not isinstance(search_alg, BasicVariantGenerator):
        return search_alg, limit, seed
    asked = search_alg.max_concurrent or None
    limit = _agreed(where, ("max_concurrent_trials", limit or None), ("max_concurrent", asked))
    return None, limit, _agreed(where, ("seed", seed), ("random_state", search_alg.random_state))


def _agreed(where: str, ours: tuple[str, int | None], theirs: tuple[str, int | None]) -> int | None:
    """Return the one of two settings that is given."""
    if ours[1] is not None and theirs[1] is not None and ours[1] != theirs[1]:
        raise ConfigError(
            f"{where}: {ours[0]} is {ours[1]}, but search_alg is a BasicVariantGenerator with {theirs[0]}={theirs[1]}. "
            f"Give it in one place."
        )
    return theirs[1] if ours[1] is None else ours[1]
