"""script.py -> where its jitted functions can make an inf or a NaN: `python -m nanlab.lint`."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanlab.cli.guest import Misuse, arguments_of_process, run_script, when_imported

if TYPE_CHECKING:
    from nanlab.linting.report import Finding
    from nanlab.linting.script import Linted, ScriptLint

if __name__ == "nanlab.lint":
    # An import would bind this module to `nanlab.lint`, over the function of that name.
    raise ImportError(
        "nanlab.lint is a function: `from nanlab import lint`, or `import nanlab` and "
        "nanlab.lint(...). The command is `python -m nanlab.lint SCRIPT`"
    )

USAGE = """\
usage: python -m nanlab.lint [--assume NAME=RANGE ...] [--growth] [--json[=FILE]]
                             [--format github] [-m] SCRIPT [ARGUMENT ...]

Runs a script (with -m: a module) as Python does. At the first call of each function that it has
jitted, reports where an inf or a NaN can arise in it: in the forward pass, the gradient and the
update. Ranges of the arguments are taken from that call, with room around them, unless --assume
gives others. Programs compiled ahead of time and operations outside of jitted functions are not
looked at.

  SCRIPT           the script, or the module's name after -m
  ARGUMENT         its own arguments
  --assume "batch['x']=-5:5"
                   the range of an argument, or of a part of one, in each function that has it; a
                   number stands for plus and minus
  --growth         show where sums, products and squares overflow if numbers grow, too
  --json[=FILE]    write the reports as JSON into FILE, or print them in place of the text
  --format github  print one annotation for each finding, as GitHub shows them in a pull request

exit status: 4 with findings; 0 without; 5 if no jitted function was called, or one could not be
looked at; 130 after Ctrl-C; else the script's own (1 if it raised)
"""
FOUND, UNSEEN, INTERRUPTED, MISUSED = 4, 5, 130, 2


def main(arguments: list[str]) -> int:
    """Run the script that the arguments name, and report.

    Args:
        arguments: of the command.

    Returns:
        The exit status.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return 0 if arguments else MISUSED
    try:
        options, own = _options(arguments)
    except Misuse as error:
        sys.stderr.write(f"nanlab.lint: {error}\n")
        return MISUSED
    folder = Path.cwd() if "-m" in options else Path(own[0]).resolve().parent
    sys.path[0] = str(folder)
    return _run(options, own)


def _options(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    options, rest = dict[str, Any](), list(arguments)
    while rest and rest[0].startswith("-") and "-m" not in options:
        name, _, value = rest.pop(0).partition("=")
        if name not in ("-m", "--assume", "--growth", "--json", "--format"):
            raise Misuse(f"unknown option {name}; python -m nanlab.lint --help lists them")
        if name == "--assume":
            key, span = _assumption(value or (rest.pop(0) if rest else ""))
            options.setdefault(name, {})[key] = span
            continue
        if name == "--format":
            value = value or (rest.pop(0) if rest else "")
            if value not in ("github", "text"):
                raise Misuse(f'--format {value}: must be "github" or "text"')
        options[name] = value
    if not rest:
        raise Misuse("-m needs the name of a module" if "-m" in options else "no script")
    if "-m" not in options and not Path(rest[0]).is_file():
        raise Misuse(f"there is no script {rest[0]}")
    return options, rest


def _assumption(text: str) -> tuple[str, Any]:
    """Return a name and its range: one number, or the least and the greatest."""
    name, _, span = text.rpartition("=")
    try:
        numbers = [float(number) for number in span.split(":")]
    except ValueError:
        numbers = []
    if not name or len(numbers) not in (1, 2):
        raise Misuse(f'--assume {text}: must be NAME=NUMBER or NAME=LEAST:MOST, as in "x=-5:5"')
    return name.strip(), numbers[0] if len(numbers) == 1 else tuple(numbers)


def _unknown(options: dict[str, Any], watches: list[ScriptLint]) -> list[str]:
    """Return what is wrong with the names that --assume gives."""
    if not watches or not watches[0].names:
        return []
    from nanlab.linting.arguments import unknown_name

    problems: list[str] = []
    for key in options.get("--assume", ()):
        unknown_name(f"--assume {key}", key, list(watches[0].names), problems)
    return problems


def _run(options: dict[str, Any], own: list[str]) -> int:
    watches: list[ScriptLint] = []
    status, error = 0, None
    with ExitStack() as stack:

        def start() -> None:
            from nanlab.linting.script import ScriptLint

            watches.append(ScriptLint(options.get("--assume")))
            stack.enter_context(watches[0].watching())

        stack.enter_context(arguments_of_process(own))
        # JAX reads its environment when it is imported, and the script may set it before.
        stack.enter_context(when_imported("jax", start))
        try:
            status = run_script(own[0], is_module="-m" in options)
        except Misuse as misuse:
            sys.stderr.write(f"nanlab.lint: {misuse}\n")
            return MISUSED
        except KeyboardInterrupt:
            status = INTERRUPTED
        except BaseException as raised:
            error = raised
    linted = watches[0].linted if watches else []
    is_found = any(entry.report is not None and entry.report.findings for entry in linted)
    if is_found:
        status = FOUND
    elif status == 0 and error is None and not (linted and all(e.report for e in linted)):
        status = UNSEEN
    _report(options, linted, status)
    if error is not None:
        raise error
    if problems := _unknown(options, watches):
        sys.stderr.writelines(f"nanlab.lint: {problem}\n" for problem in problems)
        return MISUSED
    return status


def _report(options: dict[str, Any], linted: list[Linted], status: int) -> None:
    text = json.dumps(_dict(linted, status), indent=2) + "\n"
    if options.get("--json"):
        Path(options["--json"]).write_text(text, encoding="utf-8")
    if options.get("--json") == "":
        sys.stdout.write(text)
    elif options.get("--format") == "github":
        sys.stdout.writelines(_annotations(options, linted))
    else:
        for entry in linted:
            said = entry.report.text(growth="--growth" in options) if entry.report else (
                f"It could not be looked at: {entry.problem}"
            )  # fmt: skip
            sys.stdout.write(f"{entry.name}\n{'-' * len(entry.name)}\n{said}\n\n")
    if not linted:
        sys.stderr.write("nanlab.lint: the script called no jitted function.\n")


def _dict(linted: list[Linted], status: int) -> dict[str, Any]:
    functions = [
        {"function": entry.name, **(entry.report.to_dict() if entry.report else {}),
         **({"problem": entry.problem} if entry.problem else {})}
        for entry in linted
    ]  # fmt: skip
    return {"functions": functions, "exit_status": status}


def _annotations(options: dict[str, Any], linted: list[Linted]) -> list[str]:
    lines: list[str] = []
    for entry in linted:
        if entry.report is not None:
            growth = entry.report.growth if "--growth" in options else ()
            lines += [_annotation("warning", f) for f in entry.report.findings]
            lines += [_annotation("notice", f) for f in growth]
    return list(dict.fromkeys(lines))


def _annotation(level: str, finding: Finding) -> str:
    site, here = finding.site, Path.cwd()
    path = Path(site.file)
    file = path.relative_to(here).as_posix() if path.is_relative_to(here) else site.file
    title = _escaped(f"{site.primitive}: {site.mechanism}").replace(",", "%2C").replace(":", "%3A")
    place = f"file={file},line={site.line}," if site.file else ""
    return f"::{level} {place}title={title}::{_escaped(finding.sentence)}\n"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
