"""What may be asked of a run -> models: each parameter once, with type, default, role, meaning."""

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


def _asked(default: ParameterValue, role: Role, doc: str, **limits: Any) -> Any:
    return Field(default, description=doc, json_schema_extra={"role": role}, **limits)


class EveryRun(BaseModel, frozen=True, extra="forbid"):
    """What may be asked of a run of any problem."""

    problem: Annotated[str, Choice(lambda: PROBLEMS, own="my_module:make_problem")] = _asked(
        "training", "static",
        "What is run: a supervised training, one number x on a quadratic, or your own, as "
        '"my_module:make_problem" or "path/to/file.py:make_problem".',
    )  # fmt: skip
    precision: Annotated[str, Choice(PARTS["precision"].keys)] = _asked(
        "float32", "static", "Floating-point type of the computation."
    )
    seed: Whole = _asked(
        0, "address", "Addresses every random number of the run; runs that share it are paired.",
        ge=0, le=LARGEST_INT,
    )  # fmt: skip
    steps: Whole = _asked(
        100, "length", "Number of optimizer steps, counted from 0.", ge=1, le=10_000_000
    )
    optimizer: Annotated[str, Choice(PARTS["optimizer"].keys)] = _asked(
        "sgd", "static", "Optax optimizer."
    )
    lr: Number = _asked(0.01, "knob", "Learning rate.", ge=0.0)
    momentum: Number = _asked(0.9, "knob", "Share of the last update kept (Polyak 1964).")
    decay: Number = _asked(0.9, "knob", "Decay rate of the mean square gradient.")
    b1: Number = _asked(0.9, "knob", "Decay rate of the first moment (Kingma and Ba 2015).")
    b2: Number = _asked(0.999, "knob", "Decay rate of the second moment (Kingma and Ba 2015).")
    optimizer_epsilon: Number = _asked(
        1e-8, "knob", "Keeps the update's divisor from zero; may be 0.", ge=0.0
    )
    weight_decay: Number = _asked(
        0.0, "option",
        "Pulls the parameters to 0: decoupled in the optimizers that have their own, otherwise "
        "weight_decay times the parameters is added to the gradient. 0 leaves it out.",
        ge=0.0,
    )  # fmt: skip
    schedule: Annotated[str, Choice(PARTS["schedule"].keys)] = _asked(
        "constant", "static", "How the learning rate changes from step to step."
    )
    warmup_steps: Number = _asked(10.0, "knob", "Steps in which lr is reached.", ge=0.0)
    decay_steps: Number = _asked(100.0, "knob", "Steps in which the cosine falls.", ge=0.0)
    decay_floor: Number = _asked(0.0, "knob", "Share of lr at which the cosine ends.")
    drop_every: Number = _asked(30.0, "knob", "Steps between two drops of lr.", ge=1.0)
    drop_factor: Number = _asked(0.1, "knob", "What a drop multiplies lr by.", ge=0.0)
    clip: Annotated[str, Choice(PARTS["clip"].keys)] = _asked(
        "none", "static", "What is done to the gradient before the optimizer sees it."
    )
    clip_at: Number = _asked(1.0, "knob", "Where the gradient is clipped.", ge=0.0)
    clip_epsilon: Number = _asked(
        1e-6, "knob", "Keeps the clipping's divisor from zero; may be 0.", ge=0.0
    )
    apply_if_finite: Whole = _asked(
        0, "static",
        "So many updates in a row are left out if they are not finite (optax.apply_if_finite); "
        "0 leaves none out.",
        ge=0, le=1_000_000,
    )  # fmt: skip
    trained_margin: Number = _asked(
        0.05, "rule",
        "A finite run is `trained` when its final loss is below (1 - trained_margin) times the "
        "loss of the best constant predictor.",
        ge=0.0, lt=1.0,
    )  # fmt: skip
    diverged_factor: Number = _asked(
        10.0, "rule",
        "A finite run that is not `trained` is `diverged` when its final loss is above "
        "diverged_factor times its initial loss, and otherwise `stalled`.",
        gt=1.0,
    )  # fmt: skip


