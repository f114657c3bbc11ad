"""Muon (Jordan et al. 2024) with its Newton-Schulz iteration in bfloat16 or float32."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of x, x³ and x⁵ in the Newton-Schulz polynomial, those of torch.optim.Muon."""
ITERATIONS = 3
"""Newton-Schulz iterations; 3 gave the same losses as the usual 5 in less time."""
MOMENTUM = 0.95
"""Decay of the average of gradients per step, the default of torch.optim.Muon."""
FLOAT32_INTERVAL = 4
"""Steps between two updates of a matrix in float32, because one iteration takes twice as long as the rest of a step."""
SMALLEST_NORM = 1e-7
"""Lower bound of the norm, to avoid a division by zero."""


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype, bfloat16 or float32, in which `device` multiplies matrices of 1,000 rows faster.

    This is bfloat16 on GPUs, and on CPUs with bfloat16 instructions unless ATEN_CPU_CAPABILITY restricts torch. Other
    CPUs take up to 30 times as long in bfloat16 as in float32.
    """
    if device.type != "cpu":
        return torch.bfloat16
    has = torch.cpu.get_capabilities()
    native = has.get("avx512_bf16", False) or has.get("amx_bf16", False)
    return torch.bfloat16 if native and torch.backends.cpu.get_cpu_capability() == "AVX512" else torch.float32


class Muon(torch.optim.Muon):
    """torch.optim.Muon with the Newton-Schulz iteration in `dtype`; torch supports bfloat16 only.

    In bfloat16 the updates equal those of torch. In float32 the momentum uses every gradient, but each matrix is
    updated only at every fourth step, with four times the learning rate; about a quarter of them at each step.

    There is no weight decay; updates are scaled to the size of Adam's (Liu et al. 2025, arXiv:2502.16982). The weights
    of a convolution, (outputs, inputs, height, width), are a matrix of as many rows as outputs.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, dtype: torch.dtype) -> None:
        torch.optim.Optimizer.__init__(
            self, params, {"lr": lr, "momentum": MOMENTUM}
        )  # torch's own refuses 4-D weights
        self.dtype = dtype
        self.interval = FLOAT32_INTERVAL if dtype == torch.float32 else 1

    def describe(self) -> str:
        """Return the optimizer's name, dtype and update interval."""
        every = f", every {self.interval} steps" if self.interval > 1 else ""
        return f"Muon in {str(self.dtype).removeprefix('torch.')}{every}"

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # it takes no closure
        """Update the matrices that have a gradient."""
        for group in self.param_groups:
            matrices: list[Tensor] = []
            gradients: list[Tensor] = []
            averages: list[Tensor] = []
            self._init_group(group, matrices, gradients, averages)
            rate = 0.2 * self.interval * group["lr"]
            for position, (matrix, gradient, average) in enumerate(zip(matrices, gradients, averages, strict=True)):
                average.lerp_(gradient, 1 - group["momentum"])
                state = self.state[matrix]
                state["steps"] = state.get("steps", 0) + 1
                if (state["steps"] + position) % self.interval == 0:
                    momentum = gradient.lerp(average, group["momentum"]).flatten(1)
                    update = orthogonalize(momentum.to(self.dtype)).view(matrix.shape)
                    matrix.add_(update, alpha=-rate * math.sqrt(max(momentum.shape)))


def orthogonalize(matrix: Tensor) -> Tensor:
    """Approximate U·Vᵀ of `matrix` = U·S·Vᵀ, (M, N), by Newton-Schulz iteration in the dtype of `matrix`."""
    a, b, c = COEFFICIENTS
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp(min=SMALLEST_NORM)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.shape[0] > matrix.shape[1] else x
