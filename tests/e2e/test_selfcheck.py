"""task=selfcheck on a folder of pictures: both numbers, and an exit code."""

import sys

import pytest

from diffexp.dataset.digits import Digits
from diffexp.evaluation.selfcheck import write_pngs
from tests.evaluation.test_inception import needs_fidelity


@pytest.fixture
def pictures(tmp_path):
    write_pngs(Digits().split("test").images(range(60)), tmp_path / "pictures")
    return tmp_path / "pictures"


@needs_fidelity
def test_it_prints_both_numbers_and_passes(command, pictures):
    answer = command("task=selfcheck", f"images={pictures}", "evaluation/extractor=digits")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("60 pictures of ")
    header, *rows = answer.out.splitlines()[1:-1]
    assert header.split() == ["metric", "diffexp", "torch-fidelity", "relative", "difference", "at", "most"]
    assert [row.split()[0] for row in rows] == [f"{kind}_digits" for kind in ("fd", "kid", "precision", "recall", "is")]
    for row in rows:
        _, ours, theirs, difference, tolerance, word = row.split()
        assert float(ours) == pytest.approx(float(theirs), rel=1e-3)
        assert float(difference) <= float(tolerance)
        assert word == "ok"
    assert answer.out.splitlines()[-1].startswith("selfcheck passed in ")


@needs_fidelity
def test_a_number_that_differs_is_an_error(command, pictures, monkeypatch):
    monkeypatch.setattr("diffexp.evaluation.kernel_distance._kernel", lambda x, y: (x @ y.T / x.shape[1] + 1.0) ** 2)
    answer = command("task=selfcheck", f"images={pictures}", "evaluation/extractor=digits")
    assert answer.code == 2
    assert "DIFFERS" in answer.out
    assert "selfcheck: diffexp and torch-fidelity differ: kid_digits by" in answer.err
    assert "passed" not in answer.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "task=selfcheck needs images=: a folder of pictures"),
        (["images=nowhere"], "images: 'nowhere' does not exist"),
        (["images=.", "evaluation=pictures"], "needs features: name one with evaluation/extractor="),
        (["images=."], "Inception weights"),
    ],
)
def test_what_is_missing_is_said_in_one_line(command, words, message, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "a.png").touch()
    answer = command("task=selfcheck", *words)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert answer.err.count("\n") == 1


def test_without_torch_fidelity_the_error_says_how_to_get_it(command, pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    answer = command("task=selfcheck", f"images={pictures}", "evaluation/extractor=digits")
    assert answer.code == 2
    assert "pip install 'diffexp[fid]'" in answer.err
