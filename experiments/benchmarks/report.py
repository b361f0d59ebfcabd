"""The results as files and as text: ratios beside their targets; absolute times are side information."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from diffexp.core.files import write_text_atomic
from diffexp.launch.folder import versions
from experiments.benchmarks.clock import Ratio

METHOD = (
    "Both sides of a ratio take turns in one process (commands: in processes of their own), after one turn that does "
    "not count. The ratio is the best turn over the best turn; the quartiles are those of the ratios within single "
    "rounds. The same ratio of processor time, and the share of a core that the turns had, tell whether others "
    "disturbed the measurement. The functions' docstrings in `experiments/benchmarks` say what exactly is compared."
)


def protocol(load: Sequence[float]) -> dict[str, Any]:
    """Machine, threads, versions and the load average before the measurement."""
    return {
        "machine": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average_before": [round(value, 2) for value in load],
        "system": platform.platform(terse=True),
        "versions": {**versions(), "diffusers": _diffusers()},
        "method": METHOD,
    }


def _diffusers() -> str | None:
    """The version of diffusers, if it is installed."""
    try:
        return metadata.version("diffusers")
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's name, as far as the system tells."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def table(results: Sequence[Ratio]) -> str:
    """A Markdown table, one line for each result."""
    head = ["what", "ratio", "quartiles", "target", "", "of processor time", "core", "best turns (ms), for orientation"]
    lines = [head, ["---"] * len(head)]
    for found in results:
        verdict = "" if found.target is None else "met" if found.met else "missed" if found.passed else "FAILED"
        verdict = verdict if found.target is not None and found.binding else f"information {verdict}".strip()
        target = "" if found.target is None else f"<= {found.target:g}"
        seconds = ", ".join(f"{name} {1e3 * value:.4g}" for name, value in found.seconds.items())
        spread = f"{found.spread[0]:.3f} - {found.spread[1]:.3f}"
        core = f"{found.notes['core_share']:.0%}"
        lines.append([found.text, f"{found.value:.3f}", spread, target, verdict, f"{found.cpu:.3f}", core, seconds])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(folder: Path, results: Sequence[Ratio], facts: Mapping[str, Any]) -> None:
    """results.json and results.md in `folder`."""
    entries = [{**asdict(found), "passed": found.passed} for found in results]
    text = json.dumps({"protocol": dict(facts), "results": entries}, indent=2)
    write_text_atomic(folder / "results.json", text + "\n")
    place = f"{facts['machine']}, {facts['cores']} cores, {facts['threads']} thread(s)"
    known = ", ".join(f"{name} {value}" for name, value in facts["versions"].items() if value)
    load = " ".join(f"{value:g}" for value in facts["load_average_before"])
    lines = ["# Benchmarks", "", METHOD, "", f"{place}, load average before: {load}. {known}.", "", table(results), ""]
    write_text_atomic(folder / "results.md", "\n".join(lines))
