"""script.py -> the verdict of its first faulty jitted call: `python -m nanlab.debug script.py`."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

USAGE = """\
usage: python -m nanlab.debug [-m] SCRIPT [ARGUMENT ...]

Runs a script (with -m: a module) as Python does, watches every outermost call of a jitted
function, and stops at the first that returns an inf or a NaN that it made: says which primitive
made it, in which layer and pass, on which line, of which numbers, and what usually cures it.
Donation (donate_argnums) is off meanwhile, so that the arguments are still there to be looked at.

  SCRIPT      the script, or the module's name after -m
  ARGUMENT    its own arguments

exit status: 3 for a fault, 0 if all was finite, 130 after Ctrl-C, else the script's own (1 if it
raised)
"""
FAULT, INTERRUPTED = 3, 130


def main(arguments: list[str]) -> int:
    """Run the script that `arguments` name; returns the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    is_module = arguments[0] == "-m"
    own = arguments[1:] if is_module else arguments
    if not own:
        print("nanlab.debug: -m needs the name of a module", file=sys.stderr)
        return 2
    if not is_module and not Path(own[0]).is_file():
        print(f"nanlab.debug: there is no script {own[0]}", file=sys.stderr)
        return 2
    # Both find their neighbours, as Python itself has it.
    sys.path[0] = os.getcwd() if is_module else str(Path(own[0]).resolve().parent)
    if is_module and not _is_module(own[0]):
        print(f"nanlab.debug: there is no module {own[0]}", file=sys.stderr)
        return 2
    return _watch(own, is_module=is_module)


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # its package is not there; it is no name
        return False


def _watch(own: list[str], *, is_module: bool) -> int:
    from nanlab.blame.explain.text import show
    from nanlab.blame.watch import Found, Lost, Watch

    watch, errors = Watch(), Console(stderr=True, highlight=False, soft_wrap=True)
    sys.argv = list(own)
    status = 0
    try:
        with watch.watching():
            if is_module:
                runpy.run_module(own[0], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(own[0], run_name="__main__")
    except Found as found:
        _say_donation(errors, watch.donating)
        console = Console(highlight=False)
        console.print(f"The fault is in call {found.call} of the jitted function {found.name}.")
        show(found.verdict, console)
        return FAULT
    except Lost as lost:
        where = f"call {lost.call} of the jitted function {lost.name}"
        errors.print(f"nanlab.debug: the fault is in {where}, and looking at it failed:")
        traceback.print_exception(lost.__cause__)
        return 1
    except KeyboardInterrupt:
        errors.print(
            f"nanlab.debug: stopped; all was finite in {_counted(watch.calls)} until then."
        )
        return INTERRUPTED
    except SystemExit as stop:
        status = _status(stop)
    _say_donation(errors, watch.donating)
    if watch.calls:
        errors.print(f"nanlab.debug: all was finite in {_counted(watch.calls)}.")
    else:
        errors.print("nanlab.debug: the script called no jitted function, so nothing was watched.")
    return status


def _counted(calls: int) -> str:
    return f"{calls} call{'s' if calls != 1 else ''} of jitted functions"


def _say_donation(errors: Console, donating: list[str]) -> None:
    if donating:
        names = ", ".join(dict.fromkeys(donating))
        errors.print(f"nanlab.debug: donation is off for {names}; more memory is used.")


def _status(stop: SystemExit) -> int:
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or 0
    print(stop.code, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
