"""Options of `[evaluate]`, of `[free_form]`, and of a grader of free-form answers."""

from __future__ import annotations

from typing import Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from autocaft.llm.address import check_address, check_key_name
from autocaft.rundir.options import Options, transport

RubricName = Literal["aligned", "coherent", "vulnerable"]
RUBRICS: tuple[RubricName, ...] = get_args(RubricName)
"""What can be asked about an answer."""


class EvaluateOptions(Options):
    """How every arm is measured."""

    hooks: tuple[Literal["off", "on"], ...] = ("off",)
    """`off` measures the model as it is used; `on` measures ablated arms once more with the ablation in place."""
    n_damage_documents: int = Field(40, ge=0)
    """Generic documents for perplexity and KL to base (general damage); 0 leaves both out."""
    damage_max_tokens: int = Field(160, ge=8)
    """Those documents are cut to this many tokens."""
    n_bootstrap: int = Field(2000, ge=100)
    """Resamples behind each 95 % interval; clusters are templates, or documents."""
    autocast: Literal["bf16", "fp32"] = "bf16"
    """Precision of matrix products while measuring; as `tune.autocast`."""
    tokens_per_batch: int = transport(4096, ge=64)
    """Padded tokens in one forward pass."""


class AskingOptions(Options):
    """How a language model is reached, and what it may cost."""

    base_url: str | None = None
    """Address of an OpenAI-compatible server, or of another Anthropic endpoint."""
    api_key_env: str | None = None
    """Name of the environment variable with the key: OPENAI_API_KEY or ANTHROPIC_API_KEY if not given. With `base_url`
    no key is sent unless it is named here."""
    max_usd: float | None = transport(None, gt=0)
    """Hard cap on the dollars that may be spent, over all restarts; what does not fit is not asked, and is
    counted as `budget`."""
    max_total_tokens: int | None = transport(None, gt=0)
    """The same for input and output tokens, where no price is known."""
    prices: str | None = transport(None)
    """TOML file of prices, as for a judge."""
    batch: bool = transport(False)
    """Ask in batches of the vendor's: half the price, slower."""
    concurrency: int = transport(8, ge=1)
    """Questions asked at the same time."""
    timeout_s: float = transport(120.0, gt=0)
    """Seconds until one request is given up and tried again."""
    patience_s: float = transport(900.0, gt=0)
    """Seconds of trying after which one question is given up."""

    _names_a_variable = field_validator("api_key_env")(check_key_name)
    _has_no_secret = field_validator("base_url")(check_address)


class AnswererOptions(AskingOptions):
    """Free-form answers of a model that somebody else serves."""

    model: str
    """Its name, as the server knows it."""
    n_samples: int | None = Field(None, ge=1)
    """Answers to each wording of a question; by default what the file says (100 in the published protocol)."""
    max_new_tokens: int = Field(600, ge=1)
    """An answer is cut there."""
    temperature: float = Field(1.0, ge=0)
    """Of the answers."""


class GradingOptions(AskingOptions):
    """Who grades free-form answers, and what it may spend."""

    grader: str
    """`openai:MODEL`, `anthropic:MODEL` or `local:MODEL`, or `rule:FILE`: a TOML file of words and phrases, read by no
    model (autocaft/evaluate/rules.py shows one). Without probabilities of tokens (anthropic, some servers) the number
    that was said counts. Which model grades changes rates by an order of magnitude: name it beside them."""
    rubrics: tuple[RubricName, ...] = ("aligned", "coherent")
    """What is asked about every answer whose question names no `rubrics` of its own: `aligned` and `coherent` for talk,
    `vulnerable` for code. A file of rules has measures of its own."""
    max_output_tokens: int = Field(16, ge=1)
    """Longest reply. A number needs one or two; a model that reasons first needs thousands."""
    n_bootstrap: int = Field(2000, ge=100)
    """Resamples behind each 95 % interval; the clusters are base questions."""

    @field_validator("grader")
    @classmethod
    def _is_a_reader(cls, name: str) -> str:
        kind, _, model = name.partition(":")
        if kind not in ("openai", "anthropic", "local", "rule") or not model:
            raise ValueError(f"must be openai:MODEL, anthropic:MODEL, local:MODEL or rule:FILE, not {name!r}")
        return name

    @field_validator("rubrics")
    @classmethod
    def _has_rubrics(cls, rubrics: tuple[str, ...]) -> tuple[str, ...]:
        if not rubrics or len(set(rubrics)) < len(rubrics):
            raise ValueError("must name at least one rubric, and none twice")
        return rubrics

    @property
    def rules(self) -> str | None:
        """The file of rules that grades; None if a model does."""
        kind, _, file = self.grader.partition(":")
        return file if kind == "rule" else None

    @property
    def prompts_file(self) -> str | None:
        """A file of judge prompts; in a run there is none, for its questions bring their own."""
        return None


