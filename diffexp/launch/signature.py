"""Constructor signatures, read from sources: names, annotations and which arguments must be given."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import lru_cache

from diffexp.launch.source import Definition, Module, chain, find_in

_PLAIN_BASES = {"object", "ABC", "Protocol", "Generic"}
_DEPTH = 20  # base classes followed


@dataclass(frozen=True)
class Parameter:
    """One argument: its annotation (None: not annotated), whether it must be given, and the module that declares it."""

    annotation: ast.expr | None
    required: bool
    module: Module


@dataclass(frozen=True)
class Signature:
    """The arguments by name; `open` when others are taken as well (`**kwargs`, or a base class out of sight)."""

    parameters: dict[str, Parameter]
    open: bool = False


@lru_cache(maxsize=512)
def signature_of(definition: Definition) -> Signature:
    """The arguments that a class or function takes by keyword."""
    if isinstance(definition.node, ast.ClassDef):
        return _of_class(definition.module, definition.node, 0) or Signature({})
    if isinstance(definition.node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        static = any(chain(entry)[-1:] == ["staticmethod"] for entry in definition.node.decorator_list)
        return _of_function(definition.module, definition.node, bound=definition.owner is not None and not static)
    return Signature({}, open=True)


def _of_function(module: Module, node: ast.FunctionDef | ast.AsyncFunctionDef, bound: bool) -> Signature:
    """The signature of a function; `bound` drops the first argument (self or cls)."""
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    first_default = len(positional) - len(arguments.defaults)
    found = {
        argument.arg: Parameter(argument.annotation, place < first_default, module)
        for place, argument in enumerate(positional)
        if not (bound and place == 0)
    }
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found[argument.arg] = Parameter(argument.annotation, default is None, module)
    return Signature(found, open=arguments.kwarg is not None)


def _of_class(module: Module, node: ast.ClassDef, depth: int) -> Signature | None:
    """The constructor's signature, searched along the base classes; None when the class and its bases have none."""
    if depth > _DEPTH:
        return Signature({}, open=True)
    constructors = [entry for entry in node.body if isinstance(entry, ast.FunctionDef) and entry.name == "__init__"]
    if constructors:
        return _of_function(module, constructors[-1], bound=True)
    if _is_dataclass(node):
        return _of_fields(module, node, depth)
    for base in node.bases:
        names = chain(base.value if isinstance(base, ast.Subscript) else base)
        if names[-1:] == ["NamedTuple"]:
            return _own_fields(module, node)
        if names and names[-1] in _PLAIN_BASES:
            continue
        found = _base_of(module, names)
        signature = Signature({}, open=True) if found is None else _of_class(*found, depth + 1)
        if signature is not None:
            return signature
    return None


def _base_of(module: Module, names: list[str]) -> tuple[Module, ast.ClassDef] | None:
    """A base class, if its source is in the same top package or in diffexp (others are long, and tell little)."""
    definition = find_in(module, names) if names else None
    if definition is None or not isinstance(definition.node, ast.ClassDef):
        return None
    if definition.module.name.split(".")[0] not in (module.name.split(".")[0], "diffexp"):
        return None
    return definition.module, definition.node


def _is_dataclass(node: ast.ClassDef) -> bool:
    """Whether the class is decorated with `@dataclass` or `@dataclass(...)`."""
    decorators = (entry.func if isinstance(entry, ast.Call) else entry for entry in node.decorator_list)
    return any(chain(entry)[-1:] == ["dataclass"] for entry in decorators)


def _of_fields(module: Module, node: ast.ClassDef, depth: int) -> Signature:
    """The generated constructor of a dataclass: fields of the bases first, own fields replace them.

    It is open when a base is out of sight, which may have fields too.
    """
    found: dict[str, Parameter] = {}
    unseen = False
    for base in reversed(node.bases):
        names = chain(base.value if isinstance(base, ast.Subscript) else base)
        if names and names[-1] in _PLAIN_BASES:
            continue
        located = _base_of(module, names)
        unseen = unseen or located is None
        if located is not None and _is_dataclass(located[1]) and depth < _DEPTH:
            inherited = _of_fields(*located, depth + 1)
            found.update(inherited.parameters)
            unseen = unseen or inherited.open
    found.update(_own_fields(module, node).parameters)
    return Signature(found, open=unseen)


def _own_fields(module: Module, node: ast.ClassDef) -> Signature:
    """The annotated names of a class body that become constructor arguments."""
    found: dict[str, Parameter] = {}
    for entry in node.body:
        if not isinstance(entry, ast.AnnAssign) or not isinstance(entry.target, ast.Name):
            continue
        annotation = entry.annotation
        outer = chain(annotation.value if isinstance(annotation, ast.Subscript) else annotation)[-1:]
        if outer in (["ClassVar"], ["KW_ONLY"]):
            continue
        if outer == ["InitVar"] and isinstance(annotation, ast.Subscript):
            annotation = annotation.slice
        options = _field_options(entry.value)
        if options is not None and not options.get("init", True):
            continue
        required = entry.value is None or (options is not None and not {"default", "default_factory"} & set(options))
        found[entry.target.id] = Parameter(annotation, required, module)
    return Signature(found)


def _field_options(value: ast.expr | None) -> dict[str, object] | None:
    """The options of `field(...)`, constants by value; None for any other right-hand side."""
    if not isinstance(value, ast.Call) or chain(value.func)[-1:] != ["field"]:
        return None
    return {
        option.arg: option.value.value if isinstance(option.value, ast.Constant) else True
        for option in value.keywords
        if option.arg
    }
