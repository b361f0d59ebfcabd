"""The ranks of one run: which of them this process is, how they meet, agree and part.

A rank is one process with one device. Flags and plain values travel on the CPU (gloo) also where the gradients travel
between GPUs (nccl): a collective that waits for a device would cost every step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from diffexp.core.errors import ConfigError, DiffexpError
from diffexp.launch.text import one_line

T = TypeVar("T")

RANKED_TASKS = ("run", "train", "evaluate")
"""The tasks of several ranks: others are one process whatever trainer.devices says."""
HANDOVER = "DIFFEXP_RANKS"
"""Environment: the folder through which a parent and its spawned ranks talk."""
STORE = "DIFFEXP_STORE"
"""Environment of rank 0: the number of the listening socket that the parent has opened for the store."""
_THREADS = "OMP_NUM_THREADS"
_MEET = timedelta(minutes=10)  # to start the other processes
# Rank 0 may wait for a download or for another command's training. A rank that dies is noticed by its closed
# connection, not by the time that passes.
_AGREE = timedelta(days=7)


class RankLostError(DiffexpError):
    """Another rank of this run has ended: what it would have said is what the user needs to know."""

    exit_code = 1


@contextmanager
def lost_peers() -> Iterator[None]:
    """Give the errors of a collective the one name that they have for a user: RankLostError."""
    try:
        yield
    except RuntimeError as error:
        if not _speaks_of_peers(error):
            raise
        why = "" if "by peer" in str(error) else f" or cannot be reached: {one_line(error)}"
        raise RankLostError(f"another rank of this run has ended{why}") from error


def _speaks_of_peers(error: RuntimeError) -> bool:
    """Whether an error comes from the connection between ranks; gloo's are plain RuntimeErrors with its file name."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or "/gloo/" in str(error)


@dataclass(frozen=True)
class World:
    """This process among the ranks of one run.

    Attributes:
        rank: 0 .. size - 1; only rank 0 writes files and speaks.
        local_rank: the rank among those of this machine.
        size: number of ranks.
        local_size: number of ranks on this machine.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    local_size: int = 1

    @property
    def main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def share(self, value: T) -> T:
        """Rank 0's value on every rank: plain data."""
        if self.size == 1:
            return value
        import torch
        import torch.distributed as dist

        held = [value]
        with lost_peers():
            dist.broadcast_object_list(held, src=0, device=torch.device("cpu"))
        return held[0]

    def gather(self, value: float) -> list[float]:
        """The number of every rank, in their order, float64."""
        if self.size == 1:
            return [float(value)]
        import torch
        import torch.distributed as dist

        mine = torch.tensor([value], dtype=torch.float64, device="cpu")
        every = [torch.empty_like(mine) for _ in range(self.size)]
        with lost_peers():
            dist.all_gather(every, mine)
        return [float(entry) for entry in every]

    def largest(self, number: int) -> int:
        """The largest of all ranks' whole numbers."""
        if self.size == 1:
            return number
        import torch
        import torch.distributed as dist

        held = torch.tensor(number, dtype=torch.int64, device="cpu")
        with lost_peers():
            dist.all_reduce(held, op=dist.ReduceOp.MAX)
        return int(held)

    def any(self, flag: bool) -> bool:
        """True on every rank when it is true on one."""
        return bool(self.largest(int(flag)))

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.largest(0)


ALONE = World()
_world = ALONE
_store: Any = None


def world() -> World:
    """This process's place; alone unless the launcher said otherwise."""
    return _world


def joined() -> bool:
    """Whether this process has met the other ranks, even if it has left them since."""
    return _store is not None


