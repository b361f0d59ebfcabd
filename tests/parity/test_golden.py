"""The golden files' own rules: tolerances, their precedence, the record, and files that look different."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.parity.golden import Golden, GoldenError
from tests.parity.ledger import closing_lines
from tests.parity.tolerance import Tolerance, stated
from tests.parity.variant import STRANGERS, make_variant

HERE = Path(__file__).parent
DIFFEXP = {"schema": "diffexp-golden", "schema_version": 1, "topic": "bddm"}


def write(folder: Path, name: str, config: dict, **arrays: object) -> Path:
    path = folder / f"{name}.npz"
    np.savez(path, config=np.array(json.dumps(config)), **{key: np.array(value) for key, value in arrays.items()})
    return path


def test_entries_have_their_own_relative_tolerance_or_that_of_the_largest():
    want = np.array([0.0, 0.5, -200.0])
    assert Tolerance(0.1, 0.01).allowed(want).tolist() == pytest.approx([0.1, 0.105, 2.1])
    assert Tolerance(0.1, 0.01, whole=True).allowed(want).tolist() == pytest.approx([2.1] * 3)
    assert Tolerance(0.0, 0.01, whole=True).allowed(want[:2]).tolist() == pytest.approx([0.01] * 2)
    assert Tolerance(rel=0.01, above=100.0).allowed(np.array([50.0, 200.0])).tolist() == [np.inf, 2.0]


def test_errors_are_measured_in_tolerances():
    want = np.array([1.0, np.inf])
    assert Tolerance(0.5).ratio(np.array([1.25, np.inf]), want) == pytest.approx(0.5)
    assert Tolerance(0.0).ratio(np.array([1.0, np.inf]), want) == 0.0
    assert Tolerance(0.0).ratio(np.array([1.0 + 1e-15, np.inf]), want) == np.inf
    assert np.isnan(Tolerance(0.5).ratio(np.array([np.nan, np.inf]), want))


def test_the_nearest_statement_counts():
    top = {"schema": "diffexp-golden", "tolerance": {"abs": 1}, "tolerance_f32": {"abs": 10}}
    family = {"tolerance": {"abs": 2}, "tolerance_by_output": {"y": {"abs": 3}, "none": None}}
    single = {"tolerance_f32": {"abs": 20}, "tolerance_f32_by_output": {"y": {"abs": 30}}}
    member = {"tolerance": {"abs": 4}, "tolerance_by_output": {"y": {"abs": 5}}}
    assert stated(top, {}, {}, "y", False).abs == 1
    assert stated(top, family, {}, "x", False).abs == 2
    assert stated(top, family, {}, "y", False).abs == 3
    assert stated(top, family, {"tolerance": {"abs": 4}}, "y", False).abs == 4
    assert stated(top, family, member, "y", False).abs == 5
    assert stated(top, family, {}, "none", False) is None
    assert stated(top, family, {}, "y", True).abs == 10
    assert stated(top, single, member, "x", True).abs == 20
    assert stated(top, single, member, "y", True).abs == 30


def test_gddim_states_tolerances_by_role():
    top, family = {"schema": "gddim/1"}, {"tol": {"x": {"rel": 1e-3}, "y": {"abs": 2}, "z": {"compare": False}}}
    assert stated(top, family, {"tol": {"y": {"abs": 1}}}, "y", False) == Tolerance(1.0, 0.0, whole=True)
    assert stated(top, family, {}, "x", False) == Tolerance(0.0, 1e-3, whole=True)
    assert stated(top, family, {}, "z", False) is None
    assert stated(top, family, {}, "other", False) is None


def test_ddm_states_tolerances_by_role_and_for_float32_by_kind():
    top = {"schema": "ddm-golden/1", "topic": "ddm", "tolerance_float32": {"sampled": {"abs": 3, "rel": 0}}}
    member = {"tolerance": {"abs": 1, "rel": 0}, "tolerance_by_role": {"y": {"abs": 2, "rel": 0}}}
    assert [stated(top, {"kind": "sampled"}, member, role, False).abs for role in "xy"] == [1, 2]
    assert [stated(top, {"kind": "sampled"}, member, role, True).abs for role in "xy"] == [3, 3]
    assert [stated(top, {"kind": "other"}, member, role, True).abs for role in "xy"] == [1, 2]


@pytest.fixture
def small(tmp_path) -> Golden:
    families = {
        "tables": {"tolerance": {"abs": 0.1}, "members": [{"inputs": {"a": "p"}, "outputs": {"b": "q", "n": "r"}}]},
        "inputs": {"members": [{"inputs": {"value": "s"}}]},
        "search": {"members": [{"uses": {"a": "s"}, "outputs": {"b": "t"}}, {"outputs": {"b": "u"}}]},
    }
    arrays = {"p": [1.0], "q": [1.0, 2.0], "r": [3, 4], "s": 1.0, "t": 2.0, "u": 0.0}
    return Golden(write(tmp_path, "bddm", {**DIFFEXP, "families": families}, **arrays))


def test_a_failure_names_file_family_member_role_error_and_tolerance(small):
    (case,) = small.of("tables")
    case.check("b", np.array([1.05, 2.0]))
    with pytest.raises(
        AssertionError, match=r"golden bddm, family tables, member q, b: max error 0\.3, 3 times .*0\.1"
    ):
        case.check("b", np.array([1.3, 2.0]))
    with pytest.raises(AssertionError, match=r"shape \(1,\) instead of \(2,\)"):
        case.check("b", np.array([1.0]))
    with pytest.raises(AssertionError, match="exactly"):
        case.check("n", np.array([3, 5]))
    with pytest.raises(GoldenError, match="no tolerance for float32"):
        case.check("b", np.array([1.0, 2.0], dtype=np.float32))


def test_closing_lines_count_what_was_used_and_name_the_rest_with_reasons(small):
    (case,) = small.of("tables")
    case.input("a")
    case.check("b", np.array([1.0, 2.0]))
    small.later["sea*"] = "needs a search"
    small.leave(small.of("search")[1], "too long")
    assert list(closing_lines(small, 120, details=False)) == [
        "golden bddm: checked 2 of 6 arrays",
        "  tables (no test read it): r",
        "  inputs (of members that are not checked): s",
        "  search (needs a search): t",
        "  search (too long): u",
    ]


def test_what_several_processes_did_with_a_file_counts_together(small):
    others = [Golden(small.path) for _ in range(2)]
    for other in others:
        other.later["sea*"] = "needs a search"
        other.leave(other.of("search")[1], "too long")
    others[0].of("tables")[0].input("a")
    others[1].of("tables")[0].check("b", np.array([1.0, 2.05]))
    for other in others:
        small.add(json.loads(json.dumps(other.told())))
    assert small.touched
    assert small.worst == pytest.approx({"tables": 0.5})
    assert list(closing_lines(small, 120, details=False)) == [
        "golden bddm: checked 2 of 6 arrays",
        "  tables (no test read it): r",
        "  inputs (of members that are not checked): s",
        "  search (needs a search): t",
        "  search (too long): u",
    ]


@pytest.mark.parametrize("changes", [{"schema_version": 2}, {"topic": "ddm"}, {"schema": "gddim/1"}])
def test_a_file_of_another_schema_is_refused(tmp_path, changes):
    path = write(tmp_path, "bddm", {**DIFFEXP, "families": {}, **changes})
    ((word, value),) = changes.items()
    with pytest.raises(GoldenError, match=f"golden bddm.npz: {word} is {value!r}, these tests read "):
        Golden(path)


def test_an_array_that_is_not_in_the_file_is_named(small):
    with pytest.raises(GoldenError, match="'missing', which is not in the file"):
        small.array("missing")


def run(folder: Path, *tests: str) -> tuple[str, dict[str, str]]:
    """(the output, golden file -> its block of the closing lines) of a run of the parity tests on a folder."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", "--golden-dir", str(folder)]
    paths = [str(HERE / test) for test in tests]
    done = subprocess.run([*command, *paths], capture_output=True, text=True, cwd=HERE.parents[1], check=False)
    blocks = re.findall(r"^golden (\w+): (checked .*?)(?=^\S)", done.stdout, re.MULTILINE | re.DOTALL)
    return done.stdout, {name: " ".join(block.split()) for name, block in blocks}


