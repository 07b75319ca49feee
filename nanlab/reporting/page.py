"""Analysis -> report.html: one file that asks nothing of any network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

import polars as pl

from nanlab.grid.outcome import Outcome
from nanlab.reporting.analysis import Analysis
from nanlab.reporting.answer import answer_of
from nanlab.reporting.captions import HEADINGS, caption, figures_of, made_of
from nanlab.reporting.causes import ROLES, SAID, SiteRole, blame_sentence
from nanlab.reporting.cells import MapCell
from nanlab.reporting.charts import CHARTS, chart_of
from nanlab.reporting.methods import GLOSSARY, checklist, methods_paragraph, where
from nanlab.reporting.sheets import MOST_CAUSES, Sheet, sheets_of
from nanlab.reporting.svg import cell_box, chart_svg, key, map_plane, map_svg
from nanlab.reporting.words import (
    COLORS,
    PHASE_COLORS,
    count,
    listed,
    number,
    percent,
)

MOST_IN_TABLES = 5000
"""With more cells than these, the maps' tables are left to runs.csv and runs.parquet."""
MOST_NAMED = 25_000
"""With more runs than these only an example of each cell is named."""


def report_page(analysis: Analysis, *, files_made: Sequence[str]) -> str:
    """The whole report as HTML.

    Args:
        analysis: what is told.
        files_made: names of the folder's other files, to be listed.
    """
    results = analysis.results
    sheets = {sheet.name: sheet for sheet in sheets_of(analysis)}
    script = files("nanlab.reporting").joinpath("page.js").read_text(encoding="utf-8")
    style = files("nanlab.reporting").joinpath("page.css").read_text(encoding="utf-8")
    body = [_head(analysis), "<main>", _maps(analysis)]
    body += [_figure(analysis, name, sheets) for name in figures_of(analysis) if name in CHARTS]
    body += [_causes(analysis), *_tables(sheets), _methods(analysis, sheets), "</main>"]
    body.append(_foot(files_made))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n"
        f"<title>{escape(results.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + '\n<div id="tip" role="tooltip" hidden></div>\n'
        + '<div id="said" class="away" aria-live="polite"></div>\n'
        + f'<script type="application/json" id="data">{_data(analysis)}</script>\n'
        + f"<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _head(analysis: Analysis) -> str:
    results = analysis.results
    notes = list(results.notes)
    if results.missing:
        notes.insert(0, missing_sentence(analysis))
    told = "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    answer = "".join(f"<p>{escape(sentence)}</p>" for sentence in answer_of(analysis))
    return (
        f'<header><h1>{escape(results.title)}</h1><p class="soft">{escape(made_of(analysis))}</p>'
        f'{told}<div class="answer">{answer}</div></header>'
    )


def missing_sentence(analysis: Analysis) -> str:
    """How much of a running study is there."""
    results = analysis.results
    return (
        f"The study is not finished: {count(results.runs.height, 'run')} of {results.planned:,} "
        f"are there and {results.missing:,} are missing. All that follows is of those that are "
        "there."
    )


def _maps(analysis: Analysis) -> str:
    layout = analysis.layout
    maps: list[str] = []
    for panel, values in enumerate(layout.panels):
        label = layout.panel_label(values)
        heading = f"<h3>{escape(label)}</h3>" if label else ""
        maps.append(f"<div>{heading}{map_svg(analysis, panel)}{_map_table(analysis, panel)}</div>")
    total = analysis.runs.height
    legend = "".join(
        f'<li><span class="swatch" style="background:{COLORS[outcome]}"></span>'
        f"<span><b>{outcome}</b> {n:,} ({percent(n, total)}): "
        f"{escape(Outcome(outcome).meaning)}</span></li>"
        for outcome, n in analysis.outcomes().items()
    )
    if analysis.boundaries:
        legend += ('<li><svg class="key" viewBox="0 0 26 12" aria-hidden="true"><path '
                   'class="theory" d="M0 6h26"/></svg>theory</li>')  # fmt: skip
    return (
        f"<section><h2>{HEADINGS['outcomes']}</h2>"
        '<p class="hint">Point at a cell for its runs; click it, or press Enter, for what made '
        f'them fail.</p><ul class="legend">{legend}</ul>'
        f'<figure id="outcomes"><div class="maps">{"".join(maps)}</div>'
        f"<figcaption>{escape(caption(analysis, 'outcomes'))}</figcaption></figure>"
        '<div id="blame" role="region" aria-label="What made the runs of a cell fail" '
        'tabindex="-1" hidden></div></section>'
    )


