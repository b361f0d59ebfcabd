"""Denoisers of decoupled processes that know the image, and grids that are given as they are."""

from __future__ import annotations

import torch
from torch import Tensor

from diffexp.prediction.denoiser import Denoiser
from diffexp.prediction.two_head import TwoHead
from diffexp.process.attenuation import Attenuation
from diffexp.process.decoupled import Decoupled
from diffexp.sampler.grid import Grid, Last


class Faster(Attenuation):
    """A user's function with two parameters for one image: H_t = t C + t^3 D, C = -x0 / 4, D = -3 x0 / 4."""

    name = "faster"
    names = ("C", "D")
    of_data = (-0.25, -0.75)

    def coefficients(self, t: Tensor) -> tuple[Tensor, ...]:
        return t, t**3


class Known(Denoiser):
    """The true heads for one image x0 and, where the process draws one, K: phi of them, and the noise left in u.

    Args:
        process: a decoupled process.
        x0: (B, C, H, W).
        drawn: K, likewise, or None.
    """

    def __init__(self, process: Decoupled, x0: Tensor, drawn: Tensor | None = None) -> None:
        super().__init__(process)
        self.head = TwoHead("none").on(process)
        self.x0, self.drawn = x0, drawn if process.drawn else None

    def form(self, marginal):
        return self.head.form(marginal)

    def parts(self, u, point, conditions=None):
        self.evaluations += len(u)
        law = point.marginal
        clean = law.perturb(self.x0, torch.zeros_like(u), self.drawn)
        phi = self.process.attenuation.parameters(self.x0, self.drawn)
        return u, *phi.chunk(self.process.attenuation.n_params, dim=1), law.factor.inverse().apply(u - clean)


class Given(Grid):
    """Times as they are given."""

    name = "given"

    def __init__(self, times: Tensor, last: Last = "state") -> None:
        super().__init__(float(times[-1]), last)
        self.given = times

    @property
    def choices(self) -> tuple[int, ...]:
        return (len(self.given) - 1,)

    def times(self, process, n):
        return self.given

    def _times(self, process, n, start, end):
        raise NotImplementedError
