"""A progressive distillation as a user starts it: one command, several trainings, one report."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch

import diffexp
from diffexp.__main__ import main
from diffexp.checkpoint.file import load
from diffexp.core.errors import ConfigError
from diffexp.core.naming import checkpoints
from diffexp.distillation.progressive import ProgressiveLoss
from diffexp.evaluation.results import read_rows
from diffexp.launch.folder import load_frozen
from diffexp.launch.sweep import read_sweep
from tests.e2e.conftest import Command

PLAN = [
    "experiment=pd_cifar10", "scale=quick", "network.channels=4", "network.multipliers=[1]", "training.max_steps=6",
    "training.batch_size=8", "training.log_every=2", "training.checkpoint_every=3", "evaluation.n=24",
    "evaluation.seeds=[0,1]", "evaluation.grid_images=2", "distillation.start_steps=8", "distillation.updates=4",
    "distillation.updates_at={4: 4, 2: 5, 1: 7}",
]  # fmt: skip
STAGES = {4: 4, 2: 5, 1: 7}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of a whole plan; read only."""
    runs = tmp_path_factory.mktemp("chain")
    assert main([*PLAN, f"runs={runs}"]) == 0
    return runs


def students(runs: Path) -> dict[int, Path]:
    """{N: run folder}."""
    return {load_frozen(run)["distillation"]["student_steps"]: run for run in (runs / "pd_cifar10").iterdir()}


def base_of(runs: Path) -> Path:
    (found,) = (runs / "pd_cifar10_base").iterdir()
    return found


def last(run: Path) -> Path:
    return checkpoints(run / "checkpoints")[-1]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in load(last(run))["state_dict"].items()}


def test_each_stage_learns_from_the_one_before(chain: Path) -> None:
    found, teacher = students(chain), base_of(chain)
    assert set(found) == set(STAGES)
    assert "student_steps" not in (load_frozen(teacher)["distillation"] or {})
    assert load_frozen(teacher)["training"]["max_steps"] == 6  # the command's words on training are the base's
    for steps, updates in STAGES.items():
        config = load_frozen(found[steps])
        assert Path(config["teacher"]).resolve() == last(teacher).resolve()
        assert config["training"]["max_steps"] == updates
        assert config["optimizer"]["decay_steps"] == updates
        assert config["network"]["dropout"] == 0.0
        lines = [json.loads(line) for line in (found[steps] / "metrics.jsonl").read_text().splitlines()]
        assert lines[0]["lr"] == pytest.approx(1e-3 * (1 - 1 / updates))  # fresh in every stage, falling to zero
        rows = read_rows(found[steps] / "results.csv")
        assert {row.nfe for row in rows if row.control is None} == {steps}
        teacher = found[steps]


def test_one_report_tells_cost_and_distance(chain: Path) -> None:
    (sweep,) = (chain / "sweeps").iterdir()
    report = (sweep / "report.md").read_text()
    section = report.partition("## Distillation")[2].partition("\n## ")[0]
    for line in ("| teacher, 8 | 6 | 0.000144 |", "| 4 | 4 | 0.00016 |", "| 2 | 5 | 0.0002 |", "| 1 | 7 | 0.00028 |"):
        assert line in section, section
    assert re.search(r"Distillation took 4\.44 x the passes and [0-9.]+ x the time of the base training", section)
    assert re.search(r"student of 4 steps is at .*, the teacher of 8 steps at .* times the floor's spread", section)
    assert len(re.findall(r"\(ddpm", section)) >= 2  # the stochastic sampler of the undistilled network
    assert [job.state for job in read_sweep(sweep)] == ["ok"] * 4
    assert read_sweep(sweep)[2].overrides[-1].startswith("teacher=")


def test_the_same_command_again_does_nothing(chain: Path, tmp_path: Path, command: Command) -> None:
    runs = Path(shutil.copytree(chain, tmp_path / "runs"))
    before = {steps: last(run).stat().st_mtime_ns for steps, run in students(runs).items()}
    answer = command(*PLAN, f"runs={runs}", "task=train")
    assert answer.code == 0, answer.err
    assert answer.out.count("complete already, nothing to train") == 4
    assert {steps: last(run).stat().st_mtime_ns for steps, run in students(runs).items()} == before


