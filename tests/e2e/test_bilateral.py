"""A schedule network for a finished model, as a user trains it: one recipe takes teachers of every kind."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import diffexp
from diffexp.__main__ import main
from diffexp.checkpoint.file import load
from diffexp.core.naming import checkpoints
from diffexp.launch.folder import load_frozen
from diffexp.launch.layout import read_layout
from tests.e2e.conftest import Command
from tests.e2e.standin import compose

RECIPE = """# @package _global_
defaults:
  - /sampler@evaluation.arms.ddim: ddim
  - override /process: ddpm
  - override /prediction: eps_index
  - override /objective: distilled
  - override /distillation: bilateral
  - override /distillation/schedule_network: small
  - override /network: ddpm_cifar10
  - override /grid: uniform
  - override /optimizer: adamw
adopt: [process, prediction, network]
objective: {reduce: sum}
evaluation:
  arms:
    ddim: {nfe: [3]}
paper: {title: Bilateral denoising diffusion models, arxiv: "2203.13508"}
"""
SMALLER = ["network.channels=8", "network.multipliers=[1,2]", "network.dropout=0.3"]
TEACHERS = {  # a continuous process, a table, two heads, the velocity on a third
    "gddim_vp": SMALLER,
    "ddpm_cifar10": SMALLER,
    "ddm_const_cifar10": [],
    "pd_cifar10_base": [*SMALLER, "prediction=v"],
}
TINY = ["scale=quick", "training.batch_size=8", "training.max_steps=3", "training.log_every=1"]
STUDENT = [*TINY, "experiment=scheduled", "distillation.tau=300", "optimizer.clip_norm=null"]
COUNTS = ["evaluation.n=24", "evaluation.seeds=[0]", "evaluation.grid_images=4", "evaluation.controls=[]"]


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("conf")
    (folder / "experiment").mkdir()
    (folder / "experiment" / "scheduled.yaml").write_text(RECIPE)
    return f"--config-dir={folder}"


@pytest.fixture(scope="module")
def runs(conf: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Teachers, and the schedule network of each; read only."""
    runs = tmp_path_factory.mktemp("scheduled")
    for recipe, words in TEACHERS.items():
        assert main([*TINY, f"experiment={recipe}", "task=train", f"runs={runs}", *words]) == 0
        assert main([conf, *STUDENT, "task=train", f"runs={runs}", f"teacher=latest:{recipe}"]) == 0
    return runs


