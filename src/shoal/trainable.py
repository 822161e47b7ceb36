"""The class API: a trainable as a class, which Shoal asks to step, to save and to load."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoints import DICT_FILE, read_dict, write_dict
from .errors import ConfigError, ReportError

if TYPE_CHECKING:
    from .checkpoints import Checkpoint
    from .worker.session import TrialContext

__all__ = ["Trainable", "can_save", "load_state", "save_state"]

_ITERATION = ".shoal_iteration"
"""Beside what the user's class writes: how many steps made it."""


class Trainable:
    """Base class of class trainables. Override ``setup`` and ``step``; for PBT also save and load.

    Pass the class, not an object, to ``tune.Tuner``. Each member has one object in its own process. Shoal calls
    ``setup(config)`` once, then ``step()`` again and again: one call is one iteration, and what it returns is reported.
    It asks for a checkpoint when somebody needs one: at every perturbation boundary, every
    ``CheckpointConfig(checkpoint_frequency=...)`` iterations, at the end with ``checkpoint_at_end=True``, and where a
    result holds ``"should_checkpoint": True``. A result with ``"done": True`` ends the trial.

    To try a class without a run, make an object and call ``train()``, ``save()`` and ``restore()`` yourself.

    Args:
        config: the member's hyperparameters.

    Attributes:
        config: the hyperparameters as they are now.
        iteration: how many steps made the present weights, donors' included.
    """

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        self.config: dict[str, Any] = {} if config is None else config
        self.iteration = 0
        self._logdir: str | None = None
        self.setup(self.config)

    # --------------------------------------------------------------------------------------------- what users override

    def setup(self, config: dict[str, Any]) -> None:
        """Build the model, the optimizer and all else. Called once for each object."""

    def step(self) -> dict[str, Any]:
        """Train for one iteration and return its metrics."""
        raise NotImplementedError(f"{type(self).__name__} has no step(): write one that trains and returns a dict.")

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any] | None:
        """Write the state into a folder, or return it as a dict of things that can be pickled.

        Args:
            checkpoint_dir: an empty folder. It becomes the checkpoint; do not keep its path.
        """
        raise NotImplementedError(f"{type(self).__name__} has no save_checkpoint(checkpoint_dir).")

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Take over the state of a checkpoint, one's own or a donor's.

        Set an optimizer's hyperparameters from ``self.config`` after loading its state: with a donor's state come the
        donor's.

        Args:
            checkpoint: the path of the folder that ``save_checkpoint`` wrote, or the dict that it returned. A hidden
                file in the folder, ``.shoal_iteration``, is Shoal's.
        """
        raise NotImplementedError(f"{type(self).__name__} has no load_checkpoint(checkpoint).")

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take over other hyperparameters without being made anew, and return True; False (default) if that cannot be.

        Called on an exploit, before ``load_checkpoint``. Where it returns False, the object is cleaned up and a new one
        is made.
        """
        return False

    def cleanup(self) -> None:
        """Close what is open. Called when the object is no longer needed."""

    # ------------------------------------------------------------------------------------------------- what users read

    @property
    def training_iteration(self) -> int:
        """The same as ``iteration``."""
        return self.iteration

    @property
    def trial_id(self) -> str:
        """The trial's id; ``default`` outside of a run."""
        context = _context()
        return "default" if context is None else context.trial_id

    @property
    def trial_name(self) -> str:
        """The trial's name; ``default`` outside of a run."""
        context = _context()
        return "default" if context is None else context.trial_name

    @property
    def trial_resources(self) -> dict[str, float]:
        """What the trial was given: ``{"cpu": 1.0, "gpu": 0.0}``; empty outside of a run."""
        context = _context()
        return {} if context is None else context.get_trial_resources()

    @property
    def logdir(self) -> str:
        """The trial's folder; outside of a run a temporary one, which is yours to delete."""
        context = _context()
        if context is not None:
            Path(context.trial_dir).mkdir(parents=True, exist_ok=True)
            return context.trial_dir
        if self._logdir is None:
            import tempfile

            self._logdir = tempfile.mkdtemp(prefix=f"{type(self).__name__}_")
        return self._logdir

    def get_config(self) -> dict[str, Any]:
        """Return the hyperparameters as they are now."""
        return self.config

    # ------------------------------------------------------------------------------------------------- without a run

    def advance(self) -> dict[str, Any]:
        """Do one step and count it. Shoal calls this; call :meth:`train` yourself."""
        result = self.step()
        self.iteration += 1
        return result

    def train(self) -> dict[str, Any]:
        """Do one step, outside of a run, and return its metrics with ``training_iteration``."""
        result = self.advance()
        if not isinstance(result, dict):
            raise ConfigError(f"{type(self).__name__}.step() must return a dict of metrics, but returned {result!r}.")
        return {"done": False, "training_iteration": self.iteration, **result}

    def save(self, checkpoint_dir: str | None = None) -> str:
        """Save the state, outside of a run, and return the folder that it is in.

        Args:
            checkpoint_dir: made if needed. Default: a new temporary folder, which is yours to delete.
        """
        import tempfile

        folder = Path(tempfile.mkdtemp(prefix="checkpoint_") if checkpoint_dir is None else checkpoint_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_state(self, folder)
        return str(folder)

    def restore(self, checkpoint_path: str | os.PathLike[str] | Checkpoint) -> None:
        """Load a checkpoint, outside of a run: what :meth:`save` saved, or a checkpoint of a run.

        Pickles execute code: load only what comes from yourself.

        Args:
            checkpoint_path: the folder, or the :class:`shoal.tune.Checkpoint`, for example ``result.checkpoint``.
        """
        path = getattr(checkpoint_path, "path", checkpoint_path)
        if not isinstance(path, (str, os.PathLike)) or not os.path.isdir(path):
            raise ConfigError(
                f"{type(self).__name__}.restore: checkpoint_path must be the folder of a checkpoint, or a "
                f"tune.Checkpoint, but is {checkpoint_path!r}, which is none or does not exist."
            )
        load_state(self, path)
        counted = Path(path, _ITERATION)
        if counted.is_file():
            self.iteration = int(counted.read_text())

    def stop(self) -> None:
        """Clean up, outside of a run."""
        self.cleanup()


def can_save(kind: type[Any]) -> bool:
    """Return whether a class overrides both ``save_checkpoint`` and ``load_checkpoint``."""
    return all(
        getattr(kind, name, None) is not getattr(Trainable, name) for name in ("save_checkpoint", "load_checkpoint")
    )


def save_state(trainable: Trainable, folder: Path) -> None:
    """Have a trainable save itself into a folder, and note at which iteration.

    Raises:
        ReportError: it has saved nothing, or elsewhere.
    """
    name = type(trainable).__name__
    for left in (DICT_FILE, _ITERATION):
        (folder / left).unlink(missing_ok=True)  # of what was saved into the same folder before
    returned: Any = trainable.save_checkpoint(str(folder))
    if isinstance(returned, dict):
        write_dict(folder, returned)
    elif returned is not None and not (isinstance(returned, str) and Path(returned).is_relative_to(folder)):
        raise ReportError(
            f"{name}.save_checkpoint must write into the folder that it is given and return None, or return a dict, "
            f"but it returned {returned!r}."
        )
    if not any(folder.iterdir()):
        raise ReportError(
            f"{name}.save_checkpoint wrote no file into the folder that it was given and returned no dict, so there is "
            f"nothing to go on from."
        )
    (folder / _ITERATION).write_text(f"{trainable.iteration}\n")


def load_state(trainable: Trainable, path: str | os.PathLike[str]) -> None:
    """Have a trainable load what one of its class has saved into a folder."""
    stored = read_dict(Path(path))
    trainable.load_checkpoint(os.fspath(path) if stored is None else stored)


def _context() -> TrialContext | None:
    from .worker.session import current_session

    try:
        return current_session("Trainable").context
    except ReportError:
        return None
