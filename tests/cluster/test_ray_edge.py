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
