"""BibTeX of the papers behind a report: the recipes', the metrics', the samplers' and the data's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffexp.evaluation.protocol import Protocol
from diffexp.evaluation.results import Row

_LIBRARY = Path(__file__).with_name("references.bib")
_ENTRY = re.compile(r"^@\w+\{([^,\s]+),.*?^\}", re.MULTILINE | re.DOTALL)
# Beginnings of the names of metrics, samplers and data sets -> keys in references.bib.
_METRICS = {
    "fid": ("heusel2017gans", "szegedy2016rethinking"), "fd": ("heusel2017gans",), "is": ("salimans2016improved",),
    "kid": ("binkowski2018demystifying",), "precision": ("kynkaanniemi2019improved",),
    "recall": ("kynkaanniemi2019improved",), "density": ("naeem2020reliable",), "coverage": ("naeem2020reliable",),
    "ssim": ("wang2004image",), "lpips": ("zhang2018unreasonable",),
}  # fmt: skip
_SAMPLERS = {
    "ddim": ("song2021denoising",), "ddpm": ("ho2020denoising",), "heun": ("karras2022elucidating",),
    "gddim": ("zhang2023gddim",), "euler_maruyama": ("song2021score",), "rk45": ("song2021score",),
    "dbim": ("zheng2025diffusion",), "ddbm_heun": ("zhou2024denoising",), "sscs": ("dockhorn2022score",),
}  # fmt: skip
_DATA = {
    "cifar10": ("krizhevsky2009learning",), "celeba": ("liu2015deep",), "imagenet": ("deng2009imagenet",),
    "lsun": ("yu2015lsun",), "diode": ("vasiljevic2019diode",), "edges2handbags": ("isola2017image",),
}  # fmt: skip


def references(
    configs: Iterable[Mapping[str, Any]], protocols: Sequence[Protocol], rows: Sequence[Row]
) -> dict[str, str]:
    """Key -> BibTeX entry of the papers used; a recipe's own entry comes first and counts where two share a key.

    Args:
        configs: frozen configurations, for their `paper.bibtex`.
        protocols: for metrics and data.
        rows: for samplers.
    """
    found: dict[str, str] = {}
    for config in configs:
        for key, entry in entries(str((config.get("paper") or {}).get("bibtex") or "")).items():
            found.setdefault(key, entry)
    library = entries(_LIBRARY.read_text(encoding="utf-8"))
    samplers = (_of(_SAMPLERS, re.split(r"\W", row.sampler)[0], True) for row in rows if row.control is None)
    metrics = (_of(_METRICS, protocol.metric.partition("_")[0], True) for protocol in protocols)
    data = (_of(_DATA, protocol.dataset, False) for protocol in protocols)
    for keys in (*samplers, *metrics, *data):
        found.update({key: library[key] for key in keys if key not in found})
    return found


def entries(text: str) -> dict[str, str]:
    """The entries of a BibTeX text by their keys; each ends with a brace in the first column."""
    return {match[1]: match[0] for match in _ENTRY.finditer(text)}


def _of(known: Mapping[str, tuple[str, ...]], name: str, whole: bool) -> tuple[str, ...]:
    """The keys of a name: of just this one, or of the first that it begins with."""
    if whole:
        return known.get(name, ())
    return next((keys for start, keys in known.items() if name.lower().startswith(start)), ())
