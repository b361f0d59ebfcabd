"""An orderly stop: SIGTERM and SIGINT set a flag that training, sampling and evaluation look at between batches."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from diffexp.core.errors import PreemptedError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A scheduler that signals every process of a job reaches a rank twice: by itself, and through the parent that forwards.
_ECHO = 1.0
_PATIENCE = 30.0  # seconds for an orderly end of a process whose parent is gone
_LOOK = 0.5  # seconds between two looks at the parent


class StopRequest:
    """Catches the signals inside a `with` block; a second one ends the process at once, unless it is an echo.

    In another thread than the main one Python delivers no signals: nothing is caught there.

    Attributes:
        received: the signal's number, or None; of another rank's signal too, once the ranks have agreed.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._first: float | None = None
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        """Take the signals (again): a library that runs in between may have taken them for itself."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            handler = signal.signal(number, self._handle)
            self._previous.setdefault(number, handler)

    def check(self, what: str = "") -> None:
        """Raise PreemptedError when a signal came; `what` says how far the work is."""
        if self.received is not None:
            name = signal.Signals(self.received).name
            raise PreemptedError(f"stopped by {name}" + (f" {what}" if what else ""), 128 + self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is not None and now - self._first > _ECHO:
            self._restore()
            raise KeyboardInterrupt
        if self._first is None:
            self._first = now
            self.received = number

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def __enter__(self) -> StopRequest:
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()


def stop_when(gone: Callable[[], bool]) -> threading.Event:
    """Ask this process to stop when `gone()` returns true, and end it if it has not listened after a while.

    Args:
        gone: waits for whoever needs this process; false when there is nothing to wait for any more.

    Returns:
        is set when this process has been asked.
    """
    asked = threading.Event()

    def watch() -> None:
        if not gone():
            return
        asked.set()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_PATIENCE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    return asked


@contextmanager
def bound_to_parent() -> Iterator[None]:
    """Stop the job of a launcher's worker when the launcher is gone, and end the worker: nobody would collect it."""
    parent, done = os.getppid(), threading.Event()

    def gone() -> bool:
        while not done.wait(_LOOK):
            if os.getppid() != parent:
                return True
        return False

    asked = stop_when(gone)
    try:
        yield
    finally:
        done.set()
        if asked.is_set():
            os._exit(128 + signal.SIGTERM)
