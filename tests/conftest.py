"""Options and settings of the whole suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests import turns
from tests.parity import ledger

MOST_WORKERS = 4  # of -n auto: many tests start processes of their own
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
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start, and for workers
    for plugin in (ledger, turns):
        config.pluginmanager.register(plugin)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Workers of `-n auto`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS)
