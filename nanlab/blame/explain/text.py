"""Verdict -> text for terminals and notebooks."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.terminal_theme import TerminalTheme

from nanlab.blame.diagnosis.contents import Contents
from nanlab.blame.explain.layout import Paragraph, Rows, printable
from nanlab.blame.program.primitives import SAME_AS
from nanlab.blame.site import Site
from nanlab.blame.source_path import cell_of, displayed
from nanlab.blame.vocabulary import Mechanism, Status

if TYPE_CHECKING:
    from nanlab.blame.explain.verdict import Verdict

WIDTH = 88
"""Width of the plain text in columns; a terminal uses its own."""

LINKS = 6
"""Number of sites shown at each end of a chain."""

SHORT = 16
"""Longest expression used as a row label; longer ones are labeled a, b, ..."""

ARGUMENTS = 3
"""Number of bad arguments that are described; of the others only the names are shown."""
# At least 4.5:1 on white. Dim text is a mixture with the first color, which is not drawn.
_ON_WHITE = TerminalTheme(
    (0x60, 0x60, 0x60),
    (0x1F, 0x23, 0x28),
    [(0x1F, 0x23, 0x28), (0xB3, 0x1D, 0x28), (0x11, 0x63, 0x29), (0x7D, 0x4E, 0x00),
     (0x09, 0x50, 0xAE), (0x66, 0x39, 0xBA), (0x0B, 0x5F, 0x6B), (0x57, 0x60, 0x6A)],
)  # fmt: skip


def verdict_text(verdict: Verdict, width: int = WIDTH) -> str:
    """Return a verdict as plain text; only source paths and long names may exceed the width."""
    console = Console(width=width, no_color=True, color_system=None, highlight=False)
    with console.capture() as captured:
        show(verdict, console)
    lines = (line.rstrip() for line in captured.get().splitlines())
    return "\n".join(lines).rstrip()


def verdict_html(verdict: Verdict, width: int = 100) -> str:
    """Return a verdict as a colored <pre> block, for notebooks."""
    console = Console(width=width, record=True, force_jupyter=False, file=io.StringIO())
    console.print(renderable(verdict))
    # Colors of its own, since a notebook's page may be light or dark.
    style = "font-family:Menlo,'DejaVu Sans Mono',consolas,monospace;line-height:1.3;"
    style += "padding:.5em;color:#1f2328;background:#fff"
    return console.export_html(
        theme=_ON_WHITE,
        inline_styles=True,
        code_format=f'<pre style="{style}"><code style="color:inherit;background:none">'
        "{code}</code></pre>",
    )


def verdict_line(verdict: Verdict) -> str:
    """Return a verdict in one line, short enough for a failing assert to show it whole."""
    if not verdict.fault:
        return f"{verdict.status}: every output is finite"
    kind = "NaN" if verdict.nan_outputs else "inf"
    reached = verdict.nan_outputs or verdict.output_faults
    text = f"{verdict.status}: {kind} in {_listed([_cut(name) for name in reached], most=1)}"
    origin = None if verdict.origin is verdict.culprit else verdict.origin
    for role, site in (("culprit", verdict.culprit), ("origin", origin)):
        if site is not None:
            at = f" at {_cut(_line(site))}" if site.file else ""
            text += f"; {role} {site.primitive or 'none'}, {site.mechanism}, {site.phase}{at}"
    return printable(text)


def _cut(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:18]}...{name[-18:]}"


def show(verdict: Verdict, console: Console) -> None:
    """Print a verdict without breaking paths, so that terminals and editors can link them."""
    console.print(Group(*_Writer(verdict, is_folded=False).parts()), crop=False)


def renderable(verdict: Verdict) -> RenderableType:
    """Return a verdict in a form that `rich.print` takes."""
    return Group(*_Writer(verdict, is_folded=True).parts())


class _Writer:
    def __init__(self, verdict: Verdict, *, is_folded: bool) -> None:
        self._verdict, self._is_folded = verdict, is_folded

    def _say(
        self, text: str, style: str = "", indent: int = 0, head: tuple[str, str] = ("", "")
    ) -> Paragraph:
        return Paragraph(text, style, indent, self._is_folded, head)

    def parts(self) -> Iterator[RenderableType]:
        """Yield the verdict from top to bottom."""
        verdict = self._verdict
        culprit, origin = verdict.culprit, verdict.origin
        yield self._say(*_headline(verdict))
        for note in verdict.notes:
            yield self._say(f"Note: {note}", "yellow")
        yield from self._arguments()
        if culprit is not None:
            yield from self._site("The NaN", culprit)
        if origin is not None and origin is not culprit:
            yield from self._site("The inf behind it" if culprit else "The inf", origin)
        if len(verdict.chain) > 1:
            yield self._say("")
            yield self._say("How it got out:", "bold")
            yield Rows((), _chain(verdict), 2, self._is_folded)
            reached = verdict.nan_outputs if culprit else verdict.output_faults
            yield self._say(f"-> {_listed(reached or verdict.output_faults, most=3)}", indent=2)
        main = culprit or origin
        if main is not None and main.cure:
            yield self._say("")
            yield self._say("What usually cures it:", "bold green")
            yield self._say(main.cure, indent=2)
        if verdict.benign:
            sites = [f"{s.primitive} ({s.mechanism}) at {_line(s)}" for s in verdict.benign]
            yield self._say("")
            yield self._say(f"Harmless, reaching no output: {_listed(sites, most=4)}", "dim")

    def _arguments(self) -> Iterator[RenderableType]:
        """Yield the arguments that came in bad, first the one that the fault began with."""
        inputs, names = self._verdict.inputs, self._verdict.input_faults
        for contents in inputs[:ARGUMENTS]:
            yield self._say(_argument(contents), "bold")
        others = names[len(inputs[:ARGUMENTS]) :]
        if others:
            more = "More arguments" if inputs else "Arguments"
            yield self._say(f"{more} that contain an inf or a NaN: {_listed(others)}", "bold")

    def _site(self, title: str, site: Site) -> Iterator[RenderableType]:
        yield self._say("")
        is_read = site.mechanism == Mechanism.INPUT
        name = site.primitive or "no operation"
        meaning = f"{site.mechanism} ({Mechanism(site.mechanism).meaning})"
        head = f"{title}{' is first used by' if is_read else ''}: {name}"
        yield self._say(f", {meaning}", head=(head, "bold red"))
        yield self._say(_circumstances(site), indent=2)
        if site.file:
            place = cell_place(site) or f"{displayed(site.file)}:{site.line}"
            yield self._say(f" in {site.function}", indent=2, head=(f"at {place}", "cyan"))
            if site.code:
                yield self._say(_one_line(site.code), "bold", indent=6)
        if site.library:
            yield self._say(f"through {site.library}", "dim", indent=2)
            if site.library_code:
                yield self._say(_one_line(site.library_code), "dim", indent=6)
        if site.operands or site.results:
            yield from self._numbers(site)

    def _numbers(self, site: Site) -> Iterator[RenderableType]:
        """Yield the contents of operands and results, under short names."""
        labels = _labels([c.expression for c in site.operands])
        for label, c in zip(labels, site.operands, strict=True):
            if label != c.expression:
                yield self._say(f"{label} = {c.expression}", indent=2)
        n_results = len(site.results)
        results = ["result"] if n_results == 1 else [f"result {i}" for i in range(n_results)]
        rows = [*zip(labels, site.operands, strict=True), *zip(results, site.results, strict=True)]
        columns: dict[str, Callable[[Contents], str]] = {
            "type": lambda c: f"{c.dtype}{list(c.shape)}",
            "finite values": _range,
            "zeros": lambda c: str(c.zeros) if c.zeros else "-",
            "not finite": _bad,
        }
        if not any(c.zeros for _, c in rows):
            del columns["zeros"]
        if any(c.there for _, c in rows):
            columns[f"at {list(site.element)}" if site.element else "there"] = _there
        cells = [[label, *(cell(c) for cell in columns.values())] for label, c in rows]
        yield Rows(("", *columns), cells, 2, self._is_folded)
        rows_of = _rows(site.results[0]) if site.results else ""
        if rows_of:
            yield self._say(f"The result is not finite in {rows_of}.", indent=2)


def _headline(verdict: Verdict) -> tuple[str, str]:
    """Return the first sentence, and its style."""
    if verdict.status == Status.CLEAN:
        return "Every output is finite.", "bold green"
    if verdict.status == Status.REWRITTEN_AWAY:
        return (
            "Every output is finite as compiled. Op by op there would be a fault, which XLA's "
            "rewriting removes (rewritten-away).",
            "bold yellow",
        )
    infs = [name for name in verdict.output_faults if name not in verdict.nan_outputs]
    kinds = (("a NaN", verdict.nan_outputs), ("an inf", infs))
    text = "There is " + ", and ".join(f"{k} in {_listed(n, most=3)}" for k, n in kinds if n)
    if verdict.status == Status.COMPILED_ONLY:
        way = "does not fail, or not" if verdict.origin else "does not fail"
        text += f", but operation by operation it {way} in the same way (compiled-only)"
    return text + ".", "bold red"


def _argument(c: Contents) -> str:
    """Return what is bad in an argument: how much, from where on, and in which rows."""
    counts = [(n, name) for n, name in _counts(c) if n]
    kinds = " and ".join(name for _, name in counts)
    if not c.shape:
        return f"The argument {c.expression} is already {kinds}."
    numbers = " and ".join(f"{n:,} {name}" if len(counts) > 1 else f"{n:,}" for n, name in counts)
    text = f"The argument {c.expression} already holds {kinds}: {numbers} of {prod(c.shape):,}"
    first = "" if c.first_bad is None else f", first at {list(c.first_bad)}"
    rows = _rows(c) if len(c.shape) > 1 else ""
    return f"{text} values{first}{f', in {rows}' if rows else ''}."


def _counts(c: Contents) -> tuple[tuple[int, str], ...]:
    return (c.nans, "NaN"), (c.posinfs, "+inf"), (c.neginfs, "-inf")


def _rows(c: Contents) -> str:
    """Return the rows that are not finite, as "rows 3, 17 and 4 more of 64"; "" if all are."""
    if not c.bad_rows or c.n_bad_rows == c.shape[0]:
        return ""
    *names, last = map(str, c.bad_rows)
    if (more := c.n_bad_rows - len(c.bad_rows)) > 0:
        names, last = [*names, last], f"{more:,} more"
    rows = f"rows {', '.join(names)} and {last}" if names else f"row {last}"
    return f"{rows} of {c.shape[0]:,}"


def _circumstances(site: Site) -> str:
    parts = [f"in the {site.phase} pass" if site.phase.endswith("ward") else f"in the {site.phase}"]
    if site.module:
        parts.append(f"in {site.module}")
    if site.iterations:
        numbers = ", ".join(map(str, site.iterations))
        if len(site.iterations) == 1:
            parts.append(f"iteration {numbers} of the enclosing loop")
        else:
            parts.append(f"iterations {numbers} of the enclosing loops, outermost first")
    if site.lane is not None:
        lane = site.lane if isinstance(site.lane, tuple) else (site.lane,)
        parts.append(f"vmap lane {', '.join(map(str, lane))}")
    return ", ".join(parts)


def _labels(expressions: list[str]) -> list[str]:
    """Return short expressions as they are, and a, b, ... for the others."""
    letters = iter("abcdefghijklmnopqrstuvwxyz" * 9)
    return [e if len(e) <= SHORT and " " not in e else next(letters) for e in expressions]


def _range(c: Contents) -> str:
    if c.min is None:
        return "none" if c.nans or c.posinfs or c.neginfs else "-"
    return _number(c.min) if c.min == c.max else f"{_number(c.min)} to {_number(c.max)}"


def _bad(c: Contents) -> str:
    return ", ".join(f"{count} {name}" for count, name in _counts(c) if count) or "-"


def _number(x: object) -> str:
    return f"{x:.6g}" if isinstance(x, float) else str(x)


def _there(c: Contents) -> str:
    """Return the elements that are shown, and of how many they are."""
    shown = " ".join(map(_number, c.there))
    return f"{shown} ({len(c.there)} of {c.n_there:,})" if c.n_there > len(c.there) else shown


def _one_line(code: str) -> str:
    return code.replace("\t", " ")


def _line(site: Site) -> str:
    name = site.file.replace("\\", "/").rpartition("/")[2]
    return cell_place(site) or (f"{name}:{site.line}" if site.file else "?")


def cell_place(site: Site) -> str:
    """Return "cell 3, line 7" for a line of a notebook, else ""."""
    cell = cell_of(site.file)
    return cell and f"{cell}, line {site.line}"


def _chain(verdict: Verdict) -> list[list[str]]:
    """Return the rows of a chain."""
    # Primitives that only pass the value on are left out.
    links = [site for site in verdict.chain if site.primitive not in SAME_AS]
    shown: list[Site | None] = list(links)
    if len(links) > 2 * LINKS + 1:
        shown = [*links[:LINKS], None, *links[-LINKS:]]
    rows: list[list[str]] = []
    for site in shown:
        if site is None:
            rows.append([f"... {len(links) - 2 * LINKS} more", "", "", ""])
            continue
        loop = f"iteration {', '.join(map(str, site.iterations))}" if site.iterations else ""
        rows.append([site.primitive, site.phase, _line(site), loop or site.module])
    return rows


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
