"""The handwritten digits that come with scikit-learn: 1797 grey images of 8x8 pixels in ten classes.

Source: UCI "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998), its test set. Bundled: no
download.
"""

from __future__ import annotations

import numpy as np

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.dataset.split import ArraySplit, Split, SplitName, pick_split

_IMAGES = 1797
_CLASSES = 10
_SPLIT_SEED = 0  # a constant: the split belongs to the data set, not to the run


class Digits:
    """scikit-learn's digits with a fixed, class-stratified split that depends on no seed.

    Half of the images are held out by default. The evaluation's floor (real images against other real images) needs
    as many held-out images as there are samples: with a small test split the floor would be noise.

    Args:
        labels: give class labels (`num_classes` 10), for class-conditional models.
        held_out: size of the test split, 10 .. 1787; the other images are for training.

    Raises:
        ConfigError: `held_out` is out of range.
    """

    name = "digits"
    shape = (1, 8, 8)

    def __init__(self, labels: bool = False, held_out: int = 896) -> None:
        low, high = _CLASSES, _IMAGES - _CLASSES
        if not low <= held_out <= high:
            near = min(max(held_out, low), high)
            raise ConfigError(f"dataset.held_out={held_out} leaves a split without some digit: did you mean {near}?")
        self.num_classes = _CLASSES if labels else 0
        self.held_out = held_out
        self._splits: dict[str, Split] = {}

    def prepare(self) -> None:
        """Read the bundled file and divide it; idempotent."""
        if self._splits:
            return
        from sklearn.datasets import load_digits

        bunch = load_digits()
        # The file stores 0..16, the number of dark pixels in a 4x4 block of the scanned bitmap.
        images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
        held_out = _stratified(bunch.target, self.held_out)
        for name, mask in (("train", ~held_out), ("test", held_out)):
            self._splits[name] = ArraySplit(images[mask], bunch.target[mask] if self.num_classes else None)

    def split(self, name: SplitName) -> Split:
        """The ``train`` or ``test`` split."""
        self.prepare()
        return pick_split(self._splits, name)


def _stratified(target: np.ndarray, count: int) -> np.ndarray:
    """A boolean mask (N,) with `count` images, every class in proportion (largest remainders)."""
    sizes = np.bincount(target)
    share = sizes * (count / len(target))
    quota = np.floor(share).astype(int)
    quota[np.argsort(quota - share, kind="stable")[: count - quota.sum()]] += 1
    mask = np.zeros(len(target), dtype=bool)
    for label, chosen in enumerate(quota):
        members = np.flatnonzero(target == label)
        order = random.permutation(_SPLIT_SEED, "digits/split", len(members), label).numpy()
        mask[members[order[:chosen]]] = True
    return mask
