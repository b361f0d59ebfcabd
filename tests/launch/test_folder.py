"""Run folders: what is in them, how they end, and that they reproduce their configuration."""

from __future__ import annotations

import json
import os
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


def _run(tmp_path: Path, name: str = "one", **changes: Any) -> RunFolder:
    """A run folder that is ready for a `with` block."""
    run = RunFolder.claim(tmp_path / "runs" / "vp" / name, "job")
    run.freeze(_config(tmp_path, **changes))
    return run


def _status(run: Path) -> dict[str, Any]:
    return json.loads((run / "status.json").read_text())


def _checkpoint(run: Path, step: int, text: str = "x") -> Path:
    path = run / "checkpoints" / f"step_{step:08d}.ckpt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_a_run_folder_from_start_to_end(tmp_path: Path) -> None:
    config = _config(tmp_path)
    with _run(tmp_path) as run:
        assert run.path == tmp_path / "runs" / "vp" / "one"
        assert {entry.name for entry in run.path.iterdir()} == {"config.yaml", "versions.json", "status.json", "lock"}
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
    with pytest.raises(type(error)), _run(tmp_path) as run:
        raise error
    assert (_status(run.path)["state"], _status(run.path)["message"]) == (state, message)
    assert not (run.path / "lock").exists()


def test_a_folder_has_one_writer_at_a_time(tmp_path: Path) -> None:
    with _run(tmp_path) as run:
        pass
    with RunFolder.open(run.path) as again:
        assert again.config == run.config
        for refused in (RunFolder.open, RunFolder.claim):
            with pytest.raises(LockedError, match=f"in use by process {os.getpid()}$"):
                refused(run.path)
        assert _status(run.path)["state"] == "running"  # the refused writers changed nothing
    held = RunFolder.claim(run.path, "what I do")
    before = (run.path / "status.json").read_bytes()
    with pytest.raises(LockedError) as caught:
        RunFolder.claim(run.path)
    assert caught.value.job == "what I do"
    held.release()
    assert (run.path / "status.json").read_bytes() == before
    assert not (run.path / "lock").exists()


def test_what_a_killed_writer_left_half_written_is_removed(tmp_path: Path) -> None:
    with _run(tmp_path) as run:
        pass
    kept = [_checkpoint(run.path, 7), run.path / ".lock.abc.tmp"]  # a lock's draft may be another process's
    drafts = [run.path / ".results.csv.abc.tmp", run.checkpoints / ".step_00000008.ckpt.abc.tmp"]
    for path in (kept[1], *drafts):
        path.write_text("half")
    RunFolder.claim(run.path).release()
    assert [path.exists() for path in (*kept, *drafts)] == [True, True, False, False]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(DiffexpError, match=r"no run folder can be made or written at .*runs/vp/one: .*Not a directory"):
        _run(tmp_path)


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
    with _run(tmp_path, "2") as old, _run(tmp_path, "1") as new:
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
    os.utime(last, ns=(1, 10**18))
    os.utime(newer, ns=(1, 10**18 + 1))  # by time: names are fingerprints
    assert find_run("latest:vp", runs) == (new.path, newer)
    os.utime(last, ns=(1, 10**18 + 2))
    assert find_run("latest:vp", runs) == (old.path, last)
    assert find_run(str(old.path), runs) == (old.path, last)
    assert find_run(str(old.path / "checkpoints"), runs) == (old.path, last)
    assert find_run(str(last), runs) == (old.path, last)
    loose = tmp_path / "weights.ckpt"
    loose.write_text("x")
    assert find_run(str(loose), runs) == (None, loose)


def test_weights_that_are_kept_elsewhere(tmp_path: Path) -> None:
    """An evaluation of another run's weights: its checkpoint is theirs, and stays so when all runs are moved."""
    runs = tmp_path / "runs"
    with _run(tmp_path, "a") as first, _run(tmp_path, "a-b") as second:
        second.refer(first.path, None)
    assert json.loads((second.path / "training.json").read_text()) == {"folder": "../a", "checkpoint": None}
    assert newest(second.path) is None
    early, late = _checkpoint(first.path, 5), _checkpoint(first.path, 9)
    assert find_run(str(second.path), runs) == (second.path, late)
    second.refer(first.path, early)
    assert newest(second.path) == early
    assert find_run("latest:vp", runs) == (first.path, late)
    moved = runs.rename(tmp_path / "moved")
    assert newest(moved / "vp" / "a-b") == moved / "vp" / "a" / "checkpoints" / early.name
    (moved / "vp" / "a" / "checkpoints" / early.name).unlink()
    assert newest(moved / "vp" / "a-b") is None
    (moved / "vp" / "a-b" / "training.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"a-b/training.json: unreadable"):
        newest(moved / "vp" / "a-b")


@pytest.mark.parametrize("depth", range(5))
def test_a_relative_checkpoint_is_the_newest_of_its_run_from_everywhere(
    depth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the folder above runs, from each one down to `checkpoints`: the run goes on in its folder, not a new one."""
    with _run(tmp_path) as run:
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
    """Pictures alone make one too."""
    with _run(tmp_path) as run:
        pass
    (run.path / "samples_ddim.png").write_bytes(b"")
    run.checkpoints.mkdir()
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
    with _run(tmp_path) as run:
        pass
    with pytest.raises(CheckpointError, match=r"no checkpoint in it \(looked for checkpoints/step_<number>.ckpt\)"):
        find_run(str(run.path), runs)
    _checkpoint(run.path, 1)
    with pytest.raises(CheckpointError, match=r"no run of 'vpp'.*did you mean 'vp'\?"):
        find_run("latest:vpp", runs)
    with pytest.raises(CheckpointError, match=r"no such file or folder; runs with checkpoints: vp"):
        find_run(str(tmp_path / "nothing.ckpt"), runs)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    with _run(tmp_path) as run:
        pass
    _checkpoint(run.path, 1)
    check_checkpoint(_config(tmp_path, ckpt=None))
    check_checkpoint(_config(tmp_path, ckpt=str(run.path)))
    check_checkpoint(_config(tmp_path, ckpt="latest:vp", recipe=None))
    with pytest.raises(CheckpointError, match=r"is of recipe 'vp', not of 'cld'"):
        check_checkpoint(_config(tmp_path, ckpt=str(run.path), recipe="cld"))
