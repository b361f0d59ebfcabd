"""A setting that is tuned: chosen on noise and images of its own, on record, and spelled out in the rows."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch

from diffexp.core.errors import ConfigError, DiffexpError
from diffexp.evaluation.frechet import frechet_distance
from diffexp.evaluation.generate import generate
from diffexp.evaluation.selection import FILE, Bench, read_choices, recalled, section, settled, tuned
from diffexp.evaluation.settings import build_arms
from diffexp.evaluation.sweep import check, evaluate
from diffexp.evaluation.tuning import Tuning
from diffexp.sampler.grid import Uniform
from diffexp.sampler.linear import Ancestral
from diffexp.sampler.loop import Sampler

VALUES = [0.0, 0.5, 1.0]
NODE = {"name": "ddpm", "stepper": {"variance": "medium", "interpolation": 0.25}, "nfe": [2, 6]}
TUNE = {"setting": "stepper.interpolation", "values": VALUES, "seeds": [7, 8], "n": 200}


def make(node, where):
    """Objects of the nodes above."""
    if where.endswith(".tune"):
        return Tuning(**node)
    return Sampler(node["name"], Ancestral(**node["stepper"]), Uniform(t_end=1e-3))


def arm_of(**tune):
    node = {"arms": {"medium": {**NODE, "tune": {**TUNE, **tune}}}}
    (arm,) = build_arms(node, {"name": "ddim"}, make)
    return arm


@pytest.fixture
def bench(denoiser, dataset, settings, provenance):
    return Bench(denoiser, dataset, settings, provenance.checkpoint)


def test_the_best_of_the_tunings_own_distances_is_taken(bench, denoiser, dataset, settings, tmp_path):
    """For each number of steps; distances from the held-out images, over the tuning's seeds, in float64."""
    arms = tuned([arm_of()], tmp_path, bench)
    reference = settings.extractor(dataset.split("test").images(range(200)))
    for choice in read_choices(tmp_path):
        means = []
        for value in VALUES:
            sampler, found = make({**NODE, "stepper": {"variance": "medium", "interpolation": value}}, ""), []
            for seed in TUNE["seeds"]:
                batches = generate(sampler, denoiser, dataset.shape, range(200), seed, choice.nfe, 64)
                features = settings.extractor(torch.cat([batch.images for batch in batches]))
                moments = [(each.mean(0), each.T.cov()) for each in (features, reference)]
                found.append(frechet_distance(*moments[0], *moments[1]))
            assert choice.distances[VALUES.index(value)] == pytest.approx(found, rel=1e-8)
            means.append(sum(found))
        assert choice.value == VALUES[means.index(min(means))]
        (arm,) = (arm for arm in arms if choice.nfe in arm.nfe)
        assert arm.sampler.stepper.interpolation == choice.value
        assert arm.label == choice.chosen
        assert arm.tune is None
    assert sorted(nfe for arm in arms for nfe in arm.nfe) == [2, 6]
    assert len(read_choices(tmp_path)) == 2


def test_a_choice_is_made_once(bench, denoiser, settings, dataset, provenance, tmp_path):
    """For these weights, values, seeds, n and images: anything else is another choice."""
    assert settled([arm_of()], tmp_path, settings, dataset, provenance.checkpoint) is None
    first = tuned([arm_of()], tmp_path, bench)
    before, text = denoiser.evaluations, (tmp_path / FILE).read_text()
    assert before == 2 * 3 * 200 * (2 + 6)
    again = tuned([arm_of()], tmp_path, bench)
    known = settled([arm_of()], tmp_path, settings, dataset, provenance.checkpoint)
    assert [arm.label for arm in again] == [arm.label for arm in first] == [arm.label for arm in known]
    assert denoiser.evaluations == before
    assert (tmp_path / FILE).read_text() == text
    assert settled([arm_of()], tmp_path, settings, dataset, "step_8@none") is None
    for word in ({"n": 100}, {"seeds": [9]}, {"values": [0.0, 1.0]}, {"reference": "train"}):
        assert settled([arm_of(**word)], tmp_path, settings, dataset, provenance.checkpoint) is None
    fresh = copy.copy(settings)
    fresh.again = True
    tuned([arm_of()], tmp_path, replace(bench, settings=fresh))
    assert denoiser.evaluations == 2 * before
    assert len(read_choices(tmp_path)) == 2  # replaced


