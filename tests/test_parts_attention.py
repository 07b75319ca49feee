"""A transformer's outputs, logits and loss beside the same in NumPy, from its parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled import sampled

from nanlab.backend import keys
from nanlab.grid.parameters import PARAMETERS
from nanlab.parts.activations import ACTIVATIONS
from nanlab.parts.models import MODELS
from nanlab.parts.pieces import Pieces, Shape
from nanlab.problems.training import make_training

EXAMPLES, STEPS, FEATURES, WIDTH, HEADS = 3, 5, 4, 6, 2
EPSILON, SCALE = 1e-3, 1.7
PRECISE = {"rtol": 1e-10, "atol": 1e-12}
QK_EPSILON = 1e-6  # that of flax.linen.MultiHeadDotProductAttention, which has no knob


def standardized(x, axes, epsilon):
    deviation = np.sqrt(x.var(axis=axes, keepdims=True) + epsilon)
    return (x - x.mean(axis=axes, keepdims=True)) / deviation


NORMS = {
    "none": lambda x: x,
    "layer": lambda x: standardized(x, -1, EPSILON),
    "rms": lambda x: x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + EPSILON),
    "batch": lambda x: standardized(x, (0, 1), EPSILON),
}
FLAX_NORMS = {"none": "", "layer": "LayerNorm", "rms": "RMSNorm", "batch": "BatchNorm"}


def glu(x):
    ahead, behind = np.split(x, 2, axis=-1)
    return ahead / (1 + np.exp(-behind))


NUMPY_ACTIVATIONS = {"tanh": np.tanh, "glu": glu}


class NumpyTransformer:
    """The blocks of Vaswani et al. 2017, one example, head and step after another.

    Args:
        params: of Linen, in NumPy; the layers of a kind are numbered in the order of their use.
        asked: the pieces by their names.
    """

    def __init__(self, params, asked):
        self._params, self._asked, self._used = params, asked, {}
        self.logits = []

    def _next(self, kind):
        number = self._used[kind] = self._used.get(kind, -1) + 1
        return self._params[f"{kind}_{number}"]

    def _dense(self, x):
        layer = self._next("Dense")
        return x @ layer["kernel"] + layer["bias"]

    def _normed(self, x):
        kind = self._asked["norm"]
        if kind == "none":
            return x
        layer = self._next(FLAX_NORMS[kind])
        return NORMS[kind](x) * layer["scale"] + layer.get("bias", 0.0)

    def _attended(self, x):
        layer = self._next("MultiHeadDotProductAttention")
        query, key, value = (
            np.einsum("esf,fhd->eshd", x, layer[name]["kernel"]) + layer[name]["bias"]
            for name in ("query", "key", "value")
        )
        if self._asked["query_key_norm"]:
            query = standardized(query, -1, QK_EPSILON) * layer["query_ln"]["scale"]
            key = standardized(key, -1, QK_EPSILON) * layer["key_ln"]["scale"]
        out = np.zeros(x.shape) + layer["out"]["bias"]
        logits = np.einsum("eqhd,ekhd->ehqk", query, key) * self._asked["attention_scale"]
        logits /= np.sqrt(query.shape[-1])
        self.logits.append(logits)
        for example, head, step in np.ndindex(logits.shape[:3]):
            seen = logits[example, head, step, : step + 1]  # none of what comes after
            shares = np.exp(seen - seen.max()) / np.sum(np.exp(seen - seen.max()))
            mixed = shares @ value[example, : step + 1, head]
            out[example, step] += mixed @ layer["out"]["kernel"][head]
        return out

    def _transformed(self, x):
        inside = self._dense(x)
        return self._dense(NUMPY_ACTIVATIONS[self._asked["activation"]](inside))

    def __call__(self, x, *, depth, of_last):
        """The outputs, of each step or of the last alone."""
        first = self._asked["norm_first"]
        x = self._dense(x) + self._params["positions"]
        for branch in [self._attended, self._transformed] * depth:
            x = x + branch(self._normed(x)) if first else self._normed(x + branch(x))
        x = self._normed(x) if first else x
        return self._dense(x[:, -1] if of_last else x)


PLAIN = {
    "norm": "none", "norm_first": True, "query_key_norm": False, "attention_scale": 1.0,
    "activation": "tanh",
}  # fmt: skip
CASES = {
    "plain": {},
    "scaled": {"attention_scale": SCALE},
    "scaled to nothing": {"attention_scale": 0.0},
    "queries and keys normed": {"query_key_norm": True},
    "queries and keys normed, then scaled": {"query_key_norm": True, "attention_scale": SCALE},
    "gated": {"activation": "glu"},
    "layer before": {"norm": "layer"},
    "layer after": {"norm": "layer", "norm_first": False},
    "rms before": {"norm": "rms"},
    "rms after": {"norm": "rms", "norm_first": False},
    "batch before": {"norm": "batch"},
    "batch after": {"norm": "batch", "norm_first": False},
    "all at once": {
        "norm": "layer", "norm_first": False, "query_key_norm": True, "attention_scale": SCALE,
        "activation": "glu",
    },
}  # fmt: skip


def pieces_of(asked):
    activation = ACTIVATIONS[asked["activation"]]
    return Pieces(
        activation=lambda x: activation.apply(x, {}),
        activation_inputs=activation.inputs,
        kernel_init=jax.nn.initializers.normal(0.7),
        bias_init=lambda fan_in: jax.nn.initializers.normal(0.7),
        dtype=jnp.float64,
        param_dtype=jnp.float64,
        norm=asked["norm"],
        norm_epsilon=EPSILON,
        norm_first=asked["norm_first"],
        dropout=None,
        residual=False,
        pooling="max",
        heads=HEADS,
        query_key_norm=asked["query_key_norm"],
        attention_scale=asked["attention_scale"],
    )


def drawn_like(tree):
    """Numbers of our own for each array: no bias is 0 and no scale is 1."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.8 * rng.standard_normal(leaf.shape), tree)


