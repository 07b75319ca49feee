"""Small programs with a planted fault: the same program is harmless with other arguments.

The culprit's line ends in `# <-- culprit`; where only an inf is made, the origin's in
`# <-- origin`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

F32 = np.float32


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A program, and what makes the first NaN of its faulty run.

    Attributes:
        function: of one lane's arguments.
        faulty, harmless: arguments with which it fails, and with which it does not.
        culprit: primitive and mechanism; None if it only makes an inf.
        origin: the same of what made the first inf that led to it; None if that is the culprit.
        phase, iterations: the culprit's, or the origin's if there is no culprit.
    """

    function: Callable[..., Any]
    faulty: tuple[Any, ...]
    harmless: tuple[Any, ...]
    culprit: tuple[str, str] | None
    origin: tuple[str, str] | None = None
    phase: str = "forward"
    iterations: tuple[int, ...] = ()


def straight(x):
    y = x * x
    return y - 2 * y  # <-- culprit


def benign_first(x):
    kept = jnp.where(x > 0, jnp.log(x), 0.0)  # <-- decoy
    return kept + jnp.sqrt(x + 1)  # <-- culprit


def only_an_inf(x):
    return 1 + jnp.exp(x)  # <-- origin


def inf_that_comes_back(x):
    return 1 / (1 / x) + jnp.log(x + 1)  # <-- culprit


def nan_from_outside(x):
    return jnp.tanh(x) * 2  # <-- culprit


def inf_from_outside(x):
    return x - x  # <-- culprit


def nan_written_down(x):
    held = jnp.where(x > 0, x, np.nan)  # <-- culprit
    return held + 1


def inf_written_down(x):
    return jnp.exp(-x * np.inf)  # <-- culprit


def scan_forward(x, xs):
    def body(carry, slice_):
        grown = jnp.exp(slice_)
        return carry + grown - grown, carry  # <-- culprit

    return lax.scan(body, x, xs)


def scan_reversed(xs):
    def body(carry, x):
        return carry + x / x, x  # <-- culprit

    return lax.scan(body, F32(0), xs, reverse=True)


def scan_into_its_slices(xs):
    def body(carry, x):
        return carry + 1, jnp.log(x)  # <-- culprit

    return lax.scan(body, F32(0), xs)[1]


def scans_nested(rows):
    def inner(carry, x):
        return carry + jnp.sqrt(x), None  # <-- culprit

    def outer(carry, row):
        return lax.scan(inner, carry, row, reverse=True)[0], carry

    return lax.scan(outer, F32(0), rows)


def while_counted(x, count):
    def body(state):
        x, number = state
        return jnp.log(x), number + 1  # <-- culprit

    return lax.while_loop(lambda state: state[1] < count, body, (x, 0))[0]


def while_late(x, count):
    # The best so far is inf from the first iteration on, so that recording begins there.
    def body(state):
        x, best, number = state
        grown = jnp.exp(x)
        return x + 1 + 0 * (grown - grown), best, number + 1  # <-- culprit

    return lax.while_loop(lambda state: state[2] < count, body, (x, jnp.exp(x * 0 + 100), 0))[0]


def while_in_scan(xs, counts):
    def step(total, slice_):
        x, count = slice_
        found = lax.while_loop(
            lambda state: state[1] < count,
            lambda state: (jnp.log(state[0]), state[1] + 1),  # <-- culprit
            (x, 0),
        )
        return total + found[0], found[1]

    return lax.scan(step, F32(0), (xs, counts))


def whiles_side_by_side(xs, counts):
    def one(x, count):
        def body(state):
            x, number = state
            return jnp.log(x), number + 1  # <-- culprit

        return lax.while_loop(lambda state: state[1] < count, body, (x, 0))[0]

    return jax.vmap(one)(xs, counts)


def branch(x):
    def unsafe(v):
        return jnp.sqrt(v)  # <-- culprit

    return lax.cond(x > 0, lambda v: v, unsafe, x - 1)


def branch_not_taken(x):
    def unsafe(v):
        return v / v  # <-- culprit

    return lax.cond(x > 0, lambda v: v * 2, unsafe, x)


def switch(kind, x):
    def third(v):
        return jnp.exp(v * 1e3) / 2  # <-- origin

    return lax.switch(kind, [jnp.sin, jnp.cos, third], x)


def branch_in_scan(xs):
    def body(carry, x):
        step = lax.cond(x < 0, lambda v: jnp.log(v), lambda v: v, x)  # <-- culprit
        return carry + step, step

    return lax.scan(body, F32(0), xs)


def where_trap(x):
    def value(x):
        root = jnp.sqrt(x)  # <-- culprit
        return jnp.sum(jnp.where(x > 0, root, 0.0))

    return jax.grad(value)(x)


def where_trap_value(x):
    return jnp.where(x > 0, jnp.log(x), 0.0) + jnp.log(x + 2)  # <-- culprit


def gradient_of_scan(x, xs):
    def value(x):
        def body(carry, slice_):
            return jnp.sqrt(carry * slice_), None  # <-- culprit

        return lax.scan(body, x, xs)[0]

    return jax.value_and_grad(value)(x)


def helper_called_twice(x):
    @jax.jit
    def share(v):
        return v / jnp.sum(v)  # <-- culprit

    return share(x + 1) + share(x)


def descent_step(weight, lr):
    def loss(weight):
        return 0.5 * weight * weight

    value, gradient = jax.value_and_grad(loss)(weight)
    return weight - lr * gradient, value  # <-- culprit


def decayed_step(weight, decay):
    gradient = jax.grad(lambda w: jnp.sum(jnp.sin(w)))(weight)
    return weight - 0.1 * (gradient + decay * weight)  # <-- origin


