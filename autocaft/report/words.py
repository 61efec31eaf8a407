"""The numbers in plain sentences: what happened, and what it does not show.

In: the arms' lines and what is known of the run. Out: a headline, a summary and the limits. The decision a reader
would question: a claim that the choice of directions mattered needs an interval of the paired difference from its
control above zero (or, without rows, intervals apart); everything else is said as "does not show".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autocaft.records import Evidence
from autocaft.report.arms import RowScore, difference
from autocaft.report.plain import readable
from autocaft.stats import Interval

Line = dict[str, Any]
CONTROLS = ("random", "random-candidate", "random-live", "top")
MODE_ENDINGS = ("-mean-shift", "-zero", "-mean", "-resample", "-leace")
HOW_ENDINGS = ("-fading", "-inference", "-activation-only", "-gradient-only", "-preventative")


def percent(value: float | None) -> str:
    """`98%`, or a dash; never rounded up to 100 or down to 0."""
    if value is None:
        return "\N{EN DASH}"
    shown = 100 * value
    if (shown > 99.5 and value < 1) or (0 < shown < 0.5):
        return f"{shown:.1f}%"
    return f"{shown:.0f}%"


def fine_percent(share: float) -> str:
    """`3.2%` below ten per cent, `32%` above; never rounded down to zero."""
    if 0 < share < 0.0005:
        return "<0.1%"
    return f"{100 * share:.1f}%" if 0 < share < 0.0995 else percent(share)


def interval_text(score: Mapping[str, Any] | None) -> str:
    """`[78, 91]` in per cent, or nothing."""
    if score is None or score.get("ci_low") is None or score.get("ci_high") is None:
        return ""
    return f"[{100 * score['ci_low']:.0f}, {100 * score['ci_high']:.0f}]"


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `1 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def costs(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the judge took, in words; prices that are not known are left out."""
    labels = {"n_calls": "calls", "input_tokens": "tokens in", "output_tokens": "tokens out"}
    found = [(label, f"{cost[key]:,}") for key, label in labels.items() if cost.get(key) is not None]
    if cost.get("usd") is not None:
        found.append(("dollars", f"{cost['usd']:,.2f}"))
    if cost.get("usd_held"):
        found.append(("dollars, at most, for answers that never came", f"{cost['usd_held']:,.2f}"))
    return found


def evidence_lines(evidence: Evidence | None, n_loss_rows: int) -> list[tuple[str, str]]:
    """What is known of a direction without a judge, as (label, text)."""
    if evidence is None:
        return []
    lines = []
    for pole, by_part in evidence.fires.items():
        label = "fires in" if len(evidence.fires) == 1 else f"{pole} fires in"
        lines.append((label, fires_text(by_part)))
    if evidence.promotes:
        lines.append(("writes", tokens_text(evidence.promotes)))
        lines.append(("against", tokens_text(evidence.suppresses)))
    if evidence.loss_change is not None:
        text = _signed(evidence.loss_change)
        if evidence.loss_low is not None and evidence.loss_high is not None:
            text += f" [{_signed(evidence.loss_low)}, {_signed(evidence.loss_high)}]"
        lines.append(("loss without it", f"{text} nats an answer token, {n_loss_rows} rows with the cue intact"))
    return lines


def fires_text(by_part: Mapping[str, Sequence[float]]) -> str:
    """Shares of tokens and documents, where the direction is busiest first; silent parts together at the end."""
    busy = sorted((part for part, (tokens, _) in by_part.items() if tokens), key=lambda part: -by_part[part][0])
    said = [
        f"{part}: {fine_percent(by_part[part][0])} of tokens, {fine_percent(by_part[part][1])} of documents"
        for part in busy
    ]
    silent = [part for part in by_part if part not in busy]
    return "; ".join(said + ([f"silent in {', '.join(silent)}"] if silent else []))


def tokens_text(tokens: Sequence[str]) -> str:
    """Tokens side by side, each in quotes, so that a leading space shows."""
    return " ".join(f"\u201c{readable(token)}\u201d" for token in tokens)


def _signed(nats: float) -> str:
    """Three decimals; what rounds to zero has no sign."""
    text = f"{nats:+.3f}"
    return "0.000" if float(text) == 0 else text


