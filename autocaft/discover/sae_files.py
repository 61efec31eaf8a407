"""Dictionaries in the formats of other libraries, read from a folder, checked, and made SAELens SAEs.

    ae.pt, config.json           dictionary_learning: ReLU, TopK, BatchTopK, Matryoshka BatchTopK, JumpReLU
    params.npz                   Gemma Scope: JumpReLU
    sae.safetensors, cfg.json    EleutherAI's sparsify: TopK

In: a folder. Out: an SAE whose encode is that of the library which wrote the folder. The files may come from strangers:
a pickle is read as weights only, an npz without pickles, no path that a config names is followed, and shapes are held
against each other and against the bytes that are there before anything is copied.

The decision a reader would question: BatchTopK is read as JumpReLU with the one threshold that its training measured,
as its library does at inference. The top of a batch would make a token's latents depend on the tokens beside it.
"""

from __future__ import annotations

import math
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from autocaft.errors import DataError, ModelError
from autocaft.rundir.files import read_json

HUB = "hub:"
MAX_CONFIG_BYTES = 1 << 20
MAX_PACKING = 20
"""Weights do not compress: a member of an archive that unpacks to more than this many times its size is a trap."""
READ_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, MemoryError, pickle.UnpicklingError,
               zipfile.BadZipFile, SafetensorError, DataError)  # fmt: skip
"""What readers of files from elsewhere raise; RecursionError (a config of ten thousand brackets) is a RuntimeError."""


@dataclass(frozen=True)
class _Parts:
    """A dictionary's weights as they were found, still unchecked, in SAELens's orientation."""

    W_enc_DS: Tensor
    b_enc_S: Tensor
    W_dec_SD: Tensor
    b_dec_D: Tensor
    k: int | None = None
    """Latents kept at a token (TopK)."""
    threshold: Tensor | None = None
    """Pre-activation that a latent must exceed, one for all or one each (JumpReLU); with neither: ReLU."""
    subtracts_b_dec: bool = True
    """Whether the decoder's bias is taken from the input before it is encoded."""
    hook_name: str | None = None
    """Where its activations come from, as far as the files say, in SAELens's words."""


def is_foreign(folder: Path) -> bool:
    """Whether the folder holds a dictionary in one of these formats."""
    return any((folder / name).is_file() for name in _READERS)


def read_foreign(folder: Path) -> Any:
    """The dictionary in a folder as a SAELens SAE in fp32 on the CPU.

    Raises:
        ModelError: the files cannot be read, do not fit each other, or hold what is no number.
    """
    name = next(name for name in _READERS if (folder / name).is_file())
    try:
        return _as_sae(_checked(_READERS[name](folder / name)))
    except READ_ERRORS as error:
        raise ModelError(
            f"{folder / name} cannot be used as a dictionary: {_said(error)}. Nothing in it was run. Compare it with "
            "where it was published and download it again, or name another dictionary"
        ) from error


