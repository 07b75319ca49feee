"""Parameters -> what theory predicts: stability boundaries, fault steps, layers of overflow.

A rule returns None where its premises do not hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.optimize import brentq

Fixed = Mapping[str, Any]
"""The parameters of a run; the predicted one is ignored."""

LARGEST = {
    "float64": 1.7976931348623157e308, "float32": 3.4028234663852886e38,
    "bfloat16": 3.3895313892515355e38, "float16": 65504.0,
}  # fmt: skip

GAIN_SQUARED = {
    "lecun_normal": 1.0, "lecun_uniform": 1.0, "he_normal": 2.0, "he_uniform": 2.0,
    "normal_fan_in": 1.0,
}  # fmt: skip
"""Initializer -> the variance of its weights times fan_in."""


@dataclass(frozen=True)
class Prediction:
    """A value that theory predicts.

    Attributes:
        value: the predicted value.
        label: what happens there, in a few words.
        source: author and year.
        at_start: whether it is about the initial state, not about training.
    """

    value: float
    label: str
    source: str
    at_start: bool = False


def predicted(name: str, fixed: Fixed) -> Prediction | None:
    """Return the largest stable value of parameter `name`, all else as in `fixed`, or None."""
    return _largest_stable_rate(name, fixed) or _relu_overflow(name, fixed)


def _has(fixed: Fixed, **premises: Any) -> bool:
    """Return whether parameters have these values, or are not used by the run."""
    return all(fixed.get(name, value) == value for name, value in premises.items())


def _largest_stable_rate(name: str, fixed: Fixed) -> Prediction | None:
    """Return 2 / curvature for gradient descent, and its counterparts with momentum."""
    if fixed.get("problem") != "quadratic" or name not in ("lr", "curvature"):
        return None
    if not _has(fixed, schedule="constant", clip="none", apply_if_finite=0, weight_decay=0.0):
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
    """Return the growth of activations per layer at initialization, for init_scale 1."""
    squared = GAIN_SQUARED.get(str(fixed.get("initializer")))
    if (fixed.get("model"), fixed.get("activation")) != ("mlp", "relu") or squared is None:
        return None
    return (
        math.sqrt(squared / 2.0) if _has(fixed, norm="none", residual=False, dropout=0.0) else None
    )


def overflow_layer(fixed: Fixed) -> Prediction | None:
    """Return the layer, counted from 0, near which a ReLU network overflows at initialization."""
    unit, largest = _relu_gain(fixed), LARGEST.get(str(fixed.get("precision")))
    if unit is None or largest is None:
        return None
    gain = unit * float(fixed.get("init_scale") or 0.0)
    if gain <= 1.0:
        return None
    label = "first overflow near layer ln(largest number)/ln(gain)"
    return Prediction(math.log(largest) / math.log(gain), label, "He et al. 2015")


def _relu_overflow(name: str, fixed: Fixed) -> Prediction | None:
    """Return the weights, or the depth, at which a ReLU network overflows at initialization."""
    label, source = "a ReLU network overflows at initialization", "He et al. 2015"
    if name == "depth":
        layer = overflow_layer(fixed)
        return None if layer is None else Prediction(layer.value, label, source, at_start=True)
    unit, largest = _relu_gain(fixed), LARGEST.get(str(fixed.get("precision")))
    if name != "init_scale" or unit is None or largest is None:
        return None
    value = math.exp(math.log(largest) / float(fixed["depth"])) / unit
    return Prediction(value, label, source, at_start=True)


DEEP = 8
"""Number of layers from which mean-field theory is applied."""


def critical_weights(name: str, fixed: Fixed) -> Prediction | None:
    """Return the weights at which gradients neither vanish nor explode with depth, or None."""
    if name != "init_scale" or int(fixed.get("depth") or 0) < DEEP or fixed.get("model") != "mlp":
        return None
    squared = GAIN_SQUARED.get(str(fixed.get("initializer")))
    drawn = {"zeros": 0.0, "normal": 1.0}.get(str(fixed.get("bias_initializer", "zeros")))
    plain = _has(fixed, norm="none", residual=False, dropout=0.0)
    if squared is None or drawn is None or not plain:
        return None
    label = "gradients neither vanish nor explode with depth"
    if fixed.get("activation") == "tanh":
        critical = critical_variance(drawn * float(fixed.get("bias_scale") or 0.0) ** 2)
        source = "Poole et al. 2016; Schoenholz et al. 2017"
    elif fixed.get("activation") == "relu":
        critical, source = 2.0, "He et al. 2015"  # half of the units pass a gradient on
    else:
        return None
    return Prediction(math.sqrt(critical / squared), label, source)


@lru_cache(maxsize=4096)
def critical_variance(bias_variance: float) -> float:
    """Return the weight variance (times fan_in) at which the mean-field slope of tanh is 1.

    On the critical line w = 1 / E[phi'(sqrt(q) z)^2] and q = w E[phi(sqrt(q) z)^2] + b with z
    normal, so q - E[phi^2] / E[phi'^2] = b. The left side grows with q.

    Args:
        bias_variance: b.

    Returns:
        w.
    """
    if bias_variance <= 0:
        return 1.0

    def excess(q: float) -> float:
        square, slope = _moments(q)
        return q - square / slope - bias_variance

    # w is 1 or more and E[phi^2] is positive, so that excess(b) < 0.
    high = 2 * bias_variance
    while excess(high) < 0:
        high *= 2
    root: Any = brentq(excess, bias_variance, high, xtol=1e-15)
    return 1.0 / _moments(float(root))[1]


_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(100)


def _moments(q: float) -> tuple[float, float]:
    """Return E[tanh(sqrt(q) z)^2] and E[tanh'(sqrt(q) z)^2] for normal z."""
    squares, weights = np.tanh(math.sqrt(q) * _NODES) ** 2, _WEIGHTS / _WEIGHTS.sum()
    return float(weights @ squares), float(weights @ (1.0 - squares) ** 2)


def predicted_fault_step(fixed: Fixed) -> float | None:
    """Return the step in which the loss curvature * x^2 / 2 overflows under gradient descent."""
    # |x| grows by |1 - lr * curvature| per step, and the loss overflows at sqrt(2 * largest).
    if fixed.get("problem") != "quadratic" or fixed.get("optimizer") != "sgd":
        return None
    largest = LARGEST.get(str(fixed.get("precision")))
    x0, curvature = float(fixed.get("x0") or 0.0), float(fixed.get("curvature") or 0.0)
    growth = abs(1.0 - float(fixed.get("lr") or 0.0) * curvature)
    if largest is None or growth <= 1.0 or x0 == 0.0 or curvature <= 0.0:
        return None
    return max(0.0, math.log(math.sqrt(2.0 * largest / curvature) / abs(x0)) / math.log(growth))
