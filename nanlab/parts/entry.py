"""Part -> entry: what every table of parts says of each thing in it, in one line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """What is told of a part; the tables' own kinds add what computes it.

    Attributes:
        doc: one sentence: what it is.
        source: who published it, or the library that has it.
    """

    doc: str
    source: str
