"""Every recipe has a card, or is the first training of one that has: its card then says where the teacher is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffexp.launch.layout import read_layout, read_yaml

LAYOUT = read_layout()
CARDS = Path(__file__).parents[2] / "experiments"


def base_of(recipe: str) -> str | None:
    return read_yaml(LAYOUT.folder / "experiment" / f"{recipe}.yaml").get("base")


@pytest.mark.parametrize("recipe", LAYOUT.choices["experiment"])
def test_every_recipe_has_a_card(recipe: str) -> None:
    owners = [other for other in LAYOUT.choices["experiment"] if base_of(other) == recipe]
    card = CARDS / recipe / "card.md"
    if not owners:
        text = card.read_text(encoding="utf-8")
        assert text.startswith(f"# {recipe}\n")
        assert f"experiment={recipe}" in text
        return
    assert not card.exists()  # one card for teacher and students: two would drift apart
    for owner in owners:
        text = (CARDS / owner / "card.md").read_text(encoding="utf-8")
        assert f"latest:{recipe}" in text
        assert "arXiv" in text
