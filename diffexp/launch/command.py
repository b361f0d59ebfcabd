"""The command line, normalised: `+experiment=x`, `experiment=x` and `++experiment=x` in any order mean the same.

Hydra takes `+group=choice` as an appendix to the defaults list, behind everything that is in it. A scale that is named
so, before its experiment, is then composed first and silently loses. Here every override of a group that stands in the
defaults list becomes a plain one, so that the list's own order (experiment, then scale, last) always holds.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffexp.core.errors import ConfigError, nearest
from diffexp.launch.layout import Layout

TASKS = (
    "run", "train", "search", "evaluate", "sample", "interpolate", "report", "dashboard", "check", "list", "diff",
    "matrix", "selfcheck",
)  # fmt: skip
"""What a command can do; `task=` names one."""

# Hydra's flags that are handed over: long name -> (short name, values it may take; None: no value, (): any value)
_FLAGS: dict[str, tuple[str, tuple[str, ...] | None]] = {
    "--help": ("-h", None),
    "--hydra-help": ("", None),
    "--version": ("", None),
    "--run": ("-r", None),
    "--multirun": ("-m", None),
    "--cfg": ("-c", ("job", "hydra", "all")),
    "--resolve": ("", None),
    "--package": ("-p", ()),
    "--config-dir": ("-cd", ()),
    "--info": ("-i", ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")),
    "--shell-completion": ("-sc", None),
}
_SHORT = {short: name for name, (short, _) in _FLAGS.items() if short}
_MODES = ("--help", "--hydra-help", "--version", "--run", "--multirun", "--cfg", "--info", "--shell-completion")
_OVERRIDE = re.compile(r"(?P<sign>~|\+\+|\+)?(?P<key>[^=@~+]+)(?P<package>@[^=]*)?(?P<value>=.*)?", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A command line taken apart.

    Attributes:
        flags: Hydra's flags in their long form -> value ("" for a flag without one).
        words: the remaining words, as written; overrides once normalised.
    """

    flags: dict[str, str]
    words: tuple[str, ...]

    @property
    def multirun(self) -> bool:
        """Whether a sweep was asked for."""
        return "--multirun" in self.flags

    @property
    def config_dir(self) -> Path | None:
        """The user's own config folder, if one was named."""
        return Path(self.flags["--config-dir"]) if "--config-dir" in self.flags else None

    def argv(self) -> list[str]:
        """The arguments for Hydra's parser (`--config-dir` is left out: it has become an override)."""
        flags = [f"{name}={value}" if value else name for name, value in self.flags.items() if name != "--config-dir"]
        return [*flags, *self.words]


def parse(argv: Sequence[str]) -> Command:
    """Separate Hydra's flags from the overrides.

    Raises:
        ConfigError: an unknown flag, a flag without its value, or two flags that exclude each other.
    """
    flags: dict[str, str] = {}
    words: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            words.append(word)
            continue
        written, _, value = word.partition("=")
        name = _SHORT.get(written, written)
        if name not in _FLAGS:
            raise ConfigError(f"unknown flag '{written}': {nearest(written, _FLAGS)}")
        values = _FLAGS[name][1]
        if name == "--info" and not value:  # the one flag whose value may be left out
            value = rest.pop(0) if rest and rest[0] in (values or ()) else "all"
        elif values is not None and not value:
            value = rest.pop(0) if rest else ""
        flags[name] = _flag_value(name, value, values)
    _refuse_conflicts(flags)
    return Command(flags, tuple(words))


@contextmanager
def presented(arguments: Sequence[str]) -> Iterator[None]:
    """sys.argv as Hydra's parser is to see it, inside a `with` block."""
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before


def _flag_value(name: str, value: str, values: tuple[str, ...] | None) -> str:
    """Check the value of a flag; returns it."""
    if values is None and value:
        raise ConfigError(f"{name}={value}: this flag takes no value")
    if values and value not in values:
        raise ConfigError(f"{name}={value}: {nearest(value, values)}")
    if values == () and not value:
        raise ConfigError(f"{name}: a value is needed, {name}=...")
    return value


def _refuse_conflicts(flags: dict[str, str]) -> None:
    """Refuse what Hydra would answer with a stack trace."""
    modes = [name for name in _MODES if name in flags]
    if len(modes) > 1:
        raise ConfigError(f"{' and '.join(modes)} exclude each other: keep one of them")
    for name in ("--resolve", "--package"):
        if name in flags and "--cfg" not in flags:
            raise ConfigError(f"{name} belongs to --cfg: add --cfg job")


