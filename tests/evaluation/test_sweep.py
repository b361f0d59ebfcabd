"""The sweep: right rows and distances, counted NFE, refusals before anything is generated."""

import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffexp.core.errors import ConfigError, SamplingError
from diffexp.evaluation.features import DigitsFeatures
from diffexp.evaluation.frechet import frechet_distance
from diffexp.evaluation.generate import generate
from diffexp.evaluation.settings import Arm
from diffexp.evaluation.sweep import check, evaluate
from diffexp.sampler.grid import Power
from diffexp.sampler.linear import DDIM
from diffexp.sampler.loop import Sampler


@pytest.fixture
def found(arms, denoiser, dataset, settings, provenance):
    return evaluate(arms, denoiser, dataset, settings, provenance)


def test_one_row_for_each_arm_budget_and_seed(found):
    arms = [(row.sampler, row.grid, row.nfe, row.seed) for row in found.rows if row.control is None]
    budgets = [("ddim", 2), ("ddim", 6), ("heun", 3), ("heun", 5)]
    assert arms == [(name, "uniform(t_end=0.001,last=state)", nfe, seed) for name, nfe in budgets for seed in (0, 1)]
    controls = [(row.control, row.grid, row.nfe, row.seed, row.seconds_per_image) for row in found.rows if row.control]
    assert controls == [(name, "", None, seed, None) for name in ("real", "noise", "mean") for seed in (0, 1)]
    assert {row.protocol for row in found.rows} == {found.protocols[0].hash}
    assert {(row.n, row.metric, row.checkpoint) for row in found.rows} == {(120, "fd_pixels", "step_7@ema_0.9")}
    assert all(row.seconds_per_image > 0 for row in found.rows if row.control is None)


def test_values_are_the_distances_of_the_generated_images(found, samplers, denoiser, dataset, settings):
    def moments(images):
        features = settings.extractor(images).numpy()
        return torch.from_numpy(features.mean(0)), torch.from_numpy(np.cov(features, rowvar=False))

    batches = generate(samplers["ddim"], denoiser, dataset.shape, range(120), 1, 6, 120)
    images = torch.cat([batch.images for batch in batches])
    reference = moments(dataset.split("train").images(range(600)))
    row = next(row for row in found.rows if (row.sampler, row.nfe, row.seed) == ("ddim", 6, 1))
    assert row.value == pytest.approx(frechet_distance(*moments(images), *reference), rel=1e-8)


def test_distances_order_as_they_must(arms, denoiser, dataset, settings, provenance, samplers):
    rows = evaluate([Arm(samplers["ddim"], (3, 60))], denoiser, dataset, settings, provenance).rows
    mean = {
        key: statistics.fmean(row.value for row in rows if (row.sampler, row.nfe) == key)
        for key in {(row.sampler, row.nfe) for row in rows}
    }
    assert mean["control:real", None] < mean["ddim", 3] / 2
    assert mean["ddim", 60] < mean["ddim", 3] / 2
    assert mean["ddim", 60] < mean["control:noise", None] / 5
    trace = mean["control:mean", None]
    assert trace == pytest.approx(8 * (0.3 * 127.5) ** 2 / 8, rel=0.15), "zero covariance leaves the reference's trace"


def test_batch_size_does_not_matter(found, arms, denoiser, dataset, settings, provenance):
    settings.batch_size = 120
    again = evaluate(arms, denoiser, dataset, settings, provenance)
    for row, other in zip(found.rows, again.rows, strict=True):
        assert row.value == pytest.approx(other.value, rel=1e-9)
        assert row.key == other.key


def test_protocol_states_what_was_measured(found, dataset):
    protocol = found.protocols[0]
    assert (protocol.metric, protocol.n, protocol.dataset, protocol.split) == ("fd_pixels", 120, "gaussian", "train")
    assert (protocol.reference_n, protocol.quantise, protocol.extractor) == (600, "round", "pixels")
    assert protocol.reference == dataset.split("train").fingerprint


