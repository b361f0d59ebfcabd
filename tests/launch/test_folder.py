"""Run folders: what is in them, how they end, and that they reproduce their configuration."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import diffexp
from diffexp.__main__ import main
from diffexp.core.errors import CheckpointError, ConfigError, DiffexpError
from diffexp.launch.compose import config_hash
from diffexp.launch.find import check_checkpoint, find_folder, find_run, newest
from diffexp.launch.folder import RunFolder, git_revision, load_frozen, versions
from diffexp.launch.lock import LockedError

CONFIG: dict[str, Any] = {
    "recipe": "vp",
    "seed": 4,
    "training": {"lr": 1e-5, "betas": [0.9, 0.999], "steps": 10, "clip": None, "ema": True, "text": "1e-3"},
    "paper": {"bibtex": "@a{b,\n  title = {{gDDIM}: $x$}\n}", "value": ">100"},
}


def _config(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    return {**CONFIG, "runs": str(tmp_path / "runs"), **changes}


def _status(run: Path) -> dict[str, Any]:
    return json.loads((run / "status.json").read_text())


def _checkpoint(run: Path, step: int, text: str = "x") -> Path:
    path = run / "checkpoints" / f"step_{step:08d}.ckpt"
    path.write_text(text)
    return path


def test_a_run_folder_from_start_to_end(tmp_path: Path) -> None:
    config = _config(tmp_path)
    with RunFolder.create(config) as run:
        assert run.path.parent == tmp_path / "runs" / "vp"
        assert re.fullmatch(r"\d{8}T\d{6}\.\d{3}-4-[0-9a-f]{6}", run.path.name)
        names = {entry.name for entry in run.path.iterdir()}
        assert names == {"config.yaml", "versions.json", "status.json", "checkpoints", "lock"}
        assert _status(run.path)["state"] == "running"
        assert _status(run.path)["ended"] is None
    assert _status(run.path)["state"] == "ok"
    assert _status(run.path)["ended"] >= _status(run.path)["started"]
    assert not (run.path / "lock").exists()
    assert load_frozen(run.path) == config
    assert config_hash(load_frozen(run.path)) == config_hash(config)


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (DiffexpError("no data"), "failed", "no data"),
        (ValueError("first\nsecond"), "failed", "ValueError: first"),
        (SystemExit(143), "preempted", ""),
        (SystemExit(0), "ok", ""),
        (SystemExit(3), "failed", "exit code 3"),
        (KeyboardInterrupt(), "preempted", "interrupted from the keyboard"),
    ],
)
def test_every_ending_is_written_down(tmp_path: Path, error: BaseException, state: str, message: str) -> None:
    with pytest.raises(type(error)), RunFolder.create(_config(tmp_path)) as run:
        raise error
    assert (_status(run.path)["state"], _status(run.path)["message"]) == (state, message)
    assert not (run.path / "lock").exists()


def test_a_folder_is_resumed_by_one_writer_only(tmp_path: Path) -> None:
    with RunFolder.create(_config(tmp_path)) as run:
        pass
    with RunFolder.open(run.path) as again:
        assert again.config == run.config
        with pytest.raises(LockedError, match="in use by process"):
            RunFolder.open(run.path)
        assert _status(run.path)["state"] == "running"  # the refused writer changed nothing


def test_runs_made_at_once_do_not_collide(tmp_path: Path) -> None:
    paths = []
    for _ in range(20):
        with RunFolder.create(_config(tmp_path)) as run:
            paths.append(run.path)
    assert len(set(paths)) == 20


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(DiffexpError, match="no run folder can be made"):
        RunFolder.create(_config(tmp_path))


def test_frozen_configs_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run folder"):
        load_frozen(tmp_path)
    (tmp_path / "config.yaml").write_text("a: {_target_: os.system}\n")
    with pytest.raises(ConfigError, match=r"config.yaml: a._target_=os.system"):
        load_frozen(tmp_path)
    (tmp_path / "config.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_frozen(tmp_path)


def test_versions_and_revision(tmp_path: Path) -> None:
    found = versions()
    assert found["diffexp"] == diffexp.__version__
    assert found["torch"].split(".")[0].isdigit()
    assert git_revision(tmp_path) == {"git": None, "git_dirty": None}


def test_the_revision_of_a_surrounding_repository_does_not_count(tmp_path: Path) -> None:
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    inside = tmp_path / "venv" / "diffexp"
    inside.mkdir(parents=True)
    (tmp_path / "diffexp").mkdir()
    (tmp_path / "diffexp" / "file").write_text("1")
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "a"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    revision = git_revision(tmp_path / "diffexp")
    assert re.fullmatch(r"[0-9a-f]{40}", revision["git"])
    assert revision["git_dirty"] is False
    (tmp_path / "diffexp" / "file").write_text("2")
    assert git_revision(tmp_path / "diffexp")["git_dirty"] is True
    assert git_revision(inside) == {"git": None, "git_dirty": None}


def test_the_newest_complete_checkpoint_is_found(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with RunFolder.create(_config(tmp_path)) as old, RunFolder.create(_config(tmp_path)) as new:
        pass
    last = _checkpoint(old.path, 900)
    _checkpoint(old.path, 1000, "")  # empty: a save that did not finish
    (old.path / "checkpoints" / ".step_00002000.ckpt.ab.tmp").write_text("x")
    (old.path / "checkpoints" / "step_best.ckpt").write_text("x")
    assert newest(old.path) == last
    assert newest(new.path) is None
    # the newer run has no checkpoint yet, so the older one is the latest
    assert find_run("latest:vp", runs) == (old.path, last)
    newer = _checkpoint(new.path, 5)
    assert find_run("latest:vp", runs) == (new.path, newer)
    assert find_run(str(old.path), runs) == (old.path, last)
    assert find_run(str(old.path / "checkpoints"), runs) == (old.path, last)
    assert find_run(str(last), runs) == (old.path, last)
    loose = tmp_path / "weights.ckpt"
    loose.write_text("x")
    assert find_run(str(loose), runs) == (None, loose)


@pytest.mark.parametrize("depth", range(5))
def test_a_relative_checkpoint_is_the_newest_of_its_run_from_everywhere(
    depth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the folder above runs, from each one down to `checkpoints`: the run goes on in its folder, not a new one."""
    with RunFolder.create(_config(tmp_path)) as run:
        pass
    _checkpoint(run.path, 4)
    last = _checkpoint(run.path, 9)
    whole = last.relative_to(tmp_path)
    monkeypatch.chdir(tmp_path.joinpath(*whole.parts[:depth]))
    spec = Path(*whole.parts[depth:])
    for written in (str(spec), f"./{spec}"):
        found, checkpoint = find_run(written)
        assert found is not None
        assert found.samefile(run.path)
        assert checkpoint == newest(found)
        assert checkpoint.samefile(last)
        assert find_folder(written) == found
        assert depth == 4 or checkpoint == spec  # shown as it was written, wherever that names the folder
    folder = Path(".") if depth == 3 else spec.parent.parent if depth < 3 else Path("..")
    assert find_run(str(folder)) == (folder, folder / "checkpoints" / last.name)


