"""Hints and exit codes of the errors that users read."""

from __future__ import annotations

import pytest

from diffexp.core.errors import CheckpointError, ConfigError, DataError, DiffexpError, SamplingError, nearest


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dim", "did you mean 'ddim'?"),
        ("huen", "did you mean 'heun'?"),
        ("xyzzy", "choose from: ddim, ddpm, heun"),
    ],
)
def test_nearest_names_the_closest_choice_or_all(name: str, expected: str) -> None:
    assert nearest(name, ["heun", "ddpm", "ddim", "ddim"]) == expected


def test_nearest_without_choices() -> None:
    assert nearest("a", []) == "there is no valid choice"


def test_every_error_ends_the_program_with_a_code() -> None:
    for kind in (ConfigError, CheckpointError, DataError, SamplingError):
        assert issubclass(kind, DiffexpError)
        assert kind("x").exit_code == 2
