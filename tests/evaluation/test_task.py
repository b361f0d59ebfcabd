"""task=run and task=evaluate: what is refused before a folder is made, and what is not done twice."""

from __future__ import annotations

import csv
import os
import shutil
import signal

import pytest
import torch

from diffexp.__main__ import main
from diffexp.evaluation.results import read_rows, write_rows
from diffexp.sampler.loop import Sampler
from tests.e2e.conftest import SMALL

TINY = [*SMALL, "training.max_steps=4", "training.checkpoint_every=4", "evaluation.arms.heun.nfe=[3]"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    assert main([*TINY, f"runs={runs}"]) == 0
    (run,) = (runs / "gddim_vp").iterdir()
    return run


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the trained run that a test may write to."""
    return shutil.copytree(trained, tmp_path / "run")


def _values(run):
    with open(run / "results.csv", newline="", encoding="utf-8") as handle:
        rows = csv.DictReader(handle)
        return {(row["sampler"], row["grid"], row["nfe"], row["seed"]): row["value"] for row in rows}


@pytest.fixture
def counted(monkeypatch):
    """The images that samplers were asked for, by NFE."""
    seen = []
    original = Sampler.sample

    def sample(self, denoiser, noise, nfe, *rest):
        seen.append((self.name, nfe, noise.initial().shape[0]))
        return original(self, denoiser, noise, nfe, *rest)

    monkeypatch.setattr(Sampler, "sample", sample)
    return seen


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["evaluation.ema=decay_0.99"], "ema=decay_0.99: there is no such average; did you mean 'decay_0.995'"),
        (["trainer.accelerator=gpu"], "trainer.accelerator=gpu: no GPU is visible to torch"),
    ],
)
@pytest.mark.parametrize("task", ["run", "evaluate", "sample"])
def test_what_cannot_be_evaluated_is_refused_before_any_folder(
    words, reason, task, trained, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = sorted(trained.rglob("*"))
    ckpt = [] if task == "run" else [f"ckpt={trained}"]
    assert main([*TINY, *words, *ckpt, f"task={task}", f"runs={tmp_path / 'runs'}"]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
    assert sorted(trained.rglob("*")) == before


def test_the_checkpoints_own_averages_count(run, capsys):
    """The profile was trained with overrides that the evaluation need not say again."""
    words = [*TINY, "ema.decays=[0.5]", f"ckpt={run}", "task=evaluate", "sampler=ddim", "evaluation.nfe=[2]"]
    assert main([*words, "evaluation.ema=decay_0.5"]) == 2
    assert "evaluation.ema=decay_0.5" in capsys.readouterr().err
    assert main([*words, "evaluation.ema=decay_0.995"]) == 0


def test_evaluating_again_does_what_is_missing(run, counted):
    before = _values(run)
    assert main([*TINY, "task=evaluate", f"ckpt={run}"]) == 0
    assert _values(run) == before
    assert {images for _, _, images in counted} == {4}, "only the grids' images"
    rows = read_rows(run / "results.csv")
    (run / "results.csv").unlink()
    write_rows(run / "results.csv", [row for row in rows if (row.sampler, row.seed) != ("heun", 1)])
    assert len(_values(run)) == len(before) - 1
    counted.clear()
    assert main([*TINY, "task=evaluate", f"ckpt={run}"]) == 0
    assert _values(run) == before
    assert [(name, nfe) for name, nfe, images in counted if images == 48] == [("heun", 3)] * 2  # one warms up


def test_a_preempted_evaluation_goes_on(run, monkeypatch):
    """SIGTERM in the sixth batch: the rows of before are saved, and the rest makes the same numbers."""
    before = _values(run)
    (run / "results.csv").unlink()
    original, calls = Sampler.sample, []

    def sample(*arguments):
        calls.append(arguments[3])
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "sample", sample)
        assert main([*TINY, "task=evaluate", f"ckpt={run}"]) == 143
    saved = _values(run)
    assert len(saved) == 4 * 2 + 4  # the controls and, after the warm-up, four sets of samples
    assert saved.items() < before.items()
    assert main([*TINY, "task=evaluate", f"ckpt={run}"]) == 0
    assert _values(run) == before


def test_again_measures_everything_again(run, counted):
    before = _values(run)
    assert main([*TINY, "task=evaluate", f"ckpt={run}", "evaluation.again=true"]) == 0
    assert _values(run) == before
    assert sum(images == 48 for _, _, images in counted) == 4 * 2 + 1


def test_a_sampler_with_other_settings_has_rows_of_its_own(run):
    before = _values(run)
    words = [*TINY, "task=evaluate", f"ckpt={run}", "sampler=ddim"]
    assert main([*words, "sampler.clip=true"]) == 0
    assert main([*words, "grid.p=3"]) == 0
    after = _values(run)
    assert {key: after[key] for key in before} == before
    new = {key[:3] for key in after if key not in before}
    grid = "power(p={},t_end=0.001,last=state)"
    expected = {("ddim(clip)", grid.format(2), nfe) for nfe in ("5", "10")}
    assert new == expected | {("ddim", grid.format(3), nfe) for nfe in ("5", "10")}
    assert len(set(after.values())) > len(set(before.values()))
    report = (run / "report.md").read_text(encoding="utf-8")
    for label in ("ddim (power(p=2))", "ddim (power(p=3))", "ddim(clip)", "heun"):
        assert f"| {label} " in report
    assert (run / "samples_ddim_clip.png").is_file()
