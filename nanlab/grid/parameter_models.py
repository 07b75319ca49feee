"""Declarations of all parameters of a run: type, default, role and meaning.

The descriptions appear in editors, through the JSON Schema, and in docs/tables.md.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from nanlab.grid.parameter_types import (
    LARGEST_INT,
    BatchSize,
    Choice,
    Number,
    ParameterValue,
    Role,
    Switch,
    Whole,
)
from nanlab.parts.listing import PARTS


def _field(default: ParameterValue, role: Role, doc: str, **limits: Any) -> Any:
    return Field(default, description=doc, json_schema_extra={"role": role}, **limits)


class EveryRun(BaseModel, frozen=True, extra="forbid"):
    """Parameters of a run of any built-in problem."""

    problem: Annotated[str, Choice(lambda: PROBLEMS, user_code="my_module:make_problem")] = _field(
        "training", "static",
        "Problem to run: supervised training, gradient descent on a one-dimensional quadratic, or "
        'your own as "my_module:make_problem" or "path/to/file.py:make_problem".',
    )  # fmt: skip
    precision: Annotated[str, Choice(PARTS["precision"].keys)] = _field(
        "float32", "static", "Floating-point type of the computation."
    )
    seed: Whole = _field(
        0, "address",
        "Random seed; runs that share a seed share data, batch order and base draws.",
        ge=0, le=LARGEST_INT,
    )  # fmt: skip
    steps: Whole = _field(100, "length", "Number of optimizer steps.", ge=1, le=10_000_000)
    optimizer: Annotated[str, Choice(PARTS["optimizer"].keys)] = _field(
        "sgd", "static", "Optimizer, from Optax."
    )
    lr: Number = _field(0.01, "knob", "Learning rate.", ge=0.0)
    momentum: Number = _field(0.9, "knob", "Momentum coefficient (Polyak 1964).")
    decay: Number = _field(0.9, "knob", "Decay rate of the running mean of squared gradients.")
    b1: Number = _field(
        0.9, "knob", "Decay rate of the first-moment estimate (Kingma and Ba 2015)."
    )
    b2: Number = _field(
        0.999, "knob", "Decay rate of the second-moment estimate (Kingma and Ba 2015)."
    )
    optimizer_epsilon: Number = _field(
        1e-8, "knob", "Epsilon added to the denominator of the update; may be 0.", ge=0.0
    )
    weight_decay: Number = _field(
        0.0, "option",
        "Weight decay: decoupled where the optimizer implements it, otherwise an L2 term "
        "weight_decay * parameters added to the gradient. 0 disables.",
        ge=0.0,
    )  # fmt: skip
    schedule: Annotated[str, Choice(PARTS["schedule"].keys)] = _field(
        "constant", "static", "Learning-rate schedule."
    )
    warmup_steps: Number = _field(10.0, "knob", "Length of the warmup, in steps.", ge=0.0)
    decay_steps: Number = _field(100.0, "knob", "Length of the cosine decay, in steps.", ge=0.0)
    decay_floor: Number = _field(
        0.0, "knob", "Final learning rate of the cosine decay, as a fraction of lr."
    )
    drop_every: Number = _field(
        30.0, "knob", "Interval between learning-rate drops, in steps.", ge=1.0
    )
    drop_factor: Number = _field(
        0.1, "knob", "Factor applied to the learning rate at each drop.", ge=0.0
    )
    clip: Annotated[str, Choice(PARTS["clip"].keys)] = _field(
        "none", "static", "Gradient clipping, applied before the optimizer."
    )
    clip_at: Number = _field(1.0, "knob", "Gradient clipping threshold.", ge=0.0)
    clip_epsilon: Number = _field(
        1e-6, "knob", "Epsilon in the denominator of the clipping factor; may be 0.", ge=0.0
    )
    apply_if_finite: Whole = _field(
        0, "static",
        "Skip up to this many consecutive non-finite updates (optax.apply_if_finite); 0 disables.",
        ge=0, le=1_000_000,
    )  # fmt: skip
    trained_margin: Number = _field(
        0.05, "rule",
        "A finite run counts as `trained` if its final loss is below (1 - trained_margin) times "
        "the loss of the best constant predictor.",
        ge=0.0, lt=1.0,
    )  # fmt: skip
    diverged_factor: Number = _field(
        10.0, "rule",
        "A finite run that is not `trained` counts as `diverged` if its final loss exceeds "
        "diverged_factor times its initial loss, and as `stalled` otherwise.",
        gt=1.0,
    )  # fmt: skip


class Training(EveryRun, frozen=True, extra="forbid"):
    """Parameters of a supervised training."""

    task: Annotated[
        str, Choice(PARTS["task"].keys, user_code="my_module:load", endings=(".npz", ".parquet"))
    ] = _field(
        "digits", "static",
        'Data set: a built-in name, a user function as "my_module:load", or a .npz or .parquet '
        "file.",
    )  # fmt: skip
    standardize: Switch = _field(
        True, "static", "Standardize each feature to mean 0 and standard deviation 1."
    )
    input_scale: Number = _field(
        1.0, "knob", "Factor applied to the inputs, after standardization."
    )
    sequence_length: Whole = _field(
        32, "static", "Length of a synthetic sequence, in time steps.", ge=2, le=100_000
    )
    image_size: Whole = _field(
        28, "static", "Height and width of a synthetic image, in pixels.", ge=2, le=1024
    )
    n_features: Whole = _field(
        16, "static", "Number of features of synthetic inputs.", ge=1, le=100_000
    )
    train_examples: Whole = _field(
        0, "static", "Number of training examples, subsampled per seed; 0 uses all.", ge=0
    )
    outlier_fraction: Number = _field(
        0.0, "option", "Fraction of input entries turned into outliers.", ge=0.0, le=1.0
    )
    outlier_scale: Number = _field(100.0, "knob", "Factor applied to an outlier.")
    label_noise: Number = _field(
        0.0, "option", "Fraction of examples with a wrong class, or a regression target negated.",
        ge=0.0, le=1.0,
    )  # fmt: skip
    nan_fraction: Number = _field(
        0.0, "option", "Fraction of input entries set to NaN.", ge=0.0, le=1.0
    )
    constant_fraction: Number = _field(
        0.0, "option", "Fraction of features set to 1 in every example.", ge=0.0, le=1.0
    )
    imbalance: Number = _field(
        0.0, "option",
        "Class imbalance: class k is sampled (1 - imbalance)^k times as often as class 0.",
        ge=0.0, lt=1.0,
    )  # fmt: skip
    model: Annotated[str, Choice(PARTS["model"].keys, user_code="my_module:Model")] = _field(
        "mlp", "static",
        'Model architecture: a built-in name or a user Flax Linen module as "my_module:Model".',
    )  # fmt: skip
    depth: Whole = _field(2, "static", "Number of hidden layers.", ge=1, le=1000)
    width: Whole = _field(32, "static", "Number of units in each hidden layer.", ge=1, le=65_536)
    activation: Annotated[str, Choice(PARTS["activation"].keys)] = _field(
        "relu", "static", "Activation function of the hidden layers."
    )
    negative_slope: Number = _field(0.01, "knob", "Slope for negative inputs (Maas et al. 2013).")
    residual: Switch = _field(
        False, "static",
        "Add a residual connection around each hidden layer whose input and output shapes agree "
        "(He et al. 2016); transformers always have them.",
    )  # fmt: skip
    norm: Annotated[str, Choice(PARTS["norm"].keys)] = _field(
        "none", "static", "Normalization in the hidden layers."
    )
    norm_epsilon: Number = _field(
        1e-5, "knob", "Epsilon in the denominator of the normalization; may be 0.", ge=0.0
    )
    norm_first: Switch = _field(
        True, "static",
        "Normalize before the activation (pre-norm in a transformer); if false, after it "
        "(post-norm) (Xiong et al. 2020).",
    )  # fmt: skip
    dropout: Number = _field(
        0.0, "option", "Dropout rate (Srivastava et al. 2014).", ge=0.0, lt=1.0
    )
    pooling: Annotated[str, Choice(PARTS["pooling"].keys)] = _field(
        "max", "static", "Pooling after each convolution."
    )
    heads: Whole = _field(4, "static", "Number of attention heads; must divide width.", ge=1)
    query_key_norm: Switch = _field(
        False, "static", "Normalize queries and keys (Henry et al. 2020)."
    )
    attention_scale: Number = _field(1.0, "knob", "Factor applied to the attention logits.")
    initializer: Annotated[str, Choice(PARTS["initializer"].keys)] = _field(
        "lecun_normal", "static", "Weight initializer."
    )
    init_scale: Number = _field(1.0, "knob", "Factor applied to the initial weights.")
    bias_initializer: Annotated[str, Choice(PARTS["bias_initializer"].keys)] = _field(
        "zeros", "static", "Bias initializer."
    )
    bias_scale: Number = _field(1.0, "knob", "Factor applied to the initial biases.")
    loss: Annotated[str, Choice(PARTS["loss"].keys)] = _field(
        "softmax_cross_entropy", "static", "Loss function, averaged over the batch."
    )
    loss_epsilon: Number = _field(
        1e-7, "knob", "Epsilon in the loss's logarithm or denominator; may be 0.", ge=0.0
    )
    huber_delta: Number = _field(
        1.0, "knob", "Residual at which the Huber loss becomes linear.", gt=0.0
    )
    temperature: Number = _field(0.1, "knob", "Temperature of the contrastive loss.")
    label_smoothing: Number = _field(
        0.0, "option",
        "Probability mass spread uniformly over all classes (Szegedy et al. 2016).",
        ge=0.0, le=1.0,
    )  # fmt: skip
    z_loss: Number = _field(
        0.0, "option",
        "Weight of the z-loss, the squared log-sum-exp of the logits (Chowdhery et al. 2022).",
        ge=0.0,
    )  # fmt: skip
    batch_size: BatchSize = _field(
        32, "static",
        'Number of examples per batch, sampled with replacement; "full" uses the whole training '
        "set.",
    )  # fmt: skip
    loss_scaling: Annotated[str, Choice(PARTS["loss_scaling"].keys)] = _field(
        "none", "static", "Loss scaling for mixed-precision training."
    )
    loss_scale: Number = _field(
        32768.0, "knob", "Loss scale; the initial one if it is dynamic.", gt=0.0
    )
    loss_scale_period: Number = _field(
        2000.0, "knob", "Number of finite steps before a dynamic loss scale doubles.", ge=1.0
    )
    ema_decay: Number = _field(
        0.0, "option",
        "Decay rate of the exponential moving average of the parameters "
        "(Polyak and Juditsky 1992); 0 disables.",
        ge=0.0, lt=1.0,
    )  # fmt: skip
    parameter_precision: Annotated[str, Choice(PARTS["parameter_precision"].keys)] = _field(
        "same", "static", "Floating-point type in which parameters are stored between steps."
    )
    matmul_precision: Annotated[str, Choice(PARTS["matmul_precision"].keys)] = _field(
        "default", "static", "Precision of matrix products."
    )


class Quadratic(EveryRun, frozen=True, extra="forbid"):
    """Parameters of gradient descent on curvature * x^2 / 2, whose behavior is known exactly."""

    curvature: Number = _field(1.0, "knob", "Second derivative of the loss.")
    x0: Number = _field(1.0, "knob", "Initial value of x.")


PROBLEMS: dict[str, type[EveryRun]] = {"training": Training, "quadratic": Quadratic}
"""The built-in problems by name."""

USER_DEFINED = "own"
"""The kind of a user-defined problem."""

USER_DEFINED_PARAMETERS = ("problem", "seed", "steps", "trained_margin", "diverged_factor")
"""The parameters of a user-defined problem, in addition to its own knobs and statics."""
