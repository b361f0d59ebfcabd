"""Options and settings of the whole suite."""

from __future__ import annotations

import gc
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import omegaconf.omegaconf
import pytest
import torch
import yaml

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test has the same name in every process: workers agree on what to run by its name."""
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid}: name its parameters by ids=, an address is another one each time")


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what is imported by now stays: no need to look through it again and again


def pytest_unconfigure() -> None:
    gc.unfreeze()


class OnceParsed:
    """PyYAML as OmegaConf sees it, except that a text is parsed once: each command composes all of conf four times."""

    def __init__(self) -> None:
        self._parsed: dict[str, bytes] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(yaml, name)

    def load(self, stream: Any, Loader: type) -> Any:
        """As yaml.load; a text that cannot be parsed fails again each time."""
        text = stream if isinstance(stream, str) else stream.read()
        if text not in self._parsed:
            if stream is not text:
                stream.seek(0)
            self._parsed[text] = pickle.dumps(yaml.load(stream, Loader=Loader))
        return pickle.loads(self._parsed[text])


@pytest.fixture(scope="session", autouse=True)
def _yaml_texts_are_parsed_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(omegaconf.omegaconf, "yaml", OnceParsed())
        yield
