"""Float32 that is float32: NVIDIA GPUs round the inputs of convolutions to 10 bits (TF32) unless they are told not to.

Evaluation says "float32" in its provenance and that the batch size is without influence. Both need full precision and
convolution algorithms that are chosen by rule, not by timing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Matrix products and convolutions in full float32 and deterministic, inside the block.

    Whatever the process had set is restored at the end, through torch's older switches (``allow_tf32``) and its newer
    ones (``fp32_precision``). Autocast regions inside the block keep their lower precision. Not across a ``yield`` of
    a generator: its consumer would run in the block too.
    """
    operators = _operators()
    before = [operator.fp32_precision for operator in operators]
    matmul = _matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            for operator in operators:
                operator.fp32_precision = "ieee"
            yield
    finally:
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        for operator, value in zip(operators, before, strict=True):
            operator.fp32_precision = value


def _operators() -> list[Any]:
    """The newer switches, where this torch has them (from 2.9 on)."""
    cudnn = torch.backends.cudnn
    places = (torch.backends.cuda.matmul, getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None))
    return [place for place in places if place is not None and hasattr(place, "fp32_precision")]


def _matmul_precision() -> str | None:
    """The older switch; None in a process that uses the newer ones, where torch refuses to read it."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """No autocast on this kind of device inside the block: what is computed there keeps the type of its tensors."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()  # the meta device has no autocast
