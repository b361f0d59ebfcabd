"""Optimisers with their learning-rate schedule and gradient clipping."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from diffexp.core.errors import ConfigError


@dataclass(frozen=True)
class Descent(abc.ABC):
    """What all optimisers share: linear warm-up, then a constant or falling rate; clipping of the gradient's norm.

    Step k (from 0) uses lr times (k + 1) / W during the warm-up of W steps, and afterwards times 1, or, with a decay of
    T steps, times max((1 - (k - W) / T)^power, floor) (DDM's and ADM's trainers: power 0.96).

    Args:
        lr: learning rate after the warm-up, > 0.
        weight_decay: see each optimiser, >= 0.
        warmup_steps: W; 0 is no warm-up.
        clip_norm: largest global norm of the gradient; None does not clip.
        decay_steps: T >= 1; None: the rate stays constant.
        decay_power: > 0.
        decay_floor: smallest part of lr, in [0, 1].
        warmup_overshoot: step W still belongs to the warm-up, with lr (W + 1) / W (ADM's trainer).

    Raises:
        ConfigError: for a value out of range.
    """

    lr: float = 2.0e-4
    weight_decay: float = 0.0
    warmup_steps: int = 0
    clip_norm: float | None = 1.0
    decay_steps: int | None = None
    decay_power: float = 1.0
    decay_floor: float = 0.0
    warmup_overshoot: bool = False

    def __post_init__(self) -> None:
        if not self.lr > 0.0:
            raise ConfigError(f"optimizer.lr={self.lr}: must be > 0")
        if not self.weight_decay >= 0.0:
            raise ConfigError(f"optimizer.weight_decay={self.weight_decay}: must be >= 0")
        if self.warmup_steps < 0:
            raise ConfigError(f"optimizer.warmup_steps={self.warmup_steps}: must be >= 0")
        if self.clip_norm is not None and not self.clip_norm > 0.0:
            raise ConfigError(f"optimizer.clip_norm={self.clip_norm}: must be > 0, or null for no clipping")
        if self.decay_steps is not None and self.decay_steps < 1:
            raise ConfigError(f"optimizer.decay_steps={self.decay_steps}: must be at least 1, or null for no decay")
        if not self.decay_power > 0.0:
            raise ConfigError(f"optimizer.decay_power={self.decay_power}: must be > 0")
        if not 0.0 <= self.decay_floor <= 1.0:
            raise ConfigError(f"optimizer.decay_floor={self.decay_floor}: a part of the learning rate, in [0, 1]")
        if self.warmup_overshoot and not self.warmup_steps:
            raise ConfigError("optimizer.warmup_overshoot=true: has no meaning without optimizer.warmup_steps")

    def multiplier(self, step: int) -> float:
        """The learning rate of optimiser step `step` >= 0, divided by `lr`."""
        if step < self.warmup_steps + self.warmup_overshoot:
            return (step + 1) / self.warmup_steps
        if self.decay_steps is None:
            return 1.0
        left = max(1.0 - (step - self.warmup_steps) / self.decay_steps, 0.0)
        return max(left**self.decay_power, self.decay_floor)

    def rate(self, step: int) -> float:
        """The learning rate of optimiser step `step` >= 0."""
        return self.lr * self.multiplier(step)

    def build(self, parameters: Iterable[nn.Parameter]) -> tuple[Optimizer, LambdaLR]:
        """The optimiser and its schedule, to be stepped once for each optimiser step."""
        optimizer = self._optimizer(parameters)
        return optimizer, LambdaLR(optimizer, lambda step: self.multiplier(step))  # a lambda is not saved

    @abc.abstractmethod
    def _optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """The optimiser, at the full learning rate."""


@dataclass(frozen=True)
class Adam(Descent):
    """Adam with decoupled weight decay, as in AdamW.

    Args:
        lr: learning rate after the warm-up, > 0.
        weight_decay: decoupled, multiplied by the learning rate.
        warmup_steps: linear, see `Descent`.
        clip_norm: largest global norm of the gradient; None does not clip.
        decay_steps, decay_power, decay_floor, warmup_overshoot: see `Descent`.
        betas: decay of the first and second moment, in [0, 1).
        eps: added to the root of the second moment, >= 0.

    Raises:
        ConfigError: for a value out of range.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1.0e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ConfigError(f"optimizer.betas={list(self.betas)}: needs two numbers in [0, 1)")
        if not self.eps >= 0.0:
            raise ConfigError(f"optimizer.eps={self.eps}: must be >= 0")

    def _optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        options = {"lr": self.lr, "betas": tuple(self.betas), "eps": self.eps, "weight_decay": self.weight_decay}
        return torch.optim.AdamW(parameters, **options)


@dataclass(frozen=True)
class AdamW(Adam):
    """`Adam` with a choice of its second moment.

    Args:
        lr, weight_decay, warmup_steps, clip_norm, betas, eps: see `Adam`.
        decay_steps, decay_power, decay_floor, warmup_overshoot: see `Descent`.
        amsgrad: divide by the root of the largest second moment so far (Reddi et al. 2018), not of the present one.
    """

    amsgrad: bool = True

    def _optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        options = {"lr": self.lr, "betas": tuple(self.betas), "eps": self.eps, "weight_decay": self.weight_decay}
        return torch.optim.AdamW(parameters, **options, amsgrad=self.amsgrad)


@dataclass(frozen=True)
class RAdam(Adam):
    """Adam whose first steps are rectified, in place of a warm-up (Liu et al. 2020); arguments as for `Adam`."""

    def _optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        options = {"lr": self.lr, "betas": tuple(self.betas), "eps": self.eps, "weight_decay": self.weight_decay}
        return torch.optim.RAdam(parameters, **options, decoupled_weight_decay=True)


@dataclass(frozen=True)
class SGD(Descent):
    """Stochastic gradient descent, v <- momentum v + g, parameters <- parameters - lr v.

    Args:
        lr: learning rate after the warm-up, > 0.
        weight_decay: times the parameters, added to the gradient g after clipping (not decoupled).
        warmup_steps: linear, see `Descent`.
        clip_norm: largest global norm of the gradient; None does not clip.
        decay_steps, decay_power, decay_floor, warmup_overshoot: see `Descent`.
        momentum: in [0, 1).
        nesterov: step along g + momentum v; needs a momentum.

    Raises:
        ConfigError: for a value out of range.
    """

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.momentum < 1.0:
            raise ConfigError(f"optimizer.momentum={self.momentum}: must be in [0, 1)")
        if self.nesterov and not self.momentum:
            raise ConfigError("optimizer.nesterov=true: has no meaning without optimizer.momentum, e.g. 0.9")

    def _optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        options = {"lr": self.lr, "momentum": self.momentum, "nesterov": self.nesterov}
        return torch.optim.SGD(parameters, **options, weight_decay=self.weight_decay)
