"""The pages, rendered: each as blocks, inside of a frame. Templates escape everything that they are given."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..display.text import unturned
from ..errors import one_line
from ..reading import Experiment, State
from .blocks import BlockStore, Update
from .compare import COMPARED, comparison
from .figures import Panel, panels
from .kept import REST, Kept
from .live import Experiments, Looked, Watched
from .member import MemberView, find_member, member_stamp, member_view, result_columns
from .views import ExperimentView, Statement, columns_of, experiment_view, overview_row, state_mark, statements_of

__all__ = ["Gone", "Live", "Pages"]

_HERE = Path(__file__).parent
_PATIENCE = 0.4
"""Seconds for which a page waits for its experiment to be opened, before it is shown without: a page that waits takes
one of the few threads that answer all requests."""
_SHOWN = 200
"""Experiments in the list, the newest."""
_MEMBERS_KEPT = 50
"""Members whose pages are not rendered again while nothing has changed."""
_QUICK = 10_000
"""Results of which a report card is made at once."""

Card = tuple[Statement, ...] | None
"""None where it is still being worked out."""


class Gone(LookupError):
    """What a page is about is not there."""


@dataclass(frozen=True, slots=True)
class Live:
    """What an open page is told."""

    update: Update | None
    """None: nothing has changed."""
    version: str
    """Of what was read: what figures are made from."""
    state: str
    """``running``; ``reading`` while the journal is being opened; else anything."""
    frame: str = ""
    """Changes where what is around the blocks would: the page has to be loaded again."""


@dataclass(frozen=True, slots=True)
class _Rendered:
    blocks: dict[str, str]
    lists: dict[str, list[str]]


class Pages:
    """Renders the pages.

    Args:
        experiments: what they are about.
        assets: a version of the static files, for their addresses.
        plotly: a version of plotly.js.
    """

    def __init__(self, experiments: Experiments, assets: str, plotly: str) -> None:
        self.experiments = experiments
        self._store = BlockStore()
        self._cards: Kept[tuple[Statement, ...]] = Kept(50, rest=2 * REST)
        self._rows: dict[str, tuple[str, str]] = {}
        self._at_work: set[tuple[str, ...]] = set()
        """The report cards that are being worked out."""
        self._members: dict[tuple[str, str], tuple[object, tuple[_Rendered, MemberView]]] = {}
        self._rendered: dict[tuple[str, ...], tuple[object, _Rendered]] = {}
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_finalized,
        )
        names: dict[str, Any] = self._templates.globals
        names.update(assets=assets, plotly=plotly)

    # -------------------------------------------------------------------------------------------------------- overview

    def overview(self) -> str:
        """Return the list of experiments."""
        rendered, looks, version, _ = self._overview()
        names = [(each.key, each.name) for each, _ in looks]
        return self._page(("overview",), rendered, version, version, "overview.html", names=names)

    def overview_live(self, have: str) -> Live:
        """Return what has changed in the list of experiments."""
        rendered, looks, version, warming = self._overview()
        running = any(looked.state is State.RUNNING for _, looked in looks)
        reading = warming or any(looked.reading is not None for _, looked in looks)
        state = "reading" if reading else "running" if running else "ended"
        return Live(self._since(("overview",), rendered, have), version, state)

    def _overview(self) -> tuple[_Rendered, list[tuple[Watched, Looked]], str, bool]:
        """Return the blocks, what is known of the experiments, its version, and whether some are still to be read."""
        everything = self.experiments.all()
        found = everything[:_SHOWN]
        warming = self.experiments.warm(_SHOWN)
        for key in self._rows.keys() - {each.key for each in everything}:
            self._rows.pop(key, None)
        looks = [(each, each.glance()) for each in found]
        blocks: dict[str, str] = {}
        for watched, looked in looks:
            blocks[f"x-{watched.key}"] = self._overview_row(watched, looked)
        rows = [*blocks]
        blocks["overview-note"] = self._block(
            "overview_note", root=self.experiments.place, there=self.experiments.root.is_dir(),
            count=len(found), more=len(everything) - len(found), outside=self.experiments.outside,
        )  # fmt: skip
        version = f"{len(everything)}-{hash(tuple(looked.version for _, looked in looks))}"
        return _Rendered(blocks, {"overview-rows": rows}), looks, version, warming

    def _overview_row(self, watched: Watched, looked: Looked) -> str:
        known = self._rows.get(watched.key)
        if known is not None and known[0] in (watched.forgotten, looked.version):
            return known[1]
        with watched.reading() as experiment:
            row = overview_row(watched, looked, experiment)
        text = self._block("overview_row", row=row)
        if experiment is not None:
            self._rows[watched.key] = looked.version, text
        elif not watched.forgotten:
            self._rows.pop(watched.key, None)
        return text

    # ------------------------------------------------------------------------------------------------------ experiment

    def experiment(self, key: str) -> str:
        """Return the page of an experiment."""
        watched, looked = self._look(key, _PATIENCE)
        rendered, _ = self._experiment(watched, looked, wait=True)
        return self._page(
            ("experiment", key), rendered, looked.version, looked.version, "experiment.html",
            watched=watched,
            frame=_frame(looked),
            folder=self.experiments.place_of(watched),
            info=looked.info,
            columns=[] if looked.info is None else columns_of(looked.info),
            panels=_panels(),
            others=[(each.key, each.name) for each in self.experiments.all() if each is not watched],
            single=self.experiments.single,
        )  # fmt: skip

    def experiment_live(self, key: str, have: str, soon: bool = False) -> Live:
        """Return what has changed on the page of an experiment.

        Args:
            key: the experiment's.
            have: the version that is there.
            soon: whether the page will be loaded again as soon as there is something to show.
        """
        watched, looked = self._look(key)
        rendered, whole = self._experiment(watched, looked, soon)
        pace = _pace(looked) if whole else "reading"
        return Live(self._since(("experiment", key), rendered, have), looked.version, pace, _frame(looked))

    def _experiment(self, watched: Watched, looked: Looked, wait: bool = False) -> tuple[_Rendered, bool]:
        """Return its blocks, and whether all of them are there.

        They are rendered once for all who look, and not again while nothing was read.
        """
        key = ("experiment", watched.key)
        with watched.reading() as experiment:
            if experiment is None:
                status = self._block("status", looked=looked, mark=state_mark(looked))
                return _Rendered({"status": status}, {}), True
            card = self._card(watched, looked, experiment, wait)
            made_of = (looked.version, card)
            known = self._rendered.get(key)
            if known is not None and known[0] == made_of:
                return known[1], card is not None
            view = experiment_view(experiment, looked)
        rendered = self._render_experiment(watched, looked, view, card)
        if len(self._rendered) > _SHOWN:
            self._rendered.clear()
        self._rendered[key] = (made_of, rendered)
        return rendered, card is not None

    def _render_experiment(self, watched: Watched, looked: Looked, view: ExperimentView, card: Card) -> _Rendered:
        blocks = {
            "status": self._block("status", looked=looked, mark=state_mark(looked)),
            "facts": self._block("facts", facts=view.facts),
            "progress": self._block("progress", done=view.done, text=view.progress),
            "best": self._block("best", view=view, key=watched.key),
            "card": self._block("card", card=card),
            "exploits": self._block("exploits", view=view, key=watched.key),
            "notices": self._block("notices", notices=view.notices),
        }
        row = self._templates.get_template("blocks/member_row.html")
        rows = {f"m-{each.index}": row.render(row=each, key=watched.key) for each in view.rows}
        return _Rendered({**blocks, **rows}, {"members": list(rows)})

    def _card(self, watched: Watched, looked: Looked, experiment: Experiment, wait: bool) -> Card:
        """Return the report card; of a long experiment, it is worked out while the page is there already.

        Args:
            watched, looked, experiment: of which.
            wait: whether nothing is begun now, because the page is to be there soon.
        """
        key, live = (watched.key,), looked.state is State.RUNNING
        if experiment.history.results <= _QUICK:
            return self._cards.get(key, looked.version, lambda: _statements(experiment), live)[1]
        found, new = self._cards.peek(key, looked.version, live)
        if not new and not wait and key not in self._at_work:
            self._at_work.add(key)
            threading.Thread(target=self._work_out, args=(watched, looked.version, live), daemon=True).start()
        return found

    def _work_out(self, watched: Watched, version: str, live: bool) -> None:
        def make() -> tuple[Statement, ...]:
            with watched.reading() as experiment:
                return () if experiment is None else _statements(experiment)

        try:
            self._cards.get((watched.key,), version, make, live)
        finally:
            self._at_work.discard((watched.key,))

    # ---------------------------------------------------------------------------------------------------------- member

    def member(self, key: str, name: str) -> str:
        """Return the page of a member; without it, one that follows until there is something to show."""
        watched, looked = self._look(key, _PATIENCE)
        rendered, view = self._member(watched, looked, name)
        return self._page(
            ("member", key, name), rendered, looked.version, looked.version,
            "member_later.html" if view is None else "member.html",
            watched=watched, frame=_frame(looked), name=name, member=view, panels=_panels(),
            single=self.experiments.single,
        )  # fmt: skip

    def member_live(self, key: str, name: str, have: str) -> Live:
        """Return what has changed on the page of a member."""
        watched, looked = self._look(key)
        rendered, _ = self._member(watched, looked, name)
        return Live(self._since(("member", key, name), rendered, have), looked.version, _pace(looked), _frame(looked))

    def _member(self, watched: Watched, looked: Looked, name: str) -> tuple[_Rendered, MemberView | None]:
        with watched.reading() as experiment:
            if experiment is None:
                status = self._block("status", looked=looked, mark=state_mark(looked))
                return _Rendered({"status": status}, {}), None
            trial = find_member(experiment, name)
            if trial is None:
                raise Gone(f"{watched.name} has no member {name}.")
            place = (watched.key, trial.trial_id)
            made_of = (looked.version, member_stamp(experiment, trial))
            known = self._members.get(place)
            if known is not None and known[0] == made_of:
                return known[1]
            view = member_view(experiment, trial, looked)
        columns = result_columns(view)
        blocks = {
            "status": self._block("status", looked=looked, mark=view.mark),
            "head": self._block("member_head", view=view, key=watched.key),
            "facts": self._block("facts", facts=view.facts),
            **{
                name: self._block(f"member_{name}", view=view, key=watched.key, columns=columns)
                for name in ("config", "changes", "lineage", "results", "checkpoints", "error", "log")
            },
        }
        if len(self._members) > _MEMBERS_KEPT:
            self._members.clear()
        made = _Rendered(blocks, {}), view
        self._members[place] = made_of, made
        return made

    # --------------------------------------------------------------------------------------------------------- compare

    def compare(self, first: str, second: str) -> str:
        """Return the comparison of two experiments; the choice of them, where none are given."""
        names = [(each.key, each.name) for each in self.experiments.all()]
        rendered, version, _ = self._compare(first, second, _PATIENCE)
        return self._page(
            ("compare", first, second), rendered, version, version, "compare.html",
            names=names, first=first, second=second, compared=COMPARED,
        )  # fmt: skip

    def compare_live(self, first: str, second: str, have: str) -> Live:
        """Return what has changed in the comparison."""
        rendered, version, state = self._compare(first, second)
        return Live(self._since(("compare", first, second), rendered, have), version, state)

    def _compare(self, first: str, second: str, wait: float = 0.0) -> tuple[_Rendered, str, str]:
        if not first or not second:
            return _Rendered({}, {}), "none", "ended"
        (one, looked), (other, looked_other) = self._look_at(wait, first, second)
        version = f"{looked.version}_{looked_other.version}"
        state = _pace(looked) if _pace(looked) != "ended" else _pace(looked_other)
        with one.reading() as a, other.reading() as b:
            if a is None or b is None:
                return _Rendered({"comparison": self._block("comparison_later", problem=looked.problem
                                                            or looked_other.problem)}, {}), version, state  # fmt: skip
            facts, configs = comparison(a, b)
            cards = [self._card(one, looked, a, False), self._card(other, looked_other, b, False)]
        block = self._block(
            "comparison", facts=facts, configs=configs, cards=cards,
            sides=[(one, state_mark(looked)), (other, state_mark(looked_other))],
        )  # fmt: skip
        state = state if None not in cards else "reading"
        return _Rendered({"comparison": block}, {}), version, state

    # ----------------------------------------------------------------------------------------------------------- parts

    def problem(self, title: str, text: str) -> str:
        """Return a page that says what is wrong."""
        return self._templates.get_template("problem.html").render(title=title, text=text)

    def _look(self, key: str, wait: float = 0.0) -> tuple[Watched, Looked]:
        return self._look_at(wait, key)[0]

    def _look_at(self, wait: float, *keys: str) -> list[tuple[Watched, Looked]]:
        found = self.experiments.get_all(*keys)
        there = [each for each in found if each is not None]
        if len(there) < len(found):
            raise Gone("There is no such experiment here (any more): it was deleted, moved or renamed.")
        return [(each, each.look(wait)) for each in there]

    def _block(self, name: str, **values: Any) -> str:
        return self._templates.get_template(f"blocks/{name}.html").render(**values)

    def _page(
        self, key: tuple[str, ...], rendered: _Rendered, version: str, data: str, template: str, **values: Any
    ) -> str:
        with self._store.lock:
            page = self._store.page(key)
            page.set(rendered.blocks, rendered.lists)
            have = page.version
        parts = {name: Markup(text) for name, text in rendered.blocks.items()}
        lists = {name: [parts[child] for child in children] for name, children in rendered.lists.items()}
        return self._templates.get_template(template).render(
            have=have, data_version=data, parts=parts, lists=lists, **values
        )

    def _since(self, key: tuple[str, ...], rendered: _Rendered, have: str) -> Update | None:
        with self._store.lock:
            page = self._store.page(key)
            page.set(rendered.blocks, rendered.lists)
            return page.since(have)


def _finalized(value: object) -> object:
    """Return what a template shows; blocks went through this when they were rendered."""
    return unturned(value) if type(value) is str else value


def _statements(experiment: Experiment) -> tuple[Statement, ...]:
    try:
        return statements_of(experiment)
    except Exception as error:  # a card less is no reason to show nothing
        return (Statement("info", "i", f"There is no report card: {one_line(error)}", ""),)


def _frame(looked: Looked) -> str:
    """Return what tells an experiment from another that takes its place, and from how its page looks without it."""
    info = looked.info
    return "" if info is None else f"{info.run_id}-{info.started_at:.6f}-{info.num_trials}-{len(info.parameters)}"


def _pace(looked: Looked) -> str:
    if looked.reading is not None:
        return "reading"
    return "running" if looked.state is State.RUNNING else "ended"


def _panels() -> list[Panel]:
    """Return the plots, or none where they cannot be made."""
    try:
        return panels()
    except ImportError:
        return []