def test_images_are_sampled_with_what_was_chosen(bench, tmp_path):
    """As far as an evaluation in that folder has chosen; else with the recipe's value."""
    plain = recalled([arm_of()], tmp_path, "exact")
    assert [(arm.sampler.stepper.interpolation, arm.nfe) for arm in plain] == [(0.25, (2, 6))]
    arms = tuned([arm_of()], tmp_path, bench)
    found = recalled([arm_of()], tmp_path, "exact")
    assert [(arm.label, arm.nfe) for arm in found] == [(arm.label, arm.nfe) for arm in arms]
    more = replace(arm_of(), nfe=(2, 6, 9))
    assert [arm.nfe for arm in recalled([more], tmp_path, "exact") if arm.sampler.stepper.interpolation == 0.25] == [
        (9,)
    ]


def test_results_say_what_was_chosen(bench, denoiser, dataset, settings, provenance, tmp_path):
    rows = evaluate(tuned([arm_of()], tmp_path, bench), denoiser, dataset, settings, provenance).rows
    found = {row.nfe: row.sampler for row in rows if row.control is None}
    assert found == {choice.nfe: choice.chosen for choice in read_choices(tmp_path)}
    assert all("interpolation=" in label and "0.25" not in label for label in found.values())
    text = [block for block in section(tmp_path) if isinstance(block, str)]
    assert "200 images (noise of seed 7, 8) from the 200 images of the test split" in text[0]
    (table,) = (block for block in section(tmp_path) if hasattr(block, "rows"))
    assert list(table.header) == ["NFE", "chosen", "0", "0.5", "1"]
    assert [row[0] for row in table.rows] == ["2", "6"]
    assert [row[1] for row in table.rows] == [f"**{choice.value:g}**" for choice in read_choices(tmp_path)]
    assert section(tmp_path / "elsewhere") == []


def test_without_a_distance_the_recipes_value_stays(bench, settings, dataset, provenance, tmp_path):
    pictures = copy.copy(settings)
    pictures.extractor = None
    (arm,) = tuned([arm_of()], tmp_path, replace(bench, settings=pictures))
    assert arm.sampler.stepper.interpolation == 0.25
    (known,) = settled([arm_of()], tmp_path, pictures, dataset, provenance.checkpoint)
    assert known.label == arm.label
    assert not (tmp_path / FILE).exists()


def test_a_stop_between_two_choices_costs_one(bench, denoiser, tmp_path):
    batches = []

    def stop(images):
        batches.append(images)
        if denoiser.evaluations > 2 * 3 * 200 * 2:  # in the second choice
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned([arm_of()], tmp_path, replace(bench, on_batch=stop))
    assert [choice.nfe for choice in read_choices(tmp_path)] == [2]
    before = denoiser.evaluations
    tuned([arm_of()], tmp_path, bench)
    assert denoiser.evaluations == before + 2 * 3 * 200 * 6
    assert [choice.nfe for choice in read_choices(tmp_path)] == [2, 6]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"values": [0.5]}, r"tune.values=\[0.5\]: give two or more different values of stepper.interpolation"),
        ({"values": [0.5, 0.5]}, "give two or more different values"),
        ({"seeds": []}, r"tune.seeds=\[\]: give different seeds"),
        ({"n": 1}, "tune.n=1: a distance needs at least 2 images"),
        ({"setting": "stepper.f"}, "tune.setting=stepper.f: the sampler has no such setting"),
    ],
)
def test_refused(words, said):
    with pytest.raises(ConfigError, match=said):
        arm_of(**words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"seeds": [5, 1]}, r"1 is among evaluation.seeds=\[0, 1\]: what is tuned .* e.g. tune.seeds=\[1001\]"),
        ({"reference": "train"}, "tune.reference=train: is evaluation.reference too: .*: use test"),
    ],
)
def test_what_is_tuned_is_never_measured_on_the_same(words, said, denoiser, dataset, settings):
    with pytest.raises(ConfigError, match=said):
        check([arm_of(**words)], denoiser, dataset, settings)


def test_a_file_of_something_else(tmp_path):
    (tmp_path / FILE).write_text(json.dumps([{"value": 1}]))
    with pytest.raises(DiffexpError, match="is not a file of tuned settings"):
        read_choices(tmp_path)
