"""Statics -> Problem, built in or user-defined; check user-defined code before it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from nanlab.grid.defaults import default_statics
from nanlab.grid.parameters import PARAMETERS, is_user_defined
from nanlab.plan.plan import Group, Plan
from nanlab.problems.problem import Problem
from nanlab.problems.quadratic import make_quadratic
from nanlab.problems.training import make_training
from nanlab.problems.user_checks import check_user_problem
from nanlab.problems.user_code import check_knobs, make_user_problem, reimported
from nanlab.problems.user_parts import (
    check_fit,
    examples_of,
    ignored_by_model,
    is_data_file,
    is_user_part,
    remarks_on_data,
)

PROBLEMS: dict[str, Callable[[Mapping[str, Any]], Problem]] = {
    "training": make_training,
    "quadratic": make_quadratic,
}


def build_problem(statics: Mapping[str, Any]) -> Problem:
    """Build the problem of a group; raises UserCodeError if a user-defined one cannot be built."""
    return PROBLEMS.get(str(statics["problem"]), make_user_problem)(statics)


def user_specs(plan: Plan) -> set[str]:
    """Return the names of the user-defined problems, models and data in a plan."""
    return _user_specs(plan.groups)


def _user_specs(groups: Iterable[Group]) -> set[str]:
    chosen = [group.statics for group in groups]
    problems = {str(statics["problem"]) for statics in chosen} - set(PROBLEMS)
    parts = {str(statics[k]) for statics in chosen for k in ("model", "task") if k in statics}
    return problems | {spec for spec in parts if is_user_part(spec)}


def check_user_groups(plan: Plan) -> list[str]:
    """Check that every group with user-defined code can be run.

    Returns:
        Remarks on the users' data, for people.

    Raises:
        UserCodeError: one cannot be run.
    """
    imported = set[str]()
    remarks: dict[str, None] = {}
    for group in plan.groups:
        spec = str(group.statics["problem"])
        new = _user_specs([group]) - imported
        imported |= new
        if spec in PROBLEMS:
            remarks |= dict.fromkeys(_check_user_parts(plan, group, new))
            continue
        problem = make_user_problem(group.statics)
        with reimported(new):
            again = make_user_problem(group.statics)
        given = {
            n: plan.columns[n][group.runs].tolist() for n in plan.columns if is_user_defined(n)
        }
        known = {n for n in given if n.startswith("knobs.") and set(given[n]) != {None}}
        check_knobs(known, problem, spec)
        first = {name: given[name][0] for name in known if None not in given[name]}
        check_user_problem(problem, first, spec, again=again)
    return list(remarks)


def _check_user_parts(plan: Plan, group: Group, new: set[str]) -> list[str]:
    """Check that a training with a user-defined model or data can be run; return remarks."""
    statics = {**default_statics("training"), **group.statics}
    model, task = str(statics.get("model")), str(statics.get("task"))
    if statics["problem"] != "training" or not (is_user_part(model) or is_user_part(task)):
        return []
    examples = examples_of(statics)
    if is_user_part(task):
        check_fit(statics, examples)
    if is_user_part(model):
        columns = {name: plan.columns[name][group.runs].tolist() for name in plan.columns}
        changed = [n for n, v in columns.items() if set(v) - {None, PARAMETERS[n].default}]
        if error := ignored_by_model(model, changed):
            raise error
    problem = make_training(statics, examples)
    spec, key = (model, "run.model") if is_user_part(model) else (task, "run.task")
    with reimported(new):
        again = make_training(statics, examples if is_data_file(task) else examples_of(statics))
    ours = replace(problem, batch=None, observe=None, baseline_losses=None)
    knobs = dict.fromkeys(problem.knobs, 1.0)
    check_user_problem(ours, knobs, spec, key=key, again=again)
    return remarks_on_data(statics, examples) if is_user_part(task) else []
