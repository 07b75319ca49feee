"""Products -> complaints about parts of a training that cannot be combined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product as combinations
from typing import Any

from nanlab.grid.errors import MAX_COMPLAINTS, one_of
from nanlab.grid.expansion import Diagnostics, Subgrid
from nanlab.grid.points import Product, condition, matched
from nanlab.grid.toml import value_text
from nanlab.parts.activations import ACTIVATIONS
from nanlab.parts.losses import LOSSES
from nanlab.parts.models import MODELS
from nanlab.parts.tasks import TASKS


@dataclass(frozen=True, kw_only=True)
class Incompatibility:
    """Values of some parameters that cannot be combined.

    Attributes:
        names: the parameters; the functions below take their values in this order.
        subject: the one of them that the complaint is about.
        clashes: whether the values cannot be combined.
        sentence: what is wrong.
        way_out: what would be valid, for grids that have only points with these values.
    """

    names: tuple[str, ...]
    subject: str
    clashes: Callable[..., bool]
    sentence: Callable[..., str]
    way_out: Callable[..., str]


def _has_one_output(task: str) -> bool:
    if task not in TASKS:
        return True  # user-defined data are checked when they are read
    return TASKS[task].outputs == (1 if TASKS[task].targets == "numbers" else 2)


def _has_numbers(task: str) -> bool:
    return task in TASKS and TASKS[task].targets == "numbers"


def _is_like(name: str, task: str) -> bool:
    return _has_one_output(name) and TASKS[name].targets == TASKS[task].targets


INCOMPATIBILITIES = (
    Incompatibility(
        names=("model", "task"),
        subject="task",
        clashes=lambda model, task: (
            model in MODELS and MODELS[model].one_output and not _has_one_output(task)
        ),
        sentence=lambda model, task: (
            f'has {TASKS[task].outputs} {TASKS[task].targets}, but model "{model}" has one output, '
            f"which fits {'two' if TASKS[task].targets == 'classes' else 'one'}"
        ),
        way_out=lambda model, task: (
            f"its task must be {one_of([name for name in TASKS if _is_like(name, task)])}"
        ),
    ),
    Incompatibility(
        names=("loss", "task"),
        subject="loss",
        clashes=lambda loss, task: LOSSES[loss].targets == "classes" and _has_numbers(task),
        sentence=lambda loss, task: f'needs classes, but the targets of task "{task}" are numbers',
        way_out=lambda loss, task: (
            f"the loss must be {one_of([n for n, e in LOSSES.items() if e.targets == 'any'])}"
        ),
    ),
    Incompatibility(
        names=("imbalance", "task"),
        subject="imbalance",
        clashes=lambda imbalance, task: imbalance != 0 and _has_numbers(task),
        sentence=lambda imbalance, task: (
            f'needs classes, but the targets of task "{task}" are numbers'
        ),
        way_out=lambda imbalance, task: "leave it at 0",
    ),
    Incompatibility(
        names=("train_examples", "task"),
        subject="train_examples",
        clashes=lambda count, task: task in TASKS and count > TASKS[task].examples,
        sentence=lambda count, task: f'task "{task}" has only {TASKS[task].examples} examples',
        way_out=lambda count, task: f"use {TASKS[task].examples} or fewer, or 0 for all",
    ),
    Incompatibility(
        names=("model", "activation"),
        subject="activation",
        clashes=lambda model, activation: (
            ACTIVATIONS[activation].inputs > 1
            and not (model in MODELS and MODELS[model].any_activation)
        ),
        sentence=lambda model, activation: (
            f"combines {ACTIVATIONS[activation].inputs} units into one, which model "
            f'"{model}" does not support'
        ),
        way_out=lambda model, activation: "choose another activation or model",
    ),
    Incompatibility(
        names=("model", "heads", "width"),
        subject="heads",
        clashes=lambda model, heads, width: model == "transformer" and width % heads != 0,
        sentence=lambda model, heads, width: f"must divide the width, {width}",
        way_out=lambda model, heads, width: f"use {_divisor(width, heads)} heads",
    ),
)


def _divisor(width: int, heads: int) -> int:
    return max(number for number in range(1, min(width, heads) + 1) if width % number == 0)


def check_compatibility(subgrid: Subgrid, product: Product, diagnostics: Diagnostics) -> None:
    """Complain about each incompatibility that some point has."""
    for incompatibility in INCOMPATIBILITIES:
        if diagnostics.unknown & {"problem", *incompatibility.names}:
            continue
        choices = [dict.fromkeys(product.values(name)) for name in incompatibility.names]
        for values in combinations(*choices):
            if len(diagnostics.complaints) >= MAX_COMPLAINTS:
                return
            if incompatibility.clashes(*values):
                _check(incompatibility, values, subgrid, product, diagnostics)


def _check(
    incompatibility: Incompatibility,
    values: tuple[Any, ...],
    subgrid: Subgrid,
    product: Product,
    diagnostics: Diagnostics,
) -> None:
    named = dict(zip(incompatibility.names, values, strict=True))
    clash = matched(product, [(name, condition(value)) for name, value in named.items()])
    if not (clash & product.mask).any():
        return
    way_out = incompatibility.way_out(*values)
    if (product.mask & ~clash).any() and subgrid.path == ():
        pairs = " and ".join(f"{name} = {value_text(value)}" for name, value in named.items())
        noun = "pair" if len(named) == 2 else "points"
        way_out = f"drop the {noun}: [[exclude]] with {pairs}"
    subject = incompatibility.subject
    path = subgrid.paths.get(subject, ("run", subject))
    diagnostics.complain(path, f"{incompatibility.sentence(*values)}; {way_out}", named[subject])
