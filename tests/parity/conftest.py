"""One test case for each member of the golden families a test names; `ledger.py` says what was done with each file.

    @pytest.mark.golden("gddim", "vp_det", later=multistep)
    def test_...(case): ...        # case: Member

`later(member)` gives the reason why a member is not tested yet, or None. A module may say why whole families have no
test: LATER = {"cld_*": "needs CLD"}. A missing file skips its tests; a file of another schema fails them.
"""

from __future__ import annotations

import pytest

from tests.parity.golden import GoldenError, Member
from tests.parity.ledger import LEDGER


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "golden(file, *families, later=None): a case for each member of the families")


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
