"""What `nanlab.pinpoint` can be called with: arguments of every kind, effects, JAX's contexts."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import io_callback
from jax.experimental import pallas as pl
from jax.sharding import NamedSharding, PartitionSpec
from sampled import sampled

import nanlab
from nanlab.blame.probes import values as value_probe
from nanlab.blame.vocabulary import Status

F32 = np.float32


def cause_of(site):
    return site and (site.primitive, site.mechanism)


def log_sum(x):
    return jnp.sum(jnp.log(x))


# ---- arguments -----------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class State:
    params: Any
    step: Any


class Pair(NamedTuple):
    left: Any
    right: Any


BAD, GOOD = F32([-1]), F32([1])


class Scaler:
    def __call__(self, x):
        return jnp.log(x)

    def method(self, y):
        return jnp.log(y)


# how it is called -> function, arguments, keyword arguments, what the culprit's operand is called
PATHS = {
    "by place": (lambda x, y: x + jnp.log(y), (GOOD, BAD), {}, "y"),
    "by keyword": (lambda x, y: x + jnp.log(y), (GOOD,), {"y": BAD}, "y"),
    "by keyword only": (lambda *, y: jnp.log(y), (), {"y": BAD}, "y"),
    "by any keyword": (lambda **kw: jnp.log(kw["y"]), (), {"y": BAD}, "y"),
    "one of many": (lambda x, *rest: x + jnp.log(rest[1]), (GOOD, GOOD, BAD), {}, "rest[1]"),
    "nested dicts": (
        lambda p: jnp.log(p["layer"]["w"]), ({"layer": {"b": GOOD, "w": BAD}},), {},
        "p['layer']['w']",
    ),
    "a list in a tuple": (lambda p: jnp.log(p[1][0]), ((GOOD, [BAD]),), {}, "p[1][0]"),
    "a dataclass": (
        lambda state: jnp.log(state.params["w"]), (State(params={"w": BAD}, step=3),), {},
        "state.params['w']",
    ),
    "a NamedTuple": (lambda p: jnp.log(p.right), (Pair(GOOD, BAD),), {}, "p.right"),
    "None beside it": (lambda p: jnp.log(p["x"]), ({"a": None, "x": BAD},), {}, "p['x']"),
    "partly applied": (partial(lambda x, y: x + jnp.log(y), GOOD), (BAD,), {}, "y"),
    "an object": (Scaler(), (BAD,), {}, "x"),
    "a method": (Scaler().method, (BAD,), {}, "y"),
    "jax's own": (jnp.log, (BAD,), {}, "x"),
    "jitted": (jax.jit(lambda a: jnp.log(a)), (BAD,), {}, "a"),
    "under vmap": (jax.vmap(lambda a: jnp.log(a)), (BAD,), {}, "a"),
}  # fmt: skip


@pytest.mark.parametrize(("function", "args", "kwargs", "name"), PATHS.values(), ids=PATHS)
def test_an_argument_is_called_by_its_path(function, args, kwargs, name):
    verdict = nanlab.pinpoint(function, *args, **kwargs)
    assert cause_of(verdict.culprit) == ("log", "domain")
    assert verdict.culprit.operands[0].expression == name
    fine = jax.tree.map(np.abs, (args, kwargs))
    assert not nanlab.pinpoint(function, *fine[0], **fine[1]).fault


def test_arguments_that_come_in_bad_are_named():
    def loss(params, x, scale):
        return jnp.sum(params["w"] * x) * scale

    params = {"b": F32([np.inf]), "w": F32([1, np.nan])}
    verdict = nanlab.pinpoint(loss, params, F32([1, 2]), float("inf"))
    assert verdict.input_faults == ("params['b']", "params['w']", "scale")
    assert cause_of(verdict.culprit) == ("mul", "input")
    assert nanlab.pinpoint(loss, {"w": GOOD}, GOOD, 1.0).input_faults == ()


def test_outputs_are_called_by_their_paths():
    def two(x):
        return {"fine": x, "loss": (jnp.log(x), x + 1)}

    assert nanlab.pinpoint(two, BAD).output_faults == ("output['loss'][0]",)
    assert nanlab.pinpoint(log_sum, BAD).output_faults == ("output",)
    assert nanlab.pinpoint(two, GOOD).output_faults == ()


def shaped(x, size, kind="log"):
    return jnp.sum(getattr(jnp, kind)(x[:size]).reshape(size, 1))


# function, arguments, keyword arguments
STATIC = {
    "a Python int": (shaped, (F32([1, -2, 3]), 2), {}),
    "a NumPy int": (shaped, (F32([1, -2, 3]), np.int64(2)), {}),
    "static_argnums": (jax.jit(shaped, static_argnums=1), (F32([1, -2, 3]), 2), {}),
    "static_argnames": (
        jax.jit(shaped, static_argnames=("size", "kind")), (F32([1, -2, 3]),),
        {"size": 2, "kind": "log"},
    ),
    "static by place and name": (
        jax.jit(shaped, static_argnames=("size", "kind")), (F32([1, -2, 3]), 2, "log"), {},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("function", "args", "kwargs"), STATIC.values(), ids=STATIC)
def test_an_argument_that_decides_a_shape_stays_what_it_is(function, args, kwargs):
    verdict = nanlab.pinpoint(function, *args, **kwargs)
    assert cause_of(verdict.culprit) == ("log", "domain")
    assert verdict.culprit.operands[0].shape == (2,)
    assert not nanlab.pinpoint(function, np.abs(args[0]), *args[1:], **kwargs).fault


def test_a_python_bool_decides_a_branch():
    def either(x, is_training, rate):
        return jnp.log(x) if is_training else x * rate

    assert cause_of(nanlab.pinpoint(either, BAD, True, 0.5).culprit) == ("log", "domain")
    assert not nanlab.pinpoint(either, BAD, False, 0.5).fault


def test_an_object_that_is_no_array_is_handed_through():
    def named(x, options, function):
        return function(x) * options.scale

    options = dataclasses.make_dataclass("Options", [("scale", float)], frozen=True)(2.0)
    assert cause_of(nanlab.pinpoint(named, BAD, options, jnp.log).culprit) == ("log", "domain")
    assert not nanlab.pinpoint(named, BAD, options, jnp.exp).fault


def test_a_closed_over_array_can_be_at_fault():
    table = jnp.asarray(F32([1, -1]))
    verdict = nanlab.pinpoint(lambda x: x * jnp.log(table), GOOD)
    assert cause_of(verdict.culprit) == ("log", "domain")
    assert verdict.culprit.operands[0].min == -1
    assert not nanlab.pinpoint(lambda x: x * jnp.exp(table), GOOD).fault


def test_a_nan_in_a_closed_over_array_is_a_constant():
    table = jnp.asarray(F32([1, np.nan]))
    verdict = nanlab.pinpoint(lambda x: jnp.sum(x * table), F32([1, 1]))
    assert cause_of(verdict.culprit) == ("mul", "constant")
    assert verdict.culprit.operands[1].nans == 1
    assert verdict.input_faults == ()


# ---- donation and devices ------------------------------------------------------------------------


@partial(jax.jit, donate_argnums=0)
def step(params, lr):
    return jax.tree.map(lambda w: jnp.log(w) * lr, params)


def test_donated_arguments_are_alive_afterwards():
    for number, is_bad in ((-1, True), (1, False)):
        params = {"w": jnp.full(3, number, F32)}
        assert nanlab.pinpoint(step, params, 0.1).fault == is_bad
        assert not params["w"].is_deleted()
        np.testing.assert_array_equal(params["w"], np.full(3, number, F32))


def test_an_argument_that_was_donated_before_is_named():
    params = {"b": jnp.ones(3), "w": jnp.ones(3)}
    kept = dict(params)
    step(params, 0.1)
    assert kept["w"].is_deleted()
    with pytest.raises(ValueError, match=r"params\['b'\] has been deleted: it was donated"):
        nanlab.pinpoint(step, params, 0.1)


def test_arguments_are_looked_at_where_they_are():
    first, second = jax.devices()[:2]
    elsewhere = jax.device_put(F32([1, -2]), second)
    assert cause_of(nanlab.pinpoint(log_sum, elsewhere).culprit) == ("log", "domain")
    mesh = jax.sharding.Mesh(np.array([first, second]), ("i",))
    split = jax.device_put(F32([1, 2, 3, -4]), NamedSharding(mesh, PartitionSpec("i")))
    verdict = nanlab.pinpoint(log_sum, split)
    assert cause_of(verdict.culprit) == ("log", "domain")
    assert verdict.culprit.operands[0].there == (-4,)
    assert not nanlab.pinpoint(log_sum, jnp.abs(split)).fault


# ---- effects: the Python side is called once -----------------------------------------------------


def printing(x):
    jax.debug.print("x is {}", x[0])
    return jnp.log(x)


def printing_in_a_scan(x):
    def body(carry, v):
        jax.debug.print("v is {}", v)
        return carry + jnp.log(v), v

    return lax.scan(body, F32(0), x)


@pytest.mark.parametrize(("function", "lines"), [(printing, 1), (printing_in_a_scan, 3)])
def test_what_a_function_prints_is_printed_once(function, lines, capsys):
    for x, is_bad in ((F32([1, -1, 2]), True), (F32([1, 1, 2]), False)):
        assert nanlab.pinpoint(function, x).fault == is_bad
        jax.effects_barrier()
        assert len(capsys.readouterr().out.splitlines()) == lines


def calling(x, call, ordered):
    extra = io_callback(call, jax.ShapeDtypeStruct((), F32), x[0], ordered=ordered)
    return jnp.log(x) + extra


def calling_in_a_scan(x, call, ordered):
    def body(carry, v):
        return carry + jnp.log(io_callback(call, v, v, ordered=ordered)), v

    return lax.scan(body, F32(0), x)


def calling_in_a_while(x, call, ordered):
    def body(state):
        number, total = state
        v = io_callback(call, jax.ShapeDtypeStruct((), F32), x[number], ordered=ordered)
        return number + 1, total + jnp.log(v)

    return lax.while_loop(lambda s: s[0] < 3, body, (0, F32(0)))[1]


def calling_in_a_branch(x, call, ordered):
    def called(v):
        jax.debug.callback(call, v[0], ordered=ordered)
        return jnp.log(v)

    return lax.cond(x[0] > 0, called, lambda v: v, x)


EFFECTS = {
    calling: [1],
    calling_in_a_scan: [1, -1, 2],
    calling_in_a_while: [1, -1, 2],
    calling_in_a_branch: [1],
}
EFFECT_NAMES = [function.__name__ for function in EFFECTS]


@pytest.mark.parametrize("ordered", sampled([True, False], 2), ids=["ordered", "unordered"])
@pytest.mark.parametrize(("function", "wanted"), EFFECTS.items(), ids=EFFECT_NAMES)
def test_a_callback_is_called_once_for_each_time_that_it_is_due(function, wanted, ordered):
    seen = []

    def call(v):
        seen.append(float(v))
        return F32(v)

    verdict = nanlab.pinpoint(function, F32([1, -1, 2]), call, ordered)
    jax.effects_barrier()
    assert sorted(seen) == sorted(wanted)
    assert not ordered or seen == wanted
    assert cause_of(verdict.culprit) == ("log", "domain")
    assert not nanlab.pinpoint(function, F32([1, 1, 2]), call, ordered).fault


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_what_a_callback_returned_is_what_is_looked_at(large, monkeypatch):
    if large:
        monkeypatch.setattr(value_probe, "STORED_VALUES_BYTES", -1)
    numbers = iter([F32(4), F32(-9), F32(16), *[F32(np.nan)] * 9])

    def body(carry, _):
        drawn = io_callback(lambda: next(numbers), jax.ShapeDtypeStruct((), F32), ordered=True)
        return carry + jnp.sqrt(drawn), drawn

    verdict = nanlab.pinpoint(lambda x: lax.scan(body, x, None, length=3), F32(0))
    assert cause_of(verdict.culprit) == ("sqrt", "domain")
    assert (verdict.culprit.iterations, verdict.culprit.operands[0].there) == ((1,), (-9,))


# ---- contexts ------------------------------------------------------------------------------------


def looped(x):
    return lax.scan(lambda c, v: (c + jnp.log(v), c), jnp.zeros_like(x[0]), x)


CONTEXTS = {
    "debug_nans": lambda: jax.debug_nans(True),
    "debug_infs": lambda: jax.debug_infs(True),
    "disable_jit": lambda: jax.disable_jit(),
    "without x64": lambda: jax.enable_x64(False),
    "numpy_dtype_promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "checking leaks": lambda: jax.checking_leaks(),
}


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
def test_a_verdict_is_the_same_in_a_context_of_jax(context):
    with context():
        verdict = nanlab.pinpoint(looped, F32([1, -1]))
        harmless = nanlab.pinpoint(looped, F32([1, 1]))
    assert verdict.to_dict() == nanlab.pinpoint(looped, F32([1, -1])).to_dict()
    assert (cause_of(verdict.culprit), verdict.culprit.iterations) == (("log", "domain"), (1,))
    assert not harmless.fault


def test_jax_is_set_as_it_was_afterwards():
    with jax.debug_nans(True), jax.disable_jit():
        nanlab.pinpoint(log_sum, BAD)
        assert jax.config.jax_debug_nans
        assert jax.config.jax_disable_jit
    with pytest.raises(TypeError):
        nanlab.pinpoint(lambda x: x + "a", BAD)
    assert not jax.config.jax_debug_nans


def test_a_program_is_in_the_width_of_its_context():
    with jax.enable_x64(False):
        narrow = nanlab.pinpoint(lambda x: jnp.exp(x), np.float64([100.0]))
    wide = nanlab.pinpoint(lambda x: jnp.exp(x), np.float64([100.0]))
    assert cause_of(narrow.origin) == ("exp", "overflow")
    assert not wide.fault


def test_an_argument_is_told_as_the_program_gets_it():
    with jax.enable_x64(False):
        narrow = nanlab.pinpoint(lambda x: jnp.exp(x), np.float64([100.0]))
    assert narrow.origin.operands[0].dtype == "float32"


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_an_argument_that_is_too_large_for_the_programs_type_came_in_bad():
    with jax.enable_x64(False):
        verdict = nanlab.pinpoint(lambda x: x * 2, np.float64([1e300]))
    assert cause_of(verdict.origin) == ("mul", "input")
    assert verdict.input_faults == ("x",)


# ---- edges ---------------------------------------------------------------------------------------

# function, arguments: harmless
HARMLESS = {
    "no arguments": (lambda: jnp.log(2.0), ()),
    "nothing returned": (lambda x: None, (BAD,)),
    "a Python number returned": (lambda x: 3.0, (BAD,)),
    "an empty array": (lambda x: jnp.sum(jnp.log(x)), (np.zeros(0, F32),)),
    "an empty NaN": (lambda x: jnp.log(x), (np.zeros((3, 0), F32),)),
    "a scan of length zero": (
        lambda x, xs: lax.scan(lambda c, v: (c / v, c), x, xs), (F32(1), np.zeros(0, F32)),
    ),
    "whole numbers": (lambda x: (x // 0, x % 3, x << 2), (np.int32([1, 2]),)),
    "bools": (lambda x: ~x & (x == x), (np.array([True, False]),)),
    "bytes": (lambda x: x.astype(F32) / 255, (np.uint8([0, 255]),)),
    "a key handed back": (lambda key: jax.random.split(key), (jax.random.key(1),)),
    "the largest number": (lambda x: x * 1, (np.finfo(F32).max,)),
}  # fmt: skip


@pytest.mark.parametrize(("function", "args"), HARMLESS.values(), ids=HARMLESS)
def test_a_harmless_call_is_silent(function, args):
    assert nanlab.pinpoint(function, *args) == nanlab.Verdict(status=Status.CLEAN)


# function, arguments, culprit
FAULTY = {
    "no arguments": (lambda: jnp.log(-1.0), (), ("log", "domain")),
    "a mean of nothing": (lambda x: jnp.mean(x), (np.zeros(0, F32),), ("div", "0/0")),
    "a NaN returned": (lambda x: (x, float("nan")), (GOOD,), ("", "constant")),
    "an argument returned": (lambda x: x, (F32([np.nan]),), ("", "input")),
    "a scan of length zero": (
        lambda x, xs: lax.scan(lambda c, v: (c / v, c), jnp.log(x), xs),
        (F32(-1), np.zeros(0, F32)), ("log", "domain"),
    ),
    "one element of many": (
        lambda x: jnp.sqrt(x), (np.where(np.arange(4000) == 3999, -1, 1).astype(F32),),
        ("sqrt", "domain"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("function", "args", "culprit"), FAULTY.values(), ids=FAULTY)
def test_a_faulty_call_at_the_edge_is_told(function, args, culprit):
    verdict = nanlab.pinpoint(function, *args)
    assert verdict.status == "reproduced"
    assert cause_of(verdict.culprit) == culprit
    assert str(verdict)


def test_what_tracing_raises_is_raised():
    with pytest.raises(ZeroDivisionError):
        nanlab.pinpoint(lambda x: x * (1 // 0), BAD)
    with pytest.raises(jax.errors.TracerBoolConversionError):
        nanlab.pinpoint(lambda x: x if x > 0 else -x, F32(1))
    with pytest.raises(TypeError, match="missing"):
        nanlab.pinpoint(lambda x, y: x, BAD)


def test_a_pallas_kernel_is_blamed():
    def kernel(x_ref, o_ref):
        o_ref[...] = jnp.log(x_ref[...])

    def call(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return pl.pallas_call(kernel, out_shape=shape, interpret=True)(x) + 1

    verdict = nanlab.pinpoint(call, F32([1, -1]))
    assert cause_of(verdict.culprit) == ("pallas_call", "opaque")
    assert verdict.culprit.code.startswith("return pl.pallas_call")
    assert not nanlab.pinpoint(call, F32([1, 1])).fault


def test_a_function_of_jax_that_is_a_branch_of_a_vmapped_switch_has_the_line_of_the_switch():
    branches = [lambda x: x, jnp.log, jnp.exp]

    def f(i, x):
        return jax.vmap(lambda i, x: jax.lax.switch(i, branches, x))(i, x)

    verdict = nanlab.pinpoint(f, jnp.array([0, 1, 0]), jnp.array([1.0, -1.0, 2.0]))
    assert verdict.origin.primitive == "log"
    assert "jax.lax.switch" in verdict.origin.code
