"""The data estimate of one evaluation, taken as the sample: regression, the baseline of every sampler on pairs."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.base import Process
from diffexp.sampler.grid import Last
from diffexp.sampler.linear import Coefficients, LinearStepper


class Estimate(LinearStepper):
    """x^ at the grid's first time; one step, one evaluation. On a bridge the first time is that of the end point."""

    needs = frozenset({"data"})
    order = None
    endpoint = None
    drawn = True
    from_nothing = True

    def check(self, process: Process, times: Tensor) -> None:
        if len(times) != 2:
            raise ConfigError(f"sampler estimate: takes one evaluation, not {len(times) - 1}: use one of grid.values")
        if process.endpoint and float(times[0]) < process.t_max:
            raise ConfigError(
                f"sampler estimate: looks at the end point, t = {process.t_max:g}, but the grid starts at "
                f"{float(times[0]):g}: use grid=explicit grid.values=[{process.t_max:g}]"
            )

    def coefficients(self, process: Process, t: Tensor, s: Tensor) -> Coefficients:
        return Coefficients(data=process.signal(t).identity())

    def plan(self, process: Process, times: Tensor, last: Last) -> Coefficients:
        return replace(self.coefficients(process, times[:-1], times[1:]), last="data")
