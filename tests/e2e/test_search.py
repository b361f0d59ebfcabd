"""BDDM as a user runs it: a schedule network for a finished model, a search, and its schedules in the report."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

import diffexp
from diffexp.__main__ import main
from diffexp.evaluation.results import Row, read_rows
from diffexp.sampler.schedule_file import read_schedules
from tests.e2e.conftest import Command

SMALL = [
    "experiment=bddm_cifar10", "scale=quick", "distillation.schedule_network.widths=[4]", "training.max_steps=8",
    "training.batch_size=4", "training.log_every=4", "training.checkpoint_every=4", "search.bins=2",
    "search.caps=[2,4,8]", "search.attempts=1", "search.n=16", "search.shown=2", "evaluation.n=24",
    "evaluation.seeds=[0,1]",
    "evaluation.grid_images=2", "evaluation.controls=[]", "~evaluation.arms.quadratic", "~evaluation.arms.fastdiff6",
    "~evaluation.arms.fastdiff3", "~evaluation.arms.fastdiff8", "evaluation.arms.strided.nfe=[searched,20]",
    "evaluation.arms.linear.nfe=[searched,4]",
]  # fmt: skip
AGAIN = [word for word in SMALL if word.startswith(("search.", "distillation.", "evaluation.n=", "evaluation.seeds"))]
"""What has to be repeated beside the checkpoint."""


@pytest.fixture(scope="module")
def searched(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of one search; read only."""
    runs = tmp_path_factory.mktemp("searched")
    assert main([*SMALL, f"runs={runs}", f"teacher={trained}"]) == 0
    (run,) = (runs / "bddm_cifar10").iterdir()
    return run


