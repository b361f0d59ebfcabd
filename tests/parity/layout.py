"""The layouts of golden files: what each member of each family reads, owns and has to reproduce.

"diffexp-golden": `families` is {name: {members, tolerances}}, a member has `inputs`, `uses` and `outputs`, each
{role: key}. "gddim": `families` is a list, a member has `in` and `out`, and what its family says holds for it unless it
says otherwise. "cdbm": like the first, with `in` and `out`; a family's `uses` holds for its members, and lists inside a
member may hold further `out`. "ddm": likewise, but a family `inputs` owns what the members of the others read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Words = dict[str, Any]


def texts(node: object) -> Iterable[str]:
    """All texts in a JSON value; of the names in dictionaries only those under `arrays`."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for word, value in node.items():
            yield from list(value) if word == "arrays" else texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from texts(value)


def members(config: Words) -> Iterable[tuple]:
    """(family, its words, member's and family's words, inputs, owned keys, outputs, member's words), one by one."""
    families = config["families"]
    if not isinstance(families, Mapping):
        yield from _listed(families)
        return
    shares = config.get("topic") == "ddm"
    into, out = ("in", "out") if shares or config.get("topic") == "cdbm" else ("inputs", "outputs")
    for name, family in families.items():
        general = family.get("uses", {}) if into == "in" else {}
        for own in family["members"]:
            words = {**{word: value for word, value in family.items() if word != "members"}, **own}
            inputs = {**general, **own.get(into, {}), **own.get("uses", {})}
            owned = (own["key"],) if "key" in own else () if shares else tuple(own.get(into, {}).values())
            yield name, family, words, inputs, owned, own.get(out, {}), own


def _listed(families: list[Words]) -> Iterable[tuple]:
    for family in families:
        shared = {word: value for word, value in family.items() if word != "members"}
        for own in family.get("members", [{}]):
            words = dict(shared)
            for word, value in own.items():
                old = shared.get(word)
                words[word] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
            owned = tuple(words.get("arrays", ()))
            yield family["family"], shared, words, words.get("in", {}), owned, words.get("out", {}), own
