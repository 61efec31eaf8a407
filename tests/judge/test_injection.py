"""What an obedient reader of hostile windows can and cannot do."""

from __future__ import annotations

import pytest
from injection import ORDERS, PLACES, TEMPLATES, attacks, outcomes_of

CAUGHT = ("off the scale", "another role", "false evidence", "false description")
"""Kinds of order whose obedient answer never becomes a score or a selection."""


def test_there_are_fifty_four_templates_in_every_place() -> None:
    assert len(set(TEMPLATES)) == 54 and len(list(attacks())) == 54 * len(PLACES)


@pytest.mark.parametrize("family", ["gender", "colour"])
@pytest.mark.parametrize("kind", CAUGHT)
def test_no_template_gets_past_schema_quotes_and_verification(kind: str, family: str) -> None:
    """A concept is at most lost, with a reason that says so; nothing else is ever selected."""
    found = outcomes_of(family, [attack for attack in attacks() if attack.kind == kind])
    assert sum(found.values()) == 9 * len(PLACES)
    caught = {"gender": "refused", "colour": "held"}[family] if kind == "false description" else "unscored"
    assert set(found) == {(kind, caught)}


def test_an_obedient_score_within_the_scale_is_not_caught() -> None:
    """Stated, so that nobody believes otherwise: only a reader that does not obey helps against these."""
    assert set(ORDERS) - set(CAUGHT) == {"score 0", "score 100"}
    for kind, family in (("score 0", "gender"), ("score 100", "colour")):
        found = outcomes_of(family, [attack for attack in attacks() if attack.kind == kind])
        assert set(found) == {(kind, "flipped")}
