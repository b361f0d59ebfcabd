"""Evaluations of pairs: image i is made from pair i, metrics come from one pass, and the report tells them apart."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from diffexp.core.errors import ConfigError
from diffexp.core.image import to_float, to_uint8
from diffexp.dataset.degradation import CentreMask
from diffexp.dataset.paired import Degraded
from diffexp.dataset.split import ArraySplit
from diffexp.evaluation.controls import tells
from diffexp.evaluation.frechet import frechet_distance
from diffexp.evaluation.generate import generate
from diffexp.evaluation.pairs import pairing_of
from diffexp.evaluation.pending import complete_rows
from diffexp.evaluation.record import save_evaluation
from diffexp.evaluation.report import write_report
from diffexp.evaluation.results import read_rows
from diffexp.evaluation.score import MSE
from diffexp.evaluation.settings import Arm, EvaluationSettings
from diffexp.evaluation.sweep import check, evaluate, protocols_of
from diffexp.evaluation.table import best_of, summarise_arms, summarise_controls
from diffexp.prediction.denoiser import Denoiser, with_second
from diffexp.prediction.form import Form
from diffexp.process.bridge_schedule import BridgeVP
from diffexp.process.combination import Combination
from diffexp.sampler.dbim import DBIM
from diffexp.sampler.grid_bridge import Leaving
from diffexp.sampler.loop import Sampler
from diffexp.training.mirror import table
from tests.evaluation.conftest import SHAPE, PixelFeatures

N = 90


class Filling(Denoiser):
    """A denoiser that puts a fixed grey into the hole and keeps the source elsewhere; it notes its conditions."""

    gives = frozenset({"data", "noise"})

    def __init__(self, grey: float = 0.2) -> None:
        super().__init__(BridgeVP(beta_min=0.1, beta_d=2.0))
        self.grey = grey
        self.seen: list = []

    def form(self, marginal):
        return Form(marginal, data=Combination({1: marginal.signal.identity()}))

    def parts(self, u, point, conditions=None):
        self.evaluations += len(u)
        self.seen.append(conditions)
        data = conditions.endpoint + self.grey * conditions.mask
        return with_second((u, data.to(u)), point.marginal, conditions)


class Pictures:
    """Random images with classes: the class is the image's number in its split."""

    name, shape, num_classes = "pictures", SHAPE, 1000

    def __init__(self, train: int = 300, test: int = 100) -> None:
        pixels = np.random.default_rng(1).integers(0, 256, (train + test, *SHAPE), dtype=np.uint8)
        parts = {"train": pixels[:train], "test": pixels[train:]}
        self._splits = {name: ArraySplit(part, np.arange(len(part))) for name, part in parts.items()}

    def prepare(self) -> None:
        pass

    def split(self, name):
        return self._splits[name]


@pytest.fixture
def pictures() -> Degraded:
    return Degraded(Pictures(), CentreMask(4), "holes")


@pytest.fixture
def filling() -> Filling:
    return Filling()


@pytest.fixture
def dbim() -> list[Arm]:
    return [Arm(Sampler("dbim", DBIM(), Leaving()), (2, 3))]


@pytest.fixture
def asked() -> EvaluationSettings:
    return EvaluationSettings(
        n=N, seeds=[0, 1], batch_size=40, extractor=PixelFeatures(), metrics=["mse", "psnr"], grid_images=3,
        controls=["real", "source", "noise", "mean"],
    )  # fmt: skip


@pytest.fixture
def found(dbim, filling, pictures, asked, provenance):
    return evaluate(dbim, filling, pictures, asked, provenance)


def test_the_order_is_a_fixed_permutation_and_conditions_are_those_of_the_pair(pictures, asked) -> None:
    pairing = pairing_of(pictures, asked)
    order = pairing.of(range(100))
    assert sorted(order.tolist()) == list(range(100))
    assert order.tolist() != list(range(100))
    asked.n = 7
    assert pairing_of(pictures, asked).of(range(7)).tolist() == order[:7].tolist()
    split = pictures.split("test")
    conditions = pairing(5, [3, 0])
    pairs = split.pairs(order[[3, 0]])
    assert conditions.labels.tolist() == order[[3, 0]].tolist()
    assert torch.equal(conditions.endpoint, pairs.endpoint)
    assert torch.equal(conditions.mask, pairs.mask)
    assert torch.equal(pairing.targets([3]), split.images(order[[3]]))
    assert torch.equal(pairing.sources([3]), to_uint8(pairs.endpoint[:1]))


