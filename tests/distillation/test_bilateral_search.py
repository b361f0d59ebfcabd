"""Noise scheduling, sampling with what it found, and the search: closed forms, one schedule for any trained model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.distillation.bilateral.scheduling import Start, draw, noise_schedule, sampler, smallest_beta
from diffexp.distillation.bilateral.score import Score
from diffexp.distillation.bilateral.search import Assessment, Buckets, around, keyed_shares, search, starts
from diffexp.network.schedule.base import ScheduleNetwork
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import X0, Both, Eps, V
from diffexp.prediction.oracle.mixture import Mixture
from diffexp.process.cosine import Cosine
from diffexp.process.ddpm import DDPM
from diffexp.process.table import Table
from diffexp.process.ve import VE
from diffexp.process.vp import VP
from diffexp.sampler.noise import FixedNoise, KeyedNoise
from tests.distillation.standin import View

SHAPE = (1, 4, 4)
LINEAR = DDPM(200)
BEGIN = Start(0.5, 0.3)


class Energy(ScheduleNetwork):
    """The ratio sigmoid(a + b mean(x^2)): with b = 0 a constant."""

    def __init__(self, a: float, b: float = 0.0) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([a, b], dtype=torch.float64))

    def _logit(self, x: Tensor) -> Tensor:
        return self.weights[0] + self.weights[1] * x.square().flatten(1).mean(1)


def oracle(process) -> Score:
    return Score(Mixture(process, [0.5, 0.5], [-0.6, 0.6], [0.2, 0.2]))


def numbers(n: int = 1) -> KeyedNoise:
    return KeyedNoise(3, range(n), SHAPE, torch.float64)


@pytest.mark.parametrize("mode", ["ddpm", "ddim"])
@pytest.mark.parametrize("ratio", [0.5, 0.9, 0.99])
def test_a_constant_ratio_has_its_closed_form(ratio, mode):
    """Geometric while the larger step bounds it; then b = c delta with delta' = delta (1 - c) / (1 - c delta)."""
    cap, floor = 40, 1e-4
    network = Energy(math.log(ratio / (1.0 - ratio)))
    found = noise_schedule(oracle(LINEAR), network, numbers(), BEGIN, cap, floor, mode).tolist()[::-1]
    beta, delta, wanted = BEGIN.beta, 1.0 - BEGIN.alpha**2, []
    while beta >= floor and len(wanted) < cap:
        wanted.append(beta)
        delta = (delta - beta) / (1.0 - beta)
        beta = ratio * min(beta, delta)
    assert found == pytest.approx(wanted, rel=1e-9)
    assert wanted[1] == pytest.approx(0.3 * ratio, rel=1e-12)
    if ratio > 0.5:
        limited = next(k for k in range(1, len(wanted)) if wanted[k] < ratio * wanted[k - 1] * (1.0 - 1e-9))
        level = wanted[limited] / ratio
        for beta in wanted[limited:]:
            assert beta == pytest.approx(ratio * level, rel=1e-9)
            level *= (1.0 - ratio) / (1.0 - ratio * level)


def test_a_schedule_costs_one_evaluation_a_step_and_ends_at_the_cap_or_the_floor():
    score, network = oracle(LINEAR), Energy(1.0, 1.0)
    free = noise_schedule(score, network, numbers(), BEGIN, 50, 1e-4)
    assert score.denoiser.evaluations == len(free) < 50
    assert float(free.min()) >= 1e-4
    assert bool((free.diff() > 0.0).all())
    again = noise_schedule(score, network, numbers(), BEGIN, 3, 1e-4)
    assert torch.equal(again, free[-3:])
    assert noise_schedule(score, network, numbers(), BEGIN, 50, 0.2).tolist() == free[free >= 0.2].tolist()
    # Levels count from the data, so what is left of the noise moves them: little at the floor, much at the cap.
    assert float(Table(free).alphas[-1]) == pytest.approx(BEGIN.alpha, abs=1e-4)
    assert float(Table(again).alphas[-1]) > BEGIN.alpha + 0.05


