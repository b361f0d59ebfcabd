"""Bridge samplers against the CDBM arrays: DBIM of every eta and order, DDBM's hybrid, whole runs, float32 inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.denoiser import Denoiser, Parts, Point
from diffexp.prediction.wrapper import Wrapper
from diffexp.process.base import Process
from diffexp.sampler.dbim import DBIM
from diffexp.sampler.ddbm_heun import DDBMHeun
from diffexp.sampler.grid import Grid
from diffexp.sampler.grid_bridge import BridgeKarras, Leaving
from diffexp.sampler.loop import Sampler
from diffexp.sampler.stepper import Stepper
from tests.parity.bridges import FILE, conditions_of, denoiser_of, unknown
from tests.parity.golden import Member

SAMPLERS = {"heun", "orig_heun", "dbim", "ho"}
GRIDS = {"uniform", "karras"}


class Recorder(Wrapper):
    """Remembers the states that it is asked about, and the data that it answers with."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__(inner)
        self.states: list[Tensor] = []
        self.data: list[Tensor] = []

    def prepare(self, t: Tensor, dtype: torch.dtype, device: torch.device | str) -> list[Point]:
        return self.inner.prepare(t, dtype, device)

    def parts(self, u: Tensor, point: Point, conditions: Conditions = NO_CONDITIONS) -> Parts:
        found = self.inner.parts(u, point, conditions)
        self.states.append(u.clone())
        self.data.append(point.data(found).clone())
        return found


class Recording(Sampler):
    """A sampler that records what its clipped and masked denoiser says."""

    recorder: Recorder

    def _wrap(self, denoiser: Denoiser) -> Denoiser:
        self.recorder = Recorder(super()._wrap(denoiser))
        return self.recorder


class Short(DBIM):
    """Also with fewer steps than its order, which are then of lower order."""

    min_steps = 2  # type: ignore[assignment]


class Listed:
    """Noise from a list; it notes what was asked for."""

    def __init__(self, tensors: Tensor) -> None:
        self.tensors = tensors
        self.used: list[int] = []

    def initial(self) -> Tensor:
        raise AssertionError("a bridge starts from its end point")

    def step(self, k: int) -> Tensor:
        self.used.append(k)
        return self.tensors[k]


class Rounded(Grid):
    """The times of another grid as float32 has them; `shown`: those that the file lists, to a last digit."""

    name = "rounded"

    def __init__(self, inner: Grid, shown: Tensor | None) -> None:
        super().__init__()
        self.inner = inner
        self.shown = shown

    def times(self, process: Process, n: int) -> Tensor:
        own = self.inner.times(process, n)
        own = torch.where(own == process.t_max, own, own.float().double())  # the end point's time is exact
        if self.shown is None:
            return own
        # Close to the end point, a last digit of the time is many of the noise that is left.
        torch.testing.assert_close(self.shown, own[-len(self.shown) :], rtol=0, atol=1e-6 * float(own.max()))
        return torch.cat([own[: -len(self.shown)], self.shown])  # the file's times begin behind the end point

    _times = times  # type: ignore[assignment]


def _unknown(case: Member) -> str | None:
    kind = case.golden.config["processes"][case["process"]]["kind"]
    reasons = {
        f"sampler {case['sampler']}": case["sampler"] not in SAMPLERS,
        f"grid of kind {case['grid']['kind']}": case["grid"]["kind"] not in GRIDS,
        f"no guidance on a process of kind {kind}": case["sampler"] == "orig_heun" and kind not in case["drift"],
        f"inputs of type {case.words.get('input_dtype')}": case.words.get("input_dtype", "float32") != "float32",
    }
    return unknown(case) or next((reason for reason, true in reasons.items() if true), None)


def stepper_of(case: Member) -> Stepper:
    if case["sampler"] == "dbim":
        return DBIM(case["eta"])
    if case["sampler"] == "ho":
        return Short(order=case["order"], lower_order_final=case["lower_order_final"])
    return DDBMHeun(case["churn"], case["guidance"])


def sampler_of(case: Member, process: Process) -> tuple[Recording, int]:
    """(sampler, its steps) with the grid that the file describes; `process` is told its first time of training."""
    said, n = case["grid"], case["grid"]["n"]
    assert n == case["steps"]
    process.t_min, gamma = said["t_min"], process.t_max - said["t_max"]
    grid = Leaving(gamma) if said["kind"] == "uniform" else BridgeKarras(said["rho"], gamma)
    if "input_dtype" in case.words:
        shown = case.golden.tensor(case.outputs["ts"]) if "ts" in case.outputs else None
        grid = Rounded(grid, shown)
    sampler = Recording("parity", stepper_of(case), grid, clip=case["clip"], mask=case["mask"])
    return sampler, n + 1 if said["kind"] == "uniform" else n


def path_of(case: Member, recorder: Recorder, after: list[Tensor]) -> tuple[Tensor, Tensor]:
    """States and matching estimates as the file lists them: the hybrid sampler has two parts in each interval."""
    if case["sampler"] in ("dbim", "ho"):
        return torch.stack(after), torch.stack(recorder.data)
    calls = 3 if case["churn"] else 2
    path, data = [], []
    for k, state in enumerate(after):
        if case["churn"]:  # the second call of an interval is about the state behind the step with noise
            path.append(recorder.states[calls * k + 1])
            data.append(recorder.data[calls * k])
        path.append(state)
        data.append(recorder.data[min(calls * (k + 1), len(recorder.data)) - 1])
    return torch.stack(path), torch.stack(data)


@pytest.mark.golden(FILE, "samp", "pipe", "orig", "f32", later=_unknown)
def test_samples(case):
    """Samples, states on the way, estimates, evaluations and times."""
    single = torch.float32 if "input_dtype" in case.words else torch.float64
    net = denoiser_of(case)
    given = conditions_of(case, case["mask"], single).map(lambda value: value.double())
    bank = case.input("noise", single).double()
    noise = Listed(bank[case["noise_index"]])
    sampler, n = sampler_of(case, net.process)
    after: list[Tensor] = []
    nfe = sampler.evaluations(n)
    result = sampler.sample(net, noise, nfe, given, lambda k, u: after.append(u.clone()))
    images = result.images.clamp(-1.0, 1.0) if case["clamp_result"] else result.images
    times = sampler.times(net.process, nfe)
    path, data = path_of(case, sampler.recorder, after)
    # The official DBIM also takes a tensor where the step has no use for it; ours belongs to the step and is not drawn.
    belonging = sampler.stepper.draws * n if case["sampler"] == "dbim" else len(noise.used)
    shown = times[1:] if case["grid"]["kind"] == "uniform" else times
    case.check_each(
        x=images,
        nfe=np.array(net.evaluations // len(images)),
        nnoise=np.array(belonging),
        ts=shown,
        path=path,
        predx0=data,
        outdtype=np.array(str(images.dtype)),
    )
