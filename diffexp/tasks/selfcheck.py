"""task=selfcheck: does diffexp measure what torch-fidelity measures, on this machine, on the pictures of a folder."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from diffexp.core.errors import ConfigError, DiffexpError
from diffexp.dataset.listing import folder_of, list_images
from diffexp.evaluation.selfcheck import Line, compare, noised, read_pictures
from diffexp.tasks import console
from diffexp.tasks.build import Config, make_node, torch_device

_WHAT = "{n:,} pictures of {folder}: one half with noise against the other, features of '{name}', weights {weights}"
_BATCH = 64


def main(config: Config) -> None:
    """Print both numbers of each metric; DiffexpError when two of them differ beyond their tolerance."""
    if config.get("images") is None:
        raise ConfigError("task=selfcheck needs images=: a folder of pictures of one size, a few hundred or more")
    node = config["evaluation"].get("extractor")
    if not node:
        raise ConfigError("task=selfcheck needs features: name one with evaluation/extractor=...")
    folder = folder_of(str(config["images"]), "images")
    files = [os.path.join(folder, name) for name in list_images(folder).files]
    extractor = make_node(node, "evaluation.extractor").prepare()
    images = read_pictures(files, extractor.shape[0])
    console.say(_WHAT.format(n=len(images), folder=folder, name=extractor.name, weights=extractor.hash))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="diffexp-selfcheck-") as work:
        device = torch_device(make_node(config["trainer"], "trainer"))
        lines = compare(noised(images[::2]), images[1::2], extractor, Path(work), _BATCH, device)
    console.say(table(lines))
    bad = [line for line in lines if not line.good]
    if bad:
        what = ", ".join(f"{line.metric} by {line.difference:.1e} (at most {line.tolerance:.0e})" for line in bad)
        raise DiffexpError(f"selfcheck: diffexp and torch-fidelity differ: {what}")
    console.say(f"selfcheck passed in {time.perf_counter() - began:.0f} s")


def table(lines: Sequence[Line]) -> str:
    """The lines as columns of text."""
    rows = [("metric", "diffexp", "torch-fidelity", "relative difference", "at most", "")]
    for line in lines:
        numbers = f"{line.ours:.9g}", f"{line.theirs:.9g}", f"{line.difference:.1e}", f"{line.tolerance:.0e}"
        rows.append((line.metric, *numbers, "ok" if line.good else "DIFFERS"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
