"""A trained score network and the schedule network that is learned for it, as one network and one checkpoint."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from diffexp.network.schedule.base import ScheduleNetwork


class Scheduled(nn.Module):
    """Computes what the score network does: samplers, averages and exports need not know of the other one.

    Attributes:
        score: frozen, and in evaluation mode even while the other one trains: no dropout.
        schedule: the schedule network, the only part with trainable parameters.

    Args:
        score: (state, time, labels, ...) -> output, see `NetworkSpec.build`.
        schedule: x (B, C, *) -> logit (B,).
    """

    def __init__(self, score: nn.Module, schedule: ScheduleNetwork) -> None:
        super().__init__()
        self.score = score.requires_grad_(False).eval()
        self.schedule = schedule

    def forward(self, *given: Any) -> Tensor:
        """The score network's output."""
        return self.score(*given)

    def train(self, mode: bool = True) -> Scheduled:
        """Only the schedule network has two modes."""
        super().train(mode)
        self.score.eval()
        return self

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Both networks are called by themselves, so each has graphs of its own."""
        self.score.compile(*args, **kwargs)
        self.schedule.compile(*args, **kwargs)