def test_a_run_folder_without_a_checkpoint_is_enough_for_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An evaluation of an older checkpoint writes into such a folder."""
    with RunFolder.create(_config(tmp_path)) as run:
        pass
    (run.path / "samples_ddim.png").write_bytes(b"")
    for spec in (run.path, run.path / "checkpoints"):
        assert main(["task=report", f"ckpt={spec}"]) == 0
        assert capsys.readouterr().out == f"report: {run.path / 'report.md'}\n"
    assert "samples_ddim.png" in (run.path / "report.md").read_text()
    assert main(["task=sample", f"ckpt={run.path}"]) == 2
    assert "no checkpoint in it" in capsys.readouterr().err
    loose = tmp_path / "weights.ckpt"
    loose.write_text("x")
    assert main(["task=report", f"ckpt={loose}"]) == 2
    expected = f"diffexp: ckpt={loose}: neither a run folder nor in one (config.yaml is missing)\n"
    assert capsys.readouterr().err == expected


def test_missing_checkpoints_are_refused_with_what_there_is(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(CheckpointError, match=r"no run of 'vp' with a checkpoint.*, nor of any other recipe"):
        find_run("latest:vp", runs)
    with RunFolder.create(_config(tmp_path)) as run:
        pass
    with pytest.raises(CheckpointError, match=r"no checkpoint in it \(looked for checkpoints/step_<number>.ckpt\)"):
        find_run(str(run.path), runs)
    _checkpoint(run.path, 1)
    with pytest.raises(CheckpointError, match=r"no run of 'vpp'.*did you mean 'vp'\?"):
        find_run("latest:vpp", runs)
    with pytest.raises(CheckpointError, match=r"no such file or folder; runs with checkpoints: vp"):
        find_run(str(tmp_path / "nothing.ckpt"), runs)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    with RunFolder.create(_config(tmp_path)) as run:
        pass
    _checkpoint(run.path, 1)
    check_checkpoint(_config(tmp_path, ckpt=None))
    check_checkpoint(_config(tmp_path, ckpt=str(run.path)))
    check_checkpoint(_config(tmp_path, ckpt="latest:vp", recipe=None))
    with pytest.raises(CheckpointError, match=r"is of recipe 'vp', not of 'cld'"):
        check_checkpoint(_config(tmp_path, ckpt=str(run.path), recipe="cld"))
