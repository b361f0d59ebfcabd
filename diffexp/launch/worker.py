"""The jobs of a sweep that a launcher runs in parallel: each in a process and on devices of its own.

A launcher's workers depend on each other: joblib ends all of them when one is killed, and gives up the jobs that wait.
So a worker only starts its job, as a process of its own, and writes down how it ended: a job that the system kills for
its memory takes no other job with it. The GPUs of the machine are shared out among the jobs that run at a time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

from diffexp.launch.lock import Lock, LockedError, this_process
from diffexp.launch.signals import bound_to_parent

_VISIBLE = "CUDA_VISIBLE_DEVICES"
# Slurm gives each of its jobs devices of their own; any other launcher runs them on this machine.
_SCHEDULED = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"


@dataclass(frozen=True)
class Origin:
    """The process of a command, as its launcher's workers know it.

    Attributes:
        process: what tells it from any other.
        devices: the GPUs that it may use, as CUDA_VISIBLE_DEVICES names them.
    """

    process: Mapping[str, Any]
    devices: tuple[str, ...] = ()

    @classmethod
    def here(cls, parallel: bool) -> Origin:
        """This process; `parallel`: jobs will run in workers."""
        return cls(this_process(), visible_devices() if parallel else ())

    @contextmanager
    def working(self, config: Mapping[str, Any], launcher: Mapping[str, Any], sweep: Path) -> Iterator[dict[str, str]]:
        """Be a worker for one job: end with the launcher, let a scheduler requeue what is saved, hold devices.

        Args:
            config: the job.
            launcher: Hydra's node of that name.
            sweep: the folder of the sweep.

        Yields:
            what the environment of the job's process needs beside this one's.
        """
        with bound_to_parent(), saved_before_requeue(), ExitStack() as held:
            own = launcher.get("_target_") == _SCHEDULED or config.get("trainer", {}).get("accelerator") == "cpu"
            devices = () if own else self.devices
            if not devices:
                yield {}
                return
            slot = held.enter_context(_slot(sweep))
            wanted = min(int(config.get("trainer", {}).get("devices", 1)), len(devices))
            mine = [devices[(slot * wanted + place) % len(devices)] for place in range(wanted)]
            yield {_VISIBLE: ",".join(mine)}

    def is_here(self) -> bool:
        """Whether this is the very process."""
        return this_process() == dict(self.process)


@contextmanager
def _slot(sweep: Path) -> Iterator[int]:
    """The smallest number that no other running job of the sweep has."""
    for slot in count():
        lock = Lock(sweep / f"slot_{slot}.lock")
        try:
            lock.acquire()
        except LockedError:
            continue
        try:
            yield slot
        finally:
            lock.release()
        return


def visible_devices() -> tuple[str, ...]:
    """The GPUs of this machine that CUDA would show, found without importing torch."""
    named = os.environ.get(_VISIBLE)
    if named is None:
        words = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        try:
            answer = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            return ()
        named = ",".join(answer.stdout.split())
    return tuple(device.strip() for device in named.split(",") if device.strip())


@contextmanager
def saved_before_requeue() -> Iterator[None]:
    """Let the job save its state before a scheduler's own handler acts.

    submitit takes SIGUSR2, a minute or two before the time is up, puts the job back into the queue and ends it there
    and then. Here the signal becomes a SIGTERM, which a job answers by saving; the handler is called after that.
    """
    handler = signal.getsignal(signal.SIGUSR2)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGUSR2, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR2, handler)
        if asked:
            handler(signal.SIGUSR2, None)
