"""Teacher and student as a user trains them, in two commands; and what the student does not need its teacher for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import diffexp
from diffexp.__main__ import main
from diffexp.checkpoint.file import load
from diffexp.core.naming import checkpoints
from tests.e2e.conftest import Command

TINY = [
    "scale=quick",
    "network.channels=8",
    "network.multipliers=[1,2]",
    "training.batch_size=16",
    "training.log_every=5",
    "evaluation.n=32",
    "evaluation.seeds=[0]",
    "evaluation.grid_images=4",
    "evaluation.controls=[]",
]
TEACHER = [*TINY, "experiment=ddbm_e2h", "task=train", "training.max_steps=12", "training.checkpoint_every=6"]
STUDENT = [*TINY, "experiment=cdbm_e2h", "training.max_steps=8", "training.checkpoint_every=4", "training.keep=9"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher and a student with dropout; read only."""
    runs = tmp_path_factory.mktemp("distilled")
    assert main([*TEACHER, f"runs={runs}"]) == 0
    assert main([*STUDENT, f"runs={runs}", "teacher=latest:ddbm_e2h", "network.dropout=0.0"]) == 0
    return runs


def only(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def last(folder: Path) -> Path:
    return checkpoints(folder / "checkpoints")[-1]


def network(checkpoint: Path) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in load(checkpoint)["state_dict"].items()}


def copied(runs: Path, where: Path) -> Path:
    return Path(shutil.copytree(runs, where / "runs"))


def test_the_student_is_evaluated_at_its_budgets(runs: Path) -> None:
    student = only(runs / "cdbm_e2h")
    rows = (student / "results.csv").read_text().splitlines()
    assert {line.split(",")[rows[0].split(",").index("sampler")] for line in rows[1:]} >= {"consistency(clip)"}
    losses = [
        json.loads(line)["loss"] for line in (student / "metrics.jsonl").read_text().splitlines() if "loss" in line
    ]
    assert losses
    assert all(loss > 0.0 for loss in losses)


def test_a_student_is_named_by_its_teachers_weights(runs: Path, tmp_path: Path, command: Command) -> None:
    """Not by where they lie: a copy elsewhere is the same teacher; an older checkpoint is another one."""
    mine = copied(runs, tmp_path)
    teacher = only(mine / "ddbm_e2h")
    moved = tmp_path / "elsewhere.ckpt"
    shutil.copy(last(teacher), moved)
    answer = command(*STUDENT, f"runs={mine}", f"teacher={moved}")
    assert answer.code == 0, answer.err
    assert "complete already" in answer.out
    assert only(mine / "cdbm_e2h").name == only(runs / "cdbm_e2h").name
    older = checkpoints(teacher / "checkpoints")[0]
    assert older != last(teacher)
    answer = command(*STUDENT, f"runs={mine}", f"teacher={older}", "task=train", "training.max_steps=1")
    assert answer.code == 0, answer.err
    assert len(list((mine / "cdbm_e2h").iterdir())) == 2


def test_a_student_starts_from_the_teachers_average(runs: Path, tmp_path: Path, command: Command) -> None:
    """With a learning rate of nearly nothing it stays there, for both kinds of training."""
    mine = copied(runs, tmp_path)
    averages = load(last(only(mine / "ddbm_e2h")))["ema"]["profiles"]["decay_0.995"]
    for kind in ("cbt", "cbd"):
        shutil.rmtree(mine / "cdbm_e2h")
        words = [f"runs={mine}", "teacher=latest:ddbm_e2h", "task=train", "training.max_steps=1", "optimizer.lr=1e-12"]
        answer = command(*STUDENT, *words, f"distillation={kind}")
        assert answer.code == 0, answer.err
        for name, value in network(last(only(mine / "cdbm_e2h"))).items():
            if name.removeprefix("network.") in averages:
                torch.testing.assert_close(value, averages[name.removeprefix("network.")], rtol=0, atol=1e-9)


@pytest.mark.parametrize("extra", [[], ["distillation.target_ema=0.9"]])
def test_a_resumed_student_is_the_undisturbed_one(
    runs: Path, tmp_path: Path, command: Command, extra: list[str]
) -> None:
    """From the checkpoint in the middle; the run folder knows the teacher. An averaged target goes on too."""
    mine = copied(runs, tmp_path)
    shutil.rmtree(mine / "cdbm_e2h")
    words = [*STUDENT, f"runs={mine}", "task=train", *extra]
    assert command(*words, "teacher=latest:ddbm_e2h").code == 0
    whole = last(only(mine / "cdbm_e2h"))
    wanted = network(whole)
    whole.unlink()
    answer = command(*words, f"ckpt={only(mine / 'cdbm_e2h')}")
    assert answer.code == 0, answer.err
    assert "going on from step 4" in answer.out + answer.err or whole.is_file()
    for name, value in network(whole).items():
        assert torch.equal(value, wanted[name]), name
    assert ("distillation" in load(whole)) == bool(extra)


