"""A class trainable inside a member: its object lives as long as the process, and steps until told otherwise."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from ..errors import ReportError
from ..trainable import load_state, save_state
from .session import Session, Unwind

__all__ = ["ClassRunner"]


class ClassRunner:
    """Makes a function of a class trainable: called with a config, it steps and reports until the member is told else.

    On an exploit it is called again. The object is then used again where its ``reset_config`` returns True, and made
    anew where not.

    Args:
        kind: the user's class, a subclass of :class:`shoal.trainable.Trainable`.
        session: the member's session.
    """

    def __init__(self, kind: type[Any], session: Session) -> None:
        self._kind = kind
        self._session = session
        session.class_name = kind.__name__
        self._object: Any = None
        self._asked = False
        """Whether the newest result asks for a checkpoint."""

    def __call__(self, config: dict[str, Any]) -> NoReturn:
        """Run the member with a config, from its checkpoint or from scratch."""
        try:
            self._enter(config)
            while True:
                self._session.report(self._result(), keeper=self)
        except Unwind:
            raise
        except BaseException:
            # Nobody knows what state it is in. It is made anew if the trial is tried again.
            self.close()
            raise

    def close(self) -> None:
        """Let the object clean up, and forget it. An error in that is shown, and of no consequence."""
        leaving, self._object = self._object, None
        if leaving is not None:
            try:
                leaving.cleanup()
            except Exception:
                print(f"shoal: {self._kind.__name__}.cleanup raised:\n{traceback.format_exc()}", file=sys.stderr)

    def wants(self, iteration: int, *, ends: bool) -> bool:
        """Return whether the user asked for a checkpoint at this iteration."""
        rules = self._session.rules
        due = rules.save_every > 0 and iteration % rules.save_every == 0
        return due or self._asked or (ends and rules.save_at_end)

    def save(self, folder: Path) -> None:
        """Let the object write its state into an empty folder."""
        save_state(self._object, folder)

    def _result(self) -> Mapping[str, Any]:
        """Do one step. What it returns stays as it is: the object may return the same dict every time."""
        result = self._object.advance()
        if not isinstance(result, Mapping):
            raise ReportError(
                f"{self._kind.__name__}.step must return a dict of metrics, such as {{'mean_accuracy': 0.9}}, but it "
                f"returned {result!r} ({type(result).__name__})."
            )
        self._asked = bool(result.get("should_checkpoint", False))
        return {key: value for key, value in result.items() if key != "should_checkpoint"}

    def _enter(self, config: dict[str, Any]) -> None:
        checkpoint = self._session.get_checkpoint()
        if self._object is not None:
            if checkpoint is not None and self._object.reset_config(config):
                self._object.config = config
            else:
                self.close()
        if self._object is None:
            self._object = self._kind(config)
        if checkpoint is not None:
            load_state(self._object, checkpoint.path)
        self._object.iteration = self._session.iteration
