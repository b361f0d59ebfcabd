"""A package outside the repository brings a network, a data set, a process and a recipe; nothing in diffexp changes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import diffexp
from diffexp.checkpoint.file import load
from diffexp.core.errors import ConfigError
from tests.e2e import lab
from tests.e2e.conftest import Command

WORDS = ("plugins=[mylab]", "experiment=bumps")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An importable `mylab`, forgotten afterwards."""
    folder = lab.write(tmp_path / "site")
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
        del sys.modules[name]


def only(parent: Path) -> Path:
    (run,) = parent.iterdir()
    return run


def test_it_trains_and_reloads(command: Command, package: Path, tmp_path: Path) -> None:
    answer = command(*WORDS)
    assert answer.code == 0, answer.err
    run = only(tmp_path / "runs" / "bumps")
    with open(run / "results.csv", newline="", encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle) if row["sampler"] == "ddim"]
    assert [(row["network"], row["process"], row["nfe"]) for row in rows] == [("tiny", "steep", n) for n in "35"]
    state = load(run / "checkpoints" / "step_00000020.ckpt")
    assert sum(value.numel() for value in state["state_dict"].values()) == (9 * 8 + 8) + (8 + 8) + (9 * 8 + 1)
    assert "plugins:\n- mylab" in (run / "config.yaml").read_text()
    assert "python -m diffexp plugins=[mylab] experiment=bumps" in (run / "report.md").read_text()
    assert "(sources " in json.loads((run / "versions.json").read_text())["mylab"]

    model = diffexp.load(run, plugins=["mylab"])
    assert type(model.denoiser.network).__module__ == "mylab.net"
    assert model.denoiser.process.beta_max == 30.0
    images = model.sample(6, 5)
    assert images.shape == (6, 1, 8, 8)
    model.export("shared")
    assert torch.equal(diffexp.load("shared", plugins=["mylab"]).sample(6, 5), images)

    before = (run / "results.csv").read_bytes()
    assert command("plugins=[mylab]", "task=evaluate", "ckpt=latest:bumps").code == 0
    assert (run / "results.csv").read_bytes() == before
    again = command("plugins=[mylab]", "task=evaluate", "ckpt=latest:bumps", "evaluation.arms.ddim.nfe=[4]")
    assert again.code == 0, again.err


def test_without_the_word_it_says_which_word_is_missing(command: Command, package: Path, tmp_path: Path) -> None:
    assert command(*WORDS, "task=train", "training.max_steps=2").code == 0
    run = only(tmp_path / "runs" / "bumps")
    for words in (["task=evaluate", "ckpt=latest:bumps"], ["task=train", f"ckpt={run}"]):
        answer = command(*words)
        assert answer.code == 2
        assert "if 'mylab' is a plugin that you trust, name it: plugins=[mylab]" in answer.err
        assert answer.err.count("\n") == 1
    with pytest.raises(ConfigError, match=r"name it: plugins=\[mylab\]"):
        diffexp.load(run)
    answer = command("experiment=bumps")
    assert (answer.code, "experiment=bumps: there is no such experiment" in answer.err) == (2, True)


def test_its_choices_go_with_diffexps_own(command: Command, package: Path, tmp_path: Path) -> None:
    answer = command("--help", "plugins=mylab")
    assert "bumps" in answer.out
    assert "Bumps, to see whether a package of one's own works." in answer.out
    answer = command("plugins=mylab", "experiment=gddim_vp", "scale=quick", "dataset=bumps", "task=check")
    assert answer.code == 0, answer.err
    assert "data       bumps, 1x8x8, unconditional" in answer.out
    (package / "mylab" / "conf" / "network" / "small_image.yaml").write_text("_target_: mylab.net.Tiny\n")
    answer = command(*WORDS, "task=check")
    assert answer.code == 2
    assert "small_image.yaml: would be ignored, there is" in answer.err
    assert "give it another name" in answer.err


