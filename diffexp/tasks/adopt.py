"""`adopt`: the groups that a training takes from its teacher's configuration; see `launch.adopt`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from diffexp.checkpoint.file import load
from diffexp.core.errors import CheckpointError
from diffexp.launch import ranks
from diffexp.launch.adopt import source_of
from diffexp.launch.find import find_run
from diffexp.launch.folder import CONFIG, load_frozen

_WITHOUT = ("report", "list", "diff", "selfcheck")  # tasks that build no model


def adopted(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration with the groups that `adopt` names as they are at `ckpt=`, or else at `teacher=`.

    Every rank of a job asks at once. What is adopted is compared with the checkpoint itself when that is read.

    Returns:
        the configuration; as it is where nothing is adopted, or there is nothing to adopt from.

    Raises:
        CheckpointError: there is no such checkpoint, or it says nothing of a group.
    """
    key = source_of(config)
    if key is None or config["task"] in _WITHOUT:
        return config
    world = ranks.world()
    return {**config, **world.share(_taken(config, key) if world.main else {})}


def _taken(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The adopted nodes and their names; a teacher is named by its file, so that "latest" means one all along."""
    spec = str(config[key])
    run, path = find_run(spec, config["runs"], key)
    source = load_frozen(run) if run is not None and (run / CONFIG).is_file() else yaml.safe_load(load(path)["config"])
    for group in config["adopt"]:
        if not isinstance(source.get(group), Mapping):
            raise CheckpointError(f"{key}={spec}: its configuration has no {group} to adopt")
    names = {group: name for group, name in (source.get("choices") or {}).items() if group in config["adopt"]}
    nodes = {group: source[group] for group in config["adopt"]}
    pinned = {"teacher": str(path)} if key == "teacher" else {}
    return {**nodes, "choices": {**config["choices"], **names}, **pinned}
