"""task=evaluate samples=...: images of others get the numbers that samples get; what is none is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffexp.core.errors import ConfigError
from diffexp.dataset.digits import Digits
from diffexp.dataset.split import ArraySplit
from diffexp.evaluation.protocol import read_provenances
from diffexp.evaluation.results import read_rows
from diffexp.tasks import given
from tests.e2e.conftest import Command

SCORE = ["task=evaluate", "experiment=gddim_vp", "scale=quick", "evaluation.n=60", "evaluation.seeds=[3,5]"]
ORACLE = ["experiment=gddim_vp", "scale=quick", "network=oracle_dataset", "sampler=ddim", "evaluation.nfe=6"]

OTHER = "samples: 'x.npz' holds images of shape {} (C, H, W), the reference has 1x8x8"


def _images(count: int = 150) -> np.ndarray:
    return Digits().split("test").images(range(count)).permute(0, 2, 3, 1).numpy()


def _label(name: str, images: np.ndarray) -> str:
    """What the rows of given images are called."""
    return f"{name}@{ArraySplit(images.transpose(0, 3, 1, 2), None).fingerprint.removeprefix('pixels-sha256:')[:6]}"


def _folder(path: Path, images: np.ndarray) -> Path:
    path.mkdir()
    for place, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(path / f"{place:05d}.png")
    return path


def _values(run: Path, name: str) -> dict[tuple[str, int], float]:
    return {(row.metric, row.seed): row.value for row in read_rows(run / "results.csv") if row.sampler == name}


def test_samples_score_what_their_evaluation_scored(command: Command):
    """The very images that an evaluation measured, written by task=sample, as npz and as PNG files."""
    sizes = ["evaluation.n=60", "evaluation.seeds=[3]", "evaluation.metrics=[kid]"]
    assert command(*ORACLE, *sizes, "task=evaluate").code == 0
    (evaluated,) = Path("runs/gddim_vp").glob("oracle-*")
    expected = _values(evaluated, "ddim")
    assert sorted(name for name, _ in expected) == ["fd_digits", "kid_digits"]
    for _ in range(2):  # the second time in the place of the first
        assert command(*ORACLE, *sizes, "task=sample", "pngs=true").code == 0
    (path,) = Path("runs/gddim_vp").glob("oracle-*/samples/*.npz")
    pngs = path.with_suffix("")
    assert sorted(file.name for file in pngs.iterdir()) == [f"{place:06d}.png" for place in range(60)]
    assert {entry.name for entry in path.parent.iterdir()} == {pngs.name, path.name, f"{pngs.name}.png"}
    for samples in (path, pngs):
        answer = command(*SCORE, *sizes, f"samples={samples}")
        assert answer.code == 0, answer.err
        run = Path(answer.out.strip().removeprefix("report: ")).parent
        name = _label(samples.stem, np.load(path)["images"])
        assert _values(run, f"control:given {name}") == pytest.approx(expected, rel=1e-12)
        noise = _values(run, "control:noise")
        assert noise == pytest.approx(_values(evaluated, "control:noise"), rel=1e-12)
        report = (run / "report.md").read_text()
        assert f"The images of {name}: **{expected['fd_digits', 3]:.2f}**" in report
        assert f"task=evaluate samples={path}" in report, "the same images, the same folder, whatever their path"
        assert (run / "samples_given.png").is_file()


def test_sets_of_n_are_the_seeds_and_the_rest_is_left(command: Command):
    np.savez("a.npz", arr_0=_images())
    answer = command(*SCORE, "samples=a.npz")
    assert answer.code == 0
    assert "a: 150 images, 120 of them are scored, as sets of 60" in answer.err
    (run,) = Path("runs/gddim_vp").iterdir()
    values = _values(run, f"control:given {_label('a', _images())}")
    assert list(values) == [("fd_digits", 3), ("fd_digits", 5)]
    np.savez("b.npz", images=_images()[60:120])
    assert command(*SCORE, "samples=b.npz").code == 0
    (other,) = (path for path in Path("runs/gddim_vp").iterdir() if path != run)
    second = _values(other, f"control:given {_label('b', _images()[60:120])}")
    assert second == pytest.approx({("fd_digits", 3): values["fd_digits", 5]}, rel=1e-12)
    (origin,) = read_provenances(other)
    assert (origin.process, origin.network, origin.training_seed) == ("given", "given", None)
    assert origin.checkpoint.startswith("b pixels-sha256:")
    assert "npz file" in origin.precision
    again = command(*SCORE, "samples=a.npz")
    assert "control real" in again.err
    assert again.err.count("known before") == 5  # four controls and the images


def test_published_statistics_need_no_data(command: Command, monkeypatch: pytest.MonkeyPatch):
    """With no control to draw, the reference's images are not asked for."""
    from diffexp.evaluation.features import DigitsFeatures

    digits = Digits()
    features = DigitsFeatures()(digits.split("train").images(range(901))).numpy()
    np.savez("stats.npz", mu=features.mean(0), sigma=np.cov(features, rowvar=False))
    np.savez("a.npz", arr_0=_images())
    expected = command(*SCORE, "samples=a.npz")
    (run,) = Path("runs/gddim_vp").iterdir()
    stated = {"path": "stats.npz", "dataset": "digits", "split": "train", "n": 901, "extractor": "digits"}
    words = [f"evaluation.statistics.{key}={value}" for key, value in {**stated, "resize": "none"}.items()]
    name = f"control:given {_label('a', _images())}"
    monkeypatch.setattr(Digits, "prepare", lambda self: pytest.fail("the data were read"))
    answer = command(*SCORE, "samples=a.npz", "evaluation/statistics=npz", "evaluation.controls=[]", *words)
    assert (expected.code, answer.code) == (0, 0)
    (other,) = (path for path in Path("runs/gddim_vp").iterdir() if path != run)
    assert _values(other, name) == pytest.approx(_values(run, name), rel=1e-9)
    report = (other / "report.md").read_text()
    assert "`: published moments; that they are of these images and features is stated" in report
    assert "| reference statistics | mean and covariance of stats.npz" in report


