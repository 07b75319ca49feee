"""Cures of a recorded fault: of the outputs at fault alone, and from the bundle on disk."""

import collections
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nanlab
from nanlab import replay
from nanlab.recorder import structure

STEPS = """
import functools
import json

import jax
import jax.numpy as jnp
import optax

OPTIMIZER = optax.adam(1e-3)


def loss_of(weights, x):
    return jnp.sqrt((x @ weights["w"]) ** 2).mean(), jnp.log(x.min())


@functools.partial(jax.jit, donate_argnums=0, static_argnames="scale")
def train_step(state, x, scale):
    weights, inner = state
    (loss, metric), gradients = jax.value_and_grad(loss_of, has_aux=True)(weights, x)
    updates, inner = OPTIMIZER.update(gradients, inner, weights)
    return (optax.apply_updates(weights, updates), inner), {"loss": scale * loss, "log": metric}
"""


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A fault whose step lies in a module of the working directory; a metric is bad as well."""
    name = f"steps_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(STEPS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = __import__(name)
    weights = {"w": jnp.ones((4, 3))}
    state = weights, module.OPTIMIZER.init(weights)
    with pytest.raises(nanlab.Fault) as caught, nanlab.Recorder("run.nan") as recorder:
        step = recorder.watch(module.train_step)
        for t in range(6):
            x = np.random.default_rng(t).random((8, 4), np.float32)
            x[3] *= t != 3
            state, _ = step(state, x, scale=2)
    return caught.value, name


def test_a_cure_mends_the_state_and_may_leave_the_metric(recorded, capsys):
    fault, name = recorded
    assert fault.step == 3
    cures = fault.verdict.cures()
    assert cures, cures.reason
    assert replay.main(["run.nan"]) == 0
    assert "Cures: python -m nanlab.replay" in capsys.readouterr().out
    assert replay.main(["run.nan", "--cure"]) == 0
    assert str(cures[0].diff).strip() in capsys.readouterr().out
    assert replay.main(["run.nan", "--cure", "--function", f"{name}:train_step"]) == 0
    capsys.readouterr()
    assert replay.main(["run.nan", "--cure", "--function", f"{name}:absent"]) == 2
    assert f"no cures: {name}:absent cannot be imported" in capsys.readouterr().err


def test_code_from_elsewhere_is_not_imported_without_trust(recorded, tmp_path, monkeypatch, capsys):
    _, name = recorded
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert replay.main(["../run.nan", "--cure"]) == 2
    error = capsys.readouterr().err
    assert name in error and "--trust" in error
    assert replay.main(["../run.nan", "--cure", "--trust"]) == 0


def test_a_function_that_cannot_be_imported_gets_a_sentence(tmp_path, capsys):
    step = nanlab.Recorder(tmp_path / "run.nan").watch(jax.jit(lambda w, x: (w - jnp.log(x), w)))
    w = jnp.ones(2)
    with pytest.raises(nanlab.Fault):
        for x in (1.0, -2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0):
            w, _ = step(w, x)
    assert replay.main([str(tmp_path / "run.nan"), "--cure"]) == 2
    shown = capsys.readouterr()
    assert "defined inside a function" in shown.err and "fault.verdict.cures()" in shown.err
    assert "--cure" not in shown.out


Pair = collections.namedtuple("Pair", "first second")


@functools.partial(jax.tree_util.register_dataclass, data_fields=["w"], meta_fields=["rate"])
@dataclasses.dataclass
class Weights:
    w: jax.Array
    rate: object


@pytest.mark.parametrize(
    "tree",
    [
        {"b": 1.0, "a": [2.0, (), None, {}]},
        Pair({2: jnp.ones(2), 1: 3.0}, [None]),
        optax.chain(optax.clip(1.0), optax.adamw(1e-3)).init({"w": jnp.ones(3)}),
        (Weights(jnp.ones(2), 0.1), {"x": Weights(jnp.zeros(1), "name")}),
        ((jnp.ones(1), 2), {}),
    ],
)
def test_a_structure_comes_back_from_json(tree):
    text = json.dumps(structure.described(tree), allow_nan=False)
    back = structure.built(json.loads(text), jax.tree.leaves(tree))
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    assert all(a is b for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True))


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (Weights(jnp.ones(2), jnp.tanh), "Weights.rate is code"),
        (Weights(jnp.ones(2), float("inf")), "Weights.rate is code"),
        (jax.tree_util.Partial(jnp.add, 1.0), "a Partial is a pytree node"),
    ],
)
def test_what_json_cannot_hold_is_said(tree, said):
    with pytest.raises(structure.NotDescribed, match=said):
        structure.described(tree)


@pytest.mark.parametrize("name", ["subprocess:Popen", "os:system", "json:JSONDecoder"])
def test_a_structure_builds_nothing_but_nodes_of_pytrees(name):
    for items in ({"items": [{"value": "x"}]}, {"fields": [["x", {"value": "x"}]]}):
        with pytest.raises(structure.NotDescribed, match="does not describe"):
            structure.built({"class": name, **items}, [])


@pytest.mark.parametrize(
    "leaf", [jnp.bfloat16(1.5), jax.random.key(3), np.float32(2), 3, True, 0.1, "name", None, 2j]
)
def test_a_leaf_comes_back_as_it_was(leaf):
    from nanlab.blame.explain.reproducer import for_disk

    array, kind = for_disk(leaf)
    back = structure.restored(array, kind, "x")
    assert getattr(back, "dtype", type(back)) == getattr(leaf, "dtype", type(leaf))
    assert str(back) == str(leaf)


def test_a_leaf_of_which_only_the_text_is_there_is_said():
    with pytest.raises(structure.NotDescribed, match="x is <built-in function"):
        structure.restored(np.asarray(repr(len)), "text", "x")
