"""One rank of a run: started by `launch.spawn` from a frozen configuration, or by torchrun.

Ranks do not speak of refusals and stops: their parent does, once; under torchrun rank 0 does.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Mapping
from datetime import datetime, timezone
from types import TracebackType
from typing import Any

from diffexp.launch import plugins, ranks
from diffexp.launch.handover import Ending, Handover, forget, speak_up, write_aside
from diffexp.launch.ranks import RankLostError
from diffexp.launch.signals import stop_when
from diffexp.tasks import run_task


def main() -> int:
    """Run the task of the hand-over folder as one of its ranks; returns the exit code."""
    handover = Handover.mine()
    pipe = handover.pipe()
    orphaned = stop_when(lambda: os.read(pipe, 1) == b"")  # returns at the pipe's end: nothing is ever written
    with _Ended(handover) as ended:
        _introduce()
        config = handover.config()
        if not _alone():
            ranks.join()
        with plugins.permission(plugins.inherited()):
            ended.result = run_task(config)
    if orphaned.is_set() and ranks.world().main:
        shutil.rmtree(handover.folder, ignore_errors=True)  # the parent would have done it
    return ended.ending.code


class _Ended:
    """Writes down how this rank ends; only a mistake in the program goes on as an exception, with its trace."""

    def __init__(self, handover: Handover) -> None:
        self._handover = handover
        self.result: float | None = None
        self.ending = Ending("done")

    def __enter__(self) -> _Ended:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.ending = Ending("done", result=self.result) if error is None else Ending.of(error)
        rank = int(os.environ["RANK"])
        self._handover.end(rank, self.ending)
        if self.ending.kind == "failed":
            return False
        if self.ending.message and rank > 0:
            print(self.ending.message, file=sys.stderr)
        ranks.leave()  # else the threads of the group may meet closed connections while the interpreter ends
        return True


def _introduce() -> None:
    """The first line of a rank's log; rank 0 has none."""
    if int(os.environ["RANK"]) > 0:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        print(f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}, process {os.getpid()}, {now}", flush=True)


def lead(config: Mapping[str, Any]) -> float | None:
    """Run a task as torchrun's rank 0: the other ranks get the configuration, or leave when they have no part in it."""
    if _alone():
        return run_task(config)
    here = ranks.join()
    if not ranks.wants_ranks(config):
        here.share({"code": 0})
        ranks.leave()
        return run_task(config)
    here.share({"config": dict(config), "plugins": plugins.allowed()})
    try:
        return run_task(config)
    except RankLostError as error:
        raise RankLostError(ranks.told() or str(error)) from error
    finally:
        ranks.leave()


def dismiss(code: int) -> None:
    """Let the ranks that still wait for a configuration end with this exit code: there is none for them."""
    _keep_exit_code()
    if not ranks.joined() and not _alone():
        ranks.join().share({"code": code})
        ranks.leave()


def _alone() -> bool:
    """Whether one rank only has been started."""
    return int(os.environ["WORLD_SIZE"]) == 1


def follow() -> int:
    """Be one of torchrun's other ranks: wait for what rank 0 has composed; returns the exit code."""
    write_aside()
    with _Told() as told:
        _introduce()
        message = ranks.join().share(None)
        if "config" in message:
            with plugins.permission(message["plugins"]):
                run_task(message["config"])
    _keep_exit_code()
    return message["code"] if told.ending.kind == "done" and "code" in message else told.ending.code


def _keep_exit_code() -> None:
    """This process is about to end by itself: torchrun's SIGTERM, because another one was faster, changes nothing."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Told:
    """Leaves word for rank 0 how this rank of torchrun ends; a mistake in the program goes on with its trace."""

    def __init__(self) -> None:
        self.ending = Ending("done")

    def __enter__(self) -> _Told:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is not None:
            self.ending = Ending.of(error)
            if self.ending.kind in ("refused", "failed"):
                ranks.tell(self.ending.message)
            if self.ending.kind != "failed":
                print(self.ending.message, file=sys.stderr)
        if self.ending.kind == "failed":
            traceback.print_exception(error)
            speak_up()
        forget()
        ranks.leave()
        return True