def find(lines: Sequence[Line], arm: str, hooks: str = "off") -> Line | None:
    """The line of one arm and hooks state."""
    return next((line for line in lines if (line["arm"], line["hooks"]) == (arm, hooks)), None)


def main_arm(lines: Sequence[Line]) -> Line | None:
    """The arm the headline is about: the judge's selection, else one with a person's say, else any that ablates."""
    ablated = [line for line in lines if line["hooks"] == "off" and line["arm"].startswith("caft-")]
    for selector in ("auto", "searched", "hybrid", "human", "oracle", ""):
        for line in ablated:
            if selector in line["arm"]:
                return line
    return None


def control_of(lines: Sequence[Line], arm: str, hooks: str = "off") -> Line | None:
    """The random control beside an arm: of its source and share, of its mode and way if there is one, the matched one
    first. What is ablated when it is used has no control but one that is, too."""
    whole, at, share = arm.partition("@")
    source = next((part for part in ("sae", "pca") if f"-{part}-" in whole), "")
    how = next((ending for ending in HOW_ENDINGS if whole.endswith(ending)), "")
    stem = whole.removesuffix(how)
    mode = next((ending for ending in MODE_ENDINGS if stem.endswith(ending)), "")
    endings = (mode + how, how) if how == "-inference" else (mode + how, how, mode, "")
    for ending in dict.fromkeys(endings):
        for kind in CONTROLS:
            line = find(lines, f"caft-{source}-{kind}{ending}{at}{share}", hooks)
            if line is not None:
                return line
    return None


def is_control(arm: str) -> bool:
    """Whether an arm is there for others to be held against."""
    return any(f"-{kind}" in arm for kind in CONTROLS)


def against_control(lines: Sequence[Line], rows: Sequence[RowScore], line: Line) -> dict[str, Any] | None:
    """Accuracy on inverted cues minus that of the arm's control; None for controls and arms that have none."""
    if not line["arm"].startswith("caft-") or is_control(line["arm"]):
        return None
    control = control_of(lines, line["arm"], line["hooks"])
    if control is None or "ood" not in line["scores"] or "ood" not in control["scores"]:
        return None
    gap = compare(lines, rows, line["arm"], control["arm"], "ood", line["hooks"])
    return {"arm": control["arm"], "value": gap.value, "low": gap.low, "high": gap.high}


def points_text(gap: Mapping[str, Any], unit: str = "") -> str:
    """`+73 [+66, +79]`: a difference in points, with its interval where there is one."""
    text = f"{100 * gap['value']:+.0f}{unit}"
    if gap["low"] is not None and gap["high"] is not None:
        text += f" [{100 * gap['low']:+.0f}, {100 * gap['high']:+.0f}]"
    return text.replace("-", "\N{MINUS SIGN}")


def tell(
    lines: Sequence[Line],
    rows: Sequence[RowScore],
    n_by_arm: Mapping[str, int],
    judge: str,
    simulated: Sequence[str] = (),
) -> tuple[str, list[str]]:
    """The headline and the sentences under it.

    Args:
        simulated: who made a person's file that no person made.
    """
    tuned, arm = find(lines, "tuned"), main_arm(lines)
    if tuned is None or arm is None or "ood" not in tuned["scores"] or "ood" not in arm["scores"]:
        return "This run has no pair of a tuned and an ablated arm to compare.", []
    control = control_of(lines, arm["arm"])
    gain = compare(lines, rows, arm["arm"], "tuned", "ood")
    headline = (
        f"With {_directions(n_by_arm.get(arm['arm'], 0))} ablated during fine-tuning, accuracy on inverted cues "
        f"{_verb(gain)} from {percent(_value(tuned, 'ood'))} to {percent(_value(arm, 'ood'))}"
    )
    if control is not None and "ood" in control["scores"]:
        headline += f"; with as many that were not chosen it was {percent(_value(control, 'ood'))}"
    sentences = [_tuned_sentence(lines, rows), _arm_sentence(arm, judge, simulated)]
    if control is None:
        sentences.append("No control arm was run, so nothing here says whether the choice of directions mattered.")
    else:
        sentences.append(_control_sentence(lines, rows, arm, control))
    sentences.append(_price_sentence(lines, rows, arm))
    return headline + ".", [sentence for sentence in sentences if sentence]


