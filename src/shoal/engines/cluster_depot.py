"""Where checkpoints lie while a cluster runs the experiment: on the driver's machine, and on those of the hosts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..checkpoints.depot import LocalDepot
from ..core.commands import checkpoint_name
from ..errors import StorageError

if TYPE_CHECKING:
    from ..storage.place import Place
    from .fleet import Fleet

__all__ = ["ClusterDepot"]


class Engine(Protocol):
    """What the depot needs of the engine."""

    @property
    def fleet(self) -> Fleet:
        """All hosts."""
        ...

    def later(self, call: Callable[[], None]) -> None:
        """Have something done in the thread that polls."""
        ...

    def leave(self) -> None:
        """Nobody needs the hosts any more."""
        ...


class ClusterDepot:
    """See :class:`shoal.checkpoints.depot.Depot`: checkpoints lie on this machine and on those of the hosts."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._local: LocalDepot | None = None

    def begin(self, folder: Path) -> None:
        """The experiment's folder on this machine is known."""
        self._folder = folder
        self._local = LocalDepot(folder, compares=True)

    def delete(self, trial_folder: str, number: int) -> None:
        """See the class."""
        assert self._local is not None
        self._local.delete(trial_folder, number)
        self._engine.fleet.delete(trial_folder, number)

    def upload(self, trial_folder: str, number: int, digest: str, place: Place) -> Future[None]:
        """See the class."""
        assert self._local is not None
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()

        def ask() -> None:
            self._engine.fleet.upload(trial_folder, number, digest, place).add_done_callback(answer)

        def answer(asked: Future[None]) -> None:
            error = asked.exception()
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        def tried_here(tried: Future[None]) -> None:
            error = None if tried.cancelled() else tried.exception()
            if isinstance(error, FileNotFoundError):
                self._engine.later(ask)
            elif tried.cancelled():
                future.set_exception(StorageError("Nothing is copied any more."))
            else:
                answer(tried)

        if (self._folder / trial_folder / checkpoint_name(number)).is_dir():
            self._local.upload(trial_folder, number, digest, place).add_done_callback(tried_here)
        else:
            self._engine.later(ask)
        return future

    def close(self) -> None:
        """See the class."""
        if self._local is not None:
            self._local.close()
        self._engine.leave()
