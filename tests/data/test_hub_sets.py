"""Data sets of the Hub, from a server on 127.0.0.1 that speaks its wire format: what is asked, kept and refused.

Each question is put by a process of its own: the Hub's address and its cache are read when its libraries are imported.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autocaft.data.sets import find_set
from tests.hub_server import Hub
from tests.tiny_task import write_task

ASK = """
import json, sys
from autocaft.data.rows import load_rows
from autocaft.data.sets import find_set
from autocaft.errors import DataError
for spec in sys.argv[2:]:
    try:
        found = find_set(spec, downloads=sys.argv[1] == "downloads")
        prompts = [row.prompt for row in load_rows(found.files)]
        answer = {"pinned": found.pinned, "identity": found.identity, "here": found.is_here, "prompts": prompts}
    except DataError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))
"""
AUDIT = """
import json, sys
from pathlib import Path
from autocaft.audit.options import AuditConfig
from autocaft.audit.run import Audit, pin_audit
from autocaft.run import write_lock
folder = Path(sys.argv[1])
sets = [{"files": sys.argv[2:], "each": True, "purpose": "says a"}]
config, pinned = pin_audit(AuditConfig.model_validate({"sets": sets}), folder)
write_lock(pinned, folder)
for downloads in (True, False):  # the audit's own process, and one of its workers
    for chosen in Audit(config, downloads=downloads).sets:
        files, why = [str(path) for path in chosen.files], list(chosen.why_missing.values())
        print(json.dumps({"set": chosen.name, "files": files, "why_missing": why}))
"""
CARD = b"""---
configs:
- config_name: plain
  default: true
  data_files: [{split: train, path: "plain/*.jsonl"}]
- config_name: other
  data_files: [{split: train, path: "other/*.jsonl"}, {split: test, path: "other/held/*"}]
---
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub().serving() as served:
        yield served


@pytest.fixture
def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "AUTOCAFT_CACHE": str(tmp_path / "ac")}
    return {**os.environ, **own, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_DISABLE_TELEMETRY": "1"}


@pytest.fixture
def ask(environment: dict[str, str]) -> Callable[..., list[dict[str, Any]]]:
    def run(
        *specs: str, downloads: bool = True, offline: bool = False, unreachable: bool = False
    ) -> list[dict[str, Any]]:
        words = [sys.executable, "-c", ASK, "downloads" if downloads else "none", *specs]
        env = environment | ({"HF_HUB_OFFLINE": "1"} if offline else {})
        env |= {"HF_ENDPOINT": "http://127.0.0.1:9"} if unreachable else {}
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def parquet(*prompts: str) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"prompt": prompt, "answer": "a"} for prompt in prompts]), file)
    return file.getvalue()


def jsonl(*prompts: str) -> bytes:
    return "".join(json.dumps({"prompt": prompt, "completion": "a"}) + "\n" for prompt in prompts).encode()


SHARDS = {"data/train-00000-of-00002.parquet": parquet("p0", "p1"), "data/train-00001-of-00002.parquet": parquet("p2")}


def test_a_set_is_read_pinned_kept_and_never_mixed_with_a_later_one(hub: Hub, ask: Any, tmp_path: Path) -> None:
    commit = hub.push("me/rows", {**SHARDS, "README.md": b"about", "data/test-00000-of-00001.parquet": parquet("t")})
    assert [answer["here"] for answer in ask("hub:me/rows", downloads=False)] == [False] and not hub.requests
    [first] = ask("hub:me/rows")
    assert first["prompts"] == ["p0", "p1", "p2"] and first["pinned"] == f"hub:me/rows:train@{commit}"
    assert not any("test-" in request for request in hub.requests), "another split is not downloaded"
    for n, content in enumerate(SHARDS.values()):
        (tmp_path / "local").mkdir(exist_ok=True)
        (tmp_path / "local" / f"{n}.parquet").write_bytes(content)
    assert find_set(str(tmp_path / "local")).identity == first["identity"], "content decides, not where it lies"

    later = hub.push("me/rows", {"rows.jsonl": jsonl("new")})
    hub.requests.clear()
    offline = ask("hub:me/rows", first["pinned"], offline=True)
    assert [answer["prompts"] for answer in offline] == [["p0", "p1", "p2"]] * 2
    assert ask(first["pinned"]) == ask("hub:me/rows", downloads=False) == [first] and not hub.requests
    kept, never_seen = ask("hub:me/rows", "hub:me/other", unreachable=True)
    assert kept == first and "hub:me/other: the Hugging Face Hub did not give it" in never_seen["error"]
    [new] = ask("hub:me/rows")
    assert new["prompts"] == ["new"] and new["pinned"] == f"hub:me/rows:train@{later}"
    hub.push("me/rows", {"test.jsonl": jsonl("t")})
    assert "no split 'train'; splits are test" in ask("hub:me/rows")[0]["error"], "no earlier state for what is no more"


