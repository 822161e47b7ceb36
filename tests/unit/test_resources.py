"""What the machine has, what a trial takes, and the slots that this makes."""

from __future__ import annotations

import functools
import os
import pickle
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import fit

import shoal
from shoal import tune
from shoal.errors import ConfigError, EngineError
from shoal.experiment import ExperimentInfo
from shoal.journal.sqlite import SQLiteJournal
from shoal.resources import (
    FILES_OF_A_RESIDENT,
    Machine,
    PlacementGroupFactory,
    Request,
    allow_open_files,
    count_cpus,
    count_memory,
    list_gpus,
    make_slots,
    memory_available,
    open_files_allowed,
    resources_of,
)


def train(config: dict[str, Any]) -> None: ...


@pytest.mark.parametrize(
    ("cpus", "gpus", "limit", "names", "expected"),
    [
        (1, 0, None, [], ["", "", "", ""]),
        (2, 0, None, [], ["", ""]),
        (0.5, 0, None, [], [""] * 8),
        (3, 0, None, [], [""]),
        (1, 0, 3, ["0"], ["", "", ""]),
        (1, 0, 9, [], [""] * 4),
        (1, 1, None, ["0", "1"], ["0", "1"]),
        (1, 2, None, ["0", "1", "2"], ["0,1"]),
        (1, 2, None, ["a", "b", "c", "d"], ["a,b", "c,d"]),
        (1, 0.5, None, ["0", "1"], ["0", "1", "0", "1"]),
        (1, 0.5, 3, ["0", "1"], ["0", "1", "0"]),
        (2, 0.25, None, ["0"], ["0", "0"]),
        (0.1, 0.1, None, ["0"], ["0"] * 10),
        (1, 0.7, None, ["0"], ["0"]),
        (1, 1, 1, ["0", "1"], ["0"]),
    ],
)
def test_slots_are_as_many_as_cpus_gpus_and_the_limit_allow(
    cpus: float, gpus: float, limit: int | None, names: list[str], expected: list[str]
) -> None:
    assert make_slots(Request(cpus, gpus), limit, Machine(4, names)) == expected


@pytest.mark.parametrize(
    ("cpus", "gpus", "names", "expected"),
    [
        (5, 0, [], "asks for 5 CPUs, but this machine has 4"),
        (4.5, 0, [], "asks for 4.5 CPUs, but this machine has 4"),
        (1, 1, [], "asks for 1 GPUs, but this machine has 0"),
        (1, 3, ["0", "1"], "asks for 3 GPUs, but this machine has 2"),
        (1, 0.5, [], "asks for 0.5 GPUs, but this machine has 0"),
    ],
)
def test_a_machine_with_too_little_says_what_it_has_and_what_to_ask_for(
    cpus: float, gpus: float, names: list[str], expected: str
) -> None:
    with pytest.raises(EngineError, match=rf"{expected}.*with_resources"):
        make_slots(Request(cpus, gpus), None, Machine(4, names))


