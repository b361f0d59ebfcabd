"""The consistency loss: what it compares, whose gradient flows, dropout, the target network, masks, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.distillation.consistency import CBD, CBT, ConsistencyLoss, Pair
from diffexp.distillation.metric import L2
from diffexp.distillation.schedule import Constant, Curriculum
from diffexp.objective.denoising import Denoising
from diffexp.objective.distilled import Distilled
from diffexp.objective.times import Uniform
from diffexp.objective.weighting import Plain
from diffexp.prediction.bridge import DDBM, I2SB
from diffexp.prediction.conditions import NO_CONDITIONS
from diffexp.prediction.consistency import Consistency
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import V
from diffexp.prediction.langevin import PhaseEps
from diffexp.prediction.preconditioned import EDM as EDMHead
from diffexp.process.bridge_i2sb import BridgeI2SB, BridgeI2SBDiscrete
from diffexp.process.bridge_schedule import BridgeVE, BridgeVP, Brownian
from diffexp.process.cld import CLD
from diffexp.process.cosine import Cosine
from diffexp.process.ve import EDM
from diffexp.process.vp import VP
from tests.distillation.standin import Small, given, tensors

DISTILLED = Distilled()
CASES = {
    "bridge_vp": (BridgeVP(), Consistency(DDBM())),
    "bridge_ve": (BridgeVE(), Consistency(DDBM())),
    "brownian": (Brownian(), Consistency(DDBM())),
    "i2sb": (BridgeI2SB(), Consistency(I2SB())),
    "vp": (VP(), Consistency(V(), t_min=1e-3)),
    "cosine": (Cosine(1000.0), Consistency(V(), t_min=1e-3)),
    "edm": (EDM(), Consistency(EDMHead(), t_min=2e-3)),
}


def student_of(name: str, dropout: float = 0.0, seed: int = 0) -> NetworkDenoiser:
    process, head = CASES[name]
    return NetworkDenoiser(Small(2 if process.endpoint else 1, 1, dropout, seed=seed).double(), head, process)


def teacher_of(name: str) -> NetworkDenoiser:
    process, head = CASES[name]
    return NetworkDenoiser(student_of(name, seed=1).network.eval().requires_grad_(False), head.head, process)


def pair_of(name: str, masked: bool = False, t: Tensor | None = None, r: Tensor | None = None) -> Pair:
    process, _ = CASES[name]
    x0, noise = tensors("x0", "noise")
    share = torch.tensor([0.1, 0.4, 0.7, 0.99], dtype=torch.float64)
    t = process.t_max * share if t is None else t
    conditions = given(mask=masked) if process.endpoint else NO_CONDITIONS
    return Pair(process, x0.tanh(), noise, t, 0.8 * t if r is None else r, conditions, masked)


def loss_of(name: str, method: CBD | CBT, student: NetworkDenoiser) -> ConsistencyLoss:
    method.check(student.head, student.process, DISTILLED)
    loss = method.loss(student, teacher_of(name), DISTILLED, 100)
    assert isinstance(loss, ConsistencyLoss)
    return loss


@pytest.mark.parametrize("name", CASES)
def test_the_training_step_is_the_teachers_with_the_data_in_its_place(name):
    """CBT is CBD with the true data for the teacher's estimate: an identity, to rounding."""
    pair = pair_of(name)

    class Knowing(NetworkDenoiser):
        def __call__(self, u, point, conditions=NO_CONDITIONS):
            return type("Truth", (), {"data": pair.x0})

    teacher = teacher_of(name)
    knowing = Knowing(teacher.network, teacher.head, teacher.process)
    first = CBD(Constant(), L2()).earlier(pair, knowing)
    torch.testing.assert_close(first, CBT(Constant(), L2()).earlier(pair, None), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_at_the_end_the_target_is_the_state_itself(name):
    """r = t_min: the jump from there is no network's, so that the loss is that of denoising."""
    process, head = CASES[name]
    t = torch.full((4,), 0.5 * process.t_max, dtype=torch.float64)
    pair = pair_of(name, t=t, r=torch.full_like(t, head.end(process)))
    student = student_of(name)
    loss = loss_of(name, CBT(Constant(), L2()), student).losses(student, pair)
    wanted = CBT(Constant(), L2()).earlier(pair, None)
    jump = student(pair.u, student.at(t, torch.float64, "cpu"), pair.conditions).jump
    torch.testing.assert_close(loss, (jump - wanted).square().flatten(1).mean(1), rtol=1e-13, atol=0)


@pytest.mark.parametrize("kind", [CBD, CBT])
@pytest.mark.parametrize("name", ["bridge_vp", "vp"])
def test_the_gradient_flows_through_the_later_jump_alone(name, kind):
    """As if the target were a constant; the teacher is asked without a graph and gets no gradient."""
    student = student_of(name)
    loss = loss_of(name, kind(Constant(), L2(), "inv_gap"), student)
    pair = pair_of(name)
    loss.losses(student, pair).sum().backward()
    found = [parameter.grad.clone() for parameter in student.network.parameters()]
    with torch.no_grad():
        earlier = loss.method.earlier(pair, loss.teacher)
        wanted = student(earlier, student.at(pair.r, torch.float64, "cpu"), pair.conditions).jump
    student.network.zero_grad()
    jump = student(pair.u, student.at(pair.t, torch.float64, "cpu"), pair.conditions).jump
    ((jump - wanted).square().flatten(1).mean(1) / (pair.t - pair.r)).sum().backward()
    for own, other in zip(found, student.network.parameters(), strict=True):
        torch.testing.assert_close(own, other.grad, rtol=1e-12, atol=1e-14)
    if loss.teacher is not None:
        assert loss.teacher.network.graphs == [False] * len(loss.teacher.network.graphs) != []


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("kind", [CBD, CBT])
def test_both_passes_have_the_same_dropout_mask(share, kind):
    """With r so close to t that nothing but the mask could tell the jumps apart; the teacher draws nothing."""
    student = student_of("bridge_vp", dropout=0.5)
    loss = loss_of("bridge_vp", kind(Constant(), L2(), share_dropout=share), student)
    t = torch.full((4,), 0.5, dtype=torch.float64)
    torch.manual_seed(0)
    found = loss.losses(student, pair_of("bridge_vp", t=t, r=t - 1e-9)).max()
    assert (float(found.detach()) < 1e-12) == share


def test_the_target_network_is_an_average_of_the_student():
    student = student_of("bridge_vp")
    loss = loss_of("bridge_vp", CBT(Constant(), L2(), target_ema=0.75), student)
    (target,) = loss.networks()
    before = [parameter.clone() for parameter in target.parameters()]
    loss.begin_step(0)
    with torch.no_grad():
        for parameter in student.network.parameters():
            parameter.add_(1.0)
    loss.end_step()
    for old, new in zip(before, target.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25)
        assert not new.requires_grad
    other = loss_of("bridge_vp", CBT(Constant(), L2(), target_ema=0.75), student)
    other.load_state_dict(loss.state_dict())
    pair = pair_of("bridge_vp")
    assert torch.equal(other.losses(student, pair), loss.losses(student, pair))
    fresh = loss_of("bridge_vp", CBT(Constant(), L2()), student)
    assert fresh.networks() == []
    assert fresh.state_dict() == {}
    assert not torch.equal(fresh.losses(student, pair), loss.losses(student, pair))


def test_a_curriculum_says_how_slow_the_target_is():
    student = student_of("edm")
    loss = loss_of("edm", CBT(Curriculum(end_scales=10, start_decay=0.9), L2()), student)
    (target,) = loss.networks()
    loss.begin_step(100)  # N = 11
    with torch.no_grad():
        for parameter in student.network.parameters():
            parameter.zero_()
    before = [parameter.clone() for parameter in target.parameters()]
    loss.end_step()
    for old, new in zip(before, target.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 ** (2 / 10) * old)


@pytest.mark.parametrize("kind", [CBD, CBT])
def test_masked_losses_look_into_the_hole_alone(kind):
    """What the student says outside of the hole changes nothing; inside it does."""
    student = student_of("bridge_vp")
    loss, pair = loss_of("bridge_vp", kind(Constant(), L2()), student), pair_of("bridge_vp", masked=True)
    jump = student(pair.u, student.at(pair.t, torch.float64, "cpu"), pair.conditions).jump
    with torch.no_grad():
        earlier = loss.method.earlier(pair, loss.teacher)
        wanted = student(earlier, student.at(pair.r, torch.float64, "cpu"), pair.conditions).jump
    square = ((jump - wanted) * pair.conditions.mask).square()
    torch.testing.assert_close(loss.losses(student, pair), square.flatten(1).mean(1), rtol=1e-12, atol=0)
    if kind is CBD:  # the step knows what is known: outside of the hole it is that of the end point as data
        y = pair.conditions.endpoint
        plain = CBT(Constant(), L2()).earlier(Pair(pair.process, y, pair.noise, pair.t, pair.r, pair.conditions), None)
        known = Pair(pair.process, y, pair.noise, pair.t, pair.r, pair.conditions, masked=True)
        outside = pair.conditions.mask.expand_as(y) == 0.0
        torch.testing.assert_close(loss.method.earlier(known, loss.teacher)[outside], plain[outside])


def test_a_batch_gives_the_same_loss_whoever_else_is_in_it():
    """Times and noise belong to the image's position; `reduce=sum` counts the pixels."""
    student = student_of("bridge_vp")
    (x0,) = tensors("x0")
    batch = {"image": x0.tanh(), "position": torch.arange(10, 14), "endpoint": given().endpoint}
    loss = loss_of("bridge_vp", CBT(Constant(), L2()), student)
    whole = loss(student, batch, 3)
    halves = [loss(student, {name: value[part] for name, value in batch.items()}, 3) for part in ([0, 1], [2, 3])]
    torch.testing.assert_close(whole, torch.stack(halves).mean())
    summed = CBT(Constant(), L2()).loss(student, None, Distilled(reduce="sum"), 100)
    torch.testing.assert_close(summed(student, batch, 3), 16.0 * whole)


def _check(method, head, process, objective=DISTILLED):
    head.check(process)
    method.check(head, process, objective)


def _cbt(**options):
    return CBT(Constant(), L2(), **options)


@pytest.mark.parametrize(
    ("refused", "named"),
    [
        (lambda: _check(_cbt(), DDBM(), BridgeVP()), "prediction=consistency"),
        (lambda: _check(_cbt(), CASES["vp"][1], VP(), Denoising(Plain(), Uniform())), "objective=distilled"),
        (lambda: _check(_cbt(), Consistency(DDBM(), "none"), BridgeVP()), "boundary_shift=none.*use skip_out"),
        (lambda: _check(_cbt(), Consistency(I2SB(), "none"), BridgeI2SBDiscrete()), "boundary_shift=none"),
        (lambda: _check(_cbt(), Consistency(I2SB()), BridgeI2SBDiscrete()), "the continuous process=i2sb"),
        (lambda: _check(_cbt(gamma=1.0), CASES["vp"][1], VP()), "distillation.gamma=1"),
        (lambda: _check(_cbt(), Consistency(PhaseEps(), t_min=1e-3), CLD()), "cld has noise at the data"),
        (lambda: _cbt(gamma=-1.0), "gamma=-1"),
        (lambda: _cbt(target_ema=1.0), "target_ema=1"),
        (lambda: CBT(Curriculum(), L2(), target_ema=0.5), "start_decay=null"),
        (lambda: loss_of("vp", _cbt(), student_of("vp")).losses(
            student_of("vp"), pair_of("vp", r=torch.full((4,), 0.4, dtype=torch.float64))
        ), "r=0.4 is not before t=0.1"),
        (lambda: loss_of("vp", _cbt(), student_of("vp")).losses(student_of("vp"), Pair(
            **{**vars(pair_of("vp")), "masked": True})), "the data set has no masks"),
    ],
)  # fmt: skip
def test_refused(refused, named):
    with pytest.raises(ConfigError, match=named):
        refused()
