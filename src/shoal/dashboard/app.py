"""The application: which address answers with what. Nothing of an address is ever part of a path on the disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ..plots.style import THEMES
from ..reading import State
from ..report_page import plotly_script
from .compare import COMPARED, X_AXES, compared_figure
from .figures import encoded, message, panels, plot_figure
from .kept import Kept
from .live import KEPT, MAX_AGE, MOST_RESULTS, Experiments, Looked, Watched
from .member import find_member
from .pages import Gone, Live, Pages
from .security import Guard, check_token

__all__ = ["build"]

_STATIC = Path(__file__).parent / "static"
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_FIGURES_KEPT = 200


def build(
    folder: str | os.PathLike[str],
    token: str | None = None,
    *,
    far: bool = False,
    max_age: float = MAX_AGE,
    most_results: int = MOST_RESULTS,
    kept: float = KEPT,
) -> Starlette:
    """Return the application.

    Args:
        folder: a storage folder, or the folder of one experiment; or the URL of either.
        token: see :func:`shoal.dashboard.make_app`.
        far: whether browsers on other machines ask: all that is sent is then compressed.
        max_age, most_results, kept: see :class:`shoal.dashboard.live.Experiments`.
    """
    check_token(token)
    return _Site(Experiments(folder, max_age, most_results, kept)).app(token, far)


class _App(Starlette):
    """An application with its guard around all of it, what answers after an error of ours included."""

    def __init__(self, token: str | None, **options: Any) -> None:
        self._token = token
        super().__init__(**options)

    def build_middleware_stack(self) -> ASGIApp:
        return Guard(super().build_middleware_stack(), self._token)


class _Site:
    """The answers. Each is made in a thread of Starlette's."""

    def __init__(self, experiments: Experiments) -> None:
        self._experiments = experiments
        self._files = {path.name: path.read_bytes() for path in sorted(_STATIC.iterdir()) if path.suffix in _TYPES}
        digest = hashlib.sha256()
        for name, data in self._files.items():
            digest.update(name.encode() + data)
        self._assets = digest.hexdigest()[:12]
        self._plotly = _plotly_js()
        self._pages = Pages(
            experiments, self._assets, f"{self._plotly.stat().st_size:x}-{self._plotly.stat().st_mtime_ns:x}"
        )
        self._figures: Kept[bytes] = Kept(_FIGURES_KEPT)

    def app(self, token: str | None, far: bool) -> Starlette:
        """Return the application, with what guards it around it."""
        middleware = [Middleware(GZipMiddleware, minimum_size=1000, compresslevel=5)] if far else []
        app = _App(
            token,
            routes=[
                Route("/", self.overview),
                Route("/live.json", self.overview_live),
                Route("/compare", self.compare),
                Route("/compare/live.json", self.compare_live),
                Route("/compare/figures/{name}.json", self.compare_figure),
                Route("/e/{key}", self.experiment),
                Route("/e/{key}/live.json", self.experiment_live),
                Route("/e/{key}/figures/{name}.json", self.figure),
                Route("/e/{key}/t/{trial}", self.member),
                Route("/e/{key}/t/{trial}/live.json", self.member_live),
                Route("/static/{name}", self.static),
                Route("/plotly.min.js", self.plotly),
            ],
            middleware=middleware,
            exception_handlers={HTTPException: self._http_problem, Gone: self._gone, Exception: self._failed},
        )
        self._experiments.warm()
        return app

    # ----------------------------------------------------------------------------------------------------------- pages

    def overview(self, request: Request) -> Response:
        found = self._experiments.all()
        if self._experiments.single and found:
            return RedirectResponse(f"/e/{found[0].key}", 307)
        return _page(self._pages.overview())

    def overview_live(self, request: Request) -> Response:
        return _told(self._pages.overview_live(_have(request)))

    def experiment(self, request: Request) -> Response:
        return _page(self._pages.experiment(request.path_params["key"]))

    def experiment_live(self, request: Request) -> Response:
        soon = request.query_params.get("soon") == "1"
        return _told(self._pages.experiment_live(request.path_params["key"], _have(request), soon))

    def member(self, request: Request) -> Response:
        return _page(self._pages.member(request.path_params["key"], request.path_params["trial"]))

    def member_live(self, request: Request) -> Response:
        found = self._pages.member_live(request.path_params["key"], request.path_params["trial"], _have(request))
        return _told(found)

    def compare(self, request: Request) -> Response:
        return _page(self._pages.compare(*_pair(request)))

    def compare_live(self, request: Request) -> Response:
        return _told(self._pages.compare_live(*_pair(request), _have(request)))

    # --------------------------------------------------------------------------------------------------------- figures

    def figure(self, request: Request) -> Response:
        """Answer with a plot: ``x``, ``theme``, ``trial`` (whose ancestry) and ``have`` (the version that is there)."""
        name, theme, x = request.path_params["name"], _theme(request), _x(request)
        if name not in {panel.name for panel in panels()}:
            raise Gone("There is no such plot.")
        ((watched, looked),) = self._look_at(request.path_params["key"])
        trial_id: str | None = None
        if "trial" in request.query_params:
            with watched.reading() as experiment:
                trial = None if experiment is None else find_member(experiment, request.query_params["trial"])
                if experiment is not None and trial is None:
                    raise Gone(f"{watched.name} has no member {request.query_params['trial']}.")
                trial_id = None if trial is None else trial.trial_id

        def make() -> bytes:
            with watched.reading() as experiment:
                draw = _later(looked) if experiment is None else plot_figure(experiment, name, theme, x, trial_id)
            return encoded(draw())

        return self._drawn(request, (watched.key, name, theme, x, trial_id or ""), looked.version, make, [looked])

    def compare_figure(self, request: Request) -> Response:
        """Answer with a plot of two experiments."""
        name, theme, x = request.path_params["name"], _theme(request), _x(request)
        if name not in COMPARED:
            raise Gone("There is no such plot.")
        (first, looked), (second, looked_too) = self._look_at(*_pair(request))

        def make() -> bytes:
            with first.reading() as a, second.reading() as b:
                draw = _later(looked, looked_too) if a is None or b is None else compared_figure(a, b, name, theme, x)
            return encoded(draw())

        version = f"{looked.version}_{looked_too.version}"
        return self._drawn(request, (first.key, second.key, name, theme, x), version, make, [looked, looked_too])

    def _drawn(
        self, request: Request, key: tuple[str, ...], version: str, make: Callable[[], bytes], looks: list[Looked]
    ) -> Response:
        live = any(looked.state is State.RUNNING for looked in looks)
        made, body = self._figures.get(key, version, make, live)
        headers = {"X-Shoal-Version": made}
        if made == request.query_params.get("have"):
            return Response(status_code=204, headers=headers)
        return Response(body, media_type="application/json", headers={**headers, "Content-Encoding": "gzip"})

    def _look_at(self, *keys: str) -> list[tuple[Watched, Looked]]:
        found = self._experiments.get_all(*keys)
        there = [each for each in found if each is not None]
        if len(there) < len(found):
            raise Gone("There is no such experiment here (any more).")
        return [(each, each.look()) for each in there]

    # ----------------------------------------------------------------------------------------------------------- files

    async def static(self, request: Request) -> Response:
        # On the loop itself: it is in memory, and there also while all threads are busy.
        name = request.path_params["name"]
        data = self._files.get(name)
        if data is None:
            raise Gone("There is no such file.")
        tag = f'"{self._assets}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(data, headers={**headers, "Content-Type": _TYPES[Path(name).suffix]})

    def plotly(self, request: Request) -> Response:
        # Its address has a version in it, so it may be kept.
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        return FileResponse(self._plotly, media_type="text/javascript", headers=headers)

    # -------------------------------------------------------------------------------------------------------- problems

    def _http_problem(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return self._problem(request, error.status_code, "There is nothing here.", str(error.detail))

    def _gone(self, request: Request, error: Exception) -> Response:
        return self._problem(request, 404, "There is nothing here.", str(error))

    def _failed(self, request: Request, error: Exception) -> Response:
        return self._problem(request, 500, "Something went wrong.", "The server's output tells more.")

    def _problem(self, request: Request, status: int, title: str, text: str) -> Response:
        if request.url.path.endswith(".json"):
            return _json({"problem": text}, {}, status)
        return _page(self._pages.problem(title, text), status)


def _later(*looks: Looked) -> Callable[[], dict[str, Any]]:
    """Return what is in a figure's place where there is nothing to draw it from."""
    problems = [looked.problem for looked in looks if looked.problem]
    return lambda: message(problems[0] if problems else "The experiment is still being read.")


def _page(text: str, status: int = 200) -> Response:
    # Users' texts may hold halves of characters, which no encoding has.
    return HTMLResponse(text.encode("utf-8", "replace"), status)


def _json(value: dict[str, Any], headers: dict[str, str], status: int = 200) -> Response:
    return Response(json.dumps(value, separators=(",", ":")), status, headers, "application/json")


def _told(live: Live) -> Response:
    """Answer an open page."""
    headers = {"X-Shoal-State": live.state, "X-Shoal-Version": live.version, "X-Shoal-Frame": live.frame}
    if live.update is None:
        return Response(status_code=204, headers=headers)
    body: dict[str, Any] = {
        "version": live.update.version,
        "blocks": live.update.blocks,
        "lists": live.update.lists,
    }
    return _json(body, headers)


def _have(request: Request) -> str:
    return request.query_params.get("have", "")


def _pair(request: Request) -> tuple[str, str]:
    return request.query_params.get("a", ""), request.query_params.get("b", "")


def _theme(request: Request) -> str:
    found = request.query_params.get("theme", "light")
    return found if found in THEMES else "light"


def _x(request: Request) -> str:
    found = request.query_params.get("x", X_AXES[0])
    return found if found in X_AXES else X_AXES[0]


def _plotly_js() -> Path:
    path = plotly_script()
    if path is None:
        raise ImportError("The dashboard needs the file plotly.min.js of plotly: pip install 'shoal[dashboard]'")
    return path
