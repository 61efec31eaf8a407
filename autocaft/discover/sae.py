"""A dictionary of latents for one layer: loaded from a folder, or trained on the spot with SAELens's trainer.

In: a spec, or the stored base activations. Out: a `Dictionary`, which encodes raw activations, and, if it was trained
here, a folder in SAELens's format that any of its tools reads. Other libraries' formats are read in sae_files.py.

Trained dictionaries see activations minus their mean, scaled to unit mean norm; both are folded into the weights
afterwards, so encode takes the model's own activations and each decoder row is a unit direction in its residual stream.
What it is trained on decides everything: on neutral text alone a small dictionary has no latent for the concept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autocaft.discover.options import DecomposeOptions
from autocaft.discover.sae_files import HUB, READ_ERRORS, fetch, is_foreign, read_foreign
from autocaft.discover.shards import ShardReader
from autocaft.errors import ConfigError, ModelError
from autocaft.model.load import default_device, multiplies_bf16
from autocaft.rundir.files import replacing_folder
from autocaft.rundir.progress import Progress

ROWS = 4096
"""Rows that are read at once where nothing else sets it."""


def rows_at_once(d_sae: int) -> int:
    """Rows to encode at once, so that their latent activations take some 64 MB whatever the dictionary's size."""
    return max(16, 2**24 // d_sae)


@dataclass(frozen=True)
class Dictionary:
    """An SAE and the unit directions of its latents."""

    sae: Any
    directions_SD: Tensor
    """Decoder rows at unit length."""
    row_norm_S: Tensor

    @classmethod
    def of(cls, sae: Any) -> Dictionary:
        """Wrap a SAELens SAE."""
        W_dec = sae.W_dec.detach().float()
        row_norm_S = W_dec.norm(dim=1)
        # A row of zeros is no direction: its latent has no activation either, and so counts as dead.
        return cls(sae.eval(), W_dec / row_norm_S.clamp_min(1e-12)[:, None], row_norm_S)

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return len(self.directions_SD)

    @property
    def d_in(self) -> int:
        """Width of the activations."""
        return int(self.directions_SD.shape[1])

    @torch.no_grad()
    def encode(self, acts_ND: Tensor) -> Tensor:
        """Latent activations (N, S) of raw residual-stream activations, in lengths along the unit direction."""
        acts_ND = acts_ND.to(self.directions_SD.device)
        return self.sae.encode(acts_ND.to(self.sae.dtype)).float() * self.row_norm_S

    def to(self, device: torch.device | str) -> Dictionary:
        """The same dictionary on another device."""
        return Dictionary(self.sae.to(device), self.directions_SD.to(device), self.row_norm_S.to(device))


@dataclass(frozen=True)
class LatentStats:
    """How a dictionary's latents behave on the mining texts."""

    share_S: Tensor
    """Share of tokens on which the latent is active."""
    peak_S: Tensor
    """Largest activation."""
    explained_variance: float
    """Share of the activations' variance that the dictionary reconstructs."""

    def dead_S(self) -> Tensor:
        """Never active."""
        return self.share_S == 0

    def always_on_S(self, share: float) -> Tensor:
        """Active on more than this share of the tokens."""
        return self.share_S > share


def load_dictionary(
    spec: str, layer: int, *, width: int, device: torch.device | str = "cpu", key: str = "decompose.sae"
) -> Dictionary:
    """A dictionary from a folder (SAELens's format, or one of sae_files.py), `hub:OWNER/REPO/FOLDER`, or a SAELens
    `release/sae_id`; `{layer}` is filled in.

    Args:
        key: the setting that names it, for messages.

    Raises:
        ModelError: it is not there, cannot be read, or was made for another width or hookpoint.
    """
    place = spec.replace("{layer}", str(layer))
    try:
        dictionary = Dictionary.of(_load(place).to(device))
    except READ_ERRORS as error:
        raise ModelError(
            f"{key} = {spec!r}: no dictionary for layer {layer} ({type(error).__name__}: {str(error)[:200]}). "
            'Give "train", a SAELens release/sae_id, hub:OWNER/REPO/FOLDER, or a folder: of SAELens (cfg.json, '
            "sae_weights.safetensors), dictionary_learning (ae.pt), Gemma Scope (params.npz) or sparsify "
            "(sae.safetensors)"
        ) from error
    _check_fits(dictionary, f"{key} = {spec!r}", layer, width)
    return dictionary


def _load(place: str) -> Any:
    """A SAELens SAE from wherever the spec points."""
    from sae_lens import SAE

    folder = fetch(place) if place.startswith(HUB) else Path(place)
    if is_foreign(folder):
        return read_foreign(folder)
    if (folder / "cfg.json").is_file():
        return SAE.load_from_disk(folder, device="cpu")
    release, _, sae_id = place.partition("/")
    return SAE.from_pretrained(release, sae_id, device="cpu")


def _check_fits(dictionary: Dictionary, named: str, layer: int, width: int) -> None:
    if dictionary.d_in != width:
        raise ModelError(f"{named}: made for activations of width {dictionary.d_in}, the model's width is {width}")
    for name, weight in dictionary.sae.named_parameters():
        if not weight.isfinite().all():
            raise ModelError(
                f"{named}, layer {layer}: {name} holds values that are no numbers (NaN or infinity); "
                "take it from where it was published once more"
            )
    metadata = dictionary.sae.cfg.metadata
    hook_name = metadata.get("hook_name") if hasattr(metadata, "get") else getattr(metadata, "hook_name", None)
    expected = {f"blocks.{layer}.hook_resid_post", f"blocks.{layer + 1}.hook_resid_pre"}
    if re.fullmatch(r"blocks\.\d+\.[\w.]+", hook_name or "") and hook_name not in expected:
        raise ModelError(
            f"{named}: made for {hook_name}, but layer {layer} is the value after block {layer} "
            f"({' or '.join(sorted(expected))}); put {{layer}} into the name, or choose that layer"
        )


def check_spec(spec: str, n_layers: int) -> None:
    """Fail early on a spec that would give one dictionary to several layers.

    Raises:
        ConfigError: more than one layer and no `{layer}`.
    """
    if spec != "train" and n_layers > 1 and "{layer}" not in spec:
        raise ConfigError(f"decompose.sae = {spec!r} is one dictionary for {n_layers} layers; put {{layer}} into it")


def train_dictionary(
    reader: ShardReader, layer: int, mean_D: Tensor, *, options: DecomposeOptions, folder: Path, progress: Progress
) -> Dictionary:
    """Train a dictionary on the stored activations and save it; `folder` appears when it is whole."""
    scale = _mean_centred_norm(reader, layer, mean_D)
    sae = _fit(reader, layer, mean_D, scale, options, default_device(), progress)
    folded = _folded(sae, mean_D, scale, layer)
    if options.sae_architecture != "topk":
        folded = _with_threshold(folded, next(reader.shuffled(layer, min(ROWS, reader.n_rows), seed=options.seed)))
    with replacing_folder(folder) as path:
        folded.save_model(path)
    return Dictionary.of(folded)


def _mean_centred_norm(reader: ShardReader, layer: int, mean_D: Tensor) -> float:
    total = sum(float((acts_ND - mean_D).norm(dim=1).sum()) for acts_ND in reader.in_order(layer, ROWS))
    return total / reader.n_rows


def _fit(
    reader: ShardReader,
    layer: int,
    mean_D: Tensor,
    scale: float,
    options: DecomposeOptions,
    device: torch.device,
    progress: Progress,
) -> Any:
    """SAELens's trainer, driven step by step (its own loop prints a bar)."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    batch_size = min(options.sae_batch_size, reader.n_rows)
    n_steps = max(1, int(reader.n_rows * options.sae_epochs) // batch_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed + 1000 * layer)
        sae = _untrained(reader.d_model, options, str(device))
    config = SAETrainerConfig(
        total_training_samples=n_steps * batch_size,
        train_batch_size_samples=batch_size,
        lr=options.sae_lr,
        lr_end=options.sae_lr,
        device=str(device),
        autocast=multiplies_bf16(device),
        logger=LoggingConfig(log_to_wandb=False),
    )
    batches = _endless(reader, layer, batch_size, options.seed)
    trainer = SAETrainer(config, sae.to(device), batches)
    with progress.task(f"dictionary of layer {layer}", n_steps * batch_size, "tokens") as advance:
        for _ in range(n_steps):
            trainer.step((next(batches) - mean_D) / scale)
            trainer.n_training_steps += 1
            advance(batch_size)
    trainer.set_final_sae_metadata()
    return sae.to("cpu")


def _untrained(d_in: int, options: DecomposeOptions, device: str) -> Any:
    """SAELens's trainable dictionary of the asked architecture."""
    import sae_lens

    sizes = {"d_in": d_in, "d_sae": options.d_sae, "k": options.k, "device": device}
    if options.sae_architecture == "topk":
        return sae_lens.TopKTrainingSAE(sae_lens.TopKTrainingSAEConfig(**sizes))
    if options.sae_architecture == "batchtopk":
        return sae_lens.BatchTopKTrainingSAE(sae_lens.BatchTopKTrainingSAEConfig(**sizes))
    widths = [max(1, options.d_sae // 16), max(2, options.d_sae // 4), options.d_sae]
    config = sae_lens.MatryoshkaBatchTopKTrainingSAEConfig(**sizes, matryoshka_widths=widths)
    return sae_lens.MatryoshkaBatchTopKTrainingSAE(config)


def _endless(reader: ShardReader, layer: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    epoch = 0
    while True:
        yield from reader.shuffled(layer, batch_size, seed=seed * 100_003 + epoch)
        epoch += 1


@torch.no_grad()
def _folded(sae: Any, mean_D: Tensor, scale: float, layer: int) -> Any:
    """The trained SAE for raw activations: centring, scale and decoder norms go into the weights.

    With x' = (x - mean) / scale, latent pre-activations become `scale` times as large, so that they are lengths in the
    model's own units; top-k does not mind.
    """
    from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

    assert sae.cfg.rescale_acts_by_decoder_norm and sae.cfg.apply_b_dec_to_input, sae.cfg
    folded = TopKSAE(TopKSAEConfig(d_in=sae.cfg.d_in, d_sae=sae.cfg.d_sae, k=sae.cfg.k, dtype="float32", device="cpu"))
    norm_S = sae.get_W_dec_norm().float()
    folded.W_enc.copy_(sae.W_enc * norm_S)
    folded.b_enc.copy_(sae.b_enc * norm_S * scale)
    folded.W_dec.copy_(sae.W_dec / norm_S[:, None])
    folded.b_dec.copy_(sae.b_dec * scale + mean_D)
    folded.cfg.metadata.hook_name = f"blocks.{layer}.hook_resid_post"
    return folded


@torch.no_grad()
def _with_threshold(folded: Any, acts_ND: Tensor) -> Any:
    """A dictionary that was trained with k active latents a token on average, for use on one token at a time: a latent
    is active above the value that k a token exceed on these activations (N, D).

    SAELens keeps a running mean of that value instead; in the few hundred steps of a small dictionary it has not left
    its start at zero.
    """
    from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig

    pre_NS = (acts_ND - folded.b_dec) @ folded.W_enc + folded.b_enc
    n_active = min(int(folded.cfg.k * len(acts_ND)), int((pre_NS > 0).sum()))
    threshold = pre_NS.flatten().topk(n_active).values[-1]
    config = JumpReLUSAEConfig(d_in=folded.cfg.d_in, d_sae=folded.cfg.d_sae, dtype="float32", device="cpu")
    gated = JumpReLUSAE(config)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        getattr(gated, name).copy_(getattr(folded, name))
    gated.threshold.fill_(float(threshold) * (1 - 1e-6))
    gated.cfg.metadata.hook_name = folded.cfg.metadata.hook_name
    return gated


@torch.no_grad()
def measure(dictionary: Dictionary, reader: ShardReader, layer: int, mean_D: Tensor) -> LatentStats:
    """One pass over the stored activations: how often and how strongly each latent is active."""
    n_active_S = torch.zeros(dictionary.d_sae)
    peak_S = torch.zeros(dictionary.d_sae)
    error = total = 0.0
    for acts_ND in reader.in_order(layer, rows_at_once(dictionary.d_sae)):
        latents_NS = dictionary.encode(acts_ND)
        n_active_S += (latents_NS > 0).sum(dim=0).float().cpu()
        peak_S = torch.maximum(peak_S, latents_NS.amax(dim=0).cpu())
        decoded_ND = (latents_NS @ dictionary.directions_SD + dictionary.sae.b_dec.float()).cpu()
        error += float((acts_ND - decoded_ND).square().sum())
        total += float((acts_ND - mean_D).square().sum())
    return LatentStats(n_active_S / reader.n_rows, peak_S, 1.0 - error / max(total, 1e-12))
