"""A trained model as one folder that transformers, vLLM and others load without an adapter.

In: the folder of a tune or train step. Out: a folder with full weights and the tokenizer.

The decision a reader would question: an adapter that was trained on quantized weights is merged into the weights that
they were quantized from. Quantized ones have no room for it; the merged model differs from the measured one by as much.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from autocaft.errors import DataError
from autocaft.model.load import has_adapter, load_tokenizer, load_trained
from autocaft.model.locate import Weights
from autocaft.rundir.files import replacing_folder


def merge_model(base: Weights, folder: Path, out: Path, *, dtype: torch.dtype) -> None:
    """Write the model in `folder` (an adapter beside `base`, or full weights) to `out`, as `dtype`.

    Raises:
        DataError: nothing trained is in the folder, or `out` is there already.
    """
    if not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        raise DataError(f"{folder} holds no trained model; give a finished step, as runs/my/train/caft-sae-auto/seed0")
    if out.exists():
        raise DataError(f"{out} exists; name another folder")
    model: Any = load_trained(base, folder, dtype=dtype, device=torch.device("cpu"))
    if has_adapter(model):
        model = model.merge_and_unload()
    with replacing_folder(out) as tmp:
        model.save_pretrained(tmp)
        load_tokenizer(base).save_pretrained(tmp)
