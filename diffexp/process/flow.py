"""One step of the probability flow, forwards or backwards in time."""

from __future__ import annotations

from torch import Tensor

from diffexp.process.base import Process, second_image
from diffexp.process.operator import combine


def ode_step(process: Process, u: Tensor, t: Tensor, r: Tensor, data: Tensor, y: Tensor | None = None) -> Tensor:
    """The first-order step from time t to time r, given the estimate of the data at t.

    u_r = A_r x^ + B_r y + L_r e^ with the noise e^ that u_t = A_t x^ + B_t y + L_t e^ implies: DDIM, and on bridges
    DBIM with eta = 0 (CDBM, eq. 16).

    Args:
        process: the forward process.
        u: states at t, (B, *).
        t, r: times, float64 (B,) or () on the CPU, in any order; L_t must not vanish.
        data: x^, (B, *).
        y: the second image of a process that has one.
    """
    here, there = process.marginal(t), process.marginal(r)
    keep = there.factor @ here.factor.inverse()
    terms = [(keep, u), (there.signal - keep @ here.signal, data)]
    if here.auxiliary is not None and there.auxiliary is not None:
        terms.append((there.auxiliary - keep @ here.auxiliary, second_image(y)))
    return combine([(operator.cast(u.dtype, u.device), part) for operator, part in terms])