def test_configs_and_splits_are_those_of_the_card(hub: Hub, ask: Any) -> None:
    files = {"plain/a.jsonl": jsonl("p"), "other/a.jsonl": jsonl("o"), "other/held/a.jsonl": jsonl("h")}
    hub.push("me/rows", {"README.md": CARD, **files})
    plain, other, held, no_split, no_config = ask(
        *(f"hub:me/rows{rest}" for rest in ("", "/other", "/other:test", ":test", "/none"))
    )
    assert [answer["prompts"] for answer in (plain, other, held)] == [["p"], ["o"], ["h"]]
    assert "no split 'test'; splits are train" in no_split["error"]
    assert "none" in no_config["error"] and "plain" in no_config["error"] and "other" in no_config["error"]


def test_what_cannot_be_read_is_refused_and_no_script_is_run(hub: Hub, ask: Any, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    hub.push("me/script", {"script.py": f"open({str(mark)!r}, 'w')".encode(), "data/train.jsonl": jsonl("p")})
    hub.push("me/table", {"train.csv": b"prompt,answer\\np,a\\n"})
    script, table, none = ask("hub:me/script", "hub:me/table", "hub:me/none")
    assert "scripts are no longer supported" in script["error"] and not mark.exists()
    assert "train.csv" in table["error"] and "hub:me/table:train@refs/convert/parquet" in table["error"]
    assert none["error"].startswith("hub:me/none: the Hugging Face Hub did not give it")
    assert "hf auth login" in none["error"]


def test_half_a_download_is_no_smaller_set(hub: Hub, ask: Any, tmp_path: Path) -> None:
    hub.push("me/rows", SHARDS)
    [whole] = ask("hub:me/rows")
    shard = next((tmp_path / "hf").rglob("train-00001-of-00002.parquet"))
    shard.unlink()
    [offline] = ask("hub:me/rows", offline=True)
    assert "did not give it" in offline["error"]
    assert ask("hub:me/rows", downloads=False)[0]["here"] is False
    assert ask("hub:me/rows") == [whole]


def test_an_audit_keeps_its_commits_and_a_set_that_is_not_given_stops_no_other(
    hub: Hub, environment: dict[str, str], tmp_path: Path
) -> None:
    commit = hub.push("me/rows", {"train.jsonl": jsonl("p")})

    def audit() -> list[dict[str, Any]]:
        words = [sys.executable, "-c", AUDIT, str(tmp_path / "audit"), "hub:me/none", "hub:me/rows"]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    found = audit()
    assert [line["set"] for line in found] == ["none", "rows"] * 2
    for none, rows in (found[:2], found[2:]):
        assert none["files"] == ["hub:me/none"] and "did not give it" in none["why_missing"][0]
        assert [file.endswith(f"{commit}/train.jsonl") for file in rows["files"]] == [True]
    hub.push("me/rows", {"train.jsonl": jsonl("another")})
    assert audit() == found, "the folder goes on with the commit it was begun with"


@pytest.mark.slow
def test_a_run_keeps_its_commit_and_a_plan_downloads_nothing(
    hub: Hub, environment: dict[str, str], tmp_path: Path
) -> None:
    config = write_task(tmp_path / "task")
    hub.push("me/tiny", {"data/train.jsonl": (tmp_path / "task/train.jsonl").read_bytes(), "README.md": b"about"})
    settings = ["data.train=hub:me/tiny", 'arms=["base"]', 'decompose.sources=["pca"]']
    words = [str(config), "--runs", str(tmp_path), *(word for setting in settings for word in ("--set", setting))]

    def autocaft(command: str) -> str:
        code = "from autocaft.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, command, *words], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    planned = autocaft("plan")
    assert "hub:me/tiny is not on this disk yet" in planned and "an unknown number of training rows" in planned
    assert not hub.requests and not (tmp_path / "tiny").exists()
    autocaft("run")
    commit, _ = hub.commit_of("me/tiny", "main")
    assert f'train = "hub:me/tiny:train@{commit}"' in (tmp_path / "tiny/config.toml").read_text()
    hub.push("me/tiny", {"data/train.jsonl": jsonl("another row")})
    hub.requests.clear()
    assert "everything is done" in autocaft("run") and not hub.requests, (
        "the folder goes on with what it was begun with"
    )
