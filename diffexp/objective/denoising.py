"""The denoising objective: perturb the data at a random time and regress the head's target.

    loss = mean over images of  w(t) mean over pixels of (F(u_t, t) - target)^2,   u_t = A_t x0 + B_t y + L_t e

(Ho et al. 2020, eq. 14 for eps with the plain weight; Salimans & Ho 2022, section 4 for the others; gDDIM, eq. 5.)
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from diffexp.core.transfer import to_device
from diffexp.objective.base import Objective, Reduce, mask_of, output_of, reduced
from diffexp.objective.batch import perturbation
from diffexp.objective.times import Times
from diffexp.objective.weighting import Weighting
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import Head
from diffexp.process.base import Marginal, Process


class Denoising(Objective):
    """Squared error of the network's output with a time-dependent weight.

    Args:
        weighting: the weight w(t).
        times: the law of the training times.
        reduce: "mean" over the pixels of an image, or their "sum" (CLD-SGM, likelihood training); images are averaged.
        label_dropout: see `Objective`.
        masked: errors count only inside the mask of the data, in the mean over all pixels (DBIM's code has it, though
            the published trainings use the whole image).

    Raises:
        ConfigError: for a label_dropout out of range.
    """

    def __init__(
        self,
        weighting: Weighting,
        times: Times,
        reduce: Reduce = "mean",
        label_dropout: float = 0.0,
        masked: bool = False,
    ) -> None:
        super().__init__(reduce, label_dropout, masked)
        self.weighting = weighting
        self.times = times

    def check(self, head: Head, process: Process) -> None:
        """Raise ConfigError when no time is left to train on, or the weight has no meaning for them."""
        self.times.check(process)
        self.weighting.check(head, process)

    def __call__(self, denoiser: NetworkDenoiser, batch: Mapping[str, Tensor], seed: int) -> Tensor:
        """The loss of a batch, a scalar tensor.

        Args:
            denoiser: the network under training.
            batch: "image" (B, C, H, W) in [-1, 1], "position" (B,) on the CPU, and the conditions of `conditions_of`.
            seed: keys times, noise and dropped labels, together with the positions.
        """
        drawn = perturbation(denoiser.process, self.times, batch, seed, self.label_dropout)
        return self.losses(denoiser, *drawn).mean()

    def losses(
        self,
        denoiser: NetworkDenoiser,
        x0: Tensor,
        noise: Tensor,
        t: Tensor,
        conditions: Conditions = NO_CONDITIONS,
        drawn: Tensor | None = None,
    ) -> Tensor:
        """The weighted loss of each image, (B,).

        Args:
            denoiser: the network under training.
            x0: the (lifted) data, (B, *).
            noise: unit noise e, (B, *).
            t: times, float64 (B,) on the CPU.
            conditions: of this batch.
            drawn: the second image, (B, *), of a process that draws one.
        """
        law = denoiser.process.marginal(t).cast(x0.dtype, x0.device)
        u = law.perturb(x0, noise, conditions.endpoint if drawn is None else drawn)
        return self.regress(denoiser, law, u, x0, noise, conditions, drawn)

    def regress(
        self,
        denoiser: NetworkDenoiser,
        law: Marginal,
        u: Tensor,
        x0: Tensor,
        noise: Tensor,
        conditions: Conditions = NO_CONDITIONS,
        drawn: Tensor | None = None,
    ) -> Tensor:
        """The weighted loss of each image, (B,), at given states `u` (B, *) of the cast law `law`.

        `x0` and `noise` are any pair with u = A x0 + B y + L noise; other arguments as for `losses`.
        """
        head = denoiser.head
        output = output_of(denoiser, law, u, conditions)
        target = head.target(law, x0, noise, u) if drawn is None else head.target(law, x0, noise, u, drawn)
        error = head.error(law, output, target).square()
        if self.masked:
            error = error * mask_of(conditions)
        weight = to_device(self.weighting.weight(head, denoiser.process, law.t), x0.device, x0.dtype)
        return weight * reduced(error, self.reduce)
