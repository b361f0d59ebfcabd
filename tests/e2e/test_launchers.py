"""Sweeps whose jobs run in parallel: one that raises and one that is killed take no other job with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffexp.evaluation.results import read_rows
from diffexp.launch.sweep import read_sweep
from tests.e2e.conftest import Command
from tests.e2e.test_sweep import TINY, sweeps

PACKAGE = '''
"""A network that ends its process, or raises, where a file of the folder FAULTS says so."""
from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn


class Net(nn.Module):
    def __init__(self, channels: int, out: int, fault: int) -> None:
        super().__init__()
        self.only = nn.Conv2d(channels, out, 3, padding=1)
        self.place = Path(os.environ["FAULTS"], str(fault))

    def forward(self, u: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        word = self.place.read_text() if self.place.exists() else ""
        with open(self.place.with_name("ran"), "a", encoding="utf-8") as ran:
            print(self.place.name, os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"), file=ran)
        if word == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "raise":
            raise RuntimeError("no luck with this one")
        return self.only(u)


@dataclass(frozen=True)
class Faulty:
    fault: int = 0

    def build(self, channels: int, out_channels: int, resolution: int, num_classes: int = 0) -> Net:
        return Net(channels, out_channels, self.fault)
'''
WORDS = [word for word in TINY if not word.startswith("network.")]
SWEEP = [*WORDS, "plugins=[faulty]", "network=faulty", "sampler=ddim", "-m", "network.fault=0,1,2,3,4,5"]
PARALLEL = ["hydra/launcher=parallel", "hydra.launcher.n_jobs=2"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An importable `faulty`; returns the folder of its faults."""
    folder = tmp_path / "site" / "faulty"
    (folder / "conf" / "network").mkdir(parents=True)
    (folder / "__init__.py").write_text(PACKAGE)
    (folder / "conf" / "network" / "faulty.yaml").write_text("_target_: faulty.Faulty\nfault: 0\n")
    faults = tmp_path / "faults"
    faults.mkdir()
    monkeypatch.setenv("FAULTS", str(faults))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder.parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(folder.parent)
    yield faults
    sys.modules.pop("faulty", None)


def diffexp(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "diffexp", *words], capture_output=True, text=True, timeout=600)


def ran(faults: Path) -> dict[str, set[str]]:
    """Fault -> the processes in which its network worked."""
    found: dict[str, set[str]] = {}
    for line in (faults / "ran").read_text().splitlines():
        fault, process, _ = line.split()
        found.setdefault(fault, set()).add(process)
    (faults / "ran").unlink()
    return found


@pytest.mark.slow
def test_six_jobs_of_which_one_raises_and_one_is_killed(command: Command, package: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    (package / "1").write_text("raise")
    (package / "4").write_text("kill")
    answer = diffexp(*SWEEP, *PARALLEL)
    assert answer.returncode == 2, answer.stderr
    (sweep,) = sweeps(tmp_path)
    jobs = read_sweep(sweep)
    assert [job.state for job in jobs] == ["ok", "failed", "ok", "ok", "failed", "ok"]
    assert jobs[1].message == "RuntimeError: no luck with this one"
    assert jobs[4].message == "its process was killed by SIGKILL; the same command goes on from what is saved"
    folders = [(sweep / job.folder).resolve() for job in jobs]
    assert set(folders) == set((tmp_path / "runs" / "gddim_vp").iterdir())
    assert len(set(folders)) == 6
    states = [json.loads((folder / "status.json").read_text())["state"] for folder in folders]
    assert states == ["ok", "failed", "ok", "ok", "running", "ok"]  # who is killed cannot write
    processes = ran(package)
    assert {fault: len(found) for fault, found in processes.items()} == {str(fault): 1 for fault in range(6)}
    assert {job.process["pid"] for job in jobs} == {int(pid) for found in processes.values() for pid in found}
    text = (sweep / "report.md").read_text()
    assert "6 runs: 4 ok, 2 failed." in text
    assert "* run 1, failed: RuntimeError: no luck with this one" in text
    assert "* run 4, failed: its process was killed by SIGKILL" in text
    assert answer.stderr.splitlines()[-1] == "diffexp: 2 of 6 jobs failed"
    assert sum(len(read_rows(folder / "results.csv")) > 0 for folder in folders) == 4

    for name in ("1", "4"):
        (package / name).unlink()
    again = command(*SWEEP)  # without the launcher: how jobs are run is no part of what they are
    assert again.code == 0, again.err
    assert set(ran(package)) == {"1", "4"}
    assert again.out.count("complete already, nothing to do") == 4
    assert "6 runs: 6 ok." in (sweeps(tmp_path)[-1] / "report.md").read_text()
    assert set(folders) == set((tmp_path / "runs" / "gddim_vp").iterdir())