def _map_table(analysis: Analysis, panel: int) -> str:
    """The map's cells again, as a table whose every cell can be focused and opened."""
    maps, layout = analysis.maps, analysis.layout
    if len(maps.cells) > MOST_IN_TABLES:
        return ""
    mine = {(c.row, c.column): (i, c) for i, c in enumerate(maps.cells) if c.panel == panel}
    rows = sorted({row for row, _ in mine}, reverse=not maps.downwards)
    columns = sorted({column for _, column in mine})
    x, y = cell_labels(analysis)
    head = "".join(f'<th scope="col">{escape(x[c])}</th>' for c in columns)
    corner = escape(" \\ ".join(n for n in (layout.y.name, layout.x.name) if n))
    lines: list[str] = []
    for row in rows:
        cells = "".join(_map_cell(*mine[row, c]) if (row, c) in mine else "<td></td>"
                        for c in columns)  # fmt: skip
        lines.append(f'<tr><th scope="row">{escape(y[row])}</th>{cells}</tr>')
    label = escape(layout.panel_label(layout.panels[panel]) or "the map")
    return (
        f"<details><summary>The same as a table</summary>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="Table of {label}"><table>'
        f"<thead><tr><th>{corner}</th>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
        "</table></div></details>"
    )


def _map_cell(i: int, cell: MapCell) -> str:
    told = ", ".join(f"{n:,} {outcome}" for outcome, n in cell.counts.items())
    return f'<td><button type="button" data-cell="{i}">{told}</button></td>'


def cell_labels(analysis: Analysis) -> tuple[list[str], list[str]]:
    """What the columns and rows of the maps are called; a range where values are put together."""
    layout, (x, y) = analysis.layout, analysis.maps.together

    def labels(all_: Sequence[str], together: int) -> list[str]:
        held = [all_[i : i + together] for i in range(0, len(all_), together)]
        return [some[0] if len(some) == 1 else f"{some[0]} to {some[-1]}" for some in held]

    return labels(layout.x.labels, x), labels(layout.y.labels, y)


def _figure(analysis: Analysis, name: str, sheets: dict[str, Sheet]) -> str:
    chart = chart_of(analysis, name, most=7)
    said = caption(analysis, name)
    entries = "".join(f"<li>{key(s)}{escape(s.label)}</li>" for s in chart.series if s.label)
    legend = f"<li>{escape(chart.legend)}:</li>" if chart.legend else ""
    table = ""
    if name == "critical" and "critical" in sheets:
        table = f"<details><summary>The same as a table</summary>{_table(sheets[name])}</details>"
    return (
        f'<section><h2>{HEADINGS[name]}</h2><figure id="{name}" class="chart">'
        f'<ul class="legend">{legend}{entries}</ul>{chart_svg(chart, said)}'
        f"<figcaption>{escape(said)}</figcaption></figure>{table}</section>"
    )


def _causes(analysis: Analysis) -> str:
    shown: list[SiteRole] = [role for role in ROLES if analysis.causes[role]]
    if not shown:
        return ""
    parts: list[str] = []
    phases: dict[str, None] = {}
    for role in shown:
        causes = analysis.causes[role]
        most = causes[0].runs
        rows: list[str] = []
        for cause in causes[:MOST_CAUSES]:
            bars = "".join(
                f'<span class="bar" style="width:{7 * n / most:.2f}rem;'
                f'background:{PHASE_COLORS.get(phase, "#ccc")}" title="{phase} {n:,}"></span>'
                for phase, n in cause.phases.items()
            )
            phases |= dict.fromkeys(cause.phases)
            told = escape(", ".join(phase for phase in cause.phases if phase))
            rows.append(f'<tr><td>{escape(cause.what)}</td><td class="b">{bars}</td>'
                        f'<td class="n">{cause.runs:,}</td>'
                        f"<td>{told}</td></tr>")  # fmt: skip
        parts.append(
            f'<div class="scroll" tabindex="0"><table><caption>{SAID[role]}</caption>'
            '<thead><tr><th>arithmetic</th><th><span class="away">bars</span></th>'
            f'<th class="n">runs</th><th>phase</th></tr></thead><tbody>{"".join(rows)}</tbody>'
            "</table></div>"
        )
    legend = "".join(
        f'<li><span class="swatch" style="background:{PHASE_COLORS.get(p, "#ccc")}"></span>'
        f"{escape(p or 'no phase')}</li>"
        for p in phases
    )
    return (
        f'<section><h2>{HEADINGS["causes"]}</h2><figure id="causes"><ul class="legend">{legend}'
        f'</ul><div class="pair">{"".join(parts)}</div>'
        f"<figcaption>{escape(caption(analysis, 'causes'))}</figcaption></figure></section>"
    )


