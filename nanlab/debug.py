"""script.py -> the verdict of its first fault: `python -m nanlab.debug script.py`."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from nanlab.cli.guest import (
    Misuse,
    arguments_of_process,
    end_process,
    exits_reported,
    run_script,
    tracebacks_quiet,
    when_imported,
)

if TYPE_CHECKING:
    from nanlab.blame.watch.watch import Watch

USAGE = """\
usage: python -m nanlab.debug [--after N] [--json[=FILE]] [--format github] [--save DIR]
                              [-m] SCRIPT [ARGUMENT ...]

Runs a script (with -m: a module) as Python does, looks at everything that JAX computes in it, and
stops at the first call that returns an inf or a NaN that it made: says which primitive made it,
in which layer and pass, on which line, of which numbers, and what usually cures it.

The script computes the same as without it, to the bit. Outputs are read when they are ready, two
calls later at the latest, so a script may go on for two calls after the first fault. Arguments
that are donated (donate_argnums) are copied before, which takes memory: large ones once in 16
calls, which run again after a fault.

What is watched:
  calls        of functions jitted by jax.jit, nnx.jit or eqx.filter_jit, of jax.pmap, and of
               programs compiled ahead of time (lower().compile()): each is judged when it returns.
               An inf that was handed in and is handed on is left alone.
  operations   outside of those, as x + 1 or jax.grad of a function that is not jitted. An inf or
               a NaN that one of them makes may still be masked by another, so it is a fault if
               none has masked it when the script ends, or if it makes a call's output bad.
Not watched are NumPy, and the other processes that a script starts. After the first fault nothing
is watched: a script that catches the exception goes on, and the verdict comes at its end.

  SCRIPT         the script, or the module's name after -m (-m pytest is such a module)
  ARGUMENT       its own arguments
  --after N      begin after N calls of functions
  --json[=FILE]  write the verdict as JSON into FILE, or print it in place of the text
  --format github  print the fault as annotations of a GitHub workflow, too
  --save DIR     at a fault, write the call's arguments (.npz), the verdict (text and JSON), the
                 script and a reproducer into DIR, which must not exist; all of it or nothing

exit status: 3 for a fault, whatever the script did after it; 0 if there is none; 5 if nothing was
watched, or not all of it could be read; 130 after Ctrl-C; else the script's own (1 if it raised)
"""
FAULT, UNWATCHED, INTERRUPTED, MISUSED = 3, 5, 130, 2


@dataclass(kw_only=True)
class Options:
    """What the command line says.

    Attributes:
        own: the script or module and its arguments.
        is_module: whether it is a module.
        after: number of calls that are left out.
        json: file for the verdict as JSON; "-" for the standard output, None for text.
        is_annotated: whether the fault is printed as annotations of a GitHub workflow, too.
        save: folder for what belongs to a fault; None if nothing is saved.
    """

    own: list[str] = field(default_factory=list[str])
    is_module: bool = False
    after: int = 0
    json: str | None = None
    is_annotated: bool = False
    save: Path | None = None


def main(arguments: list[str], *, is_process: bool = False) -> int:
    """Run the script that the arguments name.

    Args:
        arguments: of the command.
        is_process: whether the process ends with the script, so that its threads and its exit
            handlers are watched to their end.

    Returns:
        The exit status.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if arguments else MISUSED
    try:
        options = _options(arguments)
        # Both find their neighbours, as Python itself has it.
        folder = Path.cwd() if options.is_module else Path(options.own[0]).resolve().parent
        sys.path[0] = str(folder)
        return _Session(options).run(is_process=is_process)
    except Misuse as error:
        print(f"nanlab.debug: {error}", file=sys.stderr)
        return MISUSED


def _options(arguments: list[str]) -> Options:
    options, rest = Options(), list(arguments)
    while rest and rest[0].startswith("-") and not options.is_module:
        name, _, value = rest.pop(0).partition("=")
        if name == "-m":
            options.is_module = True
        elif name == "--after":
            value = value or (rest.pop(0) if rest else "")
            if not value.isdecimal():
                raise Misuse(f"--after {value}: must be a number of calls, as --after 100")
            options.after = int(value)
        elif name == "--format":
            value = value or (rest.pop(0) if rest else "")
            if value != "github":
                raise Misuse(f"--format {value}: must be github, the only format there is")
            options.is_annotated = True
        elif name == "--save":
            value = value or (rest.pop(0) if rest else "")
            if not value or Path(value).exists():
                problem = "exists already" if value else "needs the name of a folder"
                raise Misuse(f"--save {value}: {problem}; name a new one, as --save fault")
            options.save = Path(value).resolve()
        elif name == "--json":
            is_next = not value and len(rest) > 1 and rest[0].endswith(".json")
            value = value or (rest.pop(0) if is_next else "-")
            options.json = value if value == "-" else str(Path(value).resolve())
        else:
            raise Misuse(f"unknown option {name}; python -m nanlab.debug --help lists them")
    options.own = rest
    if not rest:
        raise Misuse(f"{'-m needs the name of a module' if options.is_module else 'no script'}")
    if not options.is_module and not Path(rest[0]).is_file():
        raise Misuse(f"there is no script {rest[0]}")
    return options


