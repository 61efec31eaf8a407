"""Prompts from `prompts/*.md`: what stands before the first `---` line is the system message, the rest the user's.

Values are put in by one pass over the template, so a value that contains `{{name}}` stays as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autocaft.resources import prompts_dir

PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt file."""

    name: str
    system: str
    user: str
    hash: str
    """First 12 hex digits of the file's sha256."""

    def fill(self, values: Mapping[str, str]) -> tuple[str, str]:
        """System and user message. A placeholder without a value, or a value without a placeholder, is our own bug."""
        wanted = set(PLACEHOLDER.findall(self.system + self.user))
        assert wanted == set(values), f"prompt {self.name} wants {sorted(wanted)}, got {sorted(values)}"
        return self._put(self.system, values), self._put(self.user, values)

    @staticmethod
    def _put(template: str, values: Mapping[str, str]) -> str:
        return PLACEHOLDER.sub(lambda match: values[match.group(1)], template)


def load_prompt(name: str) -> Prompt:
    """The prompt in `prompts/<name>.md`."""
    text = (prompts_dir() / f"{name}.md").read_text(encoding="utf-8")
    system, line, user = text.partition("\n---\n")
    if not line:
        system, user = "", text
    return Prompt(name, system.strip(), user.strip(), hashlib.sha256(text.encode()).hexdigest()[:12])


def combined_hash(prompts: Sequence[Prompt]) -> str:
    """`describe:3f2a... verify:...`: readable, and different when any prompt changes."""
    return " ".join(f"{prompt.name}:{prompt.hash}" for prompt in prompts)


def fenced(lines: Sequence[str], fence: str) -> str:
    """Lines of data between two fence lines. No line of data can be a fence: the lines hold no break, and the fence is
    not in them."""
    assert not any("\n" in line for line in lines), "a line of data with a line break could open a line of its own"
    assert not any(fence in line for line in lines), f"the fence {fence} stands in the data"
    return "\n".join([f"<data {fence}>", *lines, f"</data {fence}>"])


def fence_of(card_hash: str, part: str) -> str:
    """A fence that whoever wrote the data cannot know, the same in every run so that stored answers are found again."""
    return hashlib.sha256(f"{part} {card_hash}".encode()).hexdigest()[:16]
