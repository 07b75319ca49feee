"""The entry of a part in its table: one sentence, and a source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jax import Array

Knobs = Mapping[str, "Array"]
"""The traced numbers of a run, by name."""


@dataclass(frozen=True)
class Entry:
    """Description of a part; each table's subclass adds the functions that compute it.

    Attributes:
        doc: description, one sentence.
        source: publication or library.
    """

    doc: str
    source: str
