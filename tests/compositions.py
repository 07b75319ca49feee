"""What people compose with jax.jit, each as a small program: a script that writes what came out.

`python compositions.py FILE [EVERY [FIRST]]` writes, for each (or one of EVERY), its tree, types,
shapes, weak types and bits, or its exception. Watched and unwatched, it has to write the same.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "warn"  # read when JAX is imported

import contextlib
import copy
import functools
import inspect
import io
import json
import pickle
import re
import sys
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, nnx
from flax.training.train_state import TrainState
from jax import jit
from jax.experimental import checkify
from jax.sharding import NamedSharding, PartitionSpec

x = np.linspace(0.5, 2.0, 4, dtype=np.float32)
w = np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(4, 3)


@jax.jit
def cube(x):
    """Cubes."""
    return jnp.sum(x**3)


@jax.jit
def loss(w, x, scale=2.0):
    return jnp.mean(jnp.tanh(x @ w) ** 2) * scale


def scaled(function):
    @functools.wraps(function)
    def inner(*args):
        return 10.0 * function(*args)

    return inner


@partial(jax.jit, static_argnums=1)
def power(x, exponent):
    return x**exponent


@partial(jax.jit, static_argnames=("exponent", "flip"))
def named_power(x, *, exponent, flip=False):
    return -(x**exponent) if flip else x**exponent


@jax.jit(static_argnames="name")
def by_name(x, name):
    return {"sin": jnp.sin, "cos": jnp.cos}[name](x)


class Model:
    def __init__(self, factor):
        self.factor = factor

    @partial(jax.jit, static_argnums=0)
    def method(self, x):
        return self.factor * x

    @jit
    def bare(self, x):
        return self["factor"] * x

    @staticmethod
    @jax.jit
    def static(x):
        return x + 1

    @classmethod
    @partial(jax.jit, static_argnums=0)
    def of_class(cls, x):
        return x * len(cls.__name__)

    @functools.cached_property
    def cached(self):
        return jax.jit(lambda x: x - self.factor)


@jax.tree_util.register_pytree_node_class
class Pair:
    def __init__(self, a, b):
        self.a, self.b = a, b

    def tree_flatten(self):
        return (self.a, self.b), "pair"

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)

    @jax.jit
    def swapped(self):
        return Pair(self.b, self.a)


class Point(NamedTuple):
    x: object
    y: object


@jax.custom_jvp
def soft(x):
    return jnp.log1p(jnp.exp(x))


@soft.defjvp
def soft_jvp(primals, tangents):
    return soft(*primals), jax.nn.sigmoid(primals[0]) * tangents[0]


@jax.custom_vjp
def clipped(x):
    return x


clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -0.5, 0.5),))

donating = jax.jit(lambda state, x: (state + x, jnp.sum(state)), donate_argnums=0)
by_name_donating = jax.jit(lambda state, x: {"state": state["w"] * x}, donate_argnames="state")


def donated(function, *args):
    state = jnp.asarray(x) + 1
    result = function(state, *args)
    return result, state.is_deleted()


def donated_tree():
    state = {"w": jnp.ones(4)}
    result = by_name_donating(state=state, x=2.0)
    return result, state["w"].is_deleted()


def used_after_donation():
    state = jnp.asarray(x) + 1
    donating(state, 1.0)
    return state + 1


def donation_warnings():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jax.jit(lambda x: jnp.sum(x), donate_argnums=0)(jnp.ones(7))
    return sorted(type(warning.message).__name__ for warning in caught)


class Linear(nnx.Module):
    def __init__(self, rngs):
        self.w = nnx.Param(jax.random.normal(rngs.params(), (4, 3)))
        self.count = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.count[...] += 1
        return x @ self.w


def nnx_training(decorate):
    model = Linear(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param)

    @decorate
    def step(model, optimizer, x):
        value, grads = nnx.value_and_grad(lambda m: jnp.mean(m(x) ** 2))(model)
        optimizer.update(model, grads)
        return value

    values = [step(model, optimizer, x) for _ in range(3)]
    return values, nnx.to_pure_dict(nnx.state(model))


def eqx_training(donate="none"):
    model = eqx.nn.MLP(4, 2, 8, 1, key=jax.random.key(0))

    @eqx.filter_jit(donate=donate)
    def step(model, x):
        value, grads = eqx.filter_value_and_grad(lambda m: jnp.mean(m(x) ** 2))(model)
        return eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, grads)), value

    model, value = step(model, jnp.asarray(x))
    return eqx.filter(model, eqx.is_array), value


def linen_training():
    model = linen.Dense(3)
    params = model.init(jax.random.key(0), x)
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optax.sgd(0.1))

    @partial(jax.jit, donate_argnums=0)
    def step(state, x):
        grads = jax.grad(lambda p: jnp.mean(state.apply_fn(p, x) ** 2))(state.params)
        return state.apply_gradients(grads=grads)

    for _ in range(3):
        state = step(state, x)
    return state.params, state.step


def sharded():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    placed = jax.device_put(jnp.arange(8.0), NamedSharding(mesh, PartitionSpec("data")))
    result = jax.jit(lambda x: x * 2)(placed)
    mapped = jax.shard_map(
        lambda x: jax.lax.psum(x, "data"),
        mesh=mesh,
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec(),
    )
    return result, str(result.sharding.spec), jax.jit(mapped)(placed), mapped(placed)


def pmapped():
    step = jax.pmap(
        lambda s, x: (s + jax.lax.pmean(x, "i"), x * 2), axis_name="i", donate_argnums=0
    )
    state = jnp.zeros((4, 2))
    result = step(state, jnp.arange(8.0).reshape(4, 2))
    static = jax.pmap(lambda x, n: x**n, static_broadcasted_argnums=1)(jnp.arange(4.0), 3)
    return result, static


def aot():
    lowered = jax.jit(loss).lower(w, x)
    compiled = lowered.compile()
    return compiled(w, x), compiled.in_tree, lowered.out_info.shape, type(compiled).__name__


def aot_donated():
    compiled = donating.lower(jax.ShapeDtypeStruct((4,), jnp.float32), 1.0).compile()
    return donated(compiled, 1.0)


def traced():
    step = cube.trace(x)
    return str(step.jaxpr), step.fun_name, step.lower().compile()(x)


def counted_traces():
    traces = []

    @jax.jit
    def function(x):
        traces.append(1)
        return x + 1

    values = [function(1.0), function(2.0), function(3), function(jnp.ones(2)), function(4.0)]
    return values, len(traces), function._cache_size()


def cleared():
    function = jax.jit(lambda x: x + 1)
    function(1.0), function.clear_cache()
    return function(2.0), function._cache_size()


def identity():
    other = jax.jit(cube)
    seen = {cube: 1, other: 2}
    isinstance_of = isinstance(cube, type(jax.jit(lambda: 0)))
    return [
        cube == other,
        hash(cube) == hash(cube),
        len(seen),
        isinstance_of,
        isinstance(cube, jax.stages.Wrapped),
        callable(cube),
    ]


def inspected():
    return [
        str(inspect.signature(loss)),
        loss.__name__,
        loss.__qualname__,
        cube.__doc__,
        loss.__wrapped__.__name__,
        hasattr(loss, "lower"),
        type(loss).__name__,
        inspect.isfunction(loss),
        sorted(n for n in dir(loss) if not n.startswith("_")),
        jax.jit.__module__,
        type(jax.jit).__name__,
        str(inspect.signature(jax.jit)),
    ]


def copied():
    functions = [copy.copy(cube), copy.deepcopy(cube)]
    same = [function is cube for function in (*functions, weakref.ref(cube)())]
    return [function(x) for function in functions], same


@functools.lru_cache
def cached_jit(exponent):
    return jax.jit(lambda x: x**exponent)


@functools.singledispatch
def dispatched(x):
    return "other"


@dispatched.register
def _(x: jax.Array):
    return jax.jit(lambda x: x + 1)(x)


def in_threads():
    with ThreadPoolExecutor(4) as pool:
        first = list(pool.map(cube, [x * i for i in range(8)]))
    results = [None] * 4

    def work(i):
        results[i] = jax.grad(cube)(x + i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    return first, results


def callbacks():
    seen = []
    numbers = jax.jit(
        lambda x: jax.pure_callback(
            lambda x: np.asarray(x) * 2, jax.ShapeDtypeStruct((4,), jnp.float32), x
        )
    )(x)
    jax.jit(lambda x: jax.debug.callback(lambda v: seen.append(float(v)), x.sum()))(x)
    jax.effects_barrier()
    return numbers, seen


def printed():
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        jax.jit(lambda x: jax.debug.print("sum {}", x.sum()))(x)
        jax.effects_barrier()
    return stream.getvalue()


def exported():
    program = jax.export.export(jax.jit(jax.grad(cube)))(x)
    return program.call(x), jax.jit(program.call)(x)


def loops():
    body = jax.jit(lambda c, x: (c * 0.9 + x, c))
    scanned = jax.lax.scan(body, np.float32(0), x)
    looped = jax.lax.while_loop(lambda c: c < 9.0, jax.jit(lambda c: c * 1.7), 1.0)
    chosen = [jax.lax.cond(p, cube, jax.jit(lambda x: x.sum()), x) for p in (True, False)]
    switched = jax.jit(lambda i: jax.lax.switch(i, [jnp.sin, jnp.cos, cube], 1.0))(2)
    return (
        scanned,
        looped,
        chosen,
        switched,
        jax.lax.map(cube, w),
        jax.lax.fori_loop(0, 3, lambda i, c: c * cube(c) * 0.1, jnp.asarray(x)),
    )


def keys():
    raw, typed = jax.random.PRNGKey(0), jax.random.key(1)
    split = jax.jit(partial(jax.random.split, num=3))(typed)
    return (
        raw,
        jax.random.key_data(split),
        jax.jit(jax.random.normal, static_argnums=1)(raw, (3,)),
        jax.jit(lambda k: jax.random.uniform(k, (2,)))(typed),
        jax.jit(lambda k: k)(typed),
        jax.vmap(jax.random.normal)(split),
    )


def weak_types():
    double = jax.jit(lambda x: x * 2)
    return (
        double(1),
        double(1.0),
        double(True),
        double(np.float32(1)),
        double(jnp.ones((), jnp.bfloat16)),
        (double(1j), double(np.float64(1)), double(np.int8(3))),
    )


def settings():
    with jax.disable_jit():
        off = cube(x)
    with jax.numpy_dtype_promotion("strict"):
        strict = cube(x)
    with jax.enable_x64(True):
        wide = jax.jit(lambda x: x / 3)(np.float64(1))
    with jax.transfer_guard("disallow_explicit"):
        guarded = jax.jit(lambda: jnp.ones(3))()
    with jax.default_matmul_precision("float32"):
        precise = loss(w, x)
    names = [n for n in dir(jax.config) if n.startswith("jax_")]
    values = {name: str(getattr(jax.config, name)) for name in sorted(names)}
    return off, strict, wide, guarded, precise, values


def checked():
    function = checkify.checkify(jax.jit(lambda x: jnp.log(x)), errors=checkify.float_checks)
    error, value = jax.jit(function)(x)
    return error.get(), value


def mutable():
    box = jax.new_ref(jnp.zeros(3))

    @jax.jit
    def add(x):
        box[...] += x

    add(1.0), add(2.0)
    return box[...]


def generator():
    def batches():
        for i in range(3):
            yield cube(x + i)

    return list(batches())


def raising(x):
    raise KeyError("from inside")


def debug_nans():
    with jax.debug_nans(True):
        return jax.jit(lambda x: x + 1)(x)


def numpy_changed_later():
    buffer = x.copy()
    result = jax.jit(lambda x: x + 1)(buffer)
    result.block_until_ready()
    buffer[:] = 7
    return result


def eager_training():
    weights = jnp.asarray(w)
    for _ in range(3):
        weights = weights - 0.1 * jax.grad(loss)(weights, x)
    return weights, jnp.where(weights > 0, jnp.sqrt(weights), 0.0)


COMPOSITIONS = {
    "jit": lambda: cube(x),
    "grad of jit": lambda: jax.grad(cube)(x),
    "jit of grad of jit": lambda: jax.jit(jax.grad(cube))(x),
    "jit of value_and_grad of jit": lambda: jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(w, x),
    "value_and_grad with aux": lambda: jax.jit(
        jax.value_and_grad(lambda x: (cube(x), {"aux": x}), has_aux=True))(x),
    "vmap of jit": lambda: jax.vmap(cube)(w),
    "jit of vmap of jit": lambda: jax.jit(jax.vmap(loss, in_axes=(None, 0)))(w, np.stack([x, x])),
    "jit of hessian": lambda: jax.jit(jax.hessian(cube))(x),
    "jit of jacfwd": lambda: jax.jit(jax.jacfwd(cube))(x),
    "jit of jacrev": lambda: jax.jit(jax.jacrev(cube))(x),
    "jit of jvp": lambda: jax.jit(lambda x: jax.jvp(cube, (x,), (x,)))(x),
    "vjp": lambda: jax.vjp(cube, x)[1](1.0),
    "linearize": lambda: jax.linearize(cube, x)[1](x),
    "jit of linearize": lambda: jax.jit(lambda x: jax.linearize(cube, x)[1](x))(x),
    "linear_transpose": lambda: jax.linear_transpose(jax.jit(lambda x: 3 * x), x)(x),
    "checkpoint": lambda: jax.jit(jax.grad(jax.checkpoint(cube)))(x),
    "grad of checkpoint of jit": lambda: jax.grad(jax.remat(cube))(x),
    "partial": lambda: jax.jit(partial(loss, w))(x),
    "partial of jit": lambda: partial(loss, scale=3.0)(w, x),
    "jax Partial": lambda: jax.jit(lambda f, x: f(x))(jax.tree_util.Partial(cube), x),
    "wraps": lambda: jax.jit(scaled(cube))(x),
    "wraps without jit": lambda: scaled(cube)(x),
    "jit of jit of jit": lambda: jax.jit(jax.jit(cube))(x),
    "custom_jvp": lambda: jax.jit(jax.value_and_grad(soft))(0.5),
    "custom_vjp": lambda: jax.jit(jax.grad(lambda x: cube(clipped(x))))(x),
    "static by number": lambda: [power(x, 2), power(x, 3), power(x, exponent=2)],
    "static by name": lambda: [named_power(x, exponent=2), named_power(x, exponent=2, flip=True)],
    "decorator with arguments": lambda: [by_name(x, "sin"), by_name(x, name="cos")],
    "jit by keyword": lambda: jax.jit(fun=lambda x: x + 1)(x),
    "jit with options": lambda: jax.jit(lambda x: x + 1, inline=True, keep_unused=True)(x),
    "keyword arguments": lambda: loss(x=x, w=w, scale=0.5),
    "methods": lambda: [Model(2).method(x), Model.static(x), Model.of_class(x), Model(3).cached(x),
                        Model.bare({"factor": 2.0}, x)],
    "pytree method": lambda: Pair(x, w).swapped(),
    "pytrees": lambda: jax.jit(lambda t: t)({"a": [x, None, (w, 1)], "p": Point(1, 2.0)}),
    "nested containers": lambda: jax.jit(lambda a, *b, **c: (c, b, a))(x, 1, 2, k=w),
    "nnx.jit": lambda: nnx_training(nnx.jit),
    "nnx.jit donating": lambda: nnx_training(nnx.jit(donate_argnums=(0, 1))),
    "nnx.jit of grad": lambda: nnx.jit(jax.grad(cube))(x),
    "eqx.filter_jit": eqx_training,
    "eqx.filter_jit donating": lambda: eqx_training("all"),
    "eqx.filter_jit of grad": lambda: eqx.filter_jit(eqx.filter_grad(cube))(jnp.asarray(x)),
    "eqx.error_if": lambda: eqx.filter_jit(
        lambda x: eqx.error_if(x, x[0] > 9, "large"))(jnp.asarray(x)),
    "eqx.error_if raised": lambda: eqx.filter_jit(
        lambda x: eqx.error_if(x, x[0] < 9, "small"))(jnp.asarray(x)),
    "linen with a donated TrainState": linen_training,
    "pmap": pmapped,
    "sharding and shard_map": sharded,
    "eval_shape": lambda: [jax.eval_shape(jax.jit(jax.grad(cube)), x), cube.eval_shape(x)],
    "make_jaxpr": lambda: str(jax.make_jaxpr(jax.jit(jax.grad(cube)))(x)),
    "lower and compile": aot,
    "compiled, donated": aot_donated,
    "trace": traced,
    "as_text": lambda: cube.lower(x).as_text(),
    "export": exported,
    "donated": lambda: donated(donating, 1.0),
    "donated by name": donated_tree,
    "used after donation": used_after_donation,
    "donation that cannot be used": donation_warnings,
    "donated twice": lambda: (
        lambda a: jax.jit(lambda a, b: a + b, donate_argnums=(0, 1))(a, a))(jnp.ones(3)),
    "traces and cache": counted_traces,
    "clear_cache": cleared,
    "equality, hash, isinstance": identity,
    "inspect": inspected,
    "copy, weakref": copied,
    "pickle": lambda: pickle.loads(pickle.dumps(jax.nn.relu))(x),
    "pickle of a decorated function": lambda: pickle.dumps(cube),
    "pickle of a lambda": lambda: pickle.dumps(jax.jit(lambda x: x)),
    "lru_cache": lambda: [cached_jit(2)(x), cached_jit(2)(w), cached_jit(2) is cached_jit(2)],
    "singledispatch": lambda: [dispatched(jnp.asarray(x)), dispatched(1)],
    "threads": in_threads,
    "callbacks": callbacks,
    "debug.print": printed,
    "loops": loops,
    "keys": keys,
    "weak types": weak_types,
    "settings": settings,
    "checkify": checked,
    "mutable arrays": mutable,
    "generator": generator,
    "debug_nans": debug_nans,
    "numpy changed later": numpy_changed_later,
    "eager": eager_training,
    "closed over constants": lambda: jax.jit(lambda x: x @ w)(x),
    "unhashable static argument": lambda: power(x, [2]),
    "missing argument": lambda: cube(),
    "a string for an array": lambda: cube("x"),
    "leaked branch": lambda: jax.jit(lambda x: x if x > 0 else -x)(1.0),
    "an error in the function": lambda: jax.jit(raising)(x),
    "not a function": lambda: jax.jit(3),
    "bad static number": lambda: jax.jit(lambda x: x, static_argnums=5)(x),
    "vmap of compiled": lambda: jax.vmap(cube.lower(x).compile())(w),
    "compiled, other shape": lambda: cube.lower(x).compile()(w),
    "pmap, too many": lambda: jax.pmap(lambda x: x)(jnp.ones((9, 2))),
    "shape error": lambda: jax.jit(lambda x, w: x @ w)(w, x[:2]),
}  # fmt: skip


def written(leaf):
    if isinstance(leaf, jax.Array):
        array, weak = leaf, getattr(leaf, "weak_type", None)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            array = jax.random.key_data(leaf)
        shown = np.asarray(array)
        about = [str(leaf.dtype), weak, getattr(leaf, "committed", None), str(leaf.sharding)]
        return [type(leaf).__name__, *about, list(leaf.shape), shown.tobytes().hex()]
    if isinstance(leaf, np.ndarray | np.generic):
        return [type(leaf).__name__, str(leaf.dtype), list(leaf.shape), leaf.tobytes().hex()]
    return [type(leaf).__name__, without_addresses(str(leaf))]


def without_addresses(text):
    return re.sub(r"0x[0-9a-f]+", "0x", text)


def outcome(composition):
    try:
        result = composition()
    except Exception as error:
        # Equinox's message begins with the whole stack.
        message = str(error).rpartition("equinox.EquinoxRuntimeError")[2]
        return {"raised": type(error).__name__, "message": without_addresses(message)}
    leaves, tree = jax.tree.flatten(result)
    return {"tree": without_addresses(str(tree)), "leaves": [written(leaf) for leaf in leaves]}


if __name__ == "__main__":
    every, first = (int(number) for number in [*sys.argv[2:], "1", "0"][:2])
    names = list(COMPOSITIONS)[first::every]
    outcomes = {name: outcome(COMPOSITIONS[name]) for name in names}
    # A second time, when all is compiled and cached.
    outcomes |= {f"{name}, again": outcome(COMPOSITIONS[name]) for name in names}
    with open(sys.argv[1], "w") as file:
        json.dump(outcomes, file, indent=1)
