"""The stages of a progressive distillation: numbers of steps, each half of the one before."""

from __future__ import annotations

from diffexp.core.errors import ConfigError


def halvings(start: int, end: int) -> list[int]:
    """start / 2, start / 4, ..., end: the steps of the students, the first of which has a teacher of `start` steps.

    Raises:
        ConfigError: start / end is no power of two above one; it names a start near by.
    """
    if end < 1:
        raise ConfigError(f"distillation.end_steps={end}: must be at least 1")
    ratio = start // end
    if ratio < 2 or ratio * end != start or ratio & (ratio - 1):
        nearest = end << max(1, (ratio - 1).bit_length())
        raise ConfigError(
            f"distillation.start_steps={start}, end_steps={end}: steps are halved from one to the other, so that "
            f"start_steps / end_steps must be a power of two: use e.g. start_steps={nearest}"
        )
    return [end << power for power in reversed(range(ratio.bit_length() - 1))]
