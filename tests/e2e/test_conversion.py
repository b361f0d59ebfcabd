"""Students of several predictions from one teacher, as a user starts them: one multirun, one table."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch

from diffexp.__main__ import main
from diffexp.distillation.progressive import ProgressiveLoss
from diffexp.evaluation.results import read_rows
from diffexp.launch.folder import load_frozen
from diffexp.launch.sweep import read_sweep
from tests.e2e.conftest import Command
from tests.e2e.test_progressive import PLAN, base_of, last, weights

CONVERTED = [
    *(word for word in PLAN if "start_steps" not in word), "distillation.start_steps=4", "distillation.end_steps=2",
    "distillation.convert=6", "evaluation.arms.ddim.nfe.quick=[4,2,1]",
]  # fmt: skip
PREDICTIONS = ("eps", "both_angle")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of a multirun over predictions; read only."""
    runs = tmp_path_factory.mktemp("swept")
    assert main([*CONVERTED, f"runs={runs}", "-m", f"prediction={','.join(PREDICTIONS)}"]) == 0
    return runs


def students(runs: Path) -> dict[tuple[str, int], Path]:
    """{(prediction, steps): run folder}."""
    configs = {run: load_frozen(run) for run in (runs / "pd_cifar10").iterdir()}
    return {(c["choices"]["prediction"], c["distillation"]["student_steps"]): run for run, c in configs.items()}


def test_one_teacher_for_students_of_every_prediction(swept: Path) -> None:
    """It is trained once, in its own prediction; conversions begin anew at its steps, halvings start from them."""
    base, found = base_of(swept), students(swept)
    assert load_frozen(base)["choices"]["prediction"] == "x0_angle"
    assert set(found) == {(name, steps) for name in PREDICTIONS for steps in (4, 2)}
    for name in PREDICTIONS:
        conversion, halving = (load_frozen(found[name, steps]) for steps in (4, 2))
        assert Path(conversion["teacher"]).resolve() == last(base).resolve()
        assert conversion["distillation"]["teacher_steps"] == 4
        assert conversion["training"]["max_steps"] == 6
        assert conversion["optimizer"]["lr"] == 4.0e-3
        assert Path(halving["teacher"]).resolve() == last(found[name, 4]).resolve()
        assert halving["distillation"]["teacher_steps"] is None
        assert halving["training"]["max_steps"] == 5
        assert halving["optimizer"]["lr"] == 1.0e-3
        for steps in (4, 2):
            assert {row.nfe for row in read_rows(found[name, steps] / "results.csv") if row.control is None} == {steps}


def test_one_table_has_them_all(swept: Path) -> None:
    (sweep,) = (swept / "sweeps").iterdir()
    assert [job.state for job in read_sweep(sweep)] == ["ok"] * 6
    report = (sweep / "report.md").read_text()
    table = report.partition("### Students of one teacher")[2].partition("\n### ")[0]
    lines = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in table.splitlines() if line.startswith("|")}
    assert [cell.strip() for cell in lines["distance with"]] == ["4 steps", "2 steps"]
    found = students(swept)
    for name in PREDICTIONS:
        for steps, cell in zip((4, 2), lines[name], strict=True):
            rows = [row.value for row in read_rows(found[name, steps] / "results.csv") if row.control is None]
            assert float(re.match(r"[0-9.]+", cell.strip())[0]) == pytest.approx(sum(rows) / len(rows), rel=1e-3)
    assert all("±" in cell for cell in lines["undistilled teacher"])
    assert "### pd_cifar10, prediction eps: 4 (conversion), 2" in report
    assert "| 4 (conversion) | 6 | 0.000192 |" in report  # 6 updates of 8 images, 4 passes each


def test_what_was_tuned_is_said_with_what_it_was_tuned_on(swept: Path) -> None:
    (sweep,) = (swept / "sweeps").iterdir()
    section = (sweep / "report.md").read_text().partition("### pd_cifar10, prediction eps")[2].partition("\n### ")[0]
    assert "| undistilled, tuned |" in section
    assert "| 2 | 5 |" in section
    (line,) = (line for line in section.splitlines() if line.startswith("| 2 | 5 |"))
    assert re.search(r"\(ddpm(\(.*\))?\)", line)
    assert "1,024 images (noise of seed 1000) from the 896 images of the test split" in section


