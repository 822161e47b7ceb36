"""Errors of the library in the words of the command line: who types options has written no script."""

from __future__ import annotations

import re

__all__ = ["in_options"]

_OPTIONS = {
    "checkpoint_frequency": "--checkpoint-frequency",
    "control": "--control",
    "engine": "--engine",
    "max_concurrent_trials": "--max-concurrent",
    "max_failures": "--max-failures",
    "metric": "--metric",
    "mode": "--mode",
    "name": "--name",
    "num_samples": "--num-samples",
    "num_to_keep": "--checkpoints-to-keep",
    "perturbation_interval": "--perturbation-interval",
    "quantile_fraction": "--quantile",
    "resume_errored": "--resume-errored",
    "restart_errored": "--restart-errored",
    "seed": "--seed",
    "stop": "--stop",
    "storage_path": "--storage",
    "synch": "--synch",
    "time_attr": "--time-attr",
    "time_budget_s": "--time-budget",
    "verbose": "--verbose",
}
_CONFIG = r"(?:(?:run_config|tune_config)=)?(?:tune\.)?(?:TuneConfig|RunConfig|CheckpointConfig|FailureConfig)"
_OWNER = r"(?:TuneConfig|RunConfig|CheckpointConfig|FailureConfig|PopulationBasedTraining|Tuner\.restore)"
_NAMES = "|".join(_OPTIONS)
_SUBJECT = re.compile(rf"{_OWNER}: ({_NAMES}) (?=must|cannot|and )")
_CALL = re.compile(rf"{_CONFIG}\(({_NAMES})=(\{{[^{{}}]*\}}|\[[^\[\]]*\]|[^(),]*)\)")
_ONE_STOP = re.compile(r"\{['\"]([^'\"]+)['\"]: ([^,{}]+)\}")
_REST: tuple[tuple[str, str], ...] = (
    (r"(?:tune\.)?with_resources\(train, \{'(cpu|gpu)': ([^{}]*)\}\)", r"--\1s \2"),
    (r"\b(?:get_best_result|with_resources|Tuner\.restore): ", ""),
    (r"; see ResultGrid\.errors", "; see 'shoal status'"),
    (r"tune\.ResultGrid\.read\(\w+\)", "'shoal status'"),
    (r"tune\.Tuner\.restore\(folder, trainable\)(?:\.fit\(\))?", "shoal resume"),
    (r"[Gg]ive RunConfig a storage_path", "give --storage a folder"),
    (r"[Gg]ive RunConfig another name", "give another --name"),
    (r"another storage_path", "another --storage"),
    (r"metric of TuneConfig", "metric of the run"),
    (r"TuneConfig named none", "the run compared none"),
)


def in_options(text: str) -> str:
    """Return a text in which settings of the library that have an option are called by that."""
    text = _SUBJECT.sub(lambda found: f"{_OPTIONS[found[1]]} ", text)
    text = _CALL.sub(_option, text)
    for pattern, replacement in _REST:
        text = re.sub(pattern, replacement, text)
    return text


def _option(found: re.Match[str]) -> str:
    option, value = _OPTIONS[found[1]], found[2]
    if value in ("", "..."):
        return option
    if found[1] == "stop":
        one = _ONE_STOP.fullmatch(value)
        return f"{option} {one[1]}={one[2]}" if one is not None else option
    return f"{option} {value}"
