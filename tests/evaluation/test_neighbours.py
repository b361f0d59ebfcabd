"""The nearest training images: found among planted ones, in features and in pixels, at a bounded cost."""

import json

import numpy as np
import pytest
import torch

from diffexp.core.errors import DiffexpError
from diffexp.evaluation import neighbours as module
from diffexp.evaluation.grid import read_grid
from diffexp.evaluation.neighbours import neighbours, read_neighbours, save_neighbours
from diffexp.evaluation.passes import Evaluation, Pictures
from diffexp.evaluation.results import Row


@pytest.fixture
def planted(dataset, provenance):
    """An evaluation whose samples are training images 7, 500 and 31, the second brighter by one level."""
    samples = dataset.split("train").images([7, 500, 31])
    samples[1] = samples[1].clamp(max=254) + 1
    worse = torch.zeros_like(samples)
    grids = {"a": Pictures("ddim on g", {2: worse, 5: samples}), "b": Pictures("heun on g", {3: worse})}
    rows = [
        Row("r", "p", "e", "n", name, "g", nfe, "fd_pixels", value, 9, 0, "hash", "c")
        for name, nfe, value in (("ddim", 2, 3.0), ("ddim", 5, 1.0), ("heun", 3, 2.0))
    ]
    return Evaluation(provenance, rows=rows, grids=grids)


@pytest.mark.parametrize("pixels", [False, True])
def test_planted_copies_are_found(tmp_path, planted, dataset, settings, pixels):
    settings.extractor = None if pixels else settings.extractor
    seen = []
    found = save_neighbours(tmp_path, planted, dataset, settings, on_batch=seen.append)
    assert (found.arm, found.nfe, found.searched, found.of) == ("ddim on g", 5, 600, 600)
    assert sum(seen) == 600
    step = np.sqrt(64) / 255 if pixels else np.sqrt(8)  # of one grey level, in 64 pixels or in eight means of them
    assert [row[0] for row in found.distances] == pytest.approx([0.0, step, 0.0], rel=1e-6)
    assert all(row == sorted(row) and len(row) == 3 for row in found.distances)
    train = dataset.split("train").images(range(600)).double().flatten(1)
    if pixels:
        sample = train[7] / 255
        expected = (train / 255 - sample).norm(dim=1).sort().values[:3]
        assert found.distances[0] == pytest.approx(expected.tolist(), rel=1e-9)
    assert min(found.held_out) > 0
    _, rows = read_grid(tmp_path / "neighbours.png")
    assert [label for label, _ in rows] == ["sample", "nearest", "second", "third"]
    np.testing.assert_array_equal(rows[1][1][:, :, :, 0], dataset.split("train").images([7, 500, 31])[:, 0].numpy())
    assert read_neighbours(tmp_path) == found


def test_a_part_of_many_images_is_searched(tmp_path, planted, dataset, settings, monkeypatch):
    monkeypatch.setattr(module, "_LEAST", 10)
    found = save_neighbours(tmp_path, planted, dataset, settings)
    assert (found.searched, found.of) == (settings.n, 600)
    assert save_neighbours(tmp_path, planted, dataset, settings) == found, "the same part each time"
    _, text, picture, table = neighbours(tmp_path)
    assert "found among 120 of 600" in text
    assert f"**{np.median(found.held_out):#.3g}**" in text
    assert picture.file == "neighbours.png"
    assert [row[0] for row in table.rows] == ["nearest", "second", "third", "held out, nearest"]
    assert table.rows[0][1:] == [f"{row[0]:#.3g}" for row in found.distances]


def test_without_samples_there_is_nothing_and_damage_is_named(tmp_path, planted, dataset, settings, provenance):
    assert save_neighbours(tmp_path, Evaluation(provenance), dataset, settings) is None
    assert neighbours(tmp_path) == []
    save_neighbours(tmp_path, planted, dataset, settings)
    (tmp_path / "neighbours.json").write_text(json.dumps({"arm": "x"}))
    with pytest.raises(DiffexpError, match=r"neighbours\.json is not a file of neighbours"):
        neighbours(tmp_path)
