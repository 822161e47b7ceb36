"""The table of Ray's names, and what Ray has and Shoal spells otherwise. Whole scripts are in ``end_to_end``."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal.as_ray
from shoal import tune
from shoal.as_ray import machine, running, search, session, settings, utils
from shoal.as_ray.context import TrialResources
from shoal.as_ray.modules import RayFinder, RayModule, absent, names_of
from shoal.as_ray.names import HINTS, MODULES
from shoal.as_ray.trainable import Trainable
from shoal.errors import ConfigError, ReportError
from shoal.resources import Request, resources_of
from shoal.schedulers import FIFOScheduler

wrong: Any = settings
"""The same, for what a type checker refuses."""


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install, and take everything back after the test."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setenv("SHOAL_PRELOAD", "")
    monkeypatch.setenv("TUNE_ORIG_WORKING_DIR", "")
    monkeypatch.setenv("SHOAL_CHDIR_TO_TRIAL_DIR", "0")
    before = set(sys.modules)
    shoal.as_ray.install()
    yield
    for name in set(sys.modules) - before:
        if name == "ray" or name.startswith("ray."):
            del sys.modules[name]


# --------------------------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("name", MODULES)
def test_every_module_can_be_imported_and_all_its_names_are_there(installed: None, name: str) -> None:
    if "examples." in name:
        pytest.importorskip("torch")
    module = importlib.import_module(name)
    assert isinstance(module, RayModule)
    for attribute in names_of(name):
        assert getattr(module, attribute) is not None
    assert set(names_of(name)) <= set(dir(module))


def test_every_module_has_its_parents() -> None:
    assert {name.rpartition(".")[0] for name in MODULES if name != "ray"} <= set(MODULES)


def test_no_hint_is_about_a_name_that_is_there() -> None:
    there = {f"{module}.{name}" for module in MODULES for name in names_of(module)}
    about_the_rest_of_it = {"ray.train", "ray.tune.search", "ray.tune.integration", "ray.air.integrations", "ray.util"}
    assert not there & (set(HINTS) - about_the_rest_of_it)


def test_hints_end_as_sentences_do() -> None:
    assert all(text.endswith(".") and text[0].isupper() for text in HINTS.values())


def test_names_are_shoals_own(installed: None) -> None:
    air, train, rays, pbt = (
        importlib.import_module(f"ray.{name}") for name in ("air", "train", "tune", "tune.schedulers.pbt")
    )
    assert rays.Tuner is tune.Tuner
    assert rays.uniform is tune.uniform
    assert train.report is air.session.report is rays.report is tune.report
    assert air.Checkpoint is train.Checkpoint is rays.Checkpoint is tune.Checkpoint
    assert pbt.PopulationBasedTraining is tune.schedulers.PopulationBasedTraining
    assert issubclass(rays.RunConfig, tune.RunConfig)
    assert air.RunConfig is train.RunConfig is rays.RunConfig


def test_whatever_the_tune_module_exports_is_in_rays(installed: None) -> None:
    assert set(tune.__all__) - set(names_of("ray.tune")) == set()


# ---------------------------------------------------------------------------------------------------------- what is not


def test_an_error_names_the_nearest_module_and_what_is_in_it() -> None:
    text = absent("ray.tune.schedulers.PopulationBasdTraining")
    assert text.startswith("Shoal has no ray.tune.schedulers.PopulationBasdTraining (this script runs on Shoal")
    assert "Did you mean 'PopulationBasedTraining'?" in text
    assert re.search(r"ray\.tune\.schedulers has: .*FIFOScheduler.*\.$", text)
    assert "ray.tune has: Callback," in absent("ray.tune.cloud.upload")
    assert "ray has: air," in absent("ray.serve.api.run")


def test_a_hint_covers_all_that_begins_with_its_name() -> None:
    advice = HINTS["ray.tune.integration"]
    assert advice in absent("ray.tune.integration.wandb")
    assert advice in absent("ray.tune.integration")
    assert advice not in absent("ray.tune.integrations")


def test_attributes_of_python_are_plainly_not_there(installed: None) -> None:
    module = importlib.import_module("ray.tune")
    assert not hasattr(module, "__file__")
    with pytest.raises(AttributeError, match=r"^module 'ray\.tune' has no attribute '__wrapped__'$"):
        _ = module.__wrapped__


def test_other_modules_are_not_the_finders_business() -> None:
    assert RayFinder().find_spec("rayon") is None
    assert RayFinder().find_spec("torch.ray") is None


def test_installing_twice_changes_nothing(installed: None) -> None:
    before = [type(finder) for finder in sys.meta_path], dict(sys.modules)
    shoal.as_ray.install()
    assert ([type(finder) for finder in sys.meta_path], dict(sys.modules)) == before


def test_a_module_of_ray_travels_by_its_name(installed: None) -> None:
    import cloudpickle

    module = importlib.import_module("ray.tune")
    assert cloudpickle.loads(cloudpickle.dumps(module)) is module


IMPORTS = {
    "import ray.rllib": ("Shoal has no ray.rllib (", "ray.rllib"),
    "import ray.rllib.algorithms.ppo as ppo": ("Shoal has no ray.rllib (", "ray.rllib"),
    "from ray.rllib import ppo": ("Shoal has no ray.rllib (", "ray.rllib"),
    "importlib.import_module('ray.rllib')": ("Shoal has no ray.rllib (", "ray.rllib"),
    "import ray.tune.integration.wandb": ("Shoal has no ray.tune.integration.wandb (", "ray.tune.integration.wandb"),
    "from ray.tune.integration.wandb import x": ("no ray.tune.integration.wandb (", "ray.tune.integration.wandb"),
    "import ray.train.torch": ("Shoal has no ray.train.torch (", "ray.train.torch"),
    # Python would put its own text in the place of an error that has the name here.
    "from ray import rllib": ("Shoal has no ray.rllib (", None),
    "from ray.tune.schedulers import PB2": ("Shoal has no ray.tune.schedulers.PB2 (", None),
    "from ray.tune import integration as i, unifrom": ("Shoal has no ray.tune.unifrom (", None),
    # As Python does where the parent of the module is not there.
    "importlib.util.find_spec('ray.rllib.algorithms')": ("Shoal has no ray.rllib (", "ray.rllib"),
}


@pytest.mark.parametrize("statement", IMPORTS)
def test_an_import_of_what_is_not_there_says_so_and_names_it(installed: None, statement: str) -> None:
    expected, name = IMPORTS[statement]
    with pytest.raises(ModuleNotFoundError, match=re.escape(expected)) as raised:
        exec(statement, {"importlib": importlib})
    assert raised.value.name == name


@pytest.mark.parametrize(
    "name",
    ["ray.rllib", "ray.train.torch", "ray.train.lightning", "ray.tune.integration.wandb", "ray.air.integrations.wandb",
     "ray.tune.schedulers.PB2", "ray.util.xgboost", "ray.tune.search.optuna", "ray.tune.schedulers.pb2"],
)  # fmt: skip
def test_whether_a_module_is_there_may_be_asked(installed: None, name: str) -> None:
    assert importlib.util.find_spec(name) is None
    assert name not in sys.modules
    with pytest.raises(ModuleNotFoundError, match="Shoal has no"):
        importlib.import_module(name)


def test_what_is_there_is_found_and_not_imported() -> None:
    code = """
