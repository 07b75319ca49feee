"""Declarations of all parameters of a run: type, default, role and meaning.

The descriptions appear in editors, through the JSON Schema, and in docs/tables.md.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import BaseModel, Field

from nanlab.grid.parameter_types import (
    LARGEST_INT,
    BatchSize,
    Number,
    ParameterValue,
    Role,
    Switch,
    Whole,
)


def _field(role: Role, default: ParameterValue, doc: str, **limits: Any) -> Any:
    return Field(default, description=doc, json_schema_extra={"role": role}, **limits)


_knob, _option, _static = (partial(_field, role) for role in ("knob", "option", "static"))

USER_CODE_EXAMPLES = {
    "problem": "my_module:make_problem", "task": "my_module:load", "model": "my_module:Model",
}  # fmt: skip
"""The parameters that accept references to user code, with an example of one."""


# fmt: off
class EveryRun(BaseModel, frozen=True, extra="forbid"):
    """Parameters of a run of any built-in problem; one that names a part has its table's names."""

    problem: str = _static("training",
        "Problem to run: supervised training, gradient descent on a one-dimensional quadratic, or "
        'your own as "my_module:make_problem" or "path/to/file.py:make_problem".')
    precision: str = _static("float32", "Floating-point type of the computation.")
    seed: Whole = _field("address", 0, ge=0, le=LARGEST_INT, doc=
        "Random seed; runs that share a seed share data, batch order and base draws.")
    steps: Whole = _field("length", 100, "Number of optimizer steps.", ge=1, le=10_000_000)
    optimizer: str = _static("sgd", "Optimizer, from Optax.")
    lr: Number = _knob(0.01, "Learning rate.", ge=0.0)
    momentum: Number = _knob(0.9, "Momentum coefficient (Polyak 1964).")
    decay: Number = _knob(0.9, "Decay rate of the running mean of squared gradients.")
    b1: Number = _knob(0.9, "Decay rate of the first-moment estimate (Kingma and Ba 2015).")
    b2: Number = _knob(0.999, "Decay rate of the second-moment estimate (Kingma and Ba 2015).")
    optimizer_epsilon: Number = _knob(1e-8, ge=0.0, doc=
        "Epsilon added to the denominator of the update; may be 0.")
    weight_decay: Number = _option(0.0, ge=0.0, doc=
        "Weight decay: decoupled where the optimizer implements it, otherwise an L2 term "
        "weight_decay * parameters added to the gradient. 0 disables.")
    schedule: str = _static("constant", "Learning-rate schedule.")
    warmup_steps: Number = _knob(10.0, "Length of the warmup, in steps.", ge=0.0)
    decay_steps: Number = _knob(100.0, "Length of the cosine decay, in steps.", ge=0.0)
    decay_floor: Number = _knob(0.0,
        "Final learning rate of the cosine decay, as a fraction of lr.")
    drop_every: Number = _knob(30.0, "Interval between learning-rate drops, in steps.", ge=1.0)
    drop_factor: Number = _knob(0.1, "Factor applied to the learning rate at each drop.", ge=0.0)
    clip: str = _static("none", "Gradient clipping, applied before the optimizer.")
    clip_at: Number = _knob(1.0, "Gradient clipping threshold.", ge=0.0)
    clip_epsilon: Number = _knob(1e-6, ge=0.0, doc=
        "Epsilon in the denominator of the clipping factor; may be 0.")
    apply_if_finite: Whole = _static(0, ge=0, le=1_000_000, doc=
        "Skip up to this many consecutive non-finite updates (optax.apply_if_finite); 0 disables.")
    trained_margin: Number = _field("rule", 0.05, ge=0.0, lt=1.0, doc=
        "A finite run counts as `trained` if its final loss is below (1 - trained_margin) times "
        "the loss of the best constant predictor.")
    diverged_factor: Number = _field("rule", 10.0, gt=1.0, doc=
        "A finite run that is not `trained` counts as `diverged` if its final loss exceeds "
        "diverged_factor times its initial loss, and as `stalled` otherwise.")


