"""Several training seeds: right means, spreads that are told apart, verdicts whose unit is a training."""

from __future__ import annotations

import random
import statistics

import pytest

from diffexp.evaluation.markdown import markdown
from diffexp.evaluation.table import Summary
from diffexp.evaluation.trainings import blocks, over_seeds


def arm(seed, values, sampler="ddim", nfe=5, network="a", seeds=None):
    tag = f"seed={seed}, network={network}"
    seeds = tuple(range(len(values))) if seeds is None else seeds
    label, values = f"{sampler} ({tag})", tuple(values)
    return Summary(label, sampler, "g", nfe, values, 0.1, tag=tag, metric="fd_digits", seeds=seeds)


def settings(arms):
    return {one.tag: dict(pair.split("=") for pair in one.tag.split(", ")) for one in arms}


def test_a_training_counts_with_its_mean():
    """By hand: means 2, 4, 9 of the trainings; variances 1, 1, 4 within."""
    arms = [arm(0, (1, 2, 3)), arm(1, (3, 4, 5)), arm(7, (7, 9, 11)), arm(0, (1.0, 2.0), network="b")]
    (found,) = over_seeds(arms, settings(arms))
    assert (found.arm.values, found.arm.seeds, found.arm.mean) == ((2.0, 4.0, 9.0), (0, 1, 7), 5.0)
    assert (found.arm.label, found.arm.plain_label, found.settings) == ("ddim (network=a)", "ddim", {"network": "a"})
    assert found.within == pytest.approx(2.0**0.5)
    # residuals of the third training -2/3, 0, 2/3, of the others 1/3, 0, -1/3: squares 4/3, over (3 - 1)(3 - 1)
    assert found.alone == pytest.approx((statistics.variance([2.0, 4.0, 9.0]) - (4.0 / 3.0) / 4.0 / 3.0) ** 0.5)


def test_the_two_spreads_are_those_that_were_planted():
    """a_i of 2, b_j of 3 that all trainings share, e_ij of 1: 400 trainings, 5 evaluation seeds."""
    draw = random.Random(1)
    shared = [draw.gauss(0.0, 3.0) for _ in range(5)]
    arms = []
    for seed in range(400):
        own = draw.gauss(50.0, 2.0)
        arms.append(arm(seed, [own + noise + draw.gauss(0.0, 1.0) for noise in shared]))
    (found,) = over_seeds(arms, settings(arms))
    assert found.alone == pytest.approx(2.0, rel=0.1)
    assert found.arm.spread == pytest.approx((4.0 + 1.0 / 5.0) ** 0.5, rel=0.1)
    assert found.within == pytest.approx((statistics.variance(shared) + 1.0) ** 0.5, rel=0.05)


def test_without_a_spread_of_trainings_it_is_zero():
    """The means differ by the evaluation's noise alone: about half of such tables leave nothing."""
    draw = random.Random(2)
    found = []
    for _ in range(200):
        arms = [arm(seed, [draw.gauss(0.0, 1.0) for _ in range(4)]) for seed in range(3)]
        found.append(over_seeds(arms, settings(arms))[0].alone)
    assert 0.3 < sum(value == 0.0 for value in found) / len(found) < 0.8
    assert statistics.fmean(found) < 0.3


def test_what_cannot_be_told_is_left_open():
    one = [arm(0, (1.0,)), arm(1, (2.0,))]
    (found,) = over_seeds(one, settings(one))
    assert (found.within, found.alone) == (None, None)
    other = [arm(0, (1.0, 2.0), seeds=(0, 1)), arm(1, (2.0, 3.5), seeds=(0, 2))]
    assert over_seeds(other, settings(other))[0].alone is None
    assert over_seeds(other[:1], settings(other)) == []
    plain = [Summary("ddim (p=1)", "ddim", "g", 5, (1.0,), tag="p=1", metric="fd_digits", seeds=(0,))]
    assert blocks(plain, {"p=1": {"p": "1"}}) == []


def test_verdicts_over_training_seeds_are_paired_by_training():
    """Each training is better by about one with b; its own level, which both share, does not matter."""
    levels = {0: 5.0, 1: 50.0, 2: 20.0}
    arms = [arm(seed, (level, level + 1.0)) for seed, level in levels.items()]
    gains = {0: 1.0, 1: 1.1, 2: 0.9}
    arms += [arm(seed, (level - gains[seed], level + 1.0 - gains[seed]), "heun") for seed, level in levels.items()]
    text = markdown(blocks(arms, settings(arms)))
    assert "### Over training seeds" in text
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert lines[0][4:] == ["mean", "std over trainings", "std over evaluation seeds", "std of training alone"]
    assert lines[2] == ["a", "ddim", "5", "3", "25.50", "22.91", "0.71", "22.91"]
    assert "### Verdicts over training seeds" in text
    assert "| 5 | heun (network=a) | ddim (network=a) | 1.00 | 0.75 to 1.25 | worse |" in text