import importlib.util, sys, shoal.as_ray
shoal.as_ray.install()
from importlib.util import find_spec
print(find_spec("ray.tune.schedulers").name, find_spec("ray").name, "ray.tune.schedulers" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "ray.tune.schedulers ray False\n"


def test_the_loggers_of_old_lead_to_callbacks() -> None:
    for name in (
        "Logger",
        "UnifiedLogger",
        "DEFAULT_LOGGERS",
        "logger.Logger",
        "unified.UnifiedLogger",
        "csv.CSVLogger",
    ):
        assert "LoggerCallback and give it as callbacks=[...]" in absent(f"ray.tune.logger.{name}")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("ray.nodes", "ray.cluster_resources"),
        ("ray.state.nodes", "ray.cluster_resources"),
        ("ray.util.queue", "concurrent.futures"),
        ("ray.util.get_node_ip_address", "no tasks and actors"),
        ("ray.exceptions.RayTaskError", "result.error"),
        ("ray.get_runtime_context", "tune.get_context()"),
        ("ray.timeline", "result.metrics_dataframe"),
        ("ray.job_config.JobConfig", "no jobs"),
        ("ray._private.services", "inner parts"),
    ],
)
def test_what_else_is_not_there_has_advice(name: str, advice: str) -> None:
    assert advice in absent(name)


# ------------------------------------------------------------------------------------------------------------- settings


def test_rays_run_config_is_shoals() -> None:
    config = settings.RunConfig(
        "exp", local_dir="/tmp/x", verbose=None, log_to_file=None, progress_reporter=None, sync_config=None
    )
    assert config == settings.RunConfig(name="exp", storage_path="/tmp/x")
    assert isinstance(config, tune.RunConfig)
    assert (config.name, config.storage_path, config.verbose, config.log_to_file) == ("exp", "/tmp/x", 1, True)
    assert settings.RunConfig(verbose=False).verbose == 0
    assert settings.RunConfig(verbose=utils.Verbosity.V2_TRIAL_NORM).verbose == 2


