"""`nanlab.hunt`: what it finds, respects, shrinks, says and stores."""

import json
import subprocess
import sys
import textwrap

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.experimental import io_callback

import nanlab
from nanlab.blame.program.call import call_of
from nanlab.hunting.space import Kind, variables_of
from nanlab.hunting.starts import ROUND, Starts

F32 = jnp.float32


def ones(*shape):
    return jnp.ones(shape, F32)


def is_finite(outputs):
    return all(np.isfinite(np.asarray(leaf, np.float64)).all() for leaf in jax.tree.leaves(outputs))


# name -> (a function that fails, its harmless arguments, the primitive at the origin)
FAULTS = {
    "pole": (lambda x: 1 / (x[0] - x[1]), (jnp.array([1.0, 2.0, 3.0], F32),), "div"),
    "pole at a number of the program": (lambda x: 1 / (x - 3.25), (ones(3),), "div"),
    "domain": (lambda x: jnp.sqrt(x).sum(), (ones(3),), "sqrt"),
    "overflow": (lambda x: jnp.exp(x * x).sum(), (jnp.array([0.5, -0.5], F32),), "exp"),
    "norm's gradient": (jax.grad(lambda x: jnp.sqrt(jnp.sum(x * x))), (ones(2, 3),), "div"),
    "empty mask": (
        lambda x, m: jnp.sum(jnp.where(m, x, 0)) / jnp.sum(m),
        (ones(4), jnp.array([True, False, True, True])),
        "div",
    ),
    "complex": (lambda z: jnp.abs(1 / z), (jnp.array([1 + 1j, 2 - 1j], jnp.complex64),), "div"),
    "cast": (
        lambda x: x.astype(jnp.float8_e4m3fn).astype(F32) * 2,
        (jnp.full(3, 300.0, jnp.bfloat16),),
        None,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_find_fails_in_the_jitted_function(name):
    function, args, primitive = FAULTS[name]
    bound = 10.0 if name != "cast" else 1e4
    assert is_finite(jax.jit(function)(*args))
    found = nanlab.hunt(function, *args, bound=bound)
    assert found
    assert not is_finite(jax.jit(function)(*found.args))
    assert primitive in (None, found.verdict.origin.primitive)
    assert jax.tree.structure(found.args) == jax.tree.structure(args)
    for before, after in zip(args, found.args, strict=True):
        assert (before.dtype, before.shape) == (after.dtype, after.shape)
        assert np.abs(np.asarray(after, np.complex128)).max() <= 2**0.5 * bound
    assert 0 < found.share <= 1


def test_what_does_not_fail_is_not_found_and_nothing_is_claimed():
    args = (jnp.linspace(-1, 1, 5, dtype=F32),)
    found = nanlab.hunt(jnp.tanh, *args, seconds=0.3)
    assert not found
    assert found.verdict is None
    assert found.args[0] is args[0]
    assert found.tried > 2
    assert f"{found.tried:,} inputs were tried" in str(found)
    assert "proves nothing" in repr(found)
    with pytest.raises(ValueError, match="no input to save"):
        found.save("there")


def test_an_input_that_fails_already_is_reported_at_once():
    found = nanlab.hunt(jnp.log, -ones(3))
    assert found
    assert found.is_given
    assert not found.moved
    assert found.tried == 0
    assert found.verdict.culprit.primitive == "log"
    assert "fails on the given input itself" in str(found)


@pytest.fixture(scope="module")
def one_element():
    """A function that fails if one of 200 elements is large."""
    rng = np.random.default_rng(0)
    batch = {"x": rng.uniform(-1, 1, (20, 10)).astype(np.float32), "n": np.arange(3)}
    params = {"w": jnp.full(10, 0.5, F32), "b": jnp.zeros((), F32)}

    def loss(params, batch, power=2, *, mode="sum"):
        assert mode == "sum"
        return jnp.log(9 - jnp.abs(batch["x"] * params["w"] * power).max() + params["b"])

    args = (params, batch)
    return loss, args, nanlab.hunt(loss, *args, power=2, mode="sum", vary="batch")


def test_a_find_is_shrunk_to_what_matters(one_element):
    _, args, found = one_element
    (moved,) = found.moved
    assert (moved.name, moved.count, moved.size) == ("batch['x']", 1, 200)
    assert abs(moved.after) in (9, 9.1)  # least where it fails, rounded
    assert args[1]["x"][moved.element] == moved.before
    changed = found.args[1]["x"] != args[1]["x"]
    assert changed.sum() == 1
    assert found.args[1]["x"][moved.element] == np.float32(moved.after)
    assert "1 of 200 elements" in str(found)
    assert str(found.verdict) in str(found)


def test_arguments_that_were_not_moved_are_the_given_ones(one_element):
    loss, args, found = one_element
    assert found.args[0]["w"] is args[0]["w"]
    assert found.args[1]["n"] is args[1]["n"]
    assert isinstance(found.args[1]["x"], np.ndarray)
    assert found.kwargs == {"power": 2, "mode": "sum"}
    assert not np.isfinite(loss(*found.args, **found.kwargs))


def test_the_same_seed_finds_the_same_input(one_element):
    loss, args, found = one_element
    again = nanlab.hunt(loss, *args, power=2, mode="sum", vary="batch")
    assert again.moved == found.moved
    assert np.array_equal(again.args[1]["x"], found.args[1]["x"])
    assert again.share == found.share


def test_what_is_saved_is_read_without_jax(one_element, tmp_path):
    _, _, found = one_element
    assert found.save(tmp_path / "a/b") == tmp_path / "a/b"
    code = """
        import json, sys
        import numpy as np
        about = json.load(open("found.json"))
        with np.load("arguments.npz") as stored:
            x = stored["a" + str(about["names"].index("batch['x']"))]
        print(float(abs(x).max()), about["verdict"]["fault"])
        assert "jax" not in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path / "a/b", capture_output=True, text=True, check=True,
    )  # fmt: skip
    largest = max(abs(found.moved[0].after), 1)
    assert done.stdout.split() == [str(float(np.float32(largest))), "True"]
    assert str(found.verdict) in (tmp_path / "a/b/verdict.txt").read_text()
    assert (tmp_path / "a/b/reproduce.py").exists()


# What may be changed, and how far: nothing below compiles.


def ignored(*args, **kwargs):
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves((args, kwargs)) if leaf.dtype == F32)


def drawn(args, count=6 * ROUND, **options):
    """The variables by name, and all the values that a search tries for each."""
    call = call_of(ignored, args, {})
    options = {"vary": None, "bound": 10.0, **options}
    variables = variables_of(call, options["vary"], options["bound"])
    program = nanlab.blame.program.program.flatten_closed(call.closed, call.traced.out_info)
    starts = Starts(variables, program, 0)
    values = {v.name: [] for v in variables}
    for number in range(count):
        for position, tried in starts[number].items():
            values[variables[position].name].append(tried)
    return {v.name: v for v in variables}, values


def test_kinds_of_arrays_stay_what_they_are():
    args = (
        jax.nn.one_hot(jnp.array([0, 2, 1]), 4, dtype=F32),
        jnp.array([1, 0, 1, 1], F32),
        jnp.array([True, False]),
        jnp.array([5, 2, 9], jnp.int32),
        jnp.array(7, jnp.int32),
        jax.random.key(0),
        jax.random.PRNGKey(0),
        jnp.array([0.5, np.nan, -np.inf], F32),
        jnp.array([0.5, 300], F32),
    )
    variables, values = drawn(args)
    kinds = [variables[f"args[{i}]"].kind for i in (0, 1, 2, 3, 7)]
    assert kinds == [
        Kind.ONE_HOT, Kind.ZEROS_AND_ONES, Kind.BOOLEANS, Kind.INTEGERS, Kind.NUMBERS,
    ]  # fmt: skip
    assert not {"args[4]", "args[5]", "args[6]"} & set(variables), "a count, and keys"
    for tried in values["args[0]"]:
        assert ((tried == 0) | (tried == 1)).all()
        assert (tried.sum(-1) == 1).all()
    assert {float(x) for tried in values["args[1]"] for x in tried} == {0, 1}
    assert {tuple(tried) for tried in values["args[2]"]} == {
        (False, False), (False, True), (True, False), (True, True),
    }  # fmt: skip
    labels = np.array(values["args[3]"])
    assert (labels.min(), labels.max()) == (2, 9)
    for tried in values["args[7]"]:
        assert np.isnan(tried[1])
        assert tried[2] == -np.inf
        assert abs(tried[0]) <= 10
    assert np.abs(values["args[7]"])[:, 0].max() == 10
    positive = np.array(values["args[8]"])
    assert (positive.min(), positive.max()) == (0, 300), "as far as the example, and not below 0"


def test_states_of_optimizers_stay_or_keep_their_signs():
    params = {"w": jnp.array([0.5, -0.5, 2], F32)}
    state = optax.chain(optax.clip(1.0), optax.adam(1e-2)).init(params)
    by_default, _ = drawn((params, state))
    assert set(by_default) == {"args[0]['w']"}
    named, values = drawn((params, state), vary=("args[1]",))
    assert {name[-8:] for name in named} == {".mu['w']", ".nu['w']"}
    for name, tried in values.items():
        assert (np.min(tried) < 0) == (".mu" in name)
    assert all("count" not in name for name in named)


def test_bounds_by_name_are_respected_to_the_letter():
    args = ({"a": ones(3), "b": ones(2, 2), "m": jnp.array([0, 1, 1], F32)}, -ones(2))
    bound = {"args[0]": 2.0, "args[0]['b']": (0.5, 30), "args[0]['m']": (-1, 1)}
    variables, values = drawn(args, bound=bound)
    limits = {name: (v.lo, v.hi) for name, v in variables.items()}
    assert limits == {
        "args[0]['a']": (-2, 2), "args[0]['b']": (0.5, 30), "args[0]['m']": (-1, 1),
        "args[1]": (-10, 10),
    }  # fmt: skip
    for name, (lo, hi) in limits.items():
        assert (np.min(values[name]), np.max(values[name])) == (lo, hi)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn"])
def test_rounding_does_not_carry_numbers_over_a_bound(dtype):
    variables, _ = drawn((ones(3), jnp.zeros(4, dtype)), vary="args[1]", bound=0.3)
    variable = variables["args[1]"]
    for number in (0.3, -0.3, 0.2999):
        stored = variable.on_device(np.full(4, number, np.float32))
        assert 0.2 < abs(float(stored[0])) <= 0.3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vary": "y"}, "vary: 'y': no argument has this name; there are x"),
        ({"vary": ("x", 3)}, "vary: 3: must be the name of an argument"),
        ({"vary": "k"}, "nothing can be varied: in 'k' is no array of numbers"),
        ({"vary": ()}, "nothing can be varied: in an empty list is no array"),
        ({"bound": -1}, "bound = -1: must be a positive number"),
        ({"bound": "far"}, "bound = 'far': must be a positive number"),
        ({"bound": {"x": (2, 1)}}, "bound['x'] = (2, 1): must be finite, the least number first"),
        ({"bound": {"x": (5, 6)}}, "x: the example lies in [1, 1], outside of the assumed [5, 6]"),
        ({"bound": {"z": 1}}, "bound['z']: no argument has this name"),
        ({"seconds": 0}, "seconds = 0: must be a positive number"),
        ({"seed": 1.5}, "seed = 1.5: must be a whole number, 0 or more"),
    ],
)
def test_misuse_is_explained(options, said):
    with pytest.raises(ValueError, match=r"nanlab\.hunt: the search is not well defined") as error:
        nanlab.hunt(lambda x, k: x.sum(), ones(2), jax.random.key(0), **options)
    assert said in str(error.value)


def test_what_cannot_be_searched_is_explained():
    with pytest.raises(ValueError, match="x is a Python number, which stays what it is"):
        nanlab.hunt(jnp.log, 2.0)
    with pytest.raises(ValueError, match="returns no floats"):
        nanlab.hunt(lambda x: x > 0, ones(2))
    with pytest.raises(TypeError, match="hunt needs a function and its arguments"):
        nanlab.hunt(ones(2))
    state = optax.adam(1e-3).init(ones(2))
    with pytest.raises(ValueError, match="nothing can be varied but the state of an optimizer"):
        nanlab.hunt(lambda s: s[0].nu / 2, state)


def test_gradients_lead_to_a_corner_that_random_numbers_miss():
    weights = jnp.asarray(np.random.default_rng(0).normal(size=64), F32)
    most = 10 * float(jnp.abs(weights).sum())
    found = nanlab.hunt(lambda x: jnp.log(0.7 * most - x @ weights), jnp.zeros(64, F32))
    assert found
    assert found.share == 0
    assert found.args[0] @ weights > 0.69 * most
    assert jnp.abs(found.args[0]).max() <= 10


# Functions as people have them.


def test_signs_of_the_example_count_first():
    def loss(x, y):
        return jnp.sqrt(x) + jnp.sqrt(jnp.maximum(y, -1.0) + 1.0)

    found = nanlab.hunt(loss, ones(2), ones(2))
    assert [(m.name, m.is_new_sign) for m in found.moved] == [("x", True)]
    assert "nowhere negative before" in str(found)


def test_a_training_step_of_flax_and_optax():
    net, tx = nn.Dense(2), optax.adam(1e-2)
    x, y = ones(4, 3), jax.nn.one_hot(jnp.array([0, 1, 1, 0]), 2, dtype=F32)
    params = net.init(jax.random.key(0), x)

    @jax.jit
    def step(params, state, batch):
        def loss(params):
            share = jax.nn.softmax(net.apply(params, batch["x"]))
            return -(batch["y"] * jnp.log(share)).sum()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    args = (params, tx.init(params), {"x": x, "y": y})
    found = nanlab.hunt(step, *args, vary=("batch", "params"), bound={"params": 30.0, "batch": 10})
    assert found
    assert not is_finite(step(*found.args))
    assert found.args[1][0].nu["params"]["bias"] is args[1][0].nu["params"]["bias"]
    assert all(moved.name != "batch['y']" for moved in found.moved)


def test_modules_of_nnx_come_back_as_modules():
    class Model(nnx.Module):
        def __init__(self):
            self.scale = nnx.Param(ones(3))

        def __call__(self, x):
            return jnp.log(jnp.sum((x * self.scale[...]) ** 2))

    model = Model()
    found = nanlab.hunt(lambda m, x: m(x), model, ones(3), vary="m")
    assert isinstance(found.args[0], Model)
    assert np.isneginf(found.args[0](ones(3)))
    assert found.moved[0].name.startswith("m['scale']")
    assert (model.scale[...] == 1).all(), "the given one is not touched"


def test_side_effects_happen_on_the_given_input_and_on_the_one_found():
    seen = []

    def read(total):
        seen.append(float(total))
        return np.float32(2)

    def loss(x):
        factor = io_callback(read, jax.ShapeDtypeStruct((), F32), x.sum(), ordered=True)
        jax.debug.callback(seen.append, "noise")
        return jnp.log(jnp.sum(jnp.abs(x)) * factor)

    found = nanlab.hunt(loss, ones(3))
    assert found.tried > 20
    assert [x for x in seen if x != "noise"] == [3, 0]
    assert seen.count("noise") == 2


def test_an_input_that_the_function_refuses_is_no_find():
    def check(x):
        if (x < 0.5).any():
            raise ValueError("too small")
        return x

    def loss(x):
        x = jax.pure_callback(check, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
        return jnp.log(x)

    found = nanlab.hunt(loss, ones(2), seconds=0.3)
    assert not found
    assert 0 < found.errors < found.tried
    assert f"{found.errors:,} of them refused with an error" in str(found)


def test_strict_promotion_and_the_users_checks_are_no_obstacle():
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.debug_nans(True),
    ):
        found = nanlab.hunt(lambda x: jnp.log(x), jnp.ones(3, jnp.float64))
    assert found.args[0].dtype == jnp.float64
    assert (found.args[0] == 0).any()


def test_a_find_is_described_in_plain_types(one_element, tmp_path):
    found = one_element[2]
    found.save(tmp_path)
    about = json.loads((tmp_path / "found.json").read_text())
    assert about["moved"] == [str(moved) for moved in found.moved]
    assert about["tried"] == found.tried
    assert repr(found).startswith("Found(loss fails with 1 element of 1 array changed")
