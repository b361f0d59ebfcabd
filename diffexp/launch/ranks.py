"""The ranks of one run: which of them this process is, and how they agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among the ranks of one run.

    Attributes:
        rank: 0 .. size - 1; only rank 0 writes files and speaks.
        local_rank: the rank among those of this machine.
        size: number of ranks.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def share(self, value: T) -> T:
        """Rank 0's value on every rank: plain data."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        held = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]

    def any(self, flag: bool) -> bool:
        """True on every rank when it is true on one."""
        if self.size == 1:
            return flag
        import torch
        import torch.distributed as dist

        total = torch.tensor(int(flag))
        dist.all_reduce(total, op=dist.ReduceOp.MAX)
        return bool(total)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()


_world = World()


def world() -> World:
    """This process's place; alone unless the launcher said otherwise."""
    return _world