PLANTED = {
    "straight": Planted(
        function=straight, faulty=(F32(1e30),), harmless=(F32(1e3),),
        culprit=("sub", "inf-inf"), origin=("mul", "overflow"),
    ),
    "after a harmless NaN": Planted(
        function=benign_first, faulty=(F32(-2),), harmless=(F32(-0.5),),
        culprit=("sqrt", "domain"),
    ),
    "only an inf": Planted(
        function=only_an_inf, faulty=(F32(200),), harmless=(F32(2),),
        culprit=None, origin=("exp", "overflow"),
    ),
    "after a harmless inf": Planted(
        function=inf_that_comes_back, faulty=(F32(-3),), harmless=(F32(0),),
        culprit=("log", "domain"),
    ),
    "NaN from outside": Planted(
        function=nan_from_outside, faulty=(F32(np.nan),), harmless=(F32(1),),
        culprit=("tanh", "input"),
    ),
    "inf from outside": Planted(
        function=inf_from_outside, faulty=(F32(-np.inf),), harmless=(F32(1e38),),
        culprit=("sub", "inf-inf"), origin=("sub", "input"),
    ),
    "NaN written down": Planted(
        function=nan_written_down, faulty=(F32(-1),), harmless=(F32(1),),
        culprit=("convert_element_type", "constant"),
    ),
    "inf written down": Planted(
        function=inf_written_down, faulty=(F32(0),), harmless=(F32(1),),
        culprit=("mul", "0*inf"), origin=("mul", "constant"),
    ),
    "scan": Planted(
        function=scan_forward, faulty=(F32(1), F32([1, 100, 1, 200])),
        harmless=(F32(1), F32([1, 10, 1, 20])),
        culprit=("sub", "inf-inf"), origin=("exp", "overflow"), iterations=(1,),
    ),
    "scan, reversed": Planted(
        function=scan_reversed, faulty=(F32([1, 0, 2, 0, 3]),), harmless=(F32([1, 2, 3, 4, 5]),),
        culprit=("div", "0/0"), iterations=(3,),
    ),
    "scan, into its slices": Planted(
        function=scan_into_its_slices, faulty=(F32([1, 2, -1, -1]),),
        harmless=(F32([1, 2, 3, 4]),), culprit=("log", "domain"), iterations=(2,),
    ),
    "scan in scan": Planted(
        function=scans_nested, faulty=(F32([[1, 2, 3], [1, -1, 3], [-1, 2, 3]]),),
        harmless=(np.ones((3, 3), F32),), culprit=("sqrt", "domain"), iterations=(1, 1),
    ),
    "while": Planted(
        function=while_counted, faulty=(F32(8), 6), harmless=(F32(8), 3),
        culprit=("log", "domain"), iterations=(3,),
    ),
    "while, late": Planted(
        function=while_late, faulty=(F32(1), 300), harmless=(F32(1), 80),
        culprit=("sub", "inf-inf"), origin=("exp", "overflow"), iterations=(88,),
    ),
    "while in scan": Planted(
        function=while_in_scan, faulty=(F32([8, 9, 8]), np.array([3, 2, 5])),
        harmless=(F32([8, 9, 8]), np.array([3, 2, 1])),
        culprit=("log", "domain"), iterations=(2, 3),
    ),
    "whiles side by side": Planted(
        function=whiles_side_by_side, faulty=(F32([8, 9, 0.5]), np.array([5, 2, 1])),
        harmless=(F32([8, 9, 0.5]), np.array([3, 2, 1])),
        culprit=("log", "domain"), iterations=(3,),
    ),
    "branch": Planted(
        function=branch, faulty=(F32(-1),), harmless=(F32(2),), culprit=("sqrt", "domain"),
    ),
    "branch that is not taken": Planted(
        function=branch_not_taken, faulty=(F32(-0.0),), harmless=(F32(1),),
        culprit=("div", "0/0"),
    ),
    "switch": Planted(
        function=switch, faulty=(2, F32([0, 1])), harmless=(1, F32([0, 1])),
        culprit=None, origin=("exp", "overflow"),
    ),
    "branch in scan": Planted(
        function=branch_in_scan, faulty=(F32([1, 2, -3, 4]),), harmless=(F32([1, 2, 3, 4]),),
        culprit=("log", "domain"), iterations=(2,),
    ),
    "where in a gradient": Planted(
        function=where_trap, faulty=(F32([4, 0]),), harmless=(F32([4, 1]),),
        culprit=("mul", "0*inf"), origin=("div", "pole"), phase="backward",
    ),
    "where in a value": Planted(
        function=where_trap_value, faulty=(F32(-3),), harmless=(F32(-1),),
        culprit=("log", "domain"),
    ),
    "gradient of a scan": Planted(
        function=gradient_of_scan, faulty=(F32(2), F32([1, 0, 0, 1])),
        harmless=(F32(2), F32([1, 2, 3, 4])),
        culprit=("mul", "0*inf"), origin=("div", "pole"), phase="backward", iterations=(2,),
    ),
    "helper called twice": Planted(
        function=helper_called_twice, faulty=(F32([0, 0]),), harmless=(F32([1, 0]),),
        culprit=("div", "0/0"),
    ),
    "update": Planted(
        function=descent_step, faulty=(F32(np.inf), F32(0.1)), harmless=(F32(1e10), F32(0.1)),
        culprit=("sub", "inf-inf"), origin=("mul", "input"), phase="update",
    ),
    "decay": Planted(
        function=decayed_step, faulty=(F32(1e30), F32(1e10)), harmless=(F32(1e3), F32(1e10)),
        culprit=None, origin=("mul", "overflow"), phase="update",
    ),
}  # fmt: skip
