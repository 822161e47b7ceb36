"""Loading the user's function in the warm parent, and warming up what it has imported."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pickle
import re
import site
import sys
from collections.abc import Collection, Generator, Sequence
from typing import Any

from ..errors import EngineError
from .wire import Setup

__all__ = ["in_progress", "load", "preload", "prepare"]

in_progress = False
"""True while the user's function, and with it the user's modules, is being loaded in this process."""

_SPEAKS_OF_OPTIMIZERS = re.compile(rb"optim(?!i[sz]|um|al)|SGD|Adam|RMSprop|Adagrad")
_TRAINERS = frozenset({"accelerate", "fastai", "ignite", "keras", "lightning", "pytorch_lightning", "transformers"})
"""Packages that build optimizers."""
_INSTALLED = tuple(
    f"{folder}{os.sep}" for folder in {sys.prefix, sys.base_prefix, sys.exec_prefix, site.getusersitepackages()}
)


def prepare(modules: Sequence[str]) -> BaseException | None:
    """Do what can be done before the trainable is there; return what went wrong, which is told when it is loaded.

    Args:
        modules: what the trainable will need, to be imported. What cannot be imported is told when it is loaded.
    """
    try:
        with _loading():
            preload()
            for name in modules:
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
    except BaseException as error:
        return error
    return None


@contextlib.contextmanager
def _loading() -> Generator[None]:
    global in_progress
    in_progress = True
    try:
        yield
    finally:
        in_progress = False


def load(setup: Setup) -> Any:
    """Load the user's function and warm up what it imported, with one thread: no pool of threads survives a fork."""
    before = set(sys.modules)
    with _loading():
        trainable = pickle.loads(setup.trainable)
    cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and cuda.is_initialized():
        raise EngineError(
            "A module of the trainable uses the GPU when it is imported. Members are forked from the process that "
            "imports it, and CUDA does not survive a fork. Use the GPU inside of the trainable only."
        )
    _publish_main(trainable)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
        if _may_build_optimizers(setup.trainable, trainable, sys.modules.keys() - before):
            _warm_up(torch)
    gc.freeze()  # what is there now is shared with all members, as long as nobody touches it
    return trainable


def preload() -> None:
    """Call what the environment variable ``SHOAL_PRELOAD`` names, ``module:function`` with commas between.

    What the driver's process did before it imported the user's modules may have to be done here as well, before they
    are imported for the trainable. ``shoal.as_ray.install()`` puts itself there.
    """
    for entry in filter(None, os.environ.get("SHOAL_PRELOAD", "").split(",")):
        module, _, function = entry.partition(":")
        getattr(importlib.import_module(module), function)()


def _publish_main(trainable: Any) -> None:
    """Let plain pickle find what the user's script defined, so that ``torch.save(model)`` works in members.

    cloudpickle carries functions and classes of ``__main__`` by value; pickle looks them up there by name.
    """
    # Behind with_resources, functools.partial, bound methods and callable objects there is a function with globals.
    for attribute in ("__wrapped__", "func", "__func__"):
        trainable = getattr(trainable, attribute, trainable)
    names: dict[str, Any] = {}
    if isinstance(trainable, type):
        # The class itself is in no globals unless it names itself; those of its methods may be of several modules.
        for kind in trainable.__mro__:
            names[kind.__name__] = kind
            for method in vars(kind).values():
                names.update(getattr(method, "__globals__", {}))
    elif not hasattr(trainable, "__globals__"):
        trainable = vars(type(trainable)).get("__call__", trainable)
    names.update(getattr(trainable, "__globals__", {}))
    here = vars(sys.modules["__main__"])
    for name, value in names.items():
        if getattr(value, "__module__", None) == "__main__":
            here.setdefault(name, value)


def _may_build_optimizers(pickled: bytes, trainable: Any, loaded: Collection[str]) -> bool:
    """Return whether the user's code, or a library that trains for it, speaks of optimizers.

    The first one that is built takes as long as importing torch once more. What only evaluates, or trains with tensors
    alone, need not wait for that. If this is wrong, each member spends that time.

    Args:
        pickled: the trainable; what a script defines is in it.
        trainable: the same.
        loaded: the modules that it has brought.
    """
    if _SPEAKS_OF_OPTIMIZERS.search(pickled):
        return True
    home = str(getattr(trainable, "__module__", "")).partition(".")[0]
    for name in loaded:
        root = name.partition(".")[0]
        path = getattr(sys.modules.get(name), "__file__", None) or ""
        if root in _TRAINERS:
            return True
        named = root == home or name.encode() in pickled
        if path.endswith(".py") and root != "torch" and (named or not path.startswith(_INSTALLED)):
            with contextlib.suppress(OSError), open(path, "rb") as file:
                if _SPEAKS_OF_OPTIMIZERS.search(file.read()):
                    return True
    return False


def _warm_up(torch: Any) -> None:
    """Do once, before any fork, what every member would do on its own: building an optimizer imports half of torch."""
    with contextlib.suppress(Exception), _no_gpus():
        parameter = torch.nn.Parameter(torch.zeros(1))
        parameter.grad = torch.zeros(1)
        for kind in (torch.optim.SGD, torch.optim.Adam):
            kind([parameter], lr=0.1).step()


@contextlib.contextmanager
def _no_gpus() -> Generator[None]:
    """Hide the GPUs: each step of an optimizer asks CUDA, where there is one, and an open CUDA survives no fork."""
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    os.environ[name] = ""
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
