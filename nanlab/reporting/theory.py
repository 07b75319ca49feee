"""A study's parameters -> what theory predicts: boundaries on its maps, steps and layers of faults.

Each rule says nothing where its premises do not hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

Fixed = Mapping[str, Any]
"""The parameters of a run, but for the one that is asked for."""

LARGEST = {
    "float64": 1.7976931348623157e308,
    "float32": 3.4028234663852886e38,
    "bfloat16": 3.3895313892515355e38,
    "float16": 65504.0,
}

GAIN_SQUARED = {
    "lecun_normal": 1.0,
    "lecun_uniform": 1.0,
    "he_normal": 2.0,
    "he_uniform": 2.0,
    "normal_fan_in": 1.0,
}
"""Initializer -> the variance of its weights times fan_in."""


@dataclass(frozen=True)
class Prediction:
    """A value that theory gives.

    Attributes:
        value: of the parameter that was asked for.
        label: what it is, in a few words.
        source: who found it.
    """

    value: float
    label: str
    source: str


def predicted(name: str, fixed: Fixed) -> Prediction | None:
    """The critical value of parameter `name` where theory has one, all else as in `fixed`."""
    for rule in _RULES:
        found = rule(name, fixed)
        if found is not None:
            return found
    return None


def _largest_stable_rate(name: str, fixed: Fixed) -> Prediction | None:
    """2 / curvature for gradient descent, and its like with momentum."""
    if fixed.get("problem") != "quadratic" or name not in ("lr", "curvature"):
        return None
    plain = {"schedule": "constant", "clip": "none", "apply_if_finite": 0, "weight_decay": 0.0}
    if any(fixed.get(key, value) != value for key, value in plain.items()):
        return None
    b = float(fixed.get("momentum") or 0.0)
    products: dict[Any, tuple[float, str, str]] = {
        "sgd": (2.0, "2/λ", "gradient descent on a quadratic"),
        "momentum": (2.0 * (1.0 + b), "2(1+β)/λ", "Polyak 1964"),
        "nesterov": ((2.0 + 2.0 * b) / (1.0 + 2.0 * b), "(2+2β)/((1+2β)λ)",
                     "O'Donoghue and Candès 2015"),
    }  # fmt: skip
    other = float(fixed.get("curvature" if name == "lr" else "lr") or 0.0)
    if fixed.get("optimizer") not in products or other <= 0:
        return None
    product, label, source = products[fixed["optimizer"]]
    return Prediction(product / other, f"largest stable step size, {label}", source)


def _relu_gain(fixed: Fixed) -> float | None:
    """By how much an activation grows in a layer at initialization, for init_scale 1."""
    plain = {"norm": "none", "residual": False, "dropout": 0.0}
    if fixed.get("model") != "mlp" or fixed.get("activation") != "relu":
        return None
    if any(fixed.get(key, value) != value for key, value in plain.items()):
        return None
    squared = GAIN_SQUARED.get(str(fixed.get("initializer")))
    return None if squared is None else math.sqrt(squared / 2.0)


def overflow_layer(fixed: Fixed) -> Prediction | None:
    """Near which layer a deep ReLU network at initialization overflows first, counted from 0."""
    unit, largest = _relu_gain(fixed), LARGEST.get(str(fixed.get("precision")))
    if unit is None or largest is None:
        return None
    gain = unit * float(fixed.get("init_scale") or 0.0)
    if gain <= 1.0:
        return None
    return Prediction(
        math.log(largest) / math.log(gain),
        "first overflow near layer ln(largest number)/ln(gain)",
        "He et al. 2015",
    )


def _relu_overflow(name: str, fixed: Fixed) -> Prediction | None:
    """The weights, or the depth, at which a deep ReLU network overflows at initialization."""
    label, source = "a ReLU network overflows at initialization", "He et al. 2015"
    if name == "depth":
        layer = overflow_layer(fixed)
        return None if layer is None else Prediction(layer.value, label, source)
    unit, largest = _relu_gain(fixed), LARGEST.get(str(fixed.get("precision")))
    if name != "init_scale" or unit is None or largest is None:
        return None
    return Prediction(math.exp(math.log(largest) / float(fixed["depth"])) / unit, label, source)


DEEP = 8
"""From so many layers on a mean-field line is drawn."""


def _critical_weights(name: str, fixed: Fixed) -> Prediction | None:
    """Weights at which gradients of a deep tanh network neither vanish nor explode."""
    if name != "init_scale" or fixed.get("model") != "mlp" or int(fixed.get("depth") or 0) < DEEP:
        return None
    if fixed.get("activation") != "tanh" or fixed.get("norm", "none") != "none":
        return None
    squared = GAIN_SQUARED.get(str(fixed.get("initializer")))
    if squared is None or fixed.get("residual"):
        return None
    drawn = {"zeros": 0.0, "normal": 1.0}.get(str(fixed.get("bias_initializer", "zeros")))
    if drawn is None:
        return None
    variance = drawn * float(fixed.get("bias_scale") or 0.0) ** 2
    critical = critical_variance(variance)
    return Prediction(
        math.sqrt(critical / squared),
        "gradients neither vanish nor explode with depth",
        "Poole et al. 2016; Schoenholz et al. 2017",
    )


@lru_cache(maxsize=4096)
def critical_variance(bias_variance: float) -> float:
    """The weight variance (times fan_in) at which the mean-field slope of tanh is 1.

    On the critical line w = 1 / E[phi'(sqrt(q) z)^2] and q = w E[phi(sqrt(q) z)^2] + b, z normal:
    so q - E[phi^2] / E[phi'^2] = b, which grows with q, is solved for q by bisection.
    """
    if bias_variance <= 0:
        return 1.0
    low, high = 0.0, 1.0
    while _bias_variance(high) < bias_variance:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _bias_variance(middle) < bias_variance else (low, middle)
    return 1.0 / _moments((low + high) / 2)[1]


def _bias_variance(q: float) -> float:
    square, slope = _moments(q)
    return q - square / slope


def _moments(q: float) -> tuple[float, float]:
    """E[tanh(sqrt(q) z)^2] and E[tanh'(sqrt(q) z)^2] for normal z."""
    nodes, weights = _hermite()
    told = np.tanh(math.sqrt(q) * nodes)
    return float(weights @ told**2), float(weights @ (1.0 - told**2) ** 2)


@lru_cache(maxsize=1)
def _hermite() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    return nodes, weights / weights.sum()


_RULES: tuple[Callable[[str, Fixed], Prediction | None], ...] = (
    _largest_stable_rate,
    _relu_overflow,
    _critical_weights,
)


def predicted_fault_step(fixed: Fixed) -> float | None:
    """When gradient descent on curvature * x^2 / 2 first overflows: the loss, at this step.

    |x| grows by |1 - lr * curvature| a step, and the loss overflows at sqrt(2 * largest).
    """
    if fixed.get("problem") != "quadratic" or fixed.get("optimizer") != "sgd":
        return None
    largest = LARGEST.get(str(fixed.get("precision")))
    x0, curvature = float(fixed.get("x0") or 0.0), float(fixed.get("curvature") or 0.0)
    growth = abs(1.0 - float(fixed.get("lr") or 0.0) * curvature)
    if largest is None or growth <= 1.0 or x0 == 0.0 or curvature <= 0.0:
        return None
    return max(0.0, math.log(math.sqrt(2.0 * largest / curvature) / abs(x0)) / math.log(growth))
