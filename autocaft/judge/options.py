"""Options of the judge room. No heavy import: the command line reads this file at start."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator, model_validator

from autocaft.llm.address import check_address, check_key_name
from autocaft.rundir.options import Options, fingerprint_options, transport

VENDORS = ("openai", "anthropic", "local", "files")
OF_CHAT_JUDGES = ("base_url", "verifier", "rater", "check_words", "max_output_tokens")
"""Settings that mean nothing to the others."""


class JudgeOptions(Options):
    """Who reads the directions, what it is asked, and what it may spend."""

    undesired: str
    """The concept the model should not learn, in plain words."""
    wanted: str
    """The concept the task needs, in plain words; a direction about it should stay."""
    judge: str = "offline"
    """`offline` (no service, no key), `openai:MODEL`, `anthropic:MODEL`, `local:MODEL` (a chat model in this process: a
    folder, a Hub id or `wheel:NAME`) or `files:DIR` (cards out, replies in). An exported API key alone changes
    nothing."""
    base_url: str | None = None
    """Address of an OpenAI-compatible server for `openai:MODEL` (vLLM, llama.cpp, Ollama, `transformers serve`), or of
    another Anthropic endpoint."""
    api_key_env: str | None = None
    """Name of the environment variable with the key: OPENAI_API_KEY or ANTHROPIC_API_KEY if not given. With `base_url`
    no key is sent unless it is named here. Keys are read from nowhere else."""
    verifier: str | None = None
    """Who checks the descriptions, as `openai:MODEL`; the judge itself if not given. The same model finds its own words
    again: the report says so."""
    rater: str | None = None
    """Who rates, as `openai:MODEL`; the judge itself if not given."""
    panel: tuple[str, ...] = ()
    """Further judges that read every direction; the median relevance counts, and their agreement is reported."""
    abstain: tuple[float, float] = (40.0, 60.0)
    """A relevance in this band is asked for again, at most twice and on other windows. A verdict whose ratings do not
    all lie on one side of the band abstains: a person should look at it first."""
    check_words: bool = True
    """Rate a description that verifies once more without its windows: what a window says cannot steer who does not
    read it. Where the two ratings differ the verdict abstains. One short call a direction, of a chat judge alone."""
    hard_negatives: bool | None = None
    """Check descriptions also on windows that read like those of the pole (sentence encoder, some 40 windows a second).
    None: for every judge but the offline one, which reads words with that same encoder in a fraction of the time. All
    judges meet windows on which the direction is nearly active."""
    calibration: str | None = transport(None)
    """Folder of `autocaft calibrate` (or its calibration.json) whose figures of this judge the report shows. The
    offline judge's ship with autocaft and need not be named."""
    n_describe: int = 10
    """Windows shown per pole."""
    n_verify: int = 20
    """Held-out windows that check a description."""
    max_output_tokens: int = 4000
    """Longest reply per call, hidden reasoning included."""
    max_usd: float | None = transport(None, gt=0)
    """Hard cap on the dollars this run may spend, over all its restarts. A direction that could pass it stays unscored
    with the reason `budget`; with a higher cap, `--redo judge` asks about those alone. None: no cap."""
    max_total_tokens: int | None = transport(None, gt=0)
    """The same for input and output tokens, where no price is known."""
    prices: str | None = transport(None)
    """TOML file of prices that win over the list prices: a table `["openai:MODEL"]` with `input` and `output`, in
    dollars per million tokens."""
    batch: bool = transport(False)
    """Hand the questions over in batches of the vendor's: half the price, up to a day a round, four rounds or five."""
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
            menu = "offline, openai:MODEL, anthropic:MODEL, local:MODEL or files:DIR"
            raise ValueError(f"must be {menu}, not {judge!r}")
        return judge

    @field_validator("verifier", "rater")
    @classmethod
    def _known_reader(cls, reader: str | None) -> str | None:
        vendor, _, what = (reader or "openai:-").partition(":")
        if vendor not in VENDORS or vendor == "files" or not what:
            raise ValueError(f"must be openai:MODEL, anthropic:MODEL or local:MODEL, not {reader!r}")
        return reader

    @field_validator("panel")
    @classmethod
    def _known_panel(cls, panel: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(cls._known_judge(judge) for judge in panel)

    @model_validator(mode="after")
    def _who_reads(self) -> JudgeOptions:
        if (self.verifier or self.rater) and not self.chat_judges:
            raise ValueError(f"verifier and rater belong to a chat judge; {self.judge} reads alone")
        if len({self.judge, *self.panel}) < 1 + len(self.panel):
            raise ValueError(f"panel: {self.judge} and its panel must be different judges, not {list(self.panel)}")
        low, high = self.abstain
        if not 0 <= low <= high <= 100:
            raise ValueError(f"abstain must be two numbers from 0 to 100 in order, not {list(self.abstain)}")
        return self

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, name: str | None) -> str | None:
        return check_key_name(name)

    @field_validator("base_url")
    @classmethod
    def _has_no_secret(cls, url: str | None) -> str | None:
        return check_address(url)

    @model_validator(mode="after")
    def _sizes(self) -> JudgeOptions:
        if not 2 <= self.n_describe <= 50:
            raise ValueError(f"n_describe must be 2 to 50, not {self.n_describe}")
        if not 8 <= self.n_verify <= 60:
            raise ValueError(f"n_verify must be 8 to 60 (fewer say nothing), not {self.n_verify}")
        if self.max_output_tokens < 200:
            raise ValueError(f"max_output_tokens must be 200 or more, not {self.max_output_tokens}")
        if self.batch and not self.judge.startswith(("openai:", "anthropic:")):
            raise ValueError(f"batch = true needs an openai: or anthropic: judge, not {self.judge}")
        if self.concurrency < 1:
            raise ValueError(f"concurrency must be 1 or more, not {self.concurrency}")
        return self

    @property
    def chat_judges(self) -> tuple[str, ...]:
        """The judge and the members of its panel that are asked call by call."""
        return tuple(
            judge for judge in (self.judge, *self.panel) if judge.partition(":")[0] not in ("offline", "files")
        )

    @property
    def has_files_in_panel(self) -> bool:
        """Whether one of several judges is asked through files: such a panel cannot be calibrated."""
        return bool(self.panel) and any(name.startswith("files:") for name in (self.judge, *self.panel))

    def readers_of(self, judge: str) -> dict[str, str]:
        """Who describes, verifies and rates for this member of the panel (or the judge itself)."""
        return {"describe": judge, "verify": self.verifier or judge, "rate": self.rater or judge}

    @property
    def reading(self) -> dict[str, Any]:
        """All settings that can change what is said about a card, as JSON: figures of a calibration hold for them."""
        settings = fingerprint_options(self)
        unread = {"undesired", "wanted", "api_key_env", *(() if self.chat_judges else OF_CHAT_JUDGES)}
        asks_neighbours = self.judge != "offline" if self.hard_negatives is None else self.hard_negatives
        kept = {key: value for key, value in settings.items() if key not in unread}
        return kept | {"hard_negatives": asks_neighbours}

    @property
    def self_checked(self) -> dict[str, list[str]]:
        """Judge -> which of `verify` and `rate` the model that describes for it does as well: it checks itself there.
        A report says so."""
        found: dict[str, list[str]] = {}
        for judge in self.chat_judges:
            readers = self.readers_of(judge)
            own = [part for part in ("verify", "rate") if readers[part] == readers["describe"]]
            found |= {judge: own} if own else {}
        return found

    @property
    def chat_readers(self) -> tuple[str, ...]:
        """Every language model that is asked for anything, once."""
        return tuple(dict.fromkeys(name for judge in self.chat_judges for name in self.readers_of(judge).values()))

    def has_vendor_of(self, reader: str) -> bool:
        """Whether the reader is of the judge's vendor, whose address and key the options give."""
        return reader.partition(":")[0] == self.judge.partition(":")[0]