class _Session:
    """One script, from its start to the report."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.watch: Watch | None = None
        # The script may replace or close its own.
        self._out, self._err = sys.stdout, sys.stderr
        self._file = None if options.is_module else Path(options.own[0]).resolve()
        self._is_reported = False
        self._stopped = ""

    def run(self, *, is_process: bool) -> int:
        """Run the script, then report; returns the exit status."""
        status, error = 0, None
        with self._watching():
            try:
                status = run_script(self.options.own[0], is_module=self.options.is_module)
            except BaseException as raised:
                error = raised
            if is_process:
                error = end_process() or error
        is_found = self._is_found(error)
        if isinstance(error, KeyboardInterrupt):
            status, self._stopped = INTERRUPTED, " until it was stopped"
        elif error is not None and not is_found:
            self._stopped = " until the script failed"
        status = self._report(status, is_caught=not is_found)
        if error is None or is_found or isinstance(error, KeyboardInterrupt):
            return status
        if status != FAULT:
            raise error
        if self._is_found(error.__context__):
            error.__context__ = None  # it is reported already
        traceback.print_exception(error)
        return status

    @contextmanager
    def _watching(self) -> Generator[None]:
        def is_quiet(error: BaseException | None) -> bool:
            return self._is_found(error)

        with ExitStack() as stack:
            stack.enter_context(arguments_of_process(self.options.own))
            stack.enter_context(exits_reported(lambda code: self._report(code, is_caught=True)))
            stack.enter_context(tracebacks_quiet(is_quiet))
            # JAX reads its environment when it is imported, and the script may set it before.
            stack.enter_context(when_imported("jax", lambda: self._start(stack)))
            yield

    def _start(self, stack: ExitStack) -> None:
        from nanlab.blame.watch.watch import Watch

        self.watch = Watch(self.options.after)
        stack.enter_context(self.watch.watching())

    def _is_found(self, error: BaseException | None) -> bool:
        if self.watch is None or error is None:
            return False
        from nanlab.blame.watch.fault import FaultFound

        return isinstance(error, FaultFound)

    # The report.

    def _report(self, status: int, *, is_caught: bool) -> int:
        """Say what was found, once; returns the exit status."""
        if self.watch is not None:
            self.watch.finish()
        fault = self.watch and self.watch.fault
        if fault:
            status = FAULT
        elif status == 0 and (self.watch is None or not self.watch.watched or self.watch.unread):
            status = UNWATCHED
        if self._is_reported:
            return status
        self._is_reported = True
        if self.options.json is not None:
            self._write_json(status)
        if not fault:
            self._say(self._summary())
            return status
        if self.options.json != "-":
            self._show(fault)
        if self.options.is_annotated:
            print(*fault.annotations(), sep="\n", file=self._out)
        if self.options.save is not None:
            self._save(fault, self.options.save)
        if is_caught and fault.call:
            self._say("the script caught the exception; nothing was watched after this fault.")
        return status

    def _save(self, fault: Any, folder: Path) -> None:
        from nanlab.blame.watch.saving import save_fault

        try:
            save_fault(fault, folder, self._file)
        except OSError as error:
            self._say(f"--save {folder}: {error.strerror or error}; nothing was saved.")
        else:
            self._say(f"saved in {folder}.")

    def _show(self, fault: Any) -> None:
        from nanlab.blame.explain.text import show

        stream = self._err if self._out.closed else self._out
        lines = [fault.headline, *(f"Note: {note}" for note in fault.notes)]
        lines += [fault.without_verdict] if fault.verdict is None else []
        print(*lines, sep="\n", file=stream)
        if fault.verdict is not None:
            show(fault.verdict, Console(file=stream, highlight=False))

    def _summary(self) -> str:
        if self.watch is None:
            return "the script computed nothing with JAX, so nothing was watched."
        return self.watch.summary("the script", self._stopped)

    def _write_json(self, status: int) -> None:
        watch = self.watch
        fault = watch and watch.fault
        found = fault.to_dict() if fault else {"fault": False}
        counts = {} if watch is None else {"calls": watch.calls, "operations": watch.operations}
        text = json.dumps({**found, **counts, "exit_status": status}, indent=2, default=str)
        if self.options.json == "-":
            print(text, file=self._out)
        else:
            Path(str(self.options.json)).write_text(text + "\n", encoding="utf-8")

    def _say(self, sentence: str) -> None:
        with suppress(OSError, ValueError):
            print(f"nanlab.debug: {sentence}", file=self._err)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], is_process=True))
