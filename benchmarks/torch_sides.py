"""The same training in PyTorch: eager, run by run, and with `torch.func.vmap` over all runs.

PyTorch draws its own random numbers, so its losses are those of different networks of this kind.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from sides import BATCH, CLASSES, DEPTH, EXAMPLES, FEATURES, Task, Timed
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap


def network(width: int) -> nn.Module:
    sizes = (FEATURES, *[width] * DEPTH)
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


def data(task: Task) -> tuple[Tensor, Tensor]:
    examples = task.examples()
    return torch.tensor(examples.inputs, dtype=torch.float32), torch.tensor(examples.targets)


def loss_of(outputs: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, labels)


class TorchEager:
    """Eager steps in a Python loop, one run after another."""

    def __init__(self, task: Task) -> None:
        self.task, self.data = task, data(task)
        self.compiling = Timed()
        self._train(0, 1e-3, steps=2)

    def run(self, lr: np.ndarray) -> tuple[Timed, np.ndarray]:
        with Timed() as timed:
            rates = enumerate(lr.tolist())
            losses = [self._train(i, rate, steps=self.task.steps) for i, rate in rates]
        return timed, np.array(losses)

    def _train(self, seed: int, lr: float, *, steps: int) -> float:
        torch.manual_seed(seed)
        inputs, labels = self.data
        model = network(self.task.width)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        loss = torch.tensor(math.nan)
        for _ in range(steps):
            chosen = torch.randint(0, EXAMPLES, (BATCH,))
            optimizer.zero_grad()
            loss = loss_of(model(inputs[chosen]), labels[chosen])
            loss.backward()
            optimizer.step()
        return float(loss.detach())


class TorchVmap:
    """Steps in a Python loop, each with `torch.func.vmap` of the gradient over all runs."""

    def __init__(self, task: Task) -> None:
        self.task, self.data = task, data(task)
        self.compiling = Timed()
        self._model = network(task.width).to("meta")
        self.run(np.full(4, 1e-3), steps=2)

    def run(self, lr: np.ndarray, steps: int | None = None) -> tuple[Timed, np.ndarray]:
        inputs, labels = self.data

        def loss(params: dict[str, Tensor], chosen: Tensor) -> tuple[Tensor, Tensor]:
            value = loss_of(functional_call(self._model, params, (inputs[chosen],)), labels[chosen])
            return value, value

        gradient = vmap(grad(loss, has_aux=True))
        with Timed() as timed:
            params, _ = stack_module_state([network(self.task.width) for _ in lr])
            params = {name: value.detach() for name, value in params.items()}
            rates = torch.tensor(lr, dtype=torch.float32)
            last = torch.zeros(len(lr))
            for _ in range(steps or self.task.steps):
                chosen = torch.randint(0, EXAMPLES, (len(lr), BATCH))
                gradients, last = gradient(params, chosen)
                for name, value in params.items():
                    shape = (-1, *[1] * (value.dim() - 1))
                    value -= rates.reshape(shape) * gradients[name]
        return timed, last.numpy()
