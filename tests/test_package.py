"""The wheel holds conf/, and installed elsewhere it composes what the repository composes, and runs."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*build, str(folder), str(ROOT)], check=True, capture_output=True)
    (found,) = folder.glob("diffexp-*.whl")
    return found


def test_the_wheel_holds_conf_and_weights(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    conf = {f"diffexp/conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert len(conf) > 30
    assert conf <= names
    assert any(name.startswith("diffexp/evaluation/weights/") and name.endswith(".safetensors") for name in names)
    assert not any(name.startswith(("tests/", "experiments/")) for name in names)
    entry = next(name for name in names if name.endswith("entry_points.txt"))
    assert b"diffexp = diffexp.__main__:main" in zipfile.ZipFile(wheel).read(entry)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, unpacked."""
    folder = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def call(package: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command in `folder`, with the diffexp that lies in `package` (it precedes the repository on the path)."""
    code = f"import sys; sys.path[:0] = [{str(package)!r}]\nfrom diffexp.__main__ import main; import diffexp\n"
    code += f"assert diffexp.__file__.startswith({str(package)!r}), diffexp.__file__\nsys.exit(main({list(words)!r}))"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("DIFFEXP_RUNS", None)
    run = [sys.executable, "-c", code]
    return subprocess.run(run, capture_output=True, text=True, cwd=folder, env=environment, check=False)


def test_installed_elsewhere_it_composes_the_same(installed, tmp_path):
    words = ["experiment=gddim_vp", "scale=quick", "--cfg", "job", "--resolve"]
    here, there = call(ROOT, tmp_path, *words), call(installed, tmp_path, *words)
    assert there.stdout == here.stdout
    assert (here.returncode, there.returncode) == (0, 0)
    assert "Denoising" in there.stdout
    assert not list(tmp_path.iterdir())


TINY = [
    "experiment=gddim_vp",
    "scale=quick",
    "network.channels=8",
    "network.multipliers=[1,2]",
    "training.max_steps=4",
    "evaluation.n=16",
    "evaluation.seeds=[0]",
    "evaluation.grid_images=4",
    "~evaluation.arms.order2",
    "~evaluation.arms.order3",
    "~evaluation.arms.em",
    "evaluation.arms.ddim.nfe=[2]",
    "evaluation.arms.ddpm.nfe=[2]",
    "evaluation.arms.heun.nfe=[3]",
]


def test_installed_elsewhere_it_runs_to_the_report(installed, tmp_path):
    """Nothing that a run needs (conf, the digits classifier's weights) is only in the repository."""
    done = call(installed, tmp_path, *TINY)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs" / "gddim_vp").iterdir()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    with open(run / "results.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    arms = {(row["sampler"], row["nfe"]) for row in rows if not row["sampler"].startswith("control:")}
    assert arms == {("ddim", "2"), ("ddpm", "2"), ("heun", "3")}
    assert all(float(row["value"]) > 0.0 for row in rows)
    assert "samples_heun.png" in (run / "report.md").read_text(encoding="utf-8")
    assert done.stdout.splitlines()[-1] == f"report: {run.relative_to(tmp_path) / 'report.md'}"