def test_killed_in_the_third_stage_and_started_again(
    chain: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM in the middle of a stage: the same command goes on, and ends with the weights of the undisturbed run."""
    words, calls, loss = [*PLAN, "task=train"], [], ProgressiveLoss.__call__

    def killed(self, *given):
        calls.append(len(self.stage))
        if calls.count(1) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(self, *given)

    monkeypatch.setattr(ProgressiveLoss, "__call__", killed)
    answer = command(*words)
    assert answer.code == 143, answer.err
    assert calls.count(1) == 5
    mine = tmp_path / "runs"
    assert last(students(mine)[1]).name != last(students(chain)[1]).name
    monkeypatch.setattr(ProgressiveLoss, "__call__", loss)
    answer = command(*words)
    assert answer.code == 0, answer.err
    assert answer.out.count("complete already, nothing to train") == 3
    for steps, run in students(mine).items():
        wanted = weights(students(chain)[steps])
        for name, value in weights(run).items():
            assert torch.equal(value, wanted[name]), (steps, name)


def test_a_longer_plan_takes_what_there_is(chain: Path, tmp_path: Path, command: Command) -> None:
    """With the first teacher given; stages that an earlier plan has done are not repeated."""
    runs = Path(shutil.copytree(chain, tmp_path / "runs"))
    shutil.rmtree(students(runs)[1])
    answer = command(*PLAN, f"runs={runs}", "task=train", f"teacher={base_of(runs)}", "distillation.end_steps=1")
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[0] == "one training after the other: 4, 2, 1"
    assert answer.out.count("complete already") == 2
    for name, value in weights(students(runs)[1]).items():
        assert torch.equal(value, weights(students(chain)[1])[name]), name


def test_a_sweep_of_plans(tmp_path: Path, command: Command) -> None:
    """Each has a chain of its own, and one report has them all."""
    words = ["distillation.end_steps=4", "-m", "prediction=x0,v", "evaluation.seeds=[0]", "evaluation.controls=[]"]
    answer = command(*PLAN, *words)
    assert answer.code == 0, answer.err
    (sweep,) = (tmp_path / "runs" / "sweeps").iterdir()
    assert [job.state for job in read_sweep(sweep)] == ["ok"] * 4
    report = (sweep / "report.md").read_text()
    assert "### pd_cifar10, prediction x0: 4" in report
    assert "### pd_cifar10, prediction v: 4" in report


def test_a_stage_that_fails_ends_the_chain(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self, *given):
        raise ConfigError("this stage is broken")

    monkeypatch.setattr(ProgressiveLoss, "__call__", broken)
    answer = command(*PLAN, "task=train")
    assert answer.code == 2
    assert "this stage is broken" in answer.err
    (sweep,) = (tmp_path / "runs" / "sweeps").iterdir()
    assert [job.state for job in read_sweep(sweep)] == ["ok", "failed", "waiting", "waiting"]


def test_a_student_takes_its_own_steps(chain: Path, tmp_path: Path, command: Command) -> None:
    runs = Path(shutil.copytree(chain, tmp_path / "runs"))
    student = students(runs)[2]
    words = [f"runs={runs}", f"ckpt={student}", *PLAN[2:11]]
    for task in ("evaluate", "sample"):
        answer = command(*words, f"task={task}", "evaluation.nfe=[4]")
        assert answer.code == 2
        assert "evaluation.nfe=4: the network was distilled to take exactly 2 steps" in answer.err
        assert len(answer.err.strip().splitlines()) == 1
    allowed = command(*words, "task=sample", "evaluation.nfe=[4]", "evaluation.allow_off_grid=true")
    assert allowed.code == 0, allowed.err
    for word in ([], ["evaluation.nfe=[2]"]):
        assert command(*words, "task=sample", *word).code == 0
    model = diffexp.load(student)
    (name,) = model.samplers
    assert bool(model.sample(2, 2, name).isfinite().all())
    with pytest.raises(ConfigError, match="nfe=3: the network was distilled to take exactly 2 steps"):
        model.sample(2, 3, name)
    assert bool(model.sample(2, 3, name, allow_off_grid=True).isfinite().all())


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["distillation.start_steps=6"], "must be a power of two: use e.g. start_steps=8"),
        (["distillation.start_steps=64", "distillation.end_steps=3"], "use e.g. start_steps=96"),
        (["base=null"], "needs teacher=, or base=, a recipe that is trained first"),
        (["base=pd_cifar"], "base=pd_cifar: there is no such recipe; did you mean 'pd_cifar10'"),
        (["beside=[gddim_vp]"], "beside: a plan of trainings has its own report"),
        (["teacher=BASE", "prediction=v"], "prediction._target_=diffexp.prediction.head.X0, this command has"),
        (["teacher=BASE", "process=vp"], "process._target_=diffexp.process.cosine.Cosine, this command has"),
        (["teacher=BASE", "process.logsnr_max=15"], "process.logsnr_max=20.0, this command has 15"),
        (["teacher=BASE", "network.channels=8"], "network.channels=4, this command has 8"),
        (["teacher=STUDENT"], "is a student of 4 steps: add distillation.start_steps=4"),
        (["distillation.student_steps=4"], "needs teacher=: a checkpoint, a run folder, or latest:pd_cifar10_base"),
        (
            ["distillation.student_steps=4", "teacher=STUDENT"],
            "a student of 4 needs one of 8, or an",
        ),
        (
            ["distillation.student_steps=4", "teacher=BASE", "prediction=v"],
            "has diffexp.prediction.head.V",
        ),
        (["distillation.student_steps=4", "teacher=BASE", "evaluation.nfe=[8]"], "distilled to take exactly 4 steps"),
        (["ckpt=STUDENT"], "but not under torchrun or with ckpt="),
        (["objective=ddm_v1", "distillation.student_steps=4", "teacher=BASE"], "use objective=snr_trunc"),
    ],
)
def test_refused_in_one_line(chain: Path, tmp_path: Path, command: Command, words: list[str], named: str) -> None:
    """And no run is left behind."""
    places = {"BASE": str(base_of(chain)), "STUDENT": str(students(chain)[4])}
    said = [re.sub("BASE|STUDENT", lambda found: places[found[0]], word) for word in words]
    answer = command(*PLAN, *said)
    assert answer.code == 2
    assert named in answer.err
    assert not list((tmp_path / "runs").rglob("config.yaml"))