@pytest.mark.parametrize(
    ("process", "time", "scale"), [(LINEAR, "index", 1.0), (VP(), "999t", 999.0)], ids=["ddpm", "vp"]
)
def test_every_view_of_one_model_has_the_same_schedule_and_samples(process, time, scale):
    heads, found, images = {"eps": Eps, "x0": X0, "v": V, "both": Both}, {}, {}
    for kind, head in heads.items():
        denoiser = NetworkDenoiser(View(process, kind, scale), head(time), process)
        found[kind] = noise_schedule(Score(denoiser), Energy(1.0, 1.0), numbers(), BEGIN, 30, smallest_beta(process))
        images[kind] = draw(denoiser, found[kind], numbers(3))
    assert len(found["eps"]) > 5
    for kind in heads:
        torch.testing.assert_close(found[kind], found["eps"], rtol=1e-6, atol=0.0)
        torch.testing.assert_close(images[kind], images["eps"], rtol=0.0, atol=1e-6)


def test_every_process_has_the_same_schedule():
    """Discrete or continuous, preserving variance or not: the levels alone count."""
    runs = [
        noise_schedule(oracle(process), Energy(1.0, 1.0), numbers(), BEGIN, 30, 1e-3)
        for process in (LINEAR, VP(), Cosine(), VE())
    ]
    assert len(runs[0]) > 4
    for run in runs[1:]:
        torch.testing.assert_close(run, runs[0], rtol=1e-6, atol=0.0)


def test_a_batch_shares_the_mean_of_its_ratios():
    network, noise, calls = Energy(1.0, 1.0), numbers(3), []
    betas = noise_schedule(oracle(LINEAR), network, noise, BEGIN, 3, 1e-4, on_call=lambda x, t: calls.append(x))
    ratio = float(network.ratio(calls[1]).detach().mean())
    after = (1.0 - BEGIN.alpha**2 - BEGIN.beta) / (1.0 - BEGIN.beta)
    assert float(betas[1]) == pytest.approx(min(BEGIN.beta, after) * ratio, rel=1e-12)


def test_samples_of_a_found_schedule_have_the_variance_of_its_steps():
    """Data N(0, s^2): DDPM's step multiplies by (1 - beta / v) / sqrt(1 - beta); DDIM's, for s = 1, by a cosine."""
    betas = torch.tensor([0.001, 0.02, 0.3, 0.5], dtype=torch.float64)
    alphas, x = Table(betas).alphas, random.normal(0, "test/x", range(2), SHAPE)
    for process in (LINEAR, VP(), VE()):
        score = Score(Mixture(process, [1.0], [0.0], [0.5]))
        silent = draw(score.denoiser, betas, FixedNoise(x, [torch.zeros_like(x)] * 4))
        gain = (1.0 - betas / (0.25 * alphas**2 + 1.0 - alphas**2)) / (1.0 - betas).sqrt()
        if process.variance_preserving:
            torch.testing.assert_close(silent, gain.prod() * x, rtol=1e-9, atol=0.0)
        assert score.denoiser.evaluations == 2 * len(betas)
    angles = torch.cat([torch.zeros(1, dtype=torch.float64), alphas.acos()])
    unit = Mixture(LINEAR, [1.0], [0.0], [1.0])
    images = draw(unit, betas, FixedNoise(x), "ddim")
    torch.testing.assert_close(images, angles.diff().cos().prod() * x, rtol=1e-9, atol=0.0)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        sampler(torch.tensor([0.1, 1.0], dtype=torch.float64))


def test_the_floor_is_the_smallest_step_of_the_training():
    assert smallest_beta(LINEAR) == pytest.approx(1e-4, rel=1e-12)
    assert smallest_beta(VP()) == pytest.approx(-math.expm1(-0.1e-3 - 0.5 * 19.9e-6), rel=1e-9)
    assert smallest_beta(VE()) == pytest.approx(1e-4 / (1.0 + 1e-4), rel=1e-12)  # sigma_min = 0.01


def test_a_start_that_holds_more_noise_than_its_level_is_refused():
    with pytest.raises(ConfigError, match=r"beta_N=0.8 at alpha_N=0.5: .* at most 1 - alpha_N\^2 = 0.75"):
        Start(0.5, 0.8).check()
    with pytest.raises(ConfigError, match="beta_N=0 at"):
        Start(0.5, 0.0).check()
    with pytest.raises(ConfigError, match="alpha_N=1: must lie between 0 and 1"):
        Start(1.0, 0.1).check()
    Start(0.5, 0.75).check()


def test_a_grid_has_the_starts_that_fit():
    found = starts(VP(), 9)
    assert all(start.beta <= 1.0 - start.alpha**2 + 1e-12 for start in found)
    assert 9 < len(found) < 81
    assert [start.beta for start in found] == sorted(start.beta for start in found)
    with pytest.raises(ConfigError, match=r"search\.bins=0"):
        starts(VP(), 0)


