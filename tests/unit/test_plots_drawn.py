"""Stage two of the plots: figures that people see, and files."""

from __future__ import annotations

import builtins
import io
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.simulated import pbt, write_experiment
from tests.unit.pictured import known, odd, pictured, simulated, without_copies
from tests.unit.stories import Story

import shoal.plots
import shoal.plots.plotly
from shoal import tune
from shoal.errors import ConfigError, JournalError, ResultError, StorageError
from shoal.plots import PLOTS, save_plot
from shoal.plots.words import for_plotly, label_of
from shoal.reading import Experiment

NAMES = ("learning-curves", "lineage", "schedules", "ancestry", "diversity", "times", "gains")
BOTH = pytest.mark.parametrize("theme", ["light", "dark"])
EACH = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return simulated(tmp_path_factory.mktemp("few") / "run", members=6, steps=25)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return simulated(tmp_path_factory.mktemp("many") / "run", members=50, steps=60, slots=10, scheduler=pbt(synch=True))


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        assert all(type(key) is str for key in value)
        for each in value.values():
            yield from leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each)
    else:
        yield value


def spec_of(experiment: Experiment, name: str, theme: str = "light", points: int | None = None) -> dict[str, Any]:
    plot = PLOTS[name]
    return plot.spec(plot.info(experiment), theme=theme, points=points)


def info_of(experiment: Experiment, name: str) -> Any:
    """Return the plain data of a plot, or None where there is nothing to draw."""
    try:
        return PLOTS[name].info(experiment)
    except (ResultError, ConfigError):
        return None


def cases(folder: Path) -> dict[str, Experiment]:
    """Return experiments that are unlike others."""
    story = Story(folder / "running")
    story.add_usual(3)
    story.report(0, {"mean_accuracy": 0.1}, save=True)
    running = pictured(story)
    return {
        "one member": without_copies(folder / "1"),
        "two members, equal scores": without_copies(folder / "2", members=2),
        "one result each": without_copies(folder / "3", members=3, steps=1),
        "scores that are all NaN but one": _mostly_nan(folder / "4"),
        "huge scores": without_copies(folder / "5", members=2, score=1e300),
        "just begun": running,
        "names and failures": odd(folder / "6"),
        "less is better": odd(folder / "7", mode="min"),
        "a control": without_copies(folder / "8", members=3, control=[1]),
        "no metric": known(folder / "9", metric=None),
    }


def _mostly_nan(folder: Path) -> Experiment:
    story = Story(folder)
    story.add_usual(2)
    for step in range(4):
        for index in range(2):
            story.report(index, {"mean_accuracy": 0.5 if (step, index) == (1, 1) else math.nan})
    return pictured(story)


# --------------------------------------------------------------------------------------------------------------- specs


@BOTH
@EACH
def test_a_spec_is_plain_json(few: Experiment, name: str, theme: str) -> None:
    spec = spec_of(few, name, theme)
    assert set(spec) == {"data", "layout"}
    assert json.loads(json.dumps(spec, allow_nan=False)) == spec
    assert all(value is None or type(value) in (str, int, float, bool) for value in leaves(spec))
    assert spec["layout"]["paper_bgcolor"] == spec["layout"]["plot_bgcolor"] == "rgba(0,0,0,0)"
    assert spec["layout"]["meta"]["title"]


def test_a_spec_can_be_made_of_every_experiment_that_has_something_to_draw(tmp_path: Path) -> None:
    for what, experiment in cases(tmp_path).items():
        for name in NAMES:
            info = info_of(experiment, name)
            if info is None:
                assert name == "gains" or (name == "ancestry" and experiment.best is None) or what == "no metric"
                continue
            for theme in ("light", "dark"):
                json.dumps(PLOTS[name].spec(info, theme=theme, points=10), allow_nan=False)


@EACH
def test_plotly_accepts_every_spec(many: Experiment, name: str) -> None:
    graph_objects = pytest.importorskip("plotly.graph_objects")
    graph_objects.Figure(spec_of(many, name))


@EACH
def test_many_members_have_few_traces_and_a_small_spec(many: Experiment, name: str) -> None:
    spec = spec_of(many, name, points=50)
    assert len(spec["data"]) <= 30
    assert len(json.dumps(spec)) < 500_000


