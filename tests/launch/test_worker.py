"""The worker of a launcher: devices shared out, a scheduler's signal answered by saving, launchers."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from pathlib import Path

import pytest

from diffexp.__main__ import main
from diffexp.core.errors import ConfigError
from diffexp.launch import worker
from diffexp.launch.compose import compose_jobs
from diffexp.launch.layout import read_layout
from diffexp.launch.lock import this_process
from diffexp.launch.schema import check_hydra
from diffexp.launch.signals import StopRequest
from diffexp.launch.worker import Origin, saved_before_requeue, visible_devices

JOBLIB = {"_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"}
SLURM = {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"}


def devices(config: dict, sweep: Path, launcher: dict = JOBLIB, running: int = 3) -> list[str | None]:
    """What each of several jobs that run at a time is given, of three GPUs."""
    origin = Origin(this_process(), ("4", "GPU-b", "6"))
    found, entered = [], []
    for _ in range(running):
        context = origin.working(config, launcher, sweep)
        found.append(context.__enter__().get("CUDA_VISIBLE_DEVICES"))
        entered.append(context)
    for context in reversed(entered):
        context.__exit__(None, None, None)
    return found


def test_jobs_that_run_at_a_time_have_devices_of_their_own(tmp_path: Path) -> None:
    config = {"trainer": {"devices": 1, "accelerator": "auto"}}
    assert devices(config, tmp_path) == ["4", "GPU-b", "6"]
    assert devices(config, tmp_path, running=4) == ["4", "GPU-b", "6", "4"], "more jobs than devices share"
    assert devices({"trainer": {"devices": 2}}, tmp_path, running=2) == ["4,GPU-b", "6,4"]
    assert devices({"trainer": {"devices": 9}}, tmp_path, running=1) == ["4,GPU-b,6"]
    assert devices({"trainer": {"accelerator": "cpu"}}, tmp_path, running=2) == [None, None]
    assert devices(config, tmp_path, SLURM, running=2) == [None, None], "Slurm has given them already"
    assert list(tmp_path.iterdir()) == []


def test_a_device_is_free_again_when_its_job_has_ended(tmp_path: Path) -> None:
    origin, config = Origin(this_process(), ("0", "1")), {"trainer": {}}
    with origin.working(config, JOBLIB, tmp_path) as first:
        with origin.working(config, JOBLIB, tmp_path) as second:
            pass
        with origin.working(config, JOBLIB, tmp_path) as third:
            pass
    assert [found["CUDA_VISIBLE_DEVICES"] for found in (first, second, third)] == ["0", "1", "1"]


def test_the_devices_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-7")
    assert visible_devices() == ("3", "GPU-7")
    assert Origin.here(parallel=False).devices == ()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_devices() == ()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 0\necho 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_devices() == ("0", "1")
    program.unlink()
    assert visible_devices() == ()


def test_a_worker_is_no_command() -> None:
    here = Origin.here(parallel=False)
    assert here.is_here()
    assert not Origin({**this_process(), "host": "elsewhere"}).is_here(), "the same pid on another machine"


def test_a_scheduler_takes_its_place_back_after_the_job_has_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """submitit's handler requeues the job and leaves: before that, SIGUSR2 stops the work in order."""
    told: list[str] = []

    def requeue(number: int, frame: object) -> None:
        told.append(signal.Signals(number).name)
        raise SystemExit(-1)

    def work() -> None:
        with saved_before_requeue(), StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGUSR2)
            told.append(f"saved after {signal.Signals(stop.received).name}")

    before = signal.signal(signal.SIGUSR2, requeue)
    try:
        with pytest.raises(SystemExit):
            work()
        assert told == ["saved after SIGTERM", "SIGUSR2"]
        with saved_before_requeue():
            pass
        assert told[2:] == []
        assert signal.getsignal(signal.SIGUSR2) is requeue
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.mark.parametrize(("launcher", "extra"), [(JOBLIB, "joblib"), (SLURM, "submitit")])
def test_a_launcher_that_is_not_installed_is_named(launcher, extra, monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in (None, ModuleNotFoundError("No module named 'hydra_plugins'")):

        def find(name: str, answer: Exception | None = answer) -> None:
            if answer is not None:
                raise answer

        monkeypatch.setattr(importlib.util, "find_spec", find)
        needed = rf"needs the package hydra-{extra}-launcher; pip install 'diffexp\[{extra}\]'"
        with pytest.raises(ConfigError, match=needed):
            check_hydra({"launcher": launcher})


def test_an_unknown_launcher_is_refused_with_the_nearest(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment=gddim_vp", "hydra/launcher=paralell", "-m", "seed=0,1"]) == 2
    said = "diffexp: hydra/launcher=paralell: there is no such hydra/launcher; did you mean 'parallel'?\n"
    assert capsys.readouterr().err == said
    assert list(room.iterdir()) == []


def test_the_slurm_launcher_writes_a_script_that_slurm_would_take(tmp_path: Path, monkeypatch) -> None:
    """Without Slurm: composed, built by Hydra, handed to submitit's own executor; its sbatch script is read."""
    submitit = pytest.importorskip("submitit")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    from hydra.utils import instantiate

    words = ["experiment=gddim_vp", "hydra/launcher=slurm", "hydra.launcher.partition=gpu", "hydra.launcher.mem_gb=32"]
    (job,) = compose_jobs([[*words, f'hydra.sweep.dir="{tmp_path}"']], read_layout())
    node = job.hydra["launcher"]
    check_hydra(job.hydra)
    monkeypatch.setattr(shutil, "which", lambda name, **more: f"/usr/bin/{name}")  # srun, sbatch
    scripts = []

    def submit(self, *arguments):
        scripts.append(self._executor._make_submission_file_text("python -m submitit", "uid"))
        raise KeyboardInterrupt

    monkeypatch.setattr(submitit.AutoExecutor, "map_array", submit)
    launcher = instantiate({**node, "submitit_folder": str(tmp_path / "%j")})
    from omegaconf import OmegaConf

    launcher.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    with pytest.raises(KeyboardInterrupt):
        launcher.launch([["seed=0"], ["seed=1"]], 0)
    found = {line.removeprefix("#SBATCH ") for line in scripts[0].splitlines() if line.startswith("#SBATCH")}
    expected = {
        "--partition=gpu", "--mem=32GB", "--time=1440", "--gpus-per-node=1", "--cpus-per-task=8", "--nodes=1",
        "--ntasks-per-node=1", "--signal=USR2@120", "--job-name=diffexp",
    }  # fmt: skip
    assert expected <= found
    assert node["submitit_folder"] == "${hydra.sweep.dir}/submitit/%j"
    assert node["max_num_timeout"] == 10


def test_slots_are_no_jobs(tmp_path: Path) -> None:
    from diffexp.launch.sweep import read_sweep

    with worker._slot(tmp_path) as slot:
        assert (slot, read_sweep(tmp_path)) == (0, [])
