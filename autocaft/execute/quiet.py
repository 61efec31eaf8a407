"""What the libraries would print among what autocaft prints: bars, advice and warnings of their own."""

from __future__ import annotations

import logging
import os
import warnings


def quiet_libraries() -> None:
    """For this process and those that it starts; what matters of them is raised or logged.

    Call it before the libraries are imported, in every process of its own: levels of loggers are not inherited.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("WANDB_MODE", "disabled")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    # imported by peft wherever it is installed, and misses a package that would only make it faster
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
