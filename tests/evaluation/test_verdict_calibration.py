"""Verdicts on images of known laws, from the sampler to the report's table: a planted null and a real difference."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import pytest

from diffexp.evaluation.comparison import verdicts
from diffexp.evaluation.markdown import markdown
from diffexp.evaluation.protocol import Provenance
from diffexp.evaluation.results import Row
from diffexp.evaluation.settings import Arm, EvaluationSettings
from diffexp.evaluation.sweep import evaluate
from diffexp.evaluation.table import summarise_arms
from diffexp.prediction.denoiser import Denoiser
from diffexp.prediction.form import Form
from diffexp.process.combination import Combination
from diffexp.process.vp import VP
from diffexp.sampler.grid import Power
from diffexp.sampler.linear import Ancestral
from diffexp.sampler.loop import Sampler
from tests.evaluation.conftest import GaussianImages, PixelFeatures

REPEATS, SEEDS, NFE = 200, 3, 2


class UnitDenoiser(Denoiser):
    """The posterior mean for pixels that are independent N(0, 1): x^ = alpha u, as alpha^2 + sigma^2 = 1."""

    def form(self, marginal):
        return Form(marginal, data=Combination({1: marginal.signal.identity()}))

    def parts(self, u, point, conditions=None):
        self.evaluations += len(u)
        return u, point.marginal.perturb(u, 0.0 * u)


def sampler(name: str, power: float, variance: str) -> Sampler:
    return Sampler(name, Ancestral(variance), Power(p=power, t_end=1e-3))


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Four samplers on 600 seeds.

    With the large variance beta the ancestral step is the exact reverse transition of unit Gaussians, on any grid: the
    first three arms make different images of one and the same law. The fourth's posterior variance is too small.
    """
    arms = [sampler(f"grid {p}", p, "large") for p in (1.0, 1.5, 2.0)] + [sampler("narrow", 1.0, "small")]
    settings = EvaluationSettings(
        n=16, seeds=list(range(REPEATS * SEEDS)), batch_size=16, extractor=PixelFeatures(), controls=[], grid_images=0
    )
    provenance = Provenance("toy", "vp", "x0", "oracle", "step_7@ema_0.9")
    evaluated = [Arm(arm, (NFE,)) for arm in arms]
    return evaluate(evaluated, UnitDenoiser(VP()), GaussianImages(), settings, provenance).rows


def words(rows: Sequence[Row], names: Sequence[str]) -> list[list[str]]:
    """What the report's table says of these arms, in each of the repeats."""
    found = []
    for repeat in range(REPEATS):
        seeds = range(repeat * SEEDS, (repeat + 1) * SEEDS)
        own = [row for row in rows if row.seed in seeds and row.sampler in names]
        table = markdown(verdicts(summarise_arms(own)))
        found.append([line.split("|")[-2].strip() for line in table.splitlines() if line.startswith(f"| {NFE} |")])
    assert {len(line) for line in found} == {len(names) - 1}
    return found


EQUAL = ("grid 1.0(variance=large)", "grid 1.5(variance=large)", "grid 2.0(variance=large)")


def test_the_arms_are_a_null_with_images_of_their_own(rows):
    """Equal means within their standard errors, and shared noise that is worth pairing."""
    values = {name: [row.value for row in rows if row.sampler == name] for name in (*EQUAL, "narrow")}
    for name in EQUAL[1:]:
        differences = [one - other for one, other in zip(values[name], values[EQUAL[0]], strict=True)]
        error = statistics.stdev(differences) / math.sqrt(len(differences))
        assert abs(statistics.fmean(differences)) < 3.0 * error
        assert 0.3 < statistics.correlation(values[name], values[EQUAL[0]]) < 0.99


@pytest.mark.parametrize("names", [EQUAL[:2], EQUAL[1:], EQUAL], ids=["two", "two others", "three"])
def test_equal_arms_are_called_different_in_at_most_one_of_twenty_tables(rows, names):
    different = sum(set(table) != {"undecided"} for table in words(rows, names))
    assert 1 <= different <= 0.05 * REPEATS, "none at all would mean intervals that are too wide"


def test_a_real_difference_is_found_and_has_the_right_sign(rows):
    found = words(rows, (EQUAL[0], "narrow"))
    assert sum(table == ["worse"] for table in found) >= 0.95 * REPEATS
    means = {name: statistics.fmean(row.value for row in rows if row.sampler == name) for name in (EQUAL[0], "narrow")}
    assert means["narrow"] < means[EQUAL[0]] / 2
