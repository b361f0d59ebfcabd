"""Lightning on ranks that exist already: where this process is, and gradients averaged over all of them."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy

from diffexp.launch.ranks import World


class _Place(ClusterEnvironment):
    """What the launcher knows, in Lightning's words."""

    def __init__(self, place: World) -> None:
        super().__init__()
        self._place = place

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return os.environ["MASTER_ADDR"]

    @property
    def main_port(self) -> int:
        return int(os.environ["MASTER_PORT"])

    @staticmethod
    def detect() -> bool:
        """Never by itself: the trainer is told."""
        return False

    def world_size(self) -> int:
        return self._place.size

    def set_world_size(self, size: int) -> None:
        """The launcher has decided."""

    def global_rank(self) -> int:
        return self._place.rank

    def set_global_rank(self, rank: int) -> None:
        """The launcher has decided."""

    def local_rank(self) -> int:
        return self._place.local_rank

    def node_rank(self) -> int:
        return int(os.environ.get("GROUP_RANK", 0))


class Ranks(DDPStrategy):
    """Distributed data parallelism over the joined ranks.

    Every parameter must have a part in every loss: gradients are reduced without a search for idle ones. Buffers are
    constants and never sent again. The graph is not declared static: an objective may draw branches.

    Args:
        place: this process; the process group exists.
    """

    def __init__(self, place: World) -> None:
        options: dict[str, Any] = {"broadcast_buffers": False, "gradient_as_bucket_view": True}
        super().__init__(cluster_environment=_Place(place), **options)
        self._place = place
        self._settled = False

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """The loss of a batch. With more than two ranks the first one is computed twice.

        After their first backward pass the gradients are laid out anew, in the order in which they arrived. A sum of
        more than two numbers depends on the layout in its last digit: a resumed run would differ from an undisturbed
        one in its first step, if that were not always a step without consequences.
        """
        if not self._settled and self._place.size > 2:
            devices = [self.root_device] if self.root_device.type == "cuda" else []
            with torch.random.fork_rng(devices):
                super().training_step(*args, **kwargs).backward()
            self.lightning_module.zero_grad()
        self._settled = True
        return super().training_step(*args, **kwargs)

    @property
    def world_size(self) -> int:
        """One, for Lightning's ears: with more it broadcasts a flag for SIGTERM over the devices, and waits for them,
        before every step and inside the signal's handler. Ours is agreed in `StopOnSignal`."""
        return 1
