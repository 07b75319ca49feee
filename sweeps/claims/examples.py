"""The articles' numerical examples as problems, as they are stated there, in any precision.

Each function makes a nanlab.Problem whose loss is the number that the example is about.
"""

import jax
import jax.numpy as jnp

import nanlab

SLOPES = {
    "relu": lambda z: jnp.where(z > 0, jnp.ones_like(z), jnp.zeros_like(z)),
    "tanh": lambda z: 1 - jnp.tanh(z) ** 2,
}


def _number(value, precision):
    return jnp.asarray(value).astype(precision)


def neuron(activation: str = "relu", precision: str = "float32", told: str = "weight"):
    """One neuron, bias 0, upstream gradient 1 (A5, A6, A7).

    What is told: "weight" is the magnitude of the weight, "slope" the activation's derivative,
    "change" by how much more one step moves the pre-activation than it would from weight 1.
    """
    slope = SLOPES[activation]

    def moved(weight, bias, knobs):
        """Weight and bias after a step."""
        x, rate = _number(knobs["input"], precision), _number(knobs["lr"], precision)
        back = slope(weight * x + bias)
        return weight - rate * back * x, bias - rate * back

    def change(weight, knobs):
        x, zero = _number(knobs["input"], precision), _number(0.0, precision)
        after, bias = moved(weight, zero, knobs)
        return jnp.abs(after * x + bias - weight * x)

    def init(knobs, key):
        return _number(knobs["weight"], precision), _number(0.0, precision)

    def step(state, knobs, key):
        weight, bias = state
        if told == "weight":
            loss = jnp.abs(weight)
        elif told == "slope":
            loss = slope(weight * _number(knobs["input"], precision) + bias)
        else:
            loss = change(weight, knobs) / change(_number(1.0, precision), knobs)
        return moved(weight, bias, knobs), loss

    return nanlab.Problem(init=init, step=step, knobs={"weight": 1000.0, "input": 1.0, "lr": 0.01})


def tiny_division(precision: str = "float32"):
    """With x = 1, weight 1e-11: y / 1e-15 where |y| < 1e-10, else y / y (B9)."""

    def step(state, knobs, key):
        y = state * _number(1e-11, precision)
        small = jnp.abs(y) < _number(1e-10, precision)
        return state, jnp.where(small, y / _number(1e-15, precision), y / y)

    return nanlab.Problem(init=lambda knobs, key: _number(1.0, precision), step=step, knobs={})


def log_of(precision: str = "float32"):
    """-log(prediction) of target 1, the prediction moved by its gradient (B10, B17)."""

    def init(knobs, key):
        return _number(knobs["prediction"], precision)

    def step(prediction, knobs, key):
        loss, gradient = jax.value_and_grad(lambda p: -jnp.log(p))(prediction)
        return prediction - _number(knobs["lr"], precision) * gradient, loss

    return nanlab.Problem(init=init, step=step, knobs={"prediction": 1e-20, "lr": 0.0})


def thousands(precision: str = "float32"):
    """[1000] * 3 times two matrices of 3 x 3 filled with 1000 (B11)."""

    def step(x, knobs, key):
        matrix = jnp.full((3, 3), 1000.0, precision)
        return x, ((x @ matrix) @ matrix)[0]

    return nanlab.Problem(
        init=lambda knobs, key: jnp.full(3, 1000.0, precision), step=step, knobs={}
    )