def test_grids_hold_the_first_images_of_the_first_seed(found, samplers, denoiser, dataset):
    expected = next(generate(samplers["heun"], denoiser, dataset.shape, range(4), 0, 5, 4)).images
    assert torch.equal(found.grids["heun"].rows[5], expected)
    assert {name: list(grid.rows) for name, grid in found.grids.items()} == {"ddim": [2, 6], "heun": [3, 5]}
    held_out = dataset.split("test")
    last = len(held_out) - 1
    assert torch.equal(found.real, held_out.images([0, last // 3, 2 * last // 3, last]))


def test_progress_sees_every_generated_image(arms, denoiser, dataset, settings, provenance):
    counts = []
    evaluate(arms, denoiser, dataset, settings, provenance, on_batch=counts.append)
    assert sum(counts) == 4 * 2 * 120 + 50  # and the warm-up batch


def test_without_an_extractor_there_are_pictures_only(arms, denoiser, dataset, settings, provenance):
    settings.extractor = None
    settings.n = 8
    found = evaluate(arms, denoiser, dataset, settings, provenance)
    assert (found.rows, found.protocols) == ([], [])
    assert found.grids["ddim"].rows[6].shape == (4, 1, 8, 8)


def test_refusals_come_before_anything_is_generated(arms, denoiser, dataset, settings, samplers, provenance):
    with pytest.raises(ConfigError, match="nfe=10 is not reachable with sampler heun: choose 9 or 11"):
        evaluate([arms[0], Arm(samplers["heun"], (10,))], denoiser, dataset, settings, provenance)
    settings.n = 201
    with pytest.raises(ConfigError, match="as many held-out images and 'gaussian' has 200"):
        evaluate(arms, denoiser, dataset, settings, provenance)
    settings.n, settings.extractor, dataset.shape = 100, DigitsFeatures(), (3, 32, 32)
    with pytest.raises(ConfigError, match="'digits' takes images of shape 1x8x8"):
        check(arms, denoiser, dataset, settings)
    with pytest.raises(ConfigError, match="no sampler"):
        check([], denoiser, dataset, settings)
    assert denoiser.evaluations == 0


def test_a_sampler_that_miscounts_is_caught(arms, denoiser, dataset, settings, provenance, monkeypatch):
    monkeypatch.setattr(type(arms[0].sampler.stepper), "evaluations", lambda self, n: 2 * n)
    with pytest.raises(SamplingError, match="declared 2 evaluations an image, used 1"):
        evaluate([replace(arms[0], nfe=(2,))], denoiser, dataset, settings, provenance)


def test_the_floor_of_all_held_out_images_is_the_distance_of_the_splits(arms, denoiser, dataset, settings, provenance):
    settings.n, settings.controls = 200, ["real"]
    rows = evaluate([replace(arms[0], nfe=(2,))], denoiser, dataset, settings, provenance).rows
    features = [settings.extractor(dataset.split(name).images(range(n))) for name, n in (("test", 200), ("train", 600))]
    expected = frechet_distance(*(part for f in features for part in (f.mean(0), torch.cov(f.T))))
    floor = [row.value for row in rows if row.control == "real"]
    assert floor == pytest.approx([expected, expected], rel=1e-9)
    assert expected > 0.1


def _keys(rows):
    return [(row.sampler, row.nfe, row.seed) for row in rows]


def test_known_rows_are_not_measured_again(found, arms, denoiser, dataset, settings, provenance):
    denoiser.evaluations = 0
    again = evaluate(arms, denoiser, dataset, settings, provenance, known=found.rows)
    assert (again.rows, again.kept) == ([], found.rows)
    assert denoiser.evaluations == 4 * (2 + 6 + 3 + 5), "only the first images of each budget"
    for name, pictures in found.grids.items():
        for nfe, images in pictures.rows.items():
            assert torch.equal(again.grids[name].rows[nfe], images)


def test_an_adaptive_sampler_is_counted(denoiser, dataset, settings, provenance, samplers):
    arms, settings.controls = [Arm(samplers["rk45"], (None,))], []
    denoiser.evaluations = 0
    found = evaluate(arms, denoiser, dataset, settings, provenance)
    first, second = found.rows
    (stem,) = found.grids
    assert 30 < first.nfe < 60
    assert 30 < second.nfe < 60
    warm_up = denoiser.evaluations - 120 * (first.nfe + second.nfe)  # counts are rounded to a tenth
    assert abs(warm_up - 50 * first.nfe) < 120 * 0.1 + 50 * 2
    assert list(found.grids[stem].rows) == [first.nfe]
    again = evaluate(arms, denoiser, dataset, settings, provenance, known=found.rows)
    assert (again.rows, again.kept) == ([], found.rows)
    assert list(again.grids[stem].rows) == [first.nfe]


def test_an_evaluation_goes_on_where_it_stopped(found, arms, denoiser, dataset, settings, provenance):
    """Rows come one by one; those that were saved before the stop and those after make the whole."""
    saved = []

    def stop_after_nine(so_far, row):
        assert so_far.rows[-1] is row
        saved.append(row)
        if len(saved) == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(arms, denoiser, dataset, settings, provenance, on_row=stop_after_nine)
    assert _keys(saved)[6:] == [("ddim", 2, 0), ("ddim", 2, 1), ("ddim", 6, 0)]
    rest = evaluate(arms, denoiser, dataset, settings, provenance, known=saved)
    assert _keys(rest.rows) == [("ddim", 6, 1), ("heun", 3, 0), ("heun", 3, 1), ("heun", 5, 0), ("heun", 5, 1)]
    assert [(row.key, row.value) for row in saved + rest.rows] == [(row.key, row.value) for row in found.rows]
    assert torch.equal(rest.grids["ddim"].rows[6], found.grids["ddim"].rows[6])


@pytest.mark.parametrize(
    "change",
    [
        lambda given: setattr(given["arms"][0].sampler, "clip", True),
        lambda given: setattr(given["arms"][0].sampler, "grid", Power(p=3.0, t_end=1e-3)),
        lambda given: setattr(given["arms"][0].sampler, "grid", Power(p=2.0, t_end=1e-3)),
        lambda given: given.update(provenance=replace(given["provenance"], checkpoint="step_8")),
        lambda given: setattr(given["settings"], "quantise", "truncate"),
        lambda given: setattr(given["settings"], "n", 100),
    ],
)
def test_whatever_changes_a_number_is_measured_anew(change, samplers, denoiser, dataset, settings, provenance):
    settings.controls, settings.seeds = [], [0]
    grid = Power(p=2.0, t_end=2e-3)
    given = {"arms": [Arm(Sampler("ddim", DDIM(), grid), (3,))], "settings": settings, "provenance": provenance}

    def run(known=()):
        return evaluate(given["arms"], denoiser, dataset, settings, given["provenance"], known=known)

    first = run()
    assert run(first.rows).rows == []
    change(given)
    second = run(first.rows)
    assert len(second.rows) == 1
    assert second.rows[0].key != first.rows[0].key


def test_controls_of_another_checkpoint_are_kept(found, arms, denoiser, dataset, settings, provenance):
    other = replace(provenance, checkpoint="step_8")
    again = evaluate(arms, denoiser, dataset, settings, other, known=found.rows)
    assert _keys(again.kept) == _keys(row for row in found.rows if row.control)
    assert len(again.rows) == 8


def test_arms_of_one_name_have_pictures_of_their_own(denoiser, dataset, settings, provenance, samplers):
    settings.extractor = None
    arms = [
        Arm(samplers["ddim"], (2,)),
        Arm(Sampler("ddim", DDIM(), samplers["ddim"].grid, clip=True), (2,)),
        Arm(Sampler("ddim", DDIM(), Power(p=2.0, t_end=1e-3)), (2,)),
    ]
    grids = evaluate(arms, denoiser, dataset, settings, provenance).grids
    assert list(grids) == [
        "ddim_uniform_t_end_0.001_last_state", "ddim_clip", "ddim_power_p_2_t_end_0.001_last_state"
    ]  # fmt: skip
    assert grids["ddim_clip"].title == "ddim(clip) on uniform(t_end=0.001,last=state)"
    first, _, other = (pictures.rows[2] for pictures in grids.values())
    assert not torch.equal(first, other)
