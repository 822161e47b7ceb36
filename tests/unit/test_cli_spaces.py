"""Search spaces in files, and functions named on the command line: what they mean, and what is wrong in them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal import space as spaces
from shoal.cli.errors import UsageProblem
from shoal.cli.spaces import load_space
from shoal.cli.trainables import load_trainable
from shoal.errors import SpaceError
from shoal.space import Choice, Float, Integer, Normal, is_domain

needs_toml = pytest.mark.skipif(
    sys.version_info < (3, 11) and not __import__("importlib.util").util.find_spec("tomli"), reason="needs tomli"
)


def toml(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "space.toml"
    path.write_text(text, encoding="utf-8")
    return load_space(str(path))


@needs_toml
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"uniform(0, 1)"', spaces.uniform(0, 1)),
        ('"tune.loguniform(1e-4, 1e-1)"', spaces.loguniform(1e-4, 1e-1)),
        ("{ loguniform = [1e-4, 1e-1] }", spaces.loguniform(1e-4, 1e-1)),
        ("{ loguniform = { lower = 1e-4, upper = 1e-1 } }", spaces.loguniform(1e-4, 1e-1)),
        ('" quniform( -1 , 1, q=0.25 ) "', spaces.quniform(-1, 1, 0.25)),
        ('"randint(1, 10)"', spaces.randint(1, 10)),
        ('" uniform ( 0 , 1 ) "', spaces.uniform(0, 1)),
        ('"shoal.tune.uniform(0,1)"', spaces.uniform(0, 1)),
        ('"lograndint(1, 100, base=2)"', spaces.lograndint(1, 100, base=2)),
        ('"randn()"', spaces.randn()),
        ("{ qrandn = [0, 1, 0.5] }", spaces.qrandn(0, 1, 0.5)),
        ("""'choice("relu", "gelu")'""", spaces.choice(["relu", "gelu"])),
        ('"choice([16, 32])"', spaces.choice([16, 32])),
        ("{ choice = [16, 32] }", spaces.choice([16, 32])),
        ("{ choice = [[1, 2], [3]] }", spaces.choice([[1, 2], [3]])),
        ("{ grid_search = [1, 2] }", spaces.grid_search([1, 2])),
    ],
)
def test_a_distribution_is_written_as_in_python_or_as_a_table(tmp_path: Path, text: str, expected: Any) -> None:
    found = toml(tmp_path, f"x = {text}").space["x"]
    assert type(found) is type(expected)
    assert found == expected


@needs_toml
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64", 64),
        ("1e-3", 1e-3),
        ("true", True),
        ('"adam"', "adam"),
        ('"a (b)"', "a (b)"),
        ("[1, 2]", [1, 2]),
        ('"uniformly (so)"', "uniformly (so)"),
        ('"uniform"', "uniform"),
        ('{ constant = "f(x)" }', "f(x)"),
        ('{ constant = "uniform[0, 1]" }', "uniform[0, 1]"),
        ("{ uniform = { constant = [0, 1] }, extra = 3 }", {"uniform": [0, 1], "extra": 3}),
        ("{ constant = { uniform = [0, 1] } }", {"uniform": [0, 1]}),
    ],
)
def test_everything_else_is_a_constant(tmp_path: Path, text: str, expected: Any) -> None:
    found = toml(tmp_path, f"x = {text}").space["x"]
    assert found == expected
    assert not is_domain(found) or text.startswith("{ constant")


@needs_toml
def test_tables_and_lists_nest_and_what_is_sampled_mutates_but_grids_and_seeds(tmp_path: Path) -> None:
    file = toml(
        tmp_path,
        """
        lr = "loguniform(1e-4, 1e-1)"
        batch = 64
        seed = "randint(0, 1000)"
        width = { grid_search = [16, 32] }
        layers = ["uniform(0, 1)", 3]
        [model]
        dropout = "uniform(0, 0.5)"
        [model.inner]
        kind = { choice = ["a", "b"] }
        """,
    )
    assert list(file.space) == ["lr", "batch", "seed", "width", "layers", "model"]
    assert isinstance(file.space["layers"][0], Float)
    assert file.mutations == {
        "lr": file.space["lr"],
        "model": {"dropout": file.space["model"]["dropout"], "inner": {"kind": file.space["model"]["inner"]["kind"]}},
    }
    assert isinstance(file.mutations["model"]["inner"]["kind"], Choice)


@needs_toml
def test_the_file_says_what_mutates_and_what_is_fixed(tmp_path: Path) -> None:
    both = 'lr = "uniform(0, 1)"\nwd = "uniform(0, 1)"\n[model]\ndepth = "randint(1, 4)"\n'
    chosen = toml(tmp_path, f'{both}[shoal]\nmutate = ["model/depth"]')
    assert chosen.mutations == {"model": {"depth": chosen.space["model"]["depth"]}}
    assert "shoal" not in chosen.space
    fixed = toml(tmp_path, f'{both}[shoal]\nfixed = ["model/depth"]')
    assert (list(fixed.mutations), fixed.fixed) == (["lr", "wd"], ("model/depth",))
    other = toml(tmp_path, f'{both}[mutations]\nlr = "loguniform(1e-5, 1)"')
    assert other.mutations == {"lr": spaces.loguniform(1e-5, 1)}
    assert isinstance(other.space["model"]["depth"], Integer)


@needs_toml
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('lr = "logunifrom(1e-4, 1)"', ["lr", "'logunifrom'", "Did you mean 'loguniform'?"]),
        ("lr = { logunifrom = [1e-4, 1] }", ["lr", "Did you mean 'loguniform'?"]),
        ('lr = "uniform(0)"', ["lr", "upper"]),
        ('lr = "loguniform(0, 1)"', ["lr", "above 0"]),
        ("lr = { uniform = 3 }", ["lr", "list", "3"]),
        ("[model]\nlr = { uniform = [0, 1, 2] }", ["model/lr"]),
        ("lr = \"uniform(0, __import__('os').getpid())\"", ["lr", "plain values"]),
        ('lr = "uniform(0, 1) + uniform(0, 1)"', ["lr", "plain values"]),
        ('lr = "uniform(*[0, 1])"', ["lr", "plain values"]),
        ('lr = "sample_from(f)"', ["lr", "space.py"]),
        ('lr = "uniform(lower=0, uper=1)"', ["lr", "'uper'", "'upper'"]),
        ('x = "f(1)"', ["x", "{ constant = ... }"]),
        ('lr = "uniform(0, 1"', ["lr", "nearly a distribution", "uniform(0, 1)"]),
        ('lr = "uniform[0,1]"', ["lr", "nearly a distribution"]),
        ('lr = "np.random.uniform(0, 1)"', ["lr", "nearly a distribution"]),
        ("lr = { uniform = [0, 1], extra = 3 }", ["lr", "'uniform'", "'extra'", "constant"]),
        ('lr = "uniform(0, 1)"\n[mutation]\nlr = "uniform(0, 2)"', ["[mutation]", "[mutations]"]),
        ('lr = "uniform(0, 1)"\n[shaol]\nfixed = []', ["[shaol]", "[shoal]"]),
        ('lr = "uniform(0, 1)"\n[mutate]\nlr = "uniform(0, 2)"', ["[mutate]", "[shoal]"]),
        ('lr = "uniform(0, inf)"', ["lr", "inf is none"]),
        ('lr = "uniform(0, 10**3)"', ["lr", "10 ** 3 is none"]),
        ("lr = 1\n[shoal]\nmutat = []", ["'mutat'", "Did you mean 'mutate'?"]),
        ('lr = 1\n[shoal]\nmutate = ["lr"]', ["'lr'", "constant 1"]),
        ('lr = "uniform(0, 1)"\n[shoal]\nmutate = ["rl"]', ["'rl'", "lr"]),
        ('lr = "uniform(0, 1)"\n[shoal]\nmutate = "lr"', ["list"]),
        ('lr = "uniform(0, 1)"\n[shoal]\nmutate = ["lr"]\n[mutations]\nlr = "uniform(0, 1)"', ["exclude"]),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_key(tmp_path: Path, text: str, expected: list[str]) -> None:
    with pytest.raises(SpaceError) as told:
        toml(tmp_path, text)
    assert all(part in str(told.value) for part in [*expected, "space.toml"])


@needs_toml
def test_a_file_that_is_no_toml_is_told_with_the_line(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match=r"no TOML.*line 2"):
        toml(tmp_path, "a = 1\nb = = 2\n")


def test_a_python_file_holds_a_dict_of_any_name_and_may_say_how_it_mutates(tmp_path: Path) -> None:
    path = tmp_path / "space.py"
    path.write_text(
        "from shoal import tune\n"
        "space = {'lr': tune.uniform(0, 1), 'n': tune.sample_from(lambda config: 2 * config['lr'])}\n"
        "other = {'wd': tune.randn()}\n"
    )
    file = load_space(str(path))
    assert list(file.mutations) == ["lr"]
    assert callable(file.space["n"].func)
    assert isinstance(load_space(f"{path}:other").space["wd"], Normal)
    path.write_text(path.read_text() + "mutations = {'wd': [1, 2]}\n")
    assert load_space(str(path)).mutations == {"wd": [1, 2]}
    assert "shoal_space" not in sys.modules


@needs_toml
def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_bytes("\ufefflr = 1\n".encode())
    assert load_space(str(path)).space == {"lr": 1}


def test_a_python_file_may_import_its_neighbours_and_define_dataclasses(here: Path) -> None:
    import cloudpickle

    (here / "neighbour_of_space.py").write_text("width = 3\n")
    (here / "space.py").write_text(
        "from __future__ import annotations\nimport dataclasses\nimport neighbour_of_space\n"
        "from typing import ClassVar\n"
        "@dataclasses.dataclass\nclass Net:\n    width: int\n    kind: ClassVar[str] = 'a'\n"
        "space = {'net': Net(neighbour_of_space.width)}\n"
    )
    net = load_space("space.py").space["net"]
    assert net.width == 3
    assert b"dataclass" in cloudpickle.dumps(net)  # by value
    assert "shoal_space" not in sys.modules


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("space.py", "import sys\nsys.exit(3)", ["SystemExit", "line 2", "__main__"]),
        ("space.py", "space = {}\nfixed = 5", ["fixed", "list of keys", "5"]),
        ("space.py", "space = {}\nfixed = 'lr'", ["fixed", "list of keys", "'lr'"]),
        ("space.py", "x = 1\n1 / 0", ["space.py, line 2", "ZeroDivisionError"]),
        ("space.py", "x = 1\nx = = 2", ["space.py, line 2", "SyntaxError"]),
        ("space.py", "from shoal import tune\nx = tune.loguniform(0, 1)", ["space.py, line 2", "above 0"]),
        ("space.py:spcae", "space = {}", ["'spcae'", "Did you mean 'space'?"]),
        ("space.py", "space = [1]", ["dict", "list"]),
        ("space.py", "1 / 0", ["ZeroDivisionError"]),
        ("space.py", "import nothing_of_that_name", ["nothing_of_that_name"]),
        ("space.yaml", "", [".toml or .py"]),
        ("nowhere.toml", None, ["nowhere.toml", "No such file"]),
    ],
)
def test_a_file_that_cannot_be_used_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str | None, expected: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if source is not None:
        Path(name.partition(":")[0]).write_text(source)
    with pytest.raises((UsageProblem, SpaceError)) as told:
        load_space(name)
    assert all(part in str(told.value) for part in expected)


# ---------------------------------------------------------------------------------------------------------- trainables


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with modules; what is imported from it is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trains_here.py").write_text(
        "def train(config): ...\nclass Inner:\n    @staticmethod\n    def go(c): ...\n"
    )
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_function_is_found_in_the_working_directory_as_python_m_would(here: Path) -> None:
    found = load_trainable("trains_here:train")
    assert (found.__module__, found.__qualname__) == ("trains_here", "train")
    assert sys.path[0] == str(here)
    assert load_trainable("trains_here:Inner.go").__qualname__ == "Inner.go"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("trains_here", ["MODULE:FUNCTION", "trains_here:train"]),
        ("trains_here.py:train", ["trains_here:train"]),
        ("./package/trains.py:go", ["package.trains:go"]),
        ("trains_hre:train", ["'trains_hre'", "Did you mean 'trains_here'?"]),
        ("trains_here:trian", ["'trian'", "Did you mean 'train'?"]),
        ("trains_here:__name__", ["no function"]),
        ("broken_here:train", ["NameError", "broken_here.py, line 2"]),
        ("leaves_here:train", ["SystemExit", "__main__"]),
        ("needs_more:train", ["ModuleNotFoundError", "no_such_package"]),
    ],
)
def test_a_function_that_cannot_be_found_is_told_with_what_to_do(here: Path, given: str, expected: list[str]) -> None:
    (here / "broken_here.py").write_text("x = 1\nundefined_name\n")
    (here / "leaves_here.py").write_text("raise SystemExit(3)\n")
    (here / "needs_more.py").write_text("import no_such_package\n")
    with pytest.raises(UsageProblem) as told:
        load_trainable(given)
    assert all(part in str(told.value) for part in expected)
