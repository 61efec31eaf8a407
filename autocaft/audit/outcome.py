"""From differences and a judge's words to pass, review or block, set by set.

In: what the steps of an audit left. Out: one dict a set, the worst first (audit.json).
The decision a reader would question: the offline judge can only say how far a latent's words are from the purpose, and
far is not bad. So with it a set without a named concept is at worst for `review`; `block` needs a named concept, or a
language model that was asked under the policy, and a description that tells held-out windows apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autocaft.audit.options import AuditConfig, AuditSet
from autocaft.audit.peers import OUT_QUANTILE
from autocaft.audit.screen import MIN_REFERENCES
from autocaft.errors import ConfigError, UnreadRowsError, VerdictError
from autocaft.records import Verdict

FORMAT = 1
Outcome = Literal["block", "review", "pass", "unread"]
ORDER: tuple[Outcome, ...] = ("block", "review", "unread", "pass")
"""As they are ranked: a set that could not be read is nothing to ship either."""
N_SCORED = 3
"""The strongest latents that a set's score is the mean of."""


@dataclass(frozen=True)
class SetFound:
    """What is known of one set before the rule."""

    chosen: AuditSet
    summary: Mapping[str, Any]
    """Of its rows."""
    survey: Mapping[str, Any] | None
    """Its line of the survey; None if it was not looked at beside the model's own answers."""
    concepts: Sequence[Mapping[str, Any]]
    verdicts: Mapping[str, Verdict]
    """By direction id."""
    peers: Mapping[str, Any] | None = None
    """Its line among the sets of its purpose; None if it has too few peers."""


def judged_sets(found: Sequence[SetFound], config: AuditConfig) -> list[dict[str, Any]]:
    """Each set with its outcome, the worst first; within an outcome by score."""
    sets = [_set(item, config) for item in found]
    scores = {item["name"]: item["score"] for item in sets if item["is_reference"] and item["score"] is not None}
    for item in sets:
        _hold_against_reference(item, [score for name, score in scores.items() if name != item["name"]], config)
    strengths = {item["name"]: item["strength"] for item in sets if item["is_reference"] and item["peers"] is not None}
    for item in sets:
        _hold_against_peers(item, [other for name, other in strengths.items() if name != item["name"]], config)
    return sorted(sets, key=place)


def place(item: Mapping[str, Any]) -> tuple[int, float, float, str]:
    """Where a set stands: a set without peers stands among them like the median one."""
    strength = 1.0 if item["strength"] is None else item["strength"]
    return ORDER.index(item["outcome"]), -strength, -(item["score"] or 0.0), item["name"]


def _set(found: SetFound, config: AuditConfig) -> dict[str, Any]:
    chosen = found.chosen
    concepts = [
        _concept(concept, found.verdicts.get(concept["direction_id"]), chosen, config) for concept in found.concepts
    ]
    outcome = _outcome(found, [concept["action"] for concept in concepts], config)
    return {
        "name": chosen.name,
        "outcome": outcome,
        "why": _why(found, concepts, outcome),
        "score": None if found.survey is None else score(concepts),
        "purpose": chosen.purpose,
        "concept": chosen.concept,
        "is_reference": chosen.is_reference,
        "files": [str(path) for path in chosen.files],
        **{key: found.summary[key] for key in ("n_rows", "n_repeated", "n_looked_at", "n_faults", "unread")},
        "survey": None if found.survey is None else dict(found.survey),
        "peers": None if found.peers is None else dict(found.peers),
        "strength": None if found.peers is None else found.peers["strength"],
        "concepts": concepts,
    }


def _outcome(found: SetFound, actions: Sequence[Outcome], config: AuditConfig) -> Outcome:
    """By its latents alone; at depth peers, which has none, a set that nothing was held against is for review."""
    if found.summary["unread"] is not None or (found.survey is None and config.depth != "peers"):
        return "unread"
    if config.depth == "peers" and found.peers is None:
        return "review"
    return "block" if "block" in actions else "review" if "review" in actions else "pass"


def _hold_against_reference(item: dict[str, Any], others: Sequence[float], config: AuditConfig) -> None:
    """Give `p_reference`, and let pass what is only off its purpose and no further than reference sets are.

    The score of a benign set that is like the reference sets is as likely to be at any place among theirs, so that p is
    at most x with a chance of about x. (Not exactly: each of them is held against one set less.)
    """
    item["p_reference"] = None
    if item["score"] is None or len(others) < MIN_REFERENCES:
        return
    n_as_far = sum(score >= item["score"] for score in others)
    item["p_reference"] = p = (1 + n_as_far) / (1 + len(others))
    is_only_far = all(concept["action"] != "review" or _is_only_far(concept, config) for concept in item["concepts"])
    if item["outcome"] == "review" and is_only_far and p > max(config.verdict.p_reference, 1 / (1 + len(others))):
        item["outcome"] = "pass"
        item["why"] = f"off its purpose, but {n_as_far} of {len(others)} other reference sets have as high a score"


