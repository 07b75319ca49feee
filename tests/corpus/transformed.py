"""Planted faults under JAX's transformations and control flow, one program each, with their twins.

The culprit's line ends in `# <-- culprit`; where only an inf is made, the origin's in
`# <-- origin`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, PartitionSpec

F32 = np.float32


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A program, and what the verdict on its faulty call has to say.

    Attributes:
        function: the program.
        faulty, harmless: arguments with which it fails, and with which it does not.
        culprit: primitive and mechanism; None if it only makes an inf.
        origin: the same of the first inf that led to it; None if that is the culprit.
        phase, iterations, lane: the culprit's, or the origin's if there is no culprit.
        met: for each operand of that site, what went into the first bad element; None where
            it is not to be told.
        benign: primitives that do no harm.
    """

    function: Callable[..., Any]
    faulty: tuple[Any, ...]
    harmless: tuple[Any, ...]
    culprit: tuple[str, str] | None
    origin: tuple[str, str] | None = None
    phase: str = "forward"
    iterations: tuple[int, ...] = ()
    lane: int | tuple[int, ...] | None = None
    met: tuple[tuple[float, ...], ...] | None = None
    benign: tuple[str, ...] = ()


# ---- calls ---------------------------------------------------------------------------------------


@jax.jit
def jit_in_jit(x):
    @jax.jit
    def share(v):
        return v / jnp.sum(v)  # <-- origin

    @jax.jit
    def both(v):
        return share(v + 1) + share(v)

    return both(x)


@partial(jax.jit, donate_argnums=0)
def checkpointed(x):
    @jax.checkpoint
    def block(v):
        return jnp.sqrt(v) * v  # <-- culprit

    return jax.value_and_grad(lambda v: jnp.sum(block(block(v))))(x)


def custom_jvp(x):
    @jax.custom_jvp
    def safe(v):
        return jnp.where(v > 0, v, 0)

    @safe.defjvp
    def rule(primals, tangents):
        (v,), (dv,) = primals, tangents
        return safe(v), dv * jnp.log(v)  # <-- culprit

    return jax.jvp(safe, (x,), (jnp.ones_like(x),))


def custom_vjp(x):
    @jax.custom_vjp
    def safe(v):
        return jnp.sum(v)

    safe.defvjp(
        lambda v: (jnp.sum(v), v),
        lambda v, ct: (ct * jnp.sqrt(v),),  # <-- culprit
    )
    return jax.grad(lambda v: safe(v * 2))(x)


def custom_root(x):
    def solve(f, start):
        return lax.fori_loop(0, 4, lambda _, v: v - jnp.sqrt(f(v)), start)  # <-- culprit

    return lax.custom_root(lambda v: v - x / 8, x, solve, lambda g, y: y / g(jnp.ones_like(y)))


def custom_linear_solve(diagonal, b):
    def solve(_, right):
        return right / diagonal  # <-- culprit

    return lax.custom_linear_solve(lambda v: diagonal * v, b, solve, symmetric=True)


