"""Products -> what of them does not fit together: parts that need something of one another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product as combinations
from typing import Any

from nanlab.grid.errors import one_of
from nanlab.grid.expansion import Findings, Part
from nanlab.grid.points import Product, condition, matched
from nanlab.grid.toml import value_text
from nanlab.parts.activations import ACTIVATIONS
from nanlab.parts.losses import LOSSES
from nanlab.parts.models import MODELS
from nanlab.parts.tasks import TASKS


@dataclass(frozen=True, kw_only=True)
class Incompatibility:
    """Values of some parameters that do not go together.

    Attributes:
        names: the parameters.
        told: the one of them that the complaint is about.
        clashes: their values, in order -> whether they do not go together.
        sentence: their values -> what is wrong, up to the way out.
        way_out: their values -> what would go, where leaving the values out would leave nothing.
    """

    names: tuple[str, ...]
    told: str
    clashes: Callable[..., bool]
    sentence: Callable[..., str]
    way_out: Callable[..., str]


def _has_one_output(task: str) -> bool:
    if task not in TASKS:
        return True  # a person's own data are seen when they are read
    return TASKS[task].outputs == (1 if TASKS[task].targets == "numbers" else 2)


def _has_numbers(task: str) -> bool:
    return task in TASKS and TASKS[task].targets == "numbers"


def _is_like(name: str, task: str) -> bool:
    return _has_one_output(name) and TASKS[name].targets == TASKS[task].targets


def _counted(task: str) -> str:
    return f"{TASKS[task].outputs} {TASKS[task].targets}"


MISFITS = (
    Incompatibility(
        names=("model", "task"),
        told="task",
        clashes=lambda model, task: (
            model in MODELS and MODELS[model].one_output and not _has_one_output(task)
        ),
        sentence=lambda model, task: (
            f'has {_counted(task)}, and model "{model}" has one output, '
            f"for {'two' if TASKS[task].targets == 'classes' else 'one'}"
        ),
        way_out=lambda model, task: (
            f"its task must be {one_of([name for name in TASKS if _is_like(name, task)])}"
        ),
    ),
    Incompatibility(
        names=("loss", "task"),
        told="loss",
        clashes=lambda loss, task: LOSSES[loss].targets == "classes" and _has_numbers(task),
        sentence=lambda loss, task: f'needs classes, and the targets of task "{task}" are numbers',
        way_out=lambda loss, task: (
            f"its loss must be {one_of([n for n, each in LOSSES.items() if each.targets == 'any'])}"
        ),
    ),
    Incompatibility(
        names=("imbalance", "task"),
        told="imbalance",
        clashes=lambda imbalance, task: imbalance != 0 and _has_numbers(task),
        sentence=lambda imbalance, task: f'needs classes, and task "{task}" has numbers',
        way_out=lambda imbalance, task: "leave it at 0",
    ),
    Incompatibility(
        names=("train_examples", "task"),
        told="train_examples",
        clashes=lambda many, task: task in TASKS and many > TASKS[task].examples,
        sentence=lambda many, task: f'task "{task}" has {TASKS[task].examples} examples',
        way_out=lambda many, task: f"ask for {TASKS[task].examples} or fewer, or 0 for all",
    ),
    Incompatibility(
        names=("model", "activation"),
        told="activation",
        clashes=lambda model, activation: (
            ACTIVATIONS[activation].inputs > 1
            and not (model in MODELS and MODELS[model].any_activation)
        ),
        sentence=lambda model, activation: (
            f'makes one unit of {ACTIVATIONS[activation].inputs}, and model "{model}" has no more '
            "than it needs"
        ),
        way_out=lambda model, activation: "choose another activation or model",
    ),
    Incompatibility(
        names=("model", "heads", "width"),
        told="heads",
        clashes=lambda model, heads, width: model == "transformer" and width % heads != 0,
        sentence=lambda model, heads, width: f"must divide the width, {width}",
        way_out=lambda model, heads, width: f"ask for {_divisor(width, heads)} heads",
    ),
)


def _divisor(width: int, heads: int) -> int:
    return max(number for number in range(1, min(width, heads) + 1) if width % number == 0)


def check_compatibility(part: Part, product: Product, findings: Findings) -> None:
    """Complains of each misfit that some point has."""
    for misfit in MISFITS:
        if findings.unknown & {"problem", *misfit.names}:
            continue
        choices = [dict.fromkeys(product.values(name)) for name in misfit.names]
        for values in combinations(*choices):
            if misfit.clashes(*values):
                _check(misfit, values, part, product, findings)


def _check(
    misfit: Incompatibility,
    values: tuple[Any, ...],
    part: Part,
    product: Product,
    findings: Findings,
) -> None:
    named = dict(zip(misfit.names, values, strict=True))
    pair = matched(product, [(name, condition(value)) for name, value in named.items()])
    if not (pair & product.kept).any():
        return
    others = bool((product.kept & ~pair).any())
    way_out = misfit.way_out(*values)
    if others and part.path == ():
        said = " and ".join(f"{name} = {value_text(value)}" for name, value in named.items())
        word = "pair" if len(named) == 2 else "points"
        way_out = f"drop the {word}: [[exclude]] with {said}"
    told = misfit.told
    path = part.places.get(told, ("run", told))
    findings.complain(path, f"{misfit.sentence(*values)}; {way_out}", named[told])
