"""The command `nanlab`: `nanlab sweep grid.toml` runs the module `nanlab.sweep`."""

from __future__ import annotations

import difflib
import runpy
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import nanlab
from nanlab.cli.streams import allow_closed_output

COMMANDS = {
    "sweep": "train every run of a grid file; attribute every failure",
    "debug": "run a script; find what made its first inf or NaN",
    "lint": "run a script; report where an inf or a NaN can arise in it",
    "replay": "bring a failed run back to its failing step",
    "report": "write the report of a study: page, figures, tables, citation",
    "verify": "run a study again, all or a sample; report what reproduces",
    "diff": "report which runs of two studies ended or failed differently",
    "worker": "run a share of a sweep on another machine",
    "theory": "measure published laws of training; theory beside the lab",
    "claims": "settle published claims about NaN by measurement",
    "parts": "list what a training can be composed of, with sources",
    "grid": "print the JSON Schema of grid files, for completion in editors",
    "reporting": "print the data dictionary: the meaning of every column",
}


def usage() -> str:
    """Return the list of commands."""
    lines = [
        "usage: nanlab COMMAND [ARGUMENT ...]   (or: python -m nanlab.COMMAND)",
        "       nanlab --version",
        "",
        "A laboratory for numerical failure in neural-network training, and a detective for it.",
        "",
        *(f"  {name:10} {sentence}" for name, sentence in COMMANDS.items()),
        "",
        "nanlab COMMAND --help describes a command.",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the command's name and its arguments; those of this process if not given.

    Returns:
        The command's exit status; 2 if there is no such command.
    """
    if argv is None:
        allow_closed_output()
    given = sys.argv[1:] if argv is None else argv
    if not given or given[0] in ("-h", "--help"):
        print(usage(), file=sys.stdout if given else sys.stderr)
        return 0 if given else 2
    if given[0] in ("-V", "--version"):
        print(f"nanlab {nanlab.__version__}")
        return 0
    name, *arguments = given
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f'; did you mean "{near[0]}"?' if near else "; nanlab --help lists the commands"
        print(f"nanlab: there is no command {name!r}{hint}", file=sys.stderr)
        return 2
    return find_main(name)(arguments)


def find_main(name: str) -> Callable[[list[str]], int]:
    """Return the function that runs a command."""
    if name in nanlab.__all__:  # an import would hide the function of this name
        path = Path(nanlab.__file__).with_name(f"{name}.py")
        return runpy.run_path(str(path), run_name=f"nanlab.{name}:")["main"]
    module = import_module(f"nanlab.{name}")
    if hasattr(module, "__path__"):  # a room: its command is its __main__
        module = import_module(f"nanlab.{name}.__main__")
    return module.main


if __name__ == "__main__":
    sys.exit(main())
