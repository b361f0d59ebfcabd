"""Options and settings of the whole suite."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir",
        type=Path,
        default=Path(__file__).parent / "parity" / "golden",
        help="folder of golden arrays to check against (default: those of the repository)",
    )


@pytest.fixture(scope="session")
def golden_dir(request: pytest.FixtureRequest) -> Path:
    return request.config.getoption("--golden-dir")


def pytest_configure(config: pytest.Config) -> None:
    # Tests compute on small tensors: a second thread gains little when idle and loses a lot when cores are shared.
    torch.set_num_threads(1)
