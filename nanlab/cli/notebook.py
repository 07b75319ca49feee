"""The cell magic of notebooks: `%load_ext nanlab`, then `%%nanlab` on a cell."""

from __future__ import annotations

import sys
from typing import Any

USAGE = """\
%%nanlab [--after N]

Runs the cell and looks at everything that JAX computes in it; stops at the first call that returns
an inf or a NaN that it made, and shows which primitive made it. --after N begins after N calls.\
"""


def register(shell: Any) -> None:
    """Add the magic to a shell of IPython's."""

    def nanlab(line: str, cell: str | None = None) -> None:
        """Run a cell under the watch."""
        arguments = line.split()
        number = arguments[1] if len(arguments) == 2 and arguments[0] == "--after" else ""
        if cell is None or (arguments and not number.isdecimal()):
            sys.stdout.write(f"{USAGE}\n")
            return
        run_cell(shell, cell, after=int(number or 0))

    shell.register_magic_function(nanlab, "line_cell", "nanlab")


def run_cell(shell: Any, cell: str, *, after: int) -> None:
    """Run a cell, then show what was found in it."""
    from nanlab.blame.watch.watch import Watch

    watch = Watch(after)
    with watch.watching():
        # In the magic's own place, so that lines are counted as in the notebook.
        shell.run_cell(f"# %%nanlab\n{cell}")
    watch.finish()
    if watch.fault is None:
        sys.stderr.write(f"nanlab: {watch.summary('the cell')}\n")
        return
    from IPython.display import display  # pyright: ignore[reportMissingImports]

    display(watch.fault)