@pytest.mark.parametrize("cut", [13, 40])
def test_images_do_not_depend_on_batches_and_shards(dbim, filling, pictures, asked, cut: int) -> None:
    pairing, sampler = pairing_of(pictures, asked), dbim[0].sampler

    def images(indices: range, batch: int) -> torch.Tensor:
        made = generate(sampler, filling, SHAPE, indices, 1, 3, batch, conditioner=pairing)
        return torch.cat([found.images for found in made])

    whole = images(range(50), 50)
    assert torch.equal(torch.cat([images(range(cut), 9), images(range(cut, 50), 50)]), whole)


def test_a_row_for_each_metric_and_only_controls_that_tell(found) -> None:
    arms = [(row.metric, row.nfe, row.seed) for row in found.rows if row.control is None]
    metrics = ("fd_pixels", "mse", "psnr")
    assert arms == [(metric, nfe, seed) for nfe in (2, 3) for seed in (0, 1) for metric in metrics]
    controls = {(row.control, row.metric) for row in found.rows if row.control}
    paired = {(name, metric) for name in ("source", "noise", "mean") for metric in metrics}
    assert controls == {*paired, ("real", "fd_pixels")}
    assert not tells("real", "mse")
    assert not tells("resampled", "psnr")
    assert tells("resampled", "fid")
    assert [protocol.metric for protocol in found.protocols] == list(metrics)
    assert {row.protocol for row in found.rows} == {protocol.hash for protocol in found.protocols}


def test_one_pass_serves_all_metrics(dbim, filling, pictures, asked, provenance) -> None:
    counts: list[int] = []
    evaluate(dbim, filling, pictures, asked, provenance, on_batch=counts.append)
    assert sum(counts) == 2 * 2 * N + 40  # arms x seeds, and the warm-up batch
    assert filling.evaluations == (2 + 3) * 2 * N + 2 * 40


def test_values_are_those_of_image_i_against_target_i(found, dbim, filling, pictures, asked) -> None:
    """The model's answer is known: the source with grey 0.2 in the hole, up to the noise that is left at t_min."""
    pairing = pairing_of(pictures, asked)
    made = generate(dbim[0].sampler, filling, SHAPE, range(N), 1, 3, N, conditioner=pairing)
    images = next(iter(made)).images
    targets = pairing.targets(range(N))
    row = next(r for r in found.rows if (r.metric, r.nfe, r.seed) == ("mse", 3, 1))
    assert row.value == pytest.approx(float(MSE()(images, targets).mean()), rel=1e-12)
    pairs = pairing.split.pairs(pairing.of(range(N)))
    exact = (0.2 - to_float(pairs.image)) * pairs.mask
    assert row.value == pytest.approx(float(exact.double().square().mean()), rel=0.02)
    shifted = float(MSE()(images, targets.roll(1, 0)).mean())
    assert shifted > 3 * row.value  # a wrong order of the targets would show


def test_controls_of_pairs(found, pictures, asked) -> None:
    pairing = pairing_of(pictures, asked)
    values = {(c.label, c.metric): c for c in summarise_controls(found.rows)}
    targets, sources = pairing.targets(range(N)), pairing.sources(range(N))
    assert values["source", "mse"].mean == pytest.approx(float(MSE()(sources, targets).mean()), rel=1e-12)
    assert values["source", "mse"].spread is None
    features, reference = (PixelFeatures()(part) for part in (targets, pictures.split("train").images(range(300))))
    moments = [value for part in (features, reference) for value in (part.mean(0), torch.cov(part.T))]
    assert values["real", "fd_pixels"].mean == pytest.approx(frechet_distance(*moments), rel=1e-8)
    assert len(set(values["real", "fd_pixels"].values)) == 1


def test_protocols_name_the_pairs(found, pictures) -> None:
    distance, mse, _ = found.protocols
    test = pictures.split("test").fingerprint
    assert distance.pairs == mse.pairs == f"test {test}"
    assert (distance.split, distance.reference_n, distance.reference) == (
        "train", 300, pictures.split("train").fingerprint
    )  # fmt: skip
    assert (mse.split, mse.reference_n, mse.reference, mse.extractor) == ("test", 100, test, "pixels")
    assert replace(distance, pairs=None).hash != distance.hash


def test_training_pairs_and_a_held_out_reference(dbim, filling, pictures, asked) -> None:
    asked.pairs, asked.reference, asked.n = "train", "test", 250
    distance, mse, _ = protocols_of(pictures, asked)
    assert (distance.split, distance.reference_n, mse.split, mse.reference_n) == ("test", 100, "train", 300)
    check(dbim, filling, pictures, asked)