@given(
    cpus=st.integers(1, 64).map(lambda count: count / 8),
    gpus=st.sampled_from([0.0, 0.1, 0.125, 0.2, 0.25, 0.3, 0.5, 1.0, 2.0, 3.0]),
    limit=st.none() | st.integers(1, 20),
    cpu_count=st.integers(1, 16),
    gpu_count=st.integers(0, 6),
)
def test_slots_never_take_more_than_there_is(
    cpus: float, gpus: float, limit: int | None, cpu_count: int, gpu_count: int
) -> None:
    names = [str(number) for number in range(gpu_count)]
    try:
        slots = make_slots(Request(cpus, gpus), limit, Machine(cpu_count, names))
    except EngineError:
        assert cpus > cpu_count or gpus > gpu_count
        return
    assert 1 <= len(slots) <= (limit or len(slots))
    assert len(slots) * cpus <= cpu_count + 1e-6
    taken = [name for slot in slots for name in slot.split(",") if name]
    for name in names:
        assert taken.count(name) * min(gpus, 1.0) <= 1 + 1e-6
    assert set(taken) <= set(names)
    assert bool(taken) == (gpus > 0)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("", []),
        ("0", ["0"]),
        ("2, 0 ,1", ["2", "0", "1"]),
        ("-1", []),
        ("GPU-8932f937,MIG-41b3359c", ["GPU-8932f937", "MIG-41b3359c"]),
        (",", []),
    ],
)
def test_gpus_are_those_that_the_environment_allows(
    visible: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert list_gpus() == expected


def test_gpus_are_those_of_the_driver_where_the_environment_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    driver = Path("/proc/driver/nvidia/gpus")
    count = len(list(driver.iterdir())) if driver.is_dir() else 0
    assert list_gpus() == [str(number) for number in range(count)]


def _cgroup(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    read = Path.read_text

    def read_text(path: Path, *args: Any, **kwargs: Any) -> str:
        if str(path) != "/sys/fs/cgroup/cpu.max":
            return read(path, *args, **kwargs)
        if text is None:
            raise FileNotFoundError(path)
        return text

    monkeypatch.setattr(Path, "read_text", read_text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, 8),
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("250000 100000\n", 3),
        ("10000 100000\n", 1),
        ("99900000 100000\n", 8),
        ("nonsense", 8),
        ("", 8),
    ],
)
def test_cpus_are_those_of_the_affinity_and_of_the_containers_limit(
    text: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    _cgroup(monkeypatch, text)
    assert count_cpus() == expected


def test_a_system_without_affinities_has_the_cpus_that_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    _cgroup(monkeypatch, None)
    assert count_cpus() == 1
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert count_cpus() == 6


class Limits:
    """A stand-in for the limits of this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, soft: int, hard: int) -> None:
        self.now = (soft, hard)
        self.set: list[tuple[int, int]] = []
        monkeypatch.setattr(resource, "getrlimit", lambda which: self.now)
        monkeypatch.setattr(resource, "setrlimit", self._set)

    def _set(self, which: int, limits: tuple[int, int]) -> None:
        assert which == resource.RLIMIT_NOFILE
        self.set.append(limits)
        self.now = limits


INF = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "count", "after"),
    [
        (1024, 4096, 100, 1024),  # enough
        (1024, 4096, 2000, 2200),
        (1024, 4096, 100_000, 4096),  # no more than may be
        (1024, INF, 100_000, 100_200),
        (INF, INF, 100_000, INF),
    ],
)
def test_the_limit_of_open_files_is_raised_only_where_it_is_too_low_and_as_far_as_allowed(
    soft: int, hard: int, count: int, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(monkeypatch, soft, hard)
    allow_open_files(count)
    assert limits.now == (after, hard)
    assert len(limits.set) == (after != soft)


def test_a_limit_that_cannot_be_raised_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(which: int, limits: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    Limits(monkeypatch, 256, INF)
    monkeypatch.setattr(resource, "setrlimit", refuse)
    allow_open_files(10_000)


@pytest.mark.parametrize(("hard", "expected"), [(4096, 3896), (100, 0), (INF, 1 << 20)])
def test_members_may_open_what_shoal_itself_does_not_need(
    hard: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Limits(monkeypatch, min(hard, 64) if hard != INF else 64, hard)
    assert open_files_allowed() == expected


def test_a_real_limit_is_raised_for_many_members() -> None:
    source = (
        "import resource\n"
        "from shoal.resources import allow_open_files\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        f"allow_open_files({FILES_OF_A_RESIDENT} * 20)\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE) == (240, hard))\n"
    )
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "True\n"


def test_with_resources_keeps_the_function_and_says_what_it_takes() -> None:
    assert resources_of(train) == Request(1.0, 0.0)
    taking = tune.with_resources(train, {"cpu": 2, "gpu": 0.5})
    assert resources_of(taking) == Request(2.0, 0.5)
    assert resources_of(train) == Request(1.0, 0.0)
    assert taking.__name__ == "train"
    assert resources_of(tune.with_resources(functools.partial(train), {"gpu": 2})) == Request(1.0, 2.0)
    assert resources_of(tune.with_resources(taking, {"cpu": 1})) == Request(1.0, 0.0)


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"cpu": 0}, "'cpu' must be a number greater than 0"),
        ({"cpu": True}, "'cpu'.*True"),
        ({"cpu": float("nan")}, "'cpu'.*nan"),
        ({"gpu": float("inf")}, "'gpu'.*inf"),
        ({"gpu": "1"}, "'gpu'.*'1'"),
        ({"gpu": 2.5}, "fraction up to 1 or a whole number.*2.5"),
        ({"CPU": 1}, "no resource 'CPU'. Did you mean 'cpu'?"),
        ({"gpus": 1}, "no resource 'gpus'. Did you mean 'gpu'.*your own with this name.*custom_resources.*'gpus': 1"),
        ({"num_cpus": 1}, "no resource 'num_cpus'. Did you mean 'cpu'"),
        ({"cup": 1}, "no resource 'cup'. Did you mean 'cpu'"),
        ({"memroy": 2**30}, "no resource 'memroy'. Did you mean 'memory'"),
        ({"RAM": 2**30}, "no resource 'RAM'. Did you mean 'memory'"),
        ({"custom_resource": {"tpu": 1}}, "no resource 'custom_resource'. Did you mean 'custom_resources'"),
        ({"object_store_memory": 2**30}, "object_store_memory cannot be asked for"),
        ({1: 1}, "the name of a resource must be a text, but is 1"),
        ({"": 1}, "the name of a resource must be a text, but is ''"),
        ({"memory": 4}, r"'memory' is a number of bytes, but 4 bytes are too few.*4 GiB are 4 \* 2\*\*30"),
        ({"memory": -1}, "'memory' must be a number greater than 0, but is -1"),
        ({"tpu": "1"}, "'tpu' must be a number greater than 0, but is '1'"),
        ({"tpu": 1.5}, "'tpu' must be a fraction up to 1 or a whole number, but is 1.5"),
        ({"custom_resources": 1}, "custom_resources must be a dict such as .*but is 1"),
        ({"custom_resources": {"GPU": 1}}, "'GPU' cannot be the name of a custom resource"),
        ({"custom_resources": {"tpu": -1}}, "custom_resources: 'tpu' must be a number greater than 0"),
        ({"tpu": 1, "custom_resources": {"tpu": 1}}, "'tpu' is given twice, once in custom_resources"),
        ([1], "must be a dict"),
        (lambda config: {"cpu": 1}, "depend on the config are not supported.*Give a dict"),
    ],
)
def test_an_amount_out_of_range_is_an_error_that_names_it(resources: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        tune.with_resources(train, resources)


class Trainer:
    """A class whose instances are trained."""

    def __init__(self, value: int = 1) -> None:
        self.value = value


def test_a_class_becomes_a_subclass_of_the_same_name_and_stays_as_it_was() -> None:
    taking = tune.with_resources(Trainer, {"cpu": 2, "gpu": 0.5})
    assert resources_of(taking) == Request(2.0, 0.5)
    assert resources_of(Trainer) == Request(1.0, 0.0)
    assert isinstance(taking, type)
    assert issubclass(taking, Trainer)
    assert (taking.__name__, taking.__qualname__, taking.__module__) == ("Trainer", "Trainer", __name__)
    assert taking.__doc__ == Trainer.__doc__
    assert taking(value=3).value == 3
    again = tune.with_resources(taking, {"cpu": 3})
    assert (resources_of(again), resources_of(taking)) == (Request(3.0, 0.0), Request(2.0, 0.5))
    sent = pickle.loads(cloudpickle.dumps(taking))
    assert resources_of(sent) == Request(2.0, 0.5)
    assert sent(4).value == 4


def test_a_class_with_a_metaclass_keeps_it() -> None:
    class Meta(type): ...

    class Special(metaclass=Meta): ...

    assert type(tune.with_resources(Special, {"cpu": 2})) is Meta


@pytest.mark.parametrize(
    ("bundles", "expected"),
    [
        ([{"CPU": 2, "GPU": 0.5}], Request(2.0, 0.5)),
        ([{"CPU": 3}], Request(3.0)),
        ([{"GPU": 2}], Request(1.0, 2.0)),
        ([{"CPU": 1, "GPU": 0}], Request(1.0, 0.0)),
        (({}, {"CPU": 4}, {"CPU": 0}), Request(4.0)),
        ([{"CPU": 1, "memory": 3 * 2**30, "TPU": 4, "unused": 0}], Request(1.0, 0.0, 3 * 2**30, {"TPU": 4.0})),
        ([{"accelerator_type:A100": 0.001, "GPU": 1}], Request(1.0, 1.0, 0, {"accelerator_type:A100": 0.001})),
    ],
)
def test_a_placement_group_says_what_a_trial_takes(bundles: Any, expected: Request) -> None:
    group = PlacementGroupFactory(bundles)
    assert resources_of(tune.with_resources(train, group)) == expected
    assert resources_of(tune.with_resources(Trainer, group)) == expected
    assert group == PlacementGroupFactory(bundles, strategy="PACK")
    assert {name: amount for bundle in bundles for name, amount in bundle.items() if amount} == {
        name: amount for name, amount in group.required_resources.items() if amount
    }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (([{"CPU": 1}, {"CPU": 2}],), "one bundle must say what a trial takes, but in [{'CPU': 1}, {'CPU': 2}] 2 do."),
        (([],), "but in [] 0 do."),
        (([{}],), "such as [{'CPU': 4, 'GPU': 1}]"),
        (([{"cpu": 1}],), "there is no resource 'cpu'. Did you mean 'CPU'?"),
        (([{"CPU": 1, "Memory": 2**30}],), "there is no resource 'Memory'. Did you mean 'memory'?"),
        (([{"CPU": 1, "GPUs": 1}],), "Did you mean 'GPU'? A resource of your own needs another name."),
        (([{"CPU": 1, "memory": 4}],), "'memory' is a number of bytes, but 4 bytes are too few"),
        (([{"CPU": 1, "TPU": 1.5}],), "'TPU' must be a fraction up to 1 or a whole number"),
        (([{"CPU": 1, "object_store_memory": 2**30}],), "object_store_memory cannot be asked for"),
        (([{"CPU": -1, "GPU": 1}],), "'CPU' must be a number greater than 0, but is -1"),
        (([{"CPU": "2"}],), "'CPU' must be a number greater than 0, but is '2'"),
        (([{"CPU": 1, "GPU": 1.5}],), "'GPU' must be a fraction up to 1 or a whole number"),
        (({"CPU": 1},), "bundles must be a list with one dict such as [{'CPU': 1, 'GPU': 0.5}], but is {'CPU': 1}"),
        (("CPU",), "bundles must be a list"),
        (([{"CPU": 1}], "PACKED"), "strategy must be one of PACK, SPREAD, STRICT_PACK, STRICT_SPREAD"),
        (([{"CPU": 1}], "pack"), "but is 'pack'. Did you mean 'PACK'?"),
    ],
)
def test_a_placement_group_that_is_no_single_process_is_an_error(arguments: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)):
        PlacementGroupFactory(*arguments)


def test_a_placement_group_names_the_argument_that_it_does_not_have() -> None:
    with pytest.raises(ConfigError, match=r"PlacementGroupFactory has no argument 'bundle'. Did you mean 'bundles'?"):
        PlacementGroupFactory(bundle=[])  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


def test_a_trial_that_takes_no_cpu_is_limited_by_the_gpus_alone() -> None:
    trainable = tune.with_resources(lambda config: None, {"cpu": 0, "gpu": 0.5})
    assert resources_of(trainable) == Request(0.0, 0.5)
    assert make_slots(Request(0.0, 0.5), None, Machine(1, ["0", "1"])) == ["0", "1", "0", "1"]


def test_the_memory_that_is_available_is_what_psutil_says() -> None:
    assert 0 < memory_available() <= psutil.virtual_memory().total
    assert abs(memory_available() - psutil.virtual_memory().available) < psutil.virtual_memory().total / 4


def test_memory_and_custom_resources_are_asked_for_as_ray_tune_takes_them() -> None:
    whole: dict[str, Any] = {
        "cpu": 2,
        "gpu": 0.5,
        "memory": 4 * 2**30,
        "custom_resources": {"tpu": 1, "cpus": 0.5, "unused": 0},
    }
    expected = Request(2.0, 0.5, 4 * 2**30, {"tpu": 1.0, "cpus": 0.5})
    for trainable in (train, Trainer):
        assert resources_of(tune.with_resources(trainable, whole)) == expected
        flat = tune.with_resources(trainable, {"cpu": 1, "special_hardware": 1, "TPU": 2})
        assert resources_of(flat) == Request(custom={"special_hardware": 1.0, "TPU": 2.0})
    assert resources_of(tune.with_resources(train, {"memory": 1e9 + 0.5})) == Request(memory=10**9 + 1)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (Request(), "1 CPU"),
        (Request(0.0, 0.5), "0.5 GPUs"),
        (Request(2.0, 1.0, 3 * 2**29, {"tpu": 1.0}), "2 CPUs, 1 GPU, 1.5 GiB of memory, 1 tpu"),
        (Request(memory=300 * 2**20), "1 CPU, 300 MiB of memory"),
    ],
)
def test_a_request_can_be_said_in_words(request_: Request, expected: str) -> None:
    assert request_.describe() == expected


@pytest.mark.parametrize(
    ("request_", "limit", "expected"),
    [
        (Request(memory=2 * 2**30), None, 5),
        (Request(memory=3 * 2**30), None, 3),
        (Request(memory=10 * 2**30), None, 1),
        (Request(memory=3 * 2**30), 2, 2),
        (Request(4.0, memory=2**30), None, 2),
        (Request(custom={"license": 1.0}), None, 3),
        (Request(custom={"license": 0.5}), None, 6),
        (Request(custom={"license": 1.0, "seat": 0.1}), None, 3),
        (Request(memory=4 * 2**30, custom={"license": 1.0}), None, 2),
        (Request(0.0, 0.25, custom={"license": 1.0}), None, 3),
    ],
)
def test_slots_are_no_more_than_memory_and_custom_resources_allow(
    request_: Request, limit: int | None, expected: int
) -> None:
    machine = Machine(8, ["0"], 10 * 2**30, {"license": 3.0, "seat": 1.0})
    assert len(make_slots(request_, limit, machine)) == expected


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (Request(memory=11 * 2**30), "asks for 11 GiB of memory, but this machine has 10 GiB. Ask for less"),
        (
            Request(custom={"tpu": 1.0}),
            "asks for 1 of the custom resource 'tpu', but this machine has 0 of it. Say how",
        ),
        (Request(custom={"tpu": 1.0}), "shoal.init(resources={'tpu': ...}), or run on a Ray cluster that has it"),
        (Request(custom={"licence": 1.0}), "has 0 of it. Did you mean 'license'? Say how"),
        (Request(custom={"license": 4.0}), "but this machine has 3 of it"),
    ],
)
def test_a_machine_with_too_little_of_the_other_resources_says_so(request_: Request, expected: str) -> None:
    with pytest.raises(EngineError, match=re.escape(expected)):
        make_slots(request_, None, Machine(8, (), 10 * 2**30, {"license": 3.0}))


def test_the_memory_of_the_machine_is_that_of_its_container_where_there_is_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = Path.read_text
    said = {"/sys/fs/cgroup/memory.max": str(2**30)}
    monkeypatch.setattr(Path, "read_text", lambda path, *args: said.get(str(path)) or read(path, *args))
    assert count_memory() == 2**30
    for text in ("max\n", str(2**60)):
        said["/sys/fs/cgroup/memory.max"] = text
        assert count_memory() == psutil.virtual_memory().total


@pytest.mark.parametrize("engine", ["processes", "inline"])
def test_custom_resources_that_are_not_here_are_an_error_and_those_that_init_names_limit_slots(
    engine: str, tmp_path: Path
) -> None:
    taking = tune.with_resources(report_once, {"license": 1})
    with pytest.raises(EngineError, match=r"custom resource 'license'.*TuneConfig\(engine='ray'\)"):
        fit(taking, tmp_path / "without", engine=engine)
    shoal.init(num_cpus=4, resources={"license": 2})
    try:
        grid = fit(taking, tmp_path / "with", engine=engine)
    finally:
        shoal.shutdown()
    journal = SQLiteJournal.open_for_reading(Path(grid.experiment_path))
    info = ExperimentInfo.from_meta(journal.meta())
    journal.close()
    assert (info.slots, info.memory, info.custom) == (1 if engine == "inline" else 2, 0, {"license": 1.0})
    assert grid.num_terminated == 4


def report_once(config: dict[str, Any]) -> None:
    tune.report({"score": 1.0})
