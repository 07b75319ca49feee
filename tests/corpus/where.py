"""Selections and norms whose gradient is NaN where their value is not."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from corpus.case import Built, case, f32, initial, normal


@case(
    title="sqrt in the unselected branch of where, gradient at 0",
    source="jax-ml/jax#5798",
    primitive="mul",
    mechanism="0*inf",
    phase="backward",
    first_inf="div",
)
def where_sqrt_grad() -> Built:
    def f(x):
        y = jnp.sqrt(x)  # <-- culprit
        return jnp.where(x < 1.0, x, y)

    return jax.grad(f), (f32(0.0),)


@case(
    title="arctan2(a, a) masked out afterwards, gradient at the origin",
    source="jax-ml/jax#1052",
    primitive="div",
    mechanism="0/0",
    phase="backward",
    note=(
        "the 0/0 sits in a residual of the derivative rule, so it is emitted during the forward "
        "sweep"
    ),
)
def where_arctan2() -> Built:
    def f(a):
        b = jnp.arctan2(a, a)  # <-- culprit
        return jnp.sum(jnp.where(jnp.array([0.0, 1.0, 0.0]) > 0.5, 0.0, b))

    return jax.grad(f), (jnp.array([3.0, 0.0, -5.0]),)


@case(
    title="pairwise energy with the diagonal masked after the division",
    source="jax-ml/jax#654",
    primitive="mul",
    mechanism="0*inf",
    phase="backward",
    first_inf="div",
    causal_inf="integer_pow",
    note="q/0=inf on the diagonal is masked by where; d/d(dist) multiplies a zero cotangent by inf",
)
def pairwise_coulomb_diag() -> Built:
    q = jnp.array([1.3, 0.3, 0.5, 0.2])

    def energy(pos):
        delta = pos[:, None] - pos[None]
        d2 = jnp.sum(delta**2, -1)
        e = q[:, None] * q[None] / d2  # <-- culprit
        return 0.5 * jnp.sum(jnp.where(jnp.eye(4, dtype=bool), 0.0, e))

    return jax.grad(energy), (normal(0, 4, 3),)


@case(
    title="where(x>0, x**0.5, 0) gradient at 0 through lax.pow",
    source="tensorflow/tensorflow#38349 (where + gradient), translated",
    primitive="mul",
    mechanism="0*inf",
    phase="backward",
    first_inf="pow",
)
def pow_frac_where() -> Built:
    def f(x, p):
        r = jnp.power(x, p)  # <-- culprit
        return jnp.sum(jnp.where(x > 0, r, 0.0))

    return jax.grad(f), (jnp.array([4.0, 0.0]), f32(0.5))


@case(
    title="focal loss with gamma<1: (1-p)**gamma at p==1",
    source="google-deepmind/optax#1267; kornia/kornia#918; liuyuisanai/Focal-Loss#11",
    primitive="mul",
    mechanism="0*inf",
    phase="backward",
    first_inf="pow",
)
def focal_loss_gamma_half() -> Built:
    def loss(logits, gamma):
        p = jax.nn.sigmoid(logits)
        w = jnp.power(1.0 - p, gamma)  # <-- culprit
        return -jnp.mean(w * jnp.log(p))

    return jax.grad(loss), (jnp.array([0.3, 40.0, -1.0]), f32(0.5))


@case(
    title="gradient of linalg.norm(x)**2 at 0",
    source="jax-ml/jax#21723, jax-ml/jax#4177",
    primitive="mul",
    mechanism="0*inf",
    phase="backward",
    first_inf="div",
)
def norm_squared_grad() -> Built:
    def f(x):
        n = jnp.linalg.norm(x)  # <-- culprit
        return n**2

    return jax.grad(f), (jnp.zeros(3),)


@case(
    title="distance between identical points: inf from sqrt, NaN one op earlier",
    source="pytorch/pytorch#2421; huggingface/sentence-transformers#4033",
    primitive="mul",
    mechanism="0*inf",
    phase="backward",
    first_inf="div",
    note="the inf comes from the sqrt line, the NaN from the square line before it",
)
def euclid_distance_same_point() -> Built:
    def f(a, b):
        d2 = jnp.sum((a - b) ** 2)  # <-- culprit
        return jnp.sqrt(d2)

    return jax.grad(f), (jnp.ones(3), jnp.ones(3))


@case(
    title="WGAN-GP: the critic's input gradient is exactly 0, norm has no derivative",
    source="keras-team/keras-io#910; pytorch/pytorch#2534",
    primitive="mul",
    mechanism="0*inf",
    phase="backward",
    first_inf="div",
)
def wgan_gp_zero_grad() -> Built:
    class Critic(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.leaky_relu(nn.Dense(16)(x))
            return nn.Dense(1, kernel_init=nn.initializers.zeros)(h)[..., 0]

    model, tx = Critic(), optax.adam(1e-3)
    x = normal(2, 8, 4)
    params = initial(model, jax.random.PRNGKey(0), x)

    def loss(p, x):
        gx = jax.vmap(jax.grad(lambda xi: model.apply(p, xi)))(x)
        sq = jnp.sum(jnp.square(gx), axis=-1)  # <-- culprit
        return jnp.mean((jnp.sqrt(sq) - 1.0) ** 2)

    @jax.jit
    def step(p, s, x):
        value, g = jax.value_and_grad(loss)(p, x)
        u, s = tx.update(g, s, p)
        return optax.apply_updates(p, u), s, value

    return step, (params, tx.init(params), x)


@case(
    title="a shared jitted helper is fine at its first call and NaN at its second",
    source="jax-ml/jax#475 (which op, which line?)",
    primitive="div",
    mechanism="0/0",
    phase="forward",
    note="the helper's jaxpr is cached: both calls share one traced body",
)
def nested_jit_second_call() -> Built:
    @jax.jit
    def unit(v):
        n = jnp.sqrt(jnp.sum(v * v))
        return v / n  # <-- culprit

    @jax.jit
    def f(a, b):
        u = unit(a)
        w = unit(b - b)  # <-- also
        return u @ w

    return f, (jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]))


@case(
    title="FID-like sqrt of eigenvalues of a rank-deficient covariance product",
    source="FID implementations (sqrtm of rank-deficient covariances); GRIST class sqrt",
    primitive="sqrt",
    mechanism="domain",
    phase="forward",
)
def fid_negative_eigenvalue() -> Built:
    def f(x):
        xc = x - x.mean(0)
        cov = xc.T @ xc / (x.shape[0] - 1)
        w = jnp.linalg.eigvalsh(cov - 1e-3 * jnp.eye(cov.shape[0]))
        return jnp.sum(jnp.sqrt(w))  # <-- culprit

    return f, (normal(5, 4, 6),)


CASES = (
    where_sqrt_grad,
    where_arctan2,
    pairwise_coulomb_diag,
    pow_frac_where,
    focal_loss_gamma_half,
    norm_squared_grad,
    euclid_distance_same_point,
    wgan_gp_zero_grad,
    nested_jit_second_call,
    fid_negative_eigenvalue,
)
