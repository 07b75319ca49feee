"""Numbers and names as text, and colors: one way for each in pages, tables and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

COLORS = {
    "trained": "#56b4e9", "stalled": "#dcdcdc", "diverged": "#f0c000", "recovered": "#009e73",
    "inf": "#cc79a7", "nan": "#8c1c13", "crashed": "#000000",
}  # fmt: skip
"""Distinguishable with any color blindness, and most of them in gray (tested)."""

LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c1c13")
"""Colors of lines; all but the last two are from Okabe and Ito (2008)."""

PHASE_COLORS = {
    "init": "#999999", "data": "#e69f00", "forward": "#0072b2", "backward": "#d55e00",
    "update": "#009e73", "": "#cccccc",
}  # fmt: skip

NICE_NAMES = {
    "lr": "learning rate", "init_scale": "initial weights' scale", "batch_size": "batch size",
    "bias_scale": "initial biases' scale", "input_scale": "inputs' scale",
}  # fmt: skip

_INVISIBLE = {
    # Characters that a terminal, a page or XML would act on, or cannot hold.
    **{code: "\ufffd" for first, last in ((0x80, 0x9F), (0x200B, 0x200F), (0x2028, 0x202E),
                                          (0x2060, 0x2069), (0xFEFF, 0xFEFF), (0xFFFE, 0xFFFF))
       for code in range(first, last + 1)},
    **{code: chr(0x2400 + code) for code in range(0x20)}, 0x7F: "\u2421",
}  # fmt: skip


def visible(value: Any) -> Any:
    """Return text with visible signs for control characters; of tables and mappings, all text."""
    if isinstance(value, str):
        return value.translate(_INVISIBLE)
    if isinstance(value, Path):
        return Path(visible(str(value)))
    if isinstance(value, pl.DataFrame):
        signs = {chr(code): sign for code, sign in _INVISIBLE.items()}
        text = pl.col(pl.String).str.replace_many(list(signs), list(signs.values()))
        return value.with_columns(text).rename(visible)
    if isinstance(value, Mapping):
        return {visible(key): visible(item) for key, item in value.items()}
    return type(value)(map(visible, value)) if isinstance(value, list | tuple) else value


def name_of(parameter: str) -> str:
    """Return a parameter's name for an axis: in words, then the column's name."""
    nice = NICE_NAMES.get(parameter)
    return f"{nice} ({parameter})" if nice else parameter


def number(value: Any, digits: int = 3) -> str:
    """Return a number with `digits` significant digits: `0.00316`, `1,200`, `1e38`."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if 1e-3 <= abs(value) < 1e5:
        rounded = float(f"{value:.{digits}g}")
        return f"{rounded:,.0f}" if abs(rounded) >= 10**digits else f"{rounded:g}"
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}"


def exact(value: Any) -> str:
    """Return a parameter's value as in a grid file, shortened where nothing is lost."""
    if isinstance(value, float):
        short = f"{value:.6g}"
        return number(value, 6) if float(short) == value else number(value, 4)
    return number(value)


def shortened(text: str, most: int = 32) -> str:
    """Return a text of at most `most` letters, with its beginning and its end."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most - 1) // 2 :]}"


def percent(part: int, whole: int) -> str:
    """Return `26 %`; 0 % only of nothing and 100 % only of all."""
    if not whole:
        return "0 %"
    share = 100 * part / whole
    if 0 < share < 1:
        return "under 1 %"
    if 99 < share < 100:
        return "over 99 %"
    return f"{share:.0f} %"


def count(n: int, word: str) -> str:
    """Return `1 run` or `1,200 runs`."""
    return f"{n:,} {word if n == 1 else word + 's'}"


def listed(items: Sequence[str]) -> str:
    """Return `a`, `a and b` or `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return ", ".join(items[:-1]) + " and " + items[-1]


def setting(parameter: str, value: Any) -> str:
    """Return `relu` for a named choice, `depth = 3` for other values."""
    if isinstance(value, str) and value not in ("none", "same", "default", "full"):
        return value
    return f"{parameter.rpartition('.')[2]} = {exact(value)}"


def settings_label(parameters: Sequence[str], values: Sequence[Any]) -> str:
    """Return `relu, depth = 3`, without the parameters that have no value."""
    pairs = zip(parameters, values, strict=True)
    return ", ".join(setting(name, value) for name, value in pairs if value is not None)