def test_only_what_is_missing_is_measured_again(found, dbim, filling, pictures, asked, provenance) -> None:
    known = [row for row in found.rows if not (row.metric == "psnr" and row.nfe == 3 and row.seed == 1)]
    filling.evaluations = 0
    again = evaluate(dbim, filling, pictures, asked, provenance, known=known)
    assert [(row.metric, row.nfe, row.seed) for row in again.rows] == [("psnr", 3, 1)]
    wanted = next(row for row in found.rows if (row.metric, row.nfe, row.seed) == ("psnr", 3, 1))
    assert again.rows[0].value == pytest.approx(wanted.value, rel=1e-12)
    assert len(again.kept) == len(found.rows) - 1
    first_images, warm_up = 3 * (2 + 3), 3 * 40
    assert filling.evaluations == 3 * N + first_images + warm_up


def test_refusals(dbim, filling, pictures, asked, dataset) -> None:
    asked.n = 101
    with pytest.raises(ConfigError, match=r"n=101: 'holes' has 100 pairs in its split test; use evaluation.n=100"):
        check(dbim, filling, pictures, asked)
    with pytest.raises(ConfigError, match=r"evaluation.metrics=\['mse', 'psnr'\]: 'gaussian' holds no pairs"):
        pairing_of(dataset, asked)
    asked.metrics = []
    with pytest.raises(ConfigError, match="controls: 'source': 'gaussian' holds no pairs"):
        pairing_of(dataset, asked)
    asked.pairs = "train"
    with pytest.raises(ConfigError, match=r"evaluation\.pairs=train: 'gaussian' holds no pairs"):
        pairing_of(dataset, asked)
    for options, message in (
        ({"metrics": ["pnsr"]}, "no metric 'pnsr'; did you mean 'psnr'"),
        ({"pairs": "tset"}, "evaluation.pairs=tset"),
        ({"reference": "val"}, "evaluation.reference=val"),
    ):
        with pytest.raises(ConfigError, match=message):
            EvaluationSettings(n=10, seeds=[0], grid_images=0, **options)


@pytest.fixture
def folder(found, tmp_path: Path) -> Path:
    save_evaluation(tmp_path, found)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"recipe": "toy", "choices": {}}))
    write_report(tmp_path)
    return tmp_path


def test_the_report_has_a_section_and_a_plot_for_each_metric(folder: Path, found) -> None:
    text = (folder / "report.md").read_text()
    for metric in ("fd_pixels", "mse", "psnr"):
        assert f"## {metric}, n = 90" in text
    for plot in ("distance", "mse", "psnr"):
        assert (folder / f"{plot}.png").stat().st_size > 1000
        assert f"]({plot}.png)" in text
    assert "Not comparable with the section" not in text  # other metrics are no other protocol of the same one
    assert "Peak signal-to-noise ratio in dB: mean over 90 images, each against its target in the test split" in text
    assert "higher is better. Best: **" in text
    psnr = [arm for arm in summarise_arms(found.rows) if arm.metric == "psnr"]
    assert f"Best: **{max(arm.mean for arm in psnr):.2f}" in text
    assert "| maximum |" in text
    assert "what the targets of these pairs score" in text
    assert "| source | " in text
    assert "split test, image i from the i-th in a fixed random order" in text


def test_pictures_have_the_sources_first_and_the_targets_last(folder: Path, found, pictures, asked) -> None:
    pairing = pairing_of(pictures, asked)
    assert torch.equal(found.sources, pairing.sources(range(3)))
    assert torch.equal(found.real, pairing.targets(range(3)))
    (path,) = folder.glob("samples_*.png")
    from PIL import Image

    height = Image.open(path).size[1]
    assert height > 4 * 56  # source, two budgets, target


def test_results_and_completeness(folder: Path, found, dbim, asked, pictures, provenance) -> None:
    rows = read_rows(folder / "results.csv")
    assert len(rows) == len(found.rows) == 2 * 2 * 3 + 2 * (3 * 3 + 1)
    with open(folder / "results.csv", newline="") as handle:
        metrics = [record["metric"] for record in csv.DictReader(handle)]
    assert set(metrics) == {"fd_pixels", "mse", "psnr"}
    complete = complete_rows(folder, dbim, asked, pictures, provenance)
    assert complete is not None
    assert {row.key for row in complete} == {row.key for row in rows}
    asked.metrics = ["mse", "psnr", "ssim"]
    assert complete_rows(folder, dbim, asked, pictures, provenance) is None


def test_tables_of_dashboards_keep_metrics_apart(found) -> None:
    lines = table(found.rows)
    names = {(line[0], line[2], line[3]) for line in lines}
    assert {("dbim", 2, "mse"), ("dbim", 2, "psnr"), ("dbim", 3, "fd_pixels"), ("source", None, "mse")} <= names
    assert len(lines) == 2 * 3 + 3 * 3 + 1
    psnr = best_of(arm for arm in summarise_arms(found.rows) if arm.metric == "psnr")
    assert psnr.mean == max(line[4] for line in lines if line[3] == "psnr" and line[0] == "dbim")
