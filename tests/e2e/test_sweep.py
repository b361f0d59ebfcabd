"""Sweeps: a folder with a file for each job, a report of all of them, and what happens when jobs fail."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

import diffexp.training.fit
from diffexp.__main__ import main
from diffexp.core.errors import DiffexpError
from diffexp.evaluation.results import read_rows
from diffexp.launch.folder import load_frozen
from diffexp.launch.lock import this_process
from diffexp.launch.sweep import read_sweep
from tests.e2e.conftest import SMALL, Command

CHANGED = {
    "training.max_steps": "2",
    "training.checkpoint_every": "2",
    "evaluation.grid_images": "2",
    "evaluation.controls": "[real]",
    "evaluation.nfe": "[3,5]",
}
TINY = [word for word in SMALL if word.split("=")[0] not in CHANGED] + [f"{key}={CHANGED[key]}" for key in CHANGED]
SEEDS = [*TINY, "-m", "sampler=ddim", "seed=0,1,2,3,4"]


def sweeps(place: Path) -> list[Path]:
    return sorted((place / "runs" / "sweeps").iterdir(), key=lambda path: path.stat().st_mtime_ns)


def fail_at(patch: pytest.MonkeyPatch, *seeds: int) -> list[int]:
    """Let the trainings of these seeds fail; the seeds of all trainings that are begun."""
    begun, original = [], diffexp.training.fit.fit

    def fit(module, *arguments, **options):
        begun.append(module.seed)
        if module.seed in seeds:
            raise DiffexpError(f"no luck | with seed {module.seed}")
        return original(module, *arguments, **options)

    patch.setattr(diffexp.training.fit, "fit", fit)
    return begun


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """A sweep over five seeds of which seed 2 fails: (working folder, exit code)."""
    place = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        fail_at(patch, 2)
        code = main(SEEDS)
    return place, code


@pytest.fixture
def again(failed, tmp_path):
    """The working folder of a command, with what that sweep left."""
    shutil.copytree(failed[0] / "runs", tmp_path / "runs")
    return tmp_path


SEEDED = re.compile(r"\| \d+ +\| ddim +\|")  # a seed's line of the distances


def frontless(text):
    """A report without its tables of Pareto fronts."""
    return re.sub(r"\| on the front.*?\n\n", "", text, flags=re.DOTALL)


def test_one_failing_job_fails_the_sweep_and_no_other_job(failed):
    place, code = failed
    assert code == 2
    (sweep,) = sweeps(place)
    assert re.fullmatch(r"\d{8}T\d{6}-[0-9a-f]{6}", sweep.name)
    jobs = read_sweep(sweep)
    assert [job.state for job in jobs] == ["ok", "ok", "failed", "ok", "ok"]
    assert [job.number for job in jobs] == list(range(5))
    assert jobs[2].message == "no luck | with seed 2"
    assert jobs[3].overrides == (*TINY, "sampler=ddim", "seed=3")
    folders = [(sweep / job.folder).resolve() for job in jobs]
    assert set(folders) == set((place / "runs" / "gddim_vp").iterdir())
    assert [load_frozen(folder)["seed"] for folder in folders] == list(range(5))
    assert json.loads((folders[2] / "status.json").read_text())["state"] == "failed"


def test_its_report_has_all_rows_and_says_what_failed(failed):
    place, _ = failed
    (sweep,) = sweeps(place)
    text = (sweep / "report.md").read_text()
    assert f"# Sweep {sweep.name}: gddim_vp\n\n5 runs: 4 ok, 1 failed." in text
    assert "* run 2, failed: no luck | with seed 2" in text
    words = next(line.split() for line in text.splitlines() if line.startswith("      python -m diffexp"))
    assert words == ["python", "-m", "diffexp", *map(shlex.quote, TINY), "sampler=ddim", "seed=2"]
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if SEEDED.match(line)}
    assert list(lines) == ["0", "1", "3", "4"], "seeds are a column"
    header = next(line for line in text.splitlines() if line.startswith("| seed"))
    assert [cell.strip() for cell in header.split("|")[1:-1]] == ["seed", "sampler", "NFE 3", "NFE 5"]
    with open(sweep / "results.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    arms = [row for row in rows if row["sampler"] == "ddim"]
    assert sorted((row["run"], row["run.seed"], row["nfe"], row["seed"]) for row in arms) == sorted(
        (str(run), str(run), nfe, seed) for run in (0, 1, 3, 4) for nfe in "35" for seed in "01"
    )
    for row in arms:
        found = [other for other in read_rows(sweep / row["folder"] / "results.csv") if not other.control]
        match = [other for other in found if (str(other.nfe), str(other.seed)) == (row["nfe"], row["seed"])]
        assert [float(row["value"])] == [other.value for other in match]
    with Image.open(sweep / "distance.png") as image:
        assert image.size[0] >= 960
    linked = {name for name in re.findall(r"\]\(([^)]+)\)", text) if not name.startswith("http")}
    assert len([name for name in linked if name.startswith("../") and "samples_" not in name]) == 5
    assert len([name for name in linked if name.endswith("samples_ddim.png")]) == 4
    assert {"distance.png", "pareto_distance.pdf", "distance.tex", "references.bib"} <= linked
    assert all((sweep / name).exists() for name in linked)


def test_the_same_sweep_again_does_the_failed_job_alone(command: Command, again, monkeypatch):
    begun = fail_at(monkeypatch)
    before = {path: path.stat().st_mtime_ns for path in again.glob("runs/gddim_vp/*/results.csv")}
    assert len(before) == 4
    answer = command(*SEEDS)
    assert answer.code == 0, answer.err
    assert begun == [2]
    assert answer.out.count("complete already, nothing to do") == 4
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list((again / "runs" / "gddim_vp").iterdir())) == 5
    old, new = sweeps(again)
    assert answer.out.splitlines()[-1] == f"sweep report: {(new / 'report.md').relative_to(again)}"
    assert [job.state for job in read_sweep(new)] == ["ok"] * 5
    assert "5 runs: 5 ok." in (new / "report.md").read_text()
    assert command("task=report", f"sweep={old}").code == 0
    assert "5 runs: 4 ok, 1 failed." in (old / "report.md").read_text(), "that sweep ended as it did"


def test_the_reported_command_repairs_the_sweep(command: Command, again, monkeypatch):
    (sweep,) = sweeps(again)
    begun = fail_at(monkeypatch)
    line = next(line for line in (sweep / "report.md").read_text().splitlines() if line.startswith("      python"))
    assert command(*shlex.split(line)[3:]).code == 0
    assert begun == [2]
    assert len(list((again / "runs" / "gddim_vp").iterdir())) == 5


def test_any_folder_of_runs_has_a_report(command: Command, again):
    """Without a sweep's files, what differs is read from the configurations."""
    runs = again / "runs" / "gddim_vp"
    answer = command("task=report", "sweep=runs/gddim_vp")
    assert answer.code == 0, answer.err
    assert answer.out == "report: runs/gddim_vp/report.md\n"
    text = (runs / "report.md").read_text()
    assert text.startswith("# Runs below gddim_vp: gddim_vp\n\n5 runs: ")
    assert "4 ok" in text
    assert "1 failed" in text
    header = next(line for line in text.splitlines() if line.startswith("| seed"))
    assert [cell.strip() for cell in header.split("|")[1:-1]] == ["seed", "sampler", "NFE 3", "NFE 5"]
    before = text
    assert command("task=report", "sweep=runs/gddim_vp").code == 0
    assert (runs / "report.md").read_text() == before


