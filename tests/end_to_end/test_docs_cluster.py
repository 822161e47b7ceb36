"""docs/cluster.md is true, as far as no cluster is needed for that; tests/cluster/test_page.py has the rest."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.patience import grace_s, storage_patience_s, uploads_at_once
from shoal.reading import Experiment
from shoal.storage.mirror import Mirror

from ..jobs import PAGE, ROOT, fences, slurm, wait_until
from ..s3 import Bucket, has_server
from ..s3 import bucket as made_bucket

TEXT = PAGE.read_text(encoding="utf-8")
SOURCE = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py")))
(SCRIPT,) = fences("python")
ONE_NODE, SEVERAL = fences("bash")


# ---------------------------------------------------------------------------------------------------------------- SLURM


@pytest.mark.parametrize("job", [ONE_NODE, SEVERAL], ids=["one node", "several"])
def test_a_job_is_bash_that_asks_slurm_for_a_signal_to_itself_and_can_be_requeued(job: str) -> None:
    done = subprocess.run(["bash", "-n"], input=job, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", job, re.MULTILINE))
    assert len(options) == job.count("#SBATCH")
    assert options["signal"] == "B:USR1@120"
    assert "requeue" in options
    assert job.startswith("#!/bin/bash\n")


@pytest.mark.slow
def test_a_job_that_slurm_asks_to_end_is_requeued_and_then_comes_to_its_end(tmp_path: Path) -> None:
    with slurm(tmp_path, ONE_NODE) as job:
        first = job.start()
        wait_until(lambda: job.results > 20)
        first.send_signal(signal.SIGUSR1)
        printed, _ = first.communicate(timeout=60)
        assert first.returncode == 75, printed
        assert job.requeued == [f"requeue {job.environment['SLURM_JOB_ID']}"]
        assert job.reached != [40] * 8

        second = job.start()
        printed, _ = second.communicate(timeout=90)
        assert second.returncode == 0, printed
        assert job.reached == [40] * 8
        assert len(job.requeued) == 1


def test_a_job_whose_script_fails_is_not_requeued(tmp_path: Path) -> None:
    with slurm(tmp_path, ONE_NODE) as job:
        (tmp_path / "script.py").write_text("import sys; sys.exit(3)")
        failed = job.start()
        failed.communicate(timeout=60)
        assert failed.returncode == 3
        assert job.requeued == []


def test_a_job_whose_signal_comes_before_the_run_has_begun_is_requeued(tmp_path: Path) -> None:
    with slurm(tmp_path, ONE_NODE) as job:
        (tmp_path / "script.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGUSR1)")
        ended = job.start()
        ended.communicate(timeout=60)
        assert ended.returncode == 128 + signal.SIGUSR1
        assert job.requeued == [f"requeue {job.environment['SLURM_JOB_ID']}"]


# --------------------------------------------------------------------------------------------------------- Kubernetes


def containers(found: Any) -> Iterator[dict[str, Any]]:
    for group in [found["headGroupSpec"], *found["workerGroupSpecs"]]:
        yield from group["template"]["spec"]["containers"]


def test_the_manifest_gives_head_and_workers_one_image_the_settings_and_the_credentials() -> None:
    yaml = importlib.import_module("yaml")
    (text,) = fences("yaml")
    job: dict[str, Any] = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["entrypoint"] == "python /app/script.py"
    cluster = job["spec"]["rayClusterSpec"]
    assert f"=={cluster['rayVersion']}\n" in (ROOT / "Makefile").read_text()
    found = [*containers(cluster)]
    assert [each["name"] for each in found] == ["ray-head", "ray-worker"]
    for part in ("image", "env", "envFrom"):
        assert found[0][part] == found[1][part]
    assert all(each["resources"]["requests"] == each["resources"]["limits"] for each in found)
    environment = {each["name"]: each["value"] for each in found[0]["env"]}
    assert environment["SHOAL_ENGINE"] == "ray"
    assert environment["SHOAL_DIR"].startswith("s3://")
    assert found[0]["envFrom"] == [{"secretRef": {"name": "bucket"}}]
    assert "generic bucket " in TEXT


# ------------------------------------------------------------------------------------------------------------- storage


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with made_bucket(monkeypatch) as made:
        yield made


@pytest.mark.slow
@pytest.mark.skipif(not has_server(), reason="no S3 server here")
def test_a_bucket_holds_what_the_page_says_and_nothing_is_left_elsewhere(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.replace('"training_iteration": 40', '"training_iteration": 5'))
    cache = tmp_path / "cache"
    environment = {**os.environ, **bucket.environment, "SHOAL_DIR": f"{bucket.url}/runs", "SHOAL_CACHE": str(cache)}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("script.py")
    url = f"{bucket.url}/runs/first"
    assert not [*cache.glob("*/first/journal.sqlite")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "script.py"]

    keys = [key.partition("/runs/first/")[2] for key in bucket.files.find(f"{bucket.name}/runs/first")]
    (layout,) = (text for text in fences("text") if text.startswith("s3://"))
    first, *lines = layout.splitlines()
    assert first == "s3://bucket/runs/first/"
    for line in lines:
        named = line.split()[0]
        pattern = re.escape(named).replace(r"\.\.\.", ".*").replace("5e1f2", "[0-9a-f]{5}")
        pattern = re.sub(r"\d{3,}", lambda digits: f"\\d{{{len(digits[0])}}}", pattern)
        assert any(re.fullmatch(pattern, key) for key in keys), "\n".join([named, *keys])

    assert "\nended " in run("-m", "shoal", "status", url)
    experiment = Experiment.open(url)
    assert [trial.iteration for trial in experiment.history.in_order()] == [5] * 8


# ----------------------------------------------------------------------------------------------------------- variables


def test_the_variables_are_those_that_the_code_reads_with_these_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    named = set(re.findall(r"SHOAL_[A-Z_]*[A-Z]", TEXT))
    assert {name for name in named if f'"{name}"' not in SOURCE} == set()
    table = dict(re.findall(r"^\| `(\w+)` \| .*\((\d+)\) \|$", TEXT, re.MULTILINE))
    for name in table:
        monkeypatch.delenv(name, raising=False)
    mirror: Any = Mirror(object(), object())  # type: ignore[arg-type]
    found = {
        "SHOAL_STORAGE_EVERY_S": mirror._every_s,
        "SHOAL_STORAGE_PATIENCE_S": storage_patience_s(),
        "SHOAL_STORAGE_UPLOADS": uploads_at_once(),
        "SHOAL_GRACE_S": grace_s(),
    }
    assert {name: float(value) for name, value in table.items()} == found


# -------------------------------------------------------------------------------------------------------------- figures


def test_what_one_driver_carries_is_what_the_model_says() -> None:
    capacity = runpy.run_path(str(ROOT / "benchmarks" / "capacity.py"))
    costs = capacity["COSTS"]
    assert f"\n{capacity['table'](costs)}\n```\n" in TEXT, "the table: python benchmarks/capacity.py"
    per_boundary, per_answer = costs.boundary_s + costs.mirror_s, costs.answer_s + costs.call_s
    prices = [f"x {1000 * price:.2f} ms" for price in (costs.result_s, per_boundary, per_answer)]
    (formula,) = (line for line in TEXT.splitlines() if line.startswith("results x "))
    assert [prices[0] in formula, prices[1] in formula, prices[2] in formula] == [True] * 3, prices
    assert f"g = 1 + log10(members / 100) / {1 / costs.growth:.0f}" in formula
