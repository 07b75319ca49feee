"""Loops in loops, decoys, several steps: where the first NaN in time is not enough."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from corpus.case import Built, case, f32, initial, normal


@case(
    title="epochs x batches training loop: naive BCE saturates at epoch 2, batch 1 only",
    source="keras-team/keras#9247 inside a lax.scan training loop",
    primitive="mul",
    mechanism="0*inf",
    phase="forward",
    first_inf="log",
    iterations=(2, 1),
)
def nested_scan_curriculum() -> Built:
    tx = optax.sgd(1e-3)
    xs = normal(80, 4, 6, 3, scale=0.05).at[1, 2].set(jnp.array([1.0, 1.0, 1.0]))
    ys = jnp.ones((4, 6))

    def loss(w, x, y, s):
        p = jax.nn.sigmoid(s * (x @ w))
        miss = (1.0 - y) * jnp.log(1.0 - p)  # <-- culprit
        return -jnp.mean(y * jnp.log(p) + miss)

    def train(w, st):
        def epoch(c, s):
            def batch(c, xy):
                w, st = c
                value, g = jax.value_and_grad(loss)(w, xy[0], xy[1], s)
                u, st = tx.update(g, st)
                return (optax.apply_updates(w, u), st), value

            return lax.scan(batch, c, (xs, ys))

        return lax.scan(epoch, (w, st), jnp.array([0.1, 1.0, 20.0]))

    w = jnp.ones(3)
    return jax.jit(train), (w, tx.init(w))


@case(
    title="implicit time step: Newton while_loop inside a scan starts at a stationary point at t=4",
    source="implicit integrators / DEQ layers with an inner while_loop",
    primitive="sub",
    mechanism="inf-inf",
    phase="forward",
    first_inf="div",
    iterations=(4, 1),
    also=("mul",),
)
def newton_inside_rollout() -> Built:
    def solve(c, guess):
        def g(x):
            return x * x * x - 3.0 * x - c  # <-- culprit

        def cond(s):
            return (jnp.abs(s[1]) > 1e-5) & (s[2] < 20)

        def body(s):
            x, _, n = s
            d = g(x) / (3.0 * x * x - 3.0)
            return x - d, d, n + 1

        return lax.while_loop(cond, body, (guess, f32(1.0), 0))[0]

    def rollout(x0, guesses):
        def step(x, guess):
            y = solve(0.5 + 0.01 * x, guess)
            return y, y

        return lax.scan(step, x0, guesses)

    return jax.jit(rollout), (f32(0.0), jnp.array([2.0, 2.0, 2.5, 2.0, 1.0, 2.0]))


@case(
    title="harmless NaNs in masked branches every step; the real one is in the optimiser",
    source="jax-ml/jax#5698 (spurious NaNs) + optax#1754",
    primitive="div",
    decoy="log",
    mechanism="0/0",
    phase="update",
    note=(
        "decoy: log(negative) behind stop_gradient and where, in every iteration; real: Adam in "
        "float16, 0/(sqrt(0)+0) for the coordinate that never gets a gradient"
    ),
)
def many_decoys_then_update() -> Built:
    tx = optax.adam(1e-3)
    x = jnp.array([0.5, -0.5, 1.5], jnp.float16)

    def loss(w):
        c = lax.stop_gradient(x - 1.0)
        bonus = jnp.where(c > 0, jnp.log(c), jnp.float16(0))  # <-- decoy
        used = jnp.array([1, 1, 0], jnp.float16)
        return jnp.sum((w * used * x) ** 2) + jnp.float16(0.1) * jnp.sum(bonus)

    def train(w, st):
        def step(c, _):
            w, st = c
            value, g = jax.value_and_grad(loss)(w)
            u, st = tx.update(g, st)  # <-- culprit
            return (optax.apply_updates(w, u), st), value

        return lax.scan(step, (w, st), None, length=5)

    w = jnp.ones(3, jnp.float16)
    return jax.jit(train), (w, tx.init(w))


@case(
    title="two unrolled train steps: the first update overshoots, the second forward is inf-inf",
    source="'loss: 2.3 then nan' reports; ahmetumutdurmus/zaremba#1",
    primitive="sub",
    mechanism="inf-inf",
    phase="forward",
    first_inf="dot_general",
    note="the same source line runs twice; only its second evaluation (step 2) emits the NaN",
)
def second_step_only() -> Built:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.Dense(6, name="body")(x)
            return nn.Dense(3, name="head", use_bias=False)(h)

    net, tx = Net(), optax.sgd(1e38)
    x, y = normal(84, 4, 5), jnp.array([0, 1, 2, 0])
    params = initial(net, jax.random.PRNGKey(0), x)

    def loss(p):
        z = net.apply(p, x)
        return optax.softmax_cross_entropy_with_integer_labels(z, y).mean()  # <-- culprit

    @jax.jit
    def two_steps(p, s):
        for _ in range(2):
            value, g = jax.value_and_grad(loss)(p)
            u, s = tx.update(g, s, p)
            p = optax.apply_updates(p, u)
        return p, value

    return two_steps, (params, tx.init(params))


CASES = (
    nested_scan_curriculum,
    newton_inside_rollout,
    many_decoys_then_update,
    second_step_only,
)
