"""How much of a comparison's directions a person read, and what that brought, in words for terminal, page and Markdown.

In: compare.json. Out: rows and sentences. The decision a reader would question: agreement on what the judge was not
sure of says little about the rest, so it is said how much was read wherever that is not all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def reading_points(gain: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Nobody reads, the person reads what the judge is not sure of (if that was trained), the person reads all."""
    points = [
        {
            "who": "nobody (auto)",
            "minutes": 0.0,
            "gain": gain["nobody_reads"],
            "share": gain["share_nobody_reads"],
            "seeds": gain["seeds"],
        }
    ]
    helped, doubt, everything = gain["hybrid"], gain["doubt_read"], gain["all_read"]
    if helped is not None:
        points.append(
            {
                "who": f"{doubt['n_read']} that the judge is not sure of (hybrid)",
                "minutes": doubt["minutes"],
                "gain": helped["gain_hybrid"],
                "share": helped["share"],
                "seeds": helped["seeds"],
            }
        )
    whole = {"gain": gain["person_reads_all"], "share": None, "seeds": gain["seeds"]}
    return [*points, {"who": f"all {everything['n_read']} (human)", "minutes": everything["minutes"], **whole}]


def timing(gain: Mapping[str, Any]) -> str:
    """Where the minutes come from."""
    everything = gain["all_read"]
    n_recorded, stated = everything["n_recorded"], f"{everything['stated_seconds']:g} s each stated, not measured"
    if not n_recorded:
        return f"minutes: {stated}"
    if not everything["n_stated"]:
        return "minutes: as recorded on the review page, without random directions and what was shown again"
    return f"minutes: as recorded on the review page for {n_recorded} of {everything['n_read']}; {stated}, for the rest"


def read_in_part(pair: Mapping[str, Any]) -> str:
    """How much the person decided on, where that is not all."""
    n, n_all = pair["agreement"][0]["n"], pair["n_candidates"]
    n_doubt, n_doubt_all = pair["n_in_doubt_rated"], pair["n_in_doubt"]
    if n == n_all:
        return ""
    text = (
        f"{pair['human']} decided on {n} of {n_all} candidates, among them {n_doubt} of the {n_doubt_all} that the "
        "judge is not sure of; the others count nowhere here"
    )
    if n and n == n_doubt:
        text += ". These are the judge's hardest, so the agreement on all candidates is not known from them"
    return text


def sized(arm: str, n_ablated: int | None) -> str:
    """An arm, or arms that are pooled, with the number of directions ablated where it is known."""
    return arm if n_ablated is None else f"{arm} of {n_ablated} direction{'' if n_ablated == 1 else 's'}"


def is_simulated(row: Mapping[str, Any]) -> bool:
    """Whether no person made the choice that an outcome calls a person's."""
    return str(row["choice_by"] or "").startswith("simulated:")
