"""What a denoiser may be told beside the state and the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditions:
    """Conditions of one batch; every field is optional and carries the batch first.

    Attributes:
        labels: int64 (B,), class labels.
        endpoint: (B, C, H, W), a bridge's given end point y.
        image: (B, C, H, W), a condition image that is shown to the network.
        mask: (B, 1, H, W) in {0, 1}, the region to be filled.
        augment: (B, numbers), how each image was augmented; None: not at all, as in sampling.
    """

    labels: Tensor | None = None
    endpoint: Tensor | None = None
    image: Tensor | None = None
    mask: Tensor | None = None
    augment: Tensor | None = None

    def to(self, device: torch.device | str) -> Conditions:
        """The same conditions on another device."""
        return self.map(lambda value: value.to(device))

    def __getitem__(self, images: slice | Tensor) -> Conditions:
        """The conditions of some images of the batch."""
        return self.map(lambda value: value[images])

    @property
    def given(self) -> frozenset[str]:
        """The names of the fields that are there."""
        return frozenset(field.name for field in fields(self) if getattr(self, field.name) is not None)

    def map(self, change: Callable[[Tensor], Tensor]) -> Conditions:
        """The same conditions with every tensor changed."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return Conditions(**{name: None if value is None else change(value) for name, value in given.items()})


NO_CONDITIONS = Conditions()
