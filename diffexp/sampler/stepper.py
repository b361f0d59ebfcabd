"""The contract of a stepper: it plans float64 coefficients, binds them to a prediction's form, and takes steps.

Three moments, from rare to frequent:
    plan(process, times, last)   once for each process and grid: the method's own coefficients
    bind(plan, form)             once for each denoiser and grid: composed with the form of its predictions
    step(u, row, ...)            in the loop: a few passes over memory beside the network
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from diffexp.prediction.form import Form
from diffexp.prediction.result import Prediction
from diffexp.prediction.wrapper import Clipped, Wrapper
from diffexp.process.base import Process
from diffexp.sampler.grid import Last

Evaluate = Callable[[Tensor, int], Prediction]
"""evaluate(u, k): the prediction at state u and the k-th visited time; one call of the denoiser."""

EstimateForm = Literal["noise", "data"]
"""Which estimate a method of higher order holds over a step; that of the noise needs a signal at the first time."""

Carry = list[Any]
"""What a method with memory keeps from step to step of one run; empty at first."""


class Draw(Protocol):
    """draw(j): fresh unit noise (B, *), the j-th of this step, j = 0 .. draws - 1."""

    def __call__(self, j: int = 0) -> Tensor: ...


class Stepper(abc.ABC):
    """One family of sampling steps.

    Attributes:
        needs: the quantities of `Prediction` it reads; a denoiser that does not give them is refused.
        min_steps: the smallest number of steps that it can take.
        draws: how many draws of noise belong to a step, whether or not it uses them.
        endpoint: whether it is for processes with a given end point (bridges): True, False, or None for both.
        drawn: whether it takes the second image into account that a process draws and a prediction states.
        order: the order in the length of the steps at which the law of the samples converges for exact estimates; None
            where nothing converges: jumps, and steps whose lengths a tolerance decides.
        from_nothing: whether it can start where a process without end point has no signal at all, alpha = 0.
        clipped: how a denoiser's data are held in the range of images for it.
    """

    needs: frozenset[str] = frozenset({"data", "noise"})
    min_steps: int = 1
    draws: int = 1
    endpoint: bool | None = False
    drawn: bool = False
    order: int | None = 1
    from_nothing: bool = False
    clipped: type[Wrapper] = Clipped

    def check(self, process: Process, times: Tensor) -> None:  # noqa: B027 - most steppers take any times
        """Raise ConfigError for times that it cannot step between, (n + 1,)."""

    def evaluations(self, n: int) -> int:
        """Calls of the denoiser in n >= 1 steps."""
        return n

    def visited(self, times: Tensor) -> Tensor:
        """The times at which it evaluates, in the order in which its rows count them; `times` (n + 1,) is the grid."""
        return times[:-1]

    @abc.abstractmethod
    def plan(self, process: Process, times: Tensor, last: Last) -> Any:
        """The coefficients of the steps between the n + 1 `times` (float64, decreasing)."""

    @abc.abstractmethod
    def bind(self, plan: Any, form: Form) -> Sequence[Any]:
        """One row for each step: the plan composed with the form of the predictions at the visited times; float64."""

    @abc.abstractmethod
    def step(self, u: Tensor, row: Any, evaluate: Evaluate, draw: Draw, carry: Carry) -> Tensor:
        """The next state (B, *) from state `u`, with a row that was cast."""


def cast_rows(rows: Sequence[Any], dtype: torch.dtype, device: torch.device | str) -> list[Any]:
    """The rows with their operators ready for states of this type and device."""
    return [row.cast(dtype, device) for row in rows]