class Training(EveryRun, frozen=True, extra="forbid"):
    """What may be asked of a supervised training."""

    task: Annotated[
        str, Choice(PARTS["task"].keys, own="my_module:load", endings=(".npz", ".parquet"))
    ] = _asked(
        "digits", "static",
        'The data: a name, your own function as "my_module:load", or a file .npz or .parquet.',
    )  # fmt: skip
    standardize: Switch = _asked(
        True, "static", "Whether each feature is brought to mean 0 and standard deviation 1."
    )
    input_scale: Number = _asked(1.0, "knob", "Multiplies the inputs, after standardize.")
    sequence_length: Whole = _asked(32, "static", "Steps of a made sequence.", ge=2, le=100_000)
    image_size: Whole = _asked(28, "static", "Side of a made picture, in pixels.", ge=2, le=1024)
    n_features: Whole = _asked(16, "static", "Features of made inputs.", ge=1, le=100_000)
    train_examples: Whole = _asked(
        0, "static", "So many of the examples, drawn by each seed; 0 takes all.", ge=0
    )
    outlier_fraction: Number = _asked(
        0.0, "option", "Share of the inputs' entries that are outliers.", ge=0.0, le=1.0
    )
    outlier_scale: Number = _asked(100.0, "knob", "What multiplies an outlier.")
    label_noise: Number = _asked(
        0.0, "option", "Share of examples with a wrong class, or a number's sign turned.",
        ge=0.0, le=1.0,
    )  # fmt: skip
    nan_fraction: Number = _asked(
        0.0, "option", "Share of the inputs' entries that are NaN.", ge=0.0, le=1.0
    )
    constant_fraction: Number = _asked(
        0.0, "option", "Share of the features that are 1 in every example.", ge=0.0, le=1.0
    )
    imbalance: Number = _asked(
        0.0, "option", "Class k comes (1 - imbalance)^k as often as class 0.", ge=0.0, lt=1.0
    )
    model: Annotated[str, Choice(PARTS["model"].keys, own="my_module:Model")] = _asked(
        "mlp", "static", 'Network: a name, or your own Flax Linen module as "my_module:Model".'
    )
    depth: Whole = _asked(2, "static", "Number of hidden layers.", ge=1, le=1000)
    width: Whole = _asked(32, "static", "Number of units in each hidden layer.", ge=1, le=65_536)
    activation: Annotated[str, Choice(PARTS["activation"].keys)] = _asked(
        "relu", "static", "Activation of the hidden layers."
    )
    negative_slope: Number = _asked(0.01, "knob", "Slope below zero (Maas et al. 2013).")
    residual: Switch = _asked(
        False, "static",
        "Whether a hidden layer's input is added to its output where shapes agree (He et al. "
        "2016); a transformer always does.",
    )  # fmt: skip
    norm: Annotated[str, Choice(PARTS["norm"].keys)] = _asked(
        "none", "static", "Normalization in the hidden layers."
    )
    norm_epsilon: Number = _asked(
        1e-5, "knob", "Keeps the normalization's divisor from zero; may be 0.", ge=0.0
    )
    norm_first: Switch = _asked(
        True, "static",
        "Whether the norm stands before the activation, and in a transformer before the branch; "
        "otherwise after the activation, and after the sum (Xiong et al. 2020).",
    )  # fmt: skip
    dropout: Number = _asked(
        0.0, "option", "Share of units dropped (Srivastava et al. 2014).", ge=0.0, lt=1.0
    )
    pooling: Annotated[str, Choice(PARTS["pooling"].keys)] = _asked(
        "max", "static", "Pooling after each convolution."
    )
    heads: Whole = _asked(4, "static", "Attention heads, a divisor of width.", ge=1)
    query_key_norm: Switch = _asked(
        False, "static",
        "Whether queries and keys are normalized (Henry et al. 2020).",
    )  # fmt: skip
    attention_scale: Number = _asked(1.0, "knob", "Multiplies the attention's logits.")
    initializer: Annotated[str, Choice(PARTS["initializer"].keys)] = _asked(
        "lecun_normal", "static", "Distribution of the initial weights."
    )
    init_scale: Number = _asked(1.0, "knob", "Multiplies the initial weights.")
    bias_initializer: Annotated[str, Choice(PARTS["bias_initializer"].keys)] = _asked(
        "zeros", "static", "Distribution of the initial biases."
    )
    bias_scale: Number = _asked(1.0, "knob", "Multiplies the initial biases.")
    loss: Annotated[str, Choice(PARTS["loss"].keys)] = _asked(
        "softmax_cross_entropy", "static", "Loss, the mean over a batch."
    )
    loss_epsilon: Number = _asked(
        1e-7, "knob", "Keeps a loss's logarithm or divisor from zero; may be 0.", ge=0.0
    )
    huber_delta: Number = _asked(1.0, "knob", "Where the Huber loss becomes linear.", gt=0.0)
    temperature: Number = _asked(0.1, "knob", "Divides the contrastive loss's similarities.")
    label_smoothing: Number = _asked(
        0.0, "option", "Share of a class's target spread over all (Szegedy et al. 2016).",
        ge=0.0, le=1.0,
    )  # fmt: skip
    z_loss: Number = _asked(
        0.0, "option", "Weight of the squared log-sum-exp of the outputs (Chowdhery et al. 2022).",
        ge=0.0,
    )  # fmt: skip
    batch_size: BatchSize = _asked(
        32, "static",
        'Number of examples in a batch, sampled with replacement, or "full" for all of them.',
    )  # fmt: skip
    loss_scaling: Annotated[str, Choice(PARTS["loss_scaling"].keys)] = _asked(
        "none", "static", "What multiplies the loss before its gradient is taken."
    )
    loss_scale: Number = _asked(32768.0, "knob", "The loss's scale, or the first one.", gt=0.0)
    loss_scale_period: Number = _asked(
        2000.0, "knob", "Finite steps before a dynamic scale doubles.", ge=1.0
    )
    ema_decay: Number = _asked(
        0.0, "option",
        "Decay of a moving average of the parameters (Polyak and Juditsky 1992).",
        ge=0.0, lt=1.0,
    )  # fmt: skip
    parameter_precision: Annotated[str, Choice(PARTS["parameter_precision"].keys)] = _asked(
        "same", "static", "Floating-point type in which parameters are kept between steps."
    )
    matmul_precision: Annotated[str, Choice(PARTS["matmul_precision"].keys)] = _asked(
        "default", "static", "How matrix products are computed."
    )


class Quadratic(EveryRun, frozen=True, extra="forbid"):
    """What may be asked of plain iteration on curvature * x^2 / 2, the exact oracle."""

    curvature: Number = _asked(1.0, "knob", "Second derivative of the loss.")
    x0: Number = _asked(1.0, "knob", "Initial value of x.")


PROBLEMS: dict[str, type[EveryRun]] = {"training": Training, "quadratic": Quadratic}
"""The problems by name."""

USER_DEFINED = "own"
"""The kind of a problem that a person has written."""

OWN_HAS = ("problem", "seed", "steps", "trained_margin", "diverged_factor")
"""What may be asked of a run of such a problem, beside its own knobs and statics."""
