"""Answers of strata -> text: the conditions under which a claim holds, as short as possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nanlab.ledger.words import phrase

Key = Mapping[str, str]
"""The parameters of a stratum and their values, as text."""


def conditions_of(keys: Sequence[Key], answers: Sequence[str]) -> dict[str, list[str]]:
    """Return the conditions of each answer, such as "squared error, float16"."""
    conditions: dict[str, list[str]] = {answer: [] for answer in dict.fromkeys(answers)}
    for condition, answer in _leaves(list(zip(keys, answers, strict=True))):
        conditions[answer].append(condition)
    return conditions


def _leaves(rows: Sequence[tuple[Key, str]]) -> list[tuple[str, str]]:
    """Return the leaves (condition, answer) of the smallest tree, found greedily."""
    if len({answer for _, answer in rows}) == 1:
        return [("", rows[0][1])]
    names = [name for name in rows[0][0] if len({key[name] for key, _ in rows}) > 1]
    if not names:  # one stratum with several answers, which callers merge
        return [("", answer) for answer in dict.fromkeys(answer for _, answer in rows)]
    trees = {name: _split(rows, name) for name in names}
    name = min(names, key=lambda each: sum(len(leaves) for _, leaves in trees[each]))
    if len(trees[name]) == 1:  # the parameter makes no difference
        return trees[name][0][1]
    found: list[tuple[str, str]] = []
    for values, leaves in trees[name]:
        head = phrase(name, values)
        found += [(f"{head}, {rest}" if rest else head, answer) for rest, answer in leaves]
    return found


def _split(
    rows: Sequence[tuple[Key, str]], name: str
) -> list[tuple[list[str], list[tuple[str, str]]]]:
    """Return groups of a parameter's values that have the same leaves, each with its leaves."""
    found: list[tuple[list[str], list[tuple[str, str]]]] = []
    for value in dict.fromkeys(key[name] for key, _ in rows):
        below = [
            ({n: v for n, v in key.items() if n != name}, answer)
            for key, answer in rows
            if key[name] == value
        ]
        leaves = _leaves(below)
        same = next((values for values, others in found if others == leaves), None)
        if same is None:
            found.append(([value], leaves))
        else:
            same.append(value)
    return found
