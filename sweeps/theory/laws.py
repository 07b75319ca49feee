"""Published laws of training as problems: the loss of each is the number that the law predicts.

Each function makes a nanlab.Problem from static choices. Networks are drawn at random from the
run's key; every number is computed in float32 unless the law is about another type.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import nanlab


def linear_pair(activation: str = "linear", width: int = 1024, measure: str = "loss"):
    """Train f(x) = v.phi(u x) / sqrt(width) on x = 1, target 0, squared error f^2 / 2.

    The knob `product` is the learning rate times lambda_0, the curvature at initialization (the
    squared norm of f's gradient). The loss is f^2 / 2 (measure "loss"), or the largest f^2 so far
    over the first one (measure "rise").
    """
    phi = {"linear": lambda z: z, "relu": jax.nn.relu}[activation]

    def output(weights):
        u, v = weights
        return jnp.dot(v, phi(u)) / math.sqrt(width)

    def init(knobs, key):
        weights = tuple(jax.random.normal(key, (2, width), jnp.float32))
        gradient = jax.grad(output)(weights)
        curvature = sum(jnp.sum(g * g) for g in gradient)
        rate = (knobs["product"] / curvature).astype(jnp.float32)
        return weights, rate, output(weights) ** 2, jnp.float32(0.0)

    def step(state, knobs, key):
        weights, rate, first, largest = state
        squared, gradient = jax.value_and_grad(lambda w: 0.5 * output(w) ** 2)(weights)
        largest = jnp.maximum(largest, 2.0 * squared / first)
        loss = squared if measure == "loss" else largest
        moved = jax.tree.map(lambda w, g: w - rate * g, weights, gradient)
        return (moved, rate, first, largest), loss

    return nanlab.Problem(init=init, step=step, knobs={"product": 1.0})


def random_walk(width: int = 32, depth: int = 50, corrected: bool = False):
    """Measure the drift of ln |gradient| per layer in a random ReLU network, from output to input.

    Weights are He's: normal with variance 2 / width. With `corrected`, their standard deviation is
    multiplied by exp(1.2 / (width - 2.4)).
    """
    gain = math.sqrt(2.0) * (math.exp(1.2 / (width - 2.4)) if corrected else 1.0)

    def step(state, knobs, key):
        keys = jax.random.split(key, depth + 2)
        x = jax.random.normal(keys[-1], (width,), jnp.float32)

        def layer(x, key):
            weights = jax.random.normal(key, (width, width), jnp.float32) * gain / math.sqrt(width)
            return jax.nn.relu(weights @ x), None

        _, backward = jax.vjp(lambda x: jax.lax.scan(layer, x, keys[:depth])[0], x)
        delta = jax.random.normal(keys[-2], (width,), jnp.float32)
        drift = jnp.log(jnp.linalg.norm(backward(delta)[0]) / jnp.linalg.norm(delta)) / depth
        return state, drift

    return nanlab.Problem(init=lambda knobs, key: jnp.float32(0.0), step=step, knobs={})


def batch_norm_growth(width: int = 512, depth: int = 12, batch: int = 256):
    """Measure the growth of the squared gradient norm per layer of a deep network with batch norm.

    A layer is relu(batch_norm(W h)); the gradient is that of a random linear function of the last
    layer. The growth is the mean over the middle layers, as a factor.
    """

    def normalized(z):
        z = z - z.mean(axis=0)
        return z / jnp.sqrt(jnp.mean(z * z, axis=0) + 1e-12)

    def weights_of(key):
        return jax.random.normal(key, (width, width), jnp.float32) / math.sqrt(width)

    def step(state, knobs, key):
        keys = jax.random.split(key, depth + 2)

        def forward(h, key):
            return jax.nn.relu(normalized(h @ weights_of(key))), h

        h = jax.random.normal(keys[-1], (batch, width), jnp.float32)
        last, inputs = jax.lax.scan(forward, h, keys[:depth])

        def backward(delta, layer):
            h, key = layer
            (delta,) = jax.vjp(lambda h: forward(h, key)[0], h)[1](delta)
            return delta, jnp.log(jnp.sum(delta * delta))

        delta = jax.random.normal(keys[-2], last.shape, jnp.float32)
        _, logs = jax.lax.scan(backward, delta, (inputs, keys[:depth]), reverse=True)
        first, end = depth // 4, depth - 2
        return state, jnp.exp((logs[first] - logs[end]) / (end - first))

    return nanlab.Problem(init=lambda knobs, key: jnp.float32(0.0), step=step, knobs={})


def softmax_gradient(precision: str = "float32"):
    """Measure the true class's gradient, 1 - p, if its logit leads one other class by `gap`."""

    def step(state, knobs, key):
        gap = knobs["gap"].astype(precision)
        logits = jnp.stack([gap, jnp.zeros_like(gap)])
        return state, jnp.abs(jax.grad(lambda z: -jax.nn.log_softmax(z)[0])(logits)[0])

    return nanlab.Problem(
        init=lambda knobs, key: jnp.zeros((), precision), step=step, knobs={"gap": 1.0}
    )


def power_of(precision: str = "float16", power: int = 1):
    """Measure a number's power in a type; it is 0 where it underflows."""

    def step(state, knobs, key):
        return state, knobs["number"].astype(precision) ** power

    return nanlab.Problem(
        init=lambda knobs, key: jnp.zeros((), precision), step=step, knobs={"number": 1.0}
    )


def residual_blocks(precision: str = "float16", width: int = 256):
    """Add a block x + gain W relu(x) in each step, W with variance 2 / width; no normalization.

    x itself is the state, so that an overflow is a fault: the fault's step is what is measured. The
    loss is 0.
    """

    def init(knobs, key):
        x = jax.random.normal(key, (width,), jnp.float32).astype(precision)
        return x, jnp.float32(0.0)

    def step(state, knobs, key):
        x, blocks = state
        weights = jax.random.normal(key, (width, width), jnp.float32) * math.sqrt(2.0 / width)
        grown = knobs["gain"].astype(precision) * (weights.astype(precision) @ jax.nn.relu(x))
        x = x + grown
        return (x, blocks + 1.0), jnp.zeros(())

    return nanlab.Problem(init=init, step=step, knobs={"gain": 1.0})


def last_layer_gradient(placement: str = "post", depth: int = 8, width: int = 64, tokens: int = 16):
    """Measure the gradient norm of the last feed-forward layer's weights in a transformer at init.

    Attention is uniform over the tokens (queries and keys are 0 at initialization, as in the
    source); all weights are Xavier's. The gradient is that of a random linear function of the
    normalized output.
    """

    def normalized(x):
        x = x - x.mean(-1, keepdims=True)
        return x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-12)

    def attention(x, weights):
        values = jnp.broadcast_to(x.mean(0), x.shape) @ weights["value"]
        return values @ weights["out"]

    def feed_forward(x, weights):
        return jax.nn.relu(x @ weights["up"]) @ weights["down"]

    def block(x, weights):
        for sublayer in (attention, feed_forward):
            if placement == "post":
                x = normalized(x + sublayer(x, weights))
            else:
                x = x + sublayer(normalized(x), weights)
        return x

    def weights_of(key):
        names = ("value", "out", "up", "down")
        drawn = jax.random.normal(key, (4, width, width), jnp.float32) / math.sqrt(width)
        return dict(zip(names, drawn, strict=True))

    def step(state, knobs, key):
        *keys, last, start, end = jax.random.split(key, depth + 2)
        x = jax.random.normal(start, (tokens, width), jnp.float32)
        x, _ = jax.lax.scan(lambda x, k: (block(x, weights_of(k)), None), x, jnp.stack(keys))
        direction = jax.random.normal(end, (tokens, width), jnp.float32) / tokens

        def loss(weights):
            return jnp.sum(direction * normalized(block(x, weights)))

        gradient = jax.grad(loss)(weights_of(last))["down"]
        return state, jnp.linalg.norm(gradient)

    return nanlab.Problem(init=lambda knobs, key: jnp.float32(0.0), step=step, knobs={})