def _hold_against_peers(item: dict[str, Any], others: Sequence[float], config: AuditConfig) -> None:
    """Give `p_peers` and `departs`, and send to review what departs from its peers further than reference sets do."""
    peers, item["p_peers"], item["departs"] = item["peers"], None, False
    if peers is None:
        return
    n_as_far = sum(strength >= peers["strength"] for strength in others)
    is_beyond = peers["strength"] >= config.verdict.strength and min(peers["halves"]) > 1
    if len(others) >= MIN_REFERENCES:
        item["p_peers"] = p = (1 + n_as_far) / (1 + len(others))
        is_beyond = is_beyond and p <= max(config.verdict.p_reference, 1 / (1 + len(others)))
    item["departs"] = is_beyond
    if is_beyond and item["outcome"] == "pass":
        item["outcome"] = "review"
        item["why"] = f"departs from its {peers['n_peers']} peers: {_departure(peers)}"


def _departure(peers: Mapping[str, Any]) -> str:
    """By what a set departs most from its peers."""
    if peers["breadth"] > peers["tenth"]:
        far = f"its rows are {peers['breadth']:.1f} times as far as rows of theirs with like prompts"
    else:
        far = f"its strangest tenth of rows is {peers['tenth']:.1f} times as far as the median one's"
    return f"{far} ({peers['without']:.1f} times without the rows that stand out)"


def _is_only_far(concept: Mapping[str, Any], config: AuditConfig) -> bool:
    """Whether a latent asks for review by its distance from the purpose alone."""
    is_unwanted = concept["unwanted"] is not None and concept["unwanted"] >= config.verdict.unwanted
    return concept["off_purpose"] is not None and not is_unwanted


def _concept(
    concept: Mapping[str, Any], verdict: Verdict | None, chosen: AuditSet, config: AuditConfig
) -> dict[str, Any]:
    """One latent with what the judge said of it, and what follows."""
    off_purpose = unwanted = detection_low = None
    if verdict is not None:
        off_purpose = None if verdict.wanted_relevance is None else 100.0 - verdict.wanted_relevance
        was_asked = chosen.concept is not None or config.judge.judge != "offline"
        unwanted, detection_low = verdict.relevance if was_asked else None, verdict.detection_low
    found = {key: value for key, value in concept.items() if key != "strengths"} | {
        "description": verdict.description if verdict else "",
        "off_purpose": off_purpose,
        "unwanted": unwanted,
        "detection": verdict.detection if verdict else None,
        "detection_low": detection_low,
        "quotes": list(verdict.quotes) if verdict else [],
        "unscored_reason": verdict.unscored_reason if verdict else "not judged",
    }
    return found | {"action": _action(found, config)}


def _action(concept: Mapping[str, Any], config: AuditConfig) -> Outcome:
    """What one latent asks for; the words of `rule_of` are this."""
    limits = config.verdict
    is_unwanted = concept["unwanted"] is not None and concept["unwanted"] >= limits.unwanted
    is_verified = concept["detection_low"] is not None and concept["detection_low"] > 0.5
    if is_unwanted and is_verified and concept["change"] == "amplified":
        return "block"
    if is_unwanted or concept["off_purpose"] is None or concept["off_purpose"] >= limits.off_purpose:
        return "review"
    return "pass"


