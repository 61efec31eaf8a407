"""A judge that is somebody else: cards go out as JSON files, replies come in as JSON files.

For batch APIs, closed sites, models without an API, and people. Layout of `DIR`: `README.txt`,
`reply.schema.*.json`, `cards/<direction>.json` (written here), `replies/<direction>.json` (written by
whoever judges). The decision a reader would question: a reply that does not fit stops the run and is named, where a
chat model's would become `unscored`. Someone wrote the file and can mend it; who cannot answer writes `{"card": ...,
"unscored_reason": "refusal"}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autocaft.errors import JudgeError
from autocaft.judge.base import Card, Concept, JudgeUsage, UsageBook, unscored
from autocaft.judge.prompts import combined_hash, load_prompt
from autocaft.judge.schema import Schema, check_verify, closed, reply_schema
from autocaft.judge.verdicts import verdict_of
from autocaft.llm.replies import schema_problem
from autocaft.records import Verdict
from autocaft.rundir.files import write_json, write_text
from autocaft.rundir.progress import Progress

SKIPPED = closed(
    {"card": {"type": "string"}, "unscored_reason": {"type": "string", "enum": ["refusal", "missing_reply", "empty"]}}
)
N_NAMED = 5
"""Files that an error names; the others are counted."""


class FilesJudge:
    """Writes cards into `folder/cards`, reads replies from `folder/replies`."""

    reads_together = False

    def __init__(self, folder: Path, *, name: str = "") -> None:
        """`name`: of the judge, for verdicts; by default the folder's."""
        self.folder = folder
        self.name = name or f"files:{folder}"
        self.readers: Mapping[str, str] = dict.fromkeys(("describe", "verify", "rate"), self.name)
        self.usage = UsageBook()
        self._prompt = load_prompt("files")
        self.prompt_hash = combined_hash([self._prompt])

    def judge(self, cards: Sequence[Card], concept: Concept, progress: Progress) -> Iterator[Verdict]:
        """Verdicts of all replies.

        Raises:
            JudgeError: replies are missing or do not fit; says which, where they go, and that the same command
            continues.
        """
        readable = [card for card in cards if card.poles and card.verify]
        self._write(readable, concept)
        replies, faults, n_missing = self._read(readable)
        if faults or n_missing:
            raise JudgeError(self._message(faults, n_missing, len(readable)))
        with progress.task("judge", len(cards), "directions") as advance:
            for card in cards:
                yield self._verdict(card, replies.get(card.direction_id))
                advance(1)

    def _write(self, cards: Sequence[Card], concept: Concept) -> None:
        """Write README, schemas and cards. Replies are never touched."""
        (self.folder / "cards").mkdir(parents=True, exist_ok=True)
        (self.folder / "replies").mkdir(exist_ok=True)
        values = {"undesired": concept.undesired, "wanted": concept.wanted}
        write_text(self.folder / "README.txt", "\n\n".join(self._prompt.fill(values)) + "\n")
        for has_choices, ending in ((False, ""), (True, "_with_choices")):
            for poles, name in ((("top",), "one"), (("top", "bottom"), "two")):
                schema = reply_schema(poles, has_choices=has_choices)
                write_json(self.folder / f"reply.schema.{name}_pole{ending}.json", schema)
        for card in cards:
            row = {"card": card.hash, **card.shown(), "undesired": concept.undesired, "wanted": concept.wanted}
            write_json(self.folder / "cards" / _file_name(card), row)

    def _read(self, cards: Sequence[Card]) -> tuple[dict[str, dict[str, Any]], list[str], int]:
        """Replies by direction, one line for each that does not fit, and how many are missing."""
        replies: dict[str, dict[str, Any]] = {}
        faults: list[str] = []
        n_missing = 0
        for card in cards:
            path = self.folder / "replies" / _file_name(card)
            if not path.is_file():
                n_missing += 1
                continue
            reply, fault = _read_reply(path, card)
            if fault:
                faults.append(f"{path}: {fault}")
            else:
                replies[card.direction_id] = reply
        return replies, faults, n_missing

    def _message(self, faults: Sequence[str], n_missing: int, n_cards: int) -> str:
        lines = []
        if n_missing:
            lines.append(
                f"judge: {n_missing} of {n_cards} replies {'is' if n_missing == 1 else 'are'} missing. "
                f"Read {self.folder / 'README.txt'}, answer the cards in {self.folder / 'cards'} and put the replies, "
                f"under the same names, into {self.folder / 'replies'}."
            )
        if faults:
            lines.append(f"judge: {'1 reply does' if len(faults) == 1 else f'{len(faults)} replies do'} not fit:")
            lines += [f"  {fault}" for fault in faults[:N_NAMED]]
            lines += [f"  and {len(faults) - N_NAMED} more"] if len(faults) > N_NAMED else []
        return "\n".join([*lines, "Then the same command continues."])

    def _verdict(self, card: Card, reply: dict[str, Any] | None) -> Verdict:
        if reply is None:
            return unscored(card, self, "no_verify_windows" if card.poles else "no_windows")
        if "unscored_reason" in reply:
            return unscored(card, self, reply["unscored_reason"])
        verdict, n_dropped = verdict_of(card, self, reply, [reply["rate"]])
        self.usage.by_direction[card.direction_id] = JudgeUsage(n_quotes_dropped=n_dropped)
        return verdict


def _file_name(card: Card) -> str:
    """The direction's id as a file name. Ids are ours (`L14.latent1483`), those from a list of the user's need not
    be."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", card.direction_id) + ".json"


def _schema(card: Card) -> Schema:
    return reply_schema(card.poles, has_choices=bool(card.choices))


def _read_reply(path: Path, card: Card) -> tuple[dict[str, Any], str | None]:
    """The reply, or what is wrong with it."""
    try:
        reply = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return {}, f"not valid JSON: {error}"
    is_skipped = isinstance(reply, dict) and "unscored_reason" in reply
    problem = schema_problem(reply, SKIPPED if is_skipped else _schema(card))
    if problem is not None:
        return {}, problem[1]
    if reply["card"] != card.hash:
        return (
            {},
            f"card: {reply['card']!r} is not this card ({card.hash!r}); its windows have changed, answer it again",
        )
    fault = None if is_skipped else check_verify(reply["verify"], card)
    return reply, f"verify.{fault.detail}" if fault else None
