"""What a number of the results means: its title, which way is better, how it is written.

Metrics of a set are taken in the features of an extractor, which ends their name (``fd_digits``, ``kid_digits``); with
Inception's published weights they have the names of the papers (``fid``, ``is``, ``kid``, ``precision``, ...). Paired
metrics compare each image with its target.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

FRECHET = "fd"
PUBLISHED = "fid"
"""The Frechet distance in the features of Inception's published weights, whose set metrics have plain names."""


SPLITS = 10
"""Of the images, for the score of classes, as published."""


@dataclass(frozen=True)
class Meaning:
    """A metric for readers.

    Attributes:
        metric: its name in the results.
        title: what it is called in sentences.
        paired: whether each image is compared with its own target.
        higher: whether larger is better.
        decimals: digits behind the point; None: two, and one from 100 on.
        stem: name of its plot.
        how: how it is computed, behind the title.
    """

    metric: str
    title: str = "Frechet distance"
    paired: bool = False
    higher: bool = False
    decimals: int | None = None
    stem: str = "distance"
    how: str = "squared, float64, unbiased covariances"

    @property
    def better(self) -> str:
        """Which way is better, in words."""
        return "higher is better" if self.higher else "lower is better"

    @property
    def distance(self) -> bool:
        """Whether it is the Frechet distance, which is never negative and spans decades."""
        return self.stem == "distance"

    def spell_long(self, value: float) -> str:
        """A value as text with a digit more."""
        return f"{value:.3f}" if self.decimals is None else f"{value:.{self.decimals + 1}f}"

    def spell(self, value: float) -> str:
        """A value as text."""
        if self.decimals is not None:
            return f"{value:.{self.decimals}f}"
        return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


_MEAN, _BALLS = "mean over images", "float64, distances to the k-th neighbour"
_PAIRED = {
    found.metric: found
    for found in (
        Meaning("mse", "Mean squared error of pixels in [-1, 1]", True, False, 4, "mse", _MEAN),
        Meaning("psnr", "Peak signal-to-noise ratio in dB", True, True, 2, "psnr", _MEAN),
        Meaning("ssim", "Structural similarity", True, True, 4, "ssim", _MEAN),
        Meaning("lpips", "LPIPS (VGG)", True, False, 4, "lpips", _MEAN),
    )
}
_SETS = {
    found.metric: found
    for found in (
        Meaning("is", "Score of classes", False, True, 3, "is", "exp of the mean divergence, mean over splits"),
        Meaning("kid", "Kernel distance", False, False, 5, "kid", "squared, float64, unbiased, mean over subsets"),
        Meaning("precision", "Precision", False, True, 4, "precision", _BALLS),
        Meaning("recall", "Recall", False, True, 4, "recall", _BALLS),
        Meaning("density", "Density", False, True, 4, "density", _BALLS),
        Meaning("coverage", "Coverage", False, True, 4, "coverage", _BALLS),
    )
}
_TITLES = {"is": "Inception Score", "kid": "Kernel Inception Distance"}  # with the published weights only
PAIRED_METRICS = tuple(_PAIRED)
SET_METRICS = tuple(_SETS)
"""Metrics of a set beside the Frechet distance."""


def meaning(metric: str) -> Meaning:
    """The meaning of a metric of the results; a name that is neither paired nor of `SET_METRICS` is a distance."""
    if metric in _PAIRED:
        return _PAIRED[metric]
    kind, _, features = metric.partition("_")
    if kind not in _SETS:
        return Meaning(metric)
    found = replace(_SETS[kind], metric=metric)
    return found if features else replace(found, title=_TITLES.get(kind, found.title))


def name_in(kind: str, distance: str) -> str:
    """The name of a set metric in the results.

    Args:
        kind: of `SET_METRICS`, or `FRECHET`.
        distance: what the extractor calls the Frechet distance in its features: ``"fid"`` or ``"fd_..."``.
    """
    if kind == FRECHET:
        return distance
    return kind if distance == PUBLISHED else kind + distance.removeprefix(FRECHET)
