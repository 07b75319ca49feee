"""Parameters and numbers -> words for readers of the ledger."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from nanlab.ledger.contrast import Contrast

NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")

VALUES = {
    "relu": "ReLU", "leaky_relu": "LeakyReLU", "elu": "ELU", "gelu": "GELU", "selu": "SELU",
    "silu": "SiLU", "softplus": "softplus", "mse": "squared error",
    "softmax_cross_entropy": "cross-entropy",
    "softmax_cross_entropy_probabilities": "cross-entropy on probabilities",
    "softmax_cross_entropy_epsilon": "cross-entropy with a small constant",
    "sgd": "SGD", "momentum": "momentum", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop",
    "mlp": "a fully connected network", "cnn": "a convolutional network",
    "rnn": "a recurrent network", "glorot_normal": "Xavier's weights", "he_normal": "He's weights",
    "lecun_normal": "LeCun's weights", "normal": "normal weights", "uniform": "uniform weights",
    "xavier": "Xavier's weights", "digits": "the digits", "wine": "the wine data",
    "iris": "the iris data", "breast_cancer": "the breast cancer data",
    "images": "synthetic images",
    "adding": "the adding problem", "copy": "the copying problem", "diabetes": "the diabetes data",
    "nan": "runs that come to NaN", "stalled": "runs without a fault",
}  # fmt: skip
"""Words for values that are the same under every parameter."""

OF_PARAMETER: dict[str, Mapping[str, str]] = {
    "clip": {"none": "no clipping", "global_norm": "clipping by norm", "value": "clipping by value",
             "normalized": "the gradient divided by its norm"},
    "norm": {"none": "no normalization", "batch": "batch normalization",
             "layer": "layer normalization", "rms": "RMS normalization"},
    "schedule": {"constant": "a constant rate", "warmup": "a warm-up",
                 "cosine": "a cosine schedule", "step_decay": "a step decay",
                 "warmup_cosine": "a warm-up and cosine schedule"},
    "standardize": {"True": "standardized inputs", "False": "raw inputs"},
    "form": {"as written": "the form as written", "guarded": "the guarded form",
             "naive": "the naive form"},
    "told": {"activations": "the hidden activations", "loss": "the loss",
             "gradient": "the gradient of all layers", "first": "the gradient of the first layer"},
}  # fmt: skip
"""Words for the values of some parameters."""

OF_ZERO = {
    "label_noise": "no wrong labels", "outlier_fraction": "no extreme entries",
    "dropout": "no dropout", "weight_decay": "no weight decay",
    "constant_fraction": "no constant features",
}  # fmt: skip
"""Words for the value 0 alone of some parameters."""

PHRASES = {
    "lr": "a learning rate of {}", "init_scale": "weights {} times LeCun's", "steps": "{} steps",
    "depth": "{} layers", "width": "{} units", "batch_size": "batches of {}",
    "sequence_length": "sequences of {} steps", "negative_slope": "a slope of {}",
    "optimizer_epsilon": "an epsilon of {}", "clip_epsilon": "a clipping epsilon of {}",
    "norm_epsilon": "an epsilon of {}", "loss_epsilon": "a constant of {}",
    "bias_scale": "biases of {}", "hidden_bias": "hidden biases of {}",
    "output_bias": "output biases of {}", "weight_decay": "weight decay {}",
    "dropout": "dropout {}", "numbers": "inputs times {}", "logit_scale": "logits times {}",
    "label_noise": "a share of {} of the labels wrong",
    "outlier_fraction": "a share of {} of the entries extreme",
    "constant_fraction": "a share of {} of the features constant",
    "input_scale": "inputs times {}", "kind": "the {}",
}  # fmt: skip
"""Phrases around the values of a parameter, which may be several: 0.1 or 1."""


def plain_name(name: str) -> str:
    """Return a parameter's name without what only the tables need: static.loss -> loss."""
    return name.removeprefix("static.").removeprefix("knobs.").removesuffix("_without")


def parameter(name: str) -> str:
    """Return a parameter's name in words: lr is "learning rate"."""
    plain = plain_name(name)
    words = {
        "lr": "learning rate", "init_scale": "scale of the weights",
        "told": "watched quantity", "kind": "layer or loss", "outcome": "outcome",
        "clip": "method of clipping", "norm": "normalization", "steps": "number of steps",
        "inputs": "scaling of the inputs", "numbers": "size of the inputs",
        "factor": "alternative",
    }  # fmt: skip
    text = words.get(plain, plain.replace("_", " "))
    return f"{text} compared with" if name.endswith("_without") else text


def phrase(name: str, values: Sequence[Any]) -> str:
    """Return a parameter and some of its values as a phrase: "a learning rate of 0.1 or 1"."""
    plain = plain_name(name)
    texts = [_value(value) for value in values]
    words = OF_PARAMETER.get(plain, {})
    named = _either([words.get(text, VALUES.get(text, text)) for text in texts])
    if texts == ["0"] and plain in OF_ZERO:
        named = OF_ZERO[plain]
    elif plain in PHRASES:
        named = PHRASES[plain].format(named)
    elif plain == "factor" or all(t in words or t in VALUES or _speaks(t) for t in texts):
        pass
    else:
        named = f"{plain.replace('_', ' ')} {named}"
    return f"against {named}" if name.endswith("_without") else named


def _either(words: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _speaks(text: str) -> bool:
    """Return whether a value says what it is without its parameter: tanh, but not 0.1 or none."""
    return text[:1].isalpha() and text not in ("none", "True", "False")


def side(contrast: Contrast, *, is_with: bool) -> str:
    """Return one side of a contrast as a phrase."""
    if named := contrast.with_is if is_with else contrast.without_is:
        return named
    alternatives = contrast.alternatives if is_with else (contrast.without,)
    if len(alternatives) == 1 and len(alternatives[0]) == 1:
        ((name, value),) = alternatives[0].items()
        return phrase(name, value if isinstance(value, list | tuple) else [value])
    return _either(list(contrast.names)) if is_with and contrast.names else "it"


def _value(value: Any) -> str:
    if isinstance(value, str) and NUMBER.fullmatch(value):
        value = float(value)
    return f"{value:,.4g}" if isinstance(value, float) and abs(value) < 1e4 else _whole(value)


def _whole(value: Any) -> str:
    is_whole = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:,.0f}" if is_whole else str(value)


def share_text(share: float) -> str:
    """Return a share in percent, as text; what is neither 0 nor 1 never reads as if it were."""
    if 0.0 < share < 0.005:
        return "<1 %"
    if 0.995 <= share < 1.0:
        return ">99 %"
    return f"{100.0 * share:.0f} %"


def between(low: float, high: float, *, signed: bool = False) -> str:
    """Return an interval in percent or in percentage points: [91, 100]."""
    form = "{:+.0f}" if signed else "{:.0f}"
    ends = (form.format(100.0 * end + 0.0) for end in (low, high))
    return "[" + ", ".join("0" if end in ("+0", "-0") else end for end in ends) + "]"


def points(difference: float) -> str:
    """Return a difference of shares in percentage points: +29."""
    text = f"{100.0 * difference:+.0f}"
    return "0" if text in ("+0", "-0") else text


def enumerated(words: Sequence[str]) -> str:
    """Return words as a list in a sentence: "loss, depth and width"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
