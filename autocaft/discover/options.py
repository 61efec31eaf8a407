"""Options of collect, decompose and mine. Light: imported when the command line starts."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from autocaft.rundir.options import Options, added, transport

Ranking = Literal["attribution", "difference", "sae-of-difference"]


class CollectOptions(Options):
    """Which texts are read, and at which of their tokens."""

    diff_text: Literal["train", "completions"] = "train"
    """Where tuned and base are compared: `train` on the training rows (the paper's toy tasks), `completions` on what
    the tuned model answers to generic prompts (the paper's way for emergent misalignment, where the training rows
    would show their topic and not the persona)."""
    positions: Literal["answer", "all"] = "all"
    """Tokens that are compared: the answer's only (the paper's emergent misalignment) or all (its toy tasks)."""
    n_generic: int = Field(default=600, ge=1)
    """Generic documents that are read for mining, for the mean and for training an SAE."""
    n_rows: int = Field(default=1000, ge=1)
    """Training rows that directions are sought in, drawn by a hash of their ids; the training itself reads all."""
    n_continuations: int = Field(default=10, ge=0)
    """Task-seeded documents for each of these rows: the base model's own continuations of the row's text."""
    continuation_tokens: int = Field(default=40, ge=1)
    """Tokens of a continuation."""
    n_completions: int = Field(default=600, ge=1)
    """Completions of the tuned model with `diff_text = "completions"`."""
    completion_tokens: int = Field(default=200, ge=1)
    """Tokens of a completion."""
    temperature: float = Field(default=1.0, ge=0.0)
    """Of continuations and completions."""
    max_tokens: int = Field(default=256, ge=2)
    """A longer document is cut there."""
    chat: bool = False
    """Put the prompts of generic text through the chat template when they are read. The template's opening, the same
    in every document, is then left out of all statistics."""
    store: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of the stored activations. Half precision is not offered: massive activations overflow it."""
    seed: int = 0
    """Of the sampled texts."""
    tokens_per_batch: int = transport(2048, ge=1)
    """Padded tokens of one forward pass. On a CPU fewer take less memory, and more are no faster."""
    rows_per_batch: int | None = transport(None, ge=1)
    """Rows that are sampled at once; by default 48 on a CPU and 64 on an accelerator."""
    shard_mb: int = Field(default=64, ge=1)
    """Megabytes of one activation file; memory while collecting and mining is a few of them. Where files end
    decides which rows a dictionary sees together, so another size gives another dictionary."""


class DecomposeOptions(Options):
    """Where directions come from and how many are kept for the judge."""

    sources: tuple[Literal["sae", "pca"], ...] = ("sae", "pca")
    """`pca`: principal components (`pcs` says of what); `sae`: latents of a dictionary."""
    pcs: Literal["difference", "independent", "contrast"] = "difference"
    """`difference`: of tuned minus base, by variance (the paper). `independent`: of the base model's activations on
    the training rows and their continuations, rotated until each coordinate is loud at few words (ICA) and a reader
    can name it. `contrast`, for rows that list their options: by what prompts of different answers differ, one kind of
    token at a time. The last two are to be removed with `train.basis = "covariance"`."""
    n_pcs: int = Field(default=20, ge=1)
    """Components a layer (the paper: 20; `independent` finds rare concepts from about 100 on)."""
    n_kinds: int = added(24, ge=1)
    """Kinds of tokens that `contrast` looks at one by one, at most."""
    sae: str = "train"
    """`train` (on the base model's activations collected here), a SAELens `release/sae_id`, a folder, or
    `hub:OWNER/REPO/FOLDER`. Folders are read in the formats of SAELens, dictionary_learning (`ae.pt`), Gemma Scope
    (`params.npz`) and sparsify (`sae.safetensors`). `{layer}` stands for the layer."""
    d_sae: int = Field(default=4096, ge=1)
    """Latents of a trained dictionary."""
    k: int = Field(default=24, ge=1)
    """Latents active at one token in a trained dictionary, or on average where the architecture is no `topk`."""
    sae_architecture: Literal["topk", "batchtopk", "matryoshka"] = "topk"
    """Of a trained dictionary: `topk` (k at every token), `batchtopk` (k a token on average over a batch; Bussmann et
    al. 2024) or `matryoshka` (the same, and the first sixteenth and the first quarter of the latents must reconstruct
    alone as well, so that general ones come first; Bussmann et al. 2025)."""
    sae_epochs: float = Field(default=3.0, gt=0)
    """Passes over the activations when a dictionary is trained."""
    sae_lr: float = Field(default=1e-3, gt=0)
    """Learning rate of a trained dictionary (Adam)."""
    sae_batch_size: int = Field(default=2048, ge=1)
    """Tokens of one step of dictionary training."""
    seed: int = 0
    """Of dictionary training."""
    rankings: tuple[Ranking, ...] = ("attribution", "difference", "sae-of-difference")
    """How latents are shortlisted; the candidates are the union (the paper uses all three)."""
    n_candidates: int = Field(default=100, ge=1)
    """Latents shortlisted by each ranking at each layer (the paper: 100)."""
    attribution_model: Literal["base", "tuned"] = "base"
    """Whose gradient ranks by attribution. The tuned model's loss on its training rows is near zero, and so is its
    gradient."""
    attribution_max_tokens: int | None = added(None, ge=8)
    """Training rows are cut there, from the end, where attribution reads them; by default they are read whole. A batch
    holds at least one row, so the longest one decides the memory. Rows that are all prompt then are left out."""
    always_on_share: float = Field(default=0.3, gt=0, le=1)
    """A latent active on a larger share of the tokens says nothing about a text; it is excluded and counted."""
    tokens_per_batch: int = transport(4096, ge=1)
    """Padded tokens of one forward pass."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.sources:
            raise ValueError("sources is empty; name `sae`, `pca` or both")
        if "sae" in self.sources and not self.rankings:
            raise ValueError("rankings is empty; latents need at least one")
        if self.sae == "train" and self.k > self.d_sae:
            raise ValueError(f"k = {self.k} is more than d_sae = {self.d_sae}")
        return self


class DecoyOptions(Options):
    """Random directions that go among the cards of a review: does a person see the concept in nothing?"""

    n_random: int = Field(default=3, ge=0)
    """How many, at each layer and of each kind that is reviewed: live latents that are no candidates, and random unit
    vectors beside components. They are mined like candidates; no judge, rule or arm sees them. 0: none."""
    seed: int = 0
    """Of the draw."""


class MineOptions(Options):
    """How many windows a direction is shown by, and how wide they are."""

    window: int = Field(default=15, ge=1)
    """Tokens on each side of the strongest one."""
    n_describe: int = Field(default=10, ge=1)
    """Windows of each pole that whoever names the direction sees."""
    n_verify: int = Field(default=10, ge=1)
    """Windows of each pole that check the name; no document is in both."""
    max_overlap: float = Field(default=0.6, gt=0, le=1)
    """Windows of one direction that share more than this of their word triples are near-duplicates; one is kept."""
    n_loss_rows: int = Field(default=0, ge=0)
    """Rows on which the tuned model's loss is measured with each direction alone ablated (0: not measured; 24 are
    enough to see what matters). Of the split `val` where there is one, else training rows: the cue is intact in both.
    Shown to people; no judge and no rule reads it. It takes a pass of the upper blocks for each direction."""
    tokens_per_chunk: int = transport(4096, ge=1)
    """Tokens whose projections are held at once."""