def test_killed_in_the_conversion_and_started_again(
    swept: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM in the middle of it: the same command goes on and ends with the weights of the undisturbed run."""
    base = shutil.copytree(swept / "pd_cifar10_base", tmp_path / "runs" / "pd_cifar10_base")
    words, calls, loss = [*CONVERTED, "task=train", "prediction=eps", f"teacher={next(base.iterdir())}"], [], None
    loss = ProgressiveLoss.__call__

    def killed(self, *given):
        calls.append(len(self.stage))
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(self, *given)

    monkeypatch.setattr(ProgressiveLoss, "__call__", killed)
    answer = command(*words)
    assert answer.code == 143, answer.err
    assert calls == [4] * 5
    monkeypatch.setattr(ProgressiveLoss, "__call__", loss)
    answer = command(*words)
    assert answer.code == 0, answer.err
    assert "one training after the other: 4 (conversion), 2" in answer.out
    assert "going on from step 5" in answer.err
    mine, whole = students(tmp_path / "runs"), students(swept)
    for steps in (4, 2):
        assert mine["eps", steps].name == whole["eps", steps].name  # the same fingerprint
        wanted = weights(whole["eps", steps])
        for name, value in weights(mine["eps", steps]).items():
            assert torch.equal(value, wanted[name]), (steps, name)


def test_a_converted_network_takes_its_own_steps(swept: Path, tmp_path: Path, command: Command) -> None:
    words = [*PLAN[2:11], f"runs={swept}", f"ckpt={students(swept)['both_angle', 4]}", "task=sample"]
    words += ["experiment=pd_cifar10", "scale=quick", "prediction=both_angle"]
    runs = Path(shutil.copytree(swept, tmp_path / "copy"))
    words = [word.replace(str(swept), str(runs)) for word in words]
    answer = command(*words, "evaluation.nfe=[4]")
    assert answer.code == 0, answer.err
    answer = command(*words, "evaluation.nfe=[2]")
    assert answer.code == 2
    assert "distilled to take exactly 4 steps" in answer.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["prediction=v"], "this command has diffexp.prediction.head.V; distillation.convert=<updates> converts it"),
        (
            ["prediction=v", "distillation.student_steps=2"],
            "distillation.student_steps=4 distillation.teacher_steps=4 converts it first",
        ),
        (["prediction=v", "distillation.convert=6", "process=vp"], "process._target_=diffexp.process.cosine.Cosine"),
        (["prediction=v", "distillation.convert=6", "network.channels=8"], "network.channels=4, this command has 8"),
        (["distillation.convert=0"], "distillation.convert=0: a stage is at least one update"),
    ],
)
def test_refused_in_one_line(swept: Path, tmp_path: Path, command: Command, words: list[str], named: str) -> None:
    said = [word for word in CONVERTED if not word.startswith("distillation.convert")]
    answer = command(*said, f"teacher={base_of(swept)}", *words)
    assert answer.code == 2
    assert named in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not list((tmp_path / "runs").rglob("config.yaml"))


def test_a_plan_is_refused_under_torchrun(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line and with exit code 2, before a rank has met another and before a folder is made."""
    told = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("diffexp.tasks.rank._keep_exit_code", lambda: None)  # it would make this process deaf
    answer = command(*CONVERTED)
    assert answer.code == 2
    assert answer.err.startswith("diffexp: distillation: a plan of several trainings, which torchrun cannot start")
    assert len(answer.err.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_chain_on_two_devices(swept: Path, tmp_path: Path, command: Command) -> None:
    """Conversion and halving, each with ranks of its own: the weights are those of one process with the joint batch."""
    words = [*CONVERTED, "task=train", "prediction=v", f"teacher={base_of(swept)}", "optimizer=sgd"]
    found = {}
    for devices in (1, 2):
        runs = tmp_path / f"on{devices}"
        answer = command(*words, f"runs={runs}", "trainer.accelerator=cpu", f"trainer.devices={devices}")
        assert answer.code == 0, answer.err
        found[devices] = students(runs)
    assert [len(list(run.glob("rank1.log"))) for run in found[2].values()] == [1, 1]
    for key, run in found[1].items():
        one, two, first = weights(run), weights(found[2][key]), weights(students(swept)["eps", 4])
        assert max(float((two[name] - value).abs().max()) for name, value in one.items()) < 1e-6, key
        assert max(float((first[name] - value).abs().max()) for name, value in one.items()) > 1e-3
