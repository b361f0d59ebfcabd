"""Progressive distillation: targets, their identities, and what is refused."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from diffexp.core import random
from diffexp.core.errors import CheckpointError, ConfigError
from diffexp.core.halving import halvings
from diffexp.distillation.progressive import Progressive, ProgressiveLoss
from diffexp.distillation.stage import Stage, angle, target, target_weights
from diffexp.objective.denoising import Denoising
from diffexp.objective.distilled import Distilled
from diffexp.objective.times import Uniform as UniformTimes
from diffexp.objective.weighting import Constant, Plain, TruncatedSNR
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import X0, Both, Eps, Head, V
from diffexp.process.bridge_schedule import BridgeVP
from diffexp.process.cosine import Cosine
from diffexp.process.flow import ode_step
from diffexp.process.ve import EDM, VE
from diffexp.process.vp import VP
from diffexp.sampler.grid import Power, Uniform
from diffexp.sampler.linear import DDIM
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import KeyedNoise
from tests.distillation.ideal import ideal
from tests.distillation.standin import Small, tensors

HEADS = {"x": X0, "v": V, "both": Both, "eps": Eps}
COSINE = (Cosine(), Uniform(last="data"))
SETTINGS = {
    "cosine": COSINE,
    "vp": (VP(), Uniform(t_end=1e-3)),
    "edm": (EDM(), Power(p=7.0, t_end=0.002, last="data")),
    "ve": (VE(), Power(p=3.0, t_end=1e-5)),
}


def made(head: Head, process=COSINE[0], dtype: torch.dtype = torch.float64) -> NetworkDenoiser:
    network = Small(1, head.outputs).to(dtype)
    return NetworkDenoiser(network, head, process)


def of(**words) -> Progressive:
    return Progressive(**{"grid": COSINE[1], "start_steps": 8, **words})


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("steps", [1, 2, 7, 64])
def test_weights_are_the_published_quotient(name, steps):
    """(z_s - q z_t) / (alpha_s - q alpha_t) of two steps of DDIM, in float64; a convex combination."""
    process, grid = SETTINGS[name]
    stage = Stage.of(process, grid, steps)
    assert len(stage) == steps
    torch.testing.assert_close(stage.first + stage.second, torch.ones(steps, dtype=torch.float64), rtol=0, atol=1e-11)
    assert float(stage.first.min()) >= 0.0
    later = slice(1, None) if grid.last == "data" else slice(None)
    u, x1, x2 = (value[later] for value in tensors("u", "x1", "x2", n=steps))
    t, m, s = stage.t[later], stage.m[later], stage.s[later]
    moved = ode_step(process, ode_step(process, u, t, m, x1), m, s, x2)
    (a_t, s_t), (a_s, s_s) = ((process.signal(k).value, process.factor(k).value) for k in (t, s))
    shape, q = (-1, 1, 1, 1), s_s / s_t
    quotient = (moved - q.reshape(shape) * u) / (a_s - q * a_t).reshape(shape)
    ours = stage.first[later].reshape(shape) * x1 + stage.second[later].reshape(shape) * x2
    torch.testing.assert_close(ours, quotient, rtol=0, atol=1e-9)


def test_weights_at_the_ends():
    """No noise is left: the second estimate; no signal before: still finite. The middle of a short step: a half."""
    phi = torch.tensor([0.5 * math.pi], dtype=torch.float64)
    first, second = target_weights(phi, 0.5 * phi, 0.0 * phi)
    assert (float(first), float(second)) == (0.0, 1.0)
    first, second = target_weights(phi, phi - 1e-4, phi - 2e-4)
    assert abs(float(first) - 0.5) < 1e-6
    assert abs(float(second) - 0.5) < 1e-6
    stage = Stage.of(*COSINE, 16)
    assert (float(stage.first[0]), float(stage.second[0])) == (0.0, 1.0)
    torch.testing.assert_close(angle(COSINE[0], stage.t), COSINE[0].angle(stage.t), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("steps", [1024, 4096])
@pytest.mark.parametrize("name", ["x", "v", "both"])
def test_float32_targets_are_those_of_float64(name, steps):
    index = random.integers(0, "test/index", range(64), steps)
    index[:3] = torch.tensor([0, 1, steps - 1])
    found = {}
    for dtype in (torch.float64, torch.float32):
        teacher = made(HEADS[name](time="angle"), dtype=dtype)
        stage = Stage.of(*COSINE, steps)
        x0, noise = (value.clamp(-2.0, 2.0).to(dtype) for value in tensors("x", "noise", n=64))
        u = teacher.process.marginal(stage.t[index]).cast(dtype, "cpu").perturb(x0, noise)
        found[dtype] = target(stage, teacher, u, index).data.double()
    assert float((found[torch.float32] - found[torch.float64]).abs().max()) < 1e-6


@pytest.mark.parametrize("name", ["x", "v", "both"])
def test_an_ideal_student_of_one_step_is_its_teacher_of_sixteen(name):
    """All four halvings, in float64 to 1e-12; also every state of the students is one of the teacher's."""
    teacher, states = made(HEADS[name](time="angle")), {}
    noise = KeyedNoise(0, range(4), (1, 4, 4), dtype=torch.float64)
    sampler = Sampler("ddim", DDIM(), COSINE[1])
    for steps in (16, 8, 4, 2, 1):
        student, kept = ideal(teacher, COSINE[1], 16, steps), []
        sampler.sample(student, noise, steps, on_step=lambda k, u, kept=kept: kept.append(u))
        states[steps] = kept
    for steps in (8, 4, 2, 1):
        for k, state in enumerate(states[steps], start=1):
            assert float((state - states[16][k * 16 // steps - 1]).abs().max()) < 1e-12, (steps, k)


@pytest.mark.parametrize("name", SETTINGS)
def test_ideal_students_on_other_processes(name):
    process, grid = SETTINGS[name]
    teacher = made(X0(time="log_snr"), process)
    noise, sampler = KeyedNoise(0, range(4), (1, 4, 4), dtype=torch.float64), Sampler("ddim", DDIM(), grid)
    whole = sampler.sample(teacher, noise, 8).images
    found = sampler.sample(ideal(teacher, grid, 8, 1), noise, 1).images
    assert float((found - whole).abs().max()) < 1e-11 * float(whole.abs().max())


@pytest.mark.parametrize("name", HEADS)
def test_the_loss_moves_the_student_alone(name):
    head = HEADS[name](time="angle")
    student, teacher = made(head), made(head)
    teacher.network.requires_grad_(False)
    loss = of(student_steps=4).loss(student, teacher, Denoising(TruncatedSNR(), UniformTimes()), 10)
    batch = {"image": tensors("image", n=6)[0].tanh(), "position": torch.arange(6)}
    found = loss(student, batch, 0)
    found.backward()
    assert float(found.detach()) > 0.0
    assert all(parameter.grad is not None for parameter in student.network.parameters())
    assert all(parameter.grad is None for parameter in teacher.network.parameters())
    assert teacher.network.graphs == [False, False]
    assert student.network.graphs == [True]
    assert loss.networks() == [teacher.network]
    again = loss(student, {**batch, "image": batch["image"].flip(0), "position": torch.arange(6).flip(0)}, 0)
    torch.testing.assert_close(again, found, rtol=1e-12, atol=0)  # draws belong to positions


class _Constant(nn.Module):
    def forward(self, u: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        return torch.full_like(u, 0.3)


def test_a_student_that_is_its_teacher():
    """Of a single image: no loss. Of others: the two halves differ by the step, so that a halving quarters the loss."""
    point = NetworkDenoiser(_Constant(), X0(), COSINE[0])
    x0, noise = tensors("x0", "noise", n=32)
    objective = Denoising(Constant(), UniformTimes())
    for steps in (1, 8):
        index = torch.arange(32) % steps
        losses = ProgressiveLoss(Stage.of(*COSINE, steps), point, objective).losses(point, x0, noise, index)
        assert float(losses.max()) < 1e-25
    same, found = made(X0(time="angle")), []
    for steps in (64, 128, 256):
        stage = Stage.of(*COSINE, steps)
        index = torch.full((32,), steps // 2)  # the same time
        found.append(ProgressiveLoss(stage, same, objective).losses(same, x0, noise, index).mean())
    ratios = [float((a / b).detach()) for a, b in itertools.pairwise(found)]
    assert ratios == pytest.approx([4.0, 4.0], rel=0.1)


def test_every_weighting_sees_the_same_error():
    """With consistent targets the errors of all heads are tied: plain on v is (1 + SNR) X."""
    teacher, student = made(V(time="angle")), made(V(time="angle"))
    with torch.no_grad():
        student.network.last.bias += 0.1
    x0, noise = tensors("x0", "noise", n=8)
    stage, index = Stage.of(*COSINE, 8), torch.arange(8)
    of_x, plain = (
        ProgressiveLoss(stage, teacher, Denoising(w, UniformTimes())).losses(student, x0, noise, index)
        for w in (Constant(), Plain())
    )
    snr = COSINE[0].log_snr(stage.t).exp()
    torch.testing.assert_close(plain, (1.0 + snr) * of_x, rtol=1e-10, atol=0)


def test_the_largest_stage():
    """8192 -> 4096: finite everywhere, and a training step in float32."""
    head = Both(time="angle")
    student, teacher = made(head, dtype=torch.float32), made(head, dtype=torch.float32)
    method = Progressive(COSINE[1], 8192, 4, student_steps=4096)
    method.check(head, COSINE[0], Denoising(TruncatedSNR(), UniformTimes()))
    loss = method.loss(student, teacher, Denoising(TruncatedSNR(), UniformTimes()), 1)
    batch = {"image": tensors("image", n=64)[0].tanh().float(), "position": torch.arange(64)}
    optimiser = torch.optim.Adam(student.network.parameters(), 1e-3)
    before = float(loss(student, batch, 0).detach())
    for _ in range(3):
        optimiser.zero_grad()
        found = loss(student, batch, 0)
        found.backward()
        optimiser.step()
    assert math.isfinite(before)
    assert float(loss(student, batch, 0).detach()) != before


def test_plans():
    assert halvings(64, 1) == [32, 16, 8, 4, 2, 1]
    assert halvings(8192, 4096) == [4096]
    assert halvings(12, 3) == [6, 3]
    assert of().steps == 4
    assert of(student_steps=2).steps == 2


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (64, 3, "must be a power of two: use e.g. start_steps=96"),
        (6, 1, "use e.g. start_steps=8"),
        (4, 4, "use e.g. start_steps=8"),
        (2, 4, "use e.g. start_steps=8"),
        (8, 0, "end_steps=0: must be at least 1"),
    ],
)
def test_steps_that_halving_does_not_reach(start, end, said):
    with pytest.raises(ConfigError, match="distillation") as refused:
        of(start_steps=start, end_steps=end)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("words", "head", "process", "objective", "said"),
    [
        ({}, X0(), BridgeVP(), None, "is more than a signal and a noise level"),
        ({}, X0(), COSINE[0], Distilled(), "use objective=snr_trunc"),
        ({"student_steps": 0}, X0(), COSINE[0], None, "student_steps=0: must be at least 1"),
        ({"updates": 0}, X0(), COSINE[0], None, "updates=0: a stage is at least one update"),
        ({"updates_at": {2: 0}}, X0(), COSINE[0], None, "updates_at=0: a stage is at least one update"),
    ],
)
def test_refused(words, head, process, objective, said):
    with pytest.raises(ConfigError) as refused:
        of(**words).check(head, process, objective or Denoising(Plain(), UniformTimes()))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_grid_that_does_not_halve():
    class Odd(Uniform):
        def _times(self, process, n, start, end):
            return start + (end - start) * torch.linspace(0.0, 1.0, n + 1, dtype=torch.float64) ** (1.0 + 1.0 / n)

    with pytest.raises(ConfigError, match="4 steps of grid uniform are not every second one of its 8"):
        of(grid=Odd()).check(X0(), COSINE[0], Denoising(Plain(), UniformTimes()))


def test_a_teacher_of_the_wrong_number_of_steps():
    method = of(student_steps=4)
    method.check_teacher({"distillation": None}, "somewhere")
    method.check_teacher({"distillation": {"student_steps": 8}}, "somewhere")
    with pytest.raises(CheckpointError, match="teacher=there: is a student of 4 steps; a student of 4 needs one of 8"):
        method.check_teacher({"distillation": {"student_steps": 4}}, "there")
