"""Consistency distillation and training, on bridges (CDBM, He et al. 2024) and on every scalar process (CM, Song et al.
2023).

    loss = mean of  w(t, r) d(h(u_t, t), stop(h'(u_r, r))),   r < t

u_t is data with noise z, and u_r lies on nearly the same trajectory of the probability flow:

    CBD    u_r = one first-order step of the flow from u_t, with the teacher's estimate of the data (CDBM, eq. 16)
    CBT    u_r = the same data with the same noise at time r; no teacher (CDBM, eq. 17)

The step is DBIM's with eta = 0 on bridges and DDIM's elsewhere. h' is the student itself, or an average of it, with the
same dropout; nothing flows back through it.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.core.transfer import to_device
from diffexp.distillation.base import Distillation, Loss
from diffexp.distillation.schedule import GAP, Schedule
from diffexp.network.metric import Metric
from diffexp.objective.base import Objective
from diffexp.objective.batch import conditions_of, data_and_noise
from diffexp.objective.distilled import Distilled
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.consistency import Consistency
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import Head
from diffexp.process.base import Marginal, Process
from diffexp.process.flow import ode_step

Weight = Literal["one", "inv_gap"]


@dataclass(frozen=True)
class Pair:
    """Images at two times.

    Attributes:
        process: the forward process.
        x0, noise: data and unit noise, (B, C, H, W).
        t, r: the times, float64 (B,) on the CPU, r < t.
        conditions: of this batch.
        masked: what is known replaces estimates outside of the masks' holes.
    """

    process: Process
    x0: Tensor
    noise: Tensor
    t: Tensor
    r: Tensor
    conditions: Conditions = NO_CONDITIONS
    masked: bool = False

    def law(self, t: Tensor) -> Marginal:
        """The process at times `t`, for these images."""
        return self.process.marginal(t).cast(self.x0.dtype, self.x0.device)

    @cached_property
    def u(self) -> Tensor:
        """The state at t."""
        return self.law(self.t).perturb(self.x0, self.noise, self.conditions.endpoint)

    def known(self, estimate: Tensor) -> Tensor:
        """An estimate of the data, with what is known."""
        return composited(estimate, self.conditions) if self.masked else estimate


class _Consistency(Distillation):
    """What CBD and CBT share.

    Args:
        schedule: the pairs of times.
        metric: d.
        weight: w: "one", or "inv_gap", 1 / (t - r).
        gamma: training times end this much before the last, >= 0.
        target_ema: decay in [0, 1) of the average that h' is; 0: the student itself.
        share_dropout: draw the same dropout mask in both passes.
        initialise: start from the teacher's weights.
        teacher_ema: see `Distillation`.

    Raises:
        ConfigError: for a value out of range, or two decays of the target network.
    """

    teacher_prediction = "prediction.head"

    def __init__(
        self,
        schedule: Schedule,
        metric: Metric,
        weight: Weight = "one",
        gamma: float = 1.0e-3,
        target_ema: float = 0.0,
        share_dropout: bool = True,
        initialise: bool = True,
        teacher_ema: str | None = None,
    ) -> None:
        if not gamma >= 0.0:
            raise ConfigError(f"distillation.gamma={gamma}: must be >= 0")
        if not 0.0 <= target_ema < 1.0:
            raise ConfigError(f"distillation.target_ema={target_ema}: must be in [0, 1); 0 is the student itself")
        if target_ema and schedule.target_decay(0, 1) is not None:
            raise ConfigError(
                f"distillation.target_ema={target_ema}: the schedule has a decay of its own; set "
                "distillation.schedule.start_decay=null"
            )
        self.schedule = schedule
        self.metric = metric
        self.weight: Weight = weight
        self.gamma = gamma
        self.target_ema = target_ema
        self.share_dropout = share_dropout
        self.initialise = initialise
        self.teacher_ema = teacher_ema

    @property
    def averages(self) -> bool:
        """Whether h' is another network than the student."""
        return self.target_ema > 0.0 or self.schedule.target_decay(0, 1) is not None

    def check(self, head: Head, process: Process, objective: Objective) -> None:
        if not isinstance(head, Consistency):
            raise ConfigError(
                f"distillation: trains no {head.name} but a consistency function: add prediction=consistency"
            )
        if not isinstance(objective, Distilled):
            raise ConfigError("distillation: its loss takes the objective's place: add objective=distilled")
        if not head.exact(process):
            raise ConfigError(
                f"prediction.boundary_shift={head.boundary_shift}: without a shift h(x, t_min) = x does not hold, and "
                "training drifts away; use skip_out"
            )
        if process.state_shape((1, 2, 2)) != (1, 2, 2):
            raise ConfigError(f"distillation: states of process {process.name} are no images: use vp, edm or a bridge")
        low, high = self.limits(head, process)
        if not high - low > 2.0 * GAP:
            raise ConfigError(f"distillation.gamma={self.gamma}: no time is left between t_min={low:g} and {high:g}")
        self.schedule.pairs(torch.tensor([0.0, 0.5], dtype=torch.float64), low, high, 0, 1)

    def prepare(self, shape: tuple[int, int, int]) -> None:
        self.metric.prepare(shape, "distillation.metric", "distillation/metric=pseudo_huber")

    def teacher_head(self, head: Head) -> Head:
        assert isinstance(head, Consistency)
        return head.head

    def limits(self, head: Head, process: Process) -> tuple[float, float]:
        """(first, last) training time: t_min and t_max - gamma."""
        assert isinstance(head, Consistency)
        return head.end(process), process.t_max - self.gamma

    def loss(
        self, student: NetworkDenoiser, teacher: NetworkDenoiser | None, objective: Objective, steps: int
    ) -> ConsistencyLoss:
        return ConsistencyLoss(self, student, teacher if self.asks_teacher else None, objective, steps)

    @abc.abstractmethod
    def earlier(self, pair: Pair, teacher: NetworkDenoiser | None) -> Tensor:
        """u_r, (B, C, H, W)."""


