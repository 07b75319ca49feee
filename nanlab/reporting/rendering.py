"""Templates -> text, in which each value is escaped for the format of the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined
from markupsafe import Markup

from nanlab.reporting.words import count, exact, listed, number, percent, setting
from nanlab.results.text_tables import latex_escape, markdown_escape


def _escaped(escape: Callable[[Any], str]) -> Callable[[Any], Any]:
    return lambda value: value if hasattr(value, "__html__") else Markup(escape(value))


FORMATS: Mapping[str, Callable[[Any], Any] | None] = {
    ".html": None,  # Jinja's own
    ".md": _escaped(lambda value: markdown_escape(str(value))),
    ".cff": _escaped(lambda value: json.dumps(value, ensure_ascii=False)),
    ".tex": _escaped(lambda value: latex_escape(str(value))),
    ".txt": None,
}
"""How values are escaped, by the ending of a file; what a template marks as safe is not."""

FUNCTIONS = (count, exact, listed, number, percent, setting)
"""What templates may call."""


@cache
def _environment(ending: str) -> Environment:
    # LaTeX has braces of its own.
    own: Any = {"block_start_string": "<%", "block_end_string": "%>", "comment_start_string": "<#",
                "variable_start_string": "<<", "variable_end_string": ">>"}  # fmt: skip
    environment = Environment(
        loader=PackageLoader("nanlab.reporting", "."), autoescape=ending != ".txt",
        trim_blocks=ending != ".txt", lstrip_blocks=True, keep_trailing_newline=True,
        finalize=FORMATS[ending], undefined=StrictUndefined if ending == ".html" else Undefined,
        extensions=["jinja2.ext.do"], **(own if ending == ".tex" else {}),
    )  # fmt: skip
    functions: Any = {function.__name__: function for function in FUNCTIONS}
    environment.globals.update(functions)
    return environment


def rendered(name: str, **context: Any) -> str:
    """Return the file `name`, by its template, with each value escaped for its format."""
    return _environment(Path(name).suffix).get_template(f"{name}.j2").render(context)
