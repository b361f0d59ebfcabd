"""How two sets of features cover each other: every image has a ball that reaches to its k-th neighbour in its own set.

    precision   share of the images that lie in a ball of the reference          (Kynkaanniemi et al. 2019, k = 3)
    recall      share of the reference that lies in a ball of the images
    density     how many balls of the reference hold an image, on average, / k   (Naeem et al. 2020, eq. 3, k = 5)
    coverage    share of the reference's balls that hold an image                (eq. 4)

As in the authors' code balls of precision and recall hold their surface, those of density and coverage do not.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

NEIGHBOURS = {"precision": 3, "recall": 3, "density": 5, "coverage": 5}
_CELLS = 1 << 24  # of a block of distances: 128 MB
_ROUNDING = 1e-12  # squared distances below this share of the squared norms are equal images


class Manifold:
    """The balls of a reference.

    Args:
        reference: features (m, d) of any floating type, m > 5.
    """

    def __init__(self, reference: Tensor) -> None:
        self._centre = reference.double().mean(0)  # of features with a large common part the differences lose digits
        self._reference = reference
        self._radii: dict[int, Tensor] | None = None

    def __call__(self, features: Tensor) -> dict[str, float]:
        """All four numbers of features (n, d), n > 5, on the reference's device."""
        if self._radii is None:
            self._radii = self._balls(self._reference)
        inner, outer = NEIGHBOURS["precision"], NEIGHBOURS["density"]
        own, radii = self._balls(features)[inner], self._radii
        precise = dense = 0
        recalled = torch.zeros(len(self._reference), dtype=torch.bool, device=self._reference.device)
        covered = recalled.clone()
        for rows, distances in self._distances(features, self._reference):
            precise += int((distances <= radii[inner]).any(1).sum())
            recalled |= (distances <= own[rows, None]).any(0)
            within = distances < radii[outer]
            dense += int(within.sum())
            covered |= within.any(0)
        n, m = len(features), len(self._reference)
        return {
            "precision": precise / n,
            "recall": int(recalled.sum()) / m,
            "density": dense / (outer * n),
            "coverage": int(covered.sum()) / m,
        }

    def _balls(self, features: Tensor) -> dict[int, Tensor]:
        """k -> squared distances (n,) of features to their k-th neighbours, themselves not counted."""
        most = max(NEIGHBOURS.values())
        near = [found.topk(most + 1, dim=1, largest=False).values for _, found in self._distances(features, features)]
        return {k: torch.cat([block[:, k] for block in near]) for k in set(NEIGHBOURS.values())}

    def _distances(self, features: Tensor, others: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """(rows, squared distances (B, m) of these features from all others)."""
        y = others.double() - self._centre
        norms = y.square().sum(1)
        step = max(1, _CELLS // len(y))
        for start in range(0, len(features), step):
            rows = slice(start, start + step)
            x = features[rows].double() - self._centre
            total = x.square().sum(1, keepdim=True) + norms
            found = total - 2.0 * (x @ y.T)
            yield rows, found.masked_fill_(found < _ROUNDING * total, 0.0)
