"""`ckpt=` alone is enough to go on with a run: its recipe and scale are those of the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffexp.core.errors import CheckpointError, ConfigError, nearest
from diffexp.launch.compose import parse_overrides
from diffexp.launch.find import find_run
from diffexp.launch.folder import load_frozen
from diffexp.launch.layout import Layout
from diffexp.launch.text import one_line

_ALONE = {"report"}  # tasks that read the run folder and need no recipe


def recall(words: Sequence[str], layout: Layout) -> list[str]:
    """Overrides, completed with the recipe (and the scale, unless one is named) of the run that `ckpt=` names.

    What else was overridden when the run was trained has to be repeated: a difference that matters is refused later,
    by name.

    Args:
        words: normalised overrides.
        layout: the conf folder; it says what `runs` is by default, and which recipes and scales there are.

    Returns:
        the overrides; unchanged when a recipe is named, no checkpoint is, or it lies in no run folder.

    Raises:
        CheckpointError: there is no such checkpoint, its recipe or scale is unknown here, or a sweep over checkpoints
            of several recipes or scales names none of them.
        ConfigError: an override that cannot be read.
    """
    given = {item.key_or_group: item for item in parse_overrides(OverridesParser.create(), words) if not item.package}
    if "experiment" in given or "ckpt" not in given or set(_values(given, "task", layout)) <= _ALONE:
        return list(words)
    found: dict[tuple[str | None, str | None], str] = {}
    for runs in _values(given, "runs", layout):
        for spec in _values(given, "ckpt", layout, runs=runs):
            run = None if spec is None else find_run(str(spec), str(runs))[0]
            found.setdefault(_made_by(run, str(spec), "scale" in given, layout), str(spec))
    if not found:
        return list(words)
    if len(found) > 1:
        raise CheckpointError(f"ckpt={','.join(found.values())}: of different recipes or scales; add experiment=...")
    ((recipe, scale),) = found
    recalled = {"experiment": recipe, "scale": scale}
    return [*(f"{group}={choice}" for group, choice in recalled.items() if choice is not None), *words]


def _values(given: Mapping[str, Override], key: str, layout: Layout, **others: Any) -> list[Any]:
    """What a plain key is set to: one value, those of a sweep, or that of the conf folder."""
    item = given.get(key)
    if item is None:
        written = [layout.scalars.get(key)]
    elif item.is_sweep_override():
        listed = isinstance(item.value(), (ChoiceSweep, RangeSweep))  # others are no lists of values
        written = [getattr(value, "text", value) for value in item.sweep_iterator()] if listed else []
    else:
        written = [item.value()]
    try:  # an interpolation, e.g. of the environment or of `runs`
        return [OmegaConf.create({**others, key: value})[key] for value in written]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}={one_line(written[0])}: {one_line(str(error).splitlines()[0])}") from error


def _made_by(run: Path | None, spec: str, scaled: bool, layout: Layout) -> tuple[str | None, str | None]:
    """(recipe, scale) of a run folder; the scale is None when the command names one, both are outside of a run."""
    if run is None:
        return None, None
    frozen = load_frozen(run)
    choices = frozen.get("choices")
    scale = choices.get("scale") if isinstance(choices, Mapping) and not scaled else None
    made_by = {"experiment": frozen.get("recipe"), "scale": scale}
    for group, choice in made_by.items():
        known = layout.choices.get(group, ())
        if choice is not None and choice not in known:
            own = "add --config-dir=... or plugins=[...] if it is your own"
            hint = own if group == "experiment" else nearest(str(choice), known)
            made = f"{group}={one_line(choice)}"
            raise CheckpointError(f"ckpt={spec}: was made by {made}, which is not known here; {hint}")
    return made_by["experiment"], made_by["scale"]
