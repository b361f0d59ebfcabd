"""One test case for each member of the golden families a test names, and the closing lines about each golden file.

    @pytest.mark.golden("gddim", "vp_det", later=multistep)
    def test_...(case): ...        # case: Member

`later(member)` gives the reason why a member is not tested yet, or None. A module may say why whole families have no
test: LATER = {"cld_*": "needs CLD"}. A missing file skips its tests; a file of another schema fails them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parity.golden import Golden, GoldenError, Member


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
        return [golden for golden in self._opened.values() if isinstance(golden, Golden) and golden.touched]


LEDGER = pytest.StashKey[Ledger]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "golden(file, *families, later=None): a case for each member of the families")
    config.stash[LEDGER] = Ledger(config.getoption("--golden-dir"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("golden")
    if marker is None:
        return
    name, *families = marker.args
    try:
        golden = metafunc.config.stash[LEDGER].open(name)
    except FileNotFoundError as missing:
        skip = pytest.mark.skip(reason=f"no golden file {missing}")
        metafunc.parametrize("case", [pytest.param(None, marks=skip)], ids=["missing"])
        return
    except GoldenError as refusal:
        metafunc.parametrize("case", [refusal], ids=["refused"], indirect=True)
        return
    golden.later.update(getattr(metafunc.module, "LATER", {}))
    reasons = {member: (marker.kwargs.get("later") or _never)(member) for member in golden.of(*families)}
    for member, reason in reasons.items():
        if reason is not None:
            golden.leave(member, reason)
    cases = [member for member, reason in reasons.items() if reason is None]
    metafunc.parametrize("case", cases, ids=str, indirect=True)


def _never(member: Member) -> None:
    return None


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Member:
    """One member of a golden family."""
    if isinstance(request.param, GoldenError):
        pytest.fail(str(request.param), pytrace=False)
    request.param.golden.touched = True
    return request.param


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for golden in config.stash[LEDGER].touched:
        for line in closing_lines(golden, width=120, details=config.option.verbose >= 0):
            terminalreporter.write_line(line)
