"""Train the digits classifier whose features the quick evaluations use, and write its weights into the package.

    python experiments/digits_features/train.py [PATH]     # half a minute on two CPU cores

Only the training split is seen. Images are shifted by up to one pixel. The held-out accuracy is printed.
No noise is added to the images (see README.md): a classifier trained to ignore noise would not see what a sampler
leaves behind.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diffexp.core import random
from diffexp.core.image import to_float
from diffexp.dataset.digits import Digits
from diffexp.dataset.split import Split
from diffexp.evaluation.features import DIGITS_WEIGHTS, DigitsClassifier

STEPS, BATCH, RATE, SEED = 1500, 128, 2e-3, 0


def shift(images: Tensor, step: int) -> Tensor:
    """Move each image by -1, 0 or 1 pixels in both directions; background comes in."""
    padded = nn.functional.pad(images, (1, 1, 1, 1), value=-1.0)
    moves = random.integers(SEED, "shift", range(len(images)), 9, step).tolist()
    return torch.stack([padded[i, :, m // 3 : m // 3 + 8, m % 3 : m % 3 + 8] for i, m in enumerate(moves)])


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images whose largest score is their label's."""
    with torch.no_grad():
        return float((network(images).argmax(1) == labels).double().mean())


def load(split: Split) -> tuple[Tensor, Tensor]:
    """All images of a split in [-1, 1], and their labels."""
    everything = torch.arange(len(split))
    return to_float(split.images(everything)), split.labels(everything)


def main(path: Path) -> None:
    """Train, print the accuracies and the file's SHA-256, and write the weights to `path`."""
    data = Digits(labels=True)
    data.prepare()
    (images, labels), held_out = load(data.split("train")), load(data.split("test"))
    with random.seeded(SEED, "digits_features"):
        network = DigitsClassifier(dropout=0.2)
        optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
        for step in range(STEPS):
            chosen = random.permutation(SEED, "digits_order", len(images), step)[:BATCH]
            logits = network(shift(images[chosen], step))
            loss = nn.functional.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    save_file(network.state_dict(), path)
    print(f"accuracy: training {accuracy(network, images, labels):.4f}, held out {accuracy(network, *held_out):.4f}")
    print(f"{path}: {path.stat().st_size} bytes, SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DIGITS_WEIGHTS)