def test_points_are_reduced_and_the_extremes_stay(many: Experiment) -> None:
    whole, thinned = (spec_of(many, "learning-curves", points=points) for points in (None, 20))

    def ys(spec: dict[str, Any]) -> list[float]:
        return [y for trace in spec["data"] if trace["mode"] == "lines" for y in trace["y"] if y is not None]

    assert len(ys(thinned)) < len(ys(whole)) / 2
    assert min(ys(thinned)) == min(ys(whole))
    assert max(ys(thinned)) == pytest.approx(max(ys(whole)), abs=0.01)


@EACH
def test_nothing_that_users_named_becomes_markup_in_a_spec(tmp_path: Path, name: str) -> None:
    spec = spec_of(odd(tmp_path), name)
    texts = " ".join(
        value for value in leaves({**spec, "layout": {**spec["layout"], "meta": None}}) if isinstance(value, str)
    )
    for markup in ("<img", "<i>", "$", "a<b", "<br>/x"):
        assert markup not in texts
    assert "%{x} {y}" not in texts


def test_a_name_is_shown_as_it_is_by_plotly() -> None:
    assert for_plotly('<b>$x$ & "%{y}"</b>') == '&lt;b&gt;&#36;x&#36; &amp; "&#37;{y}"&lt;/b&gt;'


def test_a_result_between_two_that_are_none_is_seen(tmp_path: Path) -> None:
    experiment = odd(tmp_path)
    (line,) = [
        trace
        for trace in spec_of(experiment, "learning-curves")["data"]
        if trace["customdata"][0] == 1 and trace["mode"] == "lines+markers"
    ]
    assert [x for x, size in zip(line["x"], line["marker"]["size"], strict=True) if size] == [5]
    info = PLOTS["ancestry"].info(experiment, trial_id=experiment.history.in_order()[1].trial_id)
    (dots,) = [trace for trace in PLOTS["ancestry"].spec(info)["data"] if trace["name"] == "single results"]
    assert (dots["x"], dots["customdata"]) == ([5], [[1, 0]])


def test_a_lane_says_whose_it_is(many: Experiment) -> None:
    spec = spec_of(many, "lineage", points=20)
    (lanes,) = [trace for trace in spec["data"] if trace["name"] == "members"]
    numbers = {
        place: entry[0] for place, entry in zip(lanes["y"], lanes["customdata"], strict=True) if place is not None
    }
    assert numbers == {place: trial.index for place, trial in enumerate(many.history.in_order())}
    copies = [trace for trace in spec["data"] if trace["name"] == "copies" and trace["mode"] == "markers"]
    donors = [(exploit.trial_id, exploit.donor_id) for exploit in many.history.exploits]
    told = [(entry[0], entry[2]) for entry in copies[0]["customdata"]]
    trials = many.history.trials
    assert told == [(trials[member].index, trials[donor].index) for member, donor in donors]


def test_every_curve_says_whose_it_is(few: Experiment, many: Experiment) -> None:
    for experiment in (few, many):
        spec = spec_of(experiment, "learning-curves")
        shown = {
            entry if isinstance(entry, int) else entry[0] for trace in spec["data"] for entry in trace["customdata"]
        }
        assert shown == {trial.index for trial in experiment.history.in_order()}


def test_the_winner_is_in_front_and_labelled(few: Experiment) -> None:
    spec = spec_of(few, "learning-curves")
    best = few.best
    assert best is not None
    lines = [trace for trace in spec["data"] if trace["mode"] == "lines"]
    assert lines[-1]["meta"] == {"member": best.index}
    assert max(trace["line"]["width"] for trace in lines) == lines[-1]["line"]["width"]
    assert f"member {best.index}  " in spec["layout"]["annotations"][0]["text"]


def test_a_hyperparameter_on_a_log_scale_has_a_log_axis_with_plain_numbers(few: Experiment) -> None:
    layout = spec_of(few, "schedules")["layout"]
    assert layout["yaxis"]["type"] == "log"
    assert {"0.001", "0.01", "0.1"} <= set(layout["yaxis"]["ticktext"])
    assert "type" not in layout["yaxis2"]
    assert set(layout["yaxis3"]["ticktext"]) <= {"relu", "gelu", "tanh"}


