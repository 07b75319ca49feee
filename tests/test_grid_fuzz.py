"""Grid files that nobody would write: each is listed or refused, in a sentence and in time.

`python tests/test_grid_fuzz.py INPUTS [SEED [LETTERS]]` tries this number and prints failures. The
share LETTERS of them, 0.15 by default, are short grids whose letters are changed, which is quick.
"""

import copy
import math
import random
import sys
import time
import tomllib
import traceback
from pathlib import Path

import numpy as np
import pytest

from nanlab.grid import GridError, load_grid
from nanlab.grid.parameters import PARAMETERS
from nanlab.grid.schema import file_model
from nanlab.grid.toml import file_text
from nanlab.plan.plan import make_plan

ROOT = Path(__file__).resolve().parents[1]
GRIDS = sorted(ROOT.glob("sweeps/**/*.toml"))
LONGEST_S = 5.0
"""No grid takes longer to be answered; CPU time, since other processes run here too."""

NUMBERS = [
    0, -0.0, 1, -1, 2, 3, 1e-320, 1e308, -1e308, float("inf"), float("-inf"), float("nan"), 2**31,
    2**53 + 1, 2**63 - 1, -(2**63), 10**30, 0.1, 19_999_999, 1_000_001, 5000,
]  # fmt: skip
TEXTS = [
    "", "relu", "tanh", "sgd", "adam", "mse", "full", "float16", "quadratic", "digits", "a.b",
    "mine.py:f", ":", "x:y", "..", "data.npz", "\x00", "\x1b[31m", "é", "\u202e", "'", '"', "[",
    "{0}", "a" * 10_000, "%s", "\\", "\n", "nan", "true", "1", "ﬀ", "\ud7ff", "\U0001f4a5",
]  # fmt: skip
KEYS = [
    "run", "axes", "zip", "exclude", "include", "exec", "search", "refine", "claim", "title",
    "knobs", "static", "linspace", "logspace", "range", "num", "gt", "lt", "ge", "le", "ne", "eq",
    "axis", "devices", "chunk_runs", "witnesses", "engine", "tolerance", "problem", *PARAMETERS,
]  # fmt: skip


def number(rng):
    return rng.choice([rng.choice(NUMBERS), rng.randint(-3, 40), 10 ** rng.uniform(-30, 30)])


def form(rng):
    """An axis."""
    kind = rng.choice(["linspace", "logspace", "range", "list"])
    if kind == "list":
        return [value(rng, 1) for _ in range(rng.randint(0, 5))]
    ends = [number(rng) for _ in range(rng.choice([2, 2, 2, 0, 1, 3]))]
    if kind == "range":
        return {"range": rng.choice([number(rng), ends])}
    return {kind: ends, "num": rng.choice([number(rng), rng.randint(1, 9)])}


def value(rng, depth=0):
    kinds = [number, lambda r: r.choice(TEXTS), lambda r: r.random() < 0.5, form]
    if depth < 3:
        kinds += [
            lambda r: [value(r, depth + 1) for _ in range(r.randint(0, 4))],
            lambda r: {key(r): value(r, depth + 1) for _ in range(r.randint(0, 4))},
        ]
    return rng.choice(kinds)(rng)


def key(rng):
    return rng.choice(TEXTS) if rng.random() < 0.1 else rng.choice(KEYS)


