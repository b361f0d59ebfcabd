"""Clipping of gradients by their global norm."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
    """Scale all gradients in place by min(1, limit / norm), with the norm over all of them together.

    torch's own function divides by norm + 1e-6, which is not the papers' formula and visible in float64.

    Args:
        parameters: those without a gradient are passed over.
        limit: the largest norm, > 0; None only measures.

    Returns:
        The norm before clipping, a scalar tensor; zero without any gradient.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros(())
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if limit is not None:
        torch._foreach_mul_(gradients, (limit / norm).clamp(max=1.0))
    return norm