def test_members_are_called_by_their_number_or_by_the_name_that_users_gave(few: Experiment, tmp_path: Path) -> None:
    members = PLOTS["times"].info(few).members
    assert [label_of(each.member) for each in members] == [f"member {place}" for place in range(6)]
    named = [label_of(each.member) for each in PLOTS["times"].info(odd(tmp_path)).members]
    assert named[2] == "_hidden_"
    assert all(len(label) <= 22 for label in named)
    control = PLOTS["times"].info(known(tmp_path / "2", control=[1])).members[1].member
    assert label_of(control) == "member 1 (control)"


# ------------------------------------------------------------------------------------------------------------- figures


@EACH
def test_every_figure_draws_odd_names_without_a_warning(tmp_path: Path, name: str) -> None:
    for mode in ("max", "min"):
        plot = PLOTS[name]
        figure = plot.figure(plot.info(odd(tmp_path / mode, mode)))
        for kind in ("png", "svg", "pdf"):
            figure.savefig(io.BytesIO(), format=kind)


def test_a_figure_can_be_drawn_of_every_experiment_that_has_something_to_draw(tmp_path: Path) -> None:
    for experiment in cases(tmp_path).values():
        for plot in PLOTS.values():
            info = info_of(experiment, plot.name)
            if info is not None:
                plot.figure(info).draw_without_rendering()


@EACH
def test_a_figure_of_many_members_draws(many: Experiment, name: str) -> None:
    PLOTS[name].figure(PLOTS[name].info(many)).draw_without_rendering()


def test_names_are_drawn_literally(tmp_path: Path) -> None:
    figure = PLOTS["lineage"].figure(PLOTS["lineage"].info(odd(tmp_path)))
    drawn = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert drawn[0] == "<b>bold</b><img src=x…"
    assert drawn[1] == "costs \\$5\\$ and \\$\\frac{\\$"
    assert drawn[2] == "_hidden_"


def test_the_users_style_is_neither_followed_nor_changed(few: Experiment) -> None:
    import matplotlib

    with matplotlib.rc_context({"text.usetex": True, "axes.facecolor": "black", "font.size": 40}):
        before = dict(matplotlib.rcParams)
        figure = shoal.plots.plot_learning_curves(few)
        figure.draw_without_rendering()
        assert dict(matplotlib.rcParams) == before
    assert figure.axes[0].get_facecolor() == (1, 1, 1, 1)


def test_a_figure_is_in_no_window(few: Experiment) -> None:
    import matplotlib.pyplot as plt

    shoal.plots.plot_gains(few)
    assert plt.get_fignums() == []


def test_labels_at_the_ends_of_lines_stay_inside_of_the_figure(few: Experiment) -> None:
    figure = shoal.plots.plot_learning_curves(few)
    figure.savefig(io.BytesIO())
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1


# ------------------------------------------------------------------------------------------------------- public names


def test_the_registry_has_all_plots_and_says_how_to_read_them() -> None:
    assert tuple(PLOTS) == NAMES
    for name, plot in PLOTS.items():
        assert plot.name == name
        assert plot.title
        assert plot.explanation.endswith(".")
    assert PLOTS["schedules"].options == ("parameters", "x")


@EACH
def test_a_plot_takes_a_path_results_or_an_experiment(tmp_path: Path, name: str) -> None:
    folder = write_experiment(tmp_path / "run", members=4, steps=15, files=True)
    draw = getattr(shoal.plots, f"plot_{name.replace('-', '_')}")
    interactive = getattr(shoal.plots.plotly, f"plot_{name.replace('-', '_')}")
    for source in (folder, str(folder), tune.ResultGrid.read(folder), Experiment.open(folder)):
        assert type(draw(source)).__name__ == "Figure"
    figure = interactive(folder, theme="dark", points=10)
    assert figure.layout.meta["title"] == spec_of(Experiment.open(folder), name)["layout"]["meta"]["title"]


@pytest.mark.parametrize(
    ("ending", "begins"),
    [
        (".png", b"\x89PNG"),
        (".svg", b"<?xml"),
        (".pdf", b"%PDF"),
        (".html", b"<!doctype html>"),
        (".json", b'{"data":'),
    ],
)
def test_the_ending_of_the_path_says_the_format(few: Experiment, tmp_path: Path, ending: str, begins: bytes) -> None:
    target = tmp_path / "new" / f"Tree{ending.upper()}"
    assert save_plot(few, "lineage", target, x="time") == target
    assert target.read_bytes().startswith(begins)
    assert list(target.parent.iterdir()) == [target]


