"""The rules of the house: which room may import what, what an import costs, how large a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "shoal"
MODULES = {
    ".".join(("shoal", *path.relative_to(SRC).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(SRC.rglob("*.py"))
}
PURE_STDLIB = {
    "__future__", "abc", "array", "bisect", "collections", "collections.abc", "contextlib", "copy", "dataclasses",
    "difflib", "enum", "fractions", "functools", "hashlib", "heapq", "inspect", "itertools", "math",
    "numbers", "operator", "random", "statistics", "sys", "types", "typing", "warnings",
}  # fmt: skip
PURE = ("shoal.core", "shoal.schedulers", "shoal.space", "shoal.errors", "shoal.arguments")
READERS = (
    "shoal.results", "shoal.sinks", "shoal.display", "shoal.plots", "shoal.history", "shoal.callbacks", "shoal.lineage",
    "shoal.loggers", "shoal.analysis", "shoal.stoppers", "shoal.reading", "shoal.timeline", "shoal.card",
    "shoal.inference", "shoal.report", "shoal.report_page", "shoal.dashboard", "shoal.viewing",
)  # fmt: skip


def imports(name: str) -> Iterator[str]:
    """Yield the absolute names of all modules that a module imports, wherever in the file it does."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield inner if inner in MODULES else module


def inside(name: str, rooms: tuple[str, ...]) -> bool:
    return any(name == room or name.startswith(room + ".") for room in rooms)


def test_the_import_finder_sees_what_is_there() -> None:
    assert "shoal.core.events" in set(imports("shoal.driver"))
    assert "shoal.core.policy" in set(imports("shoal.schedulers.pbt"))


@pytest.mark.parametrize("name", [name for name in MODULES if inside(name, PURE)])
def test_the_pure_rooms_import_only_each_other_and_pure_standard_modules(name: str) -> None:
    foreign = {found for found in imports(name) if not inside(found, PURE) and found not in PURE_STDLIB}
    assert not foreign


@pytest.mark.parametrize("name", [name for name in MODULES if inside(name, PURE)])
def test_the_pure_rooms_use_no_global_randomness_and_no_clock(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    used = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if node.value.id in ("random", "statistics", "time", "os")
    }
    # State of the global generator is saved and restored around a user's own function, nothing is drawn from it.
    assert used <= {"random.Random", "random.getstate", "random.setstate", "random.seed"}


@pytest.mark.parametrize("name", [name for name in MODULES if inside(name, READERS)])
def test_readers_never_import_what_decides_or_runs(name: str) -> None:
    forbidden = ("shoal.driver", "shoal.engines", "shoal.worker", "shoal.tuner", "shoal.plan", "shoal.wiring")
    assert not {found for found in imports(name) if inside(found, forbidden)}


def test_only_the_contract_of_engines_needs_pytest() -> None:
    users = {name for name in MODULES for found in imports(name) if found.split(".")[0] == "pytest"}
    assert users
    assert all(inside(name, ("shoal.testing.contracts",)) for name in users)
    others = [name for name in MODULES if not inside(name, ("shoal.testing.contracts",))]
    assert not {name for name in others for found in imports(name) if inside(found, ("shoal.testing.contracts",))}


def test_only_the_ray_engine_may_import_ray() -> None:
    offenders = {name for name in MODULES for found in imports(name) if found.split(".")[0] == "ray"}
    assert offenders <= {"shoal.engines.ray"}


def test_nothing_imports_the_stand_in_for_ray() -> None:
    inner = [name for name in MODULES if not inside(name, ("shoal.as_ray",))]
    assert not {name for name in inner for found in imports(name) if inside(found, ("shoal.as_ray",))}


def test_the_names_of_ray_tune_hold_no_logic() -> None:
    tree = ast.parse(MODULES["shoal.tune"].read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert defined == {"__dir__", "__getattr__"}


def test_importing_shoal_loads_nothing_heavy() -> None:
    code = "import sys, shoal; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {
        "torch", "ray", "pandas", "numpy", "matplotlib", "rich", "fsspec", "psutil", "cloudpickle", "sqlite3", "typer",
        "click", "plotly", "starlette", "uvicorn", "jinja2",
    }  # fmt: skip
    assert not heavy & set(loaded)


FILES = [path for room in ("src", "tests", "benchmarks") for path in sorted((SRC.parents[1] / room).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_is_longer_than_700_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 700


def test_the_public_names_are_those_that_the_guide_uses_and_no_others() -> None:
    import shoal
    from shoal import tune
    from shoal.tune import schedulers

    assert set(shoal.__all__) == {
        "ObjectRef", "__version__", "get", "init", "is_initialized", "put", "shutdown", "tune",
    }  # fmt: skip
    assert set(tune.__all__) == {
        "CLIReporter", "Callback", "CheckApplied", "Checkpoint", "CheckpointConfig", "ExperimentAnalysis",
        "FailureConfig", "JupyterNotebookReporter", "PlacementGroupFactory", "Result", "ResultGrid", "RunConfig",
        "Stopper", "Trainable", "TuneConfig", "TuneError", "Tuner", "callback", "choice", "create_scheduler",
        "get_checkpoint", "get_context",
        "grid_search", "logger", "lograndint", "loguniform", "qlograndint", "qloguniform", "qrandint", "qrandn",
        "quniform", "randint", "randn", "register_trainable", "report", "run", "sample_from", "schedulers", "stopper",
        "uniform", "with_parameters", "with_resources",
    }  # fmt: skip
    assert set(schedulers.__all__) == {
        "FIFOScheduler", "PopulationBasedTraining", "PopulationBasedTrainingReplay", "TrialScheduler",
    }  # fmt: skip
    for module in (shoal, tune, schedulers):
        assert all(hasattr(module, name) for name in module.__all__)
        assert all(getattr(module, name).__doc__ for name in module.__all__ if name != "__version__")
