"""The stage that changes the prediction alone: what a student of another prediction is asked to say, and learns."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from diffexp.core.errors import CheckpointError, ConfigError
from diffexp.distillation.progressive import Progressive
from diffexp.distillation.stage import Stage, target
from diffexp.launch.fingerprint import training_fingerprint
from diffexp.objective.denoising import Denoising
from diffexp.objective.times import Uniform as UniformTimes
from diffexp.objective.weighting import Constant, Plain, TruncatedSNR
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.denoiser import Denoiser, NetworkDenoiser, Parts, Point
from diffexp.prediction.form import Form
from diffexp.prediction.head import X0, Both, Eps, Head, V
from diffexp.process.base import Marginal
from diffexp.process.cosine import Cosine
from diffexp.sampler.grid import Uniform
from diffexp.sampler.linear import DDIM
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import KeyedNoise
from tests.distillation.ideal import ideal
from tests.distillation.standin import Small, tensors

PROCESS, GRID = Cosine(), Uniform(last="data")
HEADS = {"eps": Eps, "x": X0, "v": V, "both": Both}
OBJECTIVE = Denoising(TruncatedSNR(), UniformTimes())


def made(name: str, seed: int = 0) -> NetworkDenoiser:
    head = HEADS[name](time="angle")
    return NetworkDenoiser(Small(1, head.outputs, seed=seed).double(), head, PROCESS)


def method(**words) -> Progressive:
    return Progressive(GRID, **{"start_steps": 16, "student_steps": 16, "teacher_steps": 16, **words})


class Converted(Denoiser):
    """A student that has learnt what a conversion asks it for: its outputs are the objective's targets themselves."""

    def __init__(self, teacher: Denoiser, head: Head, steps: int) -> None:
        super().__init__(teacher.process)
        self.teacher, self.head, self.stage = teacher, head, Stage.own(teacher.process, GRID, steps)

    def form(self, marginal: Marginal) -> Form:
        return self.head.form(marginal)

    def parts(self, u: Tensor, point: Point, conditions: Conditions = NO_CONDITIONS) -> Parts:
        self.evaluations += len(u)
        index = (self.stage.t[:, None] - point.marginal.t.reshape(1, -1)).abs().argmin(0).expand(len(u))
        wanted = target(self.stage, self.teacher, u, index, conditions)
        law = PROCESS.marginal(self.stage.t[index]).cast(u.dtype, u.device)
        return (u, *self.head.split(self.head.target(law, wanted.data, wanted.noise, u)))


@pytest.mark.parametrize(("of_teacher", "of_student"), list(itertools.product(HEADS, HEADS)))
def test_every_prediction_says_what_every_other_says(of_teacher, of_student):
    """In float64, at every step of the teacher, the prior's included: its estimates of data and of noise."""
    teacher, head, stage = made(of_teacher), HEADS[of_student](time="angle"), Stage.own(PROCESS, GRID, 16)
    index = torch.arange(16)
    x0, noise = tensors("x0", "noise", n=16)
    law = PROCESS.marginal(stage.t[index]).cast(torch.float64, "cpu")
    u = law.perturb(x0, noise)
    wanted = target(stage, teacher, u, index)
    point = teacher.at(stage.t[index], torch.float64, "cpu")
    said = teacher(u, point)
    assert torch.equal(wanted.data, said.data)
    torch.testing.assert_close(wanted.noise, said.noise, rtol=1e-11, atol=1e-11)
    student = Converted(teacher, head, 16)
    found = student(u, student.at(stage.t[index], torch.float64, "cpu"))
    largest = said.data.abs().flatten(1).amax(1).clamp_min(1.0).reshape(-1, 1, 1, 1)  # eps: 1 / alpha at the prior
    assert float(((found.data - said.data) / largest).detach().abs().max()) < 1e-11
    torch.testing.assert_close(found.noise, said.noise, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("of_teacher", "of_student"), [("x", "eps"), ("x", "v"), ("v", "both"), ("both", "x")])
def test_a_perfect_chain_of_another_prediction_samples_what_its_teacher_does(of_teacher, of_student):
    """The conversion at 16 steps, then four ideal halvings: one step gives the teacher's sample of sixteen."""
    teacher = made(of_teacher)
    noise, sampler = KeyedNoise(0, range(4), (1, 4, 4), dtype=torch.float64), Sampler("ddim", DDIM(), GRID)
    whole = sampler.sample(teacher, noise, 16).images
    student = Converted(teacher, HEADS[of_student](time="angle"), 16)
    assert float((sampler.sample(student, noise, 16).images - whole).abs().max()) < 1e-9
    assert float((sampler.sample(ideal(student, GRID, 16, 1), noise, 1).images - whole).abs().max()) < 1e-9