@pytest.fixture
def copy(searched: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be changed."""
    return Path(shutil.copytree(searched.parent.parent, tmp_path / "runs")) / "bddm_cifar10" / searched.name


def arms(rows: list[Row]) -> dict[str, list[float]]:
    """Sampler -> its budgets."""
    found: dict[str, set[float]] = {}
    for row in rows:
        found.setdefault(row.sampler, set()).add(row.nfe or 0)
    return {name: sorted(budgets) for name, budgets in found.items()}


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "search.jsonl").read_text().splitlines()]


def test_the_report_is_at_the_numbers_of_steps_that_were_found(searched: Path) -> None:
    found = read_schedules(searched / "schedules.json")
    steps = [schedule.steps for schedule in found.schedules]
    assert len(steps) >= 3
    assert max(steps) <= 8
    budgets, rows = arms(read_rows(searched / "results.csv")), read_rows(searched / "results.csv")
    shown = budgets["bddm_ddpm(clip)"]
    assert shown[0] == steps[0]
    assert shown[-1] == steps[-1]
    assert set(shown) <= set(steps)
    assert budgets == {
        "bddm_ddpm(clip)": shown, "bddm_ddim": shown, "ddim_linear": sorted({*shown, 4}),
        "ddpm(clip)": sorted({*shown, 20}), "fastdiff(clip)": [4],
    }  # fmt: skip
    (grid,) = {row.grid for row in rows if row.sampler == "bddm_ddim"}
    assert re.fullmatch(r"file\(.*schedule=[0-9a-f]{8}\)", grid)
    report = (searched / "report.md").read_text()
    assert "bddm_ddpm" in report
    assert "2203.13508" in report


def test_every_schedule_is_the_best_of_its_number_of_steps(searched: Path) -> None:
    """By the journal, which also says what the search has cost: a step an evaluation, and each one judged once."""
    found, judged = read_schedules(searched / "schedules.json"), lines(searched)
    for schedule in found.schedules:
        scores = [line["scores"][0] for line in judged if len(line["betas"]) == schedule.steps]
        assert schedule.scores["fd_digits"] == pytest.approx(-max(scores), rel=1e-12)
    different = {tuple(line["betas"]) for line in judged}
    assert sum(line["judged"] for line in judged) == 16 * sum(map(len, different))
    assert sum(line["made"] for line in judged) == sum(len(line["betas"]) for line in judged if line["made"])
    cost = [sum(line[name] for line in judged) for name in ("made", "judged")]
    assert found.judge["evaluations"] == {"making": cost[0], "judging": cost[1]}
    assert found.judge["schedules"] == len(different)
    assert found.judge["seeds"] == [100]
    assert found.judge["reference"] == "digits, split test"


def test_the_same_command_again_does_nothing(copy: Path, trained: Path, command: Command) -> None:
    runs = f"runs={copy.parent.parent}"
    answer = command(*SMALL, runs, f"teacher={trained}")
    assert answer.code == 0, answer.err
    assert "complete already, nothing to do" in answer.out
    before = (copy / "search.jsonl").read_bytes()
    answer = command("task=search", f"ckpt={copy}", *AGAIN)
    assert answer.code == 0, answer.err
    assert "searched already" in answer.err
    assert (copy / "search.jsonl").read_bytes() == before


def test_starts_of_ones_own_take_the_place_of_the_grid(copy: Path, command: Command) -> None:
    before = len(lines(copy))
    words = [word.replace("attempts=1", "attempts=0") for word in AGAIN]
    answer = command("task=search", f"ckpt={copy}", *words, "search.starts=[[0.5,0.3],[0.7,0.2]]")
    assert answer.code == 0, answer.err
    new = [(line["alpha"], line["beta"]) for line in lines(copy)[before:]]
    assert set(new) == {(0.5, 0.3), (0.7, 0.2)}
    kept = read_schedules(copy / "schedules.json").schedules
    assert {(schedule.start["alpha"], schedule.start["beta"]) for schedule in kept} <= set(new)


def test_a_larger_search_asks_only_what_is_new(copy: Path, command: Command) -> None:
    before, words = lines(copy), [word.replace("attempts=1", "attempts=2") for word in AGAIN]
    answer = command("task=search", f"ckpt={copy}", *words)
    assert answer.code == 0, answer.err
    assert lines(copy)[: len(before)] == before
    assert len(lines(copy)) > len(before)
    judged = read_schedules(copy / "schedules.json").judge["evaluations"]["judging"]
    assert sum(line["judged"] for line in before) < judged <= sum(line["judged"] for line in lines(copy))
    assert f"{judged:,} to judge" in answer.out
    (table,) = re.findall(r"(?m)^ +steps .*\n((?: .*\n)+)", answer.out)
    assert len(table.splitlines()) == len(read_schedules(copy / "schedules.json").schedules)


def test_a_search_that_is_stopped_goes_on_to_the_same_schedules(copy: Path, command: Command, monkeypatch) -> None:
    from diffexp.evaluation.judge import Judge

    wanted, journal = (copy / "schedules.json").read_bytes(), (copy / "search.jsonl").read_bytes()
    for name in ("schedules.json", "search.jsonl"):
        (copy / name).unlink()
    asked, judge = [], Judge.__call__

    def stopping(self, betas):
        asked.append(betas)
        if len(asked) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return judge(self, betas)

    with monkeypatch.context() as patch:
        patch.setattr(Judge, "__call__", stopping)
        answer = command("task=search", f"ckpt={copy}", *AGAIN)
    assert answer.code == 143
    assert "stopped by SIGTERM while searching; the same command goes on with it" in answer.err
    assert not (copy / "schedules.json").exists()
    assert 0 < len((copy / "search.jsonl").read_bytes()) < len(journal)
    answer = command("task=search", f"ckpt={copy}", *AGAIN)
    assert answer.code == 0, answer.err
    assert (copy / "search.jsonl").read_bytes() == journal
    assert (copy / "schedules.json").read_bytes() == wanted


def test_schedules_serve_other_samplers_and_python(copy: Path, command: Command) -> None:
    steps = [schedule.steps for schedule in read_schedules(copy / "schedules.json").schedules]
    words = ["task=evaluate", f"ckpt={copy}", *AGAIN, "evaluation.grid_images=2"]
    answer = command(*words, "sampler=heun", "grid=file", f"evaluation.nfe=[{2 * steps[-1] - 1}]")
    assert answer.code == 0, answer.err
    rows = [row for row in read_rows(copy / "results.csv") if row.sampler == "heun(clip)"]
    assert [row.nfe for row in rows] == [2 * steps[-1] - 1] * 2
    model = diffexp.load(copy)
    images = model.sample(4, steps[0], "bddm_ddim")
    assert tuple(images.shape) == (4, 1, 8, 8)
    assert float(images.std()) > 0.1


def test_without_schedules_an_evaluation_leaves_their_arms_out(copy: Path, command: Command) -> None:
    (copy / "schedules.json").unlink()
    words = ["task=evaluate", f"ckpt={copy}", *AGAIN, "evaluation.grid_images=2"]
    answer = command(*words, "evaluation.only=bddm_ddim")
    assert answer.code == 2
    assert "evaluation.arms: there is no sampler to evaluate" in answer.err
    answer = command("task=check", *SMALL)
    assert "bddm_ddim" in answer.out
    assert "at numbers of steps that a search finds" in answer.out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["search.seeds=[1]"], "search.seeds=[1]: 1 of evaluation.seeds"),
        (["search.starts=[[0.5,0.8]]"], "beta_N=0.8 at alpha_N=0.5: must be above 0 and at most 1 - alpha_N^2 = 0.75"),
        (["search.starts=[[0.5]]"], "search.starts=[[0.5]]: give pairs [alpha_N,beta_N]"),
        (["search.reference=train"], "search.reference=train: the report compares with this split"),
        (["search.metrics=[fidd]"], "search.metrics: no metric 'fidd' to judge by"),
        (["evaluation.extractor=null"], "search.metrics: distance needs features"),
        (["search.bins=0"], "search.bins=0: must be at least 1"),
        (["search=none"], "evaluation.arms.bddm_ddpm: needs the schedules of a search, and there is none"),
        (["search.cap=[3]"], "search.cap: there is no key 'cap' in search; did you mean 'caps'?"),
    ],
)
def test_refusals(words: list[str], reason: str, command: Command, trained: Path, tmp_path: Path) -> None:
    kept = [word for word in SMALL if word.split("=")[0] not in {new.split("=")[0] for new in words}]
    kept = [word for word in kept if words != ["search=none"] or not word.startswith("search.")]
    tuned = ["tuning=none", "distillation/schedule_network=small"] if words == ["search=none"] else []
    answer = command(*kept, *words, *tuned, f"teacher={trained}")
    assert answer.code == 2
    assert reason in answer.err
    assert len(answer.err.splitlines()) <= 2  # the teacher's line may come first
    assert not list(tmp_path.iterdir())


def test_a_search_needs_a_schedule_network(command: Command, trained: Path) -> None:
    answer = command("task=search", f"ckpt={trained}")
    assert answer.code == 2
    assert "task=search: this recipe has no search" in answer.err
    answer = command("experiment=gddim_vp", "scale=quick", "search=default")
    assert answer.code == 2
    assert "search: has no effect without a schedule network" in answer.err
