"""How tasks speak to the person at the terminal: results on stdout, progress on stderr."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from torch import nn


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


def size_of(network: nn.Module) -> str:
    """How many parameters are trained, and how many are frozen beside them, as text."""
    trained, frozen = (
        sum(weight.numel() for weight in network.parameters() if weight.requires_grad is kind) for kind in (True, False)
    )
    return f"{trained:,} parameters" + (f" beside {frozen:,} frozen ones" if frozen else "")


def interactive() -> bool:
    """Whether a progress bar has somebody to look at it."""
    return sys.stderr.isatty()