def _tables(sheets: dict[str, Sheet]) -> list[str]:
    titles = {
        "instructive": HEADINGS["instructive"],
        "blames": "The most frequent blames",
        "outcomes": "Outcomes by group",
        "parameters": "What was run",
    }
    return [
        f'<section id="table-{name}"><h2>{title}</h2>{_table(sheets[name])}</section>'
        for name, title in titles.items()
        if name in sheets
    ]


def _table(sheet: Sheet) -> str:
    def cell(tag: str, i: int, text: str, wide: bool) -> str:
        kind = "n" if i in sheet.numbers else "w" if wide else ""
        attribute = f' class="{kind}"' if kind else ""
        return f"<{tag}{attribute}>{escape(text)}</{tag}>"

    wide = {i for i in range(len(sheet.head)) if any(len(row[i]) > 30 for row in sheet.rows)}
    head = "".join(cell("th", i, text, False) for i, text in enumerate(sheet.head))
    rows = "".join(
        "<tr>" + "".join(cell("td", i, t, i in wide) for i, t in enumerate(row)) + "</tr>"
        for row in sheet.rows
    )
    label = escape(sheet.caption.partition(".")[0])
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table>'
        f"<caption>{escape(sheet.caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _methods(analysis: Analysis, sheets: dict[str, Sheet]) -> str:
    asked = "".join(
        f"<dt>{escape(question)}</dt><dd>{escape(answer)}</dd>"
        for question, answer in checklist(analysis)
    )
    words = "".join(
        f"<dt>{escape(word)}</dt><dd>{escape(meaning)}.</dd>" for word, meaning in GLOSSARY.items()
    )
    return (
        f"<section><h2>Methods</h2><p>{escape(methods_paragraph(analysis))}</p></section>"
        f"<section><h2>What reviewers ask</h2><dl>{asked}</dl></section>"
        f"<section><h2>The words</h2><dl>{words}</dl></section>"
    )


def _foot(files_made: Sequence[str]) -> str:
    return f'<footer><p class="soft">Beside this page: {escape(listed(files_made))}.</p></footer>'


def _data(analysis: Analysis) -> str:
    """What the script shows of each cell."""
    layout, plane = analysis.layout, map_plane(analysis)
    x, y = cell_labels(analysis)
    blames = analysis.results.blames
    place = {blame_id: i for i, blame_id in enumerate(blames["blame_id"])}
    named = _named(analysis)
    told: dict[str, Any] = {
        "folder": where(analysis),
        "x": {"name": layout.x.name, "labels": x},
        "y": {"name": layout.y.name, "labels": y},
        "panels": [layout.panel_label(panel) for panel in layout.panels],
        "outcomes": [outcome.value for outcome in Outcome],
        "blames": [
            {
                "id": row["blame_id"],
                "runs": row["runs"],
                **{role: blame_sentence(row, role) for role in ROLES},
                "witness": "" if row["witness"] == "not-asked" else row["witness"],
            }
            for row in blames.iter_rows(named=True)
        ],
        "cells": [
            [
                cell.panel, cell.column, cell.row, cell_box(plane, cell),
                [[list(Outcome).index(Outcome(outcome)), n] for outcome, n in cell.counts.items()],
                [[place[blame], n] for blame, n in cell.blames[:5]],
                None if cell.fault_step is None else number(cell.fault_step), cell.example,
                named.get((cell.panel, cell.row, cell.column), ""),
            ]
            for cell in analysis.maps.cells
        ],
    }  # fmt: skip
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    return text.replace("</", "<\\/").replace("<!--", "<\\u0021--")


def _named(analysis: Analysis) -> dict[tuple[int, int, int], str]:
    """Each cell's runs: run_id and the number of the outcome, one after another."""
    if analysis.runs.height > MOST_NAMED:
        return {}
    placed = analysis.maps.placed.with_columns(
        pl.col("outcome").replace_strict({o.value: str(i) for i, o in enumerate(Outcome)})
    )
    joined = placed.group_by("_panel", "_row", "_column", maintain_order=True).agg(
        (pl.col("run_id") + pl.col("outcome")).str.join("").alias("ids")
    )
    return {(p, r, c): ids for p, r, c, ids in joined.rows()}