def over_devices(x):
    mesh = jax.make_mesh((2,), ("i",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("i")

    def shard(v):
        return jnp.log(v) * lax.psum(jnp.sum(v), "i")  # <-- culprit

    return jax.shard_map(shard, mesh=mesh, in_specs=spec, out_specs=spec)(x)


# ---- derivatives ---------------------------------------------------------------------------------


def gradient(x):
    return jax.grad(lambda v: jnp.sum(jnp.sqrt(v)))(x)  # <-- origin


def value_and_gradient(x):
    def value(v):
        size = jnp.sqrt(jnp.sum(v * v))  # <-- culprit
        return size + 1

    return jax.value_and_grad(value)(x)


def tangent(x, dx):
    return jax.jvp(lambda v: jnp.sqrt(v) * 0, (x,), (dx,))  # <-- culprit


def cotangent(x):
    y, pull = jax.vjp(lambda v: v**0.5, x)  # <-- origin
    return y, pull(jnp.ones_like(y))


def jacobian_forward(x):
    return jax.jacfwd(lambda v: jnp.log(v) * v[0])(x)  # <-- culprit


def jacobian_reverse(x):
    return jax.jacrev(lambda v: jnp.cumsum(1 / v))(x)  # <-- culprit


def hessian(x):
    return jax.hessian(lambda v: jnp.sum(jnp.sqrt(v)))(x)  # <-- culprit


# ---- loops and branches --------------------------------------------------------------------------


def fori_static(x):
    return lax.fori_loop(0, 6, lambda i, v: jnp.sqrt(v) - 1, x)  # <-- culprit


def fori_counted(x, count):
    return lax.fori_loop(2, count, lambda i, v: jnp.sqrt(v) - 1, x)  # <-- culprit


def scan_in_steps(x):
    def body(carry, slice_):
        return carry * slice_, jnp.log(carry)  # <-- culprit

    return lax.scan(body, F32(1), x, reverse=True, unroll=2)


def while_under_vmap(x, count):
    @partial(jax.vmap, in_axes=(0, None))
    def one(v, limit):
        def body(state):
            v, number = state
            return jnp.log(v), number + 1  # <-- culprit

        return lax.while_loop(lambda s: (s[0] > -5) & (s[1] < limit), body, (v, 0))[0]

    return one(x, count)


def cond_on_a_number(x, threshold):
    def safe(v):
        return jnp.where(v < 0, 0.0, v)

    def unsafe(v):
        return jnp.log1p(v)  # <-- culprit

    return lax.cond(jnp.max(x) > threshold, safe, unsafe, x)


def switch_in_scan(kinds, x):
    def body(carry, kind):
        steps = [
            lambda v: v - 1,
            lambda v: 1 / v,  # <-- origin
            lambda v: v * 2,
        ]
        return lax.switch(kind, steps, carry), carry

    return lax.scan(body, x, kinds)


def switch_to_select(kinds, x):
    def one(kind, v):
        branches = [
            lambda v: jnp.sin(v),
            lambda v: jnp.arccosh(v),  # <-- culprit
            lambda v: jnp.sqrt(v),
        ]
        return lax.switch(kind, branches, v)

    return jax.vmap(one)(kinds, x)


def mapped(x):
    return lax.map(lambda row: jnp.sum(row) / jnp.min(row), x)  # <-- culprit


def associative(x):
    def together(a, b):
        return a * b  # <-- origin

    return lax.associative_scan(together, x)


# ---- vmap ----------------------------------------------------------------------------------------


def one_lane(x):
    return jax.vmap(lambda v: jnp.log(v).sum())(x)  # <-- culprit


def lanes_in_lanes(x):
    return jax.vmap(jax.vmap(lambda v: jnp.sqrt(v) + 1))(x)  # <-- culprit


def lanes_by_column(x):
    return jax.vmap(lambda v: jnp.sqrt(v) / v.size, in_axes=1)(x)  # <-- culprit


def lanes_of_scans(x):
    def one(row):
        return lax.scan(lambda c, v: (c + jnp.sqrt(v), c), F32(0), row)[0]  # <-- culprit

    return jax.vmap(one)(x)


def lanes_of_gradients(x):
    def value(v):
        return jnp.linalg.norm(v)  # <-- culprit

    return jax.vmap(jax.grad(value))(x)


def late_in_a_while(x, count):
    def body(state):
        v, number = state
        return v + jnp.sqrt(70.5 - number), number + 1  # <-- culprit

    return lax.while_loop(lambda s: s[1] < count, body, (x, 0))[0]


ROWS = np.arange(1, 7, dtype=F32).reshape(2, 3)

TRANSFORMED = {
    "jit in jit, a helper called twice": Fault(
        function=jit_in_jit, faulty=(F32([1, -1]),), harmless=(F32([1, 1]),),
        culprit=None, origin=("div", "pole"), met=((1,), (0,)),
    ),
    "remat": Fault(
        function=checkpointed, faulty=(F32([4, -1]),), harmless=(F32([4, 1]),),
        culprit=("sqrt", "domain"), met=((-1,),),
    ),
    "custom_jvp": Fault(
        function=custom_jvp, faulty=(F32([2, -3]),), harmless=(F32([2, 3]),),
        culprit=("log", "domain"), met=((-3,),),
    ),
    "custom_vjp": Fault(
        function=custom_vjp, faulty=(F32([2, -3]),), harmless=(F32([2, 3]),),
        culprit=("sqrt", "domain"), phase="backward", met=((-6,),),
    ),
    "custom_root": Fault(
        function=custom_root, faulty=(F32(-8),), harmless=(F32(8e4),),
        culprit=("sqrt", "domain"), iterations=(0,), met=((-7,),),
    ),
    "custom_linear_solve": Fault(
        function=custom_linear_solve, faulty=(F32([1, 0]), F32([1, 0])),
        harmless=(F32([1, 2]), F32([1, 0])), culprit=("div", "0/0"), met=((0,), (0,)),
    ),
    "shard_map": Fault(
        function=over_devices, faulty=(F32([1, 2, 3, -4]),), harmless=(F32([1, 2, 3, 4]),),
        culprit=("log", "domain"), met=((-4,),),
    ),
    "grad": Fault(
        function=gradient, faulty=(F32([4, 0]),), harmless=(F32([4, 1]),),
        culprit=None, origin=("div", "pole"), phase="backward", met=((0.5,), (0,)),
    ),
    "value_and_grad": Fault(
        function=value_and_gradient, faulty=(F32([0, 0]),), harmless=(F32([0, 1]),),
        culprit=("mul", "0*inf"), origin=("div", "pole"), phase="backward",
    ),
    "jvp": Fault(
        function=tangent, faulty=(F32([4, 0]), F32([1, 1])),
        harmless=(F32([4, 1]), F32([1, 1])),
        culprit=("mul", "0*inf"), origin=("div", "pole"),
    ),
    "vjp": Fault(
        function=cotangent, faulty=(F32([4, 0]),), harmless=(F32([4, 1]),),
        culprit=None, origin=("pow", "pole"), phase="backward",
    ),
    "jacfwd": Fault(
        function=jacobian_forward, faulty=(F32([2, -1]),), harmless=(F32([2, 1]),),
        culprit=("log", "domain"), met=((-1,),),
    ),
    "jacrev": Fault(
        function=jacobian_reverse, faulty=(F32([2, 1e-30]),), harmless=(F32([2, 1]),),
        culprit=("mul", "0*inf"), origin=("integer_pow", "overflow"), phase="backward", lane=0,
    ),
    "hessian": Fault(
        function=hessian, faulty=(F32([4, -1]),), harmless=(F32([4, 1]),),
        culprit=("sqrt", "domain"), met=((-1,),),
    ),
    "fori_loop of a fixed length": Fault(
        function=fori_static, faulty=(F32([9, 100]),), harmless=(F32([1e30, 1e30]),),
        culprit=("sqrt", "domain"), iterations=(3,),
    ),
    "fori_loop of any length": Fault(
        function=fori_counted, faulty=(F32(4), 9), harmless=(F32(4), 4),
        culprit=("sqrt", "domain"), iterations=(3,), met=((-1,),),
    ),
    "scan, reversed and unrolled": Fault(
        function=scan_in_steps, faulty=(F32([1, 1, -1, 1, 2]),),
        harmless=(F32([-1, 1, 3, 1, 2]),), culprit=("log", "domain"), iterations=(1,),
        met=((-2,),),
    ),
    "while under vmap": Fault(
        function=while_under_vmap, faulty=(F32([0.5, 3, 20]), 3),
        harmless=(F32([9, 30, 20]), 2),
        culprit=("log", "domain"), iterations=(1,), lane=0, met=((np.log(0.5),),),
    ),
    "cond": Fault(
        function=cond_on_a_number, faulty=(F32([0, -3]), F32(1)), harmless=(F32([2, -3]), F32(1)),
        culprit=("log1p", "domain"), met=((-3,),),
    ),
    "switch in a scan": Fault(
        function=switch_in_scan, faulty=(np.int32([2, 0, 0, 1]), F32(1)),
        harmless=(np.int32([2, 0, 2, 1]), F32(1)), culprit=None, origin=("div", "pole"),
        iterations=(3,), met=((1,), (0,)),
    ),
    "switch turned to a selection": Fault(
        function=switch_to_select, faulty=(np.int32([0, 2, 1]), F32([1.5, 1, 0.25])),
        harmless=(np.int32([0, 2, 1]), F32([1.5, 1, 4])), culprit=("acosh", "domain"),
        lane=2, met=((0.25,),),
    ),
    "lax.map": Fault(
        function=mapped, faulty=(F32([[1, 2], [3, 4], [0, 0]]),),
        harmless=(F32([[1, 2], [3, 4], [1, 0.5]]),), culprit=("div", "0/0"), iterations=(2,),
        met=((0,), (0,)),
    ),
    "associative_scan": Fault(
        function=associative, faulty=(F32([1e20, 1e20, 1, 1]),), harmless=(F32([2, 3, 4, 5]),),
        culprit=None, origin=("mul", "overflow"), met=((1e20,), (1e20,)),
    ),
    "vmap": Fault(
        function=one_lane, faulty=(F32([[1, 2], [3, 4], [5, -6]]),),
        harmless=(F32([[1, 2], [3, 4], [5, 6]]),), culprit=("log", "domain"), lane=2,
        met=((-6,),),
    ),
    "vmap in vmap": Fault(
        function=lanes_in_lanes, faulty=(F32([[[1], [2]], [[3], [-4]]]),),
        harmless=(F32([[[1], [2]], [[3], [4]]]),), culprit=("sqrt", "domain"), lane=(1, 1),
        met=((-4,),),
    ),
    "vmap by column": Fault(
        function=lanes_by_column, faulty=(F32([[1, 2, 3], [4, 5, -6]]),),
        harmless=(ROWS,), culprit=("sqrt", "domain"), lane=2, met=((-6,),),
    ),
    "vmap of a scan": Fault(
        function=lanes_of_scans, faulty=(F32([[1, 2, 3], [4, 5, -6]]),), harmless=(ROWS,),
        culprit=("sqrt", "domain"), iterations=(2,), lane=1, met=((-6,),),
    ),
    "vmap of a gradient": Fault(
        function=lanes_of_gradients, faulty=(F32([[1, 2, 3], [0, 0, 0]]),), harmless=(ROWS,),
        culprit=("mul", "0*inf"), origin=("div", "pole"), phase="backward", lane=1,
    ),
    "late in a while loop": Fault(
        function=late_in_a_while, faulty=(F32(1), 90), harmless=(F32(1), 70),
        culprit=("sqrt", "domain"), iterations=(71,), met=((-0.5,),),
    ),
}  # fmt: skip
