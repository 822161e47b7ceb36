"""What the engine for Ray says of addresses and GPUs. No Ray is started for that."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest

import shoal
from shoal import runtime
from shoal.errors import EngineError

ray_engine: Any = pytest.importorskip("shoal.engines.ray", reason="Ray is not installed")


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    shoal.shutdown()

    def init(**settings: Any) -> None:
        raise AssertionError(f"Ray was asked: {settings}")

    monkeypatch.setattr(ray_engine, "_ray", SimpleNamespace(init=init))


def nobody() -> str:
    """Return an address at which nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def test_an_address_at_which_nobody_answers_is_an_error_at_once_and_leaves_nothing() -> None:
    address = nobody()
    with pytest.raises(EngineError, match=rf"^No Ray at '{address}': ConnectionRefusedError"):
        shoal.init(address=address, namespace="mine")
    assert not shoal.is_initialized()
    assert runtime._for_ray == {}


def test_the_address_of_the_dashboard_is_none() -> None:
    with pytest.raises(EngineError, match=r"'http://127\.0\.0\.1:8265' is no address of a Ray cluster"):
        shoal.init(address="http://127.0.0.1:8265")


def context(gpus: list[str]) -> Any:
    there = SimpleNamespace(get_accelerator_ids=lambda: {"GPU": gpus})
    return SimpleNamespace(get_runtime_context=lambda: there)


@pytest.mark.parametrize("visible", [None, "", "0,1,2,3"])
def test_the_gpus_of_a_slot_are_those_that_ray_says_whatever_is_visible(
    monkeypatch: pytest.MonkeyPatch, visible: str | None
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(ray_engine, "_ray", context(["2", "3"]))
    assert ray_engine._HolderActor().devices() == "2,3"


def test_where_ray_does_not_say_no_member_is_bound_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "_ray", context([]))
    with pytest.raises(EngineError, match="does not tell which GPUs"):
        ray_engine._HolderActor().devices()


def connected_to(address: str, node: str = "n", job: str = "j") -> Any:
    there = SimpleNamespace(gcs_address=address, get_node_id=lambda: node, get_job_id=lambda: job)
    return SimpleNamespace(is_initialized=lambda: True, get_runtime_context=lambda: there, shutdown=pytest.fail)


def test_another_ray_than_the_one_that_this_process_is_connected_to_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_engine, "ray", connected_to("10.0.0.1:6379"))
    with pytest.raises(EngineError, match=r"connected to the Ray at 10\.0\.0\.1:6379 already.*ray\.shutdown\(\) first"):
        shoal.init(address="10.0.0.9:6380")
    for same in ("10.0.0.1:6379", "head:6379", "auto"):
        shoal.init(address=same)
        shoal.shutdown()  # and the Ray of the user stays


def test_a_ray_that_the_user_has_started_in_place_of_shoals_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "_connected", ("local", ("n", "j")))
    backend = ray_engine._RayBackend(lambda: None)
    monkeypatch.setattr(ray_engine, "ray", connected_to("10.0.0.1:6379"))
    assert backend.alone
    monkeypatch.setattr(ray_engine, "ray", connected_to("10.0.0.1:6379", node="another"))
    assert not backend.alone
    shoal.shutdown()


def test_who_cannot_begin_because_its_node_has_died_is_gone() -> None:
    from ray.exceptions import ActorUnschedulableError

    assert isinstance(ray_engine._meaning(ActorUnschedulableError("the node is dead")), ray_engine.Gone)


def test_what_ray_does_not_withdraw_now_is_withdrawn_later(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.exceptions import GetTimeoutError

    gone: list[Any] = []

    def away(group: Any) -> None:
        raise GetTimeoutError("the GCS does not answer")

    cluster = ray_engine._RayCluster("exp")
    cluster.groups["a"] = "group"
    monkeypatch.setattr(ray_engine, "ray", connected_to("10.0.0.1:6379"))
    monkeypatch.setattr(ray_engine, "remove_placement_group", away)
    with pytest.raises(GetTimeoutError):
        cluster.withdraw("a")
    monkeypatch.setattr(ray_engine, "remove_placement_group", gone.append)
    cluster.withdraw("a")
    cluster.withdraw("a")
    assert gone == ["group"]