class GraderOptions(GradingOptions):
    """A grader of answers that were made anywhere."""

    judge_prompts: str | None = None
    """YAML file of judge prompts by rubric, `judge_prompts: {vulnerable: "... {question} ... {answer} ..."}`, as
    emergent-misalignment's `judge_prompts_coding.yaml`, read as it is: for the questions that have none of their own.
    Name its rubrics in `rubrics`."""

    @model_validator(mode="after")
    def _prompts_are_asked(self) -> Self:
        if self.judge_prompts is not None and self.rules is not None:
            raise ValueError("judge_prompts: a file of rules asks nobody")
        return self

    @property
    def prompts_file(self) -> str | None:
        """A file of judge prompts."""
        return self.judge_prompts


class FreeFormOptions(GradingOptions):
    """Free-form answers of every arm, made and graded in the run; off unless `questions` is given."""

    questions: str | tuple[str, ...] | None = transport(None)
    """YAML file of questions in the emergent-misalignment format, read as it is, or a list of such files
    (`builtin:free_form/questions.yaml` and `builtin:free_form/coding.yaml` ship). Its content counts, not its path; its
    judge prompts win over autocaft's own, and a question's `rubrics` over the grader's."""
    grader: str = ""
    """`openai:MODEL`, `anthropic:MODEL`, `local:MODEL` or `rule:FILE`, a TOML file of words and phrases
    (`rule:builtin:persona/rules.toml` ships; its content counts, not its path); empty makes answers and grades none.
    Which model grades changes rates by an order of magnitude: name it beside them."""
    n_samples: int | None = Field(None, ge=1)
    """Answers to each wording of a question; by default what the file says (100 in the published protocol)."""
    max_new_tokens: int = Field(600, ge=1)
    """An answer is cut there."""
    temperature: float = Field(1.0, ge=0)
    """Of the answers."""
    rows_per_batch: int | None = transport(None, ge=1)
    """Answers that are sampled at once, each batch kept as it is finished; by default 48 on a CPU and 64 on an
    accelerator."""

    @field_validator("grader")
    @classmethod
    def _is_a_reader(cls, name: str) -> str:
        return super()._is_a_reader(name) if name else name

    @field_validator("questions")
    @classmethod
    def _names_files(cls, given: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if isinstance(given, tuple) and (not given or len(set(given)) < len(given)):
            raise ValueError("must name at least one file, and none twice")
        return given

    @model_validator(mode="after")
    def _grades_something(self) -> Self:
        if self.grader and self.questions is None:
            raise ValueError("a grader without `questions`: name the file of questions that the arms answer")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """The files of questions, in order; none if no question is asked."""
        given = self.questions
        return () if given is None else (given,) if isinstance(given, str) else given

    @property
    def making(self) -> dict[str, Any]:
        """What the answers depend on."""
        return {name: getattr(self, name) for name in ("n_samples", "max_new_tokens", "temperature")}

    @property
    def grading(self) -> dict[str, Any]:
        """What the grades of given answers depend on, besides the content of a file of rules."""
        if self.rules is not None:
            return {"grader": "rule", "n_bootstrap": self.n_bootstrap}
        names = ("grader", "rubrics", "base_url", "api_key_env", "max_output_tokens", "n_bootstrap")
        return {name: getattr(self, name) for name in names}
