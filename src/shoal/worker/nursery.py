"""The warm parent: a process that has imported what the user's function needs, and forks a member when asked.

It has one thread, holds no state of the run and never runs the user's function. When the driver goes away, however that
happens, its socket closes here, and the nursery ends all members and itself. On Linux the guardian, see
:mod:`shoal.worker.guardian`, watches over both, and the nursery over the guardian.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from .. import scratch
from .environment import THE_DRIVERS, THREAD_VARIABLES
from .guardian import adopt_orphans, children, die_with_parent, end_all, guard, kill_orphans, outlive_parent
from .loading import load, prepare
from .main import run_member
from .session import Session
from .wire import Channel, DriverGone, Exited, Fork, Forked, FrameReader, LoadFailed, Ready, Setup, frame, open_inbox

__all__ = ["main", "run_from_command_line"]

_PATIENCE_S = 0.5
"""Seconds that what a member has left running has to end, before the driver is told that the member is gone."""


def main(fd: int, path: list[str], modules: Sequence[str] = ()) -> None:
    """Serve the driver at the other end of the socket ``fd`` until it is gone.

    ``modules`` are imported at once: the trainable will need them.
    ``path`` is the driver's ``sys.path``. It is taken over only now, when all that Shoal itself needs is imported, so
    that a module of the user's that is called like one of the standard library cannot get in the way.
    """
    sys.path[:] = path
    leave_to_the_driver()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, THE_DRIVERS)  # until here they could have ended this process
    guardian = guard(fd)
    files: scratch.MemberFiles | None = None
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
    with socket.socket(fileno=fd) as control:
        try:
            try:
                failed = prepare(modules)
                setup = Channel(control).receive()
                if failed is not None:
                    raise failed
                trainable = load(setup)
            except DriverGone:
                raise
            except BaseException:
                control.sendall(frame(LoadFailed(traceback.format_exc())))
                return
            # Not before: while it imports it may be killed, and then it has left nothing.
            files = scratch.MemberFiles()
            Nursery(control, setup, trainable, files, guardian).serve()
        except (DriverGone, OSError, KeyboardInterrupt):
            pass  # The driver is gone, or about to be.
        finally:
            _leave_nothing(files, guardian)
    if guardian is not None:
        # Nobody waits for the exit handlers of what the user's modules have imported.
        os._exit(0)


def _leave_nothing(files: scratch.MemberFiles | None, guardian: int | None) -> None:
    """End all that is below this process, and delete what that has left. The guardian does so too, if it lives."""
    gone = set[int]() if guardian is None else end_all(trackers_too=False)
    if files is not None:
        files.close()
    scratch.free_all()
    scratch.sweep()
    scratch.delete_of_torch(gone)
    for text in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            text.flush()


@dataclass(frozen=True, slots=True)
class _Spare:
    """A process that was forked in advance and waits for the member that it will be."""

    pid: int
    sock: socket.socket


class Nursery:
    """Forks members and tells the driver when they are gone.

    Where more of them will be asked for, a spare one is forked in advance, when there is nothing else to do: a slot
    stands empty while its member is forked.
    """

    def __init__(
        self, control: socket.socket, setup: Setup, trainable: Any, files: scratch.MemberFiles, guardian: int | None
    ) -> None:
        self._control = control
        self._setup = setup
        self._trainable = trainable
        self._files = files
        self._adopts = guardian is not None and adopt_orphans()
        """Whether what a member leaves running becomes a child of this process."""
        self._mine = frozenset(children()) if self._adopts else frozenset[int]()
        """What the user's modules have started when they were loaded."""
        self._gone: list[int] = []
        """Keys of members that are gone, while something that they have started is still there."""
        self._dead: set[int] = set()
        """Processes that are gone, members and others, since the last time that something was tidied up."""
        self._keys: dict[int, int] = {}
        """Process ids of members, with their keys."""
        self._fds: list[int] = []
        """File descriptors that have arrived for requests still to be read."""
        self._spare: _Spare | None = None
        self._wants_spare = True
        self._not_for_members: list[Callable[[], object]] = [control.close]
        """Closes what a member must not hold."""

    def serve(self) -> None:
        """Fork on request until the driver or the guardian is gone; then end every member."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        reader = FrameReader()
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(wake_read, selectors.EVENT_READ)
            parent = _watch_parent(selector)
            self._not_for_members += [selector.close, *(partial(os.close, fd) for fd in (wake_read, wake_write))]
            if self._adopts and parent is not None:
                outlive_parent()  # or what members have started would outlive both
            self._control.sendall(frame(Ready(self._adopts)))
            while True:
                idle = self._spare is None and self._wants_spare
                ready = {key.fd for key, _ in selector.select(0 if idle else None)}
                if parent in ready:
                    break
                if self._control.fileno() in ready:
                    try:
                        data, fds, _, _ = socket.recv_fds(self._control, 1 << 16, 16)
                    except OSError:
                        break
                    if not data:
                        break
                    self._fds += fds
                    for message in reader.feed(data):
                        self._wants_spare = message.more
                        self._fork(message)
                elif wake_read in ready:
                    # After what the driver asks for: nobody waits for this.
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake_read, 4096)
                    self._reap()
                elif idle:
                    self._fork_spare()
        for pid in self._keys:
            (_kill if self._adopts else _kill_group)(pid)
        if self._spare is not None:
            _kill(self._spare.pid)
            self._spare.sock.close()

    def _fork(self, request: Fork) -> None:
        sock, output = self._fds.pop(0), self._fds.pop(0)
        try:
            pid = self._use_spare(request, sock, output) or self._child(lambda: self._be_member(request, sock, output))
        except OSError as error:
            reason = f"its process cannot be started: {error}"
            self._control.sendall(frame(Exited(request.key, 0, reason)))
        else:
            self._keys[pid] = request.key
            self._control.sendall(frame(Forked(request.key, pid)))
        finally:
            os.close(sock)
            os.close(output)

    def _use_spare(self, request: Fork, sock: int, output: int) -> int | None:
        """Make a member of the spare process; return its number, or None where there is none that can be one."""
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        try:
            with spare.sock:
                socket.send_fds(spare.sock, [frame(request)], [sock, output])
        except OSError:
            return None  # it was killed, which is noticed elsewhere
        return spare.pid

    def _fork_spare(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                pid = self._child(lambda: self._be_spare(ours, theirs))
        except OSError:
            ours.close()
            self._wants_spare = False  # whoever is asked for next is told why
        else:
            self._spare = _Spare(pid, ours)

    def _be_spare(self, nurserys: socket.socket, sock: socket.socket) -> NoReturn:
        """Wait for the member to be, in the child process. Never returns."""
        try:
            nurserys.close()
            self._wants_spare = False
            data, fds, _, _ = socket.recv_fds(sock, 1 << 16, 2)
            reader = FrameReader()
            requests = [*reader.feed(data)]
            while data and not requests:
                requests = [*reader.feed(data := sock.recv(1 << 16))]
            sock.close()
            if requests:
                self._be_member(requests[0], *fds)
        finally:
            os._exit(0)  # the nursery is gone

    def _child(self, live: Callable[[], NoReturn]) -> int:
        """Fork a process that leads a life of its own; return its number.

        Raises:
            OSError: it cannot be forked.
        """
        parent = os.getpid()
        for text in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                text.flush()  # or every member would print it again
        # Until a member knows that these are none of its business, they must not reach it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, THE_DRIVERS)
        try:
            pid = os.fork()
        except OSError:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            raise
        if pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            return pid
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            leave_to_the_driver()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for close in self._not_for_members:
                close()
            if self._spare is not None:
                self._spare.sock.close()
            os.setsid()  # Ctrl-C in the terminal is the driver's business, and the group can be ended as a whole.
            die_with_parent(parent)
            # So that none of its own children can leave it: they all go when it does.
            adopt_orphans()
            live()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def _be_member(self, request: Fork, sock: int, output: int) -> NoReturn:
        """Live as a member, in the child process. Never returns."""
        code = 1
        try:
            inherited = [*scratch.temporary_directories()]
            self._files.enter(request.key, request.info.folder)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            _open_output()
            if request.device:
                os.environ["CUDA_VISIBLE_DEVICES"] = request.device
            setup = self._setup
            if os.environ.get("SHOAL_CHDIR_TO_TRIAL_DIR") == "1":
                os.makedirs(request.info.folder, exist_ok=True)
                os.chdir(request.info.folder)
            use_threads(setup.threads)
            channel = Channel(socket.socket(fileno=sock), open_inbox(request.inbox), request.secret)
            session = Session(
                channel, request.info, setup.rules, setup.experiment, setup.cpus, setup.gpus, setup.applied
            )
            run_member(channel, session, self._trainable, setup.seed)
            self._files.leave(request.key)
            _finalize(inherited)
            code = 0
        except DriverGone:
            code = 0  # The driver is gone; there is nobody left to work for.
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                scratch.free_all()  # what the member itself has stored
                sys.stdout.flush()
                sys.stderr.flush()
            # No other exit handlers: they belong to the nursery, of which this process is a copy.
            os._exit(code)

    def _reap(self) -> None:
        """Tell of members that are gone, once what they have left running is gone too: DataLoader workers, say."""
        ended = self._wait()
        last = time.monotonic() + _PATIENCE_S
        while self._gone and self._adopts and any(kill_orphans(self._known(), patient=True)):
            if time.monotonic() > last:
                break  # The signal of its end leads here again.
            time.sleep(0.002)
            ended += self._wait()
        else:
            self._tidy_up()
        for message in ended:
            with contextlib.suppress(OSError):
                self._control.sendall(frame(message))

    def _known(self) -> set[int]:
        """Return the processes that nobody has left running."""
        return {*self._keys, *self._mine, *([] if self._spare is None else [self._spare.pid])}

    def _wait(self) -> list[Exited]:
        """Return which members have ended, without waiting for any."""
        ended: list[Exited] = []
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if self._spare is not None and pid == self._spare.pid:
                    self._spare.sock.close()
                    self._spare = None
                    self._wants_spare = False  # until the next request: who killed it may kill the next one, too
                    continue
                self._dead.add(pid)
                if (key := self._keys.pop(pid, None)) is not None:
                    ended.append(Exited(key, status))
                    self._gone.append(key)
                    if not self._adopts:
                        _kill_group(pid)
        return ended

    def _tidy_up(self) -> None:
        """Delete what members that were killed have left."""
        if self._gone:
            in_order = self._files.delete(self._gone) and len(self._dead) == len(self._gone)
            if not in_order:
                scratch.sweep()
            scratch.delete_of_torch(self._dead)
            self._gone.clear()
            self._dead.clear()


def _finalize(inherited: list[Any]) -> None:
    """Delete what members have in a global ``TemporaryDirectory``: it goes only by that."""
    before = set(inherited)
    for entry in reversed([*scratch.temporary_directories()]):
        if entry not in before:
            with contextlib.suppress(BaseException):
                entry()


def leave_to_the_driver() -> None:
    """Let signals by which a cluster ends a whole job not end this process: the driver gets them too, and decides.

    They are not simply ignored, because that would be inherited: a DataLoader ends its workers with one of them.
    """
    for number in THE_DRIVERS:
        signal.signal(number, _ignore)


def _ignore(number: int, frame: object) -> None:
    pass


_masks: list[set[signal.Signals]] = []


def _before_fork() -> None:
    # Python forgets what arrives while it forks, so nothing may arrive then.
    _masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, THE_DRIVERS))  # type: ignore[arg-type]


def _after_fork_in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.pop())


def _after_fork_in_child() -> None:
    for number, default in THE_DRIVERS.items():
        if signal.getsignal(number) is _ignore:
            signal.signal(number, default)
    _after_fork_in_parent()


def _watch_parent(selector: selectors.BaseSelector) -> int | None:
    """Have the selector tell when the guardian ends, or the driver where there is none.

    The driver's socket tells of its end too, unless a fork of the driver holds it.
    """
    if sys.platform == "linux" and hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            parent = os.pidfd_open(os.getppid())
            selector.register(parent, selectors.EVENT_READ)
            return parent
    return None


def _open_output() -> None:
    """Make what the member prints leave it line by line."""
    for fd, name in ((1, "stdout"), (2, "stderr")):
        stream: Any = getattr(sys, name)
        if stream is None:
            # The driver has none; the member does.
            setattr(sys, name, open(fd, "w", buffering=1, errors="backslashreplace", closefd=False))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)


def use_threads(count: int) -> None:
    """Let numeric libraries of this process use so many threads."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(count)))
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(count)


def _kill(pid: int) -> None:
    """Kill a process alone: of its group, those go on that tidy up behind it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def run_from_command_line() -> None:
    """Serve with the socket's number, the driver's ``sys.path`` and modules, which the command line gives as JSON."""
    fd, path, modules = json.loads(sys.argv[1])
    del sys.argv[1:]
    main(fd, path, modules)