def rule_of(config: AuditConfig) -> list[str]:
    """The rule as sentences, with this audit's numbers."""
    screen, limits = config.screen, config.verdict
    asked = "the named concept, or (a language model asked) unwanted under the policy"
    latents = [
        "A latent counts in a set if given and own answers differ in it (signed rank over rows, "
        f"q <= {screen.q:g} after Benjamini-Hochberg over all latents of all sets), both halves of the rows say so "
        "with the same sign (p <= .05 each), and, where there are three other reference sets, the difference is "
        f"{screen.excess:g} of their standard deviations beyond theirs. The judge reads the {screen.n_concepts} "
        "strongest, without those that rise and fall over the rows with a stronger one (r > .7).",
        f"block: a latent that counts is amplified, the judge gives {limits.unwanted:g} or more to its being {asked}, "
        "and its description tells held-out windows apart better than chance. The offline judge blocks by a named "
        "concept alone.",
        f"review: a latent that counts is {limits.off_purpose:g} or more off the purpose (100 minus the judge's rating "
        "of how much it is the purpose), or unwanted without the rest, or has no rating. If distance is all, and there "
        "are three other reference sets, few of them may have as high a score: one more than those that have, divided "
        f"by one more than all of them, is {limits.p_reference:g} or less, or none has.",
    ]
    peers = [
        "A set's peers are the other sets with its purpose, if there are three. It departs from them if its rows "
        "answer otherwise than the others' answers to like prompts lead to expect: its strangest tenth of rows "
        f"{limits.strength:g} times as far as its median peer's or more, or its rows on the whole {limits.strength:g} "
        "times as far as the others' rows with like prompts (whichever is more, and either half of its rows further "
        "than 1), and, where three other reference sets have peers, as few of those as above as far. It is then sent "
        f"to review, and so are its rows that are further than {100 * OUT_QUANTILE:g} in a hundred of its peers'.",
    ]
    rest = "pass: none of these. unread: too few rows can be read."
    if config.depth == "peers":
        return [*peers, "review: a set without peers, too, since nothing else is looked at.", rest]
    return [*latents, *peers, rest]


def score(concepts: Sequence[Mapping[str, Any]]) -> float:
    """How far a set is beyond the reference sets and off its purpose: mean of its strongest latents, 0 if none counts.

    Each gives its excess in standard deviations (its effect, without reference sets) times the share of 100 that it is
    off the purpose, or unwanted if that was asked and is more; a latent without a rating gives its whole excess.
    """
    values = sorted((weight(concept) for concept in concepts), reverse=True)[:N_SCORED]
    return sum(values) / N_SCORED


def weight(concept: Mapping[str, Any]) -> float:
    """What one latent gives to a score; see `score`."""
    strength = abs(concept["effect"] if concept["excess"] is None else concept["excess"])
    ratings = [value for value in (concept["off_purpose"], concept["unwanted"]) if value is not None]
    return float(strength * (max(ratings) / 100 if ratings else 1.0))


def _why(found: SetFound, concepts: Sequence[Mapping[str, Any]], outcome: Outcome) -> str:
    if outcome == "unread":
        return str(found.summary["unread"] or "too few rows have two answers to compare")
    if found.survey is None:
        return "like its peers" if found.peers else "compared with nothing: three others must share its purpose"
    if not concepts:
        return "no latent counts"
    if outcome == "pass":
        return f"none of {len(concepts)} latents that were read asks for more ({found.survey['n_counting']} count)"
    n = sum(concept["action"] == outcome for concept in concepts)
    return f"{n} of {len(concepts)} latents that were read ask for it ({found.survey['n_counting']} count)"


def summary_text(audit: Mapping[str, Any], folder: Path) -> str:
    """A line a set, for the terminal."""
    from autocaft.report.plain import visible

    width = max(len(item["name"]) for item in audit["sets"])
    lines = []
    for item in audit["sets"]:
        faults = f"; {item['n_faults']} faults" if item["n_faults"] else ""
        lines.append(f"{item['outcome']:<7} {item['name']:<{width}}  {visible(item['why'])}{faults}")
    return "\n".join([*lines, str(folder / "audit.html")])


def check_fail_on(verdict: str | None) -> None:
    """Before anything is run for it.

    Raises:
        ConfigError: neither `block` nor `review`.
    """
    if verdict not in (None, "block", "review"):
        raise ConfigError(f"--fail-on {verdict!r}: must be block or review")


def raise_outcome(audit: Mapping[str, Any], fail_on: str | None) -> None:
    """What the exit code is to tell of an audit that is done.

    Raises:
        VerdictError: a set has the verdict `fail_on`, or a worse one; a set that could not be read counts as `review`.
        UnreadRowsError: some rows or sets could not be read.
    """
    failing = {"block": ("block",), "review": ("block", "review", "unread")}.get(fail_on or "", ())
    named = [f"{item['name']} ({item['outcome']})" for item in audit["sets"] if item["outcome"] in failing]
    if named:
        raise VerdictError(f"--fail-on {fail_on}: {', '.join(named)}")
    faulty = [item for item in audit["sets"] if item["n_faults"] or item["outcome"] == "unread"]
    if faulty:
        n_faults = sum(item["n_faults"] for item in faulty)
        names = ", ".join(item["name"] for item in faulty)
        raise UnreadRowsError(
            f"{n_faults} rows or files could not be read, in {names}; the rest was audited. "
            "rows/SET/faults.jsonl in the run folder names file and line"
        )
