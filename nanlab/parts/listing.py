"""All tables of parts, by the parameter that chooses from them; which parts read a knob."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType

from nanlab.parts.activations import ACTIVATIONS
from nanlab.parts.entry import Entry
from nanlab.parts.initializers import BIAS_INITIALIZERS, INITIALIZERS
from nanlab.parts.losses import LOSSES
from nanlab.parts.models import MODELS
from nanlab.parts.norms import NORMS
from nanlab.parts.optimizers import CLIPS, OPTIMIZERS
from nanlab.parts.poolings import POOLINGS
from nanlab.parts.precision import MATMUL_PRECISIONS, PRECISIONS, STORAGES
from nanlab.parts.scaling import LOSS_SCALINGS
from nanlab.parts.schedules import SCHEDULES
from nanlab.parts.tasks import TASKS

PARTS: Mapping[str, Mapping[str, Entry]] = MappingProxyType(
    {
        "task": TASKS,
        "model": MODELS,
        "activation": ACTIVATIONS,
        "norm": NORMS,
        "pooling": POOLINGS,
        "initializer": INITIALIZERS,
        "bias_initializer": BIAS_INITIALIZERS,
        "loss": LOSSES,
        "optimizer": OPTIMIZERS,
        "schedule": SCHEDULES,
        "clip": CLIPS,
        "loss_scaling": LOSS_SCALINGS,
        "precision": PRECISIONS,
        "parameter_precision": STORAGES,
        "matmul_precision": MATMUL_PRECISIONS,
    }
)
"""Parameter -> table of its choices."""

BESIDE_OPTION: Mapping[str, str] = MappingProxyType({"outlier_scale": "outlier_fraction"})
"""Knob -> the option that must be on for it to be read."""


@cache
def readers(name: str) -> Mapping[str, tuple[str, ...]]:
    """Return the parts that read a knob or static, by parameter; {} if all do."""
    found = {
        parameter: tuple(part for part, entry in table.items() if name in _reads(entry))
        for parameter, table in PARTS.items()
    }
    return {parameter: parts for parameter, parts in found.items() if parts}


def read_by(name: str) -> str:
    """Return `readers` in words, such as `optimizer "rmsprop", "adam"`; "" if all parts do."""
    words = [f"{key} " + ", ".join(f'"{part}"' for part in parts)
             for key, parts in readers(name).items()]  # fmt: skip
    return " and ".join(words)


def _reads(entry: Entry) -> tuple[str, ...]:
    return (*getattr(entry, "knobs", ()), *getattr(entry, "statics", ()))


def parts_text(kinds: Sequence[str]) -> str:
    """Return the choices of these parameters as text, wrapped to the terminal's width."""
    width = max(min(shutil.get_terminal_size().columns, 110), 40)
    lines: list[str] = []
    for kind in kinds:
        lines.append(f"{kind}: {len(PARTS[kind])}")
        for name, entry in PARTS[kind].items():
            lines.append(f"  {name}")
            lines += textwrap.wrap(
                f"{entry.doc} [{entry.source}]", width, initial_indent=" " * 6,
                subsequent_indent=" " * 6,
            )  # fmt: skip
        lines.append("")
    return "\n".join(lines)


def parts_markdown(kinds: Sequence[str]) -> str:
    """Return the choices of these parameters as Markdown tables."""
    blocks = ["# Parts\n\nThe parts of a training, by the parameter of the grid that selects them."]
    for kind in kinds:
        rows = [f"| `{name}` | {_cell(entry.doc)} | {_cell(entry.source)} |"
                for name, entry in PARTS[kind].items()]  # fmt: skip
        heading = ["| name | what it is | source |", "|---|---|---|"]
        blocks.append("\n".join([f"## {kind}\n", *heading, *rows]))
    return "\n\n".join(blocks) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
