"""The table of Ray's names, and what Ray has and Shoal spells otherwise. Whole scripts are in ``end_to_end``."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal.as_ray
from shoal import tune
from shoal.as_ray import machine, session, settings, utils
from shoal.as_ray.modules import RayFinder, RayModule, absent, names_of
from shoal.as_ray.names import HINTS, MODULES
from shoal.errors import ConfigError, ReportError
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
    assert not there & (set(HINTS) - {"ray.train", "ray.tune.search"})


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
            tune.report({"score": step})

    where = settings.RunConfig("exp", str(tmp_path), stop={"training_iteration": 2}, verbose=0)
    tune.Tuner(train, tune_config=settings.TuneConfig("score", "max", engine="inline"), run_config=where).fit()
    longer = settings.RunConfig(stop={"training_iteration": 4})
    grid = tune.Tuner.restore(tmp_path / "exp", train, run_config=longer).fit()
    assert grid[0].metrics["training_iteration"] == 4


# ------------------------------------------------------------------------------------------------------------ the rest


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
        session.report({name: getattr(session, f"get_{name}")() for name in names} | session.get_trial_resources())

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
