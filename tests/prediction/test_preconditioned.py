"""Preconditioned heads: unit variances, limits, what the network is shown, and processes that do not fit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.prediction.bridge import DDBM, I2SB
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import X0, Both, Eps, Score, V
from diffexp.prediction.preconditioned import EDM
from diffexp.prediction.wrapper import Clipped, Composited, Guided
from diffexp.process.blurring import Blurring
from diffexp.process.bridge_i2sb import BridgeI2SB, BridgeI2SBDiscrete
from diffexp.process.bridge_schedule import BridgeVE, BridgeVP, Brownian
from diffexp.process.ve import EDM as EDMProcess
from diffexp.process.vp import VP

SHAPE = (2, 3, 3)
X, Y, Z = (random.normal(seed, "test/pre", range(3), SHAPE) for seed in range(3))


def _f64(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


PAIRS = [
    (DDBM(), BridgeVP()),
    (DDBM(sigma_data=0.7, cov=-0.3), BridgeVP()),
    (DDBM(cov=0.125), BridgeVE()),
    (DDBM(cov=0.2), Brownian(0.7)),
    (DDBM(), BridgeI2SB()),
    (EDM(), EDMProcess()),
    (EDM(sigma_data=1.3), VP()),
]
every_pair = pytest.mark.parametrize(("head", "process"), PAIRS, ids=lambda part: part.name)


def inner_times(process) -> Tensor:
    return process.t_max * _f64(1e-4, 0.02, 0.5, 0.9, 1.0)


@every_pair
def test_input_and_target_have_unit_variance_and_the_target_knows_nothing_of_the_input(head, process):
    """In u = b x0 + a y + c e the numbers (x0, y, e) have a known covariance; F's target is linear in them."""
    t = inner_times(process)
    law = process.marginal(t)
    b, c = law.signal.value, law.factor.value
    a = torch.zeros_like(b) if law.auxiliary is None else law.auxiliary.value
    variance, cov = head.sigma_data**2, head.cov
    spread = _f64(variance, cov, 0.0, cov, variance, 0.0, 0.0, 0.0, 1.0).reshape(3, 3)
    skip, scale, out = head.coefficients(law)
    shown = torch.stack([b, a, c], dim=1) * scale[:, None]
    target = (_f64(1.0, 0.0, 0.0) - skip[:, None] * torch.stack([b, a, c], dim=1)) / out[:, None]
    one = torch.ones_like(t)
    torch.testing.assert_close(((shown @ spread) * shown).sum(1), one, rtol=1e-12, atol=0)
    torch.testing.assert_close(((target @ spread) * target).sum(1), one, rtol=1e-9, atol=0)
    torch.testing.assert_close(((target @ spread) * shown).sum(1), 0.0 * one, rtol=0, atol=1e-9)


@every_pair
def test_the_data_error_is_weighed_with_the_inverse_square_of_c_out(head, process):
    t = inner_times(process)[:4]
    out = head.coefficients(process.marginal(t))[2]
    torch.testing.assert_close(head.data_weight(process, t), 1.0 / out.square(), rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("head", "process"),
    [*PAIRS, (I2SB(), BridgeI2SB()), (I2SB(), BridgeI2SBDiscrete()), (I2SB(), BridgeVP())],
    ids=lambda part: part.name,
)
def test_the_right_output_gives_the_data_back(head, process):
    """Also at the end point, where there is no noise."""
    t = process.t_max * _f64(0.01, 0.5, 1.0)
    law = process.marginal(t)
    y = None if law.auxiliary is None else Y
    u = law.perturb(X, Z, y)
    target = head.target(law, X, Z, u)
    parts = (u, target) if y is None else (u, target, y)
    torch.testing.assert_close(head.form(law).data(parts), X, rtol=1e-11, atol=1e-11)


def test_the_ends_of_a_bridge():
    """At the data the state passes unchanged, to the last bit; at the end point the weight is 4 for s = 1/2."""
    skip, scale, out = DDBM(sigma_data=0.7, cov=0.1).coefficients(BridgeVP().marginal(_f64(0.0)))
    assert (float(skip), float(out)) == (1.0, 0.0)
    assert float(scale) == pytest.approx(1.0 / 0.7, rel=1e-15)
    process, end = BridgeVP(), _f64(1.0)
    skip, scale, out = DDBM(cov=0.125).coefficients(process.marginal(end))
    assert [float(value) for value in (skip, scale)] == pytest.approx([0.5, 2.0], rel=1e-14)
    assert float(out) == pytest.approx(math.sqrt(0.25**2 - 0.125**2) / 0.5, rel=1e-14)
    assert float(DDBM().data_weight(process, end)) == pytest.approx(4.0, rel=1e-14)
    early = _f64(1e-6)
    assert float(DDBM().coefficients(process.marginal(early))[2]) == pytest.approx(math.sqrt(0.1e-6), rel=1e-4)


def test_edm_is_the_table_of_karras():
    sigma, data = _f64(0.01, 0.5, 30.0), 0.5
    skip, scale, out = EDM().coefficients(EDMProcess().marginal(sigma))
    whole = sigma.square() + data**2
    torch.testing.assert_close(skip, data**2 / whole, rtol=1e-14, atol=0)
    torch.testing.assert_close(out, sigma * data / whole.sqrt(), rtol=1e-14, atol=0)
    torch.testing.assert_close(scale, 1.0 / whole.sqrt(), rtol=1e-14, atol=0)
    torch.testing.assert_close(EDM().time_input(EDMProcess(), sigma), 0.25 * sigma.log(), rtol=1e-14, atol=0)


