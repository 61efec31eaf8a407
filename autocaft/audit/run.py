"""One audit's settings, and what is loaded by them: the model, its tokenizer, the sets, the policy.

In: an `AuditConfig`. Out: things loaded when they are asked for. The decision a reader would question: a loaded model
stays in its process from one step to the next. An audit has many short steps, and loading would take longer than they.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from autocaft.audit.options import AuditConfig, AuditSet, expand_sets, hub_sets, with_sets
from autocaft.data.corpus import Document, load_corpus
from autocaft.errors import ConfigError, DataError
from autocaft.model.locate import Weights, locate
from autocaft.run import pin_sets


@dataclass(frozen=True)
class Audit:
    """What every step of one audit is handed."""

    config: AuditConfig
    downloads: bool = True
    """Whether a Hub data set that is not on this disk is downloaded: not where others have just done so."""

    @cached_property
    def weights(self) -> Weights:
        """The model that would be trained."""
        return locate(self.config.model)

    @cached_property
    def sets(self) -> list[AuditSet]:
        """The sets, in order of the file."""
        return expand_sets(self.config, downloads=self.downloads)

    @cached_property
    def generic(self) -> list[Document]:
        """Generic text."""
        config = self.config
        return load_corpus(config.corpus, n_documents=config.n_generic, seed=config.seed, downloads=self.downloads)

    @cached_property
    def policy(self) -> str:
        """The text that a language model judges under: the user's file, or the one that ships.

        Raises:
            ConfigError: the file is not there, not text, or empty.
        """
        named = self.config.policy
        path = Path(__file__).with_name("policy.md") if named is None else Path(named).expanduser()
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"policy: {path} cannot be read as text ({error})") from None
        if not text:
            raise ConfigError(f"policy: {path} is empty")
        return text

    @property
    def asks_model(self) -> bool:
        """Whether the sets are also looked at beside the model's own answers."""
        return self.config.depth != "peers"

    def tokenizer(self) -> Any:
        """The model's."""
        return _tokenizer(self.weights)

    def base(self) -> Any:
        """The model, in evaluation mode."""
        return _base(self.weights, self.config.dtype)


def pin_audit(config: AuditConfig, run_dir: Path) -> tuple[AuditConfig, dict[str, str]]:
    """The config with every Hub data set at the commit that the audit's folder was begun with, or else the present one;
    and these commits. One that the Hub does not give stays as it is: that is a fault of its set."""
    pinned: dict[str, str] = {}
    for spec in hub_sets(config):
        try:
            pinned |= pin_sets([spec], run_dir, downloads=True)
        except DataError:
            continue
    return with_sets(config, pinned), pinned


@cache
def _tokenizer(weights: Weights) -> Any:
    from autocaft.model.load import load_tokenizer

    return load_tokenizer(weights)


@cache
def _base(weights: Weights, dtype: str) -> Any:
    import torch

    from autocaft.model.load import load_model

    return load_model(weights, dtype=getattr(torch, dtype))