def test_rays_tune_config_is_shoals() -> None:
    config = settings.TuneConfig("loss", "min", scheduler="fifo", max_concurrent_trials=0, seed=3)
    assert isinstance(config, tune.TuneConfig)
    assert isinstance(config.scheduler, FIFOScheduler)
    assert (config.metric, config.mode, config.max_concurrent_trials, config.seed) == ("loss", "min", None, 3)
    assert settings.TuneConfig(chdir_to_trial_dir=False, search_alg="random").num_samples == 1


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("RunConfig", {"storage_filesystem": 3}, r"RunConfig: Shoal has no storage_filesystem \(it is 3\)"),
        ("RunConfig", {"sync_config": 3}, "RunConfig: Shoal has no sync_config"),
        ("RunConfig", {"progress_reporter": 3}, "progress_reporter must be None or a reporter"),
        ("RunConfig", {"storage_path": "a", "local_dir": "b"}, "give only storage_path"),
        ("RunConfig", {"log_to_file": "a.txt"}, "RunConfig: log_to_file must be True or False"),
        ("RunConfig", {"nam": "a"}, "RunConfig has no argument 'nam'"),
        ("TuneConfig", {"search_alg": 3}, r"TuneConfig: Shoal has no search_alg \(it is 3\)\. Shoal samples"),
        ("TuneConfig", {"trial_dirname_creator": str}, "TuneConfig: Shoal has no trial_dirname_creator"),
        ("TuneConfig", {"metrics": "a"}, "TuneConfig has no argument 'metrics'.*'metric'"),
    ],
)
def test_settings_that_are_not_there_are_refused_by_name(kind: str, given: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        getattr(wrong, kind)(**given)


def test_rays_settings_go_into_a_run_and_its_restore(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        for step in range(1, 10):
            tune.report({"score": step}, checkpoint=tune.Checkpoint.from_directory(config["files"]))

    where = settings.RunConfig("exp", str(tmp_path), stop={"training_iteration": 2}, verbose=0)
    files = tmp_path / "files"
    files.mkdir()
    best = settings.TuneConfig("score", "max", engine="inline")
    tune.Tuner(train, param_space={"files": str(files)}, tune_config=best, run_config=where).fit()
    longer = settings.RunConfig(stop={"training_iteration": 4})
    grid = tune.Tuner.restore(tmp_path / "exp", train, run_config=longer).fit()
    assert grid[0].metrics["training_iteration"] == 4


def test_a_variant_generator_says_how_many_run_at_a_time_and_the_seed() -> None:
    generator = search.BasicVariantGenerator(None, 4, constant_grid_search=False, random_state=7)
    config = settings.TuneConfig(search_alg=generator)
    assert (config.max_concurrent_trials, config.seed) == (4, 7)
    config = settings.TuneConfig(search_alg=search.BasicVariantGenerator(), max_concurrent_trials=2, seed=3)
    assert (config.max_concurrent_trials, config.seed) == (2, 3)
    assert settings.TuneConfig(search_alg=generator, max_concurrent_trials=4, seed=7) == settings.TuneConfig(
        search_alg=generator
    )
    assert settings.TuneConfig(search_alg=search.BasicVariantGenerator([])).max_concurrent_trials is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"points_to_evaluate": [{"lr": 1}]}, r"no points_to_evaluate \(it is \[\{'lr': 1\}\]\).*tune\.grid_search"),
        ({"constant_grid_search": True}, "no constant_grid_search.*Leave it out"),
        ({"random_state": "x"}, "random_state must be a whole number or None, but is 'x'"),
        ({"max_concurrent": -1}, "max_concurrent must be a whole number of 1 or more, or 0 for no limit, but is -1"),
        ({"max_concurrency": 1}, "no argument 'max_concurrency'. Did you mean 'max_concurrent'"),
    ],
)
def test_a_variant_generator_refuses_by_name_what_is_not_there(given: dict[str, Any], expected: str) -> None:
    kind: Any = search.BasicVariantGenerator
    with pytest.raises(ConfigError, match=expected):
        kind(**given)


