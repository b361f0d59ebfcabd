"""Does a configured value fit an annotation? Decided on the annotation's source, without importing anything.

Understood: int, float (an int will do), bool (never an int), str, None, unions, Optional, Literal, lists, sequences,
tuples, dictionaries, aliases of these, and classes (the value is then a node with its own `_target_`). Every other
annotation fits everything.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffexp.core.errors import nearest
from diffexp.launch.source import Definition, Module, chain, find_in
from diffexp.launch.text import one_line

_LISTS = {"list", "List", "Sequence", "Iterable", "Collection", "MutableSequence"}
_DICTS = {"dict", "Dict", "Mapping", "MutableMapping"}
_DATA_BASES = {"Enum", "IntEnum", "StrEnum", "TypedDict", "str", "int", "float", "dict", "list", "tuple"}
_SCALARS = {"int", "float", "bool", "str", "None", "NoneType"}
_DEPTH = 12


@dataclass(frozen=True)
class Fault:
    """A value that does not fit: where (key path), what was expected (text) and what stands there."""

    path: str
    expected: str
    value: Any
    hint: str = ""

    def __str__(self) -> str:
        hint = f"; {self.hint}" if self.hint else ""
        got = _short(self.value, quoted=True)
        return f"{self.path}={_short(self.value)}: expected {self.expected}, got {got}{hint}"


def fault_of(value: Any, annotation: ast.expr | None, module: Module, path: str, depth: int = 0) -> Fault | None:
    """The first misfit between a value and an annotation, or None.

    Args:
        value: plain Python from a resolved configuration.
        annotation: the source of the annotation; None fits everything.
        module: where the annotation stands (its names are looked up there).
        path: the key path of the value, for messages.
    """
    if annotation is None or depth > _DEPTH:
        return None
    if isinstance(annotation, ast.Constant):
        if annotation.value is None:
            return None if value is None else Fault(path, "null", value)
        return fault_of(value, _parsed(annotation.value), module, path, depth + 1)
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return _union(value, [annotation.left, annotation.right], annotation, module, path, depth)
    if isinstance(annotation, ast.Subscript):
        return _generic(value, annotation, module, path, depth)
    names = chain(annotation)
    if not names:
        return None
    return _named(value, names, annotation, module, path, depth)


def _parsed(text: Any) -> ast.expr | None:
    """A quoted annotation."""
    if not isinstance(text, str):
        return None
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError:
        return None


def _named(value: Any, names: list[str], annotation: ast.expr, module: Module, path: str, depth: int) -> Fault | None:
    """A bare name: a scalar, an unparametrised container, an alias or a class."""
    name = names[-1]
    if name in _SCALARS and len(names) == 1:
        return None if _is_node(value) else _scalar(value, name, path)
    if name in _LISTS | {"tuple", "Tuple"}:
        return None if isinstance(value, (list, tuple)) or _is_node(value) else Fault(path, "a list", value)
    if name in _DICTS:
        return None if isinstance(value, Mapping) else Fault(path, "a mapping", value)
    definition = find_in(module, names)
    if definition is None:
        return None
    if isinstance(definition.node, (ast.Assign, ast.AnnAssign)):
        return fault_of(value, definition.node.value, definition.module, path, depth + 1)
    if isinstance(definition.node, ast.ClassDef) and not _is_node(value) and _wants_node(definition, module):
        return Fault(path, f"a node with _target_ (a {name})", value)
    return None


def _wants_node(definition: Definition, module: Module) -> bool:
    """Whether values of this class come from a `_target_`: those of its package or diffexp, but plain data."""
    assert isinstance(definition.node, ast.ClassDef)
    bases = {names[-1] for names in map(chain, definition.node.bases) if names}
    near = (module.name.split(".")[0], "diffexp")
    return definition.module.name.split(".")[0] in near and not bases & _DATA_BASES


def _scalar(value: Any, name: str, path: str) -> Fault | None:
    """int, float, bool, str or None."""
    if name in ("None", "NoneType"):
        return None if value is None else Fault(path, "null", value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = {
        "int": number and isinstance(value, int),
        "float": number,
        "bool": isinstance(value, bool),
        "str": isinstance(value, str),
    }
    if fits[name]:
        return None
    whole = name == "int" and isinstance(value, float) and value.is_integer()
    return Fault(path, name, value, f"write {int(value)}" if whole else "")


def _generic(value: Any, annotation: ast.Subscript, module: Module, path: str, depth: int) -> Fault | None:
    """A subscripted annotation."""
    name = (chain(annotation.value) or [""])[-1]
    inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
    if name == "Optional":
        return _union(value, [*inner, ast.Constant(None)], annotation, module, path, depth)
    if name == "Union":
        return _union(value, inner, annotation, module, path, depth)
    if name == "Literal":
        return _literal(value, inner, path)
    if name in ("Annotated", "Final", "InitVar"):
        return fault_of(value, inner[0], module, path, depth + 1)
    if _is_node(value):  # an object that is built by its own target
        return None
    if name in _LISTS | {"tuple", "Tuple"}:
        if not isinstance(value, (list, tuple)):
            return Fault(path, ast.unparse(annotation), value)
        return _elements(value, name, inner, annotation, module, path, depth)
    if name in _DICTS:
        return _entries(value, inner, annotation, module, path, depth)
    return None


def _elements(
    value: Any, name: str, inner: list[ast.expr], whole: ast.expr, module: Module, path: str, depth: int
) -> Fault | None:
    """The elements of a list or tuple."""
    fixed = name in ("tuple", "Tuple") and not (isinstance(inner[-1], ast.Constant) and inner[-1].value is Ellipsis)
    if fixed and len(value) != len(inner):
        return Fault(path, f"{ast.unparse(whole)} ({len(inner)} values)", value)
    for place, element in enumerate(value):
        kind = inner[place] if fixed else inner[0]
        fault = fault_of(element, kind, module, f"{path}[{place}]", depth + 1)
        if fault is not None:
            return fault
    return None


def _entries(value: Any, inner: list[ast.expr], whole: ast.expr, module: Module, path: str, depth: int) -> Fault | None:
    """The keys and values of a mapping."""
    if not isinstance(value, Mapping):
        return Fault(path, ast.unparse(whole), value)
    for key, entry in value.items():
        fault = fault_of(key, inner[0], module, f"{path} (key)", depth + 1)
        fault = fault or fault_of(entry, inner[-1], module, f"{path}.{key}", depth + 1)
        if fault is not None:
            return fault
    return None


def _union(value: Any, members: list[ast.expr], whole: ast.expr, module: Module, path: str, depth: int) -> Fault | None:
    """Any member may fit; a misfit inside a container is reported there."""
    faults = [fault_of(value, member, module, path, depth + 1) for member in members]
    if any(fault is None for fault in faults):
        return None
    inner = [fault for fault in faults if fault is not None and (fault.path != path or fault.hint)]
    if inner:
        return inner[0]
    named = [fault.expected for fault in faults if fault is not None]
    return Fault(path, " or ".join(dict.fromkeys(named)) if named else ast.unparse(whole), value)


def _literal(value: Any, inner: list[ast.expr], path: str) -> Fault | None:
    """One of the listed values."""
    listed = [entry.value for entry in inner if isinstance(entry, ast.Constant)]
    if any(type(value) is type(entry) and value == entry for entry in listed):
        return None
    hint = nearest(value, [str(entry) for entry in listed]) if isinstance(value, str) else ""
    one_of = "one of " + ", ".join("null" if entry is None else repr(entry) for entry in listed)
    return Fault(path, one_of, value, hint if hint.startswith("did you mean") else "")


def _is_node(value: Any) -> bool:
    """Whether a value is a node that builds an object."""
    return isinstance(value, Mapping) and "_target_" in value


def _short(value: Any, quoted: bool = False) -> str:
    """A value as it is shown in a message: YAML's null, and not longer than a line bears."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if quoted or not isinstance(value, str) else value
    text = one_line(text)
    return text if len(text) <= 60 else text[:57] + "..."