def loss_scaling(precision: str = "float16", examples: int = 200):
    """Train on digits with gradients in float16, from a loss whose weight makes them underflow.

    The tanh network 64-32-10 with squared error, float32 weights, full batches. Its loss is
    multiplied by the knob `weight` and by a scale, both of which the float32 update divides out.
    The scale is 2^doublings times the predicted one: the smallest power of 2^(1/4) at which every
    gradient of the first float32 step, of units and of weights, keeps half of its squared norm when
    it is rounded to float16. In bfloat16 the scale is 1. The loss is the share of the float32
    run's decrease in loss that the run reaches.
    """
    images, targets = _digits(examples)
    rate = 0.5

    def backward(weights, scale, dtype):
        """Return the gradients of the units and of the weights, times `scale`."""
        weights = jax.tree.map(lambda w: w.astype(dtype), weights)
        hidden = jnp.tanh(images.astype(dtype) @ weights["first"] + weights["bias"])
        error = hidden @ weights["second"] + weights["shift"] - targets.astype(dtype)
        second = (error.astype(jnp.float32) * (scale / examples)).astype(dtype)
        first = (second @ weights["second"].T) * (1 - hidden * hidden)
        gradient = {
            "first": images.astype(dtype).T @ first, "bias": first.sum(0),
            "second": hidden.T @ second, "shift": second.sum(0),
        }  # fmt: skip
        return (first, second), gradient

    def predicted(weights, weight):
        gradients = jax.tree.leaves(backward(weights, weight, jnp.float32))

        def survives(scale):
            scaled = [g * scale for g in gradients]
            rounded = [g.astype(jnp.float16).astype(jnp.float32) for g in scaled]
            kept = [jnp.sum(r * r) / jnp.sum(g * g) for r, g in zip(rounded, scaled, strict=True)]
            return jnp.min(jnp.stack(kept)) > 0.5

        scales = 2.0 ** (jnp.arange(-64, 192, dtype=jnp.float32) / 4.0)
        return scales[jnp.argmax(jax.lax.map(survives, scales))]

    def trained(weights, scale, dtype):
        _, gradient = backward(weights, scale, dtype)
        return jax.tree.map(
            lambda w, g: w - rate * (g.astype(jnp.float32) / scale), weights, gradient
        )

    loss_of = _digits_loss(examples)

    def init(knobs, key):
        weights, weight = _tanh_network(key), knobs["weight"].astype(jnp.float32)
        factor = 2.0 ** knobs["doublings"].astype(jnp.float32)
        scale = predicted(weights, weight) * factor if precision == "float16" else 1.0
        return weights, weights, loss_of(weights), scale * weight

    def step(state, knobs, key):
        weights, reference, first, scale = state
        weights = trained(weights, scale, precision)
        reference = trained(reference, jnp.float32(1.0), jnp.float32)
        share = (first - loss_of(weights)) / (first - loss_of(reference))
        return (weights, reference, first, scale), share

    return nanlab.Problem(init=init, step=step, knobs={"doublings": 0.0, "weight": 1.0})