def places(node):
    """Every container of a tree, and the key of each thing in it."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    for name, inner in list(pairs):
        yield node, name
        if isinstance(inner, dict | list):
            yield from places(inner)


def change(rng, tree):
    """Change one place of a tree."""
    found = list(places(tree))
    if not found:
        tree[key(rng)] = value(rng)
        return
    node, name = rng.choice(found)
    what = rng.randrange(6)
    if what == 0:
        node[name] = value(rng)
    elif what == 1:
        del node[name]
    elif what == 2 and isinstance(node, dict):
        node[key(rng)] = node.pop(name)
    elif what == 3 and isinstance(node, dict):
        node[key(rng)] = value(rng)
    elif what == 4:
        node[name] = form(rng)
    else:
        other, there = rng.choice(found)
        node[name] = copy.deepcopy(other[there])


def scramble(rng, text):
    """Change the letters of a file."""
    for _ in range(rng.randint(1, 4)):
        at, until = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        until = min(until, at + rng.choice([0, 1, 1, 5, 80]))
        what = rng.choice(
            ["", *TEXTS, text[at : at + 60], *"[]{}=.,\n#'\"", "[[", "]]", '"""', "'''"]
        )
        text = text[:at] + what + text[until:]
    return text


def document(rng, texts, trees, letters):
    """A grid file: changed in its letters, in its tree, or made of nothing."""
    if rng.random() < letters:
        return scramble(rng, rng.choice(texts))
    tree = {} if rng.random() < 0.12 else copy.deepcopy(rng.choice(trees))
    for _ in range(rng.choice([1, 1, 2, 3, 6])):
        change(rng, tree)
    return file_text(tree)


LARGE = 2000
"""Of grids with more points one in ten is listed: it takes most of the time."""


def answer(path, text, rng):
    """Do what a dry run does before JAX is imported; return the error's text, or None."""
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        grid = load_grid(path)
        points = sum(math.prod(product.shape) for product in grid.products)
        if points > LARGE and rng.random() > 0.1:
            return None
        plan = make_plan(grid)
    except GridError as error:
        return str(error)
    assert len(plan) >= 1
    again = path.with_name("again.toml")
    again.write_text(grid.resolved_toml(), encoding="utf-8")
    if len(plan) <= 1000:
        ids = make_plan(load_grid(again)).run_ids
        assert np.array_equal(ids, plan.run_ids), "the resolved grid has other runs"
    return None


def fuzz(inputs, seed, folder, letters=0.15):
    """Try grid files; return the number of valid ones, and what went wrong with which."""
    texts = sorted((path.read_text("utf-8") for path in GRIDS), key=len)
    trees = [tomllib.loads(text) for text in texts]
    texts = texts[: len(texts) // 2]
    valid, failures = 0, []
    for i in range(inputs):
        rng = random.Random(f"{seed} {i}")
        text = document(rng, texts, trees, letters)
        began = time.process_time()
        try:
            said = answer(folder / "grid.toml", text, rng)
            valid += said is None
            assert said is None or (said.strip() and "Traceback" not in said)
        except Exception:
            failures.append((i, traceback.format_exc(limit=-4), text))
        took = time.process_time() - began
        if took > LONGEST_S:
            failures.append((i, f"took {took:.1f} s", text))
    return valid, failures


@pytest.mark.parametrize(
    ("inputs", "seed"), [(120, 0), pytest.param(20_000, 1, marks=pytest.mark.slow)]
)
def test_any_file_is_listed_or_refused_in_a_sentence(inputs, seed, tmp_path):
    valid, failures = fuzz(inputs, seed, tmp_path)
    assert not failures, "\n".join(
        f"input {i}: {what}\n{text[:2000]}" for i, what, text in failures
    )
    assert 0.02 < valid / inputs < 0.9, "both are tried"


if __name__ == "__main__":
    import tempfile

    inputs, seed, letters = (*sys.argv[1:], *("0", "0.15")[len(sys.argv) - 2 :])
    for block in range(0, int(inputs), 1000):
        with tempfile.TemporaryDirectory() as name:
            block_seed = f"{seed} {block}"
            valid, failures = fuzz(1000, block_seed, Path(name), float(letters))
        print(block, "valid", valid, "failures", len(failures), flush=True)
        if block % 10_000 == 0:
            file_model.cache_clear()  # one for each set of users' names
        for i, what, text in failures:
            print(f"--- seed {block_seed!r}, input {i}: {what}\n{text[:3000]}", flush=True)