def normalise(words: Sequence[str], layout: Layout) -> list[str]:
    """Overrides in the form that composes the same way whatever their order and plus signs.

    A sampler that is named explicitly, or changed (`sampler.clip=true`), is to be evaluated alone: `evaluation.only`
    follows it (in sweeps too). Otherwise a recipe's arms would be evaluated, and the word would have no effect.

    Args:
        words: overrides as the user wrote them.
        layout: the conf folder they refer to.

    Returns:
        overrides for Hydra.

    Raises:
        ConfigError: a word that is no override, or whose first name is neither a group nor a key.
    """
    overrides: list[str] = []
    keys: set[str] = set()
    for word in words:
        match = _OVERRIDE.fullmatch(word)
        if match is None or (match["value"] is None and match["sign"] != "~"):
            raise ConfigError(_no_override(word, layout))
        override, key = _normal_form(word, match, layout), match["key"] + (match["package"] or "")
        if match["sign"] != "~":
            if key in keys and match["key"] in layout.choices and override not in overrides:
                raise ConfigError(f"{word}: {key} is named twice, with different choices: keep one of them")
            keys.add(key)
        elif "." in key:  # a value that is taken away; without a dot it would be a whole group
            keys.add(key)
        overrides.append(override)
    alone = any(map(_names_sampler, keys)) and "evaluation.only" not in keys
    if alone and "sampler" in layout.defaults and "evaluation" in layout.defaults:
        overrides.append("++evaluation.only=${sampler.name}")
    if layout.extras:
        folders = ",".join(f'"file://{folder.as_posix()}"' for folder in layout.extras)
        overrides.append(f"hydra.searchpath=[{folders}]")
    return list(dict.fromkeys(overrides))


def refuse_idle_sampler(overrides: Sequence[str], config: Mapping[str, Any]) -> None:
    """Refuse a sampler that was named or changed when `evaluation.only` evaluates something else.

    Args:
        overrides: those of one job.
        config: what they compose to.

    Raises:
        ConfigError: naming the first override that would have no effect.
    """
    idle = [word for word in overrides if _names_sampler(word.lstrip("+~").partition("=")[0])]
    sampler, evaluation = config.get("sampler"), config.get("evaluation")
    if not idle or not isinstance(sampler, Mapping) or not isinstance(evaluation, Mapping):
        return
    only, name = evaluation.get("only"), sampler.get("name")
    if only != name and (only is not None or evaluation.get("arms")):
        raise ConfigError(
            f"{idle[0]}: has no effect beside evaluation.only={'null' if only is None else only}; "
            f"leave evaluation.only out to evaluate this {name} alone"
        )


def concerns(word: str, keys: Sequence[str]) -> bool:
    """Whether an override is of one of these keys or groups, or of something below it."""
    key = word.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", ".")
    return any(key == one or key.startswith(f"{one}.") for one in keys)


def _names_sampler(key: str) -> bool:
    """Whether an override of this key chooses or changes the one sampler beside the arms."""
    return key == "sampler" or key.startswith("sampler.")


def _normal_form(word: str, match: re.Match[str], layout: Layout) -> str:
    """One override, normalised; refuses an unknown first name."""
    key, package, value = match["key"], match["package"] or "", match["value"] or ""
    if key.startswith(("hydra.", "hydra/")):
        return word
    if key not in layout.choices and key.split(".")[0] not in layout.top_level:
        known = layout.top_level | set(layout.choices)
        raise ConfigError(f"unknown group or key '{key}' in '{word}': {nearest(key.split('.')[0], known)}")
    if match["sign"] == "~" or not match["sign"]:
        return word
    if key in layout.choices or key in layout.defaults:
        # an appended group that is not in the defaults list (an extra arm, a logger) keeps its plus
        return f"{key}{package}{value}" if key in layout.defaults and not package else f"+{key}{package}{value}"
    # "add or replace": what is no argument of the constructor is refused by the schema, with the nearest name
    return f"{key}{value}" if key in layout.scalars else f"++{key}{value}"


def _no_override(word: str, layout: Layout) -> str:
    """The refusal of a bare word, with the override that was probably meant."""
    for group in ("experiment", "scale"):
        if word in layout.choices.get(group, ()):
            return f"'{word}' is no override: did you mean '{group}={word}'?"
    if word in TASKS:
        return f"'{word}' is no override: did you mean 'task={word}'?"
    return f"'{word}' is no override: write group=choice or key=value"