def built(asked, *, depth, outputs):
    """A transformer's variables, and it: (variables, inputs) -> (outputs, sown)."""
    shape = Shape(depth, WIDTH, outputs, (STEPS, FEATURES))
    model = MODELS["transformer"].build(shape, pieces_of(asked))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, STEPS, FEATURES)))
    stored = ("params", "batch_stats")
    variables = {name: drawn_like(shapes[name]) for name in stored if name in shapes}
    sown = ["attention_logits", "batch_stats"]
    return variables, jax.jit(lambda variables, x: model.apply(variables, x, mutable=sown))


def inputs():
    return np.random.default_rng(1).standard_normal((EXAMPLES, STEPS, FEATURES))


def check_against_numpy(asked, *, depth=1, outputs=(STEPS, 3)):
    variables, apply = built(asked, depth=depth, outputs=outputs)
    got, sown = apply(variables, inputs())
    reference = NumpyTransformer(variables["params"], asked)
    wanted = reference(inputs(), depth=depth, of_last=len(outputs) == 1)
    np.testing.assert_allclose(got, wanted, **PRECISE)
    logits = sown["attention_logits"]["hidden"]
    assert len(logits) == depth
    np.testing.assert_allclose(logits, reference.logits, **PRECISE)


@pytest.mark.parametrize("case", sampled(CASES, 3))
def test_a_block_is_that_of_a_loop_over_examples_heads_and_steps(case):
    check_against_numpy({**PLAIN, **CASES[case]})


def test_the_output_of_a_sequence_is_of_its_last_step():
    check_against_numpy(PLAIN, outputs=(3,))


def test_blocks_follow_one_another_in_their_order():
    check_against_numpy({**PLAIN, "norm": "rms", "query_key_norm": True}, depth=2)


def test_no_step_sees_a_later_one():
    variables, apply = built(PLAIN, depth=2, outputs=(STEPS, 3))
    x = inputs()
    before, _ = apply(variables, x)
    # A new array: the first call may still be reading the one that it was given.
    later = np.where(np.arange(x.shape[1])[:, None] == 3, x + 1.0, x)
    after, _ = apply(variables, later)
    changed = np.any(np.asarray(before) != np.asarray(after), axis=(0, 2))
    assert changed.tolist() == [False, False, False, True, True]


@pytest.mark.slow
def test_a_training_hands_the_transformer_what_was_asked_for():
    asked = {**PLAIN, **CASES["all at once"], "activation": "tanh"}
    statics = {name: asked[name] for name in ("norm", "norm_first", "query_key_norm", "activation")}
    sizes = {"depth": 1, "width": WIDTH, "heads": HEADS, "sequence_length": 6, "batch_size": 4}
    task = {"task": "adding", "loss": "mse", "precision": "float64", "model": "transformer"}
    problem = make_training({**task, **sizes, **statics})
    values = {name: PARAMETERS[name].default for name in problem.knobs}
    values |= {"attention_scale": SCALE, "norm_epsilon": EPSILON}
    knobs = {name: jnp.float64(value) for name, value in values.items()}
    key, quick = keys.run_key(3), {"xla_backend_optimization_level": 0}
    state = jax.jit(problem.init, compiler_options=quick)(knobs, key)
    state = state._replace(params=drawn_like(state.params))

    def seen(state, knobs, key):
        return *problem.batch(state, knobs, key), problem.step(state, knobs, key)[1].loss

    x, targets, loss = jax.jit(seen, compiler_options=quick)(state, knobs, key)
    reference = NumpyTransformer(state.params["params"], asked)
    errors = reference(np.asarray(x), depth=1, of_last=True) - np.asarray(targets)
    np.testing.assert_allclose(loss, np.mean(errors**2), **PRECISE)
