"""What shoal.init takes, what it refuses, and what shoal.shutdown ends."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

import shoal
from shoal.errors import ConfigError
from shoal.resources import Machine, Request, count_cpus, count_memory, list_gpus
from shoal.runtime import init, is_initialized, machine, shutdown, slots


@pytest.fixture(autouse=True)
def apart() -> Iterator[None]:
    shutdown()
    yield
    shutdown()


def test_the_whole_machine_is_used_unless_init_says_otherwise() -> None:
    assert not is_initialized()
    assert len(slots(Request(), None)) == count_cpus()
    init(num_cpus=count_cpus() + 3)
    assert is_initialized()
    assert len(slots(Request(), None)) == count_cpus() + 3
    shutdown()
    assert not is_initialized()
    assert len(slots(Request(), None)) == count_cpus()


def test_a_second_init_is_an_error_unless_it_is_to_be_ignored() -> None:
    init(num_cpus=1)
    with pytest.raises(ConfigError, match=r"called twice.*shoal\.shutdown\(\).*ignore_reinit_error=True"):
        init(num_cpus=2)
    assert len(slots(Request(), None)) == 1


def test_a_second_init_that_is_to_be_ignored_leaves_what_the_first_one_said() -> None:
    init(num_cpus=1)
    expected = r"num_cpus=2 \(it stays 1\), address='auto', local_mode=True is ignored.*call shutdown\(\) first"
    with pytest.warns(UserWarning, match=expected) as told:
        init("auto", num_cpus=2, local_mode=True, ignore_reinit_error=True)
    assert [warning.filename for warning in told] == [__file__]
    assert len(slots(Request(), None)) == 1
    with pytest.raises(ConfigError, match="no argument 'num_cpu'"):
        init(num_cpu=2, ignore_reinit_error=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    shutdown()
    init(num_cpus=3, ignore_reinit_error=True)
    assert len(slots(Request(), None)) == 3


def test_a_second_init_that_says_the_same_or_nothing_is_ignored_without_a_word() -> None:
    init(num_cpus=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init(ignore_reinit_error=True)
        init("local", num_cpus=2, runtime_env={}, logging_level=logging.ERROR, ignore_reinit_error=True)
    assert len(slots(Request(), None)) == 2


def test_custom_resources_are_shared_out_as_they_were_named() -> None:
    assert machine() == Machine(count_cpus(), list_gpus(), count_memory(), {})
    init(num_cpus=8, resources={"license": 2, "tpu": 1})
    assert dict(machine().custom) == {"license": 2, "tpu": 1}
    assert len(slots(Request(custom={"license": 1.0}), None)) == 2
    with pytest.warns(UserWarning, match=r"resources=\{'tpu': 2\} is ignored"):
        init(resources={"tpu": 2}, ignore_reinit_error=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init(resources={"license": 2, "tpu": 1}, ignore_reinit_error=True)


def test_what_scripts_for_ray_pass_is_taken() -> None:
    shoal.init(
        "local",
        num_cpus=2,
        num_gpus=0,
        resources={},
        ignore_reinit_error=True,
        local_mode=False,
        runtime_env={},
        object_store_memory=10**9,
        include_dashboard=False,
        dashboard_host="127.0.0.1",
        dashboard_port=8265,
        configure_logging=True,
        logging_level=logging.ERROR,
        log_to_driver=False,
        namespace="mine",
        _temp_dir="/nowhere",
    )
    assert len(slots(Request(), None)) == 2
    shutdown()
    init(address=None, runtime_env=None)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            {"address": 5},
            "address must be that of a Ray cluster, such as 'auto' or '10.0.0.1:6379', or 'local', but is",
        ),
        ({"address": "auto", "num_cpus": 2}, "num_cpus=2 is for this machine, and a cluster that runs has what it has"),
        ({"local_mode": True}, "no local_mode. To run members one after the other in this process"),
        ({"local_mode": True}, "use tune.TuneConfig(engine='inline')"),
        ({"runtime_env": {"pip": ["x"]}}, "runtime_env is {'pip': ['x']}, but members always have the packages"),
        ({"num_cpu": 2}, "init has no argument 'num_cpu'. Did you mean 'num_cpus'?"),
        ({"resource": {"a": 1}}, "init has no argument 'resource'. Did you mean 'resources'?"),
        ({"resources": 1}, "shoal.init: resources must be a dict such as {'tpu': 1}, but is 1"),
        ({"resources": {"CPU": 1}}, "shoal.init: resources: 'CPU' cannot be the name of a custom resource"),
        ({"resources": {"a": -1}}, "shoal.init: resources: 'a' must be a number greater than 0, but is -1"),
        ({"num_cpus": 0}, "num_cpus must be a whole number of 1 or more, but is 0"),
        ({"num_cpus": 1.5}, "num_cpus must be a whole number of 1 or more, but is 1.5"),
        ({"num_cpus": True}, "num_cpus must be a whole number of 1 or more, but is True"),
        ({"num_gpus": -1}, "num_gpus must be a whole number of 0 or more, but is -1"),
        ({"num_gpus": 9999}, "num_gpus is 9999, but this machine has"),
    ],
)
def test_what_is_not_there_is_an_error_that_says_what_to_do(arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)):
        init(**arguments)
    assert not is_initialized()
