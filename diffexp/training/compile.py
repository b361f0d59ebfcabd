"""torch.compile, in place: the module stays itself, with its names, so checkpoints and averages do not notice.

A compiled network takes one graph for training and one for sampling; the first batch of another size (the last, partial
one of an evaluation) adds one that fits other sizes too. A single image has its own, and so have batches below 16 on a
CPU, where torch takes other kernels for them.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from diffexp.core.errors import ConfigError

BACKEND = "inductor"


def compile_in_place(network: nn.Module) -> nn.Module:
    """Have the network's calls compiled from now on; `state_dict`, parameters and hooks are as before.

    Graphs of earlier networks are forgotten: torch keeps a few for each class and would silently stop compiling at the
    third architecture of a sweep.

    Returns:
        the network itself.
    """
    torch.compiler.reset()
    network.compile(backend=BACKEND)
    return network


@lru_cache(maxsize=8)
def check_compiler(device: torch.device) -> None:
    """Compile something small, so that a machine which cannot is refused before a run begins.

    Raises:
        ConfigError: with torch's reason, e.g. that there is no C++ compiler.
    """
    try:
        torch.compile(_small, backend=BACKEND)(torch.zeros(2, device=device))
    except RuntimeError as error:  # all of torch's compiler errors are
        reason = " ".join(str(error).split("\n\n")[0].split())  # advice on debugging torch follows
        raise ConfigError(f"trainer.compile=true: torch cannot compile for {device.type}: {reason}") from error


def _small(x: Tensor) -> Tensor:
    return x + 1