def only(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def last(run: Path) -> Path:
    return checkpoints(run / "checkpoints")[-1]


def student(runs: Path, recipe: str) -> Path:
    """The run that was trained on this teacher."""
    teacher = last(only(runs / recipe)).resolve()
    found = [run for run in (runs / "scheduled").iterdir() if Path(load_frozen(run)["teacher"]).resolve() == teacher]
    assert len(found) == 1
    return found[0]


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("recipe", TEACHERS)
def test_a_teacher_of_any_kind_is_adopted_and_kept(runs: Path, recipe: str) -> None:
    """The student has its model, its averaged weights bit for bit, and a schedule network that moves."""
    teacher, run = only(runs / recipe), student(runs, recipe)
    theirs, own = load_frozen(teacher), load_frozen(run)
    for group in ("process", "prediction", "network"):
        assert own[group] == theirs[group]
        assert own["choices"][group] == theirs["choices"][group]
    (average,) = load(last(teacher))["ema"]["profiles"].values()
    state = load(last(run))
    network = {name.removeprefix("network."): value for name, value in state["state_dict"].items()}
    assert all(torch.equal(network[f"score.{name}"], value) for name, value in average.items())
    (averaged,) = state["ema"]["profiles"].values()
    assert set(averaged) == {name for name in network if name.startswith("schedule.")}
    assert all("max_exp_avg_sq" in entry for entry in state["optimizer_states"][0]["state"].values())  # AMSGrad
    for line in lines(run):
        assert 0.4 < line["sigma"] < 0.6
        assert line["bounded"] == 0.0 or recipe == "ddm_const_cifar10"
        assert line["kl"] > line["loss"] > 0.0  # half of the logarithm is left out


def test_it_samples_as_its_teacher_does(runs: Path, tmp_path: Path) -> None:
    """Loaded, exported and loaded again; the teacher need not be there."""
    mine = Path(shutil.copytree(student(runs, "gddim_vp"), tmp_path / "runs" / "scheduled" / "x"))
    model = diffexp.load(mine)
    teacher = dataclasses.replace(diffexp.load("latest:gddim_vp", runs=runs), samplers=model.samplers)
    wanted = teacher.sample(2, 4)
    assert torch.equal(model.sample(2, 4), wanted)
    model.export(tmp_path / "shared")
    again = diffexp.load(tmp_path / "shared")
    assert torch.equal(again.sample(2, 4), wanted)
    x = torch.zeros(1, *again.shape)
    assert torch.equal(again.denoiser.network.schedule(x), model.denoiser.network.schedule(x))


def test_a_checkpoint_alone_is_evaluated_with_its_teachers_model(
    runs: Path, conf: str, tmp_path: Path, command: Command
) -> None:
    mine = Path(shutil.copytree(student(runs, "ddm_const_cifar10"), tmp_path / "runs" / "scheduled" / "x"))
    answer = command(conf, "task=evaluate", f"ckpt={mine}", "optimizer.clip_norm=null", *COUNTS)
    assert answer.code == 0, answer.err
    head, row = (line.split(",") for line in (mine / "results.csv").read_text().splitlines()[:2])
    named = dict(zip(head, row, strict=False))
    assert (named["process"], named["prediction"], named["network"]) == ("ddm_const", "ddm_v1", "small_image")


def test_a_resumed_training_is_the_undisturbed_one(runs: Path, conf: str, tmp_path: Path, command: Command) -> None:
    """In the middle of an interval of metrics.jsonl, whose means of kl, sigma and bounded go on too."""
    words = [conf, *STUDENT, f"runs={tmp_path / 'runs'}", "task=train", "training.max_steps=6", "training.log_every=4"]
    words += ["training.checkpoint_every=3", "training.keep=9"]
    assert command(*words, f"teacher={only(runs / 'gddim_vp')}").code == 0
    run = only(tmp_path / "runs" / "scheduled")
    whole = last(run)
    wanted, told = load(whole), lines(run)
    whole.unlink()
    answer = command(*words, f"ckpt={run}")
    assert answer.code == 0, answer.err
    again = load(whole)
    for name, value in wanted["state_dict"].items():
        assert torch.equal(again["state_dict"][name], value), name
    keys = ("step", "loss", "kl", "sigma", "bounded", "gradient_norm")
    assert [[line[key] for key in keys] for line in lines(run)] == [[line[key] for key in keys] for line in told]
    single = lines(student(runs, "gddim_vp"))  # the same first steps, told one by one
    assert told[0]["step"] == 4
    assert single[-1]["step"] == 3
    fourth = 4.0 * told[0]["sigma"] - sum(line["sigma"] for line in single)
    assert 0.4 < fourth < 0.6


@pytest.mark.slow
def test_two_ranks_train_the_same_schedule_network(runs: Path, conf: str, tmp_path: Path, command: Command) -> None:
    """And agree on the figures."""
    found = []
    for devices in (1, 2):
        mine = tmp_path / f"runs{devices}"
        words = [f"runs={mine}", f"teacher={only(runs / 'ddpm_cifar10')}", "trainer.accelerator=cpu", "task=train"]
        answer = command(conf, *STUDENT, *words, f"trainer.devices={devices}")
        assert answer.code == 0, answer.err
        found.append(only(mine / "scheduled"))
    one, two = (load(last(run))["state_dict"] for run in found)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0.0, atol=1e-4, msg=name)
    for first, second in zip(*map(lines, found), strict=True):
        for key in ("loss", "kl", "sigma", "bounded"):
            assert second[key] == pytest.approx(first[key], rel=1e-4)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "needs teacher=: a checkpoint, a run folder, or latest:<recipe>, e.g. latest:ddpm_cifar10"),
        (["teacher=VP", "process=vp"], "process=vp: has no effect: teacher="),
        (["teacher=VP", "network.channels=8"], "brings its own process, prediction, network; leave it out, or say ad"),
        (["teacher=VP", "adopt=[]"], "was trained with process._target_=diffexp.process.vp.VP, this command has"),
        (["teacher=VP", "adopt=[proces]"], "adopt: 'proces' is no part of a model; did you mean 'process'?"),
        (["teacher=VP", "adopt=process"], "adopt=process: a list is needed, e.g. adopt=[process,prediction,network]"),
        (["teacher=VP", "objective=plain"], "its loss takes the objective's place: add objective=distilled"),
        (["teacher=STUDENT"], "has a schedule network already; its own teacher is"),
        (["teacher=VP", "distillation/schedule_network=galr"], "GALR reads waveforms (1, L), these samples are (1, 8"),
        (["teacher=VP", "distillation.teacher_ema=decay_9"], "distillation.teacher_ema=decay_9: not in"),
        (["ckpt=STUDENT", "task=evaluate", "prediction=v"], "prediction=v: has no effect: ckpt="),
    ],
)  # fmt: skip
def test_refused_in_one_line(
    runs: Path, conf: str, tmp_path: Path, command: Command, words: list[str], named: str
) -> None:
    places = {"VP": str(only(runs / "gddim_vp")), "STUDENT": str(student(runs, "gddim_vp"))}
    said = ["=".join(places.get(part, part) for part in word.split("=")) for word in words]
    answer = command(conf, *STUDENT, *said)
    assert answer.code == 2
    assert named in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("recipe", "why"),
    [("gddim_cld", "cld has more than one number for each"), ("ddbm_e2h", "bridge_vp starts from an image, not from")],
)
def test_teachers_that_cannot_have_one_schedule_are_refused(
    conf: str, tmp_path: Path, command: Command, recipe: str, why: str
) -> None:
    """By the process that they bring, before their weights are read."""
    run = tmp_path / recipe
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "step_00000003.ckpt").write_bytes(b"-")
    config = compose(read_layout(), f"experiment={recipe}", "scale=quick")
    (run / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    answer = command(conf, *STUDENT, f"teacher={run}")
    assert answer.code == 2
    assert f"distillation=bilateral: process {why}" in answer.err
    assert "choose a teacher on vp, ve or ddpm" in answer.err
    assert [path.name for path in tmp_path.iterdir()] == [recipe]


def test_check_tells_both_sizes(runs: Path, conf: str, command: Command) -> None:
    answer = command(conf, *STUDENT, "task=check", f"teacher={only(runs / 'ddpm_cifar10')}")
    assert answer.code == 0, answer.err
    frozen = sum(value.numel() for value in load(last(only(runs / "ddpm_cifar10")))["state_dict"].values())
    assert f"small_image, 23,361 parameters beside {frozen:,} frozen ones" in answer.out
    assert "distilled  bilateral (a schedule network, tau 300), starts from" in answer.out
