"""The watch over hyperparameters: do the optimizers that step in this process use the config's values?

After an exploit the usual code loads the donor's optimizer, and with it, unseen, the donor's learning rate in place of
the one that was just mutated. The watch looks at each torch optimizer once, at its first step after the function was
entered or the optimizer was loaded, and compares at the next report. Once all that were loaded have been compared, it
is not there at all. What it makes of what it saw is in ``drift.py``. See decision 0010.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from ..applied import CheckApplied
from .drift import Judge, Seen, values_of
from .wire import Enter

__all__ = ["Watch"]


class Watch:
    """Sees what optimizers use, once after each time that the function is entered, and has it compared with the config.

    Args:
        check: what to check; None: nothing, ever.
        mine: whether the calling thread is one of this member's.
    """

    def __init__(self, check: CheckApplied | None, mine: Callable[[], bool]) -> None:
        self._judge = None if check is None else Judge(check)
        self._strict = check is not None and check.strict
        self._mine = mine
        self._enter: Enter | None = None
        """What is still to be looked at."""
        self._entered = False
        """Whether the judge knows of it."""
        self._hook: Any = None
        self._seen: dict[int, Seen] = {}
        """By id, which another optimizer may have later."""
        self._old: list[weakref.ref[Any]] = []
        """Those of the launch before."""
        self._again: list[tuple[str, str]] = []
        """What each report says until the function is entered again: a strict check is no matter of the first one."""

    def begin(self, enter: Enter) -> None:
        """The function is about to be entered."""
        self._rest()
        self._again = []
        if self._judge is None:
            return
        self._enter, self._entered = enter, False
        for reference in self._old:
            if (optimizer := reference()) is not None:
                with contextlib.suppress(Exception):
                    seen = self._of(optimizer)
                    seen.kept = True
                    seen.note(optimizer)
        self._look()

    def end(self) -> None:
        """The function has ended: whoever else steps in this process is none of it."""
        self._rest()

    def drifts(self) -> list[tuple[str, str]]:
        """The function reports: return the keys that have drifted, each with what is used and what to do."""
        if self._enter is None:
            return self._again
        if self._hook is None:
            self._look()  # the function itself may have imported torch
            return []
        new = [seen for seen in tuple(self._seen.values()) if seen.used and not seen.judged]
        if not new:
            return self._again  # no optimizer has stepped since the last report
        found: list[tuple[str, str]] = []
        with contextlib.suppress(Exception):  # as in _saw
            found = self._compare(self._enter)
        for seen in new:
            seen.judged = True
        if not any(
            seen.loaded and not seen.judged and seen.optimizer() is not None for seen in tuple(self._seen.values())
        ):
            self._rest()
        if self._strict:
            self._again = found = [*self._again, *found]
        return found

    def _compare(self, enter: Enter) -> list[tuple[str, str]]:
        assert self._judge is not None
        if not self._entered:
            config = enter.launch.config if enter.config is None else pickle.loads(enter.config)
            self._judge.enter(enter.launch, config)
            self._entered = True
        return self._judge.compare(tuple(self._seen.values()))

    # ----------------------------------------------------------------------------------------------------- looking

    def _look(self) -> None:
        """Have torch tell of the steps that follow, where it is there: nothing is imported for this."""
        module: Any = sys.modules.get("torch.optim.optimizer")
        register = getattr(module, "register_optimizer_step_pre_hook", None)
        if register is None:
            return
        compiler: Any = sys.modules.get("torch.compiler")
        compiling = getattr(compiler, "is_compiling", bool)

        def stepping(optimizer: Any, args: Any, kwargs: Any) -> None:
            if not compiling():
                seen = self._seen.get(id(optimizer))
                if seen is None or not (seen.used and seen.optimizer() is optimizer):
                    self._saw(optimizer)

        hook: Any = stepping
        if "torch._dynamo" in sys.modules:
            hook = compiler.disable(stepping)  # seen in compiled steps, too, and never made a part of them
        self._hook = register(hook)
        if self._enter is not None and self._enter.launch.checkpoint is not None:
            _listen(module.Optimizer, self)

    def _rest(self) -> None:
        """Be gone until the function is entered again."""
        self._enter = None
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
            _unlisten(sys.modules["torch.optim.optimizer"].Optimizer, self)
        if self._judge is not None:
            self._judge.leave()
        if self._seen:
            self._old = [seen.optimizer for seen in self._seen.values() if seen.used or seen.kept]
            self._seen = {}

    def _of(self, optimizer: Any) -> Seen:
        """Return what is known of an optimizer."""
        seen = self._seen.get(id(optimizer))
        if seen is None or seen.optimizer() is not optimizer:
            seen = self._seen[id(optimizer)] = Seen(weakref.ref(optimizer), type(optimizer).__name__)
        return seen

    def _saw(self, optimizer: Any) -> None:
        # Whatever an optimizer of the user's may be like, its step is not what fails on account of this.
        with contextlib.suppress(Exception):
            if self._mine() and not _being_captured():
                self._of(optimizer).steps(optimizer)

    def loading(self, optimizer: Any) -> None:
        """Something is about to be loaded into an optimizer."""
        with contextlib.suppress(Exception):
            if self._mine():
                seen = self._of(optimizer)
                if not seen.loaded and not seen.judged:
                    seen.before = values_of(optimizer)

    def loaded(self, optimizer: Any, state: Mapping[str, Any]) -> None:
        """Something has been loaded into an optimizer."""
        with contextlib.suppress(Exception):
            if self._mine() and not (seen := self._of(optimizer)).judged:
                seen.loaded = True
                seen.whole = seen.whole or "defaults" in state
                seen.note(optimizer)


def _being_captured() -> bool:
    """Whether a CUDA graph is being recorded, in which no value can be read."""
    cuda: Any = sys.modules.get("torch.cuda")
    return cuda is not None and bool(cuda.is_initialized()) and bool(cuda.is_current_stream_capturing())


# ------------------------------------------------------------------------------------------------ what is loaded

_listeners: list[Watch] = []
_passage: Any = None
"""What is in the place of ``Optimizer.__setstate__``, or behind what others have put around it."""


def _listen(kind: Any, watch: Watch) -> None:
    """Have a watch told what is loaded into any optimizer.

    torch has hooks for that on each optimizer, but none on all. ``load_state_dict`` and unpickling both end in
    ``Optimizer.__setstate__``, which is another one until the last watch has gone.
    """
    global _passage
    _listeners.append(watch)
    if _passage is None or kind.__setstate__ is _passage.__wrapped__:
        kind.__setstate__ = _passage = _passage_to(kind.__setstate__)


def _passage_to(original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    # It works for ever, because somebody may have taken it for torch's own and call it later.
    @functools.wraps(original)
    def set_state(self: Any, state: Any) -> None:
        for watch in tuple(_listeners):
            watch.loading(self)
        original(self, state)
        for watch in tuple(_listeners):
            watch.loaded(self, state)

    return set_state


def _unlisten(kind: Any, watch: Watch) -> None:
    global _passage
    if watch in _listeners:
        _listeners.remove(watch)
    if not _listeners and kind.__setstate__ is _passage:  # else another has been put around it, and calls it
        kind.__setstate__, _passage = _passage.__wrapped__, None
