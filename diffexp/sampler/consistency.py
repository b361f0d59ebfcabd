"""Multistep consistency sampling (CM, Song et al. 2023, algorithm 1; CDBM, He et al. 2024, section 3.4).

From the prior, or from a bridge's end point, a consistency function jumps to the end of the flow, t_min. The result is
carried back to an earlier time of the grid with fresh noise, from where it jumps again:

    x <- h(u_t, t),   u_s = A_s x + B_s y + L_s z,   s the next time of the grid;   the last jump is the sample

n steps are n jumps, at the grid's first n times; its last time is where they lead.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.base import Process
from diffexp.sampler.grid import Last
from diffexp.sampler.linear import Coefficients, LinearStepper


class Consistency(LinearStepper):
    """Jumps and fresh noise in turn; for predictions that give "jump"."""

    needs = frozenset({"jump"})
    order = None
    endpoint = None
    from_nothing = True

    def check(self, process: Process, times: Tensor) -> None:
        if process.endpoint and float(times[0]) < process.t_max:
            raise ConfigError(
                f"sampler consistency: the first jump is from the end point, t = {process.t_max:g}, but the grid "
                f"starts at {float(times[0]):g}: use grid=bridge, or put {process.t_max:g} before grid.values"
            )

    def coefficients(self, process: Process, t: Tensor, s: Tensor) -> Coefficients:
        return Coefficients(data=process.signal(s), second=process.auxiliary(s), fresh=process.factor(s))

    def plan(self, process: Process, times: Tensor, last: Last) -> Coefficients:
        return replace(self.coefficients(process, times[:-1], times[1:]), last="data")
