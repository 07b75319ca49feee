"""Sizes -> data that are made, the same at every call: NumPy draws of a fixed seed."""

from __future__ import annotations

import math

import numpy as np

EXAMPLES = 1024
IMAGES = 512
SYMBOLS = 8


def _draws(*sizes: int) -> np.random.Generator:
    return np.random.default_rng([20_261_124, *sizes])


def images(size: int) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Noisy gratings, (examples, size * size), whole pixels from 0 to 255; class: direction."""
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


def adding(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and marks, (examples, length, 2), one mark in each half; targets: their sum."""
    rng = _draws(length)
    numbers = rng.uniform(0.0, 1.0, (EXAMPLES, length))
    half = max(length // 2, 1)
    first = rng.integers(0, half, EXAMPLES)
    second = rng.integers(min(half, length - 1), length, EXAMPLES)
    marks = np.zeros_like(numbers)
    everyone = np.arange(EXAMPLES)
    marks[everyone, first] = marks[everyone, second] = 1.0
    return np.stack([numbers, marks], axis=-1), np.sum(numbers * marks, axis=1)[:, None]


def copy(length: int) -> tuple[np.ndarray, np.ndarray]:
    """One-hot symbols, (examples, length, 10): some, then blanks, a sign, and blanks again.

    Targets, (examples, length): the blank (class 0), and the symbols at the last steps.
    """
    rng = _draws(length)
    many = max(length // 4, 1)
    symbols = rng.integers(1, SYMBOLS + 1, (EXAMPLES, many))
    shown, targets = np.zeros((2, EXAMPLES, length), np.int64)
    shown[:, :many] = symbols
    shown[:, max(length - many - 1, 0)] = SYMBOLS + 1
    targets[:, -many:] = symbols
    return np.eye(SYMBOLS + 2)[shown], targets


def _teacher(features: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    rng = _draws(features, outputs)
    inputs = rng.standard_normal((EXAMPLES, features))
    hidden = np.tanh(inputs @ rng.standard_normal((features, 32)) / math.sqrt(features))
    said = hidden @ rng.standard_normal((32, outputs))
    return inputs, (said - said.mean(axis=0)) / said.std(axis=0)


def teacher(features: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal inputs, (examples, features), and a random network's number, (examples, 1)."""
    return _teacher(features, 1)


def teacher_classes(features: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal inputs, (examples, features), and which of 4 outputs is the largest."""
    inputs, said = _teacher(features, 4)
    return inputs, np.argmax(said, axis=1)
