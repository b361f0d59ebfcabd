"""Bilateral denoising diffusion (BDDM, Lam et al. 2022) as a distillation: a schedule network for a finished model.

The teacher's network is taken as it is and frozen; what is trained is the network that reads from a noisy sample how
large the next step of a sampling may be. Schedules are searched afterwards: see `scheduling` and `search`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffexp.checkpoint.match import load_strict
from diffexp.core import random
from diffexp.core.errors import CheckpointError, ConfigError
from diffexp.distillation.base import Distillation, Loss
from diffexp.distillation.bilateral.loss import CODE, StepLoss, check_log_coef
from diffexp.distillation.bilateral.pair import TIMES, check_tau
from diffexp.distillation.bilateral.scheduled import Scheduled
from diffexp.distillation.bilateral.score import Score, check_process
from diffexp.network.schedule.spec import ScheduleSpec
from diffexp.objective.base import Objective
from diffexp.objective.batch import conditions_of, data_and_noise
from diffexp.objective.distilled import Distilled
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import Head
from diffexp.process.base import Process


class Bilateral(Distillation):
    """The training of a schedule network by the step loss.

    Args:
        schedule_network: what is trained; its channels are the data's.
        tau: how many steps of the training's table the two levels of a pair are apart. Larger makes shorter schedules;
            where it is small, the larger step bounds every beta and sigma runs to 1 (Lam et al. 2022; `loss.Terms`).
        log_coef: 1/4 as in the released code, 1/2 for the divergence itself.
        times: T on a process without a table.
        teacher_ema: see `Distillation`.

    Raises:
        ConfigError: for a value out of range.
    """

    asks_teacher = False
    initialise = True
    searches = True

    def __init__(
        self,
        schedule_network: ScheduleSpec,
        tau: int,
        log_coef: float = CODE,
        times: int = TIMES,
        teacher_ema: str | None = None,
    ) -> None:
        check_log_coef(log_coef)
        if times < 3:
            raise ConfigError(f"distillation.times={times}: must be at least 3, two levels and the space between")
        self.schedule_network = schedule_network
        self.tau = tau
        self.log_coef = log_coef
        self.times = times
        self.teacher_ema = teacher_ema

    def told(self) -> str:
        return f"bilateral (a schedule network, tau {self.tau})"

    def check(self, head: Head, process: Process, objective: Objective) -> None:
        check_process(process)
        check_tau(process, self.tau, self.times)
        if "noise" not in head.gives or "jump" in head.gives:
            raise ConfigError(
                f"distillation=bilateral: prediction={head.name} tells no noise at every level: choose a teacher with "
                "eps, x0, v, both, edm or ddm"
            )
        if not isinstance(objective, Distilled):
            raise ConfigError("distillation=bilateral: its loss takes the objective's place: add objective=distilled")

    def check_teacher(self, trained: Mapping[str, Any], path: str) -> None:
        node = trained.get("distillation") or {}
        if str(node.get("_target_", "")).endswith(f".{type(self).__name__}"):
            own = trained.get("teacher")
            raise CheckpointError(f"teacher={path}: has a schedule network already; its own teacher is {own}")

    def dressed(self, network: nn.Module, shape: tuple[int, int, int]) -> Scheduled:
        return Scheduled(network, self.schedule_network.build(shape))

    def start(self, network: nn.Module, teacher: nn.Module) -> None:
        assert isinstance(network, Scheduled)
        load_strict(network.score, teacher.state_dict(), "teacher")

    def loss(
        self, student: NetworkDenoiser, teacher: NetworkDenoiser | None, objective: Objective, steps: int
    ) -> BilateralLoss:
        return BilateralLoss(StepLoss(Score(student), self.tau, self.log_coef, self.times), objective)


class BilateralLoss(Loss):
    """The mean step loss of a batch, at levels that belong to the images' positions.

    Summed over a sample's numbers as in the released code, or, with the objective's reduce="mean", divided by how many
    they are, as in the code of the paper's first version.

    Args:
        step: the loss of a sample.
        objective: says how labels are dropped and how the loss is reduced.
    """

    def __init__(self, step: StepLoss, objective: Objective) -> None:
        self.step = step
        self.objective = objective
        self._figures: dict[str, Tensor] = {}

    def __call__(self, denoiser: NetworkDenoiser, batch: Mapping[str, Tensor], seed: int) -> Tensor:
        network = denoiser.network
        assert isinstance(network, Scheduled)
        x0, noise = data_and_noise(denoiser.process, batch, seed)
        share = random.uniform(seed, "train/time", batch["position"])
        conditions = conditions_of(batch, seed, self.objective.label_dropout)
        terms = self.step(network.schedule, x0, noise, share, conditions)
        means = terms.divergence.mean(), terms.ratio.mean(), terms.bounded.to(torch.float64).mean()
        self._figures = dict(zip(("kl", "sigma", "bounded"), means, strict=True))
        return terms.loss.mean() / (1 if self.objective.reduce == "sum" else x0[0].numel())

    def figures(self) -> dict[str, Tensor]:
        """Means over the last batch: the exact divergence of a sample in nats, sigma, and the share of bounded ones."""
        return self._figures
