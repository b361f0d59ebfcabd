"""Published statistics of a reference: what others computed from images that need not be here.

Two kinds of npz file are read:

    EDM (NVlabs/edm, fid.py)                 mu (d,), sigma (d, d)
    ADM (openai/guided-diffusion, evaluator)  mu, sigma of all images; arr_0 some images, uint8 (N, H, W, C); mu_s,
                                              sigma_s of spatial features, which are not used

A file does not say what it was computed from, with which features, or from how many images. Its user states that, and
it stands in the protocol of every number; what contradicts the evaluation is refused.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from diffexp.core.errors import ConfigError, DiffexpError
from diffexp.dataset.arrays import read_arrays, read_images
from diffexp.dataset.split import ArraySplit, SplitName
from diffexp.evaluation.features import Extractor

if TYPE_CHECKING:
    from diffexp.evaluation.frechet import Gaussian

MOMENTS = "moments-sha256:"
"""How the fingerprint of a reference begins of which the moments are known and not the images."""
_TINY = 1e-6  # of the largest variance: what rounding to float32 may leave


class Published:
    """Statistics in a file, with what its user knows of them.

    Args:
        path: the npz file.
        dataset: name of the data set that they are of; it must be the evaluation's.
        split: train or test, likewise.
        n: number of images that they are of.
        extractor: name of the features, e.g. ``inception``: it must be the evaluation's.
        resize: how images came to the extractor's size, in the extractor's own word, e.g. ``bilinear_tf1_299``.
        use: ``moments``: mean and covariance as they are in the file; ``images``: the file's images, whose features are
            computed here.
        source: where the file is from, for the report.

    Raises:
        ConfigError: `n` or `use` is out of range.
    """

    def __init__(
        self,
        path: str,
        dataset: str,
        split: SplitName,
        n: int,
        extractor: str,
        resize: str,
        use: Literal["moments", "images"] = "moments",
        source: str | None = None,
    ) -> None:
        if n < 2:
            raise ConfigError(f"evaluation.statistics.n={n}: statistics are of at least 2 images")
        if use not in ("moments", "images"):
            raise ConfigError(f"evaluation.statistics.use={use}: choose from moments, images")
        self.path, self.dataset, self.split, self.n = path, dataset, split, n
        self.extractor, self.resize, self.use, self.source = extractor, resize, use, source

    @property
    def told(self) -> str:
        """What the report says of it."""
        what = "mean and covariance" if self.use == "moments" else "images"
        return f"{what} of {Path(self.path).name}" + (f", {self.source}" if self.source else "")

    @property
    def _file(self) -> Path:
        return Path(self.path).expanduser()

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        found = read_arrays(self._file, ("mu", "sigma"), DiffexpError)
        if len(found) < 2:
            raise DiffexpError(f"'{self._file}' has no array '{'sigma' if 'mu' in found else 'mu'}'")
        return found["mu"], found["sigma"]

    @cached_property
    def _images(self) -> np.ndarray:
        return read_images(self._file, error=DiffexpError)

    def check(self, dataset: str, split: str, extractor: Extractor) -> None:
        """Refuse statistics of another protocol (ConfigError); `extractor` is prepared."""
        of_features = self.use == "moments"
        for key, stated, here, counts in (
            ("dataset", self.dataset, dataset, True),
            ("split", self.split, split, True),
            ("extractor", self.extractor, extractor.name, of_features),
            ("resize", self.resize, extractor.resize, of_features),
        ):
            if counts and stated != here:
                raise ConfigError(
                    f"evaluation.statistics.{key}={stated}: statistics of another protocol, this evaluation has {here}"
                )

    def moments(self, dim: int) -> Gaussian:
        """Mean and covariance of `dim` features.

        Raises:
            DiffexpError: the file is missing or damaged, or these are no moments of `dim` features.
        """
        path, (mean, covariance) = self._file, self._arrays
        if mean.shape != (dim,) or covariance.shape != (dim, dim):
            told = f"mu {mean.shape} and sigma {covariance.shape}"
            raise DiffexpError(f"'{path}' holds {told}: statistics of other features than the {dim} of this evaluation")
        if not all(array.dtype.kind == "f" and np.isfinite(array).all() for array in (mean, covariance)):
            raise DiffexpError(f"'{path}' is damaged: mu or sigma holds values that are not finite numbers")
        tolerance = _TINY * max(float(covariance.diagonal().max()), 0.0)
        skew = float(np.abs(covariance - covariance.T).max())
        if skew > tolerance or float(covariance.diagonal().min()) < -tolerance:
            raise DiffexpError(f"'{path}': sigma is no covariance (it is not symmetric, or has a variance below 0)")
        covariance = covariance.astype(np.float64)
        symmetric = torch.from_numpy((covariance + covariance.T) / 2)
        from diffexp.evaluation.frechet import Gaussian  # torchmetrics takes seconds to import

        return Gaussian(torch.from_numpy(mean.astype(np.float64)), symmetric, self.n)

    def images(self, shape: tuple[int, int, int]) -> ArraySplit:
        """The images of the file.

        Raises:
            DiffexpError: the file is missing or damaged, or has other images, or another number, than stated.
        """
        path, images = self._file, self._images
        if images.shape[1:] != tuple(shape):
            told, wanted = ("x".join(map(str, size)) for size in (images.shape[1:], shape))
            raise DiffexpError(f"'{path}' holds images of shape {told}, data set '{self.dataset}' has {wanted}")
        if len(images) != self.n:
            raise DiffexpError(f"evaluation.statistics.n={self.n}: '{path}' holds {len(images)} images")
        return ArraySplit(images, None)


def moments_fingerprint(moments: Gaussian) -> str:
    """What names a reference of which nothing but moments is known."""
    digest = hashlib.sha256(str(moments.count).encode())
    for tensor in moments[:2]:
        digest.update(tensor.cpu().numpy().tobytes())
    return f"{MOMENTS}{digest.hexdigest()[:32]}"
