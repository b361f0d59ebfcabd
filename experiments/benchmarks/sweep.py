"""What a sweep saves: eight budgets of one sampler by one command, over eight commands of their own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from diffexp.evaluation.results import RESULTS_FILE, read_rows
from experiments.benchmarks.clock import Ratio, ratio, take_turns

TARGET = 0.35
POINTS = (2, 3, 5, 8, 10, 15, 20, 30)
WORDS = (
    "experiment=gddim_vp", "scale=quick", "network.channels=8", "network.multipliers=[1,2]", "training.max_steps=20",
    "training.checkpoint_every=20", "evaluation.n=100", "evaluation.seeds=[0,1]", "evaluation.controls=[]",
    "evaluation.grid_images=4", "sampler=ddim",
)  # fmt: skip


def sweep(rounds: int, words: Sequence[str] = WORDS, points: Sequence[int] = POINTS) -> list[Ratio]:
    """Evaluations of one checkpoint in commands of their own, images and distances made anew each time.

    The network is small: what is compared is what every command repeats (imports, composing, network, features). The
    target binds the job that is told all budgets; the same as jobs of a multirun, each of which writes its own report,
    is information.

    Raises:
        RuntimeError: when a budget has not been measured.
        subprocess.CalledProcessError: when a command fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        _diffexp(*words, f"runs={folder}", "task=train")
        (run,) = (path for path in Path(folder, "gddim_vp").iterdir() if path.is_dir())
        again = (*words, f"runs={folder}", "task=evaluate", f"ckpt={run}", "evaluation.again=true")
        listed = ",".join(map(str, points))
        tasks = {
            "separate": _each(again, points),
            "multirun": lambda: _diffexp(*again, "-m", "evaluation.nfe=" + ",".join(f"[{nfe}]" for nfe in points)),
            "one_job": lambda: _diffexp(*again, f"evaluation.nfe=[{listed}]"),
        }
        spent = take_turns(tasks, rounds)
        found = {row.nfe for row in read_rows(run / RESULTS_FILE) if row.control is None}
    if found != set(points):
        raise RuntimeError(f"the commands measured NFE {sorted(found)} in place of {sorted(points)}")
    notes = {"points": len(points), "evaluations": sum(points), "images": 200}
    return [
        ratio(
            f"sweep_{name}",
            f"{text} / {len(points)} commands",
            spent,
            (name, "separate"),
            TARGET,
            binding=binds,
            **notes,
        )
        for name, text, binds in (
            ("one_job", "one job of 8 budgets", True),
            ("multirun", "-m, 8 jobs of a budget", False),
        )
    ]


def _each(words: Sequence[str], points: Sequence[int]) -> Callable[[], object]:
    """One command after the other."""
    return lambda: [_diffexp(*words, f"evaluation.nfe=[{nfe}]") for nfe in points]


def _diffexp(*words: str) -> None:
    subprocess.run((sys.executable, "-m", "diffexp", *words), capture_output=True, check=True)
