"""The contract of a stepper: it plans float64 coefficients before the loop and takes one step inside it."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffexp.prediction.result import Prediction
from diffexp.process.base import Process
from diffexp.sampler.grid import Last

Evaluate = Callable[[Tensor, int], Prediction]
"""evaluate(u, k): the prediction at state u and grid time k; one network evaluation."""

Draw = Callable[[], Tensor]
"""draw(): fresh unit noise of this step, (B, *)."""


class Stepper(abc.ABC):
    """One family of sampling steps.

    Attributes:
        needs: the quantities of `Prediction` it reads; a denoiser that does not give them is refused.
    """

    needs: frozenset[str] = frozenset({"data", "noise"})

    def evaluations(self, n: int) -> int:
        """Network evaluations of n >= 1 steps, for each image."""
        return n

    @abc.abstractmethod
    def plan(self, process: Process, times: Tensor, last: Last) -> Sequence[Any]:
        """One row of coefficients for each step between the n + 1 `times` (float64, decreasing)."""

    @abc.abstractmethod
    def step(self, u: Tensor, row: Any, evaluate: Evaluate, draw: Draw) -> Tensor:
        """The next state (B, *) from state `u`, with a row of the plan."""


def cast_rows(rows: Sequence[Any], dtype: torch.dtype, device: torch.device | str) -> list[Any]:
    """The plan's rows with their operators ready for states of this type and device."""
    return [row.cast(dtype, device) for row in rows]
