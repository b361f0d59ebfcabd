"""Named variances of the reverse step from t to s, shared by ancestral sampling and the variational bound.

"small" is the posterior's own variance (exact for data at one point), "large" that of the forward step from s to t
(exact for white data; Ho et al. 2020, section 3.2), "medium" small^(1 - f) large^f (Nichol & Dhariwal 2021, eq. 15 with
a constant; Salimans & Ho 2022 tune f for each number of steps).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.base import Process
from diffexp.process.operator import Operator

Variance = Literal["small", "large", "medium"]


def check_variance(variance: Variance, interpolation: float | None, where: str) -> None:
    """Refuse an interpolation that is missing, has no effect, or is out of [0, 1]; `where` is the config node."""
    if (variance == "medium") != (interpolation is not None):
        what = "needs" if interpolation is None else "has no use for"
        raise ConfigError(f"{where}.variance={variance}: {what} {where}.interpolation")
    if interpolation is not None and not 0.0 <= interpolation <= 1.0:
        raise ConfigError(f"{where}.interpolation={interpolation}: must be between 0 (small) and 1 (large)")


def reverse_factor(
    process: Process, t: Tensor, s: Tensor, variance: Variance = "small", interpolation: float | None = None
) -> Operator:
    """A factor C of the named covariance of u_s given u_t and the data.

    Args:
        process: the forward process.
        t, s: times with s < t, float64 () or (n,).
        variance: its name.
        interpolation: f in [0, 1], for "medium".
    """
    if variance == "large":
        return process.transition_factor(t, s)
    small = process.posterior_factor(t, s)
    if variance == "small":
        return small
    return small.geometric(process.transition_factor(t, s), interpolation or 0.0)
