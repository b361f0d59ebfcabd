"""trainer.compile=true from the command line: the same training, the same folder, nearly the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

import diffexp
from diffexp.checkpoint.file import load
from diffexp.evaluation.results import read_rows
from diffexp.training import compile as compiling
from diffexp.training.compile import check_compiler
from tests.e2e.conftest import SMALL, Command


@pytest.fixture(autouse=True)
def without_code_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are captured and differentiated as ever, but run by torch itself."""
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    check_compiler.cache_clear()


@pytest.mark.slow
def test_a_compiled_run_is_the_run(command: Command, trained: Path, tmp_path: Path) -> None:
    counters.clear()
    answer = command(*SMALL, "trainer.compile=true")
    assert answer.code == 0, answer.err
    assert counters["stats"]["unique_graphs"] >= 3  # the check's, the training's, the sampling's
    run = tmp_path / "runs" / "gddim_vp" / trained.name  # compiling is no part of what names a training
    one, two = (load(folder / "checkpoints" / "step_00000030.ckpt") for folder in (trained, run))
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, value in one["state_dict"].items():
        assert torch.allclose(two["state_dict"][name], value, rtol=0.0, atol=1e-4), name
    values = [[row.value for row in read_rows(folder / "results.csv")] for folder in (trained, run)]
    assert values[1] == pytest.approx(values[0], rel=1e-3)
    assert '"float32, compiled"' in (run / "provenance.json").read_text()
    eager = diffexp.load(run).sample(4, 5)
    assert torch.allclose(eager, diffexp.load(trained).sample(4, 5), atol=1e-3)


def test_what_cannot_be_compiled_is_refused_before_anything(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: object, inputs: object) -> None:
        raise OSError("No working C++ compiler")

    monkeypatch.setattr(compiling, "BACKEND", broken)
    torch.compiler.reset()
    for words in ([], ["task=train"]):
        answer = command(*SMALL, "trainer.compile=true", *words)
        assert answer.code == 2
        assert answer.err.startswith("diffexp: trainer.compile=true: torch cannot compile for cpu: ")
        assert "No working C++ compiler" in answer.err
        assert answer.err.count("\n") == 1
    words = ["experiment=gddim_vp", "scale=quick", "network=oracle_dataset", "task=evaluate"]
    oracle = command(*words, "trainer.compile=true")
    assert (oracle.code, "an oracle has no network to compile" in oracle.err) == (2, True)
    assert list(tmp_path.iterdir()) == []
