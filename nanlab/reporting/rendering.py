"""Templates -> text, in which each value is escaped for the format of the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined
from markupsafe import Markup

from nanlab.reporting.words import count, listed
from nanlab.results.text_tables import markdown_escape


def _as_markdown(value: Any) -> Any:
    return value if hasattr(value, "__html__") else Markup(markdown_escape(str(value)))


def _as_yaml(value: Any) -> Any:
    return value if hasattr(value, "__html__") else Markup(json.dumps(value, ensure_ascii=False))


FORMATS: Mapping[str, Callable[[Any], Any] | None] = {
    ".html": None,  # Jinja's own
    ".md": _as_markdown,
    ".cff": _as_yaml,
    ".txt": None,
}
"""How values are escaped, by the ending of a file; what a template marks as safe is not."""


@cache
def _environment(ending: str) -> Environment:
    environment = Environment(
        loader=PackageLoader("nanlab.reporting", "."), autoescape=ending != ".txt",
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, finalize=FORMATS[ending],
        undefined=StrictUndefined if ending == ".html" else Undefined,
    )  # fmt: skip
    environment.globals |= {"count": count, "listed": listed}
    return environment


def rendered(name: str, **context: Any) -> str:
    """Return the file `name`, by its template, with each value escaped for its format."""
    return _environment(Path(name).suffix).get_template(f"{name}.j2").render(context)
