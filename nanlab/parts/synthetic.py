"""Synthetic data, the same at every call: NumPy draws from a fixed seed."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64, Int64

Vectors = Float64[np.ndarray, "examples features"]
Sequences = Float64[np.ndarray, "examples steps features"]
Classes = Int64[np.ndarray, "examples *steps"]

EXAMPLES = 1024
IMAGES = 512
SYMBOLS = 8


def _draws(*sizes: int) -> np.random.Generator:
    return np.random.default_rng([20_261_124, *sizes])


def images(size: int) -> tuple[Vectors, Classes, tuple[int, ...]]:
    """Return noisy gratings, whole pixels from 0 to 255, and their directions as classes."""
    rng = _draws(size)
    classes = rng.integers(0, 4, IMAGES)
    rows, columns = np.mgrid[0:size, 0:size]
    angle = (classes * math.pi / 4)[:, None, None]
    along = np.cos(angle) * columns + np.sin(angle) * rows
    period = rng.uniform(4.0, 8.0, IMAGES)[:, None, None]
    phase = rng.uniform(0.0, 2 * math.pi, IMAGES)[:, None, None]
    waves = 127.5 + 100.0 * np.sin(2 * math.pi * along / period + phase)
    pixels = np.clip(np.round(waves + rng.normal(0.0, 20.0, waves.shape)), 0.0, 255.0)
    return pixels.reshape(IMAGES, -1), classes, (size, size, 1)


def adding(length: int) -> tuple[Sequences, Float64[np.ndarray, "examples 1"]]:
    """Return sequences of (number, mark), one mark in each half, and the marked numbers' sum."""
    rng = _draws(length)
    numbers = rng.uniform(0.0, 1.0, (EXAMPLES, length))
    half = max(length // 2, 1)
    first = rng.integers(0, half, EXAMPLES)
    second = rng.integers(min(half, length - 1), length, EXAMPLES)
    marks = np.zeros_like(numbers)
    index = np.arange(EXAMPLES)
    marks[index, first] = marks[index, second] = 1.0
    return np.stack([numbers, marks], axis=-1), np.sum(numbers * marks, axis=1)[:, None]


def copy(length: int) -> tuple[Sequences, Classes]:
    """Return one-hot sequences of symbols, blanks and a recall sign; targets repeat the symbols."""
    rng = _draws(length)
    n_symbols = max(length // 4, 1)
    symbols = rng.integers(1, SYMBOLS + 1, (EXAMPLES, n_symbols))
    shown, targets = np.zeros((2, EXAMPLES, length), np.int64)
    shown[:, :n_symbols] = symbols
    shown[:, max(length - n_symbols - 1, 0)] = SYMBOLS + 1
    targets[:, -n_symbols:] = symbols
    return np.eye(SYMBOLS + 2)[shown], targets


def _teacher(
    features: int, outputs: int
) -> tuple[Vectors, Float64[np.ndarray, "examples outputs"]]:
    rng = _draws(features, outputs)
    inputs = rng.standard_normal((EXAMPLES, features))
    hidden = np.tanh(inputs @ rng.standard_normal((features, 32)) / math.sqrt(features))
    outputs_of = hidden @ rng.standard_normal((32, outputs))
    return inputs, (outputs_of - outputs_of.mean(axis=0)) / outputs_of.std(axis=0)


def teacher(features: int) -> tuple[Vectors, Float64[np.ndarray, "examples 1"]]:
    """Return normal inputs, and the output of a random network."""
    return _teacher(features, 1)


def teacher_classes(features: int) -> tuple[Vectors, Classes]:
    """Return normal inputs, and the index of the largest of a random network's 4 outputs."""
    inputs, outputs = _teacher(features, 4)
    return inputs, np.argmax(outputs, axis=1)
