"""Pairs of times: r stays before t and not below the end, stages follow the steps, and what cannot be is refused."""

from __future__ import annotations

import math

import pytest
import torch

from diffexp.core.errors import ConfigError
from diffexp.distillation.schedule import GAP, Constant, Curriculum, Sigmoid

LOW, HIGH = 1e-4, 0.999
SHARE = torch.linspace(0.0, 1.0, 4001, dtype=torch.float64)[:-1]


@pytest.mark.parametrize(
    "schedule", [Constant(1 / 60), Constant(2.0), Constant(GAP), Sigmoid(), Sigmoid(q=4.0, b=1.0), Sigmoid(stages=19)]
)
@pytest.mark.parametrize("step", [0, 500, 999])
def test_r_is_before_t_and_not_before_the_end(schedule, step):
    t, r = schedule.pairs(SHARE, LOW, HIGH, step, 1000)
    assert t.min() == LOW + GAP
    assert t.max() <= HIGH
    assert bool((r >= LOW).all())
    assert bool((t - r >= GAP * (1 - 1e-9)).all())


def test_constant_steps():
    t, r = Constant(0.25).pairs(SHARE, LOW, HIGH, 0, 1)
    wanted = torch.where(t - 0.25 > LOW, t - 0.25, LOW)
    assert torch.equal(r[t > LOW + 2 * GAP], wanted[t > LOW + 2 * GAP])


def test_sigmoid_stages():
    """1 + floor(step / every), up to the last; without `every` they fill the training evenly."""
    assert [Sigmoid(every=10, stages=3).stage(step, 1000) for step in (0, 9, 10, 19, 20, 30, 999)] == [
        1, 1, 2, 2, 3, 3, 3,
    ]  # fmt: skip
    assert [Sigmoid(stages=6).stage(step, 30_000) for step in (0, 4999, 5000, 24_999, 25_000, 29_999)] == [
        1, 1, 2, 5, 6, 6,
    ]  # fmt: skip
    assert Sigmoid(stages=6).stage(2, 3) == 3


def test_sigmoid_follows_its_formula():
    t, step = torch.tensor([0.02, 0.3, 0.9], dtype=torch.float64), 2100
    r = Sigmoid(q=2.0, k=8.0, b=20.0, every=1000).earlier(t, LOW, step, 10_000)  # the third stage
    for time, found in zip(t.tolist(), r.tolist(), strict=True):
        wanted = time * (1.0 - 2.0**-3 * (1.0 + 8.0 / (1.0 + math.exp(20.0 * time))))
        assert found == pytest.approx(max(LOW, wanted), rel=1e-14)


def test_the_first_stage_with_a_flat_sigmoid_is_denoising():
    """With q = 2 and b = 1 every r is the end itself."""
    _, r = Sigmoid(b=1.0).pairs(SHARE, LOW, 1.0, 0, 6)
    assert bool((r == LOW).all())


def test_a_curriculum_takes_neighbours_on_a_finer_and_finer_grid():
    schedule = Curriculum(start_scales=2, end_scales=150, start_decay=0.95)
    for step, points in ((0, 2), (1000, 151)):
        assert schedule.points(step, 1000) == points
        t, r = schedule.pairs(SHARE, 0.002, 80.0, step, 1000)
        assert len(t.unique()) == points - 1
        assert torch.equal(t.unique()[:-1], r.unique()[1:])
        assert (float(t.max()), float(r.min())) == (80.0, 0.002)
        roots = torch.cat([r.unique()[:1], t.unique()]) ** (1 / 7)
        torch.testing.assert_close(roots.diff(), roots.diff().mean().expand(points - 1), rtol=1e-9, atol=0)
    assert schedule.target_decay(0, 1000) == pytest.approx(0.95**2, rel=1e-14)
    assert schedule.target_decay(1000, 1000) == pytest.approx(0.95 ** (2 / 150), rel=1e-14)
    assert Curriculum(start_decay=None).target_decay(5, 10) is None


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: Constant(0.0), "schedule.dt=0"),
        (lambda: Constant(-0.1), "before t"),
        (lambda: Sigmoid(q=1.0), "q=1"),
        (lambda: Sigmoid(k=-2.0), "k=-2"),
        (lambda: Sigmoid(b=-1.0), "b=-1"),
        (lambda: Sigmoid(stages=0), "stages=0"),
        (lambda: Sigmoid(stages=20), "from 1 to 19"),
        (lambda: Sigmoid(every=0), "every=0"),
        (lambda: Curriculum(start_scales=0), "start_scales=0"),
        (lambda: Curriculum(5, 4), "end_scales=4"),
        (lambda: Curriculum(start_decay=1.0), "start_decay=1"),
        (lambda: Curriculum(rho=0.0), "rho=0"),
        (lambda: Curriculum(2, 10**6).pairs(SHARE, LOW, 1.0, 1, 1), "closer than"),
    ],
)
def test_refused(build, named):
    with pytest.raises(ConfigError, match=named):
        build()
