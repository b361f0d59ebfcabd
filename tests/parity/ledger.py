"""The golden files of one session and the closing lines about them; also when several workers ran the tests."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.parity.golden import Golden, GoldenError


class Ledger:
    """The golden files of one folder, each read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._opened: dict[str, Golden | FileNotFoundError | GoldenError] = {}

    def open(self, name: str) -> Golden:
        """The file `name`.npz; errors as for `Golden`."""
        if name not in self._opened:
            try:
                self._opened[name] = Golden(self.folder / f"{name}.npz")
            except (FileNotFoundError, GoldenError) as error:
                self._opened[name] = error
        found = self._opened[name]
        if isinstance(found, Exception):
            raise found
        return found

    @property
    def touched(self) -> list[Golden]:
        """The files of which tests ran, by name."""
        opened = [golden for golden in self._opened.values() if isinstance(golden, Golden) and golden.touched]
        return sorted(opened, key=lambda golden: golden.name)


LEDGER = pytest.StashKey[Ledger]()


def closing_lines(golden: Golden, width: int, details: bool) -> Iterator[str]:
    """What the tests did with a file; `details` adds the largest error of each family as a part of its tolerance."""
    yield f"golden {golden.name}: checked {len(golden.checked)} of {len(golden.keys)} arrays"
    for (family, reason), keys in golden.unchecked().items():
        text = f"{family} ({reason}): {', '.join(keys)}"
        yield from textwrap.wrap(
            text, width, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )
    if details:
        worst = ", ".join(f"{family} {ratio:.2g}" for family, ratio in golden.worst.items())
        yield from textwrap.wrap(f"error / tolerance: {worst}", width, initial_indent="  ", subsequent_indent="    ")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEDGER] = Ledger(config.getoption("--golden-dir"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker hands over what it did; nothing without workers."""
    if hasattr(session.config, "workeroutput"):
        told = {golden.name: golden.told() for golden in session.config.stash[LEDGER].touched}
        session.config.workeroutput["golden"] = told


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker has ended; one that crashed has handed nothing over."""
    for name, told in getattr(node, "workeroutput", {}).get("golden", {}).items():
        node.config.stash[LEDGER].open(name).add(told)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for golden in config.stash[LEDGER].touched:
        for line in closing_lines(golden, width=120, details=config.option.verbose >= 0):
            terminalreporter.write_line(line)
