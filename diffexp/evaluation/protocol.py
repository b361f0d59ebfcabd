"""What a number means and where it comes from: protocol and provenance.

The *protocol* is everything that must be equal for two numbers to be compared: metric, number of images, reference,
feature extractor, resize, quantisation. Its hash stands in every row of results. The *provenance* names the row: the
run, the weights, and the machine that made them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from diffexp.core.errors import DiffexpError
from diffexp.core.files import write_json_atomic
from diffexp.core.image import Quantise

PROTOCOL_FILE = "protocol.json"
PROVENANCE_FILE = "provenance.json"


@dataclass(frozen=True)
class Protocol:
    """How a distance was measured. Two numbers are comparable when all fields are equal.

    Attributes:
        metric: e.g. ``"fd_digits"``, ``"kid_digits"``; ``"fid"``, ``"is"`` and other plain names only for the
            published Inception weights; or a paired metric.
        n: generated images for each seed.
        dataset: name of the reference data.
        split: split of the reference data; of a paired metric the split of the pairs.
        reference: fingerprint of the reference images; ``"none"``, as the split, for a metric without a reference.
        reference_n: number of reference images.
        extractor: name of the feature extractor, or the variant of a paired metric.
        weights: hash of its weights.
        quantise: how floats become bytes: ``"round"`` or ``"truncate"``.
        resize: how images come to the extractor's size.
        pairs: split and fingerprint of the pairs whose sources the images are made from; None without pairs.
        variant: the settings of a metric of sets, e.g. ``"100 subsets of 1,000"``; None where there are none.
    """

    metric: str
    n: int
    dataset: str
    split: str
    reference: str
    reference_n: int
    extractor: str
    weights: str
    quantise: Quantise
    resize: str
    pairs: str | None = None
    variant: str | None = None

    @property
    def hash(self) -> str:
        """Eight hex digits of the fields' digest: the column `protocol` of the results."""
        told = {key: value for key, value in asdict(self).items() if value is not None}
        text = json.dumps(told, sort_keys=True)
        return hashlib.blake2b(text.encode("utf-8"), digest_size=4).hexdigest()

    def difference(self, other: Protocol) -> list[str]:
        """The fields that differ, spelled out: ``["n is 512 and 768", ...]``."""
        pairs = ((entry.name, getattr(self, entry.name), getattr(other, entry.name)) for entry in fields(self))
        return [f"{name} is {mine} and {theirs}" for name, mine, theirs in pairs if mine != theirs]


@dataclass(frozen=True)
class Provenance:
    """Where numbers come from. The first five fields are columns of the results, the rest stands in the report.

    Attributes:
        experiment: the recipe's name.
        process, prediction, network: names of the config choices.
        checkpoint: which weights, e.g. ``"step_2000@ema_0.999"``; a different EMA profile is a different checkpoint.
        ema: the EMA profile, or ``"none"``.
        training_seed: seed of the training run.
        commit: git revision of the code, or None.
        device: name of the device that sampled.
        precision: precision of the network while sampling.
        versions: versions of the libraries that matter.
        statistics: which published statistics stood in for reference images; empty where none did.
    """

    experiment: str
    process: str
    prediction: str
    network: str
    checkpoint: str
    ema: str = "none"
    training_seed: int | None = None
    commit: str | None = None
    device: str = "cpu"
    precision: str = "float32"
    versions: Mapping[str, str] = field(default_factory=dict)
    statistics: str = ""


def read_protocols(folder: Path) -> dict[str, Protocol]:
    """The protocols of a run folder by hash; empty where there are none."""
    path = folder / PROTOCOL_FILE
    if not path.is_file():
        return {}
    try:
        found = [Protocol(**entry) for entry in json.loads(path.read_text(encoding="utf-8")).values()]
    except (ValueError, TypeError, AttributeError) as error:
        raise DiffexpError(f"{path} is not a file of evaluation protocols ({error})") from error
    return {protocol.hash: protocol for protocol in found}


def write_protocol(folder: Path, protocol: Protocol) -> None:
    """Add a protocol to those of the run folder."""
    known = {**read_protocols(folder), protocol.hash: protocol}
    write_json_atomic(folder / PROTOCOL_FILE, {name: asdict(entry) for name, entry in known.items()})


def read_provenances(folder: Path) -> list[Provenance]:
    """The provenances of a run folder, oldest first; empty where there are none."""
    path = folder / PROVENANCE_FILE
    if not path.is_file():
        return []
    try:
        return [Provenance(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise DiffexpError(f"{path} is not a file of provenances ({error})") from error


def write_provenance(folder: Path, provenance: Provenance) -> None:
    """Add a provenance to those of the run folder.

    Older ones stay: an evaluation that went on elsewhere (another machine, another commit) kept the rows it found.
    """
    known = read_provenances(folder)
    if provenance not in known:
        write_json_atomic(folder / PROVENANCE_FILE, [asdict(entry) for entry in [*known, provenance]])
