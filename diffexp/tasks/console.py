"""How tasks speak to the person at the terminal: results on stdout, progress on stderr."""

from __future__ import annotations

import logging
import sys
from typing import TextIO


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what is stderr at that moment; a handler of the standard library keeps what it was once."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def prepare() -> None:
    """Let the package's log lines reach stderr, once, without dates or module names."""
    logger = logging.getLogger("diffexp")
    if not logger.handlers:
        handler = _Stderr()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def say(text: str) -> None:
    """A result, on stdout."""
    print(text, flush=True)


def interactive() -> bool:
    """Whether a progress bar has somebody to look at it."""
    return sys.stderr.isatty()
