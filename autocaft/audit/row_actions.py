"""What to do with each row of an audited set, and why.

In: a set's outcome, its latents' strengths row by row, what its peers say of its rows. Out: a line a row that was
looked at (rows.jsonl). The decision a reader would question: a row is sent to review only where its set is. Single odd
rows are in every set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autocaft.audit.outcome import weight
from autocaft.audit.rows import AuditRow


def row_decisions(
    item: Mapping[str, Any],
    rows: Sequence[AuditRow],
    strengths: Mapping[str, Mapping[str, float]],
    beside_peers: Mapping[int, Mapping[str, Any]],
    asks: Mapping[int, float],
) -> Iterator[dict[str, Any]]:
    """`hide`, `review` or `keep` for each row that was looked at, with reasons.

    `hide`: it carries a latent that blocks, or asks for what training on the set amplifies off its purpose.

    The row's `score` is its distance from what the set's peers lead to expect. Without peers it adds up how much the
    row has of each latent, from none (0) to as much as any row of the set (1), each counted as in the set's score.

    Args:
        strengths: difference in the latent's own sign, by direction id and row number.
        beside_peers: what the peers say of each row, by its number; empty if there are too few.
        asks: of a set that its causal check blocks, by a row's number, how much less its answer costs the base where
            that is moved along the flagged directions, nats a token; empty for other sets.
    """
    weights = {concept["direction_id"]: weight(concept) for concept in item["concepts"]}
    tops = {direction: max(strengths[direction].values()) for direction in weights}
    reasons: dict[int, list[Mapping[str, Any]]] = {}
    for concept in item["concepts"]:
        # of a suppressed latent the model's own answers have more: no row carries it
        if item["outcome"] != "pass" and concept["action"] != "pass" and concept["change"] == "amplified":
            for number in concept["carriers"]:
                reasons.setdefault(number, []).append(concept)
    for row in rows:
        own = reasons.get(row.number, [])
        shares = {d: max(0.0, strengths[d].get(str(row.number), 0.0)) / top for d, top in tops.items() if top > 0}
        score = sum(weights[direction] * share for direction, share in shares.items())
        reasons_given = [f"{concept['direction_id']}: {concept['description']}" for concept in own]
        found = beside_peers.get(row.number)
        if found is not None:
            score = found["distance"]
            if item["departs"] and found["stands_out"]:
                reasons_given.append(departure(found))
        asked = asks.get(row.number, 0.0)
        if asked > 0:
            reasons_given.append(f"asks for what training amplifies off the purpose: {asked:.2g} nats a token")
        is_hidden = asked > 0 or any(c["action"] == "block" for c in own)
        action = "hide" if is_hidden else "review" if reasons_given else "keep"
        yield {
            "set": item["name"],
            "id": row.id,
            "file": row.file,
            "line": row.line,
            "action": action,
            "score": round(score, 4),
            "reasons": reasons_given,
        }


def departure(found: Mapping[str, Any]) -> str:
    """How a row's answer departs from what its peers answer, in a line."""
    said, expected = (", ".join(found[key]) or "nothing else" for key in ("said", "expected"))
    return f"departs from peers: has {said}; answers to like prompts have {expected}"
