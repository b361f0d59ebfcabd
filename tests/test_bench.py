"""The benchmarks measure what they say: exact ratios on a clock that is ours, right counts and finite numbers."""

from __future__ import annotations

import json
import math
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments.benchmarks import __main__ as bench
from experiments.benchmarks import clock, evaluation, report, sampling, startup, sweep, training
from experiments.benchmarks.clock import Ratio, Spent, ratio, take_turns
from experiments.benchmarks.parts import Halved, compose, enough

TINY = (
    "experiment=gddim_vp", "scale=quick", "network.channels=8", "network.multipliers=[1,2]",
    "network.class_conditional=true", "dataset.labels=true",
)  # fmt: skip
UNLABELLED = (*TINY, "network.class_conditional=false", "dataset.labels=false", "optimizer.warmup_steps=0")


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pass_time(monkeypatch):
    """A clock that only moves when a task moves it."""
    now = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(clock, "processor_seconds", lambda: 0.5 * now[0])  # half of the time was somebody else's

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


def test_turns_alternate_and_the_best_ones_count(pass_time):
    order, slow = [], count()

    def ours() -> None:
        order.append("a")
        pass_time(2.0 + 3.0 * (next(slow) % 2))  # every second turn is disturbed

    def theirs() -> None:
        order.append("b")
        pass_time(8.0)

    spent = take_turns({"a": ours, "b": theirs}, 3)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert spent.wall == {"a": [5.0, 2.0, 5.0], "b": [8.0, 8.0, 8.0]}
    assert spent.cpu == {"a": [2.5, 1.0, 2.5], "b": [4.0, 4.0, 4.0]}
    found = ratio("name", "text", spent, ("a", "b"), 0.25)
    assert (found.value, found.cpu) == (0.25, 0.25)
    assert found.passed
    assert found.spread == (0.25, 0.625)
    assert found.notes == {"rounds": 3, "core_share": 0.5}
    assert found.seconds == {"a": 2.0, "b": 8.0}
    assert ratio("name", "text", spent, ("a", "b"), 0.2499).passed is False


def test_what_both_sides_share_is_subtracted():
    wall = {"a": [3.0, 4.0], "b": [9.0, 9.0], "network": [1.0, 2.0]}
    spent = Spent(wall, {name: [2.0 * seconds for seconds in series] for name, series in wall.items()})
    found = ratio("name", "text", spent, ("a", "b"), without="network")
    assert (found.value, found.cpu) == (0.25, 0.25)
    half = ratio("name", "text", spent, ("a", "b"), without="network", share=0.5)
    assert half.value == 2.5 / 8.5
    assert half.seconds == {"a": 3.0, "b": 9.0, "network": 0.5}
    same = {name: [1.0] for name in wall}
    assert not ratio("name", "text", Spent(same, same), ("a", "b"), without="network").passed


def test_a_batch_grows_until_it_takes_long_enough(pass_time):
    assert enough(lambda batch: lambda: pass_time(0.01 * batch), 0.05) == 8
    assert enough(lambda batch: lambda: None, 0.05, limit=16) == 16


def test_wall_counts_the_evaluations_that_samplers_make():
    found = {item.name: item for item in sampling.wall(1, TINY, forward=0.0, steps=2)}
    nfe = {name: item.notes["nfe"] for name, item in found.items()}
    assert nfe == {"wall_ddim": 2, "wall_ddpm": 2, "wall_heun": 3, "wall_ddim_guided": 4}
    assert all(item.value > 0.0 and item.target == 1.05 for item in found.values())


class Counted(Halved):
    calls = 0

    def forward(self, *inputs):
        self.calls += 1
        return super().forward(*inputs)


def loops(make, nfe: int) -> dict[str, int]:
    """Network evaluations of every loop; each has to move its images and keep them finite."""
    network, start = Counted(), torch.linspace(-1.0, 1.0, 32).reshape(2, 1, 4, 4)
    calls = {}
    for name, loop in make(network, start, nfe).items():
        network.calls = 0
        moved = loop()
        images = getattr(moved, "images", moved)
        assert bool(images.isfinite().all())
        assert float((images - start).abs().max()) > 0.01
        calls[name.partition("_")[2]] = network.calls
    return calls


