"""Protocols: equal fields, equal hash; any other field, another hash that says which."""

from dataclasses import fields, replace

import pytest

from diffexp.core.errors import DiffexpError
from diffexp.evaluation.protocol import (
    PROTOCOL_FILE,
    PROVENANCE_FILE,
    Protocol,
    Provenance,
    read_protocols,
    read_provenances,
    write_protocol,
    write_provenance,
)

BASE = Protocol("fd_digits", 512, "digits", "train", "sha:1", 901, "digits", "0de0", "round", "none")


def test_hash_depends_on_every_field():
    hashes = {BASE.hash}
    for field in fields(Protocol):
        value = getattr(BASE, field.name)
        hashes.add(replace(BASE, **{field.name: value + 1 if isinstance(value, int) else f"{value}x"}).hash)
    assert len(hashes) == len(fields(Protocol)) + 1
    assert replace(BASE).hash == BASE.hash
    # A golden: the hash is stored beside published numbers, so it may not change with a version.
    assert BASE.hash == "05dcecc9"


def test_difference_names_fields_and_values():
    assert BASE.difference(BASE) == []
    other = replace(BASE, n=768, quantise="truncate")
    assert BASE.difference(other) == ["n is 512 and 768", "quantise is round and truncate"]


def test_protocols_and_provenances_are_added_to_a_folder(tmp_path):
    other = replace(BASE, n=768)
    for protocol in (BASE, other, BASE):
        write_protocol(tmp_path, protocol)
    assert read_protocols(tmp_path) == {BASE.hash: BASE, other.hash: other}
    first = Provenance("e", "vp", "v", "net", "step_1", versions={"torch": "2"})
    write_provenance(tmp_path, first)
    write_provenance(tmp_path, replace(first, checkpoint="step_2"))
    write_provenance(tmp_path, first)
    write_provenance(tmp_path, replace(first, commit="abc"))
    # The rows of the first evaluation may still be there: what is said of them stays.
    assert read_provenances(tmp_path) == [first, replace(first, checkpoint="step_2"), replace(first, commit="abc")]


def test_foreign_files_are_refused(tmp_path):
    assert read_protocols(tmp_path) == {}
    (tmp_path / PROTOCOL_FILE).write_text('{"a": {"n": 3}}')
    (tmp_path / PROVENANCE_FILE).write_text("no json")
    with pytest.raises(DiffexpError, match="not a file of evaluation protocols"):
        read_protocols(tmp_path)
    with pytest.raises(DiffexpError, match="not a file of provenances"):
        read_provenances(tmp_path)