@pytest.mark.slow
def test_two_ranks_train_the_same_student(runs: Path, tmp_path: Path, command: Command) -> None:
    """Each of them has the teacher; together they take the steps of one, to rounding."""
    mine = copied(runs, tmp_path)
    words = ["teacher=latest:ddbm_e2h", "trainer.accelerator=cpu", "task=train", "distillation=cbd"]
    for devices in (1, 2):
        answer = command(*STUDENT, f"runs={mine}", *words, f"trainer.devices={devices}")
        assert answer.code == 0, answer.err
    students = [folder for folder in (mine / "cdbm_e2h").iterdir() if not (runs / "cdbm_e2h" / folder.name).exists()]
    first, second = (network(last(folder)) for folder in students)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=2e-3, msg=name)


def test_sampling_needs_no_teacher(runs: Path, tmp_path: Path, command: Command) -> None:
    """Loading, evaluating, sampling and strips of pictures, when the teacher is gone."""
    mine = copied(runs, tmp_path)
    shutil.rmtree(mine / "ddbm_e2h")
    model = diffexp.load("latest:cdbm_e2h", runs=mine)
    y = torch.zeros(2, *model.shape)
    (name,) = model.samplers
    images = model.sample(2, 2, name, endpoints=y)
    assert bool(images.isfinite().all())
    ckpt = f"ckpt={only(mine / 'cdbm_e2h')}"
    answer = command(*STUDENT, f"runs={mine}", ckpt, "task=evaluate", "evaluation.again=true")
    assert answer.code == 0, answer.err
    answer = command(*STUDENT, f"runs={mine}", ckpt, "task=interpolate", "interpolation.points=5", "evaluation.nfe=[2]")
    assert answer.code == 0, answer.err
    (picture,) = mine.rglob("interpolation_*.png")
    with Image.open(picture) as strip:
        assert strip.size[0] > 6 * 56  # the end point and five images


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "needs teacher=: a checkpoint, a run folder, or latest:ddbm_e2h"),
        (["teacher=latest:nobody"], "teacher=latest:nobody: no run of 'nobody'"),
        (["teacher=no/where"], "teacher=no/where: no such file or folder"),
        (["teacher=latest:ddbm_e2h", "distillation.initialise=false"], "teacher=latest:ddbm_e2h: has no effect here"),
        (["teacher=latest:ddbm_e2h", "process.beta_d=3.0"], "process.beta_d=2.0, this command has 3.0"),
        (
            ["teacher=latest:ddbm_e2h", "process=brownian"],
            "process._target_=diffexp.process.bridge_schedule.BridgeVP, this command has",
        ),
        (["teacher=latest:ddbm_e2h", "prediction.head.cov=0.1"], "prediction.cov=0.0, this command has 0.1"),
        (["teacher=latest:ddbm_e2h", "network.channels=16"], "network.channels=8, this command has 16"),
        (
            ["teacher=latest:cdbm_e2h"],
            "prediction._target_=diffexp.prediction.consistency.Consistency, this command has",
        ),
        (["teacher=latest:ddbm_e2h", "distillation.teacher_ema=decay_9"], "distillation.teacher_ema=decay_9: not in"),
        (["teacher=latest:ddbm_e2h", "process=i2sb_discrete"], "the continuous process=i2sb"),
        (["teacher=latest:ddbm_e2h", "distillation=none"], "has no effect beside distillation=none"),
        (["distillation=none"], "objective=distilled: the loss comes from a distillation"),
        (["distillation=cbt", "distillation/schedule=constant", "distillation.schedule.dt=-1.0"], "schedule.dt=-1.0"),
        (["sampler=dbim", "evaluation.nfe=[5]"], "sampler dbim needs data, the prediction gives ['jump']"),
    ],
)
def test_refused_in_one_line(runs: Path, command: Command, words: list[str], named: str) -> None:
    """And nothing is left behind."""
    before = sorted(runs.rglob("*"))
    answer = command(*STUDENT, f"runs={runs}", *words)
    assert answer.code == 2
    assert named in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert sorted(runs.rglob("*")) == before
