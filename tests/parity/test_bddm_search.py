"""Noise scheduling and the whole schedule search against BDDM's released code: betas, calls, buckets, evaluations."""

from __future__ import annotations

from itertools import cycle

import pytest
import torch
from torch import Tensor, nn

from diffexp.distillation.bilateral.scheduling import Mode, Start, draw, noise_schedule, smallest_beta
from diffexp.distillation.bilateral.score import Score
from diffexp.distillation.bilateral.search import Assessment, search, starts
from diffexp.network.schedule.base import ScheduleNetwork
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import Eps
from diffexp.process.table import Table
from diffexp.sampler.noise import FixedNoise
from tests.parity.bilateral import Noise, sigma, table
from tests.parity.golden import Member

FILE = "bddm"


class Energy(ScheduleNetwork):
    """The ratio sigmoid(w0 + w1 mean(x^2)) of two numbers, or one number itself."""

    def __init__(self, said: dict) -> None:
        super().__init__()
        numbers = torch.tensor(said["params"], dtype=torch.float64)
        energetic = said["type"] == "sigmoid_energy"
        self.weights = nn.Parameter(numbers if energetic else torch.cat([torch.logit(numbers), torch.zeros(1)]))

    def _logit(self, x: Tensor) -> Tensor:
        return self.weights[0] + self.weights[1] * x.square().flatten(1).mean(1)


def parts(case: Member) -> tuple[Score, Energy]:
    """The member's denoiser, which is told the table's index, and its schedule network."""
    process = table(case.golden, case["table"])
    net = Noise(case.golden.config["nets"][case["net"]], process)
    return Score(NetworkDenoiser(net, Eps("index"), process)), Energy(case["ratio"])


def _unknown(case: Member) -> str | None:
    kinds = case["ratio"]["type"], case.words.get("sampler", "ddpm")
    known = {"constant", "sigmoid_energy"}, {"ddpm", "ddim"}
    return next((f"unknown {kind}" for kind, names in zip(kinds, known, strict=True) if kind not in names), None)


def check_repetitions(case: Member) -> None:
    """Inputs that say again what `config` says."""
    case.repeats("table", case["table"])
    case.repeats("net", case["net"])
    case.repeats("ratio_params", *case["ratio"]["params"])


@pytest.mark.golden(FILE, "noise_scheduling", later=_unknown)
def test_noise_scheduling(case):
    check_repetitions(case)
    case.repeats("cfg", case["alpha_N"], case["beta_N"], case["max_steps"], case["sampler"] == "ddim")
    (score, network), start, calls = parts(case), Start(case["alpha_N"], case["beta_N"]), []
    noise, training = case.input("noise"), score.denoiser.process
    start.check()
    assert smallest_beta(training) == pytest.approx(case["floor"], rel=1e-12)

    def run(noise: Tensor, *calls: list) -> Tensor:
        note = (lambda x, t: calls[0].append((x, training.index(t)))) if calls else None
        source = FixedNoise(noise[0], noise[1:])
        settings = case["max_steps"], case["floor"], case["sampler"]
        return noise_schedule(score, network, source, start, *settings, on_call=note)

    betas = run(noise, calls)
    found = Table(betas)
    states, told = zip(*calls, strict=True)
    case.check_each(
        beta=betas,
        alpha=found.alphas,
        sigma=sigma(found),
        ts=training.index(training.time_of(found.alphas)),
        steps=len(betas),
        eval_x=torch.stack(states),
        eval_ts=torch.cat(told),
        beta_f32=run(noise.float()),
    )


@pytest.mark.golden(FILE, "noise_scheduling_v1", later=_unknown)
def test_noise_scheduling_of_the_first_version(case):
    check_repetitions(case)
    ddim = case["sampler"] == "ddim"
    case.repeats("cfg", case["alpha_N"], case["beta_N"], case["max_steps"], ddim, case["floor"])
    score, network = parts(case)
    start, settings = Start(case["alpha_N"], case["beta_N"]), (case["max_steps"], case["floor"], case["sampler"])
    case.check("beta", noise_schedule(score, network, FixedNoise(case.input("noise")), start, *settings, fresh=False))


@pytest.mark.golden(FILE, "grid")
def test_grid_of_starts(case):
    case.repeats("bins", case["bins"])
    case.repeats("table", case["table"])
    found = starts(table(case.golden, case["table"]), case["bins"])
    case.check("pairs", torch.tensor([[start.alpha, start.beta] for start in found], dtype=torch.float64))


@pytest.mark.golden(FILE, "search", later=_unknown)
def test_search(case):
    """Every draw of noise is the same array; both schedules of a start are sampled with DDPM's steps."""
    check_repetitions(case)
    case.repeats("cfg", case["max_steps"], case["bins"], case["attempts"])
    (score, network), reference = parts(case), case.input("ref")
    noise = FixedNoise(case.input("noise"), [case.input("noise")] * case["max_steps"])
    uniform, log = cycle(case["constants"]["uniform_cycle"]), []

    def make(start: Start, mode: Mode) -> Tensor:
        return noise_schedule(score, network, noise, start, case["max_steps"], case["floor"], mode)

    def judge(betas: Tensor) -> tuple[float, float]:
        off = draw(score.denoiser, betas, noise) - reference
        return -float(off.square().mean()), -float(off.abs().mean())

    def note(found: Assessment) -> None:
        log.append([found.start.alpha, found.start.beta, *found.scores])

    grid = starts(score.denoiser.process, case["bins"])
    shares = lambda steps, attempt: (next(uniform), next(uniform))  # noqa: E731
    buckets = search(grid, make, judge, case["attempts"], shares, rounded=True, on_assessed=note)
    held = [buckets.best[steps] for steps in sorted(buckets.best)]
    scores = torch.tensor([found.scores for found in held], dtype=torch.float64)
    case.check_each(
        assess_log=torch.tensor(log, dtype=torch.float64),
        steps=torch.tensor([found.steps for found in held]),
        key=[found.key for found in held],
        score1=scores[:, 0],
        score2=scores[:, 1],
        nfe_total=score.denoiser.evaluations,
    )
    betas = case.part({"out": case["beta_outputs"]})
    assert sorted(betas.outputs, key=int) == [str(found.steps) for found in held]
    for found in held:
        betas.check(str(found.steps), found.betas)