def test_two_folders_of_ones_own(command: Command, package: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine" / "experiment"
    mine.mkdir(parents=True)
    (mine / "wide.yaml").write_text("# @package _global_\ndefaults:\n  - bumps\nnetwork: {width: 12}\n")
    answer = command("--config-dir", str(mine.parent), "plugins=[mylab]", "experiment=wide", "task=check")
    assert answer.code == 0, answer.err
    assert f"tiny, {9 * 12 + 12 + 24 + 9 * 12 + 1} parameters" in answer.out
    (mine.parent / "config.yaml").write_text("plugins: [mylab]\n")
    answer = command("--config-dir", str(mine.parent), "experiment=gddim_vp", "task=check")
    assert answer.code == 2
    assert "config.yaml: would be ignored" in answer.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["network._target_=mylab.net.Shapeless", "~network.width"], "network: mylab.net.Shapeless is no diffexp.net"),
        (
            ["objective._target_=mylab.net.Shapeless"]
            + [f"~objective.{key}" for key in ("weighting", "times", "reduce", "label_dropout", "masked")],
            "objective: mylab.net.Shapeless is no diffexp.objective.base.Objective",
        ),
        (["dataset._target_=mylab.net.Tiny", "~dataset.count", "~dataset.radius"], "dataset: mylab.net.Tiny is no"),
        (["process._target_=mylab.net.Tiny", "~process.beta_min", "~process.beta_max"], "process: mylab.net.Tiny is"),
    ],
)
def test_classes_that_do_not_fit(command: Command, package: Path, words: list[str], message: str) -> None:
    answer = command(*WORDS, "task=check", *words)
    assert answer.code == 2
    assert message in answer.err
    assert answer.err.count("\n") == 1


def test_a_package_that_fails_is_one_line(command: Command, package: Path) -> None:
    (package / "mylab" / "net.py").write_text("import nothing_like_that\n" + lab.NET.replace("from __future__", "#"))
    answer = command(*WORDS, "task=check")
    assert answer.code == 2
    assert "nothing_like_that" in answer.err
    assert answer.err.count("\n") == 1


@pytest.mark.slow
def test_in_a_fresh_process_from_the_working_folder(tmp_path: Path) -> None:
    """`python -m` looks in the working folder, the console script does not: it says so."""
    lab.write(tmp_path)
    words = [*WORDS, "task=train", "training.max_steps=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    module = [sys.executable, "-m", "diffexp", *words]
    script = [sys.executable, "-c", "import sys; del sys.path[0]; from diffexp.__main__ import main; sys.exit(main())"]
    done = subprocess.run([*script, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "it is in the working folder, where this command does not look: use python -m diffexp" in done.stderr
    done = subprocess.run(module, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert load(only(tmp_path / "runs" / "bumps") / "checkpoints" / "step_00000002.ckpt")["global_step"] == 2


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
def test_on_two_ranks(command: Command, package: Path, tmp_path: Path) -> None:
    """The ranks build from the plugin by the permission of the command that started them; one of them shows the run."""
    words = [*WORDS, "task=train", "trainer.accelerator=cpu", "training.max_steps=6", "training.log_every=2"]
    lines = [[*words, f"trainer.devices={devices}", f"runs={tmp_path / str(devices)}"] for devices in (1, 2)]
    assert command(*lines[0]).code == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(package)}
    line = [sys.executable, "-m", "diffexp", *lines[1], "logger=tensorboard"]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    one, two = (only(tmp_path / str(devices) / "bumps") for devices in (1, 2))
    states = [load(run / "checkpoints" / "step_00000006.ckpt")["state_dict"] for run in (one, two)]
    for name, value in states[0].items():
        assert torch.allclose(value, states[1][name], rtol=0.0, atol=1e-6), name
    assert len(list(two.glob("tensorboard/train/events.*"))) == 1
    assert [json.loads(line)["step"] for line in (two / "metrics.jsonl").read_text().splitlines()] == [2, 4, 6]
