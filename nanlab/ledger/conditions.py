"""Answers of strata -> words: where a claim holds and where not, as short as they can be put."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Key = Mapping[str, str]
"""The parameters of a stratum and their values, in words."""


def short_name(name: str) -> str:
    """A parameter in words: static.last_layer -> last layer, activation_without -> against."""
    if name.endswith("_without"):
        return "against"
    return name.removeprefix("static.").removeprefix("knobs.").replace("_", " ")


def described(keys: Sequence[Key], answers: Sequence[str]) -> dict[str, list[str]]:
    """Answer -> the conditions under which it is given, such as "loss mse, precision float16".

    Args:
        keys: of each stratum, all with the same parameters.
        answers: what each says.
    """
    told: dict[str, list[str]] = {answer: [] for answer in dict.fromkeys(answers)}
    for condition, answer in _leaves(list(zip(keys, answers, strict=True))):
        told[answer].append(condition)
    return told


def _leaves(rows: Sequence[tuple[Key, str]]) -> list[tuple[str, str]]:
    """(condition, answer) of a tree that splits by the parameter that tells the most apart."""
    if len({answer for _, answer in rows}) == 1:
        return [("", rows[0][1])]
    names = [name for name in rows[0][0] if len({key[name] for key, _ in rows}) > 1]
    if not names:  # one stratum, several answers: the callers join them before
        return [("", answer) for answer in dict.fromkeys(answer for _, answer in rows)]
    trees = {name: _split(rows, name) for name in names}
    name = min(names, key=lambda each: sum(len(leaves) for _, leaves in trees[each]))
    if len(trees[name]) == 1:  # it makes no difference
        return trees[name][0][1]
    short = short_name(name)
    found: list[tuple[str, str]] = []
    for values, leaves in trees[name]:
        head = f"{short} {' or '.join(values)}"
        found += [(f"{head}, {rest}" if rest else head, answer) for rest, answer in leaves]
    return found


def _split(
    rows: Sequence[tuple[Key, str]], name: str
) -> list[tuple[list[str], list[tuple[str, str]]]]:
    """The values of a parameter, those with the same answers below them together."""
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