def assessed(steps: int, *scores: float, start: Start = BEGIN) -> Assessment:
    return Assessment(start, "ddpm", torch.full((steps,), 0.1, dtype=torch.float64), scores)


def test_a_bucket_changes_hands_only_when_every_score_is_higher():
    buckets = Buckets()
    assert buckets.enter(assessed(3, 1.0, 1.0))
    assert not buckets.enter(assessed(3, 2.0, 1.0))
    assert not buckets.enter(assessed(3, 1.0, 2.0))
    assert buckets.enter(assessed(4, 0.0, 0.0))
    assert buckets.enter(assessed(3, 1.1, 1.1))
    assert {steps: found.scores for steps, found in buckets.best.items()} == {3: (1.1, 1.1), 4: (0.0, 0.0)}


@pytest.mark.parametrize("rounded", [False, True])
def test_attempts_start_around_the_buckets_of_the_grid(rounded):
    """Steps = 1 + the first decimal of alpha; the score prefers large betas, so attempts that grow win."""
    grid, seen = [Start(0.123, 0.456), Start(0.345, 0.4)], []

    def make(start: Start, mode: str) -> Tensor:
        steps = 1 + int(10.0 * start.alpha)
        return torch.full((steps,), start.beta + (0.01 if mode == "ddim" else 0.0), dtype=torch.float64)

    def note(found: Assessment) -> None:
        seen.append(found)

    shares = lambda steps, attempt: ((0.5, 0.7), (0.5, 0.9), (0.0, 0.0))[attempt]  # noqa: E731
    buckets = search(grid, make, lambda betas: [float(betas[0])], 3, shares, rounded, note)
    assert [found.mode for found in seen] == ["ddpm", "ddim"] * 8
    centre = Start(0.12, 0.46) if rounded else grid[0]
    moved = [found.start for found in seen[4:10:2]]
    assert moved == [around(centre, pair) for pair in ((0.5, 0.7), (0.5, 0.9), (0.0, 0.0))]
    assert buckets.best[2].start == moved[1]
    assert sorted(buckets.best) == [2, 4]
    assert buckets.best[2].key == f"{moved[1].alpha:.2f},{moved[1].beta:.2f}"


def test_attempts_that_hold_more_noise_than_their_level_can_be_left_out():
    """The start itself is just within: 0.6^2 + 0.64 = 1; upwards of it nothing fits."""
    edge, seen = Start(0.6, 0.64), []
    assert edge.fits
    assert not Start(0.6, 0.65).fits

    def make(start: Start, mode: str) -> Tensor:
        seen.append(start)
        return torch.tensor([start.beta], dtype=torch.float64)

    shares = lambda steps, attempt: ((0.9, 0.9), (0.1, 0.1))[attempt]  # noqa: E731
    for fitting, count in ((True, 2), (False, 3)):
        seen.clear()
        search([edge], make, lambda betas: [0.0], 2, shares, modes=["ddpm"], fitting=fitting)
        assert len(seen) == count
    assert [start.fits for start in seen] == [True, False, True]


def test_a_longer_schedule_is_assessed_cut_off_too():
    """Without its steps nearest to the data, as if the cap had come earlier."""
    betas = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    buckets = search([BEGIN], lambda start, mode: betas, lambda found: [0.0], modes=["ddim"], cuts=[2, 4, 9])
    assert {steps: found.betas.tolist() for steps, found in buckets.best.items()} == {
        4: [0.1, 0.2, 0.3, 0.4], 2: [0.3, 0.4],
    }  # fmt: skip


def test_shares_belong_to_seed_steps_and_attempt():
    first, again, other = keyed_shares(0), keyed_shares(0), keyed_shares(1)
    drawn = [first(steps, attempt) for steps in (3, 4) for attempt in range(3)]
    assert again(4, 1) == drawn[4]
    assert len({*drawn, other(4, 1)}) == 7
    assert all(0.0 <= u < 1.0 for pair in drawn for u in pair)


def test_states_in_float32_find_the_same_schedule():
    narrow = KeyedNoise(3, range(1), SHAPE, torch.float32)
    runs = [noise_schedule(oracle(LINEAR), Energy(1.0, 1.0), noise, BEGIN, 30, 1e-4) for noise in (numbers(), narrow)]
    torch.testing.assert_close(runs[1], runs[0], rtol=1e-4, atol=0.0)
