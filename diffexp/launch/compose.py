"""Composition: overrides become resolved configurations, and Hydra's complaints become one line each.

Everything goes through Hydra's compose API; nothing is run and no folder is made. A sweep is expanded in the order of
Hydra's own sweeper, so that every job can be refused before the first one starts.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffexp.core.errors import ConfigError, nearest
from diffexp.launch.layout import PRIMARY, Layout
from diffexp.launch.text import one_line


@dataclass(frozen=True)
class Job:
    """One composed job.

    Attributes:
        overrides: the overrides that make it.
        config: the resolved configuration, plain Python, without Hydra's own node.
        choices: group -> the choice that was composed (None for nothing).
        hydra: Hydra's own node, unresolved.
    """

    overrides: tuple[str, ...]
    config: dict[str, Any]
    choices: dict[str, str | None]
    hydra: dict[str, Any]


def resolve(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as plain dictionaries and lists, interpolations replaced; `???` stays as it is.

    Raises:
        ConfigError: an interpolation leads nowhere.
    """
    node = config if isinstance(config, DictConfig) else OmegaConf.create(dict(config))
    if "hydra" in node:
        node = OmegaConf.masked_copy(node, [key for key in node if key != "hydra"])
    try:
        plain = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "config"
        raise ConfigError(f"{key}: {one_line(str(error).splitlines()[0])}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def config_hash(config: Mapping[str, Any], without: Collection[str] = ()) -> str:
    """A fingerprint of a resolved configuration: equal for equal content, whatever the order of the keys.

    Args:
        config: the resolved configuration.
        without: top-level keys that do not count.

    Returns:
        16 hexadecimal digits (64 bits of SHA-256).
    """
    kept = {key: value for key, value in config.items() if key not in without}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def expand(overrides: Sequence[str], layout: Layout, multirun: bool = False) -> list[list[str]]:
    """The jobs of a command, as lists of overrides: one, or with `multirun` one for every combination of the sweep.

    Raises:
        ConfigError: an override that cannot be parsed, or several values without `-m`.
    """
    with _session(layout):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        parsed = OverridesParser.create(config_loader=hydra.config_loader if multirun else None)
        items = parse_overrides(parsed, overrides)
        for item in items:
            _refuse_no_choice(item, layout)
        if not multirun:
            for item in items:
                if item.is_sweep_override():
                    raise ConfigError(
                        f"{item.input_line}: several values: add -m to run them all, or write [a,b] for a list"
                    )
            return [list(overrides)]
        params = _explained(overrides_without_sweep(items), layout).hydra.sweeper.get("params") or {}
        if any(map(_hydras, params)):
            raise ConfigError(f"hydra.sweeper.params: {next(filter(_hydras, params))} is no setting of a job")
        items = parse_overrides(parsed, [f"{key}={value}" for key, value in params.items()]) + items
        try:
            return BasicSweeper.split_arguments(items, None)[0]
        except HydraException as error:
            raise ConfigError(one_line(error)) from error


def _refuse_no_choice(item: Override, layout: Layout) -> None:
    """Refuse `group=5` and `group=null`: the value of a group is the name of one of its files."""
    key, value = item.key_or_group, item.value()
    if key not in layout.choices or item.is_delete() or item.is_sweep_override():
        return
    if key == "tuning" and str(value) not in layout.choices[key]:  # Hydra passes over it: the group is optional
        raise ConfigError(f"{item.input_line}: there is no such tuning; {nearest(str(value), layout.choices[key])}")
    if not isinstance(value, (str, list, QuotedString)):
        raise ConfigError(f"{item.input_line}: a choice is needed; {nearest(str(value), layout.choices[key])}")


def overrides_without_sweep(items: Sequence[Override]) -> list[str]:
    """The overrides that have one value each."""
    return [item.input_line for item in items if not item.is_sweep_override() and item.input_line is not None]


def compose_jobs(jobs: Sequence[Sequence[str]], layout: Layout) -> list[Job]:
    """Compose every job.

    Args:
        jobs: the overrides of each, normalised.
        layout: the conf folder.

    Raises:
        ConfigError: an unknown key or choice, named with the nearest valid one; a file that changes Hydra's own node.
    """
    with _session(layout):
        composed = [_job(list(overrides), layout) for overrides in jobs]
        own: dict[tuple[str, ...], Any] = {}  # jobs of a sweep mostly share theirs
        for job in composed:
            words = tuple(filter(_hydras, job.overrides))
            if words not in own:
                own[words] = _hydra_node(_explained(list(words), layout))
            _require_own_hydra(job.hydra, own[words])
    return composed


def _hydra_node(config: DictConfig) -> dict[str, Any]:
    """Hydra's own node, unresolved."""
    node = OmegaConf.to_container(config.hydra, resolve=False, throw_on_missing=False)
    assert isinstance(node, dict)
    return node


def _require_own_hydra(node: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse Hydra settings that a recipe or another file makes: its logging, for one, calls what it is told to.

    The command line may change them, and a recipe may list what to sweep over: those are overrides like others.

    Args:
        node: that of a job.
        own: what the words of the command line alone make of it.
    """
    changed = _first_change(node, own, "hydra")
    if changed:
        raise ConfigError(f"{changed}: a file has set this; only the command line may change Hydra's own settings")


def _hydras(word: str) -> bool:
    """Whether an override is of Hydra's own node."""
    return word.lstrip("+~").startswith(("hydra.", "hydra/", "hydra="))


def _first_change(node: Any, own: Any, path: str) -> str:
    """The first key path at which two nodes differ, but for what describes the job; empty when there is none."""
    if path in ("hydra.runtime", "hydra.overrides", "hydra.job.override_dirname", "hydra.sweeper.params"):
        return ""
    if not isinstance(node, Mapping) or not isinstance(own, Mapping):
        return "" if node == own else path
    found = (_first_change(node.get(key), own.get(key), f"{path}.{key}") for key in dict.fromkeys([*own, *node]))
    return next((change for change in found if change), "")


def _job(overrides: list[str], layout: Layout) -> Job:
    """Compose one job inside a session."""
    config = _explained(overrides, layout)
    HydraConfig.instance().set_config(config)  # lets ${hydra:...} resolve as it does inside a run
    choices = {str(key): value for key, value in config.hydra.runtime.choices.items()}
    return Job(tuple(overrides), resolve(config), choices, _hydra_node(config))


@contextmanager
def _session(layout: Layout) -> Iterator[None]:
    """Hydra, initialised on the conf folder and put back afterwards."""
    GlobalHydra.instance().clear()
    before = HydraConfig.instance().cfg
    try:
        with initialize_config_dir(config_dir=str(layout.folder), version_base="1.3", job_name="diffexp"):
            yield
    finally:
        HydraConfig.instance().cfg = before
        GlobalHydra.instance().clear()


def _explained(overrides: list[str], layout: Layout) -> DictConfig:
    """Hydra's compose with its complaints as ConfigError."""
    try:
        return _compose(overrides)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(_explain(error, overrides, layout)) from error


def _compose(overrides: list[str]) -> DictConfig:
    """Hydra's compose, with warnings kept quiet: what they warn about is refused elsewhere or harmless."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compose(config_name=PRIMARY, overrides=overrides, return_hydra_config=True)


def parse_overrides(parser: OverridesParser, overrides: Sequence[str]) -> list[Override]:
    """Parse overrides; ConfigError names the one that cannot be read."""
    try:
        return parser.parse_overrides(list(overrides))
    except OverrideParseException as error:
        reason = one_line(str(error).splitlines()[0])
        hint = "quote values with special characters"
        raise ConfigError(f"'{error.override}' cannot be read: {reason}; {hint}") from error


def _explain(error: Exception, overrides: list[str], layout: Layout) -> str:
    """One line for one of Hydra's exceptions: what, where, and the nearest valid name."""
    text = str(error)
    if isinstance(error, MissingConfigException):
        found = re.search(r"Could not (?:find|load) '([^']+)'", text)
        if found and "/" in found[1]:
            return _missing_choice(found[1], text, layout)
    found = re.search(r"Could not (?:override|append to config|delete from config)[^']*'([^']+)'", text)
    if found and "No match in the defaults list" not in text:
        return _unknown_key(found[1], overrides, layout)
    while not text.strip() and error.__cause__ is not None:  # Hydra wraps OmegaConf's errors without a text
        error = error.__cause__  # type: ignore[assignment]
        text = str(error)
    return one_line(text)


def _missing_choice(wanted: str, text: str, layout: Layout) -> str:
    """The refusal of a choice that its group does not have."""
    group, _, choice = wanted.rpartition("/")
    where = re.match(r"In '([^']+)'", text)
    named = f" (named in {where[1]}.yaml)" if where and where[1] not in (PRIMARY, "hydra/config") else ""
    known = layout.choices.get(group) or sorted(file.stem for file in (layout.folder / group).glob("*.yaml"))
    return f"{group}={choice}: there is no such {group}{named}; {nearest(choice, known)}"


def _unknown_key(key: str, overrides: list[str], layout: Layout) -> str:
    """The refusal of a key that the composed configuration does not have: nearest among the keys at its level."""
    groups = [word for word in overrides if word.lstrip("+~").split("=")[0].split("@")[0] in layout.choices]
    try:
        node: Any = _compose([*groups, *(word for word in overrides if word.startswith("hydra.searchpath="))])
    except (HydraException, OmegaConfBaseException):
        return f"{key}: there is no such key"
    walked: list[str] = []
    for part in key.split("."):
        if not isinstance(node, DictConfig):
            return f"{key}: '{'.'.join(walked)}' is a single value and has no keys"
        if part not in node:
            names = [str(name) for name in node if str(name) not in ("_target_", "hydra")]
            where = f"in {'.'.join(walked)}" if walked else "at the top level"
            return f"{key}: there is no key '{part}' {where}; {nearest(part, names)}"
        node = node._get_node(part)
        walked.append(part)
    return f"{key}: exists already: write it without a plus sign"
