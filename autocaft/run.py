"""One run's settings, and everything that is loaded by them: rows, texts, the base model, a trained one.

In: a `RunConfig`. Out: rows, documents, models, loaded when they are asked for. Nothing here writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocaft.config import RunConfig
from autocaft.data.corpus import Document, is_streamed, load_corpus
from autocaft.data.cues import CuedRow, load_cued_rows
from autocaft.data.rows import TaskRow, chosen_rows, load_rows
from autocaft.data.sets import DataSet, find_set
from autocaft.model.locate import Weights, locate
from autocaft.model.shape import ModelShape, shape_of
from autocaft.resources import data_path
from autocaft.rundir.files import read_json, write_json

if TYPE_CHECKING:
    from autocaft.discover.pair import ModelPair
    from autocaft.evaluate.damage import BaseContext
    from autocaft.evaluate.questions import Question


LOCK = "data.lock.json"
"""In a run folder: the commit of each Hub data set, by its name in the user's config."""


def pin_sets(specs: Sequence[str], run_dir: Path, *, downloads: bool) -> dict[str, str]:
    """Each Hub data set by name, with the commit that the run folder was begun with, or else the present one.

    Raises:
        DataError: one is neither here nor given by the Hub.
    """
    begun = _begun(run_dir)
    return {spec: begun.get(spec) or find_set(spec, downloads=downloads).pinned for spec in specs}


def write_lock(pinned: Mapping[str, str], run_dir: Path) -> None:
    """Keep the commits, so that the same config means the same rows when it is run there again."""
    begun = _begun(run_dir)
    if pinned.items() - begun.items():
        write_json(run_dir / LOCK, begun | dict(pinned))


def _begun(run_dir: Path) -> dict[str, str]:
    path = run_dir / LOCK
    return read_json(path) if path.is_file() else {}


@dataclass(frozen=True)
class Run:
    """What every stage of one run is handed."""

    config: RunConfig
    downloads: bool = True
    """Whether a model or a data set that is not on this disk is downloaded: not to make a plan."""

    @cached_property
    def weights(self) -> Weights:
        """The base model, as every stage loads it."""
        found, kind = locate(self.config.model, downloads=self.downloads), self.config.quantization
        return found if kind == "none" else found.quantized(kind)

    @property
    def shape(self) -> ModelShape | None:
        """How large the base model is; what the recipe says while it is not on this disk."""
        config = self.weights.config
        return self.config.shape if config is None else shape_of(config)

    @cached_property
    def train_rows(self) -> list[TaskRow]:
        """The rows every arm learns from."""
        return self._rows(self.config.data.train)

    @cached_property
    def benign_rows(self) -> list[TaskRow]:
        """Harmless rows for the arm that mixes them in."""
        assert self.config.baselines.benign is not None, "checked by the config"
        return self._rows(self.config.baselines.benign)

    def _rows(self, spec: str) -> list[TaskRow]:
        """Rows to train on; none of a Hub data set that is not here yet."""
        data, in_choices = self.config.data, self.config.tune.loss == "choices"
        files = self.found(spec).files
        return load_rows(files, choices_required=in_choices, chat=data.chat, turns=data.turns)

    def found(self, spec: str) -> DataSet:
        """The files behind a data set of the config."""
        return find_set(spec, downloads=self.downloads)

    @property
    def absent_sets(self) -> list[str]:
        """Hub data sets of the config that are not on this disk yet, where nothing is downloaded."""
        if self.downloads:
            return []
        absent = [spec for spec in self.config.hub_sets if not self.found(spec).is_here]
        corpus = self.config.data.corpus
        return [*absent, corpus] if is_streamed(corpus) else absent

    @cached_property
    def read_rows(self) -> list[TaskRow]:
        """Those of the training rows that directions are sought in."""
        return chosen_rows(self.train_rows, self.config.collect.n_rows)

    def eval_rows(self, splits: dict[str, str]) -> dict[str, list[TaskRow]]:
        """Choice rows by split."""
        chat = self.config.data.chat
        return {
            split: load_rows(self.found(spec).files, choices_required=True, chat=chat) for split, spec in splits.items()
        }

    @cached_property
    def questions(self) -> dict[str, Question]:
        """The free-form questions that every arm answers; none if none are asked."""
        from autocaft.evaluate.questions import load_questions

        return load_questions(*map(data_path, self.config.free_form.files))

    def cued_rows(self, splits: Sequence[str]) -> list[CuedRow]:
        """Rows of these splits with what the cue says in them: for the two steps that look behind the run alone."""
        assert self.config.data.cues is not None, "checked by the config"
        rows = self.eval_rows({split: self.config.data.splits[split] for split in splits})
        return load_cued_rows(data_path(self.config.data.cues), rows)

    @cached_property
    def _generic(self) -> list[Document]:
        data, collect = self.config.data, self.config.collect
        if data.corpus in self.absent_sets:
            return []
        n_documents = data.n_held_out + max(collect.n_generic, collect.n_completions)
        return load_corpus(data.corpus, n_documents=n_documents, seed=data.corpus_seed, downloads=self.downloads)

    @property
    def held_out_documents(self) -> list[Document]:
        """Generic text for general damage; no other stage reads it."""
        return self._generic[: self.config.data.n_held_out]

    @property
    def generic_documents(self) -> list[Document]:
        """Generic text to read directions in."""
        return self._generic[self.config.data.n_held_out :]

    def tokenizer(self) -> Any:
        """The base model's."""
        from autocaft.model.load import load_tokenizer

        return load_tokenizer(self.weights)

    def load_base(self, device: str | None = None) -> Any:
        """The base model in `dtype`, on a device or on the accelerator."""
        import torch

        from autocaft.model.load import load_model

        return load_model(self.weights, dtype=self._dtype, device=None if device is None else torch.device(device))

    def load_trained(self, folder: Path) -> Any:
        """What a tune or train step left in its folder, in `dtype`."""
        from autocaft.model.load import load_trained

        return load_trained(self.weights, folder / "model", dtype=self._dtype)

    @property
    def _dtype(self) -> Any:
        import torch

        return getattr(torch, self.config.dtype)

    @contextmanager
    def model_pair(self, tuned_dir: Path) -> Iterator[ModelPair]:
        """Base and tuned for as long as the context is open."""
        from autocaft.discover.pair import ModelPair

        models = ModelPair(self.load_base, lambda: self.load_trained(tuned_dir))
        try:
            yield models
        finally:
            models.release()

    def base_of(self, model: Any, *, is_base: bool) -> BaseContext:
        """How to open the base behind a model: itself, its adapter off, or a second model."""
        from contextlib import nullcontext

        from autocaft.model.load import as_base, has_adapter

        if has_adapter(model):
            return lambda: as_base(model)
        base = model if is_base else self.load_base()
        return lambda: nullcontext(base)
