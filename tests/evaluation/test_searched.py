"""Arms at searched numbers of steps: left out before the search, and at what it has found afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffexp.core.errors import ConfigError
from diffexp.evaluation.searched import searched_arms, thinned, with_file
from diffexp.sampler.schedule_file import Schedule, ScheduleFile, write_schedules
from diffexp.tasks.build import make_node

GRID = "diffexp.sampler.grid"
DDIM = {
    "_target_": "diffexp.sampler.loop.Sampler",
    "name": "ddim",
    "stepper": {"_target_": "diffexp.sampler.linear.DDIM"},
}
UNIFORM, FILE = {"_target_": f"{GRID}.Uniform"}, {"_target_": f"{GRID}_file.File", "path": None}
HEUN = {**DDIM, "name": "heun", "stepper": {"_target_": "diffexp.sampler.heun.Heun"}, "grid": UNIFORM}
ARMS = {
    "learned": {**DDIM, "name": "learned", "grid": FILE, "nfe": "searched"},
    "linear": {**DDIM, "name": "linear", "grid": UNIFORM, "nfe": ["searched", 4, 40]},
    "own": {**DDIM, "name": "own", "grid": UNIFORM, "nfe": {"quick": "searched", "paper": [7]}},
    "plain": {**DDIM, "name": "plain", "grid": UNIFORM, "nfe": [5, 60]},
}
NODE = {"arms": ARMS, "nfe": None, "nfe_max": 50}
FOUND = (2, 3, 4, 6, 9, 12, 30)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    schedules = tuple(Schedule(tuple(0.9 * (k + 1) / n for k in range(n))) for n in FOUND)
    write_schedules(tmp_path / "schedules.json", ScheduleFile("vp", schedules))
    return tmp_path / "schedules.json"


def plan(node: dict, path: Path | None, scale: str = "quick", shown: int | None = None) -> tuple[dict, list[str]]:
    arms, missing = searched_arms(node, HEUN, make_node, scale, path, shown)
    return {arm.name: arm.feasible(node.get("nfe_policy", "exact")) for arm in arms}, missing


def test_before_the_search_what_waits_for_it_is_left_out() -> None:
    assert plan(NODE, None) == ({"linear": [4, 40], "plain": [5]}, ["learned", "own"])
    assert plan(NODE, None, "paper") == ({"linear": [4, 40], "own": [7], "plain": [5]}, ["learned"])
    assert plan({**NODE, "only": "learned"}, None) == ({}, ["learned", "own"])
    assert plan({**NODE, "arms": {"learned": ARMS["learned"]}}, None) == ({}, ["learned"])
    assert plan({**NODE, "nfe": [3]}, None) == ({"linear": [3], "own": [3], "plain": [3]}, ["learned"])


def test_afterwards_it_is_at_what_was_found(path: Path) -> None:
    everything = list(FOUND)
    wanted = {"learned": everything, "linear": sorted({*FOUND, 40}), "own": everything, "plain": [5]}
    assert plan(NODE, path) == (wanted, [])
    few = {"learned": [2, 9, 30], "linear": [2, 4, 9, 30, 40], "own": [2, 9, 30], "plain": [5]}
    assert plan(NODE, path, shown=3) == (few, [])
    assert plan({**NODE, "only": "learned"}, path, shown=2) == ({"learned": [2, 30]}, [])
    with pytest.raises(ConfigError, match="nfe=5 is not reachable with sampler learned: choose 4 or 6"):
        plan({**NODE, "nfe": [5]}, path)
    assert plan({**NODE, "nfe": [5], "nfe_policy": "below"}, path)[0]["learned"] == [4]


def test_the_one_sampler_that_is_asked_for_may_read_the_file_too(path: Path) -> None:
    heun = {**HEUN, "grid": FILE}
    node = {**NODE, "only": "heun", "nfe": [5]}
    (arm,), missing = searched_arms(node, heun, make_node, "quick", path)
    assert (arm.name, arm.sampler.steps(5), missing) == ("heun", 3, [])
    with pytest.raises(ConfigError, match=r"grid\.path=null: name a file of schedules"):
        searched_arms(node, heun, make_node, "quick", None)


def test_only_files_without_a_path_are_filled() -> None:
    named = {"a": {**FILE, "path": "mine"}, "b": {"c": FILE}, "d": UNIFORM}
    assert with_file(named, Path("found")) == {
        "a": {**FILE, "path": "mine"},
        "b": {"c": {**FILE, "path": "found"}},
        "d": UNIFORM,
    }


@pytest.mark.parametrize(
    ("steps", "shown", "kept"),
    [
        (range(1, 101), 3, [1, 10, 100]),
        (range(2, 65), 6, [2, 4, 8, 16, 32, 64]),
        ([40, 3, 2, 3], None, [2, 3, 40]),
        ([5, 6, 7, 100], 3, [5, 7, 100]),  # 22 would be the middle
        ([5, 6, 7, 8], 3, [5, 6, 8]),
        ([5, 6, 7, 8], 4, [5, 6, 7, 8]),
        ([3, 4, 50], 1, [50]),
        ([1, 90, 91, 92, 93], 4, [1, 90, 91, 93]),  # enough have to be left for the last ones
    ],
)
def test_few_numbers_are_even_in_their_logarithm(steps, shown, kept) -> None:
    assert thinned(steps, shown) == kept
