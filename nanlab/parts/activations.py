"""Table of activations: functions of (x, knobs), elementwise unless an entry says differently."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanlab.backend.lazy import jax, jnp
from nanlab.parts.entry import Entry

if TYPE_CHECKING:
    from jax import Array
    from jaxtyping import Float

Function = Callable[["Float[Array, '*batch units']", Mapping[str, "Array"]], "Array"]


@dataclass(frozen=True)
class Activation(Entry):
    """An activation.

    Attributes:
        apply: (x, knobs) -> array of x's shape, its last axis divided by `inputs`.
        knobs: knobs that it reads.
        inputs: number of input units of each output unit.
        is_elementwise: whether each output depends on one input alone.
    """

    apply: Function
    knobs: tuple[str, ...] = ()
    inputs: int = 1
    is_elementwise: bool = True


def _shares(x: Array) -> Array:
    exponentials = jnp.exp(x)
    return exponentials / jnp.sum(exponentials, axis=-1, keepdims=True)


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(
        "max(x, 0).", "Nair and Hinton 2010; jax.nn.relu", lambda x, knobs: jax.nn.relu(x)
    ),
    "relu6": Activation(
        "min(max(x, 0), 6).", "Krizhevsky 2010; jax.nn.relu6", lambda x, knobs: jax.nn.relu6(x)
    ),
    "leaky_relu": Activation(
        "x, or negative_slope * x below 0.",
        "Maas et al. 2013; jax.nn.leaky_relu",
        lambda x, knobs: jax.nn.leaky_relu(x, knobs["negative_slope"]),
        ("negative_slope",),
    ),
    "elu": Activation(
        "x, or exp(x) - 1 below 0.",
        "Clevert et al. 2016; jax.nn.elu",
        lambda x, knobs: jax.nn.elu(x),
    ),
    "celu": Activation(
        "The same as elu for alpha = 1, differentiable for any alpha.",
        "Barron 2017; jax.nn.celu",
        lambda x, knobs: jax.nn.celu(x),
    ),
    "selu": Activation(
        "A scaled elu that preserves mean 0 and variance 1.",
        "Klambauer et al. 2017; jax.nn.selu",
        lambda x, knobs: jax.nn.selu(x),
    ),
    "gelu": Activation(
        "x times the normal distribution function, by its tanh approximation.",
        "Hendrycks and Gimpel 2016; jax.nn.gelu",
        lambda x, knobs: jax.nn.gelu(x),
    ),
    "gelu_exact": Activation(
        "x times the normal distribution function, by erf.",
        "Hendrycks and Gimpel 2016; jax.nn.gelu",
        lambda x, knobs: jax.nn.gelu(x, approximate=False),
    ),
    "silu": Activation(
        "x * sigmoid(x), also called swish.",
        "Elfwing et al. 2018; jax.nn.silu",
        lambda x, knobs: jax.nn.silu(x),
    ),
    "mish": Activation(
        "x * tanh(softplus(x)).", "Misra 2019; jax.nn.mish", lambda x, knobs: jax.nn.mish(x)
    ),
    "tanh": Activation(
        "Hyperbolic tangent.", "LeCun et al. 1998; jax.nn.tanh", lambda x, knobs: jax.nn.tanh(x)
    ),
    "sigmoid": Activation(
        "1 / (1 + exp(-x)), computed so that it does not overflow.",
        "Rumelhart et al. 1986; jax.nn.sigmoid",
        lambda x, knobs: jax.nn.sigmoid(x),
    ),
    "log_sigmoid": Activation(
        "log(sigmoid(x)), computed so that it does not overflow.",
        "jax.nn.log_sigmoid",
        lambda x, knobs: jax.nn.log_sigmoid(x),
    ),
    "hard_sigmoid": Activation(
        "relu6(x + 3) / 6.",
        "Howard et al. 2019; jax.nn.hard_sigmoid",
        lambda x, knobs: jax.nn.hard_sigmoid(x),
    ),
    "hard_silu": Activation(
        "x * hard_sigmoid(x), also called hard swish.",
        "Howard et al. 2019; jax.nn.hard_silu",
        lambda x, knobs: jax.nn.hard_silu(x),
    ),
    "hard_tanh": Activation(
        "x, clipped to [-1, 1].",
        "Collobert 2004; jax.nn.hard_tanh",
        lambda x, knobs: jax.nn.hard_tanh(x),
    ),
    "soft_sign": Activation(
        "x / (1 + |x|).",
        "Turian et al. 2009; jax.nn.soft_sign",
        lambda x, knobs: jax.nn.soft_sign(x),
    ),
    "softplus": Activation(
        "log(1 + exp(x)), computed so that it does not overflow.",
        "Dugas et al. 2001; jax.nn.softplus",
        lambda x, knobs: jax.nn.softplus(x),
    ),
    "squareplus": Activation(
        "(x + sqrt(x^2 + 4)) / 2.",
        "Barron 2021; jax.nn.squareplus",
        lambda x, knobs: jax.nn.squareplus(x),
    ),
    "sparse_plus": Activation(
        "0 below -1, x above 1, (x + 1)^2 / 4 between.",
        "jax.nn.sparse_plus",
        lambda x, knobs: jax.nn.sparse_plus(x),
    ),
    "sparse_sigmoid": Activation(
        "(x + 1) / 2, clipped to [0, 1].",
        "jax.nn.sparse_sigmoid",
        lambda x, knobs: jax.nn.sparse_sigmoid(x),
    ),
    "glu": Activation(
        "Half of the layer's units times the sigmoid of the other half.",
        "Dauphin et al. 2017; jax.nn.glu",
        lambda x, knobs: jax.nn.glu(x),
        inputs=2,
        is_elementwise=False,
    ),
    "softmax": Activation(
        "Shares of the exponentials over the units, the maximum subtracted first.",
        "Bridle 1990; jax.nn.softmax",
        lambda x, knobs: jax.nn.softmax(x),
        is_elementwise=False,
    ),
    "log_softmax": Activation(
        "Logarithm of the softmax over the units, by log-sum-exp.",
        "jax.nn.log_softmax",
        lambda x, knobs: jax.nn.log_softmax(x),
        is_elementwise=False,
    ),
    "standardize": Activation(
        "The units brought to mean 0 and variance 1, with 1e-5 under the root.",
        "jax.nn.standardize",
        lambda x, knobs: jax.nn.standardize(x),
        is_elementwise=False,
    ),
    "identity": Activation(
        "x: a linear network.", "Saxe et al. 2014; jax.nn.identity", lambda x, knobs: x
    ),
    "square": Activation("x^2.", "Livni et al. 2014", lambda x, knobs: jnp.square(x)),
    "exp": Activation("exp(x), which overflows.", "nanlab", lambda x, knobs: jnp.exp(x)),
    "sigmoid_naive": Activation(
        "1 / (1 + exp(-x)) as written: exp overflows below.",
        "nanlab",
        lambda x, knobs: 1.0 / (1.0 + jnp.exp(-x)),
    ),
    "tanh_naive": Activation(
        "(exp(x) - exp(-x)) / (exp(x) + exp(-x)) as written: inf / inf.",
        "nanlab",
        lambda x, knobs: (jnp.exp(x) - jnp.exp(-x)) / (jnp.exp(x) + jnp.exp(-x)),
    ),
    "softplus_naive": Activation(
        "log(1 + exp(x)) as written: exp overflows above.",
        "nanlab",
        lambda x, knobs: jnp.log(1.0 + jnp.exp(x)),
    ),
    "silu_naive": Activation(
        "x / (1 + exp(-x)) as written: exp overflows below.",
        "nanlab",
        lambda x, knobs: x / (1.0 + jnp.exp(-x)),
    ),
    "elu_naive": Activation(
        "where(x > 0, x, exp(x) - 1): the branch not taken overflows.",
        "nanlab",
        lambda x, knobs: jnp.where(x > 0, x, jnp.exp(x) - 1.0),
    ),
    "softmax_naive": Activation(
        "exp(x) / sum(exp(x)) as written: inf / inf.",
        "nanlab",
        lambda x, knobs: _shares(x),
        is_elementwise=False,
    ),
    "log_softmax_naive": Activation(
        "log(exp(x) / sum(exp(x))) as written: log 0 too.",
        "nanlab",
        lambda x, knobs: jnp.log(_shares(x)),
        is_elementwise=False,
    ),
}
