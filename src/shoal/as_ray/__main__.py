"""``python -m shoal.as_ray script.py [arguments]``: run a script for Ray Tune on Shoal."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence

from . import install

_USAGE = """usage: python -m shoal.as_ray script.py [arguments]
       python -m shoal.as_ray -m module [arguments]

Runs an unmodified Ray Tune script on Shoal: in it, and in the processes of its members, "import ray" gives Shoal.
A name of Ray's that Shoal does not have fails with an error that says so.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the script as Python would, and return the exit status where it does not choose one itself."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0
    as_module = bool(arguments) and arguments[0] == "-m"
    target, rest = (arguments[1:2], arguments[2:]) if as_module else (arguments[:1], arguments[1:])
    if not target or (target[0].startswith("-") and not as_module):
        problem = f"shoal.as_ray: unknown option {target[0]!r}\n" if target else ""
        print(problem + _USAGE, end="", file=sys.stderr)
        return 2
    name = target[0]
    if not as_module and not os.path.isfile(name):
        print(f"shoal.as_ray: there is no file {name!r}\n{_USAGE}", end="", file=sys.stderr)
        return 2
    install()
    sys.argv = [name, *rest]
    if as_module:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
        return 0
    # As for "python script.py": modules beside the script come first. With -P, Python has put nothing there.
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.realpath(name))
    runpy.run_path(name, run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
