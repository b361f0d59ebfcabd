"""How far a long work is, for whoever looks on: a bar at a terminal, a few lines in a log."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any

log = logging.getLogger("diffexp")

_LINES = 5
"""Lines of a stage in a log."""


class Progress:
    """Counts through stages of known length; use it in a `with` block.

    Args:
        what: what is counted, for messages.
        bar: draw a bar; else write lines.
    """

    def __init__(self, what: str, bar: bool) -> None:
        self._what = what
        self._draws = bar
        self._bar: Any = None
        self._stage, self._total, self._done = "", 0, 0

    def begin(self, stage: str, total: int) -> None:
        """A stage of `total` >= 0 items; the one before it ends."""
        self._close()
        self._stage, self._total, self._done = stage, total, 0
        if self._draws and total:
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=f"{stage}, {self._what}", leave=False)

    def advance(self) -> None:
        """One more item is about to be done."""
        self._done += 1
        if self._bar is not None:
            self._bar.update()
        elif self._done * _LINES // self._total > (self._done - 1) * _LINES // self._total:
            log.info("%s: %d of %d %s", self._stage, self._done, self._total, self._what)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