def edge_of_stability(optimizer: str = "sgd", momentum: float = 0.9, examples: int = 200):
    """Train on digits with full batches; measure the curvature along the way.

    A tanh network 64-32-10 with squared error. The loss is the learning rate times the largest
    eigenvalue of the Hessian, preconditioned for Adam, as an exponential average over 200 steps.
    The eigenvector is found by one step of the power method at each training step.
    """
    loss_of = _digits_loss(examples)

    def optimizer_of(rate):
        if optimizer == "adam":
            return optax.adam(rate, b1=0.9, b2=0.99, eps=1e-7)
        return optax.sgd(rate, momentum=momentum if optimizer == "momentum" else None)

    def scales(opt_state):
        """Return the diagonal P^(-1/2) of Adam's preconditioner."""
        if optimizer != "adam":
            return None
        adam = opt_state[0]
        correction = 1.0 - 0.99 ** adam.count.astype(jnp.float32)
        return jax.tree.map(lambda nu: (jnp.sqrt(nu / correction) + 1e-7) ** -0.5, adam.nu)

    def init(knobs, key):
        weights = _tanh_network(key)
        opt_state = optimizer_of(knobs["lr"].astype(jnp.float32)).init(weights)
        vector = _unit(_noise_like(weights, jax.random.fold_in(key, 1)))
        return weights, opt_state, vector, jnp.float32(0.0)

    def step(state, knobs, key):
        weights, opt_state, vector, average = state
        rate = knobs["lr"].astype(jnp.float32)
        gradient = jax.grad(loss_of)(weights)
        updates, opt_state = optimizer_of(rate).update(gradient, opt_state, weights)
        scale = scales(opt_state)
        scaled = vector if scale is None else jax.tree.map(jnp.multiply, scale, vector)
        product = jax.jvp(jax.grad(loss_of), (weights,), (scaled,))[1]
        product = product if scale is None else jax.tree.map(jnp.multiply, scale, product)
        curvature = optax.tree.vdot(vector, product)
        average = average + (rate * curvature - average) / 200.0
        moved = optax.apply_updates(weights, updates)
        return (moved, opt_state, _unit(product), average), average

    return nanlab.Problem(init=init, step=step, knobs={"lr": 0.1})


