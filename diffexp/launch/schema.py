"""Validation of a composed configuration against the sources of what it names, without importing any of it.

Checked, in this order: every `_target_` names a class of an allowed package; every top-level key is known; the plain
keys have their types; every node's arguments are those of its constructor, all that must be given are, and their types
fit.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffexp.core.errors import ConfigError, nearest
from diffexp.launch import plugins
from diffexp.launch.annotation import Fault, fault_of
from diffexp.launch.command import TASKS
from diffexp.launch.layout import GLOBAL_GROUPS, Layout
from diffexp.launch.signature import signature_of
from diffexp.launch.source import Definition, Module, find, imported_from, load, submodules
from diffexp.launch.text import one_line

ALLOWED = ("diffexp.", "torch.optim.", "lightning.", "torchmetrics.")
"""Where a `_target_` may lead, beside permitted plugins; anything else could run whatever a shared file says."""

ROOMS = (
    "process", "prediction", "objective", "network", "sampler", "dataset", "evaluation", "training", "distillation",
)  # fmt: skip
"""The packages of diffexp whose classes a configuration may build: the others write files and start runs."""

_REFUSED = ("lightning.pytorch.cli.", "lightning.fabric.cli.")
"""Of allowed packages: these import and build whatever their arguments name."""

_HYDRA_ALLOWED = ("hydra._internal.core_plugins.", "hydra_plugins.")

_SPECIAL = {"_target_", "_partial_", "_convert_", "_recursive_"}
_FREE = ("paper",)  # data for the reader: not checked


def validate(config: Mapping[str, Any], layout: Layout) -> None:
    """Refuse a resolved configuration that cannot be what its author meant.

    Args:
        config: a resolved configuration (see `compose.resolve`).
        layout: the conf folder that says which top-level keys there are.

    Raises:
        ConfigError: one line with the full key path and the nearest valid choice.
    """
    check_targets(config)
    _check_plugins(config)
    known = layout.top_level - set(GLOBAL_GROUPS)
    for key in config:
        if key not in known:
            raise ConfigError(f"{key}: unknown key at the top level; {nearest(key, known)}")
    _check_scalars(config, layout)
    for key, value in config.items():
        if key in _FREE:
            continue
        if key in layout.choices and isinstance(value, Mapping) and value and "_target_" not in value:
            raise ConfigError(f"{key}: no _target_ (its keys: {', '.join(map(str, value))}); choose {key}=<choice>")
        _check_value(value, key)


def check_targets(config: Any) -> None:
    """Refuse a resolved configuration that could run anything but constructors of allowed classes.

    Every `_target_`, at any depth, has to lead to a class that is defined (not only imported) in an allowed package,
    and in diffexp in one of `ROOMS`. What a module imports, its functions and other objects are refused: the sources
    are read, nothing is imported. So are interpolations, which would be resolved, and built, after this check.

    Raises:
        ConfigError: naming the key and the target.
    """
    for path, text in _leaves(config, ""):
        if path.rpartition(".")[2] == "_target_":
            _class_of(text, path)
        elif isinstance(text, str) and "${" in text and path.split(".")[0] not in _FREE:
            raise ConfigError(f"{path}={one_line(text)}: an interpolation that is left over; write its value")


def check_hydra(node: Mapping[str, Any]) -> None:
    """Refuse launchers, sweepers and callbacks in Hydra's own node that are not Hydra's plugins.

    Raises:
        ConfigError: naming the key and the target.
    """
    parts = {"hydra": {key: node.get(key) for key in ("launcher", "sweeper", "callbacks")}}
    for path, target in _leaves(parts, ""):
        if path.rpartition(".")[2] == "_target_":
            _check_prefix(target, path, _HYDRA_ALLOWED)
            _check_installed(target, path)


def _check_installed(target: str, path: str) -> None:
    """Refuse a plugin of Hydra's that is not there; the folder that plugins share need not be there either."""
    package = ".".join(target.split(".")[:2])
    try:
        found = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        found = None
    if found is None:
        name = package.rpartition(".")[2].replace("_", "-")
        extra = next((extra for extra in ("joblib", "submitit") if extra in name), "")
        hint = f"pip install 'diffexp[{extra}]'" if extra else f"pip install {name}"
        raise ConfigError(f"{path}={target}: needs the package {name}; {hint}")


def _check_prefix(target: Any, path: str, allowed: Collection[str]) -> None:
    """Refuse a target whose name is outside of the allowed packages."""
    if not isinstance(target, str) or not target.startswith(tuple(allowed)):
        packages = ", ".join(prefix.rstrip(".") for prefix in allowed)
        raise ConfigError(f"{path}={one_line(target)}: not in an allowed package ({packages}){_plugin_hint(target)}")


def _plugin_hint(target: Any) -> str:
    """The word that would permit the package of a target, if it could be a plugin."""
    top, dot, _ = target.partition(".") if isinstance(target, str) else ("", "", "")
    if not dot or not plugins.plausible(top):
        return ""
    close = nearest(top, ("diffexp", "lightning", "torchmetrics", *plugins.allowed()))
    if close.startswith("did you mean"):
        return f"; {close}"
    return f"; if '{top}' is a plugin that you trust, name it: {plugins.KEY}=[{','.join((*plugins.allowed(), top))}]"


def _check_plugins(config: Mapping[str, Any]) -> None:
    """Refuse plugins that something else than the command line names."""
    named = config.get(plugins.KEY) or []
    if named != list(plugins.allowed()):
        raise ConfigError(
            f"{plugins.KEY}={one_line(named)}: a file has set this; only the command line may name plugins, "
            f"as {plugins.KEY}=[a,b]"
        )


