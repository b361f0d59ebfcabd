"""What tells the runs of a report apart: all that was varied where it is little, else as little as does."""

import json
from dataclasses import replace

import pytest

from diffexp.core.errors import DiffexpError
from diffexp.evaluation.collect import Run, mixed, telling
from diffexp.evaluation.overview import write_overview
from diffexp.evaluation.protocol import Protocol
from diffexp.evaluation.results import Row
from diffexp.evaluation.roster import configurations, jobs
from diffexp.evaluation.section import protocols

TEACHER = {"recipe": "ddbm_e2h", "lr": "0.004", "prediction": "ddbm", "keep": "2"}
CBT = {
    "recipe": "cdbm_e2h", "lr": "0.001", "prediction": "consistency", "keep": "4", "distillation.weight": "inv_gap",
    "distillation._target_": "diffexp.distillation.consistency.CBT",
}  # fmt: skip
CBD = {**CBT, "distillation.weight": "one", "distillation._target_": "diffexp.distillation.consistency.CBD"}
KEYS = list(CBT)


def test_few_keys_are_all_shown():
    assert telling([{"a": "1", "b": "1", "c": "1"}, {"a": "2", "b": "2", "c": "2"}], ["a", "b", "c"]) == ["a", "b", "c"]


def test_of_many_keys_the_recipe_comes_first_and_then_a_class():
    assert telling([TEACHER, CBT], KEYS) == ["recipe"]
    assert telling([TEACHER, CBT, CBD], KEYS) == ["distillation._target_"], "the teacher has none"
    assert telling([TEACHER, CBT, CBD, {**TEACHER, "recipe": "regression_e2h"}], KEYS) == ["recipe", KEYS[-1]]


def test_what_nothing_smaller_tells_apart_keeps_all():
    assert telling([TEACHER, TEACHER], KEYS) == KEYS


def test_configurations_are_laid_side_by_side():
    """Runs that are configured alike share a column; what the table of runs says already is not said again."""
    base = {"seed": 0, "task": "run", "grid": {"p": 2}, "sampler": {"name": "ddim", "grid": {"p": 2}}, "notes": {}}
    other = {**base, "grid": {"p": 1}, "sampler": {"name": "ddim", "grid": {"p": 1}}, "extra": "a  b"}
    runs = [
        Run(str(place), {}, "ok", config=config) for place, config in enumerate((base, other, {**base, "task": "x"}))
    ]
    heading, _, table = configurations(runs, [])
    assert heading.text == "Configurations"
    assert table.header == ["key", "0, 2", "1"]
    assert table.rows == [["`extra`", "–", "a b"], ["`grid.p`", "2", "1"]], "the sampler's copy of the grid is not said"
    assert configurations(runs, ["grid.p", "extra"]) == []
    assert configurations(runs[:1], []) == []
    many = [Run(str(seed), {}, "ok", config={"seed": seed}) for seed in range(15)]
    *_, table, more = configurations(many, [])
    assert len(table.header) == 13
    assert more.startswith("3 more differ")


def test_the_best_of_two_protocols_stands_in_two_columns(tmp_path):
    rows = [
        Row("r", "p", "e", "n", "ddim", "g", 5, "fd_a", value, 9, 0, name, "c")
        for value, name in ((3.5, "aa"), (4, "bb"))
    ]
    header = jobs([Run("0", {}, "ok", rows=rows[:1])], [], tmp_path)[0].header
    assert header == ["run", "state", "best", "folder"]
    table = jobs([Run("0", {}, "ok", rows=rows[:1]), Run("1", {}, "failed", rows=rows[1:])], [], tmp_path)[0]
    assert table.header == ["run", "state", "best, protocol `aa`", "best, protocol `bb`", "folder"]
    assert table.rows == [
        ["0", "ok", "fd_a 3.50 (ddim, NFE 5)", "–", "–"], ["1", "failed", "–", "fd_a 4.00 (ddim, NFE 5)", "–"],
    ]  # fmt: skip


def test_protocols_that_differ_are_told_field_by_field():
    one = Protocol("fd_digits", 256, "digits", "train", "f", 901, "digits", "w", "round", "none")
    kid = replace(one, metric="kid_digits", variant="100 subsets")
    assert protocols([one, kid]) == []
    other = replace(one, n=512, quantise="truncate")
    heading, _intro, table = protocols([one, kid, other])
    assert heading.text == "Protocols"
    assert table.header == ["field", f"`{one.hash}`", f"`{other.hash}`"]
    assert table.rows == [["n", "256", "512"], ["quantise", "round", "truncate"]]


def test_a_folder_of_runs_without_results_is_refused(tmp_path):
    """By who asks for its report; a sweep that has just ended without any still says what became of its jobs."""
    for number, state in enumerate(("failed", "waiting")):
        record = {"number": number, "overrides": ["a=1"], "state": state}
        (tmp_path / f"job_{number:03d}.json").write_text(json.dumps(record))
    with pytest.raises(DiffexpError, match=r"no results in any of its 2 runs: 1 failed, 1 waiting; run it again"):
        write_overview(tmp_path, required=True)
    assert not list(tmp_path.glob("report.*"))
    assert write_overview(tmp_path).name == "report.md"
    assert "run 0, failed" in (tmp_path / "report.html").read_text()


def test_a_chain_of_two_protocols_is_not_compared():
    one = Protocol("fd_digits", 256, "digits", "train", "f", 901, "digits", "w", "round", "none")
    runs = [
        Run(
            str(n),
            {},
            "ok",
            protocols={p.hash: p},
            rows=[Row("r", "p", "e", "n", "d", "g", 5, "fd_digits", 1.0, n, 0, p.hash, "c")],
        )
        for n, p in ((256, one), (64, replace(one, n=64)))
    ]
    assert mixed(runs[:1]) is None
    assert mixed(runs).endswith("not compared: n is 256 and 64.")