def adam_spikes(b2: float = 0.999, examples: int = 200):
    """Train the same network with Adam and full batches; count the spikes of the loss.

    A spike begins where the loss is more than twice its exponential average over 50 steps, and
    ends where it is below that average. The loss is the number of spikes per 10,000 steps so far,
    without the first 500 steps.
    """
    loss_of = _digits_loss(examples)

    def optimizer_of(knobs):
        return optax.adam(knobs["lr"].astype(jnp.float32), b1=0.9, b2=b2)

    def init(knobs, key):
        weights = _tanh_network(key)
        counts = jnp.float32(0.0), jnp.float32(0.0)
        return weights, optimizer_of(knobs).init(weights), loss_of(weights), False, counts

    def step(state, knobs, key):
        weights, opt_state, average, is_spike, (spikes, steps) = state
        loss, gradient = jax.value_and_grad(loss_of)(weights)
        updates, opt_state = optimizer_of(knobs).update(gradient, opt_state, weights)
        begins = (loss > 2.0 * average) & ~is_spike & (steps > 500.0)
        is_spike = jnp.where(is_spike, loss > average, begins)
        average = average + (loss - average) / 50.0
        counts = spikes + begins, steps + 1.0
        weights = optax.apply_updates(weights, updates)
        state = weights, opt_state, average, is_spike, counts
        return state, counts[0] * 10_000.0 / jnp.maximum(counts[1] - 500.0, 1.0)

    return nanlab.Problem(init=init, step=step, knobs={"lr": 0.01})


def _digits(examples):
    """Return images of digits, pixels in [0, 1] and centered, and their labels as one-hot rows."""
    images, labels = load_digits(return_X_y=True)
    images = (images[:examples] / 16.0).astype(np.float32)
    return images - images.mean(axis=0), np.eye(10, dtype=np.float32)[labels[:examples]]


def _digits_loss(examples):
    """Return the squared error of a tanh network on digits."""
    images, targets = _digits(examples)

    def loss_of(weights):
        hidden = jnp.tanh(images @ weights["first"] + weights["bias"])
        error = hidden @ weights["second"] + weights["shift"] - targets
        return 0.5 * jnp.mean(jnp.sum(error * error, axis=1))

    return loss_of


def _tanh_network(key):
    """Return the weights of a tanh network 64-32-10."""
    first, second = jax.random.split(key)
    return {
        "first": jax.random.normal(first, (64, 32), jnp.float32) / 8.0,
        "bias": jnp.zeros(32, jnp.float32),
        "second": jax.random.normal(second, (32, 10), jnp.float32) / math.sqrt(32.0),
        "shift": jnp.zeros(10, jnp.float32),
    }


def _unit(tree):
    norm = optax.tree.norm(tree)
    return jax.tree.map(lambda leaf: leaf / norm, tree)


def _noise_like(tree, key):
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    noise = [
        jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, noise)
