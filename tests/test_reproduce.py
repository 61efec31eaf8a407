"""A run against here and now, and against itself made again; and the card beside each of its models."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from autocaft.cli.app import app
from autocaft.errors import ConfigError
from autocaft.report.model_card import model_card
from autocaft.rundir.files import read_json, sha256_of, write_json
from tests.hostile import payloads
from tests.tiny_task import write_task

ARMS = ("base", "tuned", "caft-pca-top", "caft-pca-top-inference", "tuned-stop-50")


def autocaft(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run twice: `one` and `one-again`."""
    folder = tmp_path_factory.mktemp("reproduce")
    config = write_task(folder / "task")
    sets = [f"arms={json.dumps(ARMS)}", 'decompose.sources=["pca"]', "tune.epochs=1"]
    options = [part for text in sets for part in ("--set", text)]
    autocaft("run", config, *options, "--runs", folder, "--name", "one")
    autocaft("run", folder / "one/config.toml", "--runs", folder, "--name", "one-again")
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "one", tmp_path / "one")
    return tmp_path / "one"


@pytest.mark.slow
def test_a_run_here_and_made_again_differs_in_nothing(made: Path) -> None:
    said = autocaft("reproduce", made / "one")
    assert said.startswith("nothing differs") and "--name one-again" in said
    assert autocaft("reproduce", made / "one", made / "one-again").startswith("both runs have the same")


@pytest.mark.slow
def test_other_versions_rows_and_settings_are_named(made: Path, copied: Path, tmp_path: Path) -> None:
    report = read_json(copied / "report.json")
    report["versions"]["torch"], report["threads"] = "1.0", 7
    write_json(copied / "report.json", report)
    rows = tmp_path / "rows.jsonl"
    rows.write_text((made / "task/id.jsonl").read_text() + (made / "task/final.jsonl").read_text())
    config = (copied / "config.toml").read_text()
    config = config.replace(f"{made}/task/id.jsonl", str(rows)).replace("lr = 0.003", "lr = 0.004")
    (copied / "config.toml").write_text(config)
    said = autocaft("reproduce", copied)
    assert "torch: 1.0 -> " in said and "threads: 7 -> 1" in said and "tune.lr: 0.003 -> 0.004" in said
    assert re.search(r"evaluate, input data\.id.*sha256 \w+\.\.\. -> \w+", said), said
    report["data"]["splits"]["ood"]["path"] = str(tmp_path / "gone.jsonl")
    write_json(copied / "report.json", report)
    assert "gone.jsonl): " in autocaft("reproduce", copied) and "not here" in autocaft("reproduce", copied)


@pytest.mark.slow
def test_what_came_out_otherwise_is_named_by_hash_and_by_figure(made: Path, copied: Path) -> None:
    place = "train/caft-pca-top/seed0/subspaces.safetensors"
    shutil.copy(made / "one/decompose/extents.safetensors", copied / place)
    report = read_json(copied / "report.json")
    metric = next(m for m in report["metrics"] if (m["arm"], m["split"], m["hooks"]) == ("tuned", "ood", "off"))
    metric["value"] = 0.123
    write_json(copied / "report.json", report)
    lines = autocaft("reproduce", made / "one", copied).splitlines()
    assert len(lines) == 2 and lines[0].startswith(f"sha256 {place}: ")
    assert lines[1].startswith("tuned, seed 0, hooks off: ood accuracy: ") and lines[1].endswith(" -> 0.123")


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finished run"):
        autocaft("reproduce", tmp_path)


# Cards


@pytest.mark.slow
def test_a_card_names_arm_subspaces_and_figures(made: Path) -> None:
    run_dir = made / "one"
    cards = {
        path.parents[1].relative_to(run_dir).as_posix(): path.read_text() for path in run_dir.rglob("model/README.md")
    }
    assert set(cards) == {"tune/seed0", "train/caft-pca-top/seed0", "train/tuned-stop-50/seed0"}
    card = cards["train/caft-pca-top/seed0"]
    assert f"sha256 `{sha256_of(run_dir / 'train/caft-pca-top/seed0/subspaces.safetensors')}`" in card
    for direction_id in read_json(run_dir / "train/caft-pca-top/seed0/set.json")["ids"]:
        assert f"- `{direction_id}`" in card
    metrics = read_json(run_dir / "report.json")["metrics"]
    value = next(m["value"] for m in metrics if (m["arm"], m["split"], m["hooks"]) == ("caft-pca-top", "ood", "off"))
    row = next(line for line in card.splitlines() if line.startswith("| `caft-pca-top`"))
    assert f"| {100 * value:.0f}% [" in row and "| `tuned` |" in card and "| `base` |" in card
    assert card.startswith("---\nlibrary_name: peft\n") and "nothing is ablated or added any more" in card
    assert "stopped after so many per cent" in cards["train/tuned-stop-50/seed0"]
    assert "subspaces.safetensors" not in cards["tune/seed0"] and "nothing was ablated" in cards["tune/seed0"]


@pytest.mark.slow
def test_nothing_that_a_judge_or_a_data_set_says_does_anything_on_a_card(made: Path) -> None:
    report: dict[str, Any] = read_json(made / "one/report.json")
    ids = read_json(made / "one/train/caft-pca-top/seed0/set.json")["ids"]
    for text in payloads():
        report["cards"] = [{"id": direction_id, "verdict": {"description": text}} for direction_id in ids]
        report["judge"]["undesired"] = text
        card = model_card(report, "caft-pca-top", 0, ids=ids, subspaces_sha256="0" * 64)
        bare = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", card)
        assert not re.search(r"(?<!\\)<\w", bare) and "](javascript" not in bare, text
