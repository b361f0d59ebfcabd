"""diffexp beside torch-fidelity on real pictures: copies with noise against the originals, each side on its own.

    python -m experiments.torch_fidelity.measure FOLDER --extractor efficientnet --n 2000
    python -m experiments.torch_fidelity.measure FOLDER --extractor inception --n 1000    # seeded random weights

FOLDER holds pictures of one size in sub-folders, e.g. CIFAR-10's test images; n of them are taken, evenly. Results are
added to results.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch

from diffexp.core.files import write_json_atomic
from diffexp.dataset.listing import folder_of, list_images
from diffexp.evaluation.efficientnet import EfficientNetFeatures
from diffexp.evaluation.features import Extractor
from diffexp.evaluation.inception import InceptionFeatures
from diffexp.evaluation.selfcheck import NOISE, compare, noised, read_pictures
from diffexp.launch.folder import versions
from diffexp.tasks.selfcheck import table
from experiments.torch_fidelity.seeded import write_seeded

RESULTS = Path(__file__).parent / "results.json"


def extractor_of(name: str, work: Path) -> Extractor:
    """EfficientNet-Lite0 with ImageNet's weights, or Inception's architecture under seeded ones."""
    if name == "efficientnet":
        return EfficientNetFeatures().prepare()
    write_seeded(work / "seeded.pth")
    return InceptionFeatures(str(work / "seeded.pth")).prepare()


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.torch_fidelity.measure", allow_abbrev=False)
    parser.add_argument("folder")
    parser.add_argument("--extractor", choices=("efficientnet", "inception"), required=True)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=50)
    options = parser.parse_args(words)
    root = folder_of(options.folder, "FOLDER")
    names = list_images(root).files
    count = min(options.n, len(names))
    files = [os.path.join(root, names[place * len(names) // count]) for place in range(count)]
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        extractor = extractor_of(options.extractor, Path(work))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        images = read_pictures(files, 3)
        lines = compare(noised(images), images, extractor, Path(work), options.batch_size, device)
    print(table(lines))
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    known[options.extractor] = {
        "n": count,
        "noise": NOISE,
        "extractor": extractor.name,
        "weights": extractor.hash,
        "device": str(device),
        "seconds": round(time.perf_counter() - began),
        "versions": {name: value for name, value in versions().items() if value},
        "metrics": [{**asdict(line), "difference": line.difference, "good": line.good} for line in lines],
    }
    write_json_atomic(RESULTS, known)
    return 0 if all(line.good for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
