"""A run with dashboards is the run without them, and they show its numbers."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffexp.checkpoint.file import load
from diffexp.evaluation.results import read_rows
from diffexp.evaluation.table import summarise_arms
from tests.e2e.conftest import SMALL, Command

pytest.importorskip("wandb")
pytest.importorskip("tensorboard")

BOTH = ["logger=both", "logger.wandb.mode=offline"]


def only(parent: Path) -> Path:
    (found,) = [path for path in parent.iterdir() if path.is_dir()]
    return found


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return torch.equal(first, second) if torch.is_tensor(first) else first == second


def test_dashboards_change_nothing_and_show_the_numbers(command: Command, trained: Path, tmp_path: Path) -> None:
    answer = command(*SMALL, *BOTH)
    assert answer.code == 0, answer.err
    run = only(tmp_path / "runs" / "gddim_vp")
    assert run.name == trained.name  # the dashboard is no part of what names a training
    one, two = (load(folder / "checkpoints" / "step_00000030.ckpt") for folder in (trained, run))
    assert all(equal(one[key], two[key]) for key in ("state_dict", "ema", "optimizer_states"))
    found = scalars(run / "tensorboard" / "train")
    for name in ("loss", "gradient_norm", "lr", "images_per_second"):
        assert found[f"train/{name}"] == [(line["step"], np.float32(line[name])) for line in lines(run)]
    arms = summarise_arms(read_rows(run / "results.csv"))
    shown = {(tag, nfe): value for tag, rows in scalars(run / "tensorboard" / "eval").items() for nfe, value in rows}
    assert shown == {(f"fd_digits by NFE/{arm.label}", arm.nfe): np.float32(arm.mean) for arm in arms}
    assert len(shown) == 4
    known = json.loads((run / "wandb.json").read_text())
    stored = {path.name.split("-")[-1]: path for path in (run / "wandb").glob("offline-run-*")}
    assert set(stored) == set(known.values())
    pictures = {path.name.split("_0_")[0] for path in stored[known["eval"]].rglob("media/images/eval/*.png")}
    assert pictures == {"samples_ddim", "samples_ddpm", "samples_heun"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]  # W&B's files are in the run folder


def test_a_stopped_and_resumed_training_is_one_curve(command: Command, tmp_path: Path) -> None:
    small = [word for word in SMALL if not word.startswith(("training.max_steps", "training.log_every"))]
    words = [*small, "task=train", "training.log_every=4", "logger=tensorboard"]
    assert command(*words, "training.max_steps=13").code == 0
    assert command(*words, "training.max_steps=21", "ckpt=latest:gddim_vp").code == 0
    runs = sorted((tmp_path / "runs" / "gddim_vp").iterdir(), key=lambda path: len(lines(path)))
    whole = lines(runs[-1])
    found = scalars(runs[-1] / "tensorboard" / "train")["train/loss"]
    assert found == [(line["step"], np.float32(line["loss"])) for line in whole]
    assert [line["step"] for line in whole][-3:] == [16, 20, 21]


def test_what_was_done_without_a_dashboard_is_shown_by_the_next_command_once(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "gddim_vp" / trained.name
    shutil.copytree(trained, run)
    numbers = (run / "results.csv").read_bytes()
    for _ in range(2):
        answer = command(*SMALL, *BOTH)
        assert answer.code == 0, answer.err
        assert "complete already" in answer.out
        assert len(list((run / "wandb").glob("offline-run-*"))) == 2  # a training and an evaluation
    assert len(list(run.glob("tensorboard/*/events.*"))) == 2
    found = scalars(run / "tensorboard" / "train")["train/loss"]
    assert found == [(line["step"], np.float32(line["loss"])) for line in lines(run)]
    assert len(scalars(run / "tensorboard" / "eval")) == 3
    assert (run / "results.csv").read_bytes() == numbers
    assert command(*SMALL, "task=train", "logger=tensorboard").code == 0
    assert len(list(run.glob("tensorboard/*/events.*"))) == 2


def test_a_dashboard_that_is_not_installed_is_refused_before_anything(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "wandb" else find(name, *more))
    for words in (["logger=wandb"], ["logger=both", "task=train"]):
        answer = command(*SMALL, *words)
        assert answer.code == 2
        assert answer.err == (
            "diffexp: logger=wandb: needs the package wandb; pip install 'diffexp[wandb]', or logger=none\n"
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore")  # of wandb-workspaces, about pydantic
def test_the_dashboard_of_a_folder_of_runs(command: Command, trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb_workspaces")
    shutil.copytree(trained, tmp_path / "runs" / "gddim_vp" / trained.name)
    words = ["task=dashboard", "logger=wandb", "logger.mode=offline"]
    answer = command(*words)
    assert answer.code == 0, answer.err
    said = "dashboard: runs/dashboard.json (offline: nothing was sent; logger.mode=online saves it to W&B)\n"
    assert answer.out == said
    view = json.loads((tmp_path / "runs" / "dashboard.json").read_text())
    sections = {part["name"]: part["panels"] for part in view["spec"]["section"]["panelBankConfig"]["sections"]}
    names = ("ddim", "ddpm", "heun")
    assert sections["By NFE"][0]["config"]["metrics"] == [f"by_nfe/fd_digits/{name}" for name in names]
    assert [panel["config"]["mediaKeys"] for panel in sections["Samples"]] == [
        [f"eval/samples_{name}"] for name in names
    ]
    for wrong, reason in (
        (["task=dashboard"], "task=dashboard draws W&B's: add logger=wandb"),
        ([*words, "sweep=nowhere"], "sweep=nowhere: no such folder"),
        (["task=dashboard", "logger=wandb", "logger.mode=online"], "Or use logger.mode=offline"),
    ):
        answer = command(*wrong)
        assert answer.code == 2
        assert reason in answer.err
        assert len(answer.err.splitlines()) == 1
