"""Scripts for Ray Tune run as they are, each in a process of its own: ``python -m shoal.as_ray script.py``.

Those in ``ray_scripts/`` name nothing of Shoal. The real Ray is not installed, so whatever they use is Shoal's.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).with_name("ray_scripts")


def start(cwd: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m shoal.as_ray`` with arguments."""
    return subprocess.run(
        [sys.executable, "-m", "shoal.as_ray", *arguments],
        cwd=cwd,
        env={**os.environ, "SHOAL_DIR": str(cwd / "results"), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def run_source(cwd: Path, source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (cwd / "script.py").write_text(textwrap.dedent(source))
    return start(cwd, "script.py", *arguments)


def outcome(cwd: Path, name: str, *arguments: str) -> dict[str, Any]:
    """Run one of the scripts and return what it found out."""
    done = start(cwd, str(SCRIPTS / name), *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout.rpartition("OUTCOME")[2])
    return found


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.name)
def test_the_scripts_name_nothing_of_shoal(path: Path) -> None:
    assert "shoal" not in path.read_text().lower()


def test_nothing_of_the_real_ray_is_loaded_where_it_is_installed(tmp_path: Path) -> None:
    done = run_source(
        tmp_path,
        "import sys, ray, ray.train\nfrom ray import tune\n"
        "real = [name for name, module in sys.modules.items()\n"
        "        if '/site-packages/ray/' in str(getattr(module, '__file__', None))]\n"
        "print(tune.Tuner.__module__, real)",
    )
    assert done.stdout.split() == ["shoal.tuner", "[]"], done.stderr


# ------------------------------------------------------------------------------------------------------- whole scripts


def test_pbt_of_a_convnet_as_in_the_guide(tmp_path: Path) -> None:
    found = outcome(tmp_path, "mnist.py", str(tmp_path / "elsewhere"))
    assert len(found["accuracies"]) == 4
    assert max(found["accuracies"]) > 0.5
    assert found["iterations"][0] == 1
    assert set(found["config"]) == {"lr", "momentum", "checkpoint_interval"}
    assert Path(found["path"]).parent == tmp_path / "elsewhere" / "pbt_test"
    assert (Path(found["path"]) / "result.json").is_file()


def test_members_write_to_the_same_relative_path_without_mixing_it_up(tmp_path: Path) -> None:
    done = start(tmp_path, str(SCRIPTS / "relative_paths.py"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "each its own" in done.stdout


def test_a_class_trainable_with_tune_run(tmp_path: Path) -> None:
    found = outcome(tmp_path, "class_pbt.py", "--smoke-test")
    assert found["iterations"] == [9, 9, 9, 9]
    assert found["best"] > 1.0
    assert sum(found["resets"]) > 0
    assert "state.json" in found["checkpoint"]
    assert found["config"]["some_other_factor"] in (1, 2)


def test_a_nested_config(tmp_path: Path) -> None:
    found = outcome(tmp_path, "nested_config.py")
    config = found["config"]
    assert set(config) == {"optim", "net"}
    assert config["optim"]["betas"]["beta2"] == 0.999
    assert 1e-4 <= config["optim"]["lr"] <= 1e-1
    assert config["optim"]["betas"]["beta1"] > 0.0  # of a function, which has no bounds to stay in
    assert 1 <= config["net"]["width"] <= 64
    assert type(config["net"]["width"]) is int
    assert found["width"] == config["net"]["width"]
    assert config["net"]["depth"] == 2
    assert found["epochs"] == [8, 8, 8, 8]
    assert found["exploits"] > 0


def test_random_and_grid_search(tmp_path: Path) -> None:
    found = outcome(tmp_path, "search.py")
    assert (found["trials"], found["errors"]) == (6, 0)
    assert found["best"] == 1.0
    assert found["score"] in (1.0 * 4**0.5 + 1 + 1, 1.0 * 4**0.5 + 2 + 1)
    assert found["iterations"] == [5] * 6
    assert found["a"] == [0.001, 0.001, 0.01, 0.01, 1.0, 1.0]
    assert found["returned"] == [3, 5]


def test_callbacks_and_loggers_of_ones_own(tmp_path: Path) -> None:
    found = outcome(tmp_path, "callbacks.py")
    assert found["results"] == 15
    assert found["completed"] == [0.1, 0.2, 0.3]
    assert found["best"] == pytest.approx([0.4, 0.8, 1.2])
    assert found["lines"] == [[alpha, [0, 1, 2, 3, 4]] for alpha in (0.1, 0.2, 0.3)]


def test_all_that_is_asked_of_an_analysis(tmp_path: Path) -> None:
    found = outcome(tmp_path, "analysis.py")
    experiment = tmp_path / "ray_results" / "analysis"
    assert found["best_config"] == {"x": 2.0, "bumps": [0.5, -0.25, 0.25, 0.125]}
    x, loss, best_id = found["best_trial"]
    assert (x, loss) == (2.0, 0.125)
    assert best_id.endswith("_00001")
    assert found["best_by_acc"] == found["read"] == 3.5
    assert found["best_ever"] == -0.25
    (logdir,) = set(found["logdir"])
    assert Path(logdir).parent == experiment
    assert found["frames"] == [[True, 4, 3.0], [True, 4, 6.0], [True, 4, 10.5]]
    assert found["by_id"] == [0.5, -0.25, 0.25, 0.125]
    assert found["dataframe"] == [0.75, -0.25, 2.0]
    assert found["last"] == [1.125, 0.125, 2.375]
    assert found["results_df"] == [3.0, 6.0, 10.5]
    assert found["results"] == [3.0, 6.0, 10.5]
    assert found["configs"] == [1.0, 2.0, 3.5]
    assert (found["checkpoint"], found["of_trial"], found["last_checkpoint"]) == ("1", "3", "3")
    assert found["failure"].startswith("1 of 2 trials failed:\n")
    assert "RuntimeError: x is too large" in found["failure"]
    assert found["iterations"] == [4, 4, 4]


def test_session_and_train_and_shared_objects(tmp_path: Path) -> None:
    found = outcome(tmp_path, "session_style.py")
    assert found["iterations"] == [6, 6, 6]
    assert found["acc"] == pytest.approx(6 * found["lr"] * 2)
    assert found["rank"] == 0
    assert found["who"].endswith(found["trial_id"])
    assert found["is_checkpoint"] is True
    assert found["dirs"] == [True, True]
    assert found["name"] == "train"
    assert (tmp_path / "elsewhere" / "train").is_dir()
    assert (tmp_path / "results" / "air").is_dir()


def test_a_replay(tmp_path: Path) -> None:
    found = outcome(tmp_path, "replay.py")
    assert found["error"] == "None"
    assert found["iterations"] == list(range(1, 13))
    expected, config, steps = [], found["first"], dict(found["policy"])
    for iteration in range(1, 13):
        expected.append(config)
        config = steps.get(iteration, config)
    assert found["lr"] == pytest.approx(expected)


# ---------------------------------------------------------------------------------------------------- what is not there


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from ray.tune.schedulers import PB2", "no ray.tune.schedulers.PB2 .* PopulationBasedTraining is the nearest"),
        ("from ray.tune.schedulers.pb2 import PB2", "no ray.tune.schedulers.pb2 .* is the nearest"),
        ("from ray import tune\ntune.schedulers.ASHAScheduler()", "no ray.tune.schedulers.ASHAScheduler .*stopper"),
        ("import ray\n@ray.remote\ndef f(): ...", "no ray.remote .*no tasks and actors"),
        ("import ray.rllib.algorithms.ppo as ppo", "no ray.rllib .*reinforcement learning"),
        ("from ray.train.torch import TorchTrainer", "no ray.train.torch .*one process"),
        ("from ray.tune.search.optuna import OptunaSearch", "no ray.tune.search.optuna .*at random and by grid"),
        ("from ray.tune import unifrom", "no ray.tune.unifrom .*Did you mean 'uniform'"),
        ("import ray.tune\nray.tune.chioce([1])", "no ray.tune.chioce .*Did you mean 'choice'"),
        ("from ray import tune\ntune.run('PPO')", "no trainable 'PPO'.*RLlib"),
        ("import ray\nray.init(address='auto')", "shoal.as_ray hides Ray from the script. Change its import lines"),
        ("from ray import tune\ntune.TuneConfig(search_alg=1)", "TuneConfig: Shoal has no search_alg"),
        ("from ray import tune\ntune.RunConfig(sync_config=1)", "RunConfig: Shoal has no sync_config"),
    ],
)
def test_a_name_that_is_not_there_fails_with_an_error_that_says_so(tmp_path: Path, source: str, expected: str) -> None:
    done = run_source(tmp_path, source)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert_matches(expected, last)
    assert 'script.py", line' in done.stderr


def assert_matches(pattern: str, text: str) -> None:
    """Check a text against a pattern in which only ``.*`` means something."""
    assert re.search(".*".join(map(re.escape, pattern.split(".*"))), text), text


def test_in_a_member_too(tmp_path: Path) -> None:
    source = """
    from ray import tune

    def train(config):
        if config["way"] == 0:
            with tune.checkpoint_dir(step=1):
                pass
        elif config["way"] == 1:
            tune.report(loss=0.1)
        else:
            from ray.train import get_dataset_shard

    grid = tune.Tuner(train, param_space={"way": tune.grid_search([0, 1, 2])}).fit()
    for error in grid.errors:
        print("ERROR", str(error).splitlines()[-1])
    """
    done = run_source(tmp_path, source)
    lines = [line for line in done.stdout.splitlines() if line.startswith("ERROR")]
    assert len(lines) == 3, done.stderr
    assert_matches("no ray.tune.checkpoint_dir .*tune.Checkpoint.from_directory", lines[0])
    assert "tune.report takes a dict: tune.report({'loss': ...}" in lines[1]
    assert_matches("no ray.train.get_dataset_shard", lines[2])


def test_names_may_be_asked_for(tmp_path: Path) -> None:
    source = """
    import ray
    from ray import tune
    from ray.tune import *

    try:
        from ray.tune.schedulers import PB2
    except ImportError:
        PB2 = None
    print(hasattr(ray, "remote"), getattr(tune, "Experiment", "none"), PB2)
    print("uniform" in dir(tune), uniform is tune.uniform)
    print(ray.cluster_resources()["CPU"] >= 1, ray.get_gpu_ids(), ray.__version__.split("+")[0])
    """
    done = run_source(tmp_path, source)
    assert done.stdout.splitlines() == ["False none None", "True True", "True [] 2.60.0"], done.stderr


def test_libraries_may_look_for_what_they_can_use(tmp_path: Path) -> None:
    source = """
    from importlib.util import find_spec
    from ray import tune

    def look():
        names = ("ray", "ray.tune", "ray.rllib", "ray.train.torch", "ray.tune.integration.wandb", "ray.util.xgboost")
        return [find_spec(name) is not None for name in names]

    def train(config):
        try:
            import ray.rllib
        except ModuleNotFoundError as error:
            tune.report({"found": look(), "name": error.name})

    print(look())
    metrics = tune.Tuner(train, run_config=tune.RunConfig(verbose=0)).fit()[0].metrics
    print(metrics["found"], metrics["name"])
    """
    done = run_source(tmp_path, source)
    found = "[True, True, False, False, False, False]"
    assert done.stdout.splitlines() == [found, f"{found} ray.rllib"], done.stderr


# ------------------------------------------------------------------------------------------------ what Ray spells so


def test_local_mode_runs_all_in_the_scripts_process(tmp_path: Path) -> None:
    source = """
    import os
    import ray
    from ray import tune

    seen = []

    def train(config):
        seen.append(os.getpid())
        tune.report({"a": 1})

    ray.init(local_mode=True, ignore_reinit_error=True)
    tune.run(train, num_samples=2, verbose=0)
    ray.shutdown()
    ray.init()
    tune.run(train, num_samples=2, verbose=0)
    print(seen == [os.getpid()] * 2)
    """
    done = run_source(tmp_path, source)
    assert done.stdout.splitlines() == ["True"], done.stderr
    notice = (
        "script.py:12: UserWarning: ray.init(local_mode=True): all trials run in this process, one at a time, as with"
    )
    assert notice in done.stderr


def test_members_read_what_they_were_given_and_how_far_they_are(tmp_path: Path) -> None:
    source = """
    from ray import train, tune
    from ray.tune.logger import pretty_print
    from ray.tune.logger.json import JsonLoggerCallback
    from ray.tune.search.basic_variant import BasicVariantGenerator
    from ray.tune.stopper.maximum_iteration import MaximumIterationStopper

    class Trainer(tune.Trainable):
        def step(self):
            return {"before": self._iteration, "cpus": self.trial_resources.bundles[0]["CPU"]}

    def function(config):
        for context in (tune.get_context(), train.get_context()):
            given = context.get_trial_resources()
            assert (given.required_resources, given.bundles[0]["CPU"], given["cpu"]) == ({"CPU": 1.0}, 1.0, 1.0)
        assert isinstance(tune.get_trial_resources(), tune.PlacementGroupFactory)
        tune.report({"given": given})

    analysis = tune.run(
        Trainer, metric="before", mode="max", num_samples=3, verbose=0, stop=MaximumIterationStopper(2),
        search_alg=BasicVariantGenerator(max_concurrent=1), callbacks=[JsonLoggerCallback()],
    )
    print(analysis.best_result["before"], analysis.best_result["cpus"])
    print("training_iteration: 2" in pretty_print(analysis.best_result).splitlines())
    print(tune.Tuner(function, run_config=tune.RunConfig(verbose=0)).fit()[0].metrics["given"])
    """
    done = run_source(tmp_path, source)
    assert done.stdout.splitlines() == ["1 1.0", "True", "{'cpu': 1.0, 'gpu': 0.0}"], done.stderr


# ---------------------------------------------------------------------------------------------- as Python runs a script


def test_arguments_folder_and_names_are_those_of_a_script(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "beside.py").write_text("from ray import tune\ndef train(config): tune.report({'a': 1})\n")
    (tmp_path / "sub" / "main.py").write_text(
        textwrap.dedent("""
        import os, sys
        import beside
        from ray import tune
        assert __name__ == "__main__"
        print(sys.argv, os.path.basename(__file__), sys.path[0] == os.path.dirname(os.path.abspath(__file__)))
        print(sys.modules["__main__"].__dict__ is globals())
        print(tune.Tuner(beside.train, run_config=tune.RunConfig(verbose=0)).fit()[0].metrics["a"])
        """)
    )
    done = start(tmp_path, "sub/main.py", "--flag", "-x", "3")
    assert done.stdout.splitlines() == ["['sub/main.py', '--flag', '-x', '3'] main.py True", "True", "1"], done.stderr


def test_a_module_can_be_run(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "job.py").write_text("import sys, ray\nprint(__name__, __package__, sys.argv[1:])\n")
    done = start(tmp_path, "-m", "package.job", "--epochs", "3")
    assert done.stdout.splitlines() == ["__main__ package ['--epochs', '3']"], done.stderr


@pytest.mark.parametrize(
    ("source", "status"),
    [("import sys\nsys.exit(7)", 7), ("raise SystemExit('bye')", 1), ("1 / 0", 1), ("pass", 0)],
)
def test_the_exit_status_is_the_scripts(tmp_path: Path, source: str, status: int) -> None:
    assert run_source(tmp_path, source).returncode == status


def test_without_a_script_it_says_how_it_is_used(tmp_path: Path) -> None:
    for arguments in ((), ("-m",), ("--fast",), ("missing.py",)):
        done = start(tmp_path, *arguments)
        assert done.returncode == 2
        assert "usage: python -m shoal.as_ray script.py [arguments]" in done.stderr
    assert "there is no file 'missing.py'" in start(tmp_path, "missing.py").stderr
    done = start(tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage:" in done.stdout


def test_classes_of_the_script_survive_plain_pickle_in_members(tmp_path: Path) -> None:
    source = """
    import pickle
    import ray
    from ray import tune

    class State:
        step = 3

    def helper(state):
        return pickle.loads(pickle.dumps(state)).step

    class Trainer(tune.Trainable):
        def step(self):
            return {"score": helper(State()) + 1, "done": True}

    def train(config):
        import ray.tune
        ray.tune.report({"score": helper(State())})

    for trainable in (train, Trainer):
        print("score", tune.Tuner(trainable, run_config=tune.RunConfig(verbose=0)).fit()[0].metrics["score"])
    """
    done = run_source(tmp_path, source)
    assert done.stdout.splitlines() == ["score 3", "score 4"], done.stderr


# ----------------------------------------------------------------------------------------------------------- install()


def test_install_in_a_script_of_ones_own(tmp_path: Path) -> None:
    source = """
    import os
    import shoal.as_ray
    from shoal import tune as ours

    shoal.as_ray.install()
    shoal.as_ray.install()
    from ray import tune

    def train(config):
        import ray
        tune.report({"a": 2, "same": ray.tune.report is ours.report})

    print(tune.Tuner is ours.Tuner, os.environ["SHOAL_PRELOAD"])
    print(tune.Tuner(train, run_config=tune.RunConfig(verbose=0)).fit()[0].metrics["same"])
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(source))
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "SHOAL_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.stdout.splitlines() == ["True shoal.as_ray:install", "True"], done.stderr


def test_the_real_ray_is_not_mixed_with_shoal(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("def remote(): ...\n")
    source = """
    import ray
    import shoal.as_ray
    try:
        shoal.as_ray.install()
    except ValueError as error:
        print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert "ray has been imported already, from" in done.stdout, done.stderr
    assert "python -m shoal.as_ray script.py" in done.stdout
    # Where it is only installed, it is hidden.
    assert run_source(tmp_path, "import ray\nprint(ray.tune)").stdout.startswith("<module 'ray.tune'")
