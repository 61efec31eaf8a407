"""Options of `[data]`: what is learned, what is measured, and generic text."""

from __future__ import annotations

from pydantic import Field

from autocaft.rundir.options import Options


class DataOptions(Options):
    """Files are JSON lines; `builtin:` names one that ships with autocaft, `autocaft recipes` shows them in use."""

    task: str
    """Name of the task in tables."""
    train: str
    """Training rows: `{"prompt", "answer"}`, or chats `{"messages"}` that end with the assistant's answer."""
    splits: dict[str, str] = Field(default_factory=dict)
    """Choice rows to evaluate on, by split: `{"prompt", "choices", "answer", "template"}`. `val` is like training,
    `id` has the cue as trained, `ood` inverted, `neutral` not at all. Nothing that selects reads them; what a direction
    does to the loss on `val` may be shown beside it (`mine.n_loss_rows`)."""
    final: dict[str, str] = Field(default_factory=dict)
    """Choice rows that are evaluated with `--final` only; each such look is written down in `results/looks.jsonl`."""
    cues: str | None = None
    """What the unwanted cue says in rows of `splits`: `{"split", "id", "cue", "option"}`, its value and the choice it
    points to. Read by `behind` and `causes` alone; nothing that trains or selects knows of it."""
    chat: bool = False
    """Make each row's plain prompt the user's turn of a chat, through the model's template. Rows with `messages` always
    are chats."""
    corpus: str = "builtin:generic/completions.jsonl.gz"
    """Generic text: a .jsonl or .jsonl.gz file (`{"text"}`, or `{"prompt", "completion"}`), or a Hub data set's id."""
    corpus_seed: int = 0
    """Order in which documents of a corpus file are taken."""
    n_held_out: int = Field(40, ge=0)
    """Generic documents kept back for perplexity and KL; no other stage reads them."""
