"""Loading parameters strictly: a name or a shape that differs is an error that says which."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from diffexp.core.errors import CheckpointError

_SHOWN = 3  # names a kind of mismatch


def load_strict(module: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Copy `state_dict` into `module` when every name and every shape agrees; otherwise change nothing.

    Args:
        module: the receiver.
        state_dict: tensors by name.
        source: what the tensors come from (a file name), for the message.

    Raises:
        CheckpointError: one line with the first missing, unexpected and wrongly shaped names, and their numbers.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state_dict]
    unexpected = [name for name in state_dict if name not in own]
    shapes = [
        f"{name} {tuple(state_dict[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in state_dict and state_dict[name].shape != own[name].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    problems = [f"{len(names)} {kind}: {_first(names)}" for kind, names in kinds.items() if names]
    if problems:
        receiver = type(module).__name__
        raise CheckpointError(f"'{source}' does not fit {receiver} ({len(own)} tensors): " + "; ".join(problems))
    module.load_state_dict(dict(state_dict), strict=True)


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
