"""Tables: statistics over seeds, and never two protocols in one."""

from dataclasses import replace

import pytest

from diffexp.core.errors import DiffexpError
from diffexp.evaluation.protocol import Protocol
from diffexp.evaluation.results import Row
from diffexp.evaluation.table import (
    Summary,
    require_one_protocol,
    spell_range,
    spell_spread,
    summarise_arms,
    summarise_controls,
)

PROTOCOL = Protocol("fd_digits", 512, "digits", "train", "sha:1", 901, "digits", "0de0", "round", "none")
ROW = Row("t", "vp", "v", "n", "ddim", "even(t_end=0.1)", 5, "fd_digits", 4.0, 512, 0, PROTOCOL.hash, "step_7", 0.002)
SEEDS = [ROW, replace(ROW, seed=1, value=5.0, seconds_per_image=0.004), replace(ROW, seed=2, value=9.0)]


def test_statistics_over_seeds():
    (summary,) = summarise_arms(SEEDS)
    assert (summary.label, summary.grid, summary.nfe) == ("ddim", "even(t_end=0.1)", 5)
    assert (summary.mean, summary.minimum) == (6.0, 4.0)
    assert summary.spread == pytest.approx(7**0.5)  # squares 4 + 1 + 9 over n - 1 = 2
    assert summary.seconds == pytest.approx(0.008 / 3)
    assert spell_spread(summary) == "6.00 ± 2.65"
    assert spell_spread(Summary("a", "a", "", 5, (123.456,))) == "123.5"


def test_budgets_ascend_and_controls_stand_apart():
    control = replace(ROW, sampler="control:real", grid="", nfe=None, value=1.0)
    again = replace(control, checkpoint="step_8", value=2.0)
    rows = [replace(ROW, nfe=10), ROW, replace(ROW, sampler="heun"), control, again]
    assert [(s.label, s.nfe) for s in summarise_arms(rows)] == [("ddim", 5), ("ddim", 10), ("heun", 5)]
    assert [(s.label, s.values) for s in summarise_controls(rows)] == [("real", (2.0,))]


def test_counted_evaluations_do_not_part_the_seeds_of_an_adaptive_sampler():
    counts = [replace(ROW, sampler="rk45", grid="ends(t_end=0.1,last=state)", seed=k, nfe=40 + k / 2) for k in range(3)]
    (summary,) = summarise_arms(counts)
    assert (summary.nfe, summary.values) == (40.5, (4.0, 4.0, 4.0))
    loose = replace(counts[0], sampler="rk45(rtol=0.01)", nfe=20)
    assert [(s.label, s.nfe) for s in summarise_arms([*counts, loose])] == [("rk45", 40.5), ("rk45(rtol=0.01)", 20)]


def test_arms_that_differ_elsewhere_are_told_apart():
    rows = [ROW, replace(ROW, checkpoint="step_8"), replace(ROW, checkpoint="step_8", grid="power")]
    labels = [summary.label for summary in summarise_arms(rows)]
    assert labels == ["ddim (even, step_7)", "ddim (even, step_8)", "ddim (power, step_8)"]


def test_settings_are_shown_as_far_as_they_tell_arms_apart():
    clipped = replace(ROW, sampler="ddim(clip)")
    (summary,) = summarise_arms([clipped])
    assert (summary.label, summary.sampler) == ("ddim", "ddim(clip)")
    other = replace(ROW, grid="even(t_end=0.2)")
    heun = replace(ROW, sampler="heun", grid="power(p=2)")
    labels = [summary.label for summary in summarise_arms([ROW, clipped, other, heun])]
    assert labels == ["ddim (even(t_end=0.1))", "ddim(clip)", "ddim (even(t_end=0.2))", "heun"]
    assert len(summarise_arms([ROW, clipped, other, heun])) == 4, "no two of them are averaged"


def test_seeds_that_share_images_have_a_range_and_no_spread():
    def control(name):
        values = [replace(ROW, sampler=f"control:{name}", grid="", nfe=None, seed=s, value=4.0 + s) for s in (0, 1, 2)]
        (summary,) = summarise_controls(values)
        return summary

    floor = control("real")
    assert (floor.spread, spell_spread(floor), spell_range(floor)) == (None, "5.00", "4.00 to 6.00")
    assert control("mean").spread is None
    assert spell_spread(control("noise")) == "5.00 ± 1.00"
    assert spell_spread(control("resampled")) == "5.00 ± 1.00"
    assert spell_range(Summary("real", "real", "", None, (1.0,), independent=False)) == ""


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
