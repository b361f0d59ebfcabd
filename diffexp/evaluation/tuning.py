"""`tune` of an arm: a setting that is chosen for each number of evaluations, by images that no result is made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from diffexp.core.errors import ConfigError
from diffexp.dataset.split import SplitName
from diffexp.sampler.loop import Sampler


class Tuning:
    """What may be chosen, and by what: the value with the smallest mean distance over seeds of the choice's own.

    Args:
        setting: dotted key of the sampler, e.g. ``stepper.interpolation``.
        values: two or more different ones; of equal distances the first wins.
        seeds: of the noise that a choice is made from, none of them an evaluation's.
        n: images for each value and seed.
        reference: the split that the distances are taken from, not the evaluation's.

    Raises:
        ConfigError: for fewer values, seeds or images than a choice needs.
    """

    def __init__(
        self, setting: str, values: list[float], seeds: list[int], n: int, reference: SplitName = "test"
    ) -> None:
        if len(set(values)) < 2 or len(set(values)) != len(values):
            raise ConfigError(f"tune.values={values}: give two or more different values of {setting}")
        if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
            raise ConfigError(f"tune.seeds={seeds}: give different seeds >= 0, e.g. [1000]")
        if n < 2:
            raise ConfigError(f"tune.n={n}: a distance needs at least 2 images")
        self.setting = setting
        self.values = list(values)
        self.seeds = list(seeds)
        self.n = n
        self.reference: SplitName = reference

    def check(self, seeds: list[int], reference: str) -> None:
        """Refuse an evaluation that would measure what the choice was made from: ConfigError."""
        shared = sorted({*self.seeds} & {*seeds})
        if shared:
            raise ConfigError(
                f"tune.seeds={self.seeds}: {shared[0]} is among evaluation.seeds={seeds}: what is tuned must be "
                f"measured on other noise, e.g. tune.seeds=[{max(seeds) + 1000}]"
            )
        if self.reference == reference:
            other = "train" if reference == "test" else "test"
            raise ConfigError(
                f"tune.reference={reference}: is evaluation.reference too: what is tuned must be measured against "
                f"other images: use {other}"
            )

    def nodes(self, sampler: Mapping[str, Any]) -> dict[float, dict[str, Any]]:
        """{value: the sampler's node with it}."""
        return {value: _with(sampler, self.setting.split("."), value, self.setting) for value in self.values}

    @property
    def told(self) -> dict[str, Any]:
        """All of it as plain data, for the record of a choice."""
        return dict(vars(self))


@dataclass(frozen=True)
class Candidates:
    """A tuning and {value: the sampler with it}."""

    tuning: Tuning
    samplers: Mapping[float, Sampler]


def sampler_of(
    node: Mapping[str, Any], make: Callable[[Mapping[str, Any], str], Any], where: str
) -> tuple[Sampler, Candidates | None]:
    """An arm's sampler as its node has it, and what `tune` in the node may put in its place; None without.

    Args:
        node: the sampler, with or without `tune`.
        make: make(node, path): the object of a node.
        where: the path of the node.
    """
    own = {key: value for key, value in node.items() if key != "tune"}
    sampler = make(own, where)
    if node.get("tune") is None:
        return sampler, None
    tuning = make(node["tune"], f"{where}.tune")
    return sampler, Candidates(tuning, {value: make(entry, where) for value, entry in tuning.nodes(own).items()})


def _with(node: Mapping[str, Any], keys: list[str], value: float, setting: str) -> dict[str, Any]:
    """A copy of a node with a value at a path."""
    if not isinstance(node, Mapping) or keys[0] not in node:
        raise ConfigError(f"tune.setting={setting}: the sampler has no such setting")
    inner = value if len(keys) == 1 else _with(node[keys[0]], keys[1:], value, setting)
    return {**node, keys[0]: inner}
