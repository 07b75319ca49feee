"""A point's identity: a hash of what is not at its default, by hand beside the columns of codes."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from nanlab.grid import load_grid
from nanlab.grid.parameters import PARAMETERS, kind_of
from nanlab.plan.identity import DIGEST_BYTES, PointTable, group_id
from nanlab.plan.plan import make_plan

pytestmark = pytest.mark.smoke


def tables_of(text):
    Path("grid.toml").write_text(text, encoding="utf-8")
    return [PointTable(product) for product in load_grid("grid.toml").products]


def canonical(point):
    """The JSON of what its problem reads and is not at its default, with sorted keys."""
    kind = kind_of(point["problem"])
    said = {
        name: value
        for name, value in sorted(point.items())
        if kind in PARAMETERS[name].problems and value != PARAMETERS[name].default
    }
    return json.dumps(said, separators=(",", ":"))


GRIDS = {
    "numbers and words": '[axes]\nlr = [0.1, 1.0]\nactivation = ["relu", "tanh"]\nseed = [0, 1]\n',
    "a zip": '[axes]\nwidth = [8, 16]\n[[zip]]\nlr = [0.5, 0.25]\nseed = [3, 4]\n',
    "an exclude": '[axes]\nlr = [0.1, 1.0, 10.0]\nseed = [0, 1]\n[[exclude]]\nlr = 1.0\nseed = 0\n',
    "two problems": '[axes]\nlr = [0.1]\n[[include]]\nproblem = "quadratic"\nlr = [0.5, 0.1]\n',
    "one point": "[run]\nlr = 0.1\n",
}  # fmt: skip


@pytest.mark.parametrize("text", GRIDS.values(), ids=GRIDS)
def test_a_digest_is_the_hash_of_what_is_not_at_its_default(text):
    plan, n = None, 0
    for table in tables_of(text):
        digests = table.digests()
        assert digests.shape == (table.n_points, DIGEST_BYTES)
        for row in range(table.n_points):
            point = {
                name: table.levels(name)[
                    0 if table.level_index(name) is None else table.level_index(name)[row]
                ]
                for name in table.names
            }
            wanted = sha256(f"nanlab run 1\n{canonical(point)}".encode()).digest()
            assert digests[row].tobytes() == wanted[:DIGEST_BYTES], point
            n += 1
    plan = make_plan(load_grid("grid.toml"))
    assert len(plan) == n


def test_only_what_a_points_problem_reads_is_part_of_its_identity():
    text = '[axes]\nproblem = ["training", "quadratic"]\nlr = [0.5]\n'
    (both,) = tables_of(text)
    problems = [both.levels("problem")[code] for code in both.level_index("problem")]
    assert both.using("width").tolist() == [problem == "training" for problem in problems]
    assert both.using("lr").all()
    (alone,) = tables_of('[run]\nproblem = "quadratic"\n[axes]\nlr = [0.5]\n')
    assert both.digests()[problems.index("quadratic")].tobytes() == alone.digests().tobytes()


def test_a_groups_identity_is_of_its_statics_in_any_order_and_not_of_defaults():
    default = PARAMETERS["activation"].default
    one = group_id({"width": 8, "depth": 2})
    assert one == group_id({"depth": 2, "width": 8, "activation": default})
    assert one != group_id({"depth": 8, "width": 2})
    text = 'nanlab group 1\n{"depth":7,"width":9}'
    assert group_id({"width": 9, "depth": 7}) == sha256(text.encode()).hexdigest()[:12]
