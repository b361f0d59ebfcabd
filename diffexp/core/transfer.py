"""Moving small host tensors to where the states live, without making the host wait for the device."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(value: Tensor, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """`value` in another type, on another device.

    A copy from ordinary host memory waits until the GPU's queue is empty, even when it is called non-blocking; from
    pinned memory it does not. So host tensors on their way to a GPU are pinned first.
    """
    value = value if dtype is None else value.to(dtype)
    if torch.device(device).type == "cuda" and value.device.type == "cpu":
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)
