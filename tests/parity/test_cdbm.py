"""Bridges against the CDBM arrays: schedules, preconditioning, losses, drifts, grids and coefficients of one step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffexp.network.embedding import TimestepFeatures
from diffexp.objective.denoising import Denoising
from diffexp.objective.times import Uniform as UniformTimes
from diffexp.objective.weighting import Plain
from diffexp.prediction.conditions import Conditions
from diffexp.process.bridge import Bridge
from diffexp.process.operator import Scalar
from diffexp.sampler.dbim import DBIM
from diffexp.sampler.noise import TorchNoise
from tests.parity.bridges import (
    FILE,
    at_times,
    conditions_of,
    denoiser_of,
    grid_of,
    head_of,
    per_index,
    process_of,
    unknown,
)
from tests.parity.golden import Member

POINT = "0.5*x0+0.5*y+0.3*z"
COLUMNS = ["s", "t", "eta", "coef_xs", "coef_x0hat", "coef_xT", "coef_noise"]


@pytest.mark.golden(FILE, "sched", "i2sbc", later=unknown)
def test_schedule(case):
    """What is infinitely precise in the bridge's own terms; at t = T the file has the root of a rounding residue."""
    process, t = process_of(case), case.input("t")
    a, b, c = process.abc(t)
    found = {
        "alpha": process.alpha(t),
        "alpha_bar": process.alpha_bar(t),
        "rho": process.rho(t),
        "rho_bar": process.rho_bar2(t).sqrt(),
        "rho_T": process.rho2_end().sqrt(),
        "f": process.reference_drift(t).value,
        "g2": process.noise_rate(t) / per_index(process),
        "a": a,
        "b": b,
        "c": c,
    }
    if "index" in case.outputs:
        found["index"] = process.index(t)
    for role in case.outputs:
        case.check(role, found[role], at_end=t == process.t_max)
    law = process.marginal(t)
    assert torch.equal(torch.stack([law.auxiliary.value, law.signal.value, law.factor.value]), torch.stack([a, b, c]))


@pytest.mark.golden(FILE, "precond", later=unknown)
def test_preconditioning(case):
    process, head, t = process_of(case), head_of(case), case.input("t")
    head.check(process)
    skip, scale, out = head.coefficients(process.marginal(t))
    given = head.input_scale(process, t)
    assert torch.equal(torch.ones_like(t) if given is None else given.value, scale)
    case.check_each(
        c_skip=skip,
        c_in=scale,
        c_out=out,
        c_noise=head.time_input(process, t),
        weight=head.data_weight(process, t),
    )


@pytest.mark.golden(FILE, "loss", later=unknown)
def test_loss(case):
    """The plain objective on the network's own output is the data error with weight 1 / c_out^2."""
    net, t, conditions = denoiser_of(case), case.input("t"), conditions_of(case, case["masked"])
    x0, z = case.input("x0"), case.input("noise")
    law = net.process.marginal(t)
    u = law.perturb(x0, z, conditions.endpoint)
    output = at_times(net, u, t, conditions)
    data = net.form(law).data((u, output, conditions.endpoint))
    weight = net.head.data_weight(net.process, t)
    found = {"xt": u, "F": output, "D": data, "weight": weight}
    for suffix, masked in (("", False), ("_masked", True)):
        if not masked or case["masked"]:
            losses = Denoising(Plain(), UniformTimes(None), masked=masked).losses(net, x0, z, t, conditions)
            found[f"mse{suffix}"], found[f"xs_mse{suffix}"] = losses, losses / weight
    case.check_each(**found)


def _other_grid(case: Member) -> str | None:
    kind = case["grid"]["kind"]
    return None if kind in ("karras", "uniform") else f"grid of kind {kind}"


@pytest.mark.golden(FILE, "grid", later=_other_grid)
def test_grid(case):
    grid, process, n = grid_of(case["grid"])
    times = grid.times(process, n)
    case.check("ts", times[1:] if case["grid"]["kind"] == "uniform" else times)


