"""Python sources, read without running them: where a dotted name is defined, found by parsing files.

A configuration names classes (`_target_: diffexp.sampler.loop.Sampler`). To check its arguments before anything heavy
or hostile is imported, the file is located by path and parsed with `ast`; re-exports are followed from file to file.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

_DEPTH = 20  # re-exports followed before a cycle is assumed


@dataclass(frozen=True, eq=False)
class Module:
    """A parsed file.

    Attributes:
        name: dotted name, e.g. "diffexp.sampler.loop".
        path: the file.
        package: whether it is an __init__.py.
        bindings: name -> the statement that binds it at module level.
        stars: modules named in `from x import *`.
    """

    name: str
    path: Path
    package: bool
    bindings: dict[str, ast.stmt] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)

    def absolute(self, statement: ast.ImportFrom) -> str:
        """The module that a (relative) `from ... import` names."""
        if not statement.level:
            return statement.module or ""
        parts = self.name.split(".")
        kept = parts[: len(parts) - statement.level + (1 if self.package else 0)]
        return ".".join([*kept, *([statement.module] if statement.module else [])])


@dataclass(frozen=True, eq=False)
class Definition:
    """Where a name leads: a class, a function (with the class that holds it) or some other value."""

    module: Module
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Assign | ast.AnnAssign
    owner: ast.ClassDef | None = None

    @property
    def name(self) -> str:
        """The dotted name of the definition itself (not of a re-export)."""
        inner = getattr(self.node, "name", "")
        return ".".join(part for part in (self.module.name, self.owner.name if self.owner else "", inner) if part)


def load(name: str) -> Module | None:
    """The parsed module, or None when no Python source of that name is on the path."""
    path = _locate(name, tuple(sys.path))
    return None if path is None else _parse(name, path, path.stat().st_mtime_ns)


def submodules(name: str) -> list[str]:
    """The names of the modules in a package (empty for anything else); used for hints."""
    path = _locate(name, tuple(sys.path))
    if path is None or path.name != "__init__.py":
        return []
    entries = (entry for entry in path.parent.iterdir() if not entry.name.startswith(("_", ".")))
    return sorted(entry.stem for entry in entries if entry.suffix == ".py" or (entry / "__init__.py").is_file())


@lru_cache(maxsize=4096)
def _locate(name: str, search: tuple[str, ...]) -> Path | None:
    """The file of a module: only the top package is asked of the import system, which runs nothing."""
    top, *rest = name.split(".")
    loaded = sys.modules.get(top)
    if loaded is not None and getattr(loaded, "__path__", None):
        folders = [Path(entry) for entry in loaded.__path__]
    else:
        spec = PathFinder.find_spec(top, list(search)) or _hooked(top)
        if spec is None:
            return None
        if spec.submodule_search_locations is None:
            return Path(spec.origin) if not rest and spec.origin and spec.origin.endswith(".py") else None
        folders = [Path(entry) for entry in spec.submodule_search_locations]
    return next((path for folder in folders if (path := _inside(folder, rest)) is not None), None)


def _hooked(top: str) -> ModuleSpec | None:
    """What the other finders of the import system say, e.g. that of an editable installation."""
    try:
        return find_spec(top)
    except ValueError:  # a loaded module without a specification, e.g. __main__
        return None


def _inside(folder: Path, parts: Iterable[str]) -> Path | None:
    """The file of a sub-module of the package in `folder`."""
    here = folder.joinpath(*parts)
    for path in (here / "__init__.py", here.with_name(f"{here.name}.py")):
        if path.is_file() and path != folder.with_name(f"{folder.name}.py"):
            return path
    return None


@lru_cache(maxsize=1024)
def _parse(name: str, path: Path, changed: int) -> Module | None:
    """Parse one file; `changed` (its time stamp) makes an edited file another entry of the cache."""
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (OSError, SyntaxError, ValueError):
        return None
    module = Module(name, path, path.name == "__init__.py")
    _collect(module, tree.body, nested=False)
    return module


def _collect(module: Module, body: list[ast.stmt], nested: bool) -> None:
    """Record what the statements bind; inside `if` and `try` the first binding of a name counts."""
    for statement in body:
        names: list[str] = []
        if isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            names = [statement.name]
        elif isinstance(statement, ast.ImportFrom) and statement.names[0].name == "*":
            module.stars.append(module.absolute(statement))
        elif isinstance(statement, ast.ImportFrom):
            names = [alias.asname or alias.name for alias in statement.names]
        elif isinstance(statement, ast.Import):
            names = [alias.asname or alias.name.split(".")[0] for alias in statement.names]
        elif isinstance(statement, ast.Assign):
            names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            names = [statement.target.id]
        elif isinstance(statement, (ast.If, ast.Try, ast.With)):
            inner = [*statement.body, *getattr(statement, "orelse", [])]
            inner += [entry for handler in getattr(statement, "handlers", []) for entry in handler.body]
            _collect(module, inner, nested=True)
        for name in names:
            if not (nested and name in module.bindings):
                module.bindings[name] = statement


def imported_from(module: Module, name: str) -> str:
    """The module that a name of this module was imported from; empty when it was made here, or is not there."""
    statement = module.bindings.get(name)
    if isinstance(statement, ast.ImportFrom):
        return module.absolute(statement)
    if isinstance(statement, ast.Import):
        return next((alias.name for alias in statement.names if alias.asname == name), name)
    return ""


def find(dotted: str, depth: int = 0) -> Definition | None:
    """The definition behind a dotted name, through re-exports; None when it cannot be told from the sources."""
    parts = dotted.split(".")
    if depth > _DEPTH:
        return None
    for cut in range(len(parts) - 1, 0, -1):
        module = load(".".join(parts[:cut]))
        if module is not None:
            return find_in(module, parts[cut:], depth)
    return None


def find_in(module: Module, parts: list[str], depth: int = 0) -> Definition | None:
    """The definition behind `parts` (a name and its attributes) as seen inside a module."""
    if depth > _DEPTH:
        return None
    name, rest = parts[0], parts[1:]
    statement = module.bindings.get(name)
    if statement is None:
        found = (find(".".join([star, *parts]), depth + 1) for star in module.stars)
        return next((definition for definition in found if definition is not None), None)
    if isinstance(statement, ast.ImportFrom):
        original = next(alias.name for alias in statement.names if (alias.asname or alias.name) == name)
        return find(".".join([module.absolute(statement), original, *rest]), depth + 1)
    if isinstance(statement, ast.Import):
        renamed = next((alias.name for alias in statement.names if alias.asname == name), name)
        return find(".".join([renamed, *rest]), depth + 1) if rest else None
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        alias = chain(statement.value)
        if alias and alias[0] != name and alias[0] in module.bindings:
            return find_in(module, [*alias, *rest], depth + 1)
        return None if rest else Definition(module, statement)
    if isinstance(statement, ast.ClassDef) and rest:
        return _member(module, statement, rest)
    return None if rest else Definition(module, statement)  # type: ignore[arg-type]


def _member(module: Module, owner: ast.ClassDef, parts: list[str]) -> Definition | None:
    """A method of a class (for `_target_: a.b.Class.method`)."""
    for statement in owner.body:
        if len(parts) == 1 and isinstance(statement, ast.FunctionDef) and statement.name == parts[0]:
            return Definition(module, statement, owner)
    return None


def chain(node: ast.expr | None) -> list[str]:
    """`a.b.c` in the source as ["a", "b", "c"]; empty for any other expression."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        inner = chain(node.value)
        return [*inner, node.attr] if inner else []
    return []
