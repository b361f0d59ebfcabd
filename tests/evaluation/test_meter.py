"""One pass of features feeds all metrics of a set; sweeps measure and report them, and go on with what is missing."""

import pytest
import torch

from diffexp.core.errors import ConfigError
from diffexp.dataset.split import ArraySplit
from diffexp.evaluation.features import DigitsFeatures
from diffexp.evaluation.frechet import frechet_distance
from diffexp.evaluation.inception_score import ScoreSums, published_splits
from diffexp.evaluation.kernel_distance import KernelDistance, draw_subsets
from diffexp.evaluation.manifold import Manifold
from diffexp.evaluation.meter import Meter
from diffexp.evaluation.metric import FRECHET, SET_METRICS
from diffexp.evaluation.record import save_evaluation
from diffexp.evaluation.report import write_report
from diffexp.evaluation.settings import Arm
from diffexp.evaluation.store import ReferenceStore
from diffexp.evaluation.sweep import evaluate, protocols_of

CPU = torch.device("cpu")


class Counted(DigitsFeatures):
    """The digits classifier, which counts the images it has seen."""

    seen = 0

    def __call__(self, images):
        self.seen += len(images)
        return super().__call__(images)


@pytest.fixture
def counted():
    return Counted()


def test_every_metric_from_one_pass_and_the_reference_is_read_once(dataset, counted):
    train, test = dataset.split("train"), dataset.split("test")
    meter = Meter.on(train, counted, 128, CPU, (FRECHET, *SET_METRICS), n=200)
    tally = meter.begin()
    for indices in torch.arange(200).split(64):
        tally.add(test.images(indices), indices)
    found = {name: tally.value(name) for name in (FRECHET, *SET_METRICS)}
    assert tally.count == 200
    assert counted.seen == 600 + 200, "every image once"
    features, logits = DigitsFeatures().classify(test.images(range(200)))
    reference = DigitsFeatures()(train.images(range(600)))
    sums = ScoreSums(10, published_splits(200))
    sums.update(logits, range(200))
    expected = {
        FRECHET: frechet_distance(*(part for f in (features, reference) for part in (f.mean(0), torch.cov(f.T)))),
        "is": float(sums.compute().mean()),
        "kid": KernelDistance(reference, draw_subsets("reference", 600, 100, 200))(
            features, draw_subsets("images", 200, 100, 200)
        ),
        **Manifold(reference)(features),
    }
    assert found == pytest.approx(expected, rel=1e-7)
    assert abs(found["kid"]) < 0.05 < found["precision"]


def test_a_tally_keeps_what_its_metrics_need_and_no_more(dataset, counted):
    """Sums for moments: a Frechet distance keeps no list of features, whatever n is."""
    meter = Meter.on(dataset.split("train"), counted, 100, CPU, (FRECHET, "is"), n=50)
    tally = meter.begin((FRECHET,))
    assert (meter.bank, tally._bank, tally._scores) == (None, None, None)
    assert meter.begin(("is",))._moments is None
    assert Meter.on(dataset.split("train"), counted, 100, CPU, ("kid",), n=50).bank.shape == (600, 48)


def test_order_and_batches_of_images_do_not_matter(dataset):
    split = dataset.split("train")
    meter = Meter.on(ArraySplit(split.images(range(300)).numpy(), None), DigitsFeatures(), 300, CPU, SET_METRICS, n=120)
    values = []
    for parts in (torch.arange(120).split(120), torch.arange(120).flip(0).split(37)):
        tally = meter.begin()
        for indices in parts:
            tally.add(split.images(300 + indices), indices)
        values.append([tally.value(name) for name in SET_METRICS])
    assert values[0] == pytest.approx(values[1], rel=1e-9)


@pytest.fixture
def swept(arms, settings):
    settings.extractor, settings.metrics = DigitsFeatures(), ["kid", "recall", "is"]
    return [Arm(arms[0].sampler, (2, 6))]


def test_a_sweep_has_a_row_and_a_protocol_for_each_metric(swept, denoiser, dataset, settings, provenance, tmp_path):
    found = evaluate(swept, denoiser, dataset, settings, provenance)
    names = ["fd_digits", "kid_digits", "recall_digits", "is_digits"]
    assert [protocol.metric for protocol in found.protocols] == names
    assert [p.variant for p in found.protocols] == [None, "100 subsets of 120", "k = 3", "10 splits"]
    assert len({protocol.hash for protocol in found.protocols}) == 4
    assert (found.protocols[3].reference, found.protocols[3].reference_n) == ("none", 0)
    assert [row.metric for row in found.rows] == names * (5 * 2)  # 3 controls and 2 budgets, 2 seeds
    value = {(row.sampler, row.nfe, row.metric, row.seed): row.value for row in found.rows}
    few, more = (value["ddim", nfe, "kid_digits", 0] for nfe in (2, 6))
    assert few > more > value["control:real", None, "kid_digits", 0]
    assert value["control:mean", None, "is_digits", 0] == pytest.approx(1.0, abs=1e-9), "nothing to tell apart"
    assert value["control:mean", None, "recall_digits", 0] == 0.0
    save_evaluation(tmp_path, found)
    report = write_report(tmp_path).read_text()
    assert "Kernel distance of 120 images against the 600 images of the train split of gaussian; lower" in report
    assert "Score of classes of 120 images; higher is better." in report
    assert "| settings | 100 subsets of 120 |" in report
    assert "| reference | none: a number of the images alone |" in report
    assert {path.stem for path in tmp_path.glob("*.svg")} >= {"distance", "kid", "recall", "is"}


def test_a_metric_that_is_added_later_is_measured_alone(swept, denoiser, dataset, settings, provenance):
    settings.metrics = ["kid"]
    first = evaluate(swept, denoiser, dataset, settings, provenance)
    settings.metrics = ["kid", "coverage"]
    again = evaluate(swept, denoiser, dataset, settings, provenance, known=first.rows)
    assert {row.metric for row in again.rows} == {"coverage_digits"}
    assert {row.metric for row in again.kept} == {"fd_digits", "kid_digits"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extractor": None}, "kid needs features; choose an evaluation.extractor"),
        ({"metrics": ["kid", "is"]}, "is needs class scores, 'pixels' has features only"),
        ({"metrics": ["density"], "n": 5}, "evaluation.n=5: density needs at least 6 images"),
    ],
)
def test_metrics_that_cannot_be_are_refused(dataset, settings, change, message):
    settings.metrics, settings.controls = ["kid"], []
    for name, value in change.items():
        setattr(settings, name, value)
    with pytest.raises(ConfigError, match=message):
        protocols_of(dataset, settings)


def test_a_store_saves_the_pass_over_the_reference(dataset, counted, tmp_path):
    """Features and moments are kept apart: who wants the distance alone need not read the features of all images."""
    train, store = dataset.split("train"), ReferenceStore(tmp_path)
    first = Meter.on(train, counted, 128, CPU, (FRECHET, "kid"), n=200, store=store)
    assert counted.seen == 600
    second = Meter.on(train, counted, 50, CPU, (FRECHET, "kid"), n=200, store=store)
    alone = Meter.on(train, counted, 50, CPU, store=store)
    assert counted.seen == 600
    assert torch.equal(first.bank, second.bank)
    assert torch.equal(first.reference.covariance, alone.reference.covariance)
    assert alone.bank is None
    assert sorted(path.name.split("-")[0] for path in tmp_path.iterdir()) == ["features", "moments"]
    unkept = Meter.on(train, counted, 50, CPU)
    assert float((unkept.reference.covariance - first.reference.covariance).abs().max()) < 1e-10
