"""`beside=[...]`: one command trains and evaluates several recipes on the same data, and reports them together."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from diffexp.launch.folder import load_frozen
from diffexp.launch.sweep import read_sweep
from tests.e2e.conftest import Command

RECIPE = """# @package _global_
defaults:
  - override /process: {process}
  - override /grid: uniform
evaluation:
  nfe: [{nfe}]
"""
WORDS = [
    "experiment=first", "scale=quick", "network.channels=4", "network.multipliers=[1]", "training.max_steps=2",
    "training.batch_size=8", "evaluation.n=48", "evaluation.seeds=[0,1]", "evaluation.controls=[real]",
    "evaluation.grid_images=2",
]  # fmt: skip


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A command of a recipe with its own conf folder, in which there is another one."""
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "first.yaml").write_text(RECIPE.format(process="cosine", nfe=3))
    (folder / "second.yaml").write_text(RECIPE.format(process="vp", nfe="3,5"))
    (folder / "pairs.yaml").write_text("# @package _global_\ndefaults:\n  - override /family: paired\n")
    return [f"--config-dir={tmp_path / 'conf'}", *WORDS]


def test_both_are_trained_alike_and_reported_together(command: Command, words, tmp_path):
    answer = command(*words, "beside=[second]", "seed=3", "process.logsnr_max=18")
    assert answer.code == 0, answer.err
    (sweep,) = (tmp_path / "runs" / "sweeps").iterdir()
    assert answer.out.splitlines()[0] == "first runs beside second"
    assert answer.out.splitlines()[-1] == f"sweep report: {(sweep / 'report.md').relative_to(tmp_path)}"
    jobs = read_sweep(sweep)
    assert [job.state for job in jobs] == ["ok", "ok"]
    first, second = (load_frozen(sweep / str(job.folder)) for job in jobs)
    assert [first["recipe"], second["recipe"]] == ["first", "second"]
    for key in ("seed", "network", "training", "dataset", "optimizer", "ema"):
        assert first[key] == second[key], "a comparison holds this equal"
    assert (second["seed"], second["training"]["max_steps"]) == (3, 2)
    assert (first["process"]["logsnr_max"], second["process"].get("logsnr_max")) == (18, None), "methods are their own"
    with open(sweep / "results.csv", newline="") as handle:
        found = {(row["experiment"], row["nfe"]) for row in csv.DictReader(handle) if row["nfe"]}
    assert found == {("first", "3"), ("second", "3"), ("second", "5")}
    report = (sweep / "report.md").read_text()
    verdict = report.partition("### Verdicts")[2].partition("###")[0]
    assert re.search(r"\| 3 +\| ddim \(experiment=(first|second)\) .*(better|worse|undecided)", verdict), verdict
    assert "### Evaluations at an equal distance" in report


def test_the_reported_commands_run_one_recipe_alone(command: Command, words, tmp_path):
    assert command(*words, "beside=[second]").code == 0
    (sweep,) = (tmp_path / "runs" / "sweeps").iterdir()
    job = read_sweep(sweep)[1]
    answer = command(*job.overrides)
    assert answer.code == 0
    assert "complete already" in answer.out
    assert "beside" not in answer.out


def test_only_a_whole_run_has_neighbours(command: Command, words, tmp_path):
    """What a recipe says is left out elsewhere; what the command says is refused there."""
    recipe = tmp_path / "conf" / "experiment" / "first.yaml"
    recipe.write_text(recipe.read_text() + "beside: [second]\n")
    assert command(*words, "task=train").code == 0
    assert [path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()] == ["first"]
    assert command(*words, "--cfg", "job").code == 0
    sweep = command(*words, "-m", "seed=0,1")
    assert sweep.code == 0
    assert "second" not in sweep.out
    for more in (["task=train"], ["-m", "seed=0,1"]):
        answer = command(*words, "beside=[second]", *more)
        assert answer.code == 2
        assert answer.err.strip() == (
            "diffexp: beside=[second]: has no effect with -m, ckpt= or another task than run: leave it out"
        )
    assert command(*words, "beside=[]", "task=train").code == 0


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("beside=[secnd]", "beside=[secnd]: there is no recipe 'secnd'; did you mean 'second'?"),
        ("beside=[first]", "beside=[first]: first would run twice; leave it out"),
        ("beside=second", "beside=second: a list of recipes is needed, e.g. beside=[ddpm_cifar10], or []"),
        ("beside=[pairs]", "beside=[pairs]: has other data than first; say dataset=... for both, or leave it out"),
    ],
)
def test_refused_before_anything_runs(command: Command, words, tmp_path, word, named):
    answer = command(*words, word)
    assert answer.code == 2
    assert answer.err.strip() == f"diffexp: {named}"
    assert not (tmp_path / "runs").exists()


def test_a_failure_of_one_does_not_end_the_other(command: Command, words, tmp_path, monkeypatch):
    import diffexp.training.fit
    from diffexp.core.errors import DiffexpError

    original = diffexp.training.fit.fit

    def fit(module, *arguments, **options):
        if module.objective is not None and module.denoiser.process.name == "cosine":
            raise DiffexpError("no luck")
        return original(module, *arguments, **options)

    monkeypatch.setattr(diffexp.training.fit, "fit", fit)
    answer = command(*words, "beside=[second]")
    assert answer.code == 2
    assert "1 of 2 jobs failed" in answer.err
    (sweep,) = (tmp_path / "runs" / "sweeps").iterdir()
    assert [job.state for job in read_sweep(sweep)] == ["failed", "ok"]
