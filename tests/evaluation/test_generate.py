"""Generated images belong to (seed, index): not to the batch, the sampler or the budget."""

import pytest
import torch

from diffexp.core.errors import ConfigError, SamplingError
from diffexp.evaluation import generate as room
from diffexp.evaluation.generate import class_labels, generate
from diffexp.sampler.noise import KeyedNoise

SHAPE = (1, 8, 8)


def _images(sampler, denoiser, indices=range(20), seed=0, nfe=6, batch_size=20, **options):
    batches = generate(sampler, denoiser, SHAPE, indices, seed, nfe, batch_size, **options)
    return torch.cat([batch.images for batch in batches])


@pytest.mark.parametrize(("name", "nfe"), [("ddim", 6), ("ddpm", 6), ("heun", 5)])
def test_images_depend_on_seed_and_index_only(samplers, denoiser, name, nfe):
    whole = _images(samplers[name], denoiser, nfe=nfe)
    assert torch.equal(_images(samplers[name], denoiser, nfe=nfe, batch_size=7), whole)
    assert torch.equal(_images(samplers[name], denoiser, range(5, 12), nfe=nfe), whole[5:12])
    assert not torch.equal(_images(samplers[name], denoiser, seed=1, nfe=nfe), whole)
    assert float(whole.double().std(0).min()) > 2, "images differ from each other"


def test_every_arm_starts_from_the_same_noise(samplers, denoiser, monkeypatch):
    starts = []
    initial = KeyedNoise.initial
    monkeypatch.setattr(KeyedNoise, "initial", lambda self: (starts.append(initial(self)), starts[-1])[1])
    for name, nfe in (("ddim", 2), ("ddim", 9), ("heun", 5), ("ddpm", 4)):
        list(generate(samplers[name], denoiser, SHAPE, range(4), 3, nfe, 4))
    assert len(starts) == 4
    assert all(torch.equal(starts[0], other) for other in starts[1:])


def test_batches_carry_counted_evaluations_and_time(samplers, denoiser):
    batches = list(generate(samplers["heun"], denoiser, SHAPE, range(10), 0, 5, 4))
    assert [list(batch.indices) for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert {batch.nfe for batch in batches} == {5}
    assert denoiser.evaluations == 5 * 10
    assert all(batch.seconds > 0 for batch in batches)


def test_truncation_is_darker_by_half_a_level(samplers, denoiser):
    rounded = _images(samplers["ddim"], denoiser, range(200), batch_size=200).double()
    truncated = _images(samplers["ddim"], denoiser, range(200), batch_size=200, quantise="truncate").double()
    assert float((rounded - truncated).mean()) == pytest.approx(0.5, abs=0.02)


def test_labels_belong_to_the_image_and_reach_the_sampler(samplers, denoiser, monkeypatch):
    seen = []
    sampler = samplers["ddim"]
    original = sampler.sample
    monkeypatch.setattr(sampler, "sample", lambda d, noise, n, c: (seen.append(c.labels), original(d, noise, n))[1])
    _images(sampler, denoiser, range(300), batch_size=64, conditioner=class_labels(10))
    labels = torch.cat(seen)
    assert torch.equal(labels, class_labels(10)(0, range(300)).labels)
    assert labels.dtype == torch.int64
    counts = torch.bincount(labels, minlength=10)
    assert len(counts) == 10
    assert int(counts.min()) > 10


def test_infeasible_budget_is_refused(samplers, denoiser):
    with pytest.raises(ConfigError, match="nfe=4 is not reachable with sampler heun"):
        _images(samplers["heun"], denoiser, nfe=4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_that_are_not_finite_are_refused(samplers, denoiser, monkeypatch, value):
    """One pixel of one image: it would become a byte, and the distance a number."""
    original = type(denoiser).parts

    def broken(self, u, point, conditions=None):
        state, data = original(self, u, point)
        if len(u) == 6:
            data[2, 0, 3, 4] = value
        return state, data

    monkeypatch.setattr(type(denoiser), "parts", broken)
    batches = generate(samplers["ddim"], denoiser, SHAPE, range(14), 2, 5, 8)
    next(batches)
    with pytest.raises(SamplingError) as error:
        next(batches)
    assert str(error.value) == "sampler ddim at NFE 5: images 8 to 13 of seed 2 are not all finite"


def test_the_clock_starts_when_the_device_has_nothing_left_to_do(samplers, denoiser, monkeypatch):
    events = []
    clock = room.time.perf_counter
    monkeypatch.setattr(room, "_wait", lambda device: events.append("wait"))
    monkeypatch.setattr(room.time, "perf_counter", lambda: (events.append("clock"), clock())[1])
    for _ in generate(samplers["ddim"], denoiser, SHAPE, range(4), 0, 3, 2):
        events.append("features")
    assert events == ["wait", "clock", "clock", "features"] * 2