def test_a_page_needs_no_network_and_ends_no_element_early(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.add_usual(2)
    story.history.trials[story.name(0)].name = "</script><script>alert(1)"
    story.report(0)
    path = save_plot(pictured(story), "learning-curves", tmp_path / "page.html", theme="dark", points=10)
    page = path.read_text(encoding="utf-8")
    assert "src=" not in page.partition("</head>")[2]
    assert "<script>alert(1)" not in page
    assert "#12171d" in page


def test_wrong_names_endings_and_options_are_refused_with_what_there_is(few: Experiment, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(ConfigError, match=r"no plot 'linage'\. Did you mean 'lineage'\? There are: 'learning-curves',"):
        save_plot(few, "linage", path)
    with pytest.raises(ConfigError, match=r"must end with \.png, \.svg, \.pdf, \.html or \.json"):
        save_plot(few, "lineage", tmp_path / "a.gif")
    with pytest.raises(ConfigError, match=r"'lineage' has no option 'metrics'\. Did you mean 'metric'\?"):
        save_plot(few, "lineage", path, metrics="loss")
    with pytest.raises(ConfigError, match=r"'times' has no option 'x'\. It has: none"):
        save_plot(few, "times", path, x="time")
    with pytest.raises(ConfigError, match=r"Only \.html and \.json have the option 'theme'"):
        save_plot(few, "lineage", path, theme="dark")
    with pytest.raises(ConfigError, match="theme must be 'light' or 'dark'"):
        save_plot(few, "lineage", tmp_path / "a.json", theme="blue")
    with pytest.raises(ConfigError, match="metric must be a text, but is 3"):
        save_plot(few, "lineage", path, metric=3)
    with pytest.raises(ConfigError, match="source must be the path"):
        save_plot(7, "lineage", path)  # type: ignore[arg-type]
    with pytest.raises(JournalError):
        save_plot(tmp_path / "nothing", "lineage", path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written to"):
        save_plot(few, "times", tmp_path / "file" / "a.json")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_with_nothing_to_draw_it_says_so(tmp_path: Path) -> None:
    story = Story(tmp_path / "empty")
    story.add_usual(2)
    for plot in PLOTS.values():
        with pytest.raises(ResultError, match="has no result yet, so there is nothing to draw"):
            plot.info(pictured(story))
    with pytest.raises(ResultError, match="Nobody has copied another in 1 yet"):
        PLOTS["gains"].info(without_copies(tmp_path / "1"))


@pytest.mark.parametrize(
    ("package", "ending", "extra"), [("matplotlib", "png", "plots"), ("plotly", "html", "plotly")]
)  # fmt: skip
def test_a_missing_package_is_named_with_how_to_install_it(
    few: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, ending: str, extra: str
) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == package:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"pip install 'shoal\[{extra}\]'"):
        save_plot(few, "lineage", tmp_path / f"a.{ending}")


def test_a_spec_needs_neither_matplotlib_nor_plotly_nor_numpy(
    few: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported: list[str] = []
    original = builtins.__import__

    def watched(name: str, *rest: Any) -> Any:
        imported.append(name.partition(".")[0])
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", watched)
    for name in NAMES:
        save_plot(few, name, tmp_path / f"{name}.json")
    assert not {"matplotlib", "plotly", "numpy", "pandas"} & set(imported)


def test_of_very_many_copies_some_are_drawn_and_that_is_said(tmp_path: Path) -> None:
    experiment = Experiment.open(write_experiment(tmp_path / "run", members=20, steps=60))
    plot = PLOTS["gains"]
    info = plot.info(experiment)
    known = [gain.gain for gain in info.gains if gain.gain is not None]
    assert len(info.gains) > 20
    spec = plot.spec(info, points=5)
    drawn = next(trace for trace in spec["data"] if trace["name"] == "before")
    assert 5 <= len(drawn["x"]) <= 12
    assert f"of {len(info.gains)} are drawn" in spec["layout"]["meta"]["note"]
    changes = [y for trace in spec["data"] if trace["name"].startswith("change") for y in trace["y"] if y]
    assert (min(changes), max(changes)) == (pytest.approx(min(known), rel=1e-5), pytest.approx(max(known), rel=1e-5))
    assert "are drawn" not in plot.spec(info)["layout"]["meta"]["note"]
