"""A judge that asks language models: describe (blind), verify, rate. Three or four calls for both poles of a direction.

In: cards and the concept. Out: verdicts. Each call is a fresh context: the describer never sees the concept, the
verifier sees only the descriptions and unmarked held-out windows, the rater both concepts. The three may be three
models. Near the threshold up to two further ratings on other windows come on top; elsewhere a description that verifies
is rated once more without any window. The windows are an attacker's channel, and a rater may obey what they say; where
it says something else without them, the verdict abstains. That second rating never changes the relevance.

The decision a reader would question: one repair per direction, not per call. A model that breaks two replies about the
same direction is not reading it, and the direction is worth more as `unscored` than as the third try.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from autocaft.judge.base import MARK_CLOSE, MARK_OPEN, Card, Concept, JudgeUsage, UsageBook, may_pass, unscored
from autocaft.judge.detection import CHANCE
from autocaft.judge.odds import weigh
from autocaft.judge.options import JudgeOptions
from autocaft.judge.prompts import combined_hash, fence_of, fenced, load_prompt
from autocaft.judge.schema import (
    Problem,
    Schema,
    check_describe,
    check_rate,
    check_verify,
    describe_schema,
    rate_schema,
    rate_words_schema,
    verbatim_quotes,
    verify_schema,
)
from autocaft.judge.verdicts import detection_of, numbers, strongest_pole, verdict_of
from autocaft.llm.client import LanguageClient
from autocaft.llm.outcomes import ChatRequest, Outcome
from autocaft.records import Verdict
from autocaft.rundir.progress import Progress

MAX_RATINGS = 3
"""Of one direction: the second and third only near the threshold, each on other windows than the first."""
MAX_APART = 20.0
"""Points between the rating with and without windows above which they disagree."""
PARTS = ("describe", "verify", "rate")
READER_BY_CALL = dict(zip(PARTS, PARTS, strict=True)) | {"rate_words": "rate"}
"""Which of the three readers each call goes to."""
Check = Callable[[Mapping[str, Any], Card], Problem | None]


@dataclass(frozen=True, slots=True)
class Reader:
    """One language model behind its door."""

    name: str
    """`openai:MODEL`, ..."""
    model: str
    client: LanguageClient


class ChatJudge:
    """Asks a describer, a verifier and a rater; they may be one."""

    reads_together = False

    def __init__(
        self,
        reader_by_part: Mapping[str, Reader],
        *,
        band: tuple[float, float],
        checks_words: bool = True,
        max_output_tokens: int = 4000,
        concurrency: int = 8,
    ) -> None:
        """`band`: a relevance inside is asked for again; `checks_words`: one outside is checked without the windows."""
        self.reader_by_part = reader_by_part
        self.readers: Mapping[str, str] = {part: reader_by_part[part].name for part in PARTS}
        one = len(set(self.readers.values())) == 1
        self.name = self.readers["rate"] if one else ", ".join(f"{part} {who}" for part, who in self.readers.items())
        self.usage = UsageBook()
        self.band = band
        self.checks_words = checks_words
        self.max_output_tokens = max_output_tokens
        self.prompts = {name: load_prompt(name) for name in (*READER_BY_CALL, "choice", "repair")}
        self.prompt_hash = combined_hash(list(self.prompts.values()))
        self._concurrency = concurrency

    def judge(self, cards: Sequence[Card], concept: Concept, progress: Progress) -> Iterator[Verdict]:
        """Verdicts as they are ready.

        Raises:
            JudgeError: no request can be answered; all answers so far are in the store.
        """
        with (
            progress.task("judge", len(cards), "directions") as advance,
            ThreadPoolExecutor(self._concurrency) as pool,
        ):
            futures = [pool.submit(self._read, card, concept) for card in cards]
            try:
                for future in as_completed(futures):
                    verdict, usage = future.result()
                    self.usage.by_direction[verdict.direction_id] = usage
                    advance(1)
                    yield verdict
            except BaseException:  # also Ctrl-C: the pool waits for its threads, so they must not sleep on
                for reader in self.reader_by_part.values():
                    reader.client.stop()
                for future in futures:
                    future.cancel()
                raise

    def _read(self, card: Card, concept: Concept) -> tuple[Verdict, JudgeUsage]:
        """The verdict on one direction and what it cost."""
        if not card.poles or not card.verify:
            return unscored(card, self, "no_verify_windows" if card.poles else "no_windows"), JudgeUsage()
        session = _Session(self, card)
        return session.run(concept), session.usage


class _Session:
    """The calls about one direction: counts them and keeps the one repair."""

    def __init__(self, judge: ChatJudge, card: Card) -> None:
        self.judge = judge
        self.card = card
        self.usage = JudgeUsage()
        self.replies: dict[str, dict[str, Any]] = {}
        self.ratings: list[dict[str, Any]] = []

    def run(self, concept: Concept) -> Verdict:
        """Ask part after part; the first that gives nothing ends it."""
        poles, has_choices = self.card.poles, bool(self.card.choices)
        problem = (
            self._ask("describe", describe_schema(poles), self._describe_values(), check_describe)
            or self._ask("verify", verify_schema(poles, has_choices=has_choices), self._verify_values(), check_verify)
            or self._rate(concept)
        )
        while problem is None and len(self.ratings) < MAX_RATINGS and self._is_near_threshold():
            if self._rate(concept) is not None:
                break  # the ratings that came stand
        doubt = ""
        if problem is None and self._is_worth_checking():
            problem, doubt = self._check_words(concept)
        verdict, n_dropped = verdict_of(self.card, self.judge, self.replies, self.ratings, problem)
        self.usage += JudgeUsage(n_quotes_dropped=n_dropped)
        if not doubt or verdict.relevance is None:
            return verdict
        return dataclasses.replace(verdict, abstains=True, doubt=doubt)

    def _relevance(self) -> float | None:
        """Mean relevance of the pole that counts, so far."""
        relevance = numbers(self.ratings, strongest_pole(self.card, self.ratings), "relevance")
        return sum(relevance) / len(relevance) if relevance else None

    def _is_near_threshold(self) -> bool:
        relevance, (low, high) = self._relevance(), self.judge.band
        return relevance is not None and low <= relevance <= high

    def _is_worth_checking(self) -> bool:
        """Not where the verdict abstains anyway, nor where no description can be selected by its words."""
        is_verified = any(
            found is not None and found.value > CHANCE
            for found in (detection_of(self.card, self.replies["verify"], pole) for pole in self.card.poles)
        )
        return self.judge.checks_words and len(self.ratings) == 1 and self._relevance() is not None and is_verified

    def _check_words(self, concept: Concept) -> tuple[Problem | None, str]:
        """Why the verdict is in doubt: rated without its windows, the direction is another. Empty if it is not."""
        schema, values = rate_words_schema(self.card.poles), self._rate_words_values(concept)
        problem = self._ask("rate_words", schema, values, lambda value, card: None)
        if problem is not None:
            # what may pass is asked again later; without the check nobody may be sure
            doubt = f"the rating without windows failed ({problem.reason})"
            return (problem, "") if may_pass(problem.reason) else (None, doubt)
        by_words = [n for pole in self.card.poles for n in numbers([self.replies["rate_words"]], pole, "relevance")]
        seen = self._relevance()
        if not by_words or seen is None:
            return None, "the rating without windows gave no number"
        return None, self._disagreement(seen, max(by_words))

    def _disagreement(self, seen: float, by_words: float) -> str:
        low, high = self.judge.band
        is_same_side = min(seen, by_words) > high or max(seen, by_words) < low
        if is_same_side and abs(seen - by_words) <= MAX_APART:
            return ""
        return f"rated {seen:.0f} with its windows and {by_words:.0f} by the description alone"

    def _rate(self, concept: Concept) -> Problem | None:
        """One more rating, on other windows than the one before."""
        values = self._rate_values(concept, len(self.ratings))
        problem = self._ask("rate", rate_schema(self.card.poles), values, check_rate)
        if problem is None:
            self.ratings.append(self.replies.pop("rate"))
        return problem

    def _ask(self, part: str, schema: Schema, values: dict[str, str], check: Check) -> Problem | None:
        """Ask one part, once more if the reply cannot be used; its value goes to `replies`."""
        system, user = self.judge.prompts[part].fill(values)
        outcome = self._call(part, system, user, schema)
        problem = self._problem(outcome, check)
        if problem is not None and outcome.is_mendable and self.usage.n_repairs == 0:
            self.usage += JudgeUsage(n_repairs=1)
            # fenced: the line may repeat a value that the reply took from the windows
            found = self._fenced(part, [f"problem: {' '.join(problem.detail.split())}"])
            _, note = self.judge.prompts["repair"].fill({"problem": found})
            outcome = self._call(part, system, f"{user}\n\n{note}", schema)
            problem = self._problem(outcome, check)
        if problem is not None and problem.reason == "no_quote" and self._has_quote(outcome.value or {}):
            problem = None  # one pole without a quote need not end it: the other may be the one that counts
        if problem is None:
            assert outcome.value is not None, outcome
            is_rating = READER_BY_CALL[part] == "rate"
            self.replies[part] = weigh(outcome.value, outcome.token_odds) if is_rating else outcome.value
        return problem

    def _call(self, part: str, system: str, user: str, schema: Schema) -> Outcome:
        client = self.judge.reader_by_part[READER_BY_CALL[part]].client
        outcome = client.ask(self._request(part, system, user, schema))
        tokens, price = outcome.usage, client.budget.price
        self.usage += JudgeUsage(
            n_calls=1,
            input_tokens=tokens.input_tokens,
            output_tokens=tokens.output_tokens,
            nano_usd=0 if price is None else price.nano_usd(tokens),
            n_unpriced=int(price is None),
        )
        return outcome

    def _request(self, part: str, system: str, user: str, schema: Schema) -> ChatRequest:
        reader = READER_BY_CALL[part]
        model, n_most = self.judge.reader_by_part[reader].model, self.judge.max_output_tokens
        return ChatRequest(model, system, user, schema, n_most, logprobs=reader == "rate")

    def _problem(self, outcome: Outcome, check: Check) -> Problem | None:
        if outcome.value is None:
            return Problem(outcome.reason or outcome.kind, outcome.detail)
        return check(outcome.value, self.card)

    def _has_quote(self, value: Mapping[str, Any]) -> bool:
        return any(verbatim_quotes(value[pole]["quotes"], self.card, pole) for pole in self.card.poles)

    def _describe_values(self) -> dict[str, str]:
        groups = (*self.card.poles, "middle", "random")
        lines = [f"{w.id}: {w.shown()}" for group in groups for w in self.card.windows(group)]
        return self._common("describe") | {
            "mark_open": MARK_OPEN,
            "mark_close": MARK_CLOSE,
            "windows": self._fenced("describe", lines),
        }

    def _verify_values(self) -> dict[str, str]:
        items = [*self.card.verify, *(item for items in self.card.choices.values() for item in items)]
        return self._common("verify") | {
            "descriptions": self._descriptions("verify"),
            "items": self._fenced("verify", [f"{item.id}: {item.shown()}" for item in items]),
            "choice": self.judge.prompts["choice"].user if self.card.choices else "",
        }

    def _rate_values(self, concept: Concept, n_before: int) -> dict[str, str]:
        """Every second window, then the others, then all: a further rating is a look at more of the data."""
        chosen = {0: slice(0, None, 2), 1: slice(1, None, 2)}.get(n_before, slice(None))
        windows = [w for pole in self.card.poles for w in self.card.windows(pole)[chosen]]
        lines = [f"{w.id}: {w.shown()}" for w in windows]
        return self._common("rate") | {
            "mark_open": MARK_OPEN,
            "mark_close": MARK_CLOSE,
            "undesired": concept.undesired,
            "wanted": concept.wanted,
            "descriptions": self._descriptions("rate"),
            "windows": self._fenced("rate", lines),
        }

    def _rate_words_values(self, concept: Concept) -> dict[str, str]:
        """Nothing of the windows, and nothing of the wanted concept: one question."""
        return self._common("rate_words") | {
            "undesired": concept.undesired,
            "descriptions": self._descriptions("rate_words"),
        }

    def _common(self, part: str) -> dict[str, str]:
        names = " and ".join(f"`{pole}`" for pole in self.card.poles)
        return {"poles": names, "fence": fence_of(self.card.hash, part)}

    def _descriptions(self, part: str) -> str:
        """Fenced too: they were written by someone who read the windows."""
        said = self.replies["describe"]
        lines = [f"{pole}: {' '.join(said[pole]['description'].split())}" for pole in self.card.poles]
        return self._fenced(part, lines)

    def _fenced(self, part: str, lines: Sequence[str]) -> str:
        return fenced(lines, fence_of(self.card.hash, part))


STAND_IN = {"description": " ".join(["word"] * 30), "quotes": ["a few words of a window"] * 2, "confidence": 50}
"""What a describer says, in length."""


def planned_requests(
    card: Card, concept: Concept, judge_name: str, options: JudgeOptions
) -> list[tuple[str, ChatRequest, int]]:
    """Call, request and expected length of the reply in characters, for a description that verifies; without a repair
    and a rating near the threshold.

    The descriptions that the later parts quote are stand-ins: for an estimate before anything is bought.
    """
    unasked: Any = None  # nothing is sent: the session only fills in the prompts
    readers = {
        part: Reader(who, who.partition(":")[2], unasked) for part, who in options.readers_of(judge_name).items()
    }
    judge = ChatJudge(readers, band=options.abstain, max_output_tokens=options.max_output_tokens)
    session = _Session(judge, card)
    session.replies["describe"] = dict.fromkeys(card.poles, STAND_IN)
    answers = [{"id": item.id} | dict.fromkeys(card.poles, False) for item in card.verify]
    rating: dict[str, Any] = {pole: {"relevance": 50, "wanted_relevance": 50} for pole in card.poles}
    rating["rationale"] = " ".join(["word"] * 40)
    verify = verify_schema(card.poles, has_choices=bool(card.choices))
    calls: list[tuple[str, Schema, dict[str, str], Any]] = [
        ("describe", describe_schema(card.poles), session._describe_values(), session.replies["describe"]),
        ("verify", verify, session._verify_values(), {"answers": answers}),
        ("rate", rate_schema(card.poles), session._rate_values(concept, 0), rating),
    ]
    if options.check_words:
        by_words = {pole: {"relevance": 50} for pole in card.poles}
        calls.append(("rate_words", rate_words_schema(card.poles), session._rate_words_values(concept), by_words))
    return [
        (part, session._request(part, *judge.prompts[part].fill(values), schema), len(json.dumps(reply)))
        for part, schema, values, reply in calls
    ]
