"""The pages under docs/ are true: their code runs, their pictures are there, and what they name exists."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.image import imread

import shoal.cli.app
from shoal.plots import PLOTS

from ..simulated import write_experiment

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GUIDE = DOCS / "guide.md"
MOVING = DOCS / "coming-from-ray-tune.md"
LOOKING = DOCS / "looking.md"
CLUSTER = DOCS / "cluster.md"
PAGES = [*sorted(DOCS.rglob("*.md")), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
PICTURES = runpy.run_path(str(DOCS / "make_pictures.py"))

CHAPTERS = {  # and the pictures that each makes
    (GUIDE, "ConvNets that read digits"): {"learning_curve.png", "schedule.png"},
    (GUIDE, "DCGANs that write digits"): {"inception_score.png", "losses.png", "digits.png"},
    (GUIDE, "The same as a class; going on"): set[str](),
    (MOVING, "How to move a script"): set[str](),
    (MOVING, "Try it"): set[str](),
    (LOOKING, "Plots"): {"lineage.png"},
    (CLUSTER, "One script"): set[str](),
}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for the network that scores digits: that of the DCGAN tests, so that it is trained once."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shoal_cache"


def start(arguments: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "MPLBACKEND": "Agg", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


# ----------------------------------------------------------------------------------------------------------------- code


def test_every_chapter_with_code_is_tried() -> None:
    found = {(page, chapter) for page in PAGES for chapter in PICTURES["scripts"](page.read_text(encoding="utf-8"))}
    assert {(page, chapter) for page, chapter in found if page != ROOT / "README.md"} == set(CHAPTERS)


@pytest.mark.slow
@pytest.mark.parametrize(("page", "chapter"), CHAPTERS, ids=lambda value: getattr(value, "stem", value))
def test_the_code_of_a_chapter_runs_as_it_stands(page: Path, chapter: str, tmp_path: Path, cache: Path) -> None:
    blocks = PICTURES["scripts"](page.read_text(encoding="utf-8"))[chapter]
    source = "".join(block.code for block in blocks)
    assert source.count(PICTURES["SWITCH"]) == (page == GUIDE)
    (tmp_path / "script.py").write_text(source)
    if page == LOOKING:
        write_experiment(tmp_path / "shoal_results" / "digits")

    done = start(["script.py"], tmp_path, SHOAL_CACHE_DIR=str(cache))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr
    pictures = {path.name: path for path in tmp_path.glob("*.png")}
    assert set(pictures) == CHAPTERS[page, chapter]
    for path in pictures.values():
        assert contrast(path) > 0.05


def contrast(picture: Path) -> float:
    """Return the standard deviation of the pixels, 0 to 1, or 0 where the picture is of one colour."""
    return float(imread(picture)[..., :3].std())


# ------------------------------------------------------------------------------------------------- pictures and outputs


def shown_on(page: Path) -> set[str]:
    return set(re.findall(r"!\[[^\]]+\]\((?:docs/)?pictures/([^)]+)\)", page.read_text(encoding="utf-8")))


def test_the_pictures_are_those_that_the_pages_show_and_of_modest_size() -> None:
    guide, looking = shown_on(GUIDE), shown_on(LOOKING)
    assert guide == set[str]().union(*(made for (page, _), made in CHAPTERS.items() if page == GUIDE))
    assert {name for name in looking if "dashboard" not in name} == {f"looking-{name}.png" for name in PLOTS}
    shown = guide | looking
    assert shown_on(ROOT / "README.md") <= shown
    assert {path.name for path in (DOCS / "pictures").iterdir()} == shown
    for name in shown:
        path = DOCS / "pictures" / name
        assert path.stat().st_size < 150_000
        assert contrast(path) > 0.05


def test_what_the_guides_code_printed_is_there() -> None:
    shown = [printed.code for _, printed in PICTURES["outputs"](GUIDE.read_text(encoding="utf-8"))]
    assert len(shown) >= 5
    assert all(0 < len(text.splitlines()) < 20 for text in shown)
    assert not [text for text in shown if str(ROOT) in text or "/tmp" in text]


def test_make_pictures_turns_the_switch_and_puts_what_blocks_print_into_the_page(tmp_path: Path) -> None:
    page = (
        "# Page\n\n## One\n\n```python\nquick = True\nprint('quick is', quick)\n```\n\nText.\n\n"
        "```python\nprint('silent')\n```\n\nMore.\n\n```text\nno output\n```\n\n"
        "```python\nprint('two')\nprint('lines')\n```\n\n```text\nold\n```\n"
    )
    blocks = PICTURES["scripts"](page)["One"]
    printed = PICTURES["run"](blocks, tmp_path)
    assert printed == ["quick is False\n", "silent\n", "two\nlines\n"]
    new = PICTURES["replaced"](page, {block.code: text for block, text in zip(blocks, printed, strict=True)})
    assert new == page.replace("old", "two\nlines")


@pytest.mark.parametrize(
    ("source", "expected"), [("print(1)", "exactly one line must be"), ("quick = True\n1 / 0", "failed with 1")]
)
def test_make_pictures_fails_aloud(source: str, expected: str, tmp_path: Path) -> None:
    blocks = PICTURES["scripts"](f"## One\n```python\n{source}\n```\n")["One"]
    with pytest.raises(SystemExit, match=expected):
        PICTURES["run"](blocks, tmp_path)


# ------------------------------------------------------------------------------------------------- links and commands


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's titles, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_exists(page: Path) -> None:
    missing: list[str] = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    assert missing == []


def commands(page: Path) -> Iterator[str]:
    """Yield the shell commands of a page: lines of shell blocks, and what begins like one between backticks."""
    for fence in PICTURES["fences"](page.read_text(encoding="utf-8")):
        if fence.language == "sh":
            yield from (line.partition("#")[0].strip() for line in fence.code.splitlines() if line.strip())
    yield from re.findall(r"`((?:make|pip|python|shoal) [^`\n]+)`", prose(page))


SHOAL = {command.name for command in shoal.cli.app.app.registered_commands}
"""The commands of ``shoal``."""
EXAMPLES = ("script.py", "package.module", "-")
"""What stands for the reader's own file or module; ``python -`` reads a script from standard input."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_that_a_page_names_exist(page: Path) -> None:
    rules = re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    for command in commands(page):
        program, *rest = itertools.dropwhile(lambda word: re.match(r"\w+=", word), command.split())
        if program == "make":
            assert next(word for word in rest if "=" not in word) in rules, command
        elif program == "pip":
            assert set(re.findall(r"\[(\w+)\]", command)) <= set(extras), command
        elif program == "shoal":
            assert rest[0].startswith("--") or rest[0] in SHOAL, command
        elif program == "python":
            modules = re.findall(r"-m ([\w.]+)", command)
            assert modules or rest[0] in EXAMPLES, command
            assert all(module in EXAMPLES or importlib.util.find_spec(module) for module in modules), command
        elif program == "ray":
            assert rest[:2] == ["job", "submit"], command
        else:
            assert (ROOT / program).is_file(), command


