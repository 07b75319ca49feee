"""Statics -> Problem: which kind of problem a group's runs are, and whether own code can be run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nanlab.grid.defaults import default_statics
from nanlab.grid.parameters import PARAMETERS, is_user_defined
from nanlab.plan.plan import Group, Plan
from nanlab.problems.problem import Problem
from nanlab.problems.quadratic import make_quadratic
from nanlab.problems.training import make_training
from nanlab.problems.user_checks import check_user_problem
from nanlab.problems.user_code import make_user_problem, unknown_knob
from nanlab.problems.user_parts import check_fit, examples_of, ignored_by_model, is_user_part

PROBLEMS: dict[str, Callable[[Mapping[str, Any]], Problem]] = {
    "training": make_training,
    "quadratic": make_quadratic,
}


def build_problem(statics: Mapping[str, Any]) -> Problem:
    """The problem of a group, nanlab's or a person's own.

    Raises:
        OwnCodeError: a person's own cannot be made.
    """
    return PROBLEMS.get(str(statics["problem"]), make_user_problem)(statics)


def user_specs(plan: Plan) -> set[str]:
    """What the plan calls the problems, models and data of a person's own."""
    statics = [group.statics for group in plan.groups]
    named = {str(each["problem"]) for each in statics} - set(PROBLEMS)
    parts = {str(each[key]) for each in statics for key in ("model", "task") if key in each}
    return named | {spec for spec in parts if is_user_part(spec)}


def check_user_groups(plan: Plan) -> None:
    """See that every group of a person's own can be run.

    Raises:
        OwnCodeError: one cannot.
    """
    for group in plan.groups:
        spec = str(group.statics["problem"])
        if spec in PROBLEMS:
            _check_own_parts(plan, group)
            continue
        problem = make_user_problem(group.statics)
        given = {
            n: plan.columns[n][group.runs].tolist() for n in plan.columns if is_user_defined(n)
        }
        known = {n for n in given if n.startswith("knobs.") and set(given[n]) != {None}}
        unknown = sorted(known - set(problem.knobs))
        if unknown:
            raise unknown_knob(unknown[0], problem, spec)
        check_user_problem(problem, frozenset(n for n in known if None not in given[n]), spec)


def _check_own_parts(plan: Plan, group: Group) -> None:
    """See that a training with a model or with data of a person's own can be run."""
    statics = {**default_statics("training"), **group.statics}
    model, task = str(statics.get("model")), str(statics.get("task"))
    if statics["problem"] != "training" or not (is_user_part(model) or is_user_part(task)):
        return
    examples = examples_of(statics)
    if is_user_part(task):
        check_fit(statics, examples)
    if is_user_part(model):
        columns = {name: plan.columns[name][group.runs].tolist() for name in plan.columns}
        asked = [n for n, held in columns.items() if set(held) - {None, PARAMETERS[n].default}]
        if error := ignored_by_model(model, asked):
            raise error
    problem = make_training(statics, examples)
    spec, key = (model, "run.model") if is_user_part(model) else (task, "run.task")
    check_user_problem(problem, frozenset(problem.knobs), spec, key=key)