def test_rows_of_two_protocols_never_share_a_table(command: Command, again):
    words = [*TINY, "sampler=ddim", "-m", "seed=0,1", "evaluation.n=48,40"]
    assert command(*words).code == 0
    sweep = sweeps(again)[-1]
    text = (sweep / "report.md").read_text()
    assert text.count("\n## fd_digits, n = ") == 2
    assert len(re.findall(r"Not comparable with the section of protocol `\w+`: n is 4[08] and 4[08]\.", text)) == 2
    assert len(list(sweep.glob("distance_*.png"))) == 2
    for part in text.split("\n## fd_digits")[1:]:
        rows = [line for line in part.splitlines() if SEEDED.match(line)]
        assert len(rows) == 2, "two seeds each"


def test_a_killed_job_is_reported_as_failed(command: Command, again):
    (sweep,) = sweeps(again)
    file = sweep / "job_001.json"
    record = json.loads(file.read_text())
    gone = {**this_process(), "start": "1"}
    file.write_text(json.dumps({**record, "state": "running", "process": gone}))
    assert command("task=report", f"sweep={sweep}").code == 0
    text = (sweep / "report.md").read_text()
    assert "5 runs: 3 ok, 2 failed." in text
    assert f"* run 1, failed: process {gone['pid']} was killed" in text


def test_jobs_that_share_a_folder_are_one_run(command: Command, again):
    run = next(path for path in again.glob("runs/gddim_vp/*") if (path / "results.csv").exists())
    words = [word for word in TINY if not word.startswith("evaluation.nfe")]
    seed = load_frozen(run)["seed"]
    sweep = [*words, f"seed={seed}", "task=evaluate", f"ckpt={run}", "sampler=heun", "-m", "evaluation.nfe=[3],[5]"]
    assert command(*sweep).code == 0
    folder = sweeps(again)[-1]
    text = (folder / "report.md").read_text()
    table = frontless(text).partition("### Verdicts")[0]
    assert [line.split("|")[1].strip() for line in table.splitlines() if line.startswith(("| heun", "| ddim"))] == [
        "ddim", "heun",
    ]  # fmt: skip
    assert re.search(r"\n\| 5 \| \w+ \| \w+ \| [\d.]+ \| .* to .* \| (worse|undecided) \|\n", text)
    with open(folder / "results.csv", newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["sampler"] == "heun"]
    assert [(row["run"], row["nfe"]) for row in rows] == [("0 1", "3")] * 2 + [("0 1", "5")] * 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "task=report needs ckpt= (a run folder, a checkpoint in one, or latest:<recipe>) or sweep="),
        (["sweep=nowhere"], "sweep=nowhere: no such folder"),
        (["sweep=."], "sweep=.: no sweep, and no run folder below it"),
        (["sweep=3"], "sweep=3: expected str or null"),
    ],
)
def test_reports_of_nothing_are_refused(command: Command, tmp_path, words, reason):
    answer = command("task=report", *words)
    assert answer.code == 2
    assert reason in answer.err
    assert len(answer.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_run_folder_is_no_sweep(command: Command, failed, tmp_path):
    run = next((failed[0] / "runs" / "gddim_vp").iterdir())
    answer = command("task=report", f"sweep={run}")
    assert answer.code == 2
    assert f"task=report ckpt={run}" in answer.err
    both = command("task=report", f"sweep={run}", f"ckpt={run}")
    assert "task=report takes one of ckpt= " in both.err