def test_its_steps_are_those_of_the_sampling():
    stage = Stage.own(PROCESS, GRID, 16)
    times = Sampler("ddim", DDIM(), GRID).times(PROCESS, 16)
    assert torch.equal(stage.t.flip(0), times[:-1])
    assert torch.equal(stage.s.flip(0), times[1:])
    assert torch.equal(stage.t, stage.m)
    assert len(stage) == 16


@pytest.mark.parametrize("name", HEADS)
def test_the_loss_is_the_students_own_error(name):
    """The weighted squared difference of the two estimates; the teacher is asked once and stays as it is."""
    student, teacher = made(name, seed=1), made("x", seed=2)
    teacher.network.requires_grad_(False)
    found = method().loss(student, teacher, Denoising(Constant(), UniformTimes()), 10)
    x0, noise = tensors("x0", "noise", n=8)
    index = 2 * torch.arange(8)
    losses = found.losses(student, x0, noise, index)
    losses.mean().backward()
    assert teacher.network.graphs == [False]
    assert all(parameter.grad is not None for parameter in student.network.parameters())
    t = found.stage.t[index]
    u = PROCESS.marginal(t).cast(torch.float64, "cpu").perturb(x0, noise)
    with torch.no_grad():
        ours, theirs = (denoiser(u, denoiser.at(t, torch.float64, "cpu")).data for denoiser in (student, teacher))
    torch.testing.assert_close(losses.detach(), (ours - theirs).square().flatten(1).mean(1), rtol=1e-6, atol=1e-12)
    batch = {"image": x0.tanh(), "position": torch.arange(8)}
    assert float(found(student, batch, 0).detach()) > 0.0


def test_a_conversion_learns():
    """A student of eps comes near to a teacher of x0, though it has none of its weights."""
    teacher, student = made("x", seed=2), made("eps", seed=1)
    loss = method().loss(student, teacher, Denoising(Plain(), UniformTimes()), 200)
    optimiser = torch.optim.Adam(student.network.parameters(), 1e-2)
    found = []
    for step in range(200):
        batch = {"image": tensors("image", n=16)[0].tanh(), "position": 16 * step + torch.arange(16)}
        optimiser.zero_grad()
        value = loss(student, batch, 0)
        value.backward()
        optimiser.step()
        found.append(float(value.detach()))
    assert sum(found[-20:]) < 0.1 * sum(found[:20])


def test_what_a_conversion_says_of_itself():
    conversion, halving = method(), method(student_steps=8, teacher_steps=None)
    assert conversion.converts
    assert not conversion.initialise  # the weights of another prediction are none to start from
    assert conversion.teacher_prediction is None
    assert conversion.told() == "progressive, a conversion at 16 steps"
    assert not halving.converts
    assert halving.initialise
    assert halving.teacher_prediction == "prediction"
    assert method(student_steps=8, teacher_steps=16).converts is False
    plan = Progressive(GRID, 8, convert=5)
    assert plan.plan
    assert plan.teacher_prediction is None
    assert Progressive(GRID, 8).teacher_prediction == "prediction"
    assert plan.told() == "progressive, a conversion at 8 steps, then stages of 4, 2, 1 steps"
    conversion.check(Eps(time="angle"), PROCESS, OBJECTIVE)
    conversion.check_teacher({"distillation": None}, "somewhere")
    conversion.check_teacher({"distillation": {"student_steps": 16}}, "somewhere")
    with pytest.raises(CheckpointError, match="a student of 32 steps; a conversion at 16 needs one of 16, or an undis"):
        conversion.check_teacher({"distillation": {"student_steps": 32}}, "there")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"teacher_steps": 8}, "teacher_steps=8: a student of 16 has a teacher of 32 steps, or converts one of 16"),
        ({"student_steps": None}, "teacher_steps=16: is of one stage; add distillation.student_steps=..."),
        ({"convert": 0}, "distillation.convert=0: a stage is at least one update"),
        ({"convert_lr": 0.0}, "distillation.convert_lr=0.0: must be > 0, or null"),
    ],
)
def test_refused(words, said):
    with pytest.raises(ConfigError) as refused:
        method(**words)
    assert said in str(refused.value)


def test_a_conversion_is_a_training_of_its_own():
    """The length of a plan's conversion is no part of its stages, as that of the other stages is none."""
    stages = [
        {"student_steps": 4},
        {"student_steps": 4, "teacher_steps": 4},
        {"student_steps": 4, "convert": 9, "convert_lr": 1.0},
    ]
    names = [training_fingerprint({"distillation": stage}, "data") for stage in stages]
    assert names[0] != names[1]
    assert names[0] == names[2]
