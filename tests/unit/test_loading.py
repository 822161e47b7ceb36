"""The warm parent builds an optimizer in advance where the user's code may build one, and does not wait for it else."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from shoal.pickles import dumps
from shoal.worker.loading import _may_build_optimizers, prepare


def trains_with_torch(config: dict[str, Any]) -> None:
    import torch

    torch.optim.SGD([torch.zeros(1)], lr=0.1)


def evaluates(config: dict[str, Any]) -> dict[str, float]:
    """It optimizes nothing, and has an optimum, optionally."""
    return {"score": sum(config.values()), "optimized": 1.0}


def module_of(path: Path, text: str) -> str:
    """Make a module of the user's that has been imported; return its name."""
    path.write_text(text)
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    sys.modules[path.stem] = module
    return path.stem


def test_a_script_that_names_an_optimizer_has_one_built() -> None:
    for function in (trains_with_torch, lambda config: config["torch"].optim.AdamW([])):
        function.__module__ = "__main__"  # as in a script: the code itself is pickled
        assert _may_build_optimizers(dumps(function), function, [])


def test_a_script_without_one_does_not_wait_for_it() -> None:
    def function(config: dict[str, Any]) -> dict[str, float]:
        return {"optimized": 1.0, "optimum": sum(config.values())}

    function.__module__ = "__main__"
    assert not _may_build_optimizers(dumps(function), function, [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("import torch\nmake = torch.optim.Adam\n", True), ("import torch\nmodel = torch.nn.Linear(1, 1)\n", False)],
)
def test_modules_of_the_user_are_looked_into(text: str, expected: bool, tmp_path: Path) -> None:
    name = module_of(tmp_path / "shoal_test_training.py", text)
    try:
        assert _may_build_optimizers(b"", evaluates, [name, "json"]) is expected
        assert not _may_build_optimizers(b"", evaluates, ["json", "not_imported"])
    finally:
        del sys.modules[name]


def test_what_is_to_be_done_first_is_done_before_anything_is_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hook = "def hook(): pathlib.Path('said').write_text(str('later' in sys.modules))"
    (tmp_path / "shoal_test_first.py").write_text(f"import pathlib, sys\n{hook}\n")
    (tmp_path / "later.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SHOAL_PRELOAD", "shoal_test_first:hook")
    assert prepare(["later", "not_there"]) is None
    assert Path("said").read_text() == "False"
    monkeypatch.setenv("SHOAL_PRELOAD", "shoal_test_first:no_such_hook")
    assert isinstance(prepare([]), AttributeError)
    for name in ("later", "shoal_test_first"):
        del sys.modules[name]


def test_a_library_that_trains_is_known_by_name() -> None:
    assert _may_build_optimizers(b"", evaluates, ["lightning.pytorch"])


def test_of_what_is_installed_modules_count_that_the_trainable_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = module_of(tmp_path / "shoal_test_installed.py", "import torch\nmake = torch.optim.Adam\n")
    monkeypatch.setattr("shoal.worker.loading._INSTALLED", (str(tmp_path),))
    try:
        assert not _may_build_optimizers(b"", evaluates, [name])
        assert _may_build_optimizers(b"... shoal_test_installed ...", evaluates, [name])
    finally:
        del sys.modules[name]
