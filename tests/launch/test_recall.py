"""A run is named by `ckpt=` alone: its recipe and scale are recalled from the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import diffexp.__main__ as entry
from diffexp.core.errors import CheckpointError, ConfigError
from diffexp.launch.layout import Layout
from diffexp.launch.recall import recall

RECALLED = ["experiment=vp_one", "scale=quick"]


def make_run(runs: Path, recipe: str = "vp_one", scale: str = "quick", name: str = "1", **changes: Any) -> Path:
    """A run folder with one checkpoint."""
    run = runs / recipe / name
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "step_00000005.ckpt").write_text("x")
    frozen = {"recipe": recipe, "choices": {"scale": scale}, **changes}
    (run / "config.yaml").write_text(yaml.safe_dump(frozen))
    return run


@pytest.fixture
def run(room: Path) -> Path:
    """A run in ./runs; the working folder is the empty one beside it."""
    return make_run(room / "runs")


@pytest.mark.parametrize(
    "spec",
    [
        "latest:vp_one",
        "'latest:vp_one'",
        '"latest:vp_one"',
        "runs/vp_one/1",
        "runs/vp_one/1/checkpoints",
        "runs/vp_one/1/checkpoints/step_00000005.ckpt",
        "${runs}/vp_one/1",
    ],
)
@pytest.mark.parametrize("task", ["run", "train", "evaluate", "sample", "check"])
def test_recipe_and_scale_are_recalled(spec: str, task: str, run: Path, layout: Layout) -> None:
    words = [f"task={task}", f"ckpt={spec}", "seed=3"]
    assert recall(words, layout) == [*RECALLED, *words]


def test_the_task_is_run_when_none_is_named(run: Path, layout: Layout) -> None:
    assert recall(["++ckpt=latest:vp_one"], layout) == [*RECALLED, "++ckpt=latest:vp_one"]


def test_an_explicit_scale_wins(run: Path, layout: Layout) -> None:
    words = ["ckpt=latest:vp_one", "scale=paper"]
    assert recall(words, layout) == ["experiment=vp_one", *words]


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=vp_two", "ckpt=latest:vp_one"],
        ["ckpt=null"],
        ["seed=3"],
        ["task=report", "ckpt=nothing"],  # reads the run folder alone
        ["ckpt=loose.ckpt"],
    ],
)
def test_nothing_is_recalled(words: list[str], run: Path, room: Path, layout: Layout) -> None:
    (room / "loose.ckpt").write_text("x")
    assert recall(words, layout) == words


@pytest.mark.parametrize("name", ["a b", "a=b", "a,b", "it's"])
def test_a_path_with_special_characters_is_quoted(name: str, room: Path, layout: Layout) -> None:
    make_run(room / name)
    text = name.replace("'", r"\'")
    words = [f"ckpt='{text}/vp_one/1'"]
    assert recall(words, layout) == [*RECALLED, *words]
    words = ["ckpt=latest:vp_one", f"runs='{text}'"]
    assert recall(words, layout) == [*RECALLED, *words]


def test_runs_and_the_environment_say_where_to_look(
    run: Path, room: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`runs=` beats DIFFEXP_RUNS, which beats the default: as conf says, not as recall does."""
    make_run(room / "given", scale="paper")
    make_run(room / "environment", scale="paper", recipe="vp_two")
    words = ["ckpt=latest:vp_one", "runs=given"]
    assert recall(words, layout) == ["experiment=vp_one", "scale=paper", *words]
    layout.scalars["runs"] = "${oc.env:DIFFEXP_RUNS,runs}"
    assert recall(["ckpt=latest:vp_one"], layout)[:2] == RECALLED
    monkeypatch.setenv("DIFFEXP_RUNS", str(room / "environment"))
    assert recall(["ckpt=latest:vp_two"], layout)[:2] == ["experiment=vp_two", "scale=paper"]
    assert recall(words, layout)[:2] == ["experiment=vp_one", "scale=paper"]
    with pytest.raises(CheckpointError, match=r"no run of 'vp_one' with a checkpoint in .*environment"):
        recall(["ckpt=latest:vp_one"], layout)
    with pytest.raises(ConfigError, match=r"runs=\$\{oc.env:NOT_SET_HERE\}: "):
        recall(["ckpt=latest:vp_one", "runs=${oc.env:NOT_SET_HERE}"], layout)


def test_sweeps(run: Path, room: Path, layout: Layout) -> None:
    make_run(room / "runs", name="2")
    for sweep in (
        ["ckpt=runs/vp_one/1,runs/vp_one/2", "task=evaluate"],
        ["ckpt=choice('runs/vp_one/1',latest:vp_one)"],
        ["ckpt=latest:vp_one", "seed=range(0,3)", "task=evaluate,sample"],
        ["ckpt=latest:vp_one", "task=report,evaluate"],
    ):
        assert recall(sweep, layout) == [*RECALLED, *sweep]
    assert recall(["ckpt=latest:vp_one", "scale=paper,quick"], layout)[0] == "experiment=vp_one"
    assert recall(["ckpt=x", "task=report,report"], layout) == ["ckpt=x", "task=report,report"]
    make_run(room / "runs", name="3", scale="paper")
    words = ["ckpt=runs/vp_one/1,runs/vp_one/3"]
    with pytest.raises(CheckpointError, match="ckpt=runs/vp_one/1,runs/vp_one/3: of different recipes or scales"):
        recall(words, layout)
    assert recall([*words, "scale=quick"], layout) == ["experiment=vp_one", *words, "scale=quick"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": "mine"}, "was made by experiment=mine, which is not known here; add --config-dir="),
        ({"recipe": "vp_one seed=3"}, "was made by experiment=vp_one seed=3, which is not known here"),
        ({"choices": {"scale": "quik"}}, "scale=quik, which is not known here; did you mean 'quick'?"),
    ],
)
def test_an_unknown_recipe_in_the_run(changes: dict[str, Any], message: str, run: Path, layout: Layout) -> None:
    frozen = {"recipe": "vp_one", "choices": {"scale": "quick"}, **changes}
    (run / "config.yaml").write_text(yaml.safe_dump(frozen))
    with pytest.raises(CheckpointError) as caught:
        recall(["ckpt=runs/vp_one/1"], layout)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "expected"), [("recipe: vp_one\n", RECALLED[:1]), ("recipe: null\n", [])])
def test_what_a_run_does_not_say_is_left_out(content: str, expected: list[str], run: Path, layout: Layout) -> None:
    (run / "config.yaml").write_text(content)
    assert recall(["ckpt=runs/vp_one/1"], layout) == [*expected, "ckpt=runs/vp_one/1"]


def test_through_the_entry(
    conf: Path, run: Path, room: Path, started: list[dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(["task=evaluate", "ckpt=latest:vp_one", "sampler=heun"], conf) == 0
    assert entry.main(["-m", "task=evaluate", "ckpt=latest:vp_one", "seed=0,1"], conf) == 0
    assert [(config["recipe"], config["training"]["max_steps"]) for config in started] == [("vp_one", 20)] * 3
    assert started[0]["evaluation"]["only"] == "heun"
    assert entry.main(["task=evaluate", "ckpt=latest:vp_on"], conf) == 2
    assert entry.main(["ckpt=latest:vp_one", "seed=[1"], conf) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "did you mean 'vp_one'?" in lines[0]
    assert "'seed=[1' cannot be read" in lines[1]
    assert len(started) == 3