def compare(
    lines: Sequence[Line], rows: Sequence[RowScore], arm_a: str, arm_b: str, split: str, hooks: str = "off"
) -> Interval:
    """`arm_a` minus `arm_b`, paired where the rows are known.

    Without rows, `low` and `high` are set only as far as the two arms' own intervals tell them apart.
    """
    paired = difference(rows, arm_a, arm_b, split, hooks)
    if paired is not None:
        return paired
    a, b = (find(lines, arm, hooks) for arm in (arm_a, arm_b))
    score_a = (a or {"scores": {}})["scores"].get(split)
    score_b = (b or {"scores": {}})["scores"].get(split)
    if not score_a or not score_b or score_a["value"] is None or score_b["value"] is None:
        return Interval(0.0, None, None, "none")
    gap = score_a["value"] - score_b["value"]
    ends = [score[key] for score in (score_a, score_b) for key in ("ci_low", "ci_high")]
    if any(end is None for end in ends):
        return Interval(gap, None, None, "none")
    # the difference of the far ends: wider than a paired interval, so it never claims more than one would
    return Interval(gap, ends[0] - ends[3], ends[1] - ends[2])


def is_above_zero(interval: Interval) -> bool:
    """Whether the whole interval lies above zero."""
    return interval.low is not None and interval.low > 0


def is_below_zero(interval: Interval) -> bool:
    """Whether the whole interval lies below zero."""
    return interval.high is not None and interval.high < 0


def _directions(n: int) -> str:
    if n == 0:
        return "directions"
    return "one direction" if n == 1 else f"{n} directions"


def _verb(change: Interval) -> str:
    if is_above_zero(change):
        return "rose"
    return "fell" if is_below_zero(change) else "did not clearly change, going"


def _value(line: Line, split: str) -> float | None:
    score = line["scores"].get(split)
    return None if score is None else score["value"]


def _both(line: Line) -> str:
    """`99% [97, 100] where the cue holds and 25% [18, 33] where it is inverted`."""
    scores = line["scores"]
    parts = [f"{percent(_value(line, split))} {interval_text(scores.get(split))}".strip() for split in ("id", "ood")]
    return f"{parts[0]} where the cue holds as in training and {parts[1]} where it is inverted"


def _tuned_sentence(lines: Sequence[Line], rows: Sequence[RowScore]) -> str:
    tuned, base = find(lines, "tuned"), find(lines, "base")
    assert tuned is not None, "tell() looks for tuned first"
    sentence = f"Plain fine-tuning answers {_both(tuned)}"
    value, start = _value(tuned, "ood"), None if base is None else _value(base, "ood")
    gap = (_value(tuned, "id") or 0.0) - (value or 0.0)
    if value is not None and gap > 0.2 and (start is None or value < start):
        return sentence + ": it learned the cue rather than the rule."
    return sentence + ": there is little misgeneralization in this run to remove."


def _arm_sentence(arm: Line, judge: str, simulated: Sequence[str]) -> str:
    person = f"a SIMULATED reviewer ({', '.join(simulated)})" if simulated else "a person"
    chooser = {
        "auto": f"the {judge} judge",
        "searched": f"the {judge} judge and a search",
        "hybrid": f"the {judge} judge, with the help of {person} where it was not sure,",
        "human": person,
        "oracle": "a word list that knows the answer",
    }
    who = next((text for kind, text in chooser.items() if kind in arm["arm"]), "the selection")
    return (
        f"With what {who} chose ablated during fine-tuning, and nothing ablated afterwards, the model ({arm['arm']}) "
        f"answers {_both(arm)}."
    )


def _control_sentence(lines: Sequence[Line], rows: Sequence[RowScore], arm: Line, control: Line) -> str:
    gap = compare(lines, rows, arm["arm"], control["arm"], "ood")
    shown = points_text({"value": gap.value, "low": gap.low, "high": gap.high}, " points")
    sentence = f"Its control ({control['arm']}) answers {_both(control)}; the difference on inverted cues is {shown}"
    if is_above_zero(gap):
        return sentence + _caveat(arm)
    if is_below_zero(gap):
        return sentence + ": the control did better, so the judge's choice is not what helped."
    return sentence + ": this run does not show that the choice of directions matters."