class Training(EveryRun, frozen=True, extra="forbid"):
    """Parameters of a supervised training."""

    task: str = _static("digits",
        'Data set: a built-in name, a user function as "my_module:load", or a .npz or .parquet '
        "file.")
    standardize: Switch = _static(True,
        "Standardize each feature to mean 0 and standard deviation 1.")
    input_scale: Number = _knob(1.0, "Factor applied to the inputs, after standardization.")
    sequence_length: Whole = _static(32, ge=2, le=100_000, doc=
        "Length of a synthetic sequence, in time steps.")
    image_size: Whole = _static(28, ge=2, le=1024, doc=
        "Height and width of a synthetic image, in pixels.")
    n_features: Whole = _static(16, "Number of features of synthetic inputs.", ge=1, le=100_000)
    train_examples: Whole = _static(0, ge=0, doc=
        "Number of training examples, subsampled per seed; 0 uses all.")
    outlier_fraction: Number = _option(0.0, ge=0.0, le=1.0, doc=
        "Fraction of input entries turned into outliers.")
    outlier_scale: Number = _knob(100.0, "Factor applied to an outlier.")
    label_noise: Number = _option(0.0, ge=0.0, le=1.0, doc=
        "Fraction of examples with a wrong class, or a regression target negated.")
    nan_fraction: Number = _option(0.0, "Fraction of input entries set to NaN.", ge=0.0, le=1.0)
    constant_fraction: Number = _option(0.0, ge=0.0, le=1.0, doc=
        "Fraction of features set to 1 in every example.")
    imbalance: Number = _option(0.0, ge=0.0, lt=1.0, doc=
        "Class imbalance: class k is sampled (1 - imbalance)^k times as often as class 0.")
    model: str = _static("mlp",
        'Model architecture: a built-in name or a user Flax Linen module as "my_module:Model".')
    depth: Whole = _static(2, "Number of hidden layers.", ge=1, le=1000)
    width: Whole = _static(32, "Number of units in each hidden layer.", ge=1, le=65_536)
    activation: str = _static("relu", "Activation function of the hidden layers.")
    negative_slope: Number = _knob(0.01, "Slope for negative inputs (Maas et al. 2013).")
    residual: Switch = _static(False,
        "Add a residual connection around each hidden layer whose input and output shapes agree "
        "(He et al. 2016); transformers always have them.")
    norm: str = _static("none", "Normalization in the hidden layers.")
    norm_epsilon: Number = _knob(1e-5, ge=0.0, doc=
        "Epsilon in the denominator of the normalization; may be 0.")
    norm_first: Switch = _static(True,
        "Normalize before the activation (pre-norm in a transformer); if false, after it "
        "(post-norm) (Xiong et al. 2020).")
    dropout: Number = _option(0.0, "Dropout rate (Srivastava et al. 2014).", ge=0.0, lt=1.0)
    pooling: str = _static("max", "Pooling after each convolution.")
    heads: Whole = _static(4, "Number of attention heads; must divide width.", ge=1)
    query_key_norm: Switch = _static(False, "Normalize queries and keys (Henry et al. 2020).")
    attention_scale: Number = _knob(1.0, "Factor applied to the attention logits.")
    initializer: str = _static("lecun_normal", "Weight initializer.")
    init_scale: Number = _knob(1.0, "Factor applied to the initial weights.")
    bias_initializer: str = _static("zeros", "Bias initializer.")
    bias_scale: Number = _knob(1.0, "Factor applied to the initial biases.")
    loss: str = _static("softmax_cross_entropy", "Loss function, averaged over the batch.")
    loss_epsilon: Number = _knob(1e-7, ge=0.0, doc=
        "Epsilon in the loss's logarithm or denominator; may be 0.")
    huber_delta: Number = _knob(1.0, "Residual at which the Huber loss becomes linear.", gt=0.0)
    temperature: Number = _knob(0.1, "Temperature of the contrastive loss.")
    label_smoothing: Number = _option(0.0, ge=0.0, le=1.0, doc=
        "Probability mass spread uniformly over all classes (Szegedy et al. 2016).")
    z_loss: Number = _option(0.0, ge=0.0, doc=
        "Weight of the z-loss, the squared log-sum-exp of the logits (Chowdhery et al. 2022).")
    batch_size: BatchSize = _static(32,
        'Number of examples per batch, sampled with replacement; "full" uses the whole training '
        "set.")
    loss_scaling: str = _static("none", "Loss scaling for mixed-precision training.")
    loss_scale: Number = _knob(32768.0, "Loss scale; the initial one if it is dynamic.", gt=0.0)
    loss_scale_period: Number = _knob(2000.0, ge=1.0, doc=
        "Number of finite steps before a dynamic loss scale doubles.")
    ema_decay: Number = _option(0.0, ge=0.0, lt=1.0, doc=
        "Decay rate of the exponential moving average of the parameters (Polyak and Juditsky "
        "1992); 0 disables.")
    parameter_precision: str = _static("same",
        "Floating-point type in which parameters are stored between steps.")
    matmul_precision: str = _static("default", "Precision of matrix products.")


class Quadratic(EveryRun, frozen=True, extra="forbid"):
    """Parameters of gradient descent on curvature * x^2 / 2, whose behavior is known exactly."""

    curvature: Number = _knob(1.0, "Second derivative of the loss.")
    x0: Number = _knob(1.0, "Initial value of x.")
# fmt: on


PROBLEMS: dict[str, type[EveryRun]] = {"training": Training, "quadratic": Quadratic}
"""The built-in problems by name."""

USER_DEFINED = "own"
"""The kind of a user-defined problem."""

USER_DEFINED_PARAMETERS = ("problem", "seed", "steps", "trained_margin", "diverged_factor")
"""The parameters of a user-defined problem, in addition to its own knobs and statics."""