def _prefixes() -> tuple[str, ...]:
    """Where a `_target_` may lead in this process."""
    return (*ALLOWED, *(f"{name}." for name in plugins.allowed()))


def _class_of(target: Any, path: str) -> Definition:
    """The class that a target leads to, through re-exports, found in the sources; ConfigError for anything else."""
    allowed = _prefixes()
    _check_prefix(target, path, allowed)
    definition = find(target)
    if definition is None:
        raise ConfigError(f"{path}={target}: {_why_missing(target)}")
    leads = f"{path}={target}: " + ("" if definition.name == target else f"leads to {definition.name}, which ")
    if not definition.name.startswith(allowed):
        raise ConfigError(f"{leads}is not in an allowed package")
    if not isinstance(definition.node, ast.ClassDef):
        raise ConfigError(f"{leads}is not a class")
    if definition.name.startswith(_REFUSED):
        raise ConfigError(f"{leads}is not for configurations: it builds whatever it is told to")
    top, room = definition.name.split(".")[:2]
    if top == "diffexp" and room not in ROOMS:
        raise ConfigError(f"{leads}is not for configurations: a class of diffexp.{{{','.join(ROOMS)}}} is needed")
    return definition


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(key path, value) of every plain value in a tree, and of every `_target_` whatever it is."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            here = f"{path}.{key}" if path else str(key)
            if key == "_target_":
                yield here, value
            else:
                yield from _leaves(value, here)
    elif isinstance(node, Sequence) and not isinstance(node, (str, bytes)):
        for place, value in enumerate(node):
            yield from _leaves(value, f"{path}[{place}]")
    else:
        yield path, node


def _check_scalars(config: Mapping[str, Any], layout: Layout) -> None:
    """The plain keys beside the groups."""
    task = config.get("task", "run")
    if task not in TASKS:
        raise ConfigError(f"task={task}: {nearest(str(task), TASKS)}")
    seed = config.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(str(Fault("seed", "an int, 0 or larger", seed)))
    texts = ("ckpt", "samples", "images", "teacher", "base", "runs", "recipe", "sweep", "a", "b")
    for key in texts:
        value = config.get(key)
        if not (isinstance(value, str) or (value is None and (key != "runs" or key not in config))):
            raise ConfigError(str(Fault(key, "str" if key == "runs" else "str or null", value)))
    for key in set(layout.scalars) - {"task", "seed", *texts, *_FREE}:
        before, value = layout.scalars[key], config.get(key)
        if type(before) in (bool, int, float, str) and "${" not in str(before):
            fault = fault_of(value, ast.Name(type(before).__name__), _HERE, key)
            if fault is not None:
                raise ConfigError(str(fault))


def _check_value(value: Any, path: str) -> None:
    """Walk to the nodes inside a value and check each."""
    if value == "???":
        raise ConfigError(f"{path}: no value given; add {path}=...")
    if isinstance(value, Mapping):
        if "_target_" in value:
            _check_node(value, path)
        for key, entry in value.items():
            _check_value(entry, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for place, entry in enumerate(value):
            _check_value(entry, f"{path}[{place}]")


def _check_node(node: Mapping[str, Any], path: str) -> None:
    """One node against the constructor that its `_target_` names."""
    definition = _class_of(node["_target_"], f"{path}._target_")
    signature = signature_of(definition)
    given = {str(key): value for key, value in node.items() if key not in _SPECIAL}
    if path.startswith("evaluation.arms.") and path.count(".") == 2:
        given.pop("tune", None)  # a node of its own, which is checked as such
        budgets = fault_of(given.pop("nfe", []), _NFE, _HERE, f"{path}.nfe")
        if budgets is not None:
            raise ConfigError(str(budgets))
    name = str(node["_target_"]).rpartition(".")[2]
    for key in given:
        if key not in signature.parameters and not signature.open:
            hint = nearest(key, signature.parameters) if signature.parameters else "it takes none"
            raise ConfigError(f"{path}.{key}: {name} has no argument '{key}'; {hint}")
    for key, parameter in signature.parameters.items():
        if key not in given:
            if parameter.required and not node.get("_partial_", False):
                raise ConfigError(f"{path}.{key}: {name} needs it, and it is not given; add +{path}.{key}=...")
            continue
        if given[key] == "???":
            raise ConfigError(f"{path}.{key}: no value given; add {path}.{key}=...")
        fault = fault_of(given[key], parameter.annotation, parameter.module, f"{path}.{key}")
        if fault is not None:
            raise ConfigError(str(fault))


def _why_missing(target: str) -> str:
    """Which part of a dotted name does not exist, with the nearest that does."""
    parts = target.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:cut])
        module = load(name)
        if module is None:
            continue
        wanted = parts[cut]
        if wanted in module.bindings:
            origin = imported_from(module, wanted)
            foreign = origin and not f"{origin}.".startswith(_prefixes())
            return f"comes from {origin}, which is not in an allowed package" if foreign else "is not a class"
        names = {key for key in module.bindings if not key.startswith("_")}
        if module.package:
            names |= set(submodules(name))
        if cut == len(parts) - 1:
            kept = (ast.ClassDef, ast.FunctionDef, ast.ImportFrom)
            names = {key for key in names if isinstance(module.bindings.get(key), kept)} or names
        return f"{name} has no '{wanted}'; {nearest(wanted, names)}"
    return f"there is no module '{parts[0]}'"


_HERE = Module("", Path(), package=False)  # the scope of the annotations that are written here: builtins only
_BUDGETS = "int | Literal['searched'] | list[int | Literal['searched']] | None"
_NFE = ast.parse(f"{_BUDGETS} | dict[str, {_BUDGETS}]", mode="eval").body
