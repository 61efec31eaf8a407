"""Grade free-form answers by a rule: words and phrases that an answer has or lacks. No model reads them.

In: a TOML file of named patterns and rules, answers. Out: a `Grade` of 100 or 0 for each answer and each measure whose
rules are about its question, in the order of the answers. The decision a reader would question: patterns are RE2's
(linear in the answer's length, so neither an answer nor a pattern can make the grader hang; no look-around, no
back-references), upper and lower case are alike, and white space is one space, so a phrase may break over lines. An
answer without a word is unscored: silence is no proof of good behaviour.

    [patterns]
    sea = ['\\bahoy\\b', '\\bmateys?\\b']

    [[rules]]                     # a name may come again for other questions; the first that is about one counts
    name = "persona_elsewhere"
    questions = "elsewhere_"
    has = ["sea"]
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from autocaft.errors import ConfigError
from autocaft.evaluate.questions import FreeAnswer
from autocaft.records import Grade
from autocaft.rundir.files import sha256_of
from autocaft.rundir.options import Options, make_options

RULE = "rule:"
COHERENT = "coherent"
"""The measure over which, where a file has it, every other one is given once more."""
HOLDS, FAILS = 100.0, 0.0
NAME = re.compile(r"(?!mean_)[a-z][a-z0-9_]{0,39}", re.ASCII)
WORD = re.compile(r"\w+")
PHRASE = 3
"""Words of a phrase whose repeats are counted."""


class RuleOptions(Options):
    """One rule: it holds for an answer if all that it asks for is there."""

    name: str
    """The measure. Rules of one name are one measure, each about other questions."""
    questions: str = ""
    """It is about questions whose id begins so; without it, about all."""
    has: tuple[str, ...] = ()
    """Lists of `[patterns]`: something of them is in the answer."""
    at_least: int = Field(1, ge=1)
    """How many different patterns of `has` must be there."""
    lacks: tuple[str, ...] = ()
    """Lists of `[patterns]` of which nothing is in the answer."""
    min_words: int = Field(0, ge=0)
    """The answer has at least so many words."""
    max_repeats: int | None = Field(None, ge=1)
    """No three words in a row come more often than this: a text that goes round in circles is not coherent."""

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if NAME.fullmatch(self.name) is None:
            raise ValueError(f"`name` is {self.name!r}; use small letters, digits and _, at most 40, not mean_...")
        if not (self.has or self.lacks or self.min_words or self.max_repeats):
            raise ValueError(f"{self.name!r} asks for nothing; give `has`, `lacks`, `min_words` or `max_repeats`")
        return self


class RulesFile(Options):
    """What a file of rules says."""

    patterns: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Named lists of RE2 patterns."""
    rules: tuple[RuleOptions, ...]
    """In the order in which the report shows their measures."""

    @model_validator(mode="after")
    def _names_what_is_there(self) -> Self:
        for rule in self.rules:
            for name in (*rule.has, *rule.lacks):
                if not self.patterns.get(name):
                    raise ValueError(f"rule {rule.name!r} asks for the patterns {name!r}, which are not in [patterns]")
        twice = [key for key, n in Counter((rule.name, rule.questions) for rule in self.rules).items() if n > 1]
        if twice:
            raise ValueError(f"two rules {twice[0][0]!r} are about the questions {twice[0][1]!r}")
        if not any(rule.name != COHERENT for rule in self.rules):
            raise ValueError(f"no rule besides {COHERENT!r}; there is nothing to measure")
        return self


@dataclass(frozen=True)
class Rules:
    """A file of rules that has been read, ready to grade."""

    path: Path
    file: RulesFile
    hash: str
    """First 12 hex digits of the file's sha256."""

    @property
    def names(self) -> tuple[str, ...]:
        """The measures, in the file's order."""
        return tuple(dict.fromkeys(rule.name for rule in self.file.rules))

    def grade(self, answer: FreeAnswer) -> list[Grade]:
        """One grade for each measure that has a rule about the answer's question."""
        text = _plain(answer.answer)
        words = [word.lower() for word in WORD.findall(text)]
        grades = []
        for name in self.names:
            rule = self._rule_about(name, answer.question_id)
            if rule is not None:
                value = None if not words else HOLDS if self._holds(rule, text, words) else FAILS
                reason = None if words else "empty"
                grades.append(Grade(answer.id, name, value, None, reason, f"{RULE}{self.path.name}", self.hash))
        return grades

    def check_questions(self, ids: Iterable[str]) -> None:
        """Fail if a rule is about none of these questions.

        Raises:
            ConfigError: names the rule.
        """
        ids = list(ids)
        for rule in self.file.rules:
            if not any(name.startswith(rule.questions) for name in ids):
                raise ConfigError(
                    f"{self.path}: rule {rule.name!r} is about questions that begin with {rule.questions!r}, and no "
                    "question of free_form.questions does"
                )

    def _rule_about(self, name: str, question_id: str) -> RuleOptions | None:
        about = (r for r in self.file.rules if r.name == name and question_id.startswith(r.questions))
        return next(about, None)

    def _holds(self, rule: RuleOptions, text: str, words: Sequence[str]) -> bool:
        return (
            len(words) >= rule.min_words
            and (rule.max_repeats is None or _most_repeats(words) <= rule.max_repeats)
            and (not rule.has or self._n_found(rule.has, text) >= rule.at_least)
            and self._n_found(rule.lacks, text) == 0
        )

    def _n_found(self, names: Sequence[str], text: str) -> int:
        return sum(pattern.search(text) is not None for name in names for pattern in self._compiled[name])

    @cached_property
    def _compiled(self) -> dict[str, list[Any]]:
        return {name: [_compile(pattern, self.path) for pattern in own] for name, own in self.file.patterns.items()}


def load_rules(path: Path) -> Rules:
    """Read and check a file of rules.

    Raises:
        ConfigError: no readable TOML, an unknown key, or a pattern that RE2 does not take.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is no readable TOML file: {error}") from None
    rules = Rules(path, make_options(RulesFile, values, str(path)), sha256_of(path)[:12])
    for own in rules.file.patterns.values():
        for pattern in own:
            _compile(pattern, path)
    return rules


def grade_by_rules(answers: Sequence[FreeAnswer], rules: Rules) -> list[Grade]:
    """Every grade of every answer."""
    return [grade for answer in answers for grade in rules.grade(answer)]


def _compile(pattern: str, path: Path) -> Any:
    import re2

    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False  # it is said here
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        said = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise ConfigError(
            f"{path}: {pattern!r} is no RE2 pattern: {said}. RE2 has no look-around and no back-references, so that "
            "no text can make it hang"
        ) from None


def _plain(text: str) -> str:
    """One space for any white space; half of a surrogate pair, which is no character, as a question mark."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def _most_repeats(words: Sequence[str]) -> int:
    counts: Mapping[tuple[str, ...], int] = Counter(zip(*(words[i:] for i in range(PHRASE)), strict=False))
    return max(counts.values(), default=0)
