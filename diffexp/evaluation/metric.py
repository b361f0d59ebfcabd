"""What a number of the results means: its title, which way is better, how it is written.

Distances of sets (``fid``, ``fd_...``) are taken from a reference split; paired metrics compare each image with its
target.
"""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    metric: str
    title: str = "Frechet distance"
    paired: bool = False
    higher: bool = False
    decimals: int | None = None
    stem: str = "distance"

    @property
    def better(self) -> str:
        """Which way is better, in words."""
        return "higher is better" if self.higher else "lower is better"

    def spell_long(self, value: float) -> str:
        """A value as text with a digit more."""
        return f"{value:.3f}" if self.decimals is None else f"{value:.{self.decimals + 1}f}"

    def spell(self, value: float) -> str:
        """A value as text."""
        if self.decimals is not None:
            return f"{value:.{self.decimals}f}"
        return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


_PAIRED = {
    found.metric: found
    for found in (
        Meaning("mse", "Mean squared error of pixels in [-1, 1]", True, False, 4, "mse"),
        Meaning("psnr", "Peak signal-to-noise ratio in dB", True, True, 2, "psnr"),
        Meaning("ssim", "Structural similarity", True, True, 4, "ssim"),
        Meaning("lpips", "LPIPS (VGG)", True, False, 4, "lpips"),
    )
}
PAIRED_METRICS = tuple(_PAIRED)


def meaning(metric: str) -> Meaning:
    """The meaning of a metric of the results; every name that is no paired metric is a Frechet distance."""
    return _PAIRED.get(metric) or Meaning(metric)
