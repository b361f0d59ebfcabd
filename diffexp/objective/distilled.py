"""The objective of a training whose loss is a distillation's."""

from __future__ import annotations

from typing import Literal

from diffexp.core.errors import ConfigError
from diffexp.prediction.head import Head
from diffexp.process.base import Process


class Distilled:
    """Stands in the group `objective` where the loss comes from the group `distillation`.

    Args:
        label_dropout: as for `Denoising`; the distillation drops labels so.
        masked: likewise: errors count only inside the masks of the data.
        reduce: "mean" is the metric as it is; "sum" multiplies it with the number of pixels and channels.

    Raises:
        ConfigError: for a label_dropout out of range.
    """

    def __init__(
        self, label_dropout: float = 0.0, masked: bool = False, reduce: Literal["mean", "sum"] = "mean"
    ) -> None:
        if not 0.0 <= label_dropout < 1.0:
            raise ConfigError(f"objective.label_dropout={label_dropout}: a probability in [0, 1) is needed")
        self.label_dropout = label_dropout
        self.masked = masked
        self.reduce = reduce

    def check(self, head: Head, process: Process) -> None:
        """Nothing to refuse: the distillation checks for itself."""