def test_glue_is_of_loops_with_the_same_number_of_evaluations():
    expected = {"ddim": 6, "ddim_clipped": 6, "ddim_first": 6, "heun": 5}
    assert loops(sampling._ours, 6) == expected
    pytest.importorskip("diffusers")
    assert loops(sampling._theirs, 6) == expected


def test_glue_against_itself(monkeypatch):
    """With our own loops on both sides every row is there, each with its own share of the network."""

    def ours(*arguments):
        return {name.replace("diffexp", "diffusers"): loop for name, loop in own(*arguments).items()}

    own = sampling._ours
    monkeypatch.setattr(sampling, "_theirs", ours)
    found = {item.name: item for item in sampling.glue(8, (8, 3, 16, 16), (10,))}
    assert [*found] == ["glue_ddim_10", "glue_ddim_clipped_10", "glue_ddim_first_10", "glue_heun_9"]
    assert all(math.isfinite(item.value) for item in found.values())
    assert [item.notes["nfe"] for item in found.values()] == [10, 10, 10, 9]
    assert [item.target for item in found.values()] == [0.35, None, None, None]
    shares = [found[name].seconds["network"] for name in ("glue_heun_9", "glue_ddim_10")]
    assert shares[0] == pytest.approx(0.9 * shares[1])


def test_a_step_by_hand_is_the_step_of_a_training():
    found = {item.name: item for item in training.step(2, UNLABELLED, seconds=0.0)}
    assert [*found] == ["step", "step_torch_noise"]
    for item in found.values():
        assert item.value > 0.0
        assert item.notes["rounds"] == 2
        assert item.notes["outputs_differ"] < 1e-4
    assert (found["step"].target, found["step_torch_noise"].target) == (1.08, None)


def test_a_step_by_hand_that_does_something_else_is_no_comparison(monkeypatch):
    monkeypatch.setattr(training.ByHand, "_draw", lambda self, x0, position: (torch.full((len(x0),), 0.5).double(), x0))
    with pytest.raises(RuntimeError, match="train another network"):
        training.step(1, UNLABELLED, seconds=0.0)


def test_pauses_are_counted_only_where_they_overlap():
    turns = training.Turns([], [], 0)
    turns.pauses = [((1.0, 10.0), (2.0, 20.0)), ((4.0, 40.0), (7.0, 70.0))]
    assert turns.waited((1.5, 15.0), (6.0, 60.0), 0) == 2.5
    assert turns.waited((1.5, 15.0), (6.0, 60.0), 1) == 25.0
    assert turns.waited((2.0, 20.0), (4.0, 40.0), 0) == 0.0


def test_the_published_step_is_the_recipe_of_the_step_by_hand():
    """The constants of the step by hand are those of the recipe."""
    parts = compose(*UNLABELLED)
    assert (parts.process.beta_min, parts.process.beta_max, parts.objective.times.t_min) == (0.1, 20.0, 1e-5)
    assert (parts.head.name, parts.head.time, parts.objective.weighting.name) == ("eps", "999t", "plain")


def test_averages_and_commands(monkeypatch):
    (found,) = startup.average(2, width=4)
    assert found.value > 0.0
    assert (found.notes["tensors"], found.notes["numbers"]) == (300, 100 * 144 + 200 * 4)
    called = []
    monkeypatch.setattr(startup.subprocess, "run", lambda words, **options: called.append(words[1:]))
    assert [item.name for item in startup.start(2)] == ["start_help", "start_config"]
    config = ("-m", "diffexp", "experiment=gddim_vp", "scale=quick", "--cfg", "job")
    turn = [("-c", "import lightning"), ("-m", "diffexp", "--help"), config]
    assert called == [*turn, *turn, *reversed(turn)]


