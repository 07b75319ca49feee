"""Program -> inf and no NaN: what leaves the range or stands at a pole, and stays inf."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import gammaln

from corpus.case import Built, case, f32, initial, normal

f16 = jnp.float16


@case(
    title="Poisson regression with a log link: one large linear predictor",
    source="catboost/catboost#1829",
    origin="exp",
    mechanism="overflow",
    phase="forward",
)
def poisson_log_link() -> Built:
    @jax.jit
    def loss(w, x, counts):
        eta = x @ w
        rate = jnp.exp(eta)  # <-- origin
        return jnp.mean(rate - counts * eta)

    x = jnp.abs(normal(80, 6, 3)).at[4].set(40.0)
    return loss, (jnp.ones(3), x, jnp.arange(6.0))


@case(
    title="squared error of an unscaled target in float16",
    source="tensorflow/tensorflow#38357 (the loss itself overflows in float16)",
    origin="integer_pow",
    mechanism="overflow",
    phase="forward",
)
def fp16_squared_error() -> Built:
    @jax.jit
    def loss(prediction, target):
        return (prediction - target) ** 2  # <-- origin

    return loss, (jnp.array([1.0, 2.0, 3.0], f16), jnp.array([0.0, 300.0, 4.0], f16))


@case(
    title="mean of large finite numbers as a sum over a count",
    source="pytorch/pytorch#44350",
    origin="reduce_sum",
    mechanism="overflow",
    phase="forward",
)
def mean_by_sum() -> Built:
    def mean(x):
        return jnp.sum(x, axis=1) / x.shape[1]  # <-- origin

    return mean, (jnp.ones((3, 4)).at[1].set(3e38),)


@case(
    title="sum in float16, kept in float16 for a later division",
    source="numpy/numpy#7930; chainer/chainer#7681",
    origin="convert_element_type",
    mechanism="overflow",
    phase="forward",
    note="jnp.sum adds in float32 and casts the sum",
)
def fp16_running_sum() -> Built:
    @jax.jit
    def accumulate(total, count, x):
        return total + jnp.sum(x), count + x.size  # <-- origin

    return accumulate, (f16(0), 0, jnp.full((300,), 500.0, f16))


@case(
    title="weights beyond 65504 cast to float16 on export",
    source="google-ai-edge/mediapipe-samples#408 (overflow encountered in cast)",
    origin="convert_element_type",
    mechanism="overflow",
    phase="forward",
)
def fp16_export() -> Built:
    def export(params):
        return jax.tree.map(lambda p: p.astype(jnp.float16), params)  # <-- origin

    return export, ({"kernel": normal(81, 3, 3), "scale": jnp.array([1.0, 7e4])},)


@case(
    title="attention logits in float16: the product overflows before it is scaled",
    source="mlc-ai/mlc-llm#1638; ultralytics/ultralytics#24990; stanford-crfm/mistral#66",
    origin="dot_general",
    mechanism="overflow",
    phase="forward",
)
def fp16_attention_logits() -> Built:
    def logits(q, k):
        scores = q @ k.T  # <-- origin
        return scores / jnp.sqrt(f16(q.shape[-1]))

    q = jnp.ones((3, 64), f16).at[1].set(40.0)
    return logits, (q, jnp.full((2, 64), 30.0, f16))


@case(
    title="feed-forward block in float16 whose hidden units are large",
    source="T5-like transformers trained in bfloat16 and run in float16 (class)",
    origin="dot_general",
    mechanism="overflow",
    phase="forward",
    module="Block/wo",
)
def fp16_feed_forward() -> Built:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            ones = nn.initializers.constant(3.0)
            h = nn.relu(nn.Dense(64, name="wi", dtype=f16, kernel_init=ones)(x))
            out = nn.Dense(4, name="wo", dtype=f16, kernel_init=ones)(h)  # <-- origin
            return x + out

    net, x = Block(), jnp.full((2, 4), 60.0)
    return jax.jit(net.apply), (initial(net, jax.random.PRNGKey(0), x), x)


@case(
    title="log-determinant by the logarithm of the product of the eigenvalues",
    source="scikit-learn/scikit-learn#33",
    origin="reduce_prod",
    mechanism="overflow",
    phase="forward",
)
def logdet_by_product() -> Built:
    @jax.jit
    def logdet(spectrum):
        return jnp.log(jnp.prod(spectrum))  # <-- origin

    return logdet, (jnp.linspace(50.0, 150.0, 24),)


@case(
    title="class weights inverse to the counts, a class that the batch lacks",
    source="balanced class weights over an absent class (class)",
    origin="div",
    mechanism="pole",
    phase="forward",
)
def absent_class_weight() -> Built:
    @jax.jit
    def weights(labels):
        counts = jnp.bincount(labels, length=4)
        return labels.size / (4 * counts)  # <-- origin

    return weights, (jnp.array([0, 0, 1, 3, 1]),)


@case(
    title="cross entropy of a probability that is exactly zero",
    source="FluxML/Flux.jl#139",
    origin="log",
    mechanism="pole",
    phase="forward",
)
def cross_entropy_of_zero() -> Built:
    def loss(logits, labels):
        p = jax.nn.softmax(logits)
        picked = p[jnp.arange(labels.size), labels]
        return -jnp.mean(jnp.log(picked))  # <-- origin

    return jax.jit(loss), (jnp.array([[0.0, 1.0], [200.0, 0.0]]), jnp.array([0, 1]))


@case(
    title="log-cosh error of a large residual",
    source="Lightning-AI/torchmetrics#3488; keras-team/keras#8524",
    origin="cosh",
    mechanism="overflow",
    phase="forward",
)
def log_cosh_error() -> Built:
    def error(prediction, target):
        return jnp.mean(jnp.log(jnp.cosh(prediction - target)))  # <-- origin

    return error, (jnp.array([1.0, 100.0]), jnp.array([0.5, 0.0]))


@case(
    title="prediction of a log1p-transformed target, transformed back",
    source="log1p targets inverted outside the range of the fit (class)",
    origin="expm1",
    mechanism="overflow",
    phase="forward",
)
def expm1_back_transform() -> Built:
    @jax.jit
    def predict(slope, x):
        return jnp.expm1(slope * x)  # <-- origin

    return predict, (f32(0.5), jnp.array([1.0, 20.0, 365.0]))


@case(
    title="Dirichlet normaliser of a concentration that has underflowed to zero",
    source="concentrations by softplus or exp without a floor (class)",
    origin="lgamma",
    mechanism="pole",
    phase="forward",
)
def dirichlet_zero_concentration() -> Built:
    def normaliser(raw):
        a = jnp.exp(raw)
        return jnp.sum(gammaln(a)) - gammaln(jnp.sum(a))  # <-- origin

    return jax.jit(normaliser), (jnp.array([0.0, -120.0, 1.0]),)


@case(
    title="log-factorial of a count in float16",
    source="the full Poisson likelihood in half precision (class)",
    origin="lgamma",
    mechanism="overflow",
    phase="forward",
    note="log(10000!) is 82109: no pole, just more than float16 holds",
)
def fp16_log_factorial() -> Built:
    def constant(counts):
        return gammaln(counts + 1)  # <-- origin

    return constant, (jnp.array([3.0, 1e4], f16),)


@case(
    title="polynomial features of a column that nobody scaled",
    source="polynomial regression on raw time stamps (class)",
    origin="integer_pow",
    mechanism="overflow",
    phase="forward",
)
def polynomial_features() -> Built:
    @jax.jit
    def features(t):
        return jnp.stack([t, t**2, t**5], -1)  # <-- origin

    return features, (jnp.array([1.0, 1.7e9]),)


@case(
    title="inverse standard deviations for whitening, one constant channel, no epsilon",
    source="whitening and normalisation statistics without a floor (class)",
    origin="rsqrt",
    mechanism="pole",
    phase="forward",
)
def whitening_scale() -> Built:
    @jax.jit
    def statistics(x):
        mean = x.mean(0)
        return mean, lax.rsqrt(jnp.mean((x - mean) ** 2, 0))  # <-- origin

    return statistics, (normal(82, 8, 3).at[:, 1].set(2.0),)


@case(
    title="square root of a distance that is zero, summed: the value is fine, the gradient inf",
    source="jax-ml/jax#5798 (the answers: the derivative of sqrt at 0)",
    origin="div",
    mechanism="pole",
    phase="backward",
)
def sqrt_gradient_at_zero() -> Built:
    def total(gaps):
        return jnp.sum(jnp.sqrt(gaps))  # <-- origin

    return jax.value_and_grad(total), (jnp.array([1.0, 0.0, 4.0]),)


@case(
    title="a steep power: the loss is near the largest number, its derivative beyond it",
    source="losses whose value fits and whose derivative does not (class)",
    origin="mul",
    mechanism="overflow",
    phase="backward",
)
def steep_loss_gradient() -> Built:
    def loss(w, scale):
        return jnp.exp(w * scale)  # <-- origin

    return jax.jit(jax.value_and_grad(loss)), (f32(0.85), f32(100.0))


CASES = (
    poisson_log_link,
    fp16_squared_error,
    mean_by_sum,
    fp16_running_sum,
    fp16_export,
    fp16_attention_logits,
    fp16_feed_forward,
    logdet_by_product,
    absent_class_weight,
    cross_entropy_of_zero,
    log_cosh_error,
    expm1_back_transform,
    dirichlet_zero_concentration,
    fp16_log_factorial,
    polynomial_features,
    whitening_scale,
    sqrt_gradient_at_zero,
    steep_loss_gradient,
)
