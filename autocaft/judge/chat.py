"""A judge that asks a language model: describe (blind), verify, rate. Three calls for both poles of a direction, four
with a repair.

In: cards and the concept. Out: verdicts. Each call is a fresh context: the describer never sees the concept, the
verifier sees only the descriptions and unmarked held-out windows, the rater both concepts.
The decision a reader would question: one repair per direction, not per call. A model that breaks two replies about the
same direction is not reading it, and the direction is worth more as `unscored` than as the third try.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from autocaft.judge.base import MARK_CLOSE, MARK_OPEN, Card, Concept, JudgeUsage, UsageBook, unscored
from autocaft.judge.options import JudgeOptions
from autocaft.judge.prompts import combined_hash, fence_of, fenced, load_prompt
from autocaft.judge.schema import (
    Problem,
    Schema,
    check_describe,
    check_verify,
    describe_schema,
    rate_schema,
    verbatim_quotes,
    verify_schema,
)
from autocaft.judge.verdicts import verdict_of
from autocaft.llm.client import LanguageClient
from autocaft.llm.outcomes import ChatRequest, Outcome
from autocaft.records import Verdict
from autocaft.rundir.progress import Progress

N_RATE_WINDOWS = 5
"""Windows per pole that the rater sees beside the descriptions."""
Check = Callable[[Mapping[str, Any], Card], Problem | None]


class ChatJudge:
    """Asks one model through a `LanguageClient`."""

    reads_together = False

    def __init__(
        self, client: LanguageClient, *, name: str, model: str, max_output_tokens: int = 4000, concurrency: int = 8
    ) -> None:
        self.name = name
        self.usage = UsageBook()
        self.client = client
        self.model = model
        self.max_output_tokens = max_output_tokens
        self.prompts = {part: load_prompt(part) for part in ("describe", "verify", "rate", "repair")}
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
                self.client.stop()
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

    def run(self, concept: Concept) -> Verdict:
        """Ask the three parts in order; the first that gives nothing ends it."""
        poles = self.card.poles
        steps: list[tuple[str, Schema, Callable[[], dict[str, str]], Check]] = [
            ("describe", describe_schema(poles), self._describe_values, check_describe),
            ("verify", verify_schema(poles), self._verify_values, check_verify),
            ("rate", rate_schema(poles), lambda: self._rate_values(concept), lambda value, card: None),
        ]
        for part, schema, values, check in steps:
            problem = self._ask(part, schema, values(), check)
            if problem is not None:
                verdict, n_dropped = verdict_of(self.card, self.judge, self.replies, problem)
                break
        else:
            verdict, n_dropped = verdict_of(self.card, self.judge, self.replies)
        self.usage += JudgeUsage(n_quotes_dropped=n_dropped)
        return verdict

    def _ask(self, part: str, schema: Schema, values: dict[str, str], check: Check) -> Problem | None:
        """Ask one part, once more if the reply cannot be used; its value goes to `replies`."""
        system, user = self.judge.prompts[part].fill(values)
        outcome = self._call(system, user, schema)
        problem = self._problem(outcome, check)
        if problem is not None and outcome.is_mendable and self.usage.n_repairs == 0:
            self.usage += JudgeUsage(n_repairs=1)
            # fenced: the line may repeat a value that the reply took from the windows
            found = self._fenced(part, [f"problem: {' '.join(problem.detail.split())}"])
            _, note = self.judge.prompts["repair"].fill({"problem": found})
            outcome = self._call(system, f"{user}\n\n{note}", schema)
            problem = self._problem(outcome, check)
        if outcome.value is not None and (problem is None or problem.reason == "no_quote"):
            self.replies[part] = outcome.value
            # one pole without a quote need not end it: the other may be the one that counts
            return None if problem is None or self._has_quote(outcome.value) else problem
        return problem

    def _call(self, system: str, user: str, schema: Schema) -> Outcome:
        request = ChatRequest(self.judge.model, system, user, schema, self.judge.max_output_tokens)
        outcome = self.judge.client.ask(request)
        tokens = outcome.usage
        self.usage += JudgeUsage(n_calls=1, input_tokens=tokens.input_tokens, output_tokens=tokens.output_tokens)
        return outcome

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
        lines = [f"{item.id}: {item.shown()}" for item in self.card.verify]
        return self._common("verify") | {
            "descriptions": self._descriptions("verify"),
            "items": self._fenced("verify", lines),
        }

    def _rate_values(self, concept: Concept) -> dict[str, str]:
        lines = [f"{w.id}: {w.shown()}" for pole in self.card.poles for w in self.card.windows(pole)[:N_RATE_WINDOWS]]
        return self._common("rate") | {
            "mark_open": MARK_OPEN,
            "mark_close": MARK_CLOSE,
            "undesired": concept.undesired,
            "wanted": concept.wanted,
            "descriptions": self._descriptions("rate"),
            "windows": self._fenced("rate", lines),
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


def planned_requests(card: Card, concept: Concept, options: JudgeOptions) -> list[tuple[ChatRequest, int]]:
    """The requests about a card without a repair, each with the expected length of its reply in characters.

    The descriptions that the later parts quote are stand-ins: for an estimate before anything is bought.
    """
    model = options.judge.partition(":")[2]
    unasked: Any = None  # nothing is sent: the session only fills in the prompts
    judge = ChatJudge(unasked, name=options.judge, model=model, max_output_tokens=options.max_output_tokens)
    session = _Session(judge, card)
    session.replies["describe"] = dict.fromkeys(card.poles, STAND_IN)
    answers = [{"id": item.id} | dict.fromkeys(card.poles, False) for item in card.verify]
    rating: dict[str, Any] = {pole: {"relevance": 50, "wanted_relevance": 50} for pole in card.poles}
    rating["rationale"] = " ".join(["word"] * 40)
    parts: list[tuple[str, Schema, dict[str, str], Any]] = [
        ("describe", describe_schema(card.poles), session._describe_values(), session.replies["describe"]),
        ("verify", verify_schema(card.poles), session._verify_values(), {"answers": answers}),
        ("rate", rate_schema(card.poles), session._rate_values(concept), rating),
    ]
    planned = []
    for part, schema, values, reply in parts:
        system, user = judge.prompts[part].fill(values)
        request = ChatRequest(judge.model, system, user, schema, judge.max_output_tokens)
        planned.append((request, len(json.dumps(reply))))
    return planned