def _jpeg(path: Path) -> Path:
    path.mkdir()
    for place in range(60):
        Image.new("L", (8, 8), place).save(path / f"{place}.jpg")
    return path


def test_jpeg_files_are_scored_with_a_warning(command: Command):
    answer = command(*SCORE, f"samples={_jpeg(Path('lossy'))}")
    assert answer.code == 0
    assert "samples=lossy: some of the images are JPEG files" in answer.err


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (_images(59), "evaluation.n=60: samples=x has 59 images: use evaluation.n=59, or make more"),
        (_images(60).repeat(2, axis=1), OTHER.format("1x16x8")),
        (_images(60).repeat(3, axis=3), OTHER.format("3x8x8")),
        (_images(60) / 255.0, "'x.npz': array 'images' is float64, not uint8: images are bytes, 0 to 255"),
        (_images(60)[..., 0], "'x.npz': array 'images' has shape 60x8x8, not (N, H, W, C) with C = 1 or 3"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(images: np.ndarray, told: str, command: Command):
    np.savez("x.npz", images=images)
    answer = command(*SCORE, "samples=x.npz")
    assert (answer.code, answer.err) == (2, f"diffexp: {told}\n")
    assert not Path("runs").exists()


def test_images_are_given_or_made() -> None:
    with pytest.raises(ConfigError, match="ckpt=y beside samples=x: images are given or made, leave one out"):
        given.main({"samples": "x", "ckpt": "y"})


def test_files_that_cannot_be_scored_are_named(command: Command):
    folder = _folder(Path("x"), _images(60))
    Image.new("I;16", (8, 8)).save(folder / "00007.png")
    Image.new("L", (9, 9)).save(folder / "00003.png")
    (folder / "00005.png").write_bytes(b"no picture")
    answer = command(*SCORE, "samples=x")
    assert answer.err == "diffexp: 3 of 60 images in 'x' cannot be used; the first: 'x/00003.png' is 9x9, not 8x8\n"
    _folder(Path("y"), _images(60))
    for words, told in (
        (["samples=nowhere"], "samples: 'nowhere' does not exist: name a folder of image files, or an npz file"),
        (["samples=y", "task=run"], "samples=y: only task=evaluate scores images that are given; leave it out"),
        (["samples=y", "evaluation.controls=[real]", "evaluation.n=900"], "has 60 images: use evaluation.n=60"),
        (["samples=y", "evaluation.extractor=null"], "the evaluation measures nothing"),
    ):
        refused = command(*SCORE, *words)
        assert refused.code == 2
        assert told in refused.err
        assert len(refused.err.splitlines()) == 1
    assert not Path("runs").exists()