class CBD(_Consistency):
    """Consistency distillation; arguments as for `_Consistency`."""

    asks_teacher = True

    def earlier(self, pair: Pair, teacher: NetworkDenoiser | None) -> Tensor:
        assert teacher is not None
        u, conditions = pair.u, pair.conditions
        data = pair.known(teacher(u, teacher.at(pair.t, u.dtype, u.device), conditions).data)
        return ode_step(teacher.process, u, pair.t, pair.r, data, conditions.endpoint)


class CBT(_Consistency):
    """Consistency training; arguments as for `_Consistency`."""

    asks_teacher = False

    def earlier(self, pair: Pair, teacher: NetworkDenoiser | None) -> Tensor:
        return pair.law(pair.r).perturb(pair.x0, pair.noise, pair.conditions.endpoint)


def composited(images: Tensor, conditions: Conditions) -> Tensor:
    """The images in the hole, and what is known around it (the bridge's end point)."""
    if conditions.mask is None or conditions.endpoint is None:
        raise ConfigError("objective.masked=true: the data set has no masks, or no second image; set it to false")
    return torch.lerp(conditions.endpoint, images, conditions.mask.to(images.dtype))


class ConsistencyLoss(Loss):
    """The loss of one training; see the module and `_Consistency`."""

    def __init__(
        self,
        method: _Consistency,
        student: NetworkDenoiser,
        teacher: NetworkDenoiser | None,
        objective: Objective,
        steps: int,
    ) -> None:
        self.method = method
        self.objective = objective
        self.teacher = teacher
        self.steps = steps
        self.step = 0
        self.limits = method.limits(student.head, student.process)
        self._student = student
        self._target: NetworkDenoiser | None = None
        if method.averages:
            network = copy.deepcopy(student.network).requires_grad_(False)
            self._target = NetworkDenoiser(network, student.head, student.process)

    def __call__(self, denoiser: NetworkDenoiser, batch: Mapping[str, Tensor], seed: int) -> Tensor:
        process = denoiser.process
        x0, noise = data_and_noise(process, batch, seed)
        share = random.uniform(seed, "train/time", batch["position"])
        t, r = self.method.schedule.pairs(share, *self.limits, self.step, self.steps)
        conditions = conditions_of(batch, seed, self.objective.label_dropout)
        losses = self.losses(denoiser, Pair(process, x0, noise, t, r, conditions, self.objective.masked))
        return losses.mean() * (x0[0].numel() if self.objective.reduce == "sum" else 1)

    def losses(self, denoiser: NetworkDenoiser, pair: Pair) -> Tensor:
        """The weighted loss of each image, (B,); ConfigError unless r < t."""
        t, r, u, method = pair.t, pair.r, pair.u, self.method
        if not bool((r < t).all()):
            k = int((r < t).logical_not().nonzero()[0])
            raise ConfigError(f"distillation.schedule: r={float(r[k]):g} is not before t={float(t[k]):g}")
        dropout = random.torch_state(u.device)
        jump = pair.known(denoiser(u, denoiser.at(t, u.dtype, u.device), pair.conditions).jump)
        with torch.no_grad():
            earlier = method.earlier(pair, self.teacher)
            if method.share_dropout:
                random.set_torch_state(dropout, u.device)
            target = self._target or denoiser
            wanted = pair.known(target(earlier, target.at(r, u.dtype, u.device), pair.conditions).jump)
        distance = method.metric(jump, wanted)
        if method.weight == "one":
            return distance
        return distance / to_device((t - r).clamp_min(GAP), distance.device, distance.dtype)

    def begin_step(self, step: int) -> None:
        self.step = step
        if self._target is not None:
            self._target.network.train(self._student.network.training)

    @torch.no_grad()
    def end_step(self) -> None:
        if self._target is None:
            return
        decay = self.method.schedule.target_decay(self.step, self.steps)
        decay = self.method.target_ema if decay is None else decay
        pairs = zip(self._target.network.parameters(), self._student.network.parameters(), strict=True)
        for average, present in pairs:
            average.lerp_(present.to(average.dtype), 1.0 - decay)

    def networks(self) -> list[nn.Module]:
        asked = [denoiser.network for denoiser in (self.teacher, self._target) if denoiser is not None]
        return [*asked, *self.method.metric.networks()]

    def state_dict(self) -> dict[str, Any]:
        return {} if self._target is None else {"target": self._target.network.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._target is not None:
            self._target.network.load_state_dict(state["target"])