def _other_point(case: Member) -> str | None:
    return unknown(case) or (None if case["point"] == POINT else f"point {case['point']}")


def parts_of(case: Member) -> tuple[Bridge, Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """(process, times, the point, the prediction's parts there)."""
    net, y = denoiser_of(case), case.input("x_T")
    t = case.input("t").expand(len(y))
    u = 0.5 * case.input("x0") + 0.5 * y + 0.3 * case.input("z")
    return net.process, t, u, (u, at_times(net, u, t, Conditions(endpoint=y)), y)


@pytest.mark.golden(FILE, "drift", later=_other_point)
def test_drifts(case):
    """Once with f and h by themselves, once with the bridge's whole drift; a table's rates are per index."""
    process, t, u, parts = parts_of(case)
    y, rate = parts[2], process.noise_rate(t)
    score = head_of(case).form(process.marginal(t)).score
    pull = process.drift(t).apply(u) + process.auxiliary_drift(t).apply(y)
    state, end = process.h_transform(t)
    h = state.apply(u) + end.apply(y)
    plain = process.reference_drift(t).apply(u) + process.diffusion(t).covariance().apply(h)
    torch.testing.assert_close(pull, plain, rtol=1e-12, atol=0)
    scale = per_index(process)
    half, whole = (score.after(Scalar(share * rate))(parts) for share in (0.5, 1.0))
    case.check_each(ode=(pull - half) / scale, sde=(pull - whole) / scale, g2=rate / scale)


@pytest.mark.golden(FILE, "conv", later=_other_point)
def test_conversions(case):
    process, t, u, parts = parts_of(case)
    form = head_of(case).form(process.marginal(t))
    state, end = process.h_transform(t)
    case.check_each(
        x=u,
        D=form.data(parts),
        eps=form.noise(parts),
        score=form.score(parts),
        h=state.apply(u) + end.apply(parts[2]),
    )


def _other_columns(case: Member) -> str | None:
    return unknown(case) or (None if case["columns"] == COLUMNS else f"columns {case['columns']}")


@pytest.mark.golden(FILE, "coef", later=_other_columns)
def test_coefficients_of_one_step(case):
    assert case["compare"] == "output_columns"
    process, key, given = process_of(case), case.outputs["table"], case["input_columns"]
    table = case.golden.array(key)
    rows = []
    for start, end, eta in torch.from_numpy(table[:, :given]).tolist():
        times = torch.tensor([[start], [end]], dtype=torch.float64)
        step = DBIM(eta).coefficients(process, times[0], times[1])
        rows.append([float(part.value) for part in (step.state, step.data, step.second, step.fresh)])
    got = torch.tensor(rows, dtype=torch.float64)
    case.compare("table", got, table[:, given:])


def _other_numbers(case: Member) -> str | None:
    reasons = {
        f"generator {case['rng']}": case["rng"] != "torch_cpu",
        f"type {case['dtype']}": case["dtype"] != "float32",
    }
    return next((reason for reason, true in reasons.items() if true), None)


@pytest.mark.golden(FILE, "rng", later=_other_numbers)
def test_random_numbers_of_the_official_code(case):
    """An image's numbers are those of its own seed, and a draw that was left out has been made."""
    seeds, order = case.input("seeds").tolist(), case["order"]
    shape = case.golden.array(case.outputs[order[0]]).shape[1:]
    noise = TorchNoise(seeds, shape)
    assert torch.equal(TorchNoise(seeds[-1:], shape).step(len(order) - 1)[0], noise.step(len(order) - 1)[-1])
    for k, role in enumerate(order):
        case.check(role, noise.step(k))


@pytest.mark.golden(FILE, "temb")
def test_embedding_of_time(case):
    for role, width in case["dims"].items():
        case.check(role, TimestepFeatures(width, case["max_period"])(case.input("tau", torch.float32)))
