"""Options of the judge room. No heavy import: the command line reads this file at start."""

from __future__ import annotations

from pydantic import field_validator, model_validator

from autocaft.rundir.options import Options, transport

VENDORS = ("openai", "anthropic", "files")


class JudgeOptions(Options):
    """Who reads the directions, what it is asked, and what it may spend."""

    undesired: str
    """The concept the model should not learn, in plain words."""
    wanted: str
    """The concept the task needs, in plain words; a direction about it should stay."""
    judge: str = "offline"
    """`offline` (no service, no key), `openai:MODEL`, `anthropic:MODEL` or `files:DIR` (cards out, replies in). An
    exported API key alone changes nothing."""
    base_url: str | None = None
    """Address of an OpenAI-compatible server for `openai:MODEL` (vLLM, llama.cpp, Ollama, `transformers serve`), or of
    another Anthropic endpoint."""
    api_key_env: str | None = None
    """Name of the environment variable with the key: OPENAI_API_KEY or ANTHROPIC_API_KEY if not given. With `base_url`
    no key is sent unless it is named here. Keys are read from nowhere else."""
    n_describe: int = 10
    """Windows shown per pole."""
    n_verify: int = 20
    """Held-out windows that check a description."""
    max_output_tokens: int = 4000
    """Longest reply per call, hidden reasoning included."""
    max_total_tokens: int | None = None
    """Hard cap on input and output tokens of the run's judge; a direction that would pass it stays unscored with the
    reason `budget`. None: no cap."""
    concurrency: int = transport(8)
    """Directions asked about at the same time."""
    timeout_s: float = transport(120.0)
    """Seconds until one request is given up and tried again."""
    patience_s: float = transport(900.0)
    """Seconds of trying after which one call is given up."""

    @field_validator("undesired", "wanted")
    @classmethod
    def _has_words(cls, text: str) -> str:
        if not text.strip():
            raise ValueError('must say the concept in words, for example "the gender of a person"')
        return text

    @field_validator("judge")
    @classmethod
    def _known_judge(cls, judge: str) -> str:
        vendor, _, what = judge.partition(":")
        if judge != "offline" and (vendor not in VENDORS or not what):
            raise ValueError(f"must be offline, openai:MODEL, anthropic:MODEL or files:DIR, not {judge!r}")
        return judge

    @model_validator(mode="after")
    def _sizes(self) -> JudgeOptions:
        if not 2 <= self.n_describe <= 50:
            raise ValueError(f"n_describe must be 2 to 50, not {self.n_describe}")
        if not 8 <= self.n_verify <= 60:
            raise ValueError(f"n_verify must be 8 to 60 (fewer say nothing), not {self.n_verify}")
        if self.max_output_tokens < 200:
            raise ValueError(f"max_output_tokens must be 200 or more, not {self.max_output_tokens}")
        if self.concurrency < 1:
            raise ValueError(f"concurrency must be 1 or more, not {self.concurrency}")
        return self
