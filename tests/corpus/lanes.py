"""Program under vmap -> lane: one element of the batch goes bad, and the others do not."""

import jax
import jax.numpy as jnp
from jax import lax

from corpus.case import Built, case, f32, normal


@case(
    title="batch of Gaussian log-likelihoods, one predicted variance below zero",
    source="variance heads without softplus (class)",
    primitive="log",
    mechanism="domain",
    phase="forward",
    lane=3,
)
def lane_negative_variance() -> Built:
    def nll(variance, error):
        return 0.5 * jnp.sum(jnp.log(variance) + error**2)  # <-- culprit

    variances = jnp.ones((5, 2)).at[3, 1].set(-0.1)
    return jax.vmap(nll), (variances, normal(90, 5, 2))


@case(
    title="every column standardised by vmap over axis 1, one column constant",
    source="standardisation of a constant feature (class)",
    primitive="div",
    mechanism="0/0",
    phase="forward",
    lane=1,
)
def lane_constant_column() -> Built:
    def standardise(column):
        return (column - column.mean()) / column.std()  # <-- culprit

    return jax.jit(jax.vmap(standardise, in_axes=1)), (normal(91, 6, 4).at[:, 1].set(3.0),)


@case(
    title="logarithm of every column by vmap over axis 1, one column with a zero",
    source="log features over columns with zeros (class)",
    origin="log",
    mechanism="pole",
    phase="forward",
    lane=2,
)
def lane_column_with_zero() -> Built:
    def entropy_like(column):
        return -jnp.sum(jnp.log(column))  # <-- origin

    columns = jnp.ones((5, 4)).at[3, 2].set(0.0)
    return jax.vmap(entropy_like, in_axes=1), (columns,)


@case(
    title="candidate weight vectors against one shared data matrix: one overflows",
    source="population-based search over weights (class)",
    origin="dot_general",
    mechanism="overflow",
    phase="forward",
    lane=4,
)
def lane_of_population() -> Built:
    def score(w, x):
        return jnp.max(x @ w)  # <-- origin

    population = jnp.ones((6, 3)).at[4].set(3e38)
    return jax.jit(jax.vmap(score, in_axes=(0, None))), (population, jnp.ones((2, 3)))


@case(
    title="pairwise log-distances by nested vmap, one pair of points coincides",
    source="pairwise potentials without a cut-off (jax-ml/jax#654 class)",
    origin="log",
    mechanism="pole",
    phase="forward",
    lane=(1, 3),
)
def lane_of_pair() -> Built:
    def potential(a, b):
        return -jnp.log(jnp.abs(a - b))  # <-- origin

    pairs = jax.vmap(jax.vmap(potential, in_axes=(None, 0)), in_axes=(0, None))
    return pairs, (jnp.array([0.0, 2.0]), jnp.array([1.0, 3.0, 4.0, 2.0]))


@case(
    title="a sweep of learning rates in one program: the largest diverges",
    source="vmapped hyperparameter sweeps (class)",
    primitive="sub",
    mechanism="inf-inf",
    phase="forward",
    first_inf="mul",
    lane=2,
    iterations=(4,),
)
def lane_learning_rate() -> Built:
    def train(rate):
        def body(w, _):
            slope = 4.0 * w * (w * w - 1.0)
            w = w - rate * slope  # <-- culprit
            return w, w

        return lax.scan(body, f32(0.5), None, length=8)[1]

    return jax.jit(jax.vmap(train)), (jnp.array([0.01, 0.05, 10.0, 0.1]),)


@case(
    title="batch of Euler solutions, time along the leading axis of the input: one grows too fast",
    source="patrick-kidger/diffrax#500 (some elements of a batch of solves go bad)",
    origin="mul",
    mechanism="overflow",
    phase="forward",
    lane=1,
    iterations=(3,),
)
def lane_of_solutions() -> Built:
    def solve(y0, forcing):
        def body(y, drive):
            y = y * (1.0 + drive)  # <-- origin
            return y, None

        return lax.scan(body, y0, forcing)[0]

    forcing = jnp.full((6, 3), 0.1).at[:, 1].set(1e10)
    return jax.vmap(solve, in_axes=(0, 1)), (jnp.ones(3), forcing)


@case(
    title="per-example gradients of a norm, one example is zero",
    source="jax-ml/jax#3058",
    primitive="mul",
    mechanism="0*inf",
    phase="backward",
    first_inf="div",
    lane=2,
)
def lane_of_gradient() -> Built:
    def penalty(w, x):
        return jnp.linalg.norm(w * x)  # <-- culprit

    examples = normal(92, 4, 3).at[2].set(0.0)
    return jax.vmap(jax.grad(penalty), in_axes=(None, 0)), (jnp.ones(3), examples)


