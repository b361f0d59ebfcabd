"""Texts for messages."""

from __future__ import annotations


def one_line(text: object) -> str:
    """Any message on one line: line breaks and runs of blanks become single blanks."""
    return " ".join(str(text).split())
