"""The search space: what values a hyperparameter may take, and how it moves among them.

A *domain* draws values, knows which values belong to it, and perturbs a value without leaving. The functions here carry
Ray Tune's names and signatures (``uniform``, ``randint``, ``choice``, ...). The type of a value comes from its domain:
an integer domain gives and keeps ``int``, a continuous one ``float``, and :func:`choice` hands out its very entries.

Bounds given upper first are taken as the interval they mean, with a :class:`SpaceWarning`. Wrong arguments raise
:class:`~shoal.errors.SpaceError`.

:func:`expand` turns a ``param_space`` into configs. It is a pure function of its arguments: each key draws from a
stream of its own, so adding a key, or drawing more samples, leaves the other draws as they were.
"""

from __future__ import annotations

from .containers import copy_containers, key_name, same
from .domains import Choice, Domain, Float, Function, GridSearch, Integer, Normal, seeded_globals
from .functions import (
    choice,
    grid_search,
    lograndint,
    loguniform,
    qlograndint,
    qloguniform,
    qrandint,
    qrandn,
    quniform,
    randint,
    randn,
    sample_from,
    uniform,
)
from .variants import (
    SpaceWarning,
    Variant,
    check_space,
    constants,
    expand,
    holds_domains,
    is_domain,
    log_keys,
    warn_if_reversed,
)

__all__ = [
    "Choice",
    "Domain",
    "Float",
    "Function",
    "GridSearch",
    "Integer",
    "Normal",
    "SpaceWarning",
    "Variant",
    "check_space",
    "choice",
    "constants",
    "copy_containers",
    "expand",
    "grid_search",
    "holds_domains",
    "is_domain",
    "key_name",
    "log_keys",
    "lograndint",
    "loguniform",
    "qlograndint",
    "qloguniform",
    "qrandint",
    "qrandn",
    "quniform",
    "randint",
    "randn",
    "same",
    "sample_from",
    "seeded_globals",
    "uniform",
    "warn_if_reversed",
]
