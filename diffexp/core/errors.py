"""Errors that a user reads: one line that says what is wrong, where, and the nearest valid choice."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DiffexpError(Exception):
    """A mistake or a fault that the user can act on; the entry prints it as one line and exits with `exit_code`."""

    exit_code = 2


class ConfigError(DiffexpError):
    """The configuration is wrong: found before any data are read, devices taken or folders made."""


class PreemptedError(DiffexpError):
    """The run was asked to stop; its state is saved and the same work can go on from it.

    Args:
        message: one line.
        exit_code: 128 + the signal's number, as shells report it.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class CheckpointError(DiffexpError):
    """A checkpoint is missing, damaged, or belongs to another recipe."""


class DataError(DiffexpError):
    """A data set is missing, corrupt, or not what its configuration says."""


class SamplingError(DiffexpError):
    """A sampler cannot do what was asked, or did something else than it declared."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint naming the valid choice closest to `name`, or all of them when nothing is close.

    Args:
        name: what the user wrote.
        choices: the valid names; order does not matter.

    Returns:
        text to append to a message, e.g. ``did you mean 'ddim'?`` or ``choose from: ddim, ddpm, heun``.
    """
    pool = sorted(set(choices))
    close = difflib.get_close_matches(name, pool, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return "choose from: " + ", ".join(pool) if pool else "there is no valid choice"