def counts(block: str) -> tuple[int, int]:
    checked, total = re.match(r"checked (\d+) of (\d+) arrays", block).groups()
    return int(checked), int(total)


def test_other_names_orders_and_members_need_no_edit(tmp_path):
    names = ["gddim", "progressive_distillation", "bddm"]
    for name in names:
        make_variant(HERE / "golden" / f"{name}.npz", tmp_path / f"{name}.npz")
    parts = ["gddim_blurring", "gddim_cld", "gddim_cld_coefficients", "gddim_sgm", "progressive_distillation_unet"]
    parts += ["bddm_loss", "bddm_networks", "bddm_search"]
    tests = [f"test_{name}.py" for name in (*names, *parts)]
    output, blocks = run(tmp_path, *tests)
    assert re.match(r"\d+ passed, \d+ skipped in", output.splitlines()[-1]), output[-2000:]
    assert f"no golden file {tmp_path / 'progressive_distillation_unet.npz'}" in output
    for name in names:
        original = Golden(HERE / "golden" / f"{name}.npz")
        checked, total = counts(blocks[name])
        listed = {key for key in np.load(tmp_path / f"{name}.npz").files if re.search(rf"{key}\b", blocks[name])}
        assert len(listed) == total - checked
        assert set(STRANGERS) <= listed or name == "bddm"
        assert total < len(original.keys) + len(STRANGERS)
        assert "novel (no test read it): odd family" in blocks[name]
    assert "vp_det (process of kind odd): odd process" in blocks["gddim"]
    assert "ddim (process odd has no class): odd process" in blocks["progressive_distillation"]


def test_ddm_under_other_names_and_in_another_order_needs_no_edit(tmp_path):
    make_variant(HERE / "golden" / "ddm.npz", tmp_path / "ddm.npz")
    output, blocks = run(tmp_path, *(path.name for path in sorted(HERE.glob("test_ddm*.py"))))
    assert re.match(r"\d+ passed(, 1 warning)? in", output.splitlines()[-1]), output[-2000:]
    checked, total = counts(blocks["ddm"])
    listed = {key for key in np.load(tmp_path / "ddm.npz").files if re.search(rf"{key}\b", blocks["ddm"])}
    assert len(listed) == total - checked
    assert "novel (no test read it): odd family" in blocks["ddm"]
    assert "unets (no test read it): odd role" in blocks["ddm"]


def test_a_refused_file_fails_its_tests(tmp_path):
    shutil.copy(HERE / "golden" / "gddim.npz", tmp_path / "bddm.npz")
    output, blocks = run(tmp_path, "test_bddm.py")
    assert re.match(r"\d+ errors in", output.splitlines()[-1])
    assert "golden bddm.npz: schema is 'gddim/1', these tests read 'diffexp-golden'" in output
    assert blocks == {}
