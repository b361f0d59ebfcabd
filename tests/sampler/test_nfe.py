"""Declared equals counted: every sampler of conf/ meets a budget exactly or names the nearest ones that it can meet.

Samplers, grids and processes are discovered from conf/, so that new ones are tested as they come.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from diffexp.core.errors import ConfigError
from diffexp.launch.layout import read_layout, read_yaml
from diffexp.prediction.bridge import DDBM
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import Eps
from diffexp.prediction.two_head import TwoHead
from diffexp.process.base import Process
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import KeyedNoise
from diffexp.tasks.build import make_node

LAYOUT = read_layout()
BUDGETS = range(1, 51)
IMAGES = 2
SHAPE = (1, 2, 2)
# (evaluations of n steps, the fewest steps) from the papers' algorithms; by default one for each step.
COSTS: dict[str, tuple[Callable[[int], int], int]] = {
    "heun": (lambda n: 2 * n - 1, 1),
    "gddim": (lambda n: n, 2),
    "rk4": (lambda n: 4 * n, 1),
    "dbim": (lambda n: n, 2),
    "ddbm_heun": (lambda n: 3 * n - 1, 1),
}
RESTLESS = {"ve", "edm", "blurring", "blurring_hoogeboom"}  # processes that keep no law, around which sscs could split
# Where a sampler is at home, if not on vp with a uniform grid.
HOMES = {
    "dbim": ("bridge_vp", "bridge"),
    "ddbm_heun": ("bridge_vp", "bridge_karras"),
    "ddm_posterior": ("ddm_const", "uniform_eps"),
    "ddm_ddim": ("ddm_const", "uniform"),
    "rk4": ("cosine", "uniform"),  # it evaluates at its last time, where there has to be noise
}
CLEAN = {"vp", "edm", "ddpm", "iddpm"}  # processes that end in clean data
ELSEWHERE = {"stride": "ddpm", "bridge": "bridge_vp", "bridge_karras": "bridge_vp"}  # grids that are not for vp
GRIDS = [(ELSEWHERE.get(grid, "vp"), grid) for grid in LAYOUT.choices["grid"]]
PROCESSES = [(process, "uniform") for process in LAYOUT.choices["process"]]
PLACES = sorted({*GRIDS, *PROCESSES})
# Where every budget is sampled; elsewhere these few are, and the others only planned or refused.
WHOLE = {("vp", "uniform"), ("vp", "explicit"), ("ddpm", "stride"), *HOMES.values()}
FEW = (1, 2, 3, 10, 11, 49, 50)
FIXED = [
    name for name in LAYOUT.choices["sampler"] if name not in {"rk45", "consistency", "estimate"}
]  # they have tests of their own
# What a sampler cannot do on a process at all, whatever the budget.
REFUSED = {("sscs", name): f"sscs splits around a law that the process keeps, and {name} has" for name in RESTLESS} | {
    ("ddpm", "cld_sgm"): "eps_rule=added: no posterior between two times",
    ("gddim", "cld_sgm"): "eps_rule=added: no factor R",
}
BRIDGES = {"bridge_vp", "bridge_ve", "brownian", "i2sb", "i2sb_discrete"}
OF_BRIDGES = {"dbim", "ddbm_heun"}
DECOUPLED = {"ddm_const", "ddm_const_t", "ddm_linear", "ddm_quadratic"}
OF_DECOUPLED = {"ddm_posterior", "ddm_ddim"}
FROM_NOTHING = {"ddim", "ddpm", *OF_DECOUPLED}  # those that need no signal at the prior


class Counting(nn.Module):
    """A network that counts the states that it is shown; a little of the state is its answer.

    Args:
        images: how many images it is shown at once: on a bridge the state and the end point.
        outputs: how many it answers.
    """

    def __init__(self, images: int = 1, outputs: int = 1) -> None:
        super().__init__()
        self.images = images
        self.outputs = outputs
        self.seen = 0

    def forward(self, u, time, labels=None):
        self.seen += len(u)
        return 0.1 * u[:, : u.shape[1] // self.images].repeat(1, self.outputs, 1, 1)


def node(group: str, choice: str, **changes: Any) -> dict[str, Any]:
    """The node of one file, with some of its values changed."""
    return {**read_yaml(LAYOUT.folder / group / f"{choice}.yaml"), **changes}


def built(name: str, process: str, grid: str, stepper: Any = None, last: str = "state", **options: Any) -> Sampler:
    """A sampler of conf/ on a grid, with what the grid needs besides.

    Args:
        name, grid: choices in conf/.
        process: the process that it is for, which decides what a grid needs.
        stepper: changes of the stepper's values.
        last: as in `Grid`.
        options: changes of the sampler's own values.
    """
    needs = {
        "explicit": {"values": [0.9, 0.7, 0.4, 0.1]},
        "log_snr": {"t_end": 0.01},
        "file": {"path": str(Path(__file__).with_name("schedules.json"))},
    }.get(grid, {})
    if last == "denoise_em":
        needs = {**needs, "t_end": 0.01}
    times = node("grid", grid, last=last, **needs)
    own = node("sampler", name, grid=times, **options)
    own["stepper"] = {**own["stepper"], **(stepper or {})}
    return make_node(own, "sampler")


def process_of(name: str) -> Process:
    return make_node(node("process", name), "process").on(SHAPE)


def refused(name: str, process: str, grid: str) -> str | None:
    """What the refusal of a sampler on a process and a grid says; None where there is none."""
    if name in OF_BRIDGES and process not in BRIDGES:
        return f"sampler {name} is for bridges, and process {process_of(process).name} is none"
    if name not in OF_BRIDGES and process in BRIDGES:
        return f"sampler {name} leaves out the end point of process {process}: use dbim"
    if name in OF_DECOUPLED and process not in DECOUPLED:
        return f"is for decoupled processes, and process {process_of(process).name} is none: use ddim"
    if process in DECOUPLED and name not in FROM_NOTHING:
        drawn = process == "ddm_linear"
        return f"leaves out the image that process {process} draws" if drawn else f"process {process} has no signal"
    if name == "dbim" and grid == "bridge_karras":
        return "dbim: starts at the end point, t = 1, but the grid at 0.9999: use grid=bridge"
    if name == "ddbm_heun" and grid != "bridge_karras":
        return "the drift is infinite at the end point, .*: use grid=bridge_karras"
    if name == "rk4" and process in CLEAN and grid != "log_snr":  # which has a t_end of its own here
        return f"sampler rk4: evaluates at its last time too, t = {-1 if 'ddpm' in process else 0}, where process"
    return REFUSED.get((name, process))


def count(sampler: Sampler, process: Process, nfe: int) -> float:
    """Evaluations of one image in a sampling with this budget, as the network itself has seen them."""
    head = (DDBM() if process.endpoint else TwoHead() if process.attenuation else Eps()).on(process)
    network = Counting(2 if process.endpoint else 1, head.outputs)
    denoiser = NetworkDenoiser(network, head, process, unconditional=True)
    end = torch.ones(IMAGES, *SHAPE, dtype=torch.float64) if process.endpoint else None
    conditions = Conditions(labels=torch.zeros(IMAGES, dtype=torch.int64), endpoint=end)
    noise = KeyedNoise(0, range(IMAGES), process.state_shape(SHAPE), torch.float64)
    result = sampler.sample(denoiser, noise, nfe, conditions)
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


def expected_budgets(sampler: Sampler, cost: tuple[Callable[[int], int], int]) -> list[int]:
    """All feasible budgets up to some above the tested ones."""
    each, fewest = cost
    own = sampler.grid.choices
    steps = range(fewest, BUDGETS[-1] + 3) if own is None else [n for n in own if n >= fewest]
    ending = 1 if sampler.grid.last == "denoise_em" else 0  # the denoising step evaluates once more
    return [(each(n) + ending) * (1 if sampler.guidance is None else 2) for n in steps]


def neighbours(feasible: list[int], nfe: int) -> list[int]:
    """The nearest feasible budget below and the nearest one above, where there are such."""
    below, above = [n for n in feasible if n < nfe], [n for n in feasible if n > nfe]
    return [*below[-1:], *above[:1]]


def check_budgets(
    sampler: Sampler,
    process: Process,
    counted: Collection[int] = BUDGETS,
    cost: tuple[Callable[[int], int], int] | None = None,
) -> None:
    """Every budget is met exactly or refused with its neighbours; those of `counted` that are feasible are sampled."""
    feasible = expected_budgets(sampler, cost or COSTS.get(sampler.name, (lambda n: n, 1)))
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


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize(("process", "grid"), PLACES)
def test_declared_is_counted_or_refused(name: str, process: str, grid: str) -> None:
    message = refused(name, process, grid)
    if message is not None:
        sampler = built(name, process, grid)
        with pytest.raises(ConfigError, match=message):
            count(sampler, process_of(process), sampler.nearest_nfe(10))
        return
    budgets = BUDGETS if (process, grid) in WHOLE else FEW
    check_budgets(built(name, process, grid), process_of(process), budgets)


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize(
    "options",
    [
        {"guidance": 2.0},
        {"clip": True, "last": "data"},
        {"last": "denoise_em"},
        {"guidance": 2.0, "last": "denoise_em"},
    ],
    ids=str,
)
def test_guidance_counts_twice_a_denoising_step_once_and_clipping_not(name: str, options: dict[str, Any]) -> None:
    process, grid = HOMES.get(name, ("vp", "uniform"))
    sampler = built(name, process, grid, **options)
    if process in BRIDGES and options.get("last") == "denoise_em":
        with pytest.raises(ConfigError, match="denoise_em leaves out the end point of process bridge_vp"):
            count(sampler, process_of(process), sampler.nearest_nfe(10))
        return
    check_budgets(sampler, process_of(process))


def spelt(value: object) -> str | None:
    """The id of a parameter; functions have none."""
    return None if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize(
    ("stepper", "cost"),
    [
        ({"order": 1}, (lambda n: n, 1)),
        ({"order": 1, "lam": 1.0}, (lambda n: n, 1)),
        ({"order": 4}, (lambda n: n, 4)),
        ({"order": 2, "corrector": 3}, (lambda n: 2 * n, 2)),
    ],
    ids=spelt,
)
@pytest.mark.parametrize("last", ["state", "data"])
def test_orders_and_correctors_of_gddim(
    stepper: dict[str, Any], cost: tuple[Callable[[int], int], int], last: str
) -> None:
    check_budgets(built("gddim", "vp", "uniform", stepper, last), process_of("vp"), FEW, cost=cost)


@pytest.mark.parametrize(
    ("name", "stepper", "cost"),
    [
        ("dbim", {"eta": 1.0}, (lambda n: n, 2)),
        ("dbim", {"order": 2}, (lambda n: n, 3)),
        ("dbim", {"order": 3, "lower_order_final": False}, (lambda n: n, 4)),
        ("ddbm_heun", {"churn": 0.0}, (lambda n: 2 * n - 1, 1)),
        ("ddbm_heun", {"churn": 0.5, "w": 0.5}, (lambda n: 3 * n - 1, 1)),
    ],
    ids=spelt,
)
@pytest.mark.parametrize("last", ["state", "data"])
def test_orders_and_noise_of_the_bridge_samplers(
    name: str, stepper: dict[str, Any], cost: tuple[Callable[[int], int], int], last: str
) -> None:
    process, grid = HOMES[name]
    sampler = built(name, process, grid, stepper, last)
    check_budgets(sampler, process_of(process), FEW, cost=cost)


@pytest.mark.parametrize("process", sorted(DECOUPLED))
@pytest.mark.parametrize(
    ("name", "stepper", "cost"),
    [
        ("gddim", {"form": "data"}, (lambda n: n, 2)),
        ("gddim", {"form": "data", "order": 1, "lam": 0.5}, (lambda n: n, 1)),
        ("gddim", {"form": "data", "corrector": 3}, (lambda n: 2 * n, 2)),
        ("heun", {"form": "data"}, (lambda n: 2 * n - 1, 1)),
        ("ddm_posterior", {"reconcile": False}, (lambda n: n, 1)),
    ],
    ids=spelt,
)
@pytest.mark.parametrize("last", ["state", "data"])
def test_the_data_form_where_there_is_no_signal(
    process: str, name: str, stepper: dict[str, Any], cost: tuple[Callable[[int], int], int], last: str
) -> None:
    check_budgets(built(name, process, "uniform", stepper, last), process_of(process), FEW, cost=cost)


def test_gddim_in_the_factor_that_cld_sgm_has() -> None:
    check_budgets(built("gddim", "cld_sgm", "uniform", {"factor": "cholesky"}), process_of("cld_sgm"), FEW)


@pytest.mark.parametrize("name", FIXED)
def test_the_one_step_that_stride_itself_refuses(name: str) -> None:
    """Its first index would be 0, which is no noise: the refusal names two steps and another spacing."""
    if COSTS.get(name, (None, 1))[1] > 1 or name in HOMES:
        pytest.skip("takes more than one step anyway, or no table")
    sampler, process = built(name, "ddpm", "stride"), process_of("ddpm")
    with pytest.raises(ConfigError, match="one step would be at index 0: use trailing, or 2 steps"):
        count(sampler, process, sampler.evaluations(1))
    sampler.grid = make_node(node("grid", "stride", spacing="trailing"), "grid")
    assert count(sampler, process, sampler.evaluations(1)) == sampler.evaluations(1)
