"""Which key of a config is which hyperparameter: by its name, by what the code does with it, or as the user says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam

from shoal import tune
from shoal.applied import leaves, same, spelled, target
from shoal.errors import ConfigError
from shoal.location import Location
from shoal.settings import settings_to_meta, stored_settings

from .watched import KNOWN, Member, donors, enter_again, parameters, watched


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    yield from watched(tmp_path)


@KNOWN
@pytest.mark.parametrize(
    ("key", "value", "make"),
    [
        ("netG_lr", 0.0024, lambda value: Adam(parameters(), lr=value)),
        ("lr_g", 0.0002, lambda value: Adam(parameters(), lr=value)),
        ("learning_rate", 0.1, lambda value: SGD(parameters(), lr=value)),
        ("speed", 0.012, lambda value: SGD(parameters(), lr=value)),
        ("beta1", 0.75, lambda value: Adam(parameters(), betas=(value, 0.99))),
        ("l2", 0.012, lambda value: SGD(parameters(), lr=0.1, weight_decay=value)),
    ],
)
def test_a_key_with_a_name_of_its_own_is_known_by_what_the_code_makes_its_optimizer_with(
    member: Member, known: bool, key: str, value: float, make: Any
) -> None:
    theirs = donors(make(0.71))
    for forgets in (False, True):
        enter_again(member, known, {key: value, "batch": 32}, lambda config: [make(config[key])])
        optimizer = make(value)
        mine = {name: own for name, own in optimizer.param_groups[0].items() if name != "params"}
        optimizer.load_state_dict(theirs)
        if not forgets:
            optimizer.param_groups[0].update(mine)
        optimizer.step()
        member.report()
        assert list(member.drifts) == ([key] if forgets else [])
    assert member.drifts[key].startswith(f"config['{key}'] is {value:g}, but ")


@pytest.mark.parametrize(
    ("config", "check"),
    [
        ({"label_smoothing": 0.1}, None),
        ({"learning_rate": 1.0}, None),
        ({"learning_rate": 1}, None),
        ({"speed": 0.12, "lr": 0.12}, None),
        ({"learning_rate": 0.12, "base_rate": 0.12}, None),
        ({"learning_rate": 0.12}, {"learning_rate": "none"}),
    ],
    ids=str,
)
def test_a_value_that_may_be_another_ones_is_no_evidence(
    tmp_path: Path, config: dict[str, Any], check: dict[str, str] | None
) -> None:
    """The optimizer's rate is a constant of the code, or of another key, and a plateau has made it smaller."""
    member = Member(tmp_path, tune.CheckApplied(names=check or {}))
    constant, *_ = config.values()
    member.enter(config, "donor", changed=tuple(config)[:1])
    optimizer = SGD(parameters(), lr=constant)
    optimizer.load_state_dict(donors(SGD(parameters(), lr=constant / 10)))
    optimizer.step()
    member.report()
    assert member.drifts == {}


def test_a_value_that_is_in_two_places_is_no_evidence(member: Member) -> None:
    def make(value: float) -> list[Any]:
        return [Adam(parameters(), lr=value), SGD(parameters(), lr=0.1, weight_decay=value)]

    member.enter({"speed": 0.012}, "donor")
    mine = make(0.012)
    for optimizer, theirs in zip(mine, make(0.01), strict=True):
        optimizer.load_state_dict(donors(theirs))
        optimizer.step()
    member.report()
    assert member.drifts == {}


def test_the_text_names_keys_and_elements_as_code_does(tmp_path: Path) -> None:
    check = tune.CheckApplied(names={"adam/beta1": "betas/0"})
    nested: dict[str, Any] = {"optim": {"adam/beta1": 0.85, "lr/": {"lr": 0.012}}}
    assert spelled(nested, "optim/lr//lr") == "['optim']['lr/']['lr']"
    assert spelled({"a": {"c": 1}, "a/b": 2, 3: 4}, "a/b") == "['a/b']"
    assert spelled({"a": {"c": 1}, 3: 4}, "3") == "[3]"
    member = Member(tmp_path, check)
    member.enter({"adam/beta1": 0.85, "adam/lr": 0.012}, "donor")
    optimizer = Adam(parameters(), lr=0.012, betas=(0.85, 0.99))
    optimizer.load_state_dict(donors(Adam(parameters(), lr=0.01, betas=(0.92, 0.99))))
    optimizer.step()
    member.report()
    assert member.drifts["adam/beta1"].startswith("config['adam/beta1'] is 0.85, but Adam steps with betas[0]=0.92 in")
    assert "group['betas'] = the tuple with config['adam/beta1'] at [0]" in member.drifts["adam/beta1"]
    assert "group['lr'] = config['adam/lr']" in member.drifts["adam/lr"]


# ---------------------------------------------------------------------------------------------------- what one sets


def test_names_may_be_given_by_key_or_by_path_and_for_an_element() -> None:
    names = {"rate": "lr", "d/rate": "weight_decay", "b": "betas/1", "c": "betas[0]"}
    found = [target(path, names) for path in ("g/rate", "d/rate", "b", "c", "x/lr", "odd[")]
    assert found == [
        ("lr", None), ("weight_decay", None), ("betas", 1), ("betas", 0), ("lr", None), ("odd[", None),
    ]  # fmt: skip


def test_numbers_are_the_same_up_to_single_precision() -> None:
    assert same(0.1, torch.tensor(0.1).item())
    assert same((0.9, 0.99), (0.9, 0.99))
    assert not same(0.1, 0.1001)
    assert not same((0.9, 0.99), 0.9)
    assert same(0.0, 0)
    assert dict(leaves({"a": {"b": 1, "c": "x"}, "d": [1, 2.0], "e": [], "f": [1, "x"]})) == {"a/b": 1, "d": (1, 2.0)}


def test_the_setting_is_kept_for_a_restore_and_can_be_changed_by_it(tmp_path: Path) -> None:
    check = tune.CheckApplied(names={"rate": "lr"}, strict=True)
    tune_config = tune.TuneConfig("score", "max", seed=1, check_applied=check)
    meta = {"metric": "score", "mode": "max", "seed": 1, **settings_to_meta(tune_config, tune.RunConfig())}
    kept, _ = stored_settings(meta, Location(tmp_path), None, None)
    assert kept.check_applied == check
    kept, _ = stored_settings(meta, Location(tmp_path), None, tune.TuneConfig(check_applied=True))
    assert kept.check_applied is True


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tune.CheckApplied(names=["lr"]), r"names must be a dict .*'learning_rate': 'lr'.*\['lr'\] \(list\)"),  # type: ignore[arg-type]
        (lambda: tune.CheckApplied(names={"rate": "betas[x]"}), r"has 'rate': 'betas\[x\]'"),
        (lambda: tune.CheckApplied(names={"rate": 1}), r"has 'rate': 1"),  # type: ignore[dict-item]
        (lambda: tune.CheckApplied(strict=1), r"strict must be True or False, but is 1 \(int\)"),  # type: ignore[arg-type]
        (lambda: tune.CheckApplied(strikt=True), r"no argument 'strikt'. Did you mean 'strict'"),  # type: ignore[call-arg]
        (lambda: tune.TuneConfig(check_applied="no"), r"check_applied must be True, False or a tune\.CheckApplied"),  # type: ignore[arg-type]
        (lambda: tune.TuneConfig(check_applied=None), r"check_applied must be .*None"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_wrong_settings_say_what_is_allowed(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
