"""Consistency functions: exact at t_min for any network, and refused where they could not be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.prediction.bridge import DDBM, I2SB
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.consistency import Consistency
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import X0, Both, Eps, Head, V
from diffexp.prediction.preconditioned import EDM as EDMHead
from diffexp.process.base import Process
from diffexp.process.bridge_i2sb import BridgeI2SB, BridgeI2SBDiscrete
from diffexp.process.bridge_schedule import BridgeVE, BridgeVP, Brownian
from diffexp.process.cosine import Cosine
from diffexp.process.ddpm import DDPM
from diffexp.process.ve import EDM, VE
from diffexp.process.vp import VP

EXACT: list[tuple[Process, Head, float | None]] = [
    (BridgeVP(), DDBM(), None),
    (BridgeVP(0.3, 5.0, 1e-3), DDBM(cov=0.2), None),
    (BridgeVE(), DDBM(cov=-0.1), None),
    (Brownian(), DDBM(), 0.01),
    (BridgeI2SB(), I2SB(), None),
    (BridgeI2SB(), DDBM(), None),
    (VP(), V(), 1e-3),
    (VP(), Eps(), 1e-3),
    (VP(), Both(), 1e-3),
    (Cosine(1000.0, -20.0), V(), 1e-3),
    (EDM(), EDMHead(), 0.002),
]
IDS = [f"{process.name}-{head.name}" for process, head, _ in EXACT]


class Loud(nn.Module):
    """Large numbers that depend on all that it is shown and told."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, shown: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        wave = torch.cos(time.to(shown.dtype)).reshape(-1, 1, 1, 1) * shown.sum(1, keepdim=True)
        return (1.0e3 + 100.0 * wave).expand(-1, self.outputs, -1, -1)


TOLD = [(*case, shift) for case in EXACT for shift in ("skip_out", "all") if (case[1].name, shift) != ("edm", "all")]


def function(process: Process, head: Head, t_min: float | None, shift: str) -> NetworkDenoiser:
    return NetworkDenoiser(Loud(head.outputs), Consistency(head, shift, t_min), process)  # type: ignore[arg-type]


def states(process: Process, t: Tensor, dtype: torch.dtype) -> tuple[Tensor, Conditions]:
    x0, z, y = (random.normal(0, f"test/{name}", range(3), (1, 4, 4)).to(dtype) for name in ("x0", "z", "y"))
    u = process.marginal(t).cast(dtype, "cpu").perturb(x0, z, y)
    return u, Conditions(endpoint=y) if process.endpoint else NO_CONDITIONS


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("process", "head", "t_min", "shift"), TOLD)
def test_the_end_is_handed_over_unchanged(process, head, t_min, shift, dtype):
    """Bit for bit, whatever the network says; without a shift it is not."""
    whole = function(process, head, t_min, shift)
    end = torch.tensor([whole.head.end(process)], dtype=torch.float64)
    u, conditions = states(process, end, dtype)
    assert torch.equal(whole(u, whole.prepare(end, dtype, "cpu")[0], conditions).jump, u)
    assert torch.equal(whole(u, whole.at(end.expand(3), dtype, "cpu"), conditions).jump, u)
    plain = function(process, head, t_min, "none")
    assert not torch.equal(plain(u, plain.prepare(end, dtype, "cpu")[0], conditions).jump, u)


@pytest.mark.parametrize(("process", "head", "t_min"), EXACT, ids=IDS)
def test_what_is_shifted(process, head, t_min):
    """The outer coefficients are those of the data at t - t_min; with "all" the network's inputs are too."""
    t = torch.tensor([0.3, 0.7, 0.999], dtype=torch.float64) * process.t_max
    u, conditions = states(process, t, torch.float64)
    for shift in ("skip_out", "none", *(("all",) if head.name != "edm" else ())):
        whole = function(process, head, t_min, shift)
        earlier = t - whole.head.end(process)
        outer, shown = (t if shift == "none" else earlier), (earlier if shift == "all" else t)
        inner = NetworkDenoiser(whole.network, head, process)
        output = inner.output(u, head.time_input(process, shown), conditions, head.input_scale(process, shown))
        parts = (u, *head.split(output), *([conditions.endpoint] if process.endpoint else []))
        wanted = head.form(process.marginal(outer)).data(parts)
        torch.testing.assert_close(whole(u, whole.at(t, u.dtype, "cpu"), conditions).jump, wanted, rtol=1e-12, atol=0)


def test_only_jumps_are_given():
    whole = function(BridgeVP(), DDBM(), None, "skip_out")
    assert whole.gives == {"jump"}
    t = torch.tensor([0.5], dtype=torch.float64)
    u, conditions = states(BridgeVP(), t, torch.float64)
    said = whole(u, whole.prepare(t, u.dtype, "cpu")[0], conditions)
    with pytest.raises(ValueError, match="empty"):
        said.noise  # noqa: B018
    for asked in (lambda: whole.head.data_weight(BridgeVP(), t), lambda: whole.head.target(None, u, u, u)):
        with pytest.raises(ConfigError, match="distillation=cbt or cbd"):
            asked()


@pytest.mark.parametrize(
    ("process", "head", "t_min", "named"),
    [
        (BridgeI2SBDiscrete(), I2SB(), None, "i2sb_discrete has noise at the data.*the continuous process=i2sb"),
        (BridgeI2SBDiscrete(), DDBM(), None, "the continuous process=i2sb"),
        (DDPM(), Eps(), 1.0, "ddpm has noise at the data or counts its times.*process=vp"),
        (VE(), Eps(), 0.1, "process=edm"),
        (Cosine(), V(), 0.1, "process.logsnr_max=1000"),
        (VP(), X0(), 1e-3, "x0 on process vp does not hand over"),
        (VP(), V(), None, "prediction.t_min: process vp has none"),
        (VP(), V(), 1.0, r"prediction.t_min=1.0: must lie in \(0, 1\)"),
        (BridgeVP(), DDBM(), 0.0, r"prediction.t_min=0.0: must lie in \(0, 1\)"),
        (BridgeVP(), V(), None, "not shown the end point"),
        (VP(), DDBM(), 1e-3, "needs a bridge"),
    ],
)
def test_refused(process, head, t_min, named):
    with pytest.raises(ConfigError, match=named):
        Consistency(head, t_min=t_min).check(process)


def test_a_network_is_not_told_infinities():
    for process, head, t_min in ((EDM(), EDMHead(), 0.002), (VP(), V("log_snr"), 1e-3)):
        with pytest.raises(ConfigError, match="boundary_shift=all: at t_min the network would be told an infinite"):
            Consistency(head, "all", t_min).check(process)


def test_without_a_shift_any_process_will_do_for_sampling():
    """As the official table was sampled from; training with it is refused by the distillation."""
    Consistency(I2SB(), "none").check(BridgeI2SBDiscrete())
    assert not Consistency(I2SB(), "none").exact(BridgeI2SBDiscrete())