def test_a_variant_generator_must_not_contradict() -> None:
    generator = search.BasicVariantGenerator(max_concurrent=4, random_state=1)
    with pytest.raises(ConfigError, match=r"max_concurrent_trials is 2, but search_alg .* max_concurrent=4"):
        settings.TuneConfig(search_alg=generator, max_concurrent_trials=2)
    with pytest.raises(ConfigError, match=r"tune\.run: seed is 2, but search_alg .* random_state=1"):
        running.run(lambda config: None, search_alg=generator, seed=2)
    with pytest.raises(ConfigError, match=r"tune\.run: Shoal has no search_alg \(it is 3\)"):
        running.run(lambda config: None, search_alg=3)


def test_tune_run_takes_a_variant_generator(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        tune.report({"x": config["x"]})

    def drawn(name: str, **arguments: Any) -> list[float]:
        analysis = running.run(
            train, name=name, config={"x": tune.uniform(0, 1)}, num_samples=3, storage_path=tmp_path, verbose=0,
            engine="inline", **arguments,
        )  # fmt: skip
        return [result["x"] for result in analysis.results.values()]

    generator = search.BasicVariantGenerator(random_state=5, max_concurrent=1)
    assert drawn("one", search_alg=generator) == drawn("two", seed=5)


# ------------------------------------------------------------------------------------------------------------ the rest


def test_a_result_is_printed_so_that_it_can_be_read() -> None:
    np = pytest.importorskip("numpy")
    result = {
        "loss": np.float64(0.5), "done": False, "config": {"lr": 1}, "nothing": None, "timers": {"b": 2, "a": {}},
        "path": "/tmp/x", "lines": "one\ntwo", "list": [1, {"c": 3}, []], "hidden": 1,
    }  # fmt: skip
    assert utils.pretty_print(result, exclude={"hidden"}).splitlines() == [
        "done: false", 'lines: "one\\ntwo"', "list:", "  - 1", "  -", "    c: 3", "  - []", "loss: 0.5",
        "path: /tmp/x", "timers:", "  a: {}", "  b: 2",
    ]  # fmt: skip
    assert utils.pretty_print({}) == ""
    assert utils.pretty_print({"a": 1}) == "a: 1\n"


def test_resources_of_a_trial_can_be_read_both_ways() -> None:
    found = TrialResources(2.0, 0.0)
    assert isinstance(found, tune.PlacementGroupFactory)
    assert found.bundles == [{"CPU": 2.0}]
    assert found.required_resources == {"CPU": 2.0}
    assert (found["cpu"], found.get("gpu"), dict(found)) == (2.0, 0.0, {"cpu": 2.0, "gpu": 0.0})
    assert found == {"cpu": 2.0, "gpu": 0.0} == found
    assert found == tune.PlacementGroupFactory([{"CPU": 2.0}]) == found
    assert found != TrialResources(2.0, 1.0)
    assert found != {"cpu": 2.0}
    again = pickle.loads(pickle.dumps(found))
    assert (again, again.bundles, type(again)) == (found, found.bundles, TrialResources)
    assert TrialResources(0.0, 0.5).required_resources == {"GPU": 0.5}

    def train(config: dict[str, Any]) -> None: ...

    assert resources_of(tune.with_resources(train, found)) == Request(2.0, 0.0)


def test_a_class_knows_its_iteration_by_rays_name_too(tmp_path: Path) -> None:
    class Counter(Trainable):
        def step(self) -> dict[str, Any]:
            given = self.trial_resources
            assert isinstance(given, TrialResources)
            return {"before": self._iteration, "cpu": given.required_resources["CPU"], "done": self._iteration == 2}

    assert issubclass(Counter, tune.Trainable)
    (result,) = tune.Tuner(
        Counter,
        tune_config=tune.TuneConfig(engine="inline"),
        run_config=tune.RunConfig(storage_path=tmp_path, verbose=0),
    ).fit()
    assert result.error is None
    assert (result.metrics["before"], result.metrics["training_iteration"], result.metrics["cpu"]) == (2, 3, 1.0)
    alone = Counter()
    alone._iteration = 5
    assert (alone.iteration, alone.trial_resources) == (5, {})


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take back what ``init`` does to the process."""
    shoal.shutdown()
    monkeypatch.delenv("SHOAL_ENGINE", raising=False)
    yield
    machine.shutdown()


def where(tmp_path: Path) -> int:
    """Return the process of a trial that nobody has chosen an engine for."""

    def train(config: dict[str, Any]) -> None:
        tune.report({"process": os.getpid()})

    (result,) = tune.Tuner(train, run_config=tune.RunConfig(storage_path=tmp_path, verbose=0)).fit()
    return int(result.metrics["process"])


def test_local_mode_runs_trials_in_this_process_until_shutdown(tmp_path: Path, apart: None) -> None:
    with pytest.warns(
        UserWarning, match=r"^ray\.init\(local_mode=True\): all trials run in this process, one at"
    ) as told:
        machine.init(local_mode=True, num_cpus=2)
    assert [warning.filename for warning in told] == [__file__]
    assert shoal.is_initialized()
    assert where(tmp_path / "local") == os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        machine.init(local_mode=True, ignore_reinit_error=True)
    machine.shutdown()
    assert not shoal.is_initialized()
    assert "SHOAL_ENGINE" not in os.environ
    machine.init()
    assert where(tmp_path / "usual") != os.getpid()


def test_local_mode_leaves_an_engine_that_the_user_chose(monkeypatch: pytest.MonkeyPatch, apart: None) -> None:
    monkeypatch.setenv("SHOAL_ENGINE", "processes")
    with pytest.warns(UserWarning, match="without effect, because SHOAL_ENGINE=processes is set"):
        machine.init(local_mode=True)
    machine.shutdown()
    assert os.environ["SHOAL_ENGINE"] == "processes"


def test_local_mode_that_comes_too_late_is_ignored(apart: None) -> None:
    machine.init(num_cpus=1)
    with pytest.warns(UserWarning, match="local_mode=True is ignored"):
        machine.init(local_mode=True, ignore_reinit_error=True)
    assert "SHOAL_ENGINE" not in os.environ
    with pytest.raises(ConfigError, match="called twice"):
        machine.init(local_mode=True)
    with pytest.raises(ConfigError, match="no argument 'num_cpu'"):
        machine.init(num_cpu=1)


def test_dicts_are_flattened_and_back() -> None:
    nested = {"a": 1, "val": {"loss": 2, "top": {"k": 3}}, "empty": {}}
    flat = {"a": 1, "val/loss": 2, "val/top/k": 3, "empty": {}}
    assert utils.flatten_dict(nested) == flat
    assert utils.unflatten_dict(flat) == nested
    assert utils.flatten_dict({"a": {"b": 1}}, delimiter=".") == {"a.b": 1}
    assert utils.merge_dicts(nested, {"val": {"loss": 5}, "b": 2}) == {
        "a": 1, "val": {"loss": 5, "top": {"k": 3}}, "empty": {}, "b": 2,
    }  # fmt: skip
    assert nested["val"] == {"loss": 2, "top": {"k": 3}}


def test_saving_and_restoring_is_tried_out() -> None:
    class Counter(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.count = config["start"]

        def step(self) -> dict[str, Any]:
            self.count += 1
            return {"count": self.count}

        def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
            return {"count": self.count}

        def load_checkpoint(self, checkpoint: Any) -> None:
            self.count = checkpoint["count"]

    class Forgets(Counter):
        def restore(self, checkpoint_path: Any) -> None:
            pass

    assert utils.validate_save_restore(Counter, {"start": 3}, num_gpus=1) is True
    with pytest.raises(ConfigError, match="Forgets is at iteration 4, but the one that restored it is at 1"):
        utils.validate_save_restore(Forgets, {"start": 3}, use_object_store=True)
    with pytest.raises(NotImplementedError):
        utils.validate_save_restore(tune.Trainable)


def test_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5,GPU-7")
    assert machine.get_gpu_ids() == [3, 5, "GPU-7"]
    shoal.init(num_cpus=6, num_gpus=2, ignore_reinit_error=True)
    try:
        assert machine.cluster_resources() == machine.available_resources() == {"CPU": 6.0, "GPU": 2.0}
    finally:
        shoal.shutdown()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.get_gpu_ids() == []
    assert set(machine.cluster_resources()) == {"CPU"}


def test_a_session_tells_who_the_member_is(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        names = ("trial_id", "trial_name", "trial_dir", "experiment_name", "world_size", "world_rank", "local_rank")
        given = session.get_context().get_trial_resources()
        assert given == session.get_trial_resources()
        assert given.required_resources == given.bundles[0] == {"CPU": 1.0}
        session.report({name: getattr(session, f"get_{name}")() for name in names} | given)

    (result,) = tune.Tuner(
        train,
        tune_config=tune.TuneConfig(engine="inline"),
        run_config=tune.RunConfig(name="exp", storage_path=tmp_path, verbose=0),
    ).fit()
    metrics = result.metrics
    assert metrics["trial_name"] == f"train_{metrics['trial_id']}"
    assert metrics["trial_dir"] == result.path
    assert (metrics["experiment_name"], metrics["world_size"], metrics["world_rank"]) == ("exp", 1, 0)
    assert (metrics["local_rank"], metrics["cpu"], metrics["gpu"]) == (0, 1.0, 0.0)
    with pytest.raises(ReportError):
        session.get_trial_id()