def fetch(place: str) -> Path:
    """The folder behind `hub:OWNER/REPO/FOLDER`, downloaded or from the Hub's cache.

    Raises:
        ModelError: the Hub did not give it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    owner, _, rest = place.removeprefix(HUB).partition("/")
    repo, _, folder = rest.partition("/")
    names = (*_READERS, "config.json", "cfg.json", "sae_weights.safetensors")
    patterns = [f"{folder}/{name}" if folder else name for name in names]
    try:
        found = Path(snapshot_download(f"{owner}/{repo}", allow_patterns=patterns)) / folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{place}: the Hugging Face Hub did not give it ({type(error).__name__}). Check the name (hub:OWNER/REPO/"
            "FOLDER), log in for a gated repository (hf auth login), or give a local folder"
        ) from error
    if not found.is_dir():
        raise ModelError(
            f"{place}: the repository {owner}/{repo} has no dictionary in {folder!r}; look there for its name"
        )
    return found


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if not isinstance(error, ValueError) else text[:300]


def _dictionary_learning(path: Path) -> _Parts:
    config = _config(path.with_name("config.json")).get("trainer")
    if not isinstance(config, dict):
        raise ValueError("its config.json has no table `trainer`")
    kind = config.get("dict_class")
    if kind not in ("AutoEncoder", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"):
        raise ValueError(f"its dict_class {kind!r} is not known here")
    found = _load_pt(path)
    is_linear = "encoder.weight" in found
    k = _whole(found["k"]) if kind == "AutoEncoderTopK" else None
    has_threshold = kind not in ("AutoEncoder", "AutoEncoderTopK")
    return _Parts(
        found["encoder.weight"].mT if is_linear else found["W_enc"],
        found["encoder.bias"] if is_linear else found["b_enc"],
        found["decoder.weight"].mT if is_linear else found["W_dec"],
        found["bias"] if kind == "AutoEncoder" else found["b_dec"],
        k=k,
        threshold=found["threshold"] if has_threshold else None,
        subtracts_b_dec=kind != "JumpReluAutoEncoder",
        hook_name=_hook_name(config),
    )


def _hook_name(config: Mapping[str, Any]) -> str | None:
    """dictionary_learning names a place `resid_post_layer_12` and gives the layer beside it."""
    layer, place = config.get("layer"), config.get("submodule_name")
    kind = re.sub(r"_layer_\d+$", "", place) if isinstance(place, str) else "resid_post"
    return f"blocks.{layer}.hook_{kind}" if isinstance(layer, int) else None


def _gemma_scope(path: Path) -> _Parts:
    found = _load_npz(path, ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"))
    layers = [match[1] for part in path.absolute().parts if (match := re.fullmatch(r"layer_(\d+)", part))]
    return _Parts(
        found["W_enc"],
        found["b_enc"],
        found["W_dec"],
        found["b_dec"],
        threshold=found["threshold"],
        subtracts_b_dec=False,
        hook_name=f"blocks.{layers[-1]}.hook_resid_post" if layers else None,
    )


def _sparsify(path: Path) -> _Parts:
    from safetensors.torch import load_file

    config = _config(path.with_name("cfg.json"))
    if config.get("transcode") or config.get("skip_connection"):
        raise ValueError(
            "it is a transcoder: it predicts another place's activations and has no directions of this one"
        )
    if config.get("activation", "topk") != "topk":
        raise ValueError(f"its activation {config['activation']!r} is not known here; only topk is")
    found = load_file(path)
    place = re.fullmatch(r"layers\.(\d+)(?:\.(\w+))?", path.parent.name)
    kind = "resid_post" if place is None or place[2] is None else f"{place[2]}_out"
    return _Parts(
        found["encoder.weight"].mT,
        found["encoder.bias"],
        found["W_dec"],
        found["b_dec"],
        k=_whole(config.get("k")),
        hook_name=None if place is None else f"blocks.{place[1]}.hook_{kind}",
    )


_READERS: dict[str, Callable[[Path], _Parts]] = {
    "ae.pt": _dictionary_learning,
    "params.npz": _gemma_scope,
    "sae.safetensors": _sparsify,
}
"""By the file that a format is known by."""


def _config(path: Path) -> dict[str, Any]:
    if path.is_file() and path.stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f"its {path.name} is larger than any configuration")
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"its {path.name} is no table")
    return found


def _whole(value: Any) -> int:
    """`k`, from a config or from a tensor of one value."""
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"its k is {number!r}, which is no number of latents")
    return number


def _load_pt(path: Path) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no archive of torch.save (older than torch 1.6, or no weights at all)")
    _check_packing(path)
    found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError("it holds more than tensors by name")
    return {str(name): tensor for name, tensor in found.items()}


def _load_npz(path: Path, names: tuple[str, ...]) -> dict[str, Tensor]:
    import numpy as np

    _check_packing(path)
    with zipfile.ZipFile(path) as archive:
        for name in names:
            with archive.open(f"{name}.npy") as file:
                _check_array(file, archive.getinfo(f"{name}.npy").file_size, name)
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in names}


def _check_packing(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.file_size > MAX_PACKING * max(member.compress_size, 1):
                raise ValueError(f"{member.filename[:80]!r} in it would unpack to {member.file_size:,} bytes")


def _check_array(file: IO[bytes], n_bytes: int, name: str) -> None:
    """numpy makes room for what a header claims before it reads: compare the claim with what is there."""
    import numpy as np

    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, dtype = readers[np.lib.format.read_magic(file)](file)
    if dtype.kind != "f":
        raise ValueError(f"{name} in it holds {dtype}, not numbers")
    if math.prod(shape) * dtype.itemsize > n_bytes:
        raise ValueError(f"{name} in it claims the shape {shape}, which is more than its {n_bytes:,} bytes")


def _checked(parts: _Parts) -> _Parts:
    """The parts in fp32 with one threshold a latent, after every check."""
    weights = {"W_enc": parts.W_enc_DS, "b_enc": parts.b_enc_S, "W_dec": parts.W_dec_SD, "b_dec": parts.b_dec_D}
    d_sae, d_in = parts.b_enc_S.numel(), parts.b_dec_D.numel()
    shapes = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    for name, tensor in weights.items():
        if tuple(tensor.shape) != shapes[name] or not tensor.numel():
            raise ValueError(f"{name} has the shape {tuple(tensor.shape)}, and {shapes[name]} would fit the others")
    if parts.k is not None and parts.k > d_sae:
        raise ValueError(f"its k is {parts.k}, and it has {d_sae} latents")
    W_dec_SD = _floats(parts.W_dec_SD, "W_dec")
    if not W_dec_SD.any():
        raise ValueError("all of its decoder rows have the norm zero, so it has no directions")
    return replace(
        parts,
        W_enc_DS=_floats(parts.W_enc_DS, "W_enc"),
        b_enc_S=_floats(parts.b_enc_S, "b_enc"),
        W_dec_SD=W_dec_SD,
        b_dec_D=_floats(parts.b_dec_D, "b_dec"),
        threshold=None if parts.threshold is None else _thresholds(parts.threshold, d_sae),
    )


def _thresholds(threshold: Tensor, d_sae: int) -> Tensor:
    """One a latent."""
    if tuple(threshold.shape) not in ((), (1,), (d_sae,)):
        raise ValueError(f"its threshold has the shape {tuple(threshold.shape)}; one value or {d_sae} would fit")
    found = _floats(threshold, "threshold")
    if (found < 0).any():
        raise ValueError(
            "its threshold is below zero: it was saved before its training measured one, so every latent would fire"
        )
    return found.expand(d_sae).contiguous()


def _floats(tensor: Tensor, name: str) -> Tensor:
    """As fp32, after a look at what is really there: a view may show one number as a million."""
    if not tensor.is_floating_point():
        raise ValueError(f"{name} holds {tensor.dtype}, not numbers with a fraction")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"{name} claims the shape {tuple(tensor.shape)}, which is more than its bytes")
    n_bad = int((~tensor.isfinite()).sum())
    if n_bad:
        raise ValueError(f"{name} holds {n_bad:,} values that are no numbers (NaN or infinity)")
    return tensor.float().contiguous()


@torch.no_grad()
def _as_sae(parts: _Parts) -> Any:
    from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
    from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
    from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

    d_sae, d_in = parts.W_dec_SD.shape
    common: dict[str, Any] = {
        "d_in": d_in, "d_sae": d_sae, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": parts.subtracts_b_dec, "normalize_activations": "none",
    }  # fmt: skip
    sae: Any
    if parts.k is not None:
        sae = TopKSAE(TopKSAEConfig(k=parts.k, rescale_acts_by_decoder_norm=False, **common))
    elif parts.threshold is not None:
        sae = JumpReLUSAE(JumpReLUSAEConfig(**common))
        sae.threshold.copy_(parts.threshold)
    else:
        sae = StandardSAE(StandardSAEConfig(**common))
    sae.W_enc.copy_(parts.W_enc_DS)
    sae.b_enc.copy_(parts.b_enc_S)
    sae.W_dec.copy_(parts.W_dec_SD)
    sae.b_dec.copy_(parts.b_dec_D)
    sae.cfg.metadata.hook_name = parts.hook_name
    return sae
