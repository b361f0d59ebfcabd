"""Consistency functions on bridges against the CDBM arrays: pairs, metrics, r(t), boundaries, the multistep sampler."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from diffexp.distillation.consistency import CBD, CBT, ConsistencyLoss, Pair
from diffexp.distillation.metric import L1, L2, PseudoHuber
from diffexp.distillation.schedule import Constant, Curriculum, Sigmoid
from diffexp.network.metric import Metric
from diffexp.objective.distilled import Distilled
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.consistency import Consistency
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.process.base import Process
from diffexp.process.flow import ode_step
from diffexp.sampler import consistency as multistep
from diffexp.sampler.grid_explicit import Explicit
from diffexp.sampler.noise import slerp
from tests.parity.bridges import FILE, conditions_of, denoiser_of, head_of, network_of, process_of, unknown
from tests.parity.golden import Member
from tests.parity.test_cdbm_orders import flow_of
from tests.parity.test_cdbm_samplers import Listed, Recording

SHIFTS = {"skip_out", "none", "all"}
METRICS: dict[str, tuple[type[Metric] | partial[Metric], str]] = {
    "l2": (L2, "one"),
    "l1": (L1, "one"),
    "huber": (PseudoHuber, "one"),
    "l2w": (L2, "inv_gap"),
}


class Anywhere(Consistency):
    """A consistency function also where its boundary does not hold; the file has those of the official table."""

    def check(self, process: Process) -> None:
        self.head.check(process)


def function_of(case: Member, shift: str, role: str | None = None) -> NetworkDenoiser:
    """The member's consistency function with this shift."""
    head = Anywhere(head_of(case), shift, case["shift_eps"])  # type: ignore[arg-type]
    return NetworkDenoiser(network_of(case, role), head, process_of(case))


