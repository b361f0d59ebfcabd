"""Declared equals counted: every sampler of conf/ meets a budget exactly or names the nearest ones that it can meet.

Samplers, grids and processes are discovered from conf/, so that new ones are tested as they come.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

import pytest
import torch
from torch import nn

from diffexp.core.errors import ConfigError
from diffexp.launch.compose import compose_jobs
from diffexp.launch.layout import read_layout
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import Eps
from diffexp.process.base import Process
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import KeyedNoise
from diffexp.tasks.build import make

LAYOUT = read_layout()
BUDGETS = range(1, 51)
IMAGES = 2
SHAPE = (1, 2, 2)
# Evaluations of n steps, from the papers' algorithms; a sampler that is not named here has one for each step.
COSTS: dict[str, Callable[[int], int]] = {"heun": lambda n: 2 * n - 1}

GRIDS = [("vp", grid) for grid in LAYOUT.choices["grid"] if grid != "stride"] + [("ddpm", "stride")]
PROCESSES = [(process, "uniform") for process in LAYOUT.choices["process"]]
PLACES = sorted({*GRIDS, *PROCESSES})
# Where every budget is sampled; elsewhere these few are, and the others only planned or refused.
WHOLE = {("vp", "uniform"), ("vp", "explicit"), ("ddpm", "stride")}
FEW = (1, 2, 3, 10, 11, 49, 50)


class Counting(nn.Module):
    """A network that counts the images that it is shown; a little of the state is its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, u, time, labels=None):
        self.seen += len(u)
        return 0.1 * u


def parts_of(*words: str) -> tuple[Sampler, Process]:
    """The sampler and the process of a command line."""
    (job,) = compose_jobs([list(words)], LAYOUT)
    return make(job.config, "sampler"), make(job.config, "process").on(SHAPE)


def built(sampler: str, process: str, grid: str, *words: str) -> tuple[Sampler, Process]:
    """A sampler on a grid on a process, with what the grid needs besides."""
    words = (f"sampler={sampler}", f"process={process}", f"grid={grid}", *words)
    if grid == "explicit":
        words = (*words, "grid.values=[0.9,0.7,0.4,0.1]")
    if grid == "log_snr":
        words = (*words, "grid.t_end=0.01")
    return parts_of(*words)


def count(sampler: Sampler, process: Process, nfe: int) -> float:
    """Evaluations of one image in a sampling with this budget, as the network itself has seen them."""
    network = Counting()
    denoiser = NetworkDenoiser(network, Eps(), process, unconditional=True)
    labels = Conditions(labels=torch.zeros(IMAGES, dtype=torch.int64))
    noise = KeyedNoise(0, range(IMAGES), process.state_shape(SHAPE), torch.float64)
    result = sampler.sample(denoiser, noise, nfe, labels)
    assert result.nfe == nfe
    assert denoiser.evaluations == network.seen
    return network.seen / IMAGES


def refusal(sampler: Sampler, nfe: int) -> list[int]:
    """The budgets that a refusal names; empty when there is none."""
    try:
        sampler.steps(nfe)
    except ConfigError as error:
        lead, _, options = str(error).partition(": choose ")
        if lead != f"nfe={nfe} is not reachable with sampler {sampler.name}":
            raise
        return [int(number) for number in re.findall(r"\d+", options.partition(",")[0])]
    return []


def expected_budgets(sampler: Sampler, name: str) -> list[int]:
    """All feasible budgets up to some above the tested ones."""
    each = COSTS.get(name, lambda n: n)
    steps = range(sampler.stepper.min_steps, BUDGETS[-1] + 3) if sampler.grid.steps is None else [sampler.grid.steps]
    return [each(n) * (1 if sampler.guidance is None else 2) for n in steps]


def neighbours(feasible: list[int], nfe: int) -> list[int]:
    """The nearest feasible budget below and the nearest one above, where there are such."""
    below, above = [n for n in feasible if n < nfe], [n for n in feasible if n > nfe]
    return [*below[-1:], *above[:1]]


def check_budgets(name: str, sampler: Sampler, process: Process, counted: Collection[int] = BUDGETS) -> None:
    """Every budget is met exactly or refused with its neighbours; those of `counted` that are feasible are sampled."""
    feasible = expected_budgets(sampler, name)
    assert set(feasible) & set(BUDGETS)
    for nfe in BUDGETS:
        refused = refusal(sampler, nfe)
        if nfe in feasible:
            assert refused == []
            alone = sampler.grid.name == "stride" and sampler.steps(nfe) == 1  # see the last test
            if nfe in counted and not alone:
                assert count(sampler, process, nfe) == nfe
        else:
            assert refused == neighbours(feasible, nfe)
        assert sampler.nearest_nfe(nfe) == max([n for n in feasible if n <= nfe] or feasible[:1])


@pytest.mark.parametrize("name", LAYOUT.choices["sampler"])
@pytest.mark.parametrize(("process", "grid"), PLACES)
def test_declared_is_counted_or_refused(name: str, process: str, grid: str) -> None:
    check_budgets(name, *built(name, process, grid), BUDGETS if (process, grid) in WHOLE else FEW)


@pytest.mark.parametrize("name", LAYOUT.choices["sampler"])
@pytest.mark.parametrize("words", [("sampler.guidance=2.0",), ("sampler.clip=true", "grid.last=data")], ids="_".join)
def test_guidance_counts_twice_and_clipping_not_at_all(name: str, words: tuple[str, ...]) -> None:
    sampler, process = built(name, "vp", "uniform", *words)
    check_budgets(name, sampler, process)
    plain, _ = built(name, "vp", "uniform")
    factor = 2 if sampler.guidance is not None else 1
    assert [sampler.evaluations(n) for n in (1, 2, 9)] == [factor * plain.evaluations(n) for n in (1, 2, 9)]


@pytest.mark.parametrize("name", [name for name in LAYOUT.choices["sampler"] if name != "gddim"])  # order 2: two steps
def test_the_one_budget_that_stride_itself_refuses(name: str) -> None:
    """Its first index would be 0, which is no noise: the refusal names two steps and another spacing."""
    sampler, process = built(name, "ddpm", "stride")
    with pytest.raises(ConfigError, match="one step would be at index 0: use trailing, or 2 steps"):
        count(sampler, process, sampler.evaluations(1))
    sampler, process = built(name, "ddpm", "stride", "grid.spacing=trailing")
    assert count(sampler, process, sampler.evaluations(1)) == sampler.evaluations(1)
