"""Tables: statistics over seeds, and never two protocols in one."""

from dataclasses import replace

import pytest

from diffexp.core.errors import DiffexpError
from diffexp.evaluation.protocol import Protocol
from diffexp.evaluation.results import Row
from diffexp.evaluation.table import (
    Summary,
    require_one_protocol,
    spell_spread,
    summarise_arms,
    summarise_controls,
)

PROTOCOL = Protocol("fd_digits", 512, "digits", "train", "sha:1", 901, "digits", "0de0", "round", "none")
ROW = Row("toy", "vp", "v", "net", "ddim", "uniform", 5, "fd_digits", 4.0, 512, 0, PROTOCOL.hash, "step_7", 0.002)
SEEDS = [ROW, replace(ROW, seed=1, value=5.0, seconds_per_image=0.004), replace(ROW, seed=2, value=9.0)]


def test_statistics_over_seeds():
    (summary,) = summarise_arms(SEEDS)
    assert (summary.label, summary.grid, summary.nfe) == ("ddim", "uniform", 5)
    assert (summary.mean, summary.minimum) == (6.0, 4.0)
    assert summary.spread == pytest.approx(7**0.5)  # squares 4 + 1 + 9 over n - 1 = 2
    assert summary.seconds == pytest.approx(0.008 / 3)
    assert spell_spread(summary) == "6.00 ± 2.65"
    assert spell_spread(Summary("a", "", 5, (123.456,))) == "123.5"


def test_budgets_ascend_and_controls_stand_apart():
    control = replace(ROW, sampler="control:real", grid="", nfe=None, value=1.0)
    again = replace(control, checkpoint="step_8", value=2.0)
    rows = [replace(ROW, nfe=10), ROW, replace(ROW, sampler="heun"), control, again]
    assert [(s.label, s.nfe) for s in summarise_arms(rows)] == [("ddim", 5), ("ddim", 10), ("heun", 5)]
    assert [(s.label, s.values) for s in summarise_controls(rows)] == [("real", (2.0,))]


def test_arms_that_differ_elsewhere_are_told_apart():
    rows = [ROW, replace(ROW, checkpoint="step_8"), replace(ROW, checkpoint="step_8", grid="power")]
    labels = [summary.label for summary in summarise_arms(rows)]
    assert labels == ["ddim (uniform, step_7)", "ddim (uniform, step_8)", "ddim (power, step_8)"]


def test_rows_of_two_protocols_are_refused_by_field():
    other = replace(PROTOCOL, n=768, quantise="truncate")
    rows = [ROW, replace(ROW, protocol=other.hash, n=768)]
    known = {PROTOCOL.hash: PROTOCOL, other.hash: other}
    assert require_one_protocol([ROW], known) is PROTOCOL
    with pytest.raises(DiffexpError, match="n is 512 and 768, quantise is round and truncate"):
        require_one_protocol(rows, known)
    with pytest.raises(DiffexpError, match="not on record"):
        require_one_protocol(rows, {PROTOCOL.hash: PROTOCOL})
    with pytest.raises(DiffexpError, match="no rows"):
        require_one_protocol([], known)