def torchrun() -> bool:
    """Whether torchrun (or a launcher that speaks its language) has started this process as one of several ranks."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ and HANDOVER not in os.environ


def wants_ranks(config: Mapping[str, Any]) -> bool:
    """Whether a job trains or evaluates on more than one device."""
    return config.get("task") in RANKED_TASKS and _entry(config, "trainer", "devices") > 1


def check_ranks(config: Mapping[str, Any], multirun: bool) -> None:
    """Refuse what the ranks of a job cannot do; read from its configuration, before anything is started.

    Raises:
        ConfigError: devices that cannot share the batch equally, or that contradict torchrun.
    """
    if torchrun():
        _check_torchrun(config, multirun)
    devices, batch = _entry(config, "trainer", "devices"), _entry(config, "training", "batch_size")
    if not wants_ranks(config) or config.get("task") == "evaluate" or batch % devices == 0:
        return
    batches = [size for size in (batch // devices * devices, (batch // devices + 1) * devices) if size > 0]
    counts = [next(n for n in range(devices, 0, -1) if batch % n == 0)]
    counts += [n for n in range(devices, batch + 1) if batch % n == 0][:1]
    raise ConfigError(
        f"training.batch_size={batch}: {devices} devices cannot share it equally; did you mean training.batch_size="
        f"{' or '.join(map(str, batches))}, or trainer.devices={' or '.join(map(str, counts))}?"
    )


def _check_torchrun(config: Mapping[str, Any], multirun: bool) -> None:
    """Refuse a command that torchrun cannot have meant."""
    if multirun:
        raise ConfigError(
            "--multirun under torchrun: every job of a sweep starts its own ranks; leave torchrun out and say "
            "trainer.devices=..."
        )
    missing = [name for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(f"RANK and WORLD_SIZE are set, but not {' and '.join(missing)}: unset them, or use torchrun")
    devices, size = _entry(config, "trainer", "devices"), int(os.environ["WORLD_SIZE"])
    if config.get("task") in RANKED_TASKS and devices != size:
        raise ConfigError(f"trainer.devices={devices}: torchrun has started {size} ranks; say trainer.devices={size}")


def _entry(config: Mapping[str, Any], group: str, key: str) -> int:
    """A whole number of the configuration; 1 where it has none."""
    node = config.get(group)
    value = node.get(key) if isinstance(node, Mapping) else None
    return value if isinstance(value, int) else 1


def join() -> World:
    """Meet the other ranks that the environment names (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT).

    The processors are shared out among the ranks of a machine, unless OMP_NUM_THREADS says otherwise.

    Raises:
        RankLostError: not all of them came.
    """
    global _world, _store
    import torch
    import torch.distributed as dist

    rank, local_rank, size = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    here = World(rank, local_rank, size, int(os.environ.get("LOCAL_WORLD_SIZE", size)))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    with lost_peers():
        _store = _meet(rank, size)
        dist.init_process_group(backend, store=_store, rank=rank, world_size=size, timeout=_AGREE)
    if _THREADS not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // here.local_size))
    _world = here
    return here


def _meet(rank: int, size: int) -> Any:
    """The key-value store that all ranks see."""
    import torch.distributed as dist

    if HANDOVER not in os.environ:
        return next(dist.rendezvous("env://", timeout=_MEET))[0]
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if rank > 0:
        return dist.TCPStore(address, port, size, is_master=False, timeout=_MEET)
    # the socket is the parent's, already bound: nobody could take the port in between
    socket = int(os.environ[STORE])
    return dist.TCPStore(address, port, size, is_master=True, timeout=_MEET, master_listen_fd=socket)


def leave() -> None:
    """Part from the other ranks: this process is on its own from here, with all processors, and keeps its number."""
    global _world
    if _world.size == 1:
        return
    import torch
    import torch.distributed as dist

    dist.destroy_process_group()
    if _THREADS not in os.environ:
        torch.set_num_threads(torch.get_num_threads() * _world.local_size)
    _world = replace(_world, size=1, local_size=1)


def tell(message: str) -> None:
    """Leave word for rank 0 why this rank ends: it may be the only one that knows."""
    if _store is None:
        return
    with suppress(RuntimeError):  # rank 0 is gone too, and its store with it
        _store.set(f"diffexp/ended/{_world.rank}", message)


def told() -> str | None:
    """Why another rank has ended, if it left word."""
    for rank in range(1, int(os.environ.get("WORLD_SIZE", 1))):
        if _store.check([key := f"diffexp/ended/{rank}"]):
            return f"rank {rank}: {_store.get(key).decode()}"
    return None


def log_to(folder: Path) -> None:
    """Let a rank > 0 write on in `<folder>/rank<k>.log`; what it has said before is carried over. Rank 0 speaks aloud.

    Args:
        folder: the run folder.
    """
    if _world.main:
        return
    from diffexp.launch.handover import write_on

    write_on(folder / f"rank{_world.rank}.log")
