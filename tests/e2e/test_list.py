"""task=list and task=diff: what there is, and how two configurations differ."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from diffexp.launch.difference import table_of
from diffexp.tasks.list import best_row, spell_count
from tests.e2e.conftest import SMALL, Command

RECIPES = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "experiment").glob("*.yaml"))


def lines_of(text: str) -> dict[str, tuple[str, ...]]:
    """The table of task=diff: key -> (a, b)."""
    table = text.split("\n\n", 1)[1].splitlines()
    return {cells[0]: tuple(cells[1:]) for line in table if (cells := re.split(r"\s{2,}", line.strip())) != [""]}


def test_every_recipe_is_one_line_ones_own_too(command: Command, tmp_path):
    mine = tmp_path / "mine" / "experiment"
    mine.mkdir(parents=True)
    (mine / "small.yaml").write_text("# @package _global_\ndefaults:\n  - override /network: small_image\n")
    (mine / "wrong.yaml").write_text("# @package _global_\ndefaults:\n  - override /network: nothing\n")
    began = time.process_time()
    answer = command("task=list", "--config-dir", str(tmp_path / "mine"))
    assert time.process_time() - began < 2.0 + 1.5 * (len(RECIPES) + 2)
    assert answer.code == 0, answer.err
    head, *lines = answer.out.splitlines()
    assert re.split(r"\s{2,}", head) == ["recipe", "paper", "data", "parameters", "best published row"]
    cells = {line.split()[0]: re.split(r"\s{2,}", line) for line in lines}
    assert sorted(cells) == sorted([*RECIPES, "small", "wrong"])
    assert cells["gddim_vp"][1:] == [
        "gDDIM (2206.05564)", "cifar10", "107.6 M", "FID 2.56 on CIFAR-10: gDDIM, NFE 100 (table 3)",
    ]  # fmt: skip
    assert cells["small"][1:] == ["none", "cifar10", "287.7 k", "none published"]
    assert "network=nothing: there is no such network" in " ".join(cells["wrong"])
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_scale_counts(command: Command):
    answer = command("task=list", "scale=quick")
    assert sorted(line.split()[0] for line in answer.out.splitlines()[1:]) == RECIPES
    (line,) = [line for line in answer.out.splitlines() if line.startswith("gddim_vp ")]
    assert "digits_image" in line
    count = re.search(r"([\d,]+) parameters", command("task=check", "experiment=gddim_vp", "scale=quick").out)
    assert f"  {spell_count(int(count[1].replace(',', '')))}  " in line


def test_best_rows():
    row = {"dataset": "D", "sampler": "s", "nfe": 5, "metric": "FID", "table": "1"}
    rows = [{**row, "value": ">100"}, {**row, "value": 3, "nfe": 7}, {**row, "value": 3.0}, {**row, "value": 4.5}]
    assert best_row({"results": rows}) == "FID 3 on D: s, NFE 5 (table 1)"
    assert best_row({"results": rows[:1]}) == "unknown"
    assert best_row({"results": [{**row, "metric": "PESQ", "value": 3}]}) == "none published"
    assert best_row({}) == "none published"
    assert [spell_count(count) for count in (999, 1000, 45_041, 107_586_947, 2 * 10**9)] == [
        "999", "1.0 k", "45.0 k", "107.6 M", "2.0 G",
    ]  # fmt: skip


def test_two_scales_of_a_recipe(command: Command, tmp_path):
    answer = command("task=diff", "a=gddim_vp", "b=gddim_vp@quick")
    assert answer.code == 0, answer.err
    assert answer.out.startswith("a: gddim_vp\nb: gddim_vp@quick\n\n")
    found = lines_of(answer.out)
    assert found["training.max_steps"] == ("1000001", "1500")
    assert found["optimizer.lr"] == ("0.0002", "0.004")
    assert found["network.attention"] == ("[16]", "[]")
    assert found["dataset.flip"] == ("true", "–")
    assert found["choices.scale"] == ("paper", "quick")
    assert not {"seed", "process.beta_max", "a", "b", "task"} & set(found)
    groups = list(dict.fromkeys(key.split(".")[0] for key in list(found)[1:]))
    assert groups == sorted(groups)
    assert command("task=diff", "a=gddim_vp", "b=gddim_vp", "scale=quick").out.endswith("gddim_vp: no difference\n")
    assert not list(tmp_path.iterdir())


def test_a_recipe_and_its_run(command: Command, trained, tmp_path):
    """What was overridden, and nothing else, whatever names the run."""
    texts = []
    for spec in (trained, trained / "checkpoints" / "step_00000020.ckpt", "latest:gddim_vp"):
        answer = command("task=diff", "a=gddim_vp", f"b={spec}", "scale=quick", f"runs={trained.parent.parent}")
        assert answer.code == 0, answer.err
        texts.append(lines_of(answer.out))
    assert texts[1:] == texts[:1] * 2
    overridden = {word.split("=")[0] for word in SMALL if "=" in word} - {"scale", "experiment"}
    removed = tuple(word[1:] for word in SMALL if word.startswith("~"))
    assert {key for key in texts[0] if not key.startswith(removed)} == {"key", *overridden}
    assert {values[1] for key, values in texts[0].items() if key.startswith(removed)} == {"–"}
    assert texts[0]["network.channels"] == ("16", "8")
    assert not list(tmp_path.iterdir())


def test_what_the_grid_says_is_said_once():
    a = {"grid.p": 2.0, "sampler.grid.p": 2.0, "evaluation.arms.x.grid.p": 2.0, "evaluation.arms.y.grid.p": 2.0}
    b = {"grid.p": 3.0, "sampler.grid.p": 3.0, "evaluation.arms.x.grid.p": 3.0, "evaluation.arms.y.grid.p": 4.0}
    assert table_of([a, b]) == [("evaluation.arms.y.grid.p", "2.0", "4.0"), ("grid.p", "2.0", "3.0")]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["a=gddim_vp"], "task=diff needs b=: a recipe, a run folder, a checkpoint, or latest:<recipe>"),
        (["a=gddim_v", "b=gddim_vp"], "neither a recipe nor a run folder or checkpoint; did you mean 'gddim_vp'"),
        (["a=gddim_vp@quik", "b=gddim_vp"], "scale=quik: there is no such scale; did you mean 'quick'"),
        (["a=gddim_vp", "b=latest:gddim_vp"], "no run of 'gddim_vp' with a checkpoint"),
        (["a=gddim_vp", "b=."], "neither a run folder nor in one"),
    ],
)
def test_refusals(command: Command, tmp_path, words, reason):
    answer = command("task=diff", *words)
    assert answer.code == 2
    assert reason in answer.err
    assert len(answer.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