def test_sweep_compares_commands_that_do_the_same(monkeypatch, pass_time):
    """Eight commands of ten seconds each, a sweep of thirty, a job of twenty; every budget has to be measured."""
    called = []

    def run(words, **options):
        words = [word for word in words[3:] if not word.startswith(("ckpt=", "runs="))]
        called.append(words)
        runs = next(Path(word[5:]) for word in options.pop("all") if word.startswith("runs="))
        (runs / "gddim_vp" / "run").mkdir(parents=True, exist_ok=True)
        pass_time(30.0 if "-m" in words else 20.0 if "evaluation.nfe=[2,3]" in words else 10.0)

    monkeypatch.setattr(sweep.subprocess, "run", lambda words, **options: run(words, all=words))
    rows = [SimpleNamespace(nfe=nfe, control=None) for nfe in (2, 3)]
    monkeypatch.setattr(sweep, "read_rows", lambda path: rows)
    found = {item.name: item for item in sweep.sweep(1, ("a=1",), (2, 3))}
    assert {name: item.value for name, item in found.items()} == {"sweep_multirun": 1.5, "sweep_one_job": 1.0}
    assert (found["sweep_multirun"].passed, found["sweep_one_job"].passed) == (True, False)  # one is information
    assert "task=train" in called[0]
    assert ["-m", "evaluation.nfe=[2],[3]"] in [words[-2:] for words in called]
    assert sum("evaluation.again=true" in words for words in called) == len(called) - 1 == 2 * (2 + 1 + 1)
    rows.pop()
    with pytest.raises(RuntimeError, match=r"measured NFE \[2\] in place of \[2, 3\]"):
        sweep.sweep(1, ("a=1",), (2, 3))


def result(value: float, target: float | None, binding: bool = True) -> Ratio:
    seconds, spread = {"a": value, "b": 1.0}, (value, value)
    return Ratio("name", "ours / theirs", value, value, spread, target, seconds, {"core_share": 0.5}, binding)


def test_results_are_written_and_a_missed_target_fails(monkeypatch, tmp_path, capsys):
    rows = [result(0.3, 0.35), result(0.5, None)]
    monkeypatch.setattr(bench, "MEASUREMENTS", {"some": lambda: rows})
    assert bench.main(["--out", str(tmp_path)]) == 0
    stored = json.loads((tmp_path / "results.json").read_text())
    assert [(row["value"], row["passed"]) for row in stored["results"]] == [(0.3, True), (0.5, True)]
    assert {"machine", "threads", "versions", "load_average_before"} <= set(stored["protocol"])
    assert stored["protocol"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert "| ours / theirs | 0.300 | 0.300 - 0.300 | <= 0.35 | met |" in (tmp_path / "results.md").read_text()
    rows.append(result(0.4, 0.35))
    capsys.readouterr()
    assert bench.main(["--only", "some", "--out", str(tmp_path / "none")]) == 1
    streams = capsys.readouterr()
    assert "FAILED" in streams.out
    assert streams.err.splitlines()[-1] == (
        "failed: ours / theirs: 0.400 > 0.35 (it had 50% of a core: repeat on a quiet machine)"
    )
    assert not (tmp_path / "none").exists()
    assert bench.main(["--only", "some", "--write", "--out", str(tmp_path)]) == 1
    assert len(json.loads((tmp_path / "results.json").read_text())["results"]) == 3


@pytest.mark.parametrize(
    ("found", "verdict", "passed"),
    [
        (result(0.5, None), "information", True),
        (result(0.5, 0.4, binding=False), "information missed", True),
        (result(0.3, 0.4, binding=False), "information met", True),
        (result(0.5, 0.4), "FAILED", False),
        (result(math.nan, 0.4, binding=False), "FAILED", False),
    ],
)
def test_the_table_says_what_counts(found, verdict, passed):
    assert found.passed is passed
    assert verdict in report.table([found]).splitlines()[-1]


def test_one_pass_and_torch_fidelity_measure_the_same():
    pytest.importorskip("torch_fidelity")
    (found,) = evaluation.one_pass(1, n=40)
    assert found.name == "one_pass"
    assert found.notes["largest_difference"] < 1e-4
    assert 0.0 < found.value < 5.0
    assert (found.target, set(found.seconds)) == (0.8, {"one_pass", "png_and_torch_fidelity"})


def test_the_two_frechet_distances_are_equal(monkeypatch):
    (found,) = evaluation.frechet(1, dim=48)
    assert found.notes["relative_difference"] < 1e-9
    assert math.isfinite(found.value)
    monkeypatch.setattr(evaluation, "frechet_distance", lambda *moments: 1.0)
    with pytest.raises(ValueError, match="the two Frechet distances differ by"):
        evaluation.frechet(1, dim=8)
