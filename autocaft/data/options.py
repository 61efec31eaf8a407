"""Options of `[data]`: what is learned, what is measured, and generic text."""

from __future__ import annotations

from pydantic import Field

from autocaft.data.rows import Turns
from autocaft.rundir.options import Options


class DataOptions(Options):
    """Data sets are named as data/sets.py says; `builtin:` ships with autocaft, `autocaft recipes` shows it in use."""

    task: str
    """Name of the task in tables."""
    train: str
    """Training rows: `{"prompt", "answer"}` or `{"prompt", "completion"}`, each a text or a list of messages, or chats
    `{"messages"}` that end with the assistant's answer. The loss is taken on answers alone. A file (JSON lines, .gz,
    Parquet), a folder, a pattern, or `hub:OWNER/NAME/CONFIG:SPLIT@REVISION` (CONFIG, SPLIT and REVISION may be left
    out; the run folder keeps the commit it was begun with)."""
    turns: Turns = "last"
    """Of a chat with several answers of the assistant: `last` learns the last one, the others are context. `each` makes
    a row of every answer, with all that stands before it for its prompt; not of rows with choices."""
    splits: dict[str, str] = Field(default_factory=dict)
    """Choice rows to evaluate on, by split: `{"prompt", "choices", "answer", "template"}`. `val` is like training,
    `id` has the cue as trained, `ood` inverted, `neutral` not at all. Nothing that selects reads them but the search of
    `caft-...-searched`, which reads `val`; what a direction does to the loss on `val` may be shown beside it
    (`mine.n_loss_rows`)."""
    final: dict[str, str] = Field(default_factory=dict)
    """Choice rows that are evaluated with `--final` only; each such look is written down in `results/looks.jsonl`."""
    cues: str | None = None
    """What the unwanted cue says in rows of `splits`: JSON lines `{"split", "id", "cue", "option"}`, its value and the
    choice it points to. Read by `behind` and `causes` alone; nothing that trains or selects knows of it."""
    chat: bool = False
    """Make each row's plain prompt the user's turn of a chat, through the model's template. Rows with `messages` always
    are chats."""
    corpus: str = "builtin:generic/completions.jsonl.gz"
    """Generic text, `{"text"}` or `{"prompt", "completion"}`, from files or `hub:` as above; or the bare id of a Hub
    data set, `OWNER/NAME`: of that only the first documents are downloaded, and no commit is kept."""
    corpus_seed: int = 0
    """Order in which documents of a corpus file are taken."""
    n_held_out: int = Field(40, ge=0)
    """Generic documents kept back for perplexity and KL; no other stage reads them."""
