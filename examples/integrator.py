"""At which step sizes do explicit methods blow up on a stiff oscillator?

    python -m nanlab.sweep examples/integrator.toml

The equation is van der Pol's, x'' = stiffness (1 - x^2) x' - x. Explicit methods overflow if the
step is too large for the stiffness: cubes of cubes, then inf - inf.
"""

import jax.numpy as jnp

import nanlab


def make_problem(method: str = "euler") -> nanlab.Problem:
    """Build van der Pol's oscillator in float32; `method` is "euler", "heun" or "rk4"."""

    def slope(y, knobs):
        x, v = y
        return jnp.stack([v, knobs["stiffness"] * (1 - x**2) * v - x])

    def euler(y, h, knobs):
        return y + h * slope(y, knobs)

    def heun(y, h, knobs):
        first = slope(y, knobs)
        return y + h / 2 * (first + slope(y + h * first, knobs))

    def rk4(y, h, knobs):
        a = slope(y, knobs)
        b = slope(y + h / 2 * a, knobs)
        c = slope(y + h / 2 * b, knobs)
        d = slope(y + h * c, knobs)
        return y + h / 6 * (a + 2 * b + 2 * c + d)

    advance = {"euler": euler, "heun": heun, "rk4": rk4}[method]

    def init(knobs, key):
        return jnp.array([2.0, 0.0], jnp.float32)

    def step(state, knobs, key):
        state = advance(state, knobs["step_size"], knobs)
        # The loss is the largest of |x| and |x'|, which stays bounded if the method is stable.
        return state, nanlab.Metrics(jnp.max(jnp.abs(state)))

    return nanlab.Problem(init=init, step=step, knobs={"step_size": 0.01, "stiffness": 5.0})