TRAIN = """
from shoal import tune
from tests.helpers import climb

def train(config):
    assert config["batch_size"] == 64
    climb({**config, "every": 1})
"""
NOT_RUNNING = 1


@pytest.mark.slow
def test_the_commands_about_looking_run_one_after_the_other(tmp_path: Path) -> None:
    fences = PICTURES["fences"](LOOKING.read_text(encoding="utf-8"))
    (space,) = (fence.code for fence in fences if fence.language == "toml")
    (tmp_path / "space.toml").write_text(space)
    (tmp_path / "train.py").write_text(TRAIN)
    code = "".join(fence.code for fence in fences if fence.language == "sh")
    lines = [line.partition("#")[0].strip() for line in code.splitlines() if line.startswith("shoal ")]
    lines = [line for line in lines if line != "shoal dashboard"]  # which runs until it is ended, and has its own tests
    (run,) = (line for line in lines if line.startswith("shoal run "))
    lines.remove(run)
    assert len(lines) == 14
    environment = {"SHOAL_ENGINE": "inline", "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "COLUMNS": "100"}
    for line in [run.replace("accuracy", "score"), *lines]:
        arguments = line.split()[1:]
        done = start(["-m", "shoal", *arguments], tmp_path, **environment)
        assert done.returncode == (NOT_RUNNING if arguments[0] == "stop" else 0), f"{line}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------------- moving from Ray Tune


def table(title: str) -> list[list[str]]:
    """Return the rows of the table below a title, without its head."""
    section = re.split(rf"^#+ {re.escape(title)}$", MOVING.read_text(encoding="utf-8"), flags=re.MULTILINE)[1]
    lines = section[section.index("\n|") + 1 :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_the_import_lines_work_on_both_sides(tmp_path: Path) -> None:
    rows = table("Or change the import lines")
    assert len(rows) >= 8
    for side, command in enumerate((["-m", "shoal.as_ray", "script.py"], ["script.py"])):
        lines = [quoted(row[side])[0] for row in rows]
        assert all(("ray" in line) if side == 0 else (" shoal" in line) for line in lines)
        (tmp_path / "script.py").write_text("\n".join(lines))
        done = start(command, tmp_path)
        assert done.returncode == 0, done.stderr


def test_the_names_in_the_table_are_there(tmp_path: Path) -> None:
    with_both: list[str] = []
    with_as_ray: list[str] = []
    for modules, names in table("What is the same"):
        everywhere, _, there_only = names.partition("only with `shoal.as_ray`")
        for module in quoted(modules):
            with_both += [f"from {module} import {name}" for name in quoted(everywhere)]
            with_as_ray += [f"from {module} import {name}" for name in quoted(there_only)]
    assert len(with_both) > 50
    assert len(with_as_ray) > 10
    (tmp_path / "script.py").write_text("\n".join([*with_both, *with_as_ray]))
    done = start(["-m", "shoal.as_ray", "script.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    ours = (line.replace("from ray", "from shoal", 1) for line in with_both)
    (tmp_path / "script.py").write_text("\n".join(ours))
    done = start(["script.py"], tmp_path)
    assert done.returncode == 0, done.stderr


MISSING = """
import importlib, sys
from ray import tune

def use(name):
    if name.startswith("ray."):
        module, _, attribute = name.rpartition(".")
        getattr(importlib.import_module(module), attribute)
    else:
        tune.run(lambda config: None, **{name: "something"})

there = []
for name in sys.argv[1:]:
    try:
        use(name)
        there.append(name)
    except (ImportError, AttributeError, tune.TuneError, ValueError) as error:
        assert "Shoal has no" in str(error), error
print("there:", there)
"""


def test_what_is_said_to_be_missing_is_missing(tmp_path: Path) -> None:
    cells = [quoted(ray) for ray, _ in table("What is missing")]
    names = [name for cell in cells for name in cell if re.fullmatch(r"[\w.]+", name)]
    assert len(names) > 20
    (tmp_path / "script.py").write_text(MISSING)
    done = start(["-m", "shoal.as_ray", "script.py", *names], tmp_path)
    assert done.stdout.splitlines()[-1:] == ["there: []"], done.stdout + done.stderr


def test_methods_that_are_said_to_be_missing_are_missing() -> None:
    from shoal import tune

    methods = [re.findall(r"`(\w+)\.(\w+)\(\)`", ray) for ray, _ in table("What is missing")]
    found = [(kind, method) for cell in methods for kind, method in cell]
    assert found == [("Trainable", "export_model")]
    assert [pair for pair in found if hasattr(getattr(tune, pair[0]), pair[1])] == []


def test_the_error_about_a_name_that_is_not_there_is_the_one_that_the_page_shows() -> None:
    from shoal.as_ray.modules import absent

    shown = re.findall(r"^ModuleNotFoundError: (.+?) \.\.\.$", MOVING.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(shown) == 1
    assert absent("ray.tune.schedulers.PB2").startswith(shown[0].replace("\n", " "))


def test_what_is_said_to_be_refused_is_refused(tmp_path: Path) -> None:
    import shoal
    from shoal.errors import EngineError

    text = MOVING.read_text(encoding="utf-8")
    assert '`ray.init("ray://...")`' in text
    with pytest.raises(EngineError, match="that it is no part of"):
        shoal.init("ray://...")
    assert "a cluster with `python -m shoal.as_ray`" in text
    (tmp_path / "script.py").write_text('import ray\nray.init(address="auto")\n')
    done = start(["-m", "shoal.as_ray", "script.py"], tmp_path)
    assert "shoal.as_ray hides Ray" in done.stderr
