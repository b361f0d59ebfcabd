"""The sections of a report, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from diffexp.evaluation.comparison import speedups, verdicts
from diffexp.evaluation.document import Block, Code, Heading, Picture, Table
from diffexp.evaluation.metric import meaning
from diffexp.evaluation.protocol import Protocol, Provenance
from diffexp.evaluation.results import GIVEN, Row
from diffexp.evaluation.statistics import MOMENTS
from diffexp.evaluation.table import FLOORS, Summary, best_of, spell_range, spell_spread

_TARGETS = "the targets of these very pairs: the floor, what a perfect model scores at this n"
_PUBLISHED = ": published moments; that they are of these images and features is stated in `config.yaml`"
_MEANING = {
    "real": "held-out images: the floor, what a perfect model scores at this n; lower means copies",
    "held_out": "held-out images drawn with replacement: the floor where more images are made than are held out",
    "source": "the sources of the pairs: a model that does nothing",
    "noise": "Gaussian noise: no model at all",
    "mean": "the mean training image, n times: no diversity",
    "resampled": "training images drawn with replacement: a model that only remembers",
}


def head(config: Mapping[str, Any], rows: Sequence[Row]) -> list[Block]:
    """Title and the recipe in a line or two."""
    names = list(dict.fromkeys(row.experiment for row in rows))
    recipe = config.get("recipe") or (", ".join(names) if names else "evaluation")
    paper = config.get("paper") or {}
    lines: list[Block] = [Heading(1, recipe)]
    if paper.get("title"):
        link = f", [arXiv {paper['arxiv']}](https://arxiv.org/abs/{paper['arxiv']})" if paper.get("arxiv") else ""
        lines.append(f"*{paper['title']}*{link}.")
    choices = config.get("choices") or {}
    if choices:
        lines.append("Recipe: " + ", ".join(f"{group} `{choice}`" for group, choice in choices.items()) + ".")
    return lines


def confusable(protocol: Protocol, used: Sequence[Protocol]) -> list[Protocol]:
    """The other protocols of the same kind of number, which a reader might compare it with."""
    stem = meaning(protocol.metric).stem
    return [other for other in used if other is not protocol and meaning(other.metric).stem == stem]


def protocols(used: Sequence[Protocol]) -> list[Block]:
    """How protocols that might be confused differ, field by field; empty where there are none."""
    parts: list[Block] = []
    for stem in dict.fromkeys(meaning(protocol.metric).stem for protocol in used):
        group = [protocol for protocol in used if meaning(protocol.metric).stem == stem]
        told = [{entry.name: getattr(protocol, entry.name) for entry in fields(Protocol)} for protocol in group]
        names = [name for name in told[0] if len({entry[name] for entry in told}) > 1]
        body = [[name, *("–" if entry[name] is None else str(entry[name]) for entry in told)] for name in names]
        parts += [Table(["field", *(f"`{protocol.hash}`" for protocol in group)], body)] if names else []
    if not parts:
        return []
    intro = "Numbers of these protocols stand in tables of their own: they are not comparable. What differs:"
    return [Heading(2, "Protocols"), intro, *parts]


def measured(
    protocol: Protocol,
    arms: Sequence[Summary],
    controls: Sequence[Summary],
    figures: Sequence[Block],
    others: Sequence[Protocol],
    own_matrix: Sequence[Block] = (),
    compares: bool = True,
) -> list[Block]:
    """Summary, figures and tables of one protocol.

    Args:
        figures: the charts with what is to be said of them.
        others: protocols that this one might be confused with.
        own_matrix: takes the place of the usual tables.
        compares: whether to say which arm is better; trainings of several seeds are no arms to choose from.
    """
    parts: list[Block] = [Heading(2, f"{protocol.metric}, n = {protocol.n:,}"), _lead(protocol, arms, controls)]
    for other in others:
        difference = "; ".join(protocol.difference(other))
        parts.append(f"Not comparable with the section of protocol `{other.hash}`: {difference}.")
    parts += figures
    if arms:
        parts += own_matrix or [matrix(arms), caption(arms), *_details(arms)]
        parts += [*verdicts(arms), *speedups(arms)] if compares else []
    if controls:
        parts += [Heading(3, "Controls"), *_controls(protocol, controls)]
    return [*parts, Heading(3, f"Protocol `{protocol.hash}`"), _protocol(protocol)]


def _lead(protocol: Protocol, arms: Sequence[Summary], controls: Sequence[Summary]) -> str:
    """Two or three sentences that a hurried reader needs."""
    said, where = meaning(protocol.metric), f"the {protocol.split} split of {protocol.dataset}"
    if said.paired:
        text = f"{said.title}: mean over {protocol.n:,} images, each against its target in {where}; {said.better}."
    else:
        against = f" against the {protocol.reference_n:,} images of {where}" if protocol.reference_n else ""
        text = f"{said.title} of {protocol.n:,} images{against}; {said.better}."
    best = best_of(arms)
    if best is not None:
        text += f" Best: **{spell_spread(best)}** with {best.label} at NFE {best.nfe}."
    for given in (control for control in controls if control.label.startswith(GIVEN)):
        text += f" The images of {given.label.removeprefix(GIVEN)}: **{spell_spread(given)}**."
    by_name = {control.label: control for control in controls}
    floor = next((by_name[name] for name in FLOORS if name in by_name), None)
    return text if floor is None else f"{text} {_floor(protocol, floor)}"


def _floor(protocol: Protocol, floor: Summary) -> str:
    """What a perfect model would score."""
    said = floor.meaning
    level = "level of real images" if said.higher and not said.paired else "floor"
    if floor.independent:
        what = "as many held-out images, drawn with replacement, the nearest to a perfect model that there is"
        return f"The {level} is **{spell_spread(floor)}**: {what}."
    around = spell_range(floor)
    draws = f" (mean of {len(floor.values)} draws that share images, {around})" if around else ""
    what = "what the targets of these pairs score" if protocol.pairs else "as many held-out real images"
    return f"The {level} is **{said.spell(floor.mean)}**{draws}: {what}."


def matrix(arms: Sequence[Summary]) -> Table:
    """A line for each sampler, a column for each budget."""
    budgets = sorted({arm.nfe for arm in arms})
    found = {(arm.label, arm.nfe): spell_spread(arm) for arm in arms}
    labels = list(dict.fromkeys(arm.label for arm in arms))
    body = [[label, *(found.get((label, budget), "") for budget in budgets)] for label in labels]
    return Table(["NFE", *map(str, budgets)], body, 1)


def caption(arms: Sequence[Summary]) -> str:
    """What the cells of a table of distances are."""
    seeds = max(len(arm.values) for arm in arms)
    spread = f"Mean ± standard deviation over {seeds} evaluation seeds" if seeds > 1 else "One evaluation seed"
    return f"{spread}; columns are counted network evaluations per image."


def _details(arms: Sequence[Summary]) -> list[Block]:
    body = [[arm.label, str(arm.nfe), *_statistics(arm)] for arm in arms]
    best = "maximum" if arms[0].meaning.higher else "minimum"
    header = ["sampler", "NFE", "mean", "std", best, "ms per image"]
    note = f"Papers often print the {best} of several seeds; compare it only with such. Times are of sampling alone."
    return [Heading(3, "All budgets"), Table(header, body, 1), f"{_settings(arms)} {note}"]


def _settings(arms: Sequence[Summary]) -> str:
    """Samplers and grids with all their settings, grid by grid."""
    grids: dict[str, list[str]] = {}
    for arm in arms:
        grids.setdefault(arm.grid, []).append(f"`{arm.sampler}`")
    return "Settings: " + "; ".join(f"{', '.join(dict.fromkeys(on))} on `{grid}`" for grid, on in grids.items()) + "."


def _statistics(arm: Summary) -> list[str]:
    """Mean, standard deviation, best, milliseconds per image."""
    spell = arm.meaning.spell
    spread = "–" if arm.spread is None else spell(arm.spread)
    milliseconds = "–" if arm.seconds is None else f"{1000 * arm.seconds:.3g}"
    return [spell(arm.mean), spread, spell(arm.best), milliseconds]


def _controls(protocol: Protocol, controls: Sequence[Summary]) -> list[Block]:
    what = {**_MEANING, "real": _TARGETS} if protocol.pairs else dict(_MEANING)
    what |= {c.label: "the images of `samples=`, see Provenance" for c in controls if c.label.startswith(GIVEN)}
    body = [[c.label, spell_spread(c), spell_range(c) or "–", what.get(c.label, "")] for c in controls]
    name = "distance" if meaning(protocol.metric).distance else protocol.metric
    parts: list[Block] = [Table(["control", name, "range", "what it is"], body)]
    if any(c.label == "real" and len(c.values) > 1 for c in controls) and not protocol.pairs:
        parts.append(
            "The seeds of `real` draw from one and the same set of held-out images and share many or all of them: "
            "their range is a lower bound of how uncertain the floor is, so no ± is given."
        )
    return parts


def _protocol(protocol: Protocol) -> Table:
    said = meaning(protocol.metric)
    weights = f", weights SHA-256 `{protocol.weights}`" if protocol.weights else ""
    reference = [
        ["reference", f"{protocol.dataset}, split {protocol.split}, {protocol.reference_n:,} images"],
        ["reference fingerprint", f"`{protocol.reference}`{_PUBLISHED * protocol.reference.startswith(MOMENTS)}"],
    ]
    body = [
        ["metric", f"`{protocol.metric}`: {said.title}, {said.how}"],
        *([["settings", protocol.variant]] if protocol.variant else []),
        ["generated", f"n = {protocol.n:,} for each seed; image i of a seed starts from the same noise in every arm"],
        *(reference if protocol.reference_n else [["reference", "none: a number of the images alone"]]),
        ["variant" if said.paired else "features", f"{protocol.extractor}{weights}"],
        ["resize", protocol.resize],
        ["quantisation", f"{protocol.quantise} to 8 bits"],
    ]
    if protocol.pairs:
        split, fingerprint = protocol.pairs.split(" ", 1)
        order = f"split {split}, image i from the i-th in a fixed random order, the same for every seed"
        body.append(["pairs", f"{order}; `{fingerprint}`"])
    return Table(["field", "value"], body)


def samples(pictures: Sequence[str]) -> list[Block]:
    """The picture grids."""
    if not pictures:
        return []
    images = [Picture(name, f"Samples of {name.removeprefix('samples_').removesuffix('.png')}") for name in pictures]
    intro = (
        "A column starts from the same noise in every row and for every sampler; the last row is held-out images, or "
        "of pairs the targets, whose sources are the first row."
    )
    return [Heading(2, "Samples"), intro, *images]


def provenance(provenances: Sequence[Provenance], rows: Sequence[Row]) -> list[Block]:
    """Where the numbers come from, for each checkpoint with rows; empty where nothing is on record."""
    wanted = {row.checkpoint for row in rows}
    found: dict[str, list[Provenance]] = {}
    for entry in provenances:
        if not wanted or entry.checkpoint in wanted:
            found.setdefault(entry.checkpoint, []).append(entry)
    if not found:
        return []
    return [Heading(2, "Provenance"), *(block for entries in found.values() for block in _origin(entries))]


def _origin(entries: Sequence[Provenance]) -> list[Block]:
    """The table of one checkpoint; where several evaluations differ, all that was said."""
    columns = [_facts(entry) for entry in entries]
    body = [[name, "; then ".join(dict.fromkeys(column[name] for column in columns))] for name in columns[0]]
    parts: list[Block] = [Table(["", ""], body)]
    if len(entries) > 1:
        parts.append(f"The rows of this checkpoint come from {len(entries)} evaluations under different conditions.")
    return parts


def _facts(entry: Provenance) -> dict[str, str]:
    versions = ", ".join(f"{name} {version}" for name, version in entry.versions.items())
    published = {"reference statistics": entry.statistics} if entry.statistics else {}
    return {
        "checkpoint": f"`{entry.checkpoint}`",
        "EMA": entry.ema,
        "model": f"process {entry.process}, prediction {entry.prediction}, network {entry.network}",
        "training seed": "–" if entry.training_seed is None else str(entry.training_seed),
        "commit": f"`{entry.commit}`" if entry.commit else "unknown",
        "device, precision": f"{entry.device}, {entry.precision}",
        "versions": versions or "unknown",
        **published,
    }


def reproduce(config: Mapping[str, Any]) -> list[Block]:
    """The commands that make the numbers again; empty without a configuration."""
    recipe = config.get("recipe")
    if not recipe:
        return []
    scale = (config.get("choices") or {}).get("scale", "paper")
    own = f"plugins=[{','.join(config['plugins'])}] " if config.get("plugins") else ""
    command = f"python -m diffexp {own}experiment={recipe} scale={scale} seed={config.get('seed', 0)}"
    if config.get("samples"):
        command += f" task=evaluate samples={config['samples']}"
    note = (
        "`config.yaml` in this folder is the whole resolved configuration; whatever was overridden on the command line "
        "stands there. `results.csv` holds every number of this page, one row for each seed."
    )
    return [Heading(2, "Reproduce"), Code(command), note]
