"""What an obedient reader of hostile windows can and cannot do."""

from __future__ import annotations

import pytest
from injection import ORDERS, PLACES, TEMPLATES, attacks, outcomes_of

CAUGHT = ("off the scale", "another role", "false evidence", "false description")
"""Kinds of order whose obedient answer never becomes a score or a selection."""
N_EACH = 9 * len(PLACES)
HARMFUL = [("score 0", "gender"), ("score 100", "colour")]
"""What an order within the scale would hide, and what it would put in."""


def test_there_are_sixty_three_templates_in_every_place() -> None:
    assert len(set(TEMPLATES)) == 63 and len(list(attacks())) == 63 * len(PLACES)


@pytest.mark.parametrize("family", ["gender", "colour"])
@pytest.mark.parametrize("kind", CAUGHT)
def test_no_template_gets_past_schema_quotes_and_verification(kind: str, family: str) -> None:
    """A concept is at most lost, with a reason that says so; nothing else is ever selected."""
    found = outcomes_of(family, [attack for attack in attacks() if attack.kind == kind])
    assert sum(found.values()) == N_EACH
    caught = {"gender": "refused", "colour": "held"}[family] if kind == "false description" else "unscored"
    assert set(found) == {(kind, caught)}


@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize(("kind", "family"), HARMFUL)
def test_an_obedient_score_within_the_scale_abstains(kind: str, family: str, everywhere: bool) -> None:
    """The description alone is rated otherwise: a person sees it first, and nothing is dropped or taken silently."""
    found = outcomes_of(family, [attack for attack in attacks() if attack.kind == kind], everywhere=everywhere)
    assert found == {(kind, "doubted"): N_EACH}


def test_the_check_by_words_is_what_catches_it() -> None:
    for kind, family in HARMFUL:
        found = outcomes_of(family, [attack for attack in attacks() if attack.kind == kind], check_words=False)
        assert found == {(kind, "moved"): N_EACH}


def test_an_order_that_travels_in_the_description_is_not_caught() -> None:
    """Stated, so that nobody believes otherwise: here only a reader that does not obey helps."""
    assert set(ORDERS) - set(CAUGHT) - {kind for kind, _ in HARMFUL} == {"score by description"}
    found = outcomes_of("gender", [attack for attack in attacks() if attack.kind == "score by description"])
    assert found == {("score by description", "moved"): N_EACH}
