"""Verdict -> text for terminals and notebooks."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from nanlab.blame.diagnosis.contents import Contents
from nanlab.blame.program.primitives import SAME_AS
from nanlab.blame.site import Site
from nanlab.blame.source_path import cell_of
from nanlab.blame.vocabulary import Mechanism, Status

if TYPE_CHECKING:
    from nanlab.blame.explain.verdict import Verdict

WIDTH = 88
"""Width of the plain text in columns; a terminal uses its own."""

LINKS = 6
"""Number of sites shown at each end of a chain."""

SHORT = 16
"""Longest expression used as a row label; longer ones are labeled a, b, ..."""

# At least 4.5:1 on white. Dim text is a mixture with the first color, which is not drawn.
_ON_WHITE = TerminalTheme(
    (0x60, 0x60, 0x60),
    (0x1F, 0x23, 0x28),
    [(0x1F, 0x23, 0x28), (0xB3, 0x1D, 0x28), (0x11, 0x63, 0x29), (0x7D, 0x4E, 0x00),
     (0x09, 0x50, 0xAE), (0x66, 0x39, 0xBA), (0x0B, 0x5F, 0x6B), (0x57, 0x60, 0x6A)],
)  # fmt: skip


def verdict_text(verdict: Verdict, width: int = WIDTH) -> str:
    """Return a verdict as plain text; only source paths may exceed the width."""
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


def show(verdict: Verdict, console: Console) -> None:
    """Print a verdict without breaking paths, so that terminals and editors can link them."""
    console.print(Group(*_parts(verdict, is_folded=False)), crop=False)


def renderable(verdict: Verdict) -> RenderableType:
    """Return a verdict in a form that `rich.print` takes."""
    return Group(*_parts(verdict, is_folded=True))


def _parts(verdict: Verdict, *, is_folded: bool) -> Iterator[RenderableType]:
    yield _headline(verdict)
    for note in verdict.notes:
        yield Text(f"Note: {note}", style="yellow")
    culprit, origin = verdict.culprit, verdict.origin
    if verdict.input_faults:
        yield Text(
            "Arguments that contain an inf or a NaN: " + _listed(verdict.input_faults), style="bold"
        )
    if culprit is not None:
        yield from _site("The NaN", culprit, is_folded=is_folded)
    if origin is not None and origin is not culprit:
        title = "The inf behind it" if culprit else "The inf"
        yield from _site(title, origin, is_folded=is_folded)
    if len(verdict.chain) > 1:
        yield Text()
        yield Text("How it got out:", style="bold")
        yield Padding(_chain(verdict), (0, 0, 0, 2), expand=False)
    main = culprit or origin
    if main is not None and main.cure:
        yield Text()
        yield Text("What usually cures it:", style="bold green")
        yield Padding(Text(main.cure), (0, 0, 0, 2), expand=False)
        if origin is not None and origin is not main and origin.cure:
            yield Padding(
                Text(f"And where the inf began: {origin.cure}"), (0, 0, 0, 2), expand=False
            )
    if verdict.benign:
        sites = [f"{s.primitive} ({s.mechanism}) at {_line(s)}" for s in verdict.benign]
        yield Text()
        yield Text("Harmless, reaching no output: " + _listed(sites, most=4), style="dim")


def _headline(verdict: Verdict) -> Text:
    if verdict.status == Status.CLEAN:
        return Text("Every output is finite.", style="bold green")
    if verdict.status == Status.REWRITTEN_AWAY:
        return Text(
            "Every output is finite as compiled. Op by op there would be a fault, which XLA's "
            "rewriting removes (rewritten-away).",
            style="bold yellow",
        )
    infs = [name for name in verdict.output_faults if name not in verdict.nan_outputs]
    kinds = (("a NaN", verdict.nan_outputs), ("an inf", infs))
    text = "There is " + ", and ".join(f"{k} in {_listed(n, most=3)}" for k, n in kinds if n)
    if verdict.status == Status.COMPILED_ONLY:
        text += ", but the instrumented program does not fail in the same way (compiled-only)"
    return Text(text + ".", style="bold red")


def _site(title: str, site: Site, *, is_folded: bool) -> Iterator[RenderableType]:
    yield Text()
    head = Text.assemble((f"{title}: ", "bold"), (site.primitive or "no operation", "bold red"))
    head.append(f", {site.mechanism} ({Mechanism(site.mechanism).meaning})")
    yield head
    yield Padding(Text(_circumstances(site)), (0, 0, 0, 2), expand=False)
    if site.file:
        line = (cell_place(site) or f"{_shortened(site.file)}:{site.line}", "cyan")
        tail = f" in {site.function}"
        overflow = "fold" if is_folded else "ignore"
        yield Text.assemble("  at ", line, tail, no_wrap=not is_folded, overflow=overflow)
        if site.code:
            yield Padding(Text(site.code, style="bold"), (0, 0, 0, 6), expand=False)
    if site.library:
        yield Padding(Text(f"through {site.library}", style="dim"), (0, 0, 0, 2), expand=False)
    if site.operands or site.results:
        yield Padding(_numbers(site), (0, 0, 0, 2), expand=False)


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


def _numbers(site: Site) -> RenderableType:
    """Return a table of the contents of operands and results, under short names."""
    labels = _labels([c.expression for c in site.operands])
    meanings = [
        Text(f"{label} = {c.expression}")
        for label, c in zip(labels, site.operands, strict=True)
        if label != c.expression
    ]
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
        columns[f"at {list(site.element)}" if site.element else "there"] = lambda c: " ".join(
            map(_number, c.there)
        )
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    for title in ("", *columns):
        table.add_column(title)
    for label, c in rows:
        table.add_row(label, *(cell(c) for cell in columns.values()))
    return Group(*meanings, table)


def _labels(expressions: list[str]) -> list[str]:
    """Return short expressions as they are, and a, b, ... for the others."""
    letters = iter("abcdefghijklmnopqrstuvwxyz" * 9)
    return [e if len(e) <= SHORT and " " not in e else next(letters) for e in expressions]


def _range(c: Contents) -> str:
    if c.min is None:
        return "none" if c.nans or c.posinfs or c.neginfs else "-"
    return _number(c.min) if c.min == c.max else f"{_number(c.min)} to {_number(c.max)}"


def _bad(c: Contents) -> str:
    counts = ((c.nans, "NaN"), (c.posinfs, "+inf"), (c.neginfs, "-inf"))
    return ", ".join(f"{count} {name}" for count, name in counts if count) or "-"


def _number(x: object) -> str:
    return f"{x:.6g}" if isinstance(x, float) else str(x)


def _shortened(file: str) -> str:
    """Return the path of a file, relative to the current folder if it is inside."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def _line(site: Site) -> str:
    name = site.file.replace("\\", "/").rpartition("/")[2]
    return cell_place(site) or (f"{name}:{site.line}" if site.file else "?")


def cell_place(site: Site) -> str:
    """Return "cell 3, line 7" for a line of a notebook, else ""."""
    cell = cell_of(site.file)
    return cell and f"{cell}, line {site.line}"


def _chain(verdict: Verdict) -> RenderableType:
    lines = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    # Primitives that only pass the value on are left out.
    links = [site for site in verdict.chain if site.primitive not in SAME_AS]
    shown: list[Site | None] = list(links)
    if len(links) > 2 * LINKS + 1:
        shown = [*links[:LINKS], None, *links[-LINKS:]]
    for site in shown:
        if site is None:
            lines.add_row(f"... {len(links) - 2 * LINKS} more", "", "", "")
            continue
        loop = f"iteration {', '.join(map(str, site.iterations))}" if site.iterations else ""
        lines.add_row(site.primitive, site.phase, _line(site), loop or site.module)
    reached = verdict.nan_outputs if verdict.culprit else verdict.output_faults
    return Group(lines, Text(f"-> {_listed(reached or verdict.output_faults, most=3)}"))


def _listed(names: tuple[str, ...] | list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