@case(
    title="Newton's method for many roots in one while loop: one starts where the slope is zero",
    source="google/flax#4700, jax-ml/jax#441 (while loops whose lanes differ in their trips)",
    origin="div",
    mechanism="pole",
    phase="forward",
    decoy="div",
    lane=1,
    iterations=(0,),
    note="the lane is done after its step to inf; what the loop computes for it then is dropped",
)
def lane_newton_zero_slope() -> Built:
    def root(start, target):
        def going(state):
            count, x, change = state
            return (jnp.abs(change) > 1e-4) & (jnp.abs(x) < 1e6) & (count < 20)

        def body(state):
            count, x, _ = state
            change = (x * x - target) / (2.0 * x)  # <-- origin
            return count + 1, x - change, change

        return lax.while_loop(going, body, (0, start, f32(1.0)))[1]

    return jax.vmap(root), (jnp.array([1.0, 0.0, 50.0]), jnp.array([2.0, 2.0, 9.0]))


@case(
    title="squaring until a bound is met, a count for each lane: one is asked for too many",
    source="google/flax#4700 (a loop count for each lane)",
    origin="mul",
    mechanism="overflow",
    phase="forward",
    lane=2,
    iterations=(4,),
)
def lane_trip_counts() -> Built:
    def power(base, count):
        def body(state):
            done, x = state
            return done + 1, x * x  # <-- origin

        return lax.while_loop(lambda state: state[0] < count, body, (0, base))[1]

    return jax.jit(jax.vmap(power, in_axes=(None, 0))), (f32(30.0), jnp.array([1, 4, 6, 2]))


@case(
    title="normalisation with a guard on its result: the gradient of the one zero vector is NaN",
    source="jax-ml/jax#4047 (NaN gradients once the function is vmapped)",
    primitive="mul",
    mechanism="0*inf",
    phase="backward",
    decoy="div",
    first_inf="div",
    causal_inf="integer_pow",
    lane=1,
    note="0/0 is guarded; the derivative of x/n by n has a 1/n**2 that is not",
)
def lane_guarded_normalisation() -> Built:
    def unit(x):
        normalised = x / jnp.sqrt(jnp.sum(x * x))  # <-- culprit
        return jnp.where(jnp.all(x == 0.0), 0.0, normalised)

    def total(vectors):
        return jnp.sum(jax.vmap(unit)(vectors))

    return jax.grad(total), (normal(93, 4, 3).at[1].set(0.0),)


@case(
    title="control: the same guard as a cond, which under vmap selects its operands too",
    source="control; jax-ml/jax#9159",
    decoy="div",
    first_inf="div",
)
def ctl_lane_cond_guard() -> Built:
    def unit(x):
        return x / jnp.sqrt(jnp.sum(x * x))  # <-- decoy

    def total(vectors):
        safe = jax.vmap(lambda x: lax.cond(jnp.all(x == 0.0), jnp.zeros_like, unit, x))
        return jnp.sum(safe(vectors))

    return jax.grad(total), (normal(93, 4, 3).at[1].set(0.0),)


@case(
    title="rows masked with -inf, one row masked whole",
    source="attention over padded rows",
    primitive="sub",
    mechanism="inf-inf",
    phase="forward",
    causal_inf="constant",
    lane=2,
)
def lane_masked_row() -> Built:
    def attend(scores, mask):
        kept = jnp.where(mask, scores, -jnp.inf)
        weights = jnp.exp(kept - jnp.max(kept))  # <-- culprit
        return weights / jnp.sum(weights)

    masks = jnp.ones((4, 3), bool).at[2].set(False)
    return jax.vmap(attend), (normal(94, 4, 3), masks)


@case(
    title="inverse distances, zeros allowed where they are masked: one is not",
    source="masks that follow the division (class)",
    origin="div",
    mechanism="pole",
    phase="forward",
    lane=2,
    note="lane 0 has an inf too, which the mask takes away",
)
def lane_masked_elsewhere() -> Built:
    def weight(distance, keep):
        inverse = 1.0 / distance  # <-- origin
        return jnp.where(keep, inverse, 0.0)

    distances = jnp.array([0.0, 2.0, 0.0, 4.0])
    return jax.vmap(weight), (distances, jnp.array([False, True, True, True]))


CASES = (
    lane_negative_variance,
    lane_constant_column,
    lane_column_with_zero,
    lane_of_population,
    lane_of_pair,
    lane_learning_rate,
    lane_of_solutions,
    lane_of_gradient,
    lane_newton_zero_slope,
    lane_trip_counts,
    lane_guarded_normalisation,
    ctl_lane_cond_guard,
    lane_masked_row,
    lane_masked_elsewhere,
)
