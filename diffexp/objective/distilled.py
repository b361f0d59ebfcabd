"""The objective of a training whose loss is a distillation's."""

from __future__ import annotations

from diffexp.objective.base import Objective, Reduce
from diffexp.prediction.head import Head
from diffexp.process.base import Process


class Distilled(Objective):
    """Stands in the group `objective` where the loss comes from the group `distillation`.

    Args:
        label_dropout: as for `Denoising`; the distillation drops labels so.
        masked: likewise: errors count only inside the masks of the data.
        reduce: "mean" is the metric as it is; "sum" multiplies it with the number of pixels and channels.

    Raises:
        ConfigError: for a label_dropout out of range.
    """

    def __init__(self, label_dropout: float = 0.0, masked: bool = False, reduce: Reduce = "mean") -> None:
        super().__init__(reduce, label_dropout, masked)

    def check(self, head: Head, process: Process) -> None:
        """Nothing to refuse: the distillation checks for itself."""
