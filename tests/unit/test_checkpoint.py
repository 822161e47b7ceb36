"""What users do with a checkpoint: folders, dicts and notes."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal import tune
from shoal.errors import ConfigError


def test_a_dict_comes_back_and_its_temporary_folder_goes_with_the_object() -> None:
    data: dict[str, Any] = {"step": 3, "weights": np.arange(4.0), "odd": (1, {2}, 3j)}
    checkpoint = tune.Checkpoint.from_dict(data)
    folder = Path(checkpoint.path)
    again = tune.Checkpoint.from_directory(folder).to_dict()
    assert again.keys() == data.keys()
    assert (again["step"], again["odd"]) == (3, (1, {2}, 3j))
    assert np.array_equal(again["weights"], data["weights"])
    del checkpoint
    gc.collect()
    assert not folder.exists()


def test_a_folder_of_a_dict_stays_where_a_forked_process_forgets_it() -> None:
    checkpoint = tune.Checkpoint.from_dict({"step": 3})
    child = os.fork()
    if child == 0:
        try:
            del checkpoint
            gc.collect()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert checkpoint.to_dict() == {"step": 3}


def test_a_dict_that_cannot_be_pickled_is_refused_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ConfigError, match=r"Checkpoint\.from_dict: data cannot be pickled: TypeError: .*lock"):
        tune.Checkpoint.from_dict({"lock": threading.Lock()})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match=r"data must be a dict, but is 3 \(int\)"):
        tune.Checkpoint.from_dict(3)  # type: ignore[arg-type]


def test_a_checkpoint_of_files_is_no_dict_and_says_what_it_holds(tmp_path: Path) -> None:
    checkpoint = tune.Checkpoint(tmp_path)
    with pytest.raises(ConfigError, match="is a folder with nothing in it"):
        checkpoint.to_dict()
    (tmp_path / "model.pt").touch()
    with pytest.raises(ConfigError, match=r"is a folder with model\.pt\. Read its files"):
        checkpoint.to_dict()


def test_notes_are_set_added_to_and_lie_beside_the_files(tmp_path: Path) -> None:
    checkpoint = tune.Checkpoint(tmp_path)
    assert checkpoint.get_metadata() == {}
    checkpoint.set_metadata({"classes": ["cat", "dog"], "version": 1})
    checkpoint.update_metadata({"version": 2})
    assert tune.Checkpoint(tmp_path).get_metadata() == {"classes": ["cat", "dog"], "version": 2}
    checkpoint.set_metadata({})
    assert checkpoint.get_metadata() == {}
    assert [entry.name for entry in tmp_path.iterdir()] == [".metadata.json"]


@pytest.mark.parametrize("bad", [3, {"a": object()}, {(1, 2): 3}])
def test_notes_that_are_no_json_are_refused_and_the_old_ones_stay(bad: Any, tmp_path: Path) -> None:
    checkpoint = tune.Checkpoint(tmp_path)
    checkpoint.set_metadata({"version": 1})
    for change in (checkpoint.set_metadata, checkpoint.update_metadata):
        with pytest.raises(ConfigError, match="metadata must be"):
            change(bad)
    assert checkpoint.get_metadata() == {"version": 1}


@pytest.mark.parametrize(("text", "said"), [("{", "is no JSON"), ("[1]", "must hold a JSON object")])
def test_notes_that_somebody_else_damaged_are_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / ".metadata.json").write_text(text)
    with pytest.raises(ConfigError, match=said):
        tune.Checkpoint(tmp_path).get_metadata()
