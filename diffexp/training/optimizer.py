"""Optimisers with their learning-rate schedule and gradient clipping."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from diffexp.core.errors import ConfigError


@dataclass(frozen=True)
class Adam:
    """Adam with linear warm-up, then a constant rate; weight decay is decoupled, as in AdamW.

    Args:
        lr: learning rate after the warm-up, > 0.
        betas: decay of the first and second moment.
        eps: added to the root of the second moment.
        weight_decay: decoupled, multiplied by the learning rate.
        warmup_steps: step k (from 0) uses lr min(1, (k + 1) / warmup_steps); 0 is no warm-up.
        clip_norm: largest global norm of the gradient; None does not clip.

    Raises:
        ConfigError: for a value out of range.
    """

    lr: float = 2.0e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1.0e-8
    weight_decay: float = 0.0
    warmup_steps: int = 0
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        if not self.lr > 0.0:
            raise ConfigError(f"optimizer.lr={self.lr}: must be > 0")
        if len(self.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ConfigError(f"optimizer.betas={list(self.betas)}: needs two numbers in [0, 1)")
        if self.eps < 0.0 or self.weight_decay < 0.0:
            raise ConfigError(f"optimizer: eps={self.eps} and weight_decay={self.weight_decay} must be >= 0")
        if self.warmup_steps < 0:
            raise ConfigError(f"optimizer.warmup_steps={self.warmup_steps}: must be >= 0")
        if self.clip_norm is not None and not self.clip_norm > 0.0:
            raise ConfigError(f"optimizer.clip_norm={self.clip_norm}: must be > 0, or null for no clipping")

    def rate(self, step: int) -> float:
        """The learning rate of optimiser step `step` >= 0."""
        return self.lr * min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else self.lr

    def build(self, parameters: Iterable[nn.Parameter]) -> tuple[Optimizer, LambdaLR]:
        """The optimiser and its schedule, to be stepped once for each optimiser step."""
        options = {"lr": self.lr, "betas": tuple(self.betas), "eps": self.eps, "weight_decay": self.weight_decay}
        optimizer = torch.optim.AdamW(parameters, **options)
        return optimizer, LambdaLR(optimizer, lambda step: self.rate(step) / self.lr)
