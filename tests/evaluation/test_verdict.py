"""Verdicts: right intervals, few false ones, and the evaluations that an equal distance needs."""

import math
import random
import statistics

import pytest

from diffexp.evaluation.comparison import speedups, verdicts
from diffexp.evaluation.markdown import markdown
from diffexp.evaluation.table import Summary
from diffexp.evaluation.verdict import compare, reach

T_2, T_4 = 4.302652729749464, 2.7764451051977934  # 97.5 % quantiles of Student's t with 2 and 4 degrees of freedom


def arm(label, nfe, values, metric="fd_digits", seeds=None):
    return Summary(label, label, "g", nfe, tuple(values), metric=metric, seeds=seeds or tuple(range(len(values))))


def test_the_interval_is_students_on_the_differences():
    found = compare(arm("a", 10, (5.0, 6.0, 9.0)), arm("b", 10, (4.0, 4.0, 6.0)))  # differences 1, 2, 3
    assert found.difference == 2.0
    assert found.half == pytest.approx(T_2 / math.sqrt(3), rel=1e-12)
    assert found.word == "undecided"
    five = compare(arm("a", 10, (5.0, 6.0, 9.0, 7.0, 8.0)), arm("b", 10, (4.0, 4.0, 6.0, 5.0, 6.0)))
    assert five.half == pytest.approx(T_4 * statistics.stdev([1, 2, 3, 2, 2]) / math.sqrt(5), rel=1e-12)
    assert five.word == "worse"


def test_the_intervals_of_several_arms_hold_together():
    """Of four arms there are six differences: the quantile is that of 1 - 0.05 / 12, for two degrees of freedom."""
    pair = arm("a", 10, (5.0, 6.0, 9.0)), arm("b", 10, (4.0, 4.0, 6.0))
    p = 0.05 / 12  # Student's t with two degrees of freedom in closed form
    quantile = (1.0 - 2.0 * p) * math.sqrt(2.0 / (1.0 - (1.0 - 2.0 * p) ** 2))
    assert compare(*pair, among=4).half == pytest.approx(quantile / math.sqrt(3), rel=1e-9)
    assert compare(*pair, among=2) == compare(*pair)


def test_rounding_is_no_difference():
    values = (5.0, 6.0, 9.0)
    assert compare(arm("a", 10, [value + 1e-7 for value in values]), arm("b", 10, values)).word == "undecided"
    assert compare(arm("a", 10, [value + 1e-3 for value in values]), arm("b", 10, values)).word == "worse"


def test_seeds_are_paired_by_name():
    """The spread of the seeds themselves does not matter; only common seeds count."""
    first = arm("a", 10, (1.0, 101.0, 51.0, 7.0), seeds=(0, 1, 2, 9))
    second = arm("b", 10, (52.1, 102.0, 2.1), seeds=(2, 1, 0))
    assert compare(first, second).word == "better"
    assert compare(second, first).word == "worse"
    assert compare(first, second).difference == pytest.approx(-1.0666666666666667, rel=1e-12)


def test_higher_can_be_better():
    assert compare(arm("a", 2, (20.0, 21.0, 22.0), "psnr"), arm("b", 2, (18.0, 19.1, 20.0), "psnr")).word == "better"


def test_one_seed_decides_nothing():
    found = compare(arm("a", 2, (1.0,)), arm("b", 2, (100.0,)))
    assert (found.half, found.word) == (math.inf, "undecided")
    with pytest.raises(ValueError, match="without a common seed"):
        compare(arm("a", 2, (1.0,), seeds=(0,)), arm("b", 2, (1.0,), seeds=(1,)))


@pytest.mark.parametrize("seeds", [3, 5])
def test_equal_arms_are_rarely_called_different_and_a_real_difference_mostly_is(seeds):
    """Noise of the seed is shared, that of the arm is not; 95 % intervals are wrong in one of twenty."""
    draw, repeats, wrong, right = random.Random(0), 4000, 0, 0
    for _ in range(repeats):
        shared = [draw.gauss(10.0, 3.0) for _ in range(seeds)]
        first, same, worse = ([base + shift + draw.gauss(0.0, 0.5) for base in shared] for shift in (0.0, 0.0, 4.0))
        wrong += compare(arm("a", 1, first), arm("b", 1, same)).word != "undecided"
        right += compare(arm("a", 1, first), arm("c", 1, worse)).word == "better"
    assert wrong / repeats == pytest.approx(0.05, abs=0.012)
    assert right / repeats > 0.97


BUDGETS = ((5, 30.0), (10, 12.0), (20, 7.0), (50, 4.0))
SLOW = [arm("slow", nfe, (value, value + 1.0, value + 2.1)) for nfe, value in BUDGETS]


@pytest.mark.parametrize(
    ("value", "nfe", "first", "decided"),
    [
        (8.0, 20, False, True),
        (11.9, 20, False, False),  # at 10 the slow arm is hardly worse
        (40.0, 5, True, False),
        (1.0, None, False, True),
        (3.9, None, False, False),
    ],
)
def test_evaluations_for_an_equal_distance(value, nfe, first, decided):
    noise = (0.0, 1.3, 1.9)
    found = reach(arm("fast", 2, [value + shift for shift in noise]), SLOW[::-1])
    assert (found.nfe, found.first, found.decided, found.largest) == (nfe, first, decided, 50)


def test_tables_of_a_report():
    fast = [arm("fast", 2, (8.0, 9.3, 9.9)), arm("fast", 5, (4.4, 5.0, 6.0))]
    text = markdown(speedups([*fast, *SLOW]))
    assert "| fast | 2 |  | 20 (10 x) |" in text
    assert "| slow | 5 | ≤ 2 (0.4 x) |  |" in text
    text = markdown(verdicts([*fast, *SLOW]))
    assert "| 5 | fast | slow | 25.90 | 25.24 to 26.56 | worse |" in text
    assert "| 2 |" not in text, "one arm alone has nothing to be compared with"
    assert verdicts(fast) == speedups(fast) == []