def jump(function: NetworkDenoiser, u: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
    """h at states (B, *) and times (B,) or ()."""
    return function(u, function.at(t.expand(len(u)), u.dtype, u.device), conditions).jump


def earlier(words: dict, t: Tensor) -> Tensor:
    """r(t) as the file describes it."""
    if words["kind"] == "const":
        return Constant(words["dt"]).earlier(t, words["floor"], 0, 1)
    return Sigmoid(words["q"], words["K"], words["b"], stages=1).share(t, words["a"]).clamp_min(words["floor"])


def _other_schedule(case: Member) -> str | None:
    kind = case.words.get("r_schedule", {"kind": "const"})["kind"]
    return None if kind in ("const", "sigmoid") else f"r(t) of kind {kind}"


def _other_pair(case: Member) -> str | None:
    odd = {said["shift"] for said in case.words.get("shifts", [])} - SHIFTS
    return unknown(case) or _other_schedule(case) or (f"shift {sorted(odd)}" if odd else None)


@pytest.mark.golden(FILE, "r", later=_other_schedule)
def test_earlier_times(case):
    t = case.input("t")
    if "r_schedule" in case.words:
        said = case["r_schedule"]
        case.repeats("spec", *(said[word] for word in (("dt",) if said["kind"] == "const" else ("q", "a", "K", "b"))))
        case.check("r", earlier(said, t))


@pytest.mark.golden(FILE, "cd", later=_other_pair)
def test_pairs(case):
    """Both times, both estimates of the earlier state, and for each shift the loss with every metric."""
    conditions, t, process = conditions_of(case), case.input("t"), process_of(case)
    case.repeats("eps", case["shift_eps"])
    r = earlier(case["r_schedule"], t)
    pair = Pair(process, case.input("x0"), case.input("noise"), t, r, conditions)
    teacher = denoiser_of(case, "teacher")
    data = teacher(pair.u, teacher.at(t, torch.float64, "cpu"), conditions).data
    methods = {"cbd": CBD(Constant(), L2()), "cbt": CBT(Constant(), L2())}
    found = {name: method.earlier(pair, teacher) for name, method in methods.items()}
    case.check_each(r=r, xt=pair.u, D_teacher=data, xr_cbd=found["cbd"], xr_cbt=found["cbt"])
    assert torch.equal(found["cbd"], ode_step(process, pair.u, t, r, data, conditions.endpoint))
    for said in case["shifts"]:
        for role, got in _losses(case, said["shift"], pair, teacher, found).items():
            if role in said["out"]:
                case.compare(role, got, case.golden.array(said["out"][role]))


def _losses(
    case: Member, shift: str, pair: Pair, teacher: NetworkDenoiser, found: dict[str, Tensor]
) -> dict[str, Tensor]:
    """What the file lists for one shift: jumps, and each metric of them as the training's loss gives it."""
    student, target = (function_of(case, shift, role) for role in ("online", "target"))
    listed = {"h_online": jump(student, pair.u, pair.t, pair.conditions)}
    for name, kind in (("cbd", CBD), ("cbt", CBT)):
        listed[f"h_target_{name}"] = jump(target, found[name], pair.r, pair.conditions)
        for metric, (build, weight) in METRICS.items():
            measure = build(case["huber_c"]) if metric == "huber" else build()  # type: ignore[call-arg]
            method = kind(Constant(), measure, weight, target_ema=0.5)
            loss = method.loss(student, teacher, Distilled(), 1)
            assert isinstance(loss, ConsistencyLoss)
            loss.load_state_dict({"target": target.network.state_dict()})
            listed[f"{metric}_{name}"] = loss.losses(student, pair)
    return listed


def _other_start(case: Member) -> str | None:
    last = case.golden.config["processes"][case["process"]]["T"]
    odd = case["shift"] not in SHIFTS or case["t_start"] != last
    return unknown(case) or (f"shift {case['shift']} from t = {case['t_start']}" if odd else None)


@pytest.mark.golden(FILE, "cms", later=_other_start)
def test_multistep_sampler(case):
    """Jumps and the states between them, in turn."""
    function, taus = function_of(case, case["shift"]), case.input("taus").tolist()
    grid = Explicit([case["t_start"], *taus], t_end=case["shift_eps"])
    sampler = Recording("parity", multistep.Consistency(), grid)
    noise, after = Listed(case.input("noise")[case["noise_index"]]), []
    result = sampler.sample(
        function, noise, sampler.evaluations(1 + len(taus)), conditions_of(case), lambda k, u: after.append(u.clone())
    )
    jumps = sampler.recorder.data
    path = [state for both in zip(jumps[:-1], after[:-1], strict=True) for state in both]
    assert torch.equal(jumps[-1], result.images)
    assert noise.used == list(range(len(taus)))
    case.check_each(path=torch.stack([*path, jumps[-1]]), nfe=np.array(function.evaluations // len(result.images)))


@pytest.mark.golden(FILE, "bound", later=unknown)
def test_boundary(case):
    """At t_min a shifted function hands over its state, bit for bit; an unshifted one does not."""
    process, t, conditions = process_of(case), torch.tensor(case["t"], dtype=torch.float64), conditions_of(case)
    u = process.marginal(t).perturb(case.input("x0"), case.input("noise"), conditions.endpoint)
    found = {f"h_{shift}": jump(function_of(case, shift), u, t, conditions) for shift in sorted(SHIFTS)}
    case.check_each(x=u, **found)
    assert case["t"] == case["shift_eps"]
    for role in case["must_equal_x"]:
        assert torch.equal(found[role], u), role
    for role in case["must_differ_from_x"]:
        assert not torch.equal(found[role], u), role


@pytest.mark.golden(FILE, "slerp")
def test_slerp(case):
    first, second = case.input("noise")[case["noise_index"]]
    case.check("v", slerp(first, second, case["alpha"]))


def _first_order(case: Member) -> str | None:
    return unknown(case) or (None if case["eta"] == 0.0 else f"eta = {case['eta']}")


def _other_curriculum(case: Member) -> str | None:
    return None if case["mode"] == "adaptive_progressive" else f"mode {case['mode']}"


@pytest.mark.golden(FILE, "cm", later=_other_curriculum)
def test_curriculum(case):
    """CM's number of times and decay of the target network."""
    schedule = Curriculum(case["start_scales"], case["end_scales"], case["start_ema"])
    steps, total = case.input("steps").tolist(), case["total_steps"]
    case.check("mu", torch.tensor([schedule.target_decay(step, total) for step in steps], dtype=torch.float64))
    case.check("scales", np.array([schedule.points(step, total) for step in steps]))


@pytest.mark.golden(FILE, "gl", later=_first_order)
def test_local_error(case):
    """One first-order step and then the exact flow: off by the square of the step."""
    flow, y, end, u = flow_of(case), case.input("y"), case.input("tb"), case.input("xa")
    t = case.input("t").expand(len(u))
    oracle = flow.oracle()
    data = oracle(u, oracle.at(t, u.dtype, "cpu"), Conditions(endpoint=y)).data
    exact, stepped, errors = flow.moved(u, t[0], end, y), [], []
    for dt in case.input("dt"):
        stepped.append(ode_step(flow.process, u, t, t - dt, data, y))
        errors.append((flow.moved(stepped[-1], t[0] - dt, end, y) - exact).abs().max())
    found = torch.stack(errors)
    case.check_each(xr=torch.stack(stepped), h_exact=exact, maxerr=found)
    slopes = found.log().diff() / case.input("dt").log().diff()
    assert slopes[-1].item() == pytest.approx(2.0, abs=0.1)
