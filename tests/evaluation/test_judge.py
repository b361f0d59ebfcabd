"""The judge of schedules: the distance of their images, by seeds and a reference that no report looks at."""

from __future__ import annotations

import pytest
import torch

from diffexp.core.errors import ConfigError
from diffexp.distillation.bilateral.scheduling import sampler
from diffexp.distillation.bilateral.settings import SearchSettings
from diffexp.evaluation.frechet import FrechetMoments, frechet_distance
from diffexp.evaluation.generate import generate
from diffexp.evaluation.judge import Judge, check_judge, judges
from diffexp.evaluation.settings import EvaluationSettings
from tests.evaluation.conftest import SHAPE, PixelFeatures

COARSE = torch.tensor([0.3, 0.99], dtype=torch.float64)
FINE = torch.tensor([0.01, 0.05, 0.15, 0.3, 0.5, 0.7], dtype=torch.float64)


def of_report(**changes) -> EvaluationSettings:
    usual = {"n": 120, "seeds": [0, 1], "batch_size": 50, "extractor": PixelFeatures()}
    return EvaluationSettings(**{**usual, **changes})


def moments(images) -> FrechetMoments:
    found = FrechetMoments(PixelFeatures.dim)
    found.update(PixelFeatures()(images))
    return found.compute()


def judge(dataset, denoiser, search, **changes) -> Judge:
    report = of_report(**changes)
    return Judge(judges(search, report, dataset), denoiser, SHAPE, search, report)


@pytest.mark.parametrize("mode", ["ddpm", "ddim"])
def test_a_score_is_the_negative_mean_of_the_distances_from_the_judges_own_split(dataset, denoiser, mode):
    search = SearchSettings(n=90, seeds=[5, 6], sampler=mode)
    (score,) = judge(dataset, denoiser, search)(FINE)
    test = dataset.split("test")
    reference, distances = moments(test.images(range(len(test)))), []
    for seed in (5, 6):
        (batch,) = generate(sampler(FINE, mode), denoiser, SHAPE, range(90), seed, 6, 90)
        made = moments(batch.images)
        distances.append(frechet_distance(made.mean, made.covariance, reference.mean, reference.covariance))
    assert score == pytest.approx(-sum(distances) / 2, rel=1e-9)


def test_the_better_schedule_has_the_higher_score_whatever_the_batch(dataset, denoiser):
    search = SearchSettings(n=90, seeds=[5])
    scores = [judge(dataset, denoiser, search, batch_size=size)(FINE) for size in (7, 90)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)
    asked = judge(dataset, denoiser, search)
    before = denoiser.evaluations
    assert asked(FINE)[0] > asked(COARSE)[0] + 1e-3
    assert denoiser.evaluations - before == 90 * (len(FINE) + len(COARSE))
    assert asked.metrics == ["fd_pixels"]


@pytest.mark.parametrize(
    ("changes", "report", "reason"),
    [
        ({"seeds": [1, 7]}, {}, r"search.seeds=\[1, 7\]: 1 of evaluation.seeds, .*; e.g. search.seeds=\[100\]"),
        ({"reference": "train"}, {}, "search.reference=train: the report compares with this split .*: choose test"),
        ({}, {"reference": "test"}, "search.reference=test: .*: choose train"),
        ({"metrics": ["distanc"]}, {}, "search.metrics: no metric 'distanc' to judge by; did you mean 'distance'"),
        ({"metrics": ["psnr"]}, {}, "no metric 'psnr' to judge by; choose from: "),
        ({}, {"extractor": None}, "search.metrics: distance needs features, and evaluation.extractor is null"),
    ],
)
def test_what_cannot_judge_is_refused(dataset, changes, report, reason):
    search = SearchSettings(**{"n": 90, "seeds": [5], **changes})
    with pytest.raises(ConfigError, match=reason):
        check_judge(search, of_report(**report), dataset)


def test_what_can_judge_is_not_refused(dataset):
    check_judge(SearchSettings(n=90, seeds=[5]), of_report(), dataset)
    check_judge(SearchSettings(n=90, seeds=[5], reference="train"), of_report(reference="test"), dataset)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"n": 1}, "search.n=1: must be at least 2: a distance needs as many images"),
        ({"bins": 0}, "search.bins=0: must be at least 1"),
        ({"batch": 0}, "search.batch=0"),
        ({"shown": 0}, "search.shown=0"),
        ({"attempts": -1}, "search.attempts=-1"),
        ({"caps": []}, r"search.caps=\[\]: give different numbers of steps"),
        ({"caps": [5, 5]}, r"search.caps=\[5, 5\]"),
        ({"modes": []}, "search.modes=.*: give ddpm, ddim or both"),
        ({"modes": ["ddmp"]}, "search.modes: no steps 'ddmp'; did you mean 'dd.m'"),
        ({"sampler": "heun"}, "search.sampler: no steps 'heun'; choose from: ddim, ddpm"),
        ({"seeds": [3, 3]}, r"search.seeds=\[3, 3\]"),
        ({"floor": 1.0}, "search.floor=1.0"),
        ({"metrics": []}, r"search.metrics=\[\]"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(changes, reason):
    with pytest.raises(ConfigError, match=reason):
        SearchSettings(**{"n": 90, "seeds": [5], **changes})