def test_what_the_networks_are_told_about_time():
    t = _f64(0.0, 1e-4, 0.37, 1.0)
    told = DDBM().time_input(BridgeVP(), t)
    torch.testing.assert_close(told[1:], 250.0 * t[1:].log(), rtol=1e-12, atol=1e-12)
    assert float(told[0]) == pytest.approx(250.0 * math.log(1e-44), rel=1e-12)
    line = torch.linspace(1e-4, 1.0, 1000, dtype=torch.float64)
    index = torch.round(999.0 * t).long()
    torch.testing.assert_close(I2SB().time_input(BridgeI2SBDiscrete(), t), 1000.0 * line[index], rtol=1e-12, atol=0)
    torch.testing.assert_close(I2SB().time_input(BridgeI2SB(), t), 1000.0 * (1e-4 + (1 - 1e-4) * t), rtol=1e-14, atol=0)


class Echo(nn.Module):
    """Remembers what it is shown; its answer is the first half of it."""

    def forward(self, u, time, labels=None):
        self.shown, self.time = u.clone(), time.clone()
        return u[:, : u.shape[1] // 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_network_sees_the_scaled_state_and_behind_it_the_end_point_as_it_is(dtype):
    process, echo = BridgeVP(), Echo()
    denoiser, t = NetworkDenoiser(echo, DDBM(), process), _f64(0.9, 0.4, 0.1)
    given, u = Conditions(endpoint=Y.to(dtype)), X.to(dtype)
    skip, scale, out = DDBM().coefficients(process.marginal(t))
    for k, point in enumerate(denoiser.prepare(t, dtype, "cpu")):
        data = denoiser(u, point, given).data
        torch.testing.assert_close(echo.shown, torch.cat([u * float(scale[k]), Y.to(dtype)], dim=1))
        assert float(echo.time) == pytest.approx(float(250.0 * t[k].log()), rel=1e-6)
        torch.testing.assert_close(data, u * float(skip[k] + out[k] * scale[k]))
    each = denoiser(u, denoiser.at(t, dtype, "cpu"), given)
    scaled = X * scale.reshape(-1, 1, 1, 1)
    torch.testing.assert_close(echo.shown, torch.cat([scaled, Y], dim=1).to(dtype))
    assert each.data.dtype == dtype
    assert denoiser.head.condition_channels(3) == 3


def test_a_missing_end_point_is_named():
    denoiser = NetworkDenoiser(Echo(), DDBM(), BridgeVP())
    (point,) = denoiser.prepare(_f64(0.5), torch.float64, "cpu")
    with pytest.raises(ValueError, match=r"give conditions\.endpoint"):
        denoiser(X, point)
    with pytest.raises(ValueError, match="no condition image"):
        denoiser(X, point, Conditions(endpoint=Y, image=X))


def test_data_outside_the_mask_are_those_of_the_end_point():
    """To the last bit; clipping comes first, and the noise is that of the new data."""
    process = BridgeVP()
    inner = NetworkDenoiser(Echo(), DDBM(), process)
    mask = (random.uniform(0, "test/mask", range(27)) > 0.5).to(torch.float64).reshape(3, 1, 3, 3)
    given = Conditions(endpoint=Y, mask=mask)
    (point,) = inner.prepare(_f64(0.5), torch.float64, "cpu")
    raw = inner(3.0 * X, point, given).data
    changed = Composited(Clipped(inner))
    (point,) = changed.prepare(_f64(0.5), torch.float64, "cpu")
    found = changed(3.0 * X, point, given)
    wanted = torch.where(mask == 1.0, raw.clamp(-1.0, 1.0), Y)
    assert torch.equal(found.data, wanted)
    assert bool((raw.abs() > 1.0).any())
    again = process.marginal(_f64(0.5)[0]).perturb(found.data, found.noise, Y)
    torch.testing.assert_close(again, 3.0 * X, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="needs a mask"):
        changed(X, point, Conditions(endpoint=Y))


def test_guidance_on_a_bridge():
    """The conditions are doubled with the states; of equal answers the guided one is the same."""
    inner = NetworkDenoiser(Echo(), DDBM(), BridgeVP(), unconditional=True)
    given = Conditions(labels=torch.zeros(3, dtype=torch.int64), endpoint=Y)
    guided = Guided(inner, 3.0)
    (point,) = guided.prepare(_f64(0.5), torch.float64, "cpu")
    (plain,) = inner.prepare(_f64(0.5), torch.float64, "cpu")
    torch.testing.assert_close(guided(X, point, given).data, inner(X, plain, given).data, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Eps().check(BridgeVP()),
            "prediction=eps: its network is not shown the end point of process bridge_vp",
        ),
        (lambda: Score().check(BridgeVE()), "not shown the end point"),
        (lambda: X0().check(Brownian()), "not shown the end point"),
        (lambda: V().check(BridgeVP()), "not shown the end point"),
        (lambda: Both().check(BridgeVP()), "not shown the end point"),
        (lambda: EDM().check(BridgeVP()), "not shown the end point"),
        (lambda: DDBM().check(VP()), "prediction=ddbm needs a bridge, and vp is none"),
        (lambda: I2SB().check(VP()), "prediction=i2sb needs a bridge, and vp is none"),
        (lambda: EDM().check(Blurring(VP(), 0.5, 0.1).on((1, 4, 4))), "are no numbers: use eps"),
        (lambda: DDBM(sigma_data=0.0), r"prediction\.sigma_data=0.0: must be > 0"),
        (lambda: DDBM(cov=0.25), r"prediction\.cov=0.25: must be smaller than sigma_data\^2 = 0.25"),
    ],
)
def test_misfits_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
