"""The same golden file under other names and in another order: what tests may not depend on.

Every array key and every tag of a process, network or table is renamed; families, members, roles and arrays are turned
round; of each family the first member that nobody needs is dropped; a family, a process and a role that no test knows
are added.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

ROLES = {"inputs", "outputs", "uses", "in", "out", "absmean_outputs", "beta_outputs"}
TAGS = {"process", "net", "teacher", "student", "table", "nets"}
GROUPS = ("processes", "nets", "tables")
STRANGERS = ("odd family", "odd process", "odd role")


def make_variant(source: Path, target: Path) -> None:
    """Write a variant of the golden file `source`, with the arrays `STRANGERS` that nothing can check."""
    arrays = dict(np.load(source))
    config = json.loads(str(arrays.pop("config").item()))
    for key in _drop(config):
        del arrays[key]
    keys = {key: f"array {number}" for number, key in enumerate(sorted(arrays, reverse=True))}
    tags = {tag: f"<{tag}>" for group in GROUPS for tag in config.get(group, {})}
    config = _turned(_renamed(config, keys, tags))
    for group in GROUPS:
        config.get(group, {}).update({tags[tag]: config[group].pop(tag) for tag in list(config.get(group, {}))})
    _add_strangers(config)
    turned = {keys[key]: _tagged(array, tags) for key, array in reversed(arrays.items())}
    strange = {stranger: np.ones(3) for stranger in STRANGERS}
    np.savez(target, config=np.array(json.dumps(config)), **strange, **turned)


def _families(config: dict) -> dict[str, list[dict]]:
    """Family -> its members; gddim's families of one name become one."""
    families = config["families"]
    if isinstance(families, dict):
        return {name: family["members"] for name, family in families.items()}
    return {f"{number} {family['family']}": family.get("members", []) for number, family in enumerate(families)}


def _drop(config: dict) -> list[str]:
    """Take the first member that no other needs out of each family of several; the keys of its arrays."""
    words = ("inputs", "outputs", "out", "beta_outputs")
    everyone = json.dumps(config)
    gone: list[str] = []
    for name, members in _families(config).items():
        for member in members if len(members) > 1 and not name.endswith("inputs") else []:
            own = [key for word in words for key in member.get(word, {}).values()]
            own += [row[0] for row in member.get("params", [])] + list(member.get("absmean_outputs", {}).values())
            own += [member["config_key"]] if "config_key" in member else []
            if all(everyone.count(json.dumps(key)) == json.dumps(member).count(json.dumps(key)) for key in own):
                members.remove(member)
                gone += own
                break
    return list(dict.fromkeys(gone))


def _renamed(node: Any, keys: dict[str, str], tags: dict[str, str], word: str = "", group: str = "") -> Any:
    """The node with keys and tags replaced where the schema has them; `word` leads to it, `group` to its parent."""
    if isinstance(node, dict):
        if word == "arrays":
            return {keys[key]: meaning for key, meaning in node.items()}
        return {name: _renamed(value, keys, tags, name, word) for name, value in node.items()}
    if isinstance(node, list):
        if word == "params" and node and isinstance(node[0], list):
            return [[keys[row[0]], *row[1:]] for row in node]
        return [_renamed(value, keys, tags, word, group) for value in node]
    if isinstance(node, str) and (group in ROLES or word == "key" or word.endswith("_key")):
        return keys.get(node, node)
    return tags.get(node, node) if isinstance(node, str) and (word in TAGS or group in TAGS) else node


def _turned(config: dict) -> dict:
    """Families, members and roles in reverse order."""
    families = config["families"]
    items = families.items() if isinstance(families, dict) else enumerate(families)
    for _, family in items:
        family.get("members", []).reverse()
        for member in family.get("members", []):
            for word in ROLES & member.keys():
                member[word] = dict(reversed(member[word].items()))
    config["families"] = dict(reversed(families.items())) if isinstance(families, dict) else families[::-1]
    return config


def _add_strangers(config: dict) -> None:
    family, process, role = STRANGERS
    listed = isinstance(config["families"], list)
    out = "out" if listed or config["topic"] == "ddm" else "outputs"
    novel = {"kind": "novel", "members": [{out: {"value": family}}]}
    if listed:
        config["families"].append({"family": "novel", **novel})
        named = {entry["family"]: entry for entry in config["families"]}
        sampled, kind = named["vp_det"], "kind"
    else:
        named = config["families"]
        named["novel"] = novel
        sampled, kind = named.get("ddim"), "type"
    if sampled is not None:
        config["processes"]["odd"] = {kind: "odd"}
        sampled["members"].append({**sampled["members"][0], "process": "odd", out: {"value": process}})
    for name in ("vp_schedule", "schedule", "unet", "unets"):
        if name in named:
            named[name]["members"][0][out]["unheard"] = role


def _tagged(array: np.ndarray, tags: dict[str, str]) -> np.ndarray:
    """Arrays that are the tag of a table or network follow its new name."""
    return np.array(tags.get(str(array), str(array))) if array.dtype.kind == "U" and array.ndim == 0 else array
