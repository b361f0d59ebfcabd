"""Consistency functions: h(u_t, t) is the end, at t_min, of the probability flow that passes through u_t.

    h(u, t) = c_skip u + c_out F + c_y y

is what a prediction says of the data, with its outer coefficients taken at an earlier time, t - t_min: they are those
of a prediction that is exact at the data, so h(u, t_min) = u holds as an identity (CM, section 3; CDBM, appendix B.4).
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.form import STATE, Form
from diffexp.prediction.head import Head
from diffexp.process.base import Marginal, Process
from diffexp.process.combination import Combination
from diffexp.process.operator import Operator

Shift = Literal["skip_out", "all", "none"]

# What to take in the place of processes whose noise does not vanish at the data.
_INSTEAD = {
    "i2sb_discrete": "the continuous process=i2sb",
    "ve": "process=edm",
    "cosine": "process.logsnr_max=1000, or process=vp",
    "iddpm": "process=cosine process.logsnr_max=1000",
}


class Consistency(Head):
    """A prediction that gives only "jump": the state at t_min.

    Args:
        head: the prediction whose network becomes the consistency function, e.g. that of the teacher.
        boundary_shift: "skip_out" moves the outer coefficients by t_min, so that the network is shown what the teacher
            was shown; "all" moves what it is shown too; "none" moves nothing and misses the boundary.
        t_min: the time at which the function ends, > 0; None: the process's own.
    """

    name = "consistency"
    gives = frozenset({"jump"})

    def __init__(self, head: Head, boundary_shift: Shift = "skip_out", t_min: float | None = None) -> None:
        super().__init__(head.time)
        self.head = head
        self.boundary_shift: Shift = boundary_shift
        self.t_min = t_min
        self.outputs = head.outputs
        self.shows = head.shows

    def on(self, process: Process) -> Head:
        made = copy.copy(self)
        made.head = self.head.on(process)
        made.outputs = made.head.outputs
        return made

    def end(self, process: Process) -> float:
        """t_min on `process`; ConfigError where neither says it."""
        end = process.t_min if self.t_min is None else self.t_min
        if self.t_min is None and not end > process.t_data:
            raise ConfigError(f"prediction.t_min: process {process.name} has none: give one, e.g. 1e-3")
        return float(end)

    def check(self, process: Process) -> None:
        self.head.check(process)
        if process.drawn:
            raise ConfigError(
                f"prediction=consistency: process {process.name} draws an image with its data, which a consistency "
                "function does not know: use process=ddm_const"
            )
        if self.boundary_shift != "none" and self._noisy(process):
            raise ConfigError(
                f"prediction=consistency: process {process.name} has noise at the data or counts its times, so that "
                f"h(x, t_min) = x cannot hold; use {_INSTEAD.get(process.name, 'process=vp')}"
            )
        end = self.end(process)
        if not process.t_data < end < process.t_max:
            limits = f"({process.t_data:g}, {process.t_max:g})"
            raise ConfigError(f"prediction.t_min={end}: must lie in {limits}, the times of process {process.name}")
        if self.boundary_shift != "none" and not self.exact(process):
            raise ConfigError(
                f"prediction=consistency: {self.head.name} on process {process.name} does not hand over a state at the "
                "data unchanged, so that h(x, t_min) = x cannot hold; use one that does, e.g. ddbm, i2sb, v, eps or edm"
            )

        if self.boundary_shift == "all" and not self._told_numbers(process):
            raise ConfigError(
                f"prediction.boundary_shift=all: at t_min the network would be told an infinite {self.head.time}; use "
                "skip_out"
            )

    def _told_numbers(self, process: Process) -> bool:
        """Whether the network's time input is finite where "all" moves t_min to."""
        with torch.device("cpu"):
            return bool(self.time_input(process, torch.tensor([self.end(process)], dtype=torch.float64)).isfinite())

    def _noisy(self, process: Process) -> bool:
        """Whether there is no time without noise, or times are those of a table."""
        with torch.device("cpu"):  # also where networks are built without memory
            start = torch.tensor([process.t_data], dtype=torch.float64)
            return process.num_steps is not None or not _vanishes(process.factor(start))

    def exact(self, process: Process) -> bool:
        """Whether h(u, t_min) = u for every network: bit for bit."""
        with torch.device("cpu"):
            at_end = process.marginal(torch.tensor([self.end(process)], dtype=torch.float64))
            terms = self.form(at_end).data.terms
        others = (operator for part, operator in terms.items() if part != STATE)
        return STATE in terms and terms[STATE].is_identity() and all(map(_vanishes, others))

    def out_channels(self, channels: int) -> int:
        return self.head.out_channels(channels)

    def split(self, output: Tensor) -> tuple[Tensor, ...]:
        return self.head.split(output)

    def time_input(self, process: Process, t: Tensor) -> Tensor:
        return self.head.time_input(process, self._shown(process, t))

    def input_scale(self, process: Process, t: Tensor) -> Operator | None:
        return self.head.input_scale(process, self._shown(process, t))

    def form(self, marginal: Marginal) -> Form:
        process = marginal.process
        assert process is not None
        outer = marginal
        if self.boundary_shift != "none":
            outer = process.marginal(self._shifted(process, marginal.t))
        return Form(marginal, self.head.form(outer).data, Combination({}), self.outputs)

    def _shown(self, process: Process, t: Tensor) -> Tensor:
        """The time of which the network is told."""
        return self._shifted(process, t) if self.boundary_shift == "all" else t

    def _shifted(self, process: Process, t: Tensor) -> Tensor:
        return (t - (self.end(process) - process.t_data)).clamp_min(process.t_data)

    def target(self, marginal: Marginal, x0: Tensor, noise: Tensor, u: Tensor) -> Tensor:
        raise _untaught()

    def data_weight(self, process: Process, t: Tensor) -> Tensor:
        raise _untaught()


def _vanishes(operator: Operator) -> bool:
    """Whether its numbers are zero in float32: a process may end at a log-SNR that is large but finite."""
    return operator.cast(torch.float32, "cpu").is_zero()


def _untaught() -> ConfigError:
    return ConfigError("prediction=consistency: nothing can be regressed on; train it with distillation=cbt or cbd")
