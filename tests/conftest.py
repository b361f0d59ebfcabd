"""Options and settings of the whole suite."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

GOLDEN = Path(__file__).parent / "parity" / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir",
        type=Path,
        default=GOLDEN,
        help="folder of golden arrays to check against (default: those of the repository)",
    )


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The repository's own files, for tests of one room; tests/parity reads the folder of the option."""
    return GOLDEN


def pytest_configure(config: pytest.Config) -> None:
    # Tests compute on small tensors: a second thread gains little when idle and loses a lot when cores are shared.
    torch.set_num_threads(1)