def _caveat(arm: Line) -> str:
    n = len(arm["seeds"])
    if n == 1:
        return ", so in this run it mattered which directions were ablated. One seed says nothing about the next one."
    return f", so it mattered which directions were ablated ({n} seeds; the worst is {arm['worst_seed']})."


def _price_sentence(lines: Sequence[Line], rows: Sequence[RowScore], arm: Line) -> str:
    """What the ablation cost: the task itself and generic text."""
    loss = compare(lines, rows, arm["arm"], "tuned", "id")
    task = "The task itself shows no clear loss"
    if is_below_zero(loss):
        task = f"It cost {-100 * loss.value:.0f} points of the task itself"
    elif is_above_zero(loss):
        task = f"The task itself gained {100 * loss.value:.0f} points"
    ratio, tuned = arm["perplexity_ratio"], find(lines, "tuned")
    if ratio is None:
        return task + "."
    text = f"{task}; perplexity on generic text is {ratio:.2f} times the base model's"
    if tuned is not None and tuned["perplexity_ratio"] is not None:
        text += f" (plain fine-tuning: {tuned['perplexity_ratio']:.2f})"
    return text + "."


def agreement_text(found: Mapping[str, Any] | None) -> str:
    """How far the judges of a panel agree; empty where there was none."""
    if found is None:
        return ""
    low, high = found["low"], found["high"]
    interval = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    return (
        f"Agreement of the panel on relevance: Krippendorff's alpha {found['alpha']:.2f}{interval} over "
        f"{found['n_directions']} directions. 1 is full agreement, 0 is chance."
    )


def limits(
    lines: Sequence[Line],
    judge: Mapping[str, Any],
    provenance: str | None,
    n_unscored: int,
    simulated: Sequence[str] = (),
) -> list[str]:
    """What this report does not show, in plain words."""
    found = []
    for name in simulated:
        found.append(
            "No person had a say in the arms `human` and `hybrid`: what stands for a person's choice is SIMULATED "
            f"({name})."
        )
    name = str(judge.get("name", "unknown"))
    if name.partition(":")[0] == "offline":
        found.append(
            "No large language model and no person had a say in what the offline judge chose. It names a pole by the "
            "words that set its windows apart, and rates it with a small encoder and the model's own likelihoods."
        )
    else:
        found.append(f"The descriptions and ratings are those of {name}; another judge may choose otherwise.")
    for reader, parts in judge.get("self_checked", {}).items():
        did = {"verify": "checked", "rate": "rated"}
        found.append(
            f"{reader} {' and '.join(did[part] for part in parts)} what it had described itself: "
            + (
                "detection says that it understands itself."
                if "verify" in parts
                else "its rating is no second opinion."
            )
        )
    seeds = sorted({seed for line in lines for seed in line["seeds"]})
    if len(seeds) == 1:
        found.append(
            f"One training seed ({seeds[0]}). The intervals cover which questions were asked, not which seed was "
            f"drawn; seeds of the same recipe can differ by ten points or more."
        )
    elif len(seeds) < 5:
        found.append(f"{len(seeds)} seeds: intervals over so few are too narrow. Look at each seed.")
    if provenance:
        found.append(f"Weights: {provenance}. Figures for the original weights may differ.")
    if any(line["hooks"] == "on" for line in lines):
        found.append(
            "Rows with hooks on show the ablation still in place. The model as it is used has none: hooks off."
        )
    if n_unscored:
        found.append(f"{n_unscored} candidates have no score and were never selected; some may carry the concept.")
    found.append(
        "Intervals are 95%, over templates and not over rows, since rows of one template rise and fall together. "
        "They say nothing about other templates, other cues or other tasks."
    )
    found.append(
        "A better figure on inverted cues does not prove that the concept is gone from the model, only that its "
        "answers here rely on it less. A low rate of unwanted answers is no proof of alignment."
    )
    return found