def one_sample(weights: str = "uniform", inputs: str = "as they are", precision: str = "float32"):
    """Linear(10, 1), LeakyReLU(0.01), mean squared error, sgd, one normal sample (C3, C4, C5, C7).

    Weights: "uniform", bound 1 / sqrt(10) for weights and bias; "xavier", bound sqrt(6 / 11) and
    bias 0. Inputs: "as they are", "divided by 1000", "standardized over features", or
    "standardized per feature", which over one sample is (x - x) / 0.
    """

    def sample(knobs, key):
        x = jax.random.normal(jax.random.fold_in(key, 1), (10,), jnp.float32).astype(precision)
        x = x * _number(knobs["input_scale"], precision)
        if inputs == "divided by 1000":
            return x / _number(1000.0, precision)
        if inputs == "standardized over features":
            return (x - x.mean()) / x.std()
        return (x - x) / jnp.std(x[None], axis=0) if inputs == "standardized per feature" else x

    def init(knobs, key):
        bound = 10**-0.5 if weights == "uniform" else (6 / 11) ** 0.5
        drawn = jax.random.uniform(
            jax.random.fold_in(key, 0), (11,), jnp.float32, -bound, bound
        ).astype(precision)
        target = jax.random.normal(jax.random.fold_in(key, 2), (), jnp.float32)
        bias = drawn[10] if weights == "uniform" else jnp.zeros_like(drawn[10])
        data = {"x": sample(knobs, key), "target": target.astype(precision)}
        return {"weights": drawn[:10], "bias": bias, **data}

    def step(state, knobs, key):
        def loss_of(weights, bias):
            z = state["x"] @ weights + bias
            output = jnp.where(z >= 0, z, _number(0.01, precision) * z)
            return jnp.square(output - state["target"])

        loss, (by_weights, by_bias) = jax.value_and_grad(loss_of, (0, 1))(
            state["weights"], state["bias"]
        )
        rate = _number(knobs["lr"], precision)
        with jax.named_scope("update"):
            weights = state["weights"] - rate * by_weights
            bias = state["bias"] - rate * by_bias
        return {**state, "weights": weights, "bias": bias}, loss

    return nanlab.Problem(init=init, step=step, knobs={"lr": 1.0, "input_scale": 1.0})


def sigmoid_network(weights: str = "normal", precision: str = "float32"):
    """10-20-5 sigmoid network, one input, a fresh normal output gradient each step (D1, D2, D3).

    Backpropagation by hand, through the weights that are already updated, as in the article. The
    loss is the share of saturated units: those whose slope is below 0.01.
    """

    def drawn(key, rows, columns):
        deviation = 1.0 if weights == "normal" else (2.0 / (rows + columns)) ** 0.5
        matrix = deviation * jax.random.normal(key, (rows, columns), jnp.float32)
        return matrix.astype(precision)

    def init(knobs, key):
        first, second, third = (jax.random.fold_in(key, i) for i in range(3))
        zeros = jnp.zeros(20, precision), jnp.zeros(5, precision)
        x = jax.random.normal(third, (10,), jnp.float32).astype(precision)
        return x, drawn(first, 10, 20), drawn(second, 20, 5), *zeros

    def step(state, knobs, key):
        x, inner, outer, inner_bias, outer_bias = state
        rate = _number(knobs["lr"], precision)
        hidden = jax.nn.sigmoid(x @ inner + inner_bias)
        output = jax.nn.sigmoid(hidden @ outer + outer_bias)
        slopes = jnp.concatenate([hidden * (1 - hidden), output * (1 - output)])
        saturated = jnp.mean((slopes < 0.01).astype(jnp.float32))
        gradient = jax.random.normal(key, (5,), jnp.float32).astype(precision)
        delta = gradient * slopes[20:]
        outer, outer_bias = outer - rate * jnp.outer(hidden, delta), outer_bias - rate * delta
        delta = (outer @ delta) * slopes[:20]
        inner, inner_bias = inner - rate * jnp.outer(x, delta), inner_bias - rate * delta
        return (x, inner, outer, inner_bias, outer_bias), saturated

    return nanlab.Problem(init=init, step=step, knobs={"lr": 0.1})


def softmax(form: str = "naive", precision: str = "float32"):
    """Cross-entropy of ten normal logits times logit_scale (E1)."""

    def init(knobs, key):
        logits = jax.random.normal(key, (10,), jnp.float32).astype(precision)
        return logits * _number(knobs["logit_scale"], precision)

    def step(logits, knobs, key):
        if form == "naive":
            powers = jnp.exp(logits)
            return logits, -jnp.log(powers[0] / powers.sum())
        return logits, jax.nn.logsumexp(logits) - logits[0]

    return nanlab.Problem(init=init, step=step, knobs={"logit_scale": 1000.0})


def saturated_chain(activation: str = "tanh", precision: str = "float32"):
    """Twenty nested saturated activations and their gradient, which is 0 or nearly so (E13)."""
    function = {"tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid}[activation]

    def value(x, knobs):
        for _ in range(20):
            x = function(x * _number(knobs["weight"], precision))
        return x

    def step(x, knobs, key):
        loss, gradient = jax.value_and_grad(value)(x, knobs)
        return x - gradient, loss

    return nanlab.Problem(
        init=lambda knobs, key: _number(1.0, precision), step=step, knobs={"weight": 1000.0}
    )
