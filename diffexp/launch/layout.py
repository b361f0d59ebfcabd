"""The conf folder as facts: where it is, which groups and choices it has, which keys stand beside the groups.

Nothing is composed here. The folder is shipped inside the wheel as `diffexp/conf`; an editable installation reads the
repository's `conf`, which lies beside the package.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffexp.core.errors import ConfigError
from diffexp.launch.text import one_line

PRIMARY = "config"
# groups that only steer the composition: their files are global, so they leave no node of their own
GLOBAL_GROUPS = ("experiment", "scale", "tuning")


@dataclass(frozen=True)
class Layout:
    """What a conf folder offers.

    Attributes:
        folder: absolute path of the folder that holds config.yaml.
        defaults: group -> default choice (None for "nothing"), in the order of the defaults list.
        choices: group -> sorted choices, for every sub-folder with YAML files, those of `extras` included.
        scalars: the keys that config.yaml itself sets beside the groups, with their values.
        extras: further config folders: `--config-dir`, and those of plugins.
    """

    folder: Path
    defaults: dict[str, str | None]
    choices: dict[str, tuple[str, ...]]
    scalars: dict[str, Any]
    extras: tuple[Path, ...] = ()
    top_level: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        names = {group.split("/")[0] for group in (*self.defaults, *self.choices)} | set(self.scalars)
        object.__setattr__(self, "top_level", frozenset(names | {"paper", "recipe"}))


_present: ContextVar[Layout | None] = ContextVar("layout", default=None)


@contextmanager
def presenting(layout: Layout) -> Iterator[None]:
    """Let tasks inside a `with` block find the conf folders of the command."""
    token = _present.set(layout)
    try:
        yield
    finally:
        _present.reset(token)


def present_layout() -> Layout:
    """The conf folders of the command that runs; the shipped one when there is none."""
    return _present.get() or read_layout()


def conf_folder() -> Path:
    """Absolute path of the shipped conf folder; ConfigError when the installation has none."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / f"{PRIMARY}.yaml").is_file():
            return folder
    raise ConfigError(f"no conf folder in {package} or beside it: install diffexp again")


def read_layout(folder: Path | None = None, extras: Sequence[Path] = ()) -> Layout:
    """Read the facts of a conf folder.

    Args:
        folder: the folder with config.yaml; the shipped one when None.
        extras: folders with further choices.

    Raises:
        ConfigError: a folder or config.yaml is missing or unreadable, or a further folder holds what would be ignored:
            a config.yaml, or a choice that there is already.
    """
    folder = (folder or conf_folder()).resolve()
    body = read_yaml(folder / f"{PRIMARY}.yaml")
    defaults = _defaults(body.pop("defaults", None) or [])
    body.pop("hydra", None)
    for extra in extras:
        if not extra.is_dir():
            raise ConfigError(f"--config-dir={extra}: no such folder")
    further = tuple(dict.fromkeys(extra.resolve() for extra in extras))
    return Layout(folder, defaults, _choices([folder, *further]), body, further)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, interpolations untouched; ConfigError names the file and the line of a mistake."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a mapping is needed, found a {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def _defaults(entries: list[Any]) -> dict[str, str | None]:
    """The groups of a defaults list with their choices (`_self_`, plain files and hydra's own groups left out)."""
    found: dict[str, str | None] = {}
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        for key, choice in entry.items():
            group = str(key).removeprefix("override ").removeprefix("optional ").strip().lstrip("/")
            if not group.startswith("hydra/") and "@" not in group:
                found[group] = None if choice is None else str(choice)
    return found


def _choices(folders: list[Path]) -> dict[str, tuple[str, ...]]:
    """Group -> choices, over all folders; a nested folder `a/b` is the group "a/b"."""
    found: dict[str, dict[str, Path]] = {}
    for folder in folders:
        for path in folder.rglob("*.yaml"):
            group = path.parent.relative_to(folder).as_posix()
            if group.startswith("hydra"):
                continue
            before = found.setdefault(group, {}).setdefault(path.stem, path)
            if before is not path:  # Hydra takes the first and says nothing
                hint = "write a group's file, e.g. experiment/mine.yaml" if group == "." else "give it another name"
                raise ConfigError(f"{path}: would be ignored, there is {before} already; {hint}")
    found.pop(".", None)
    return {group: tuple(sorted(found[group])) for group in sorted(found)}
