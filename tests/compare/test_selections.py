"""Two bare selection files: the planted pair, kappa only where it exists, and errors that name the file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from statsmodels.stats.inter_rater import cohens_kappa

from autocaft.compare.selections import compare_selections
from autocaft.errors import ConfigError, DataError

HUMAN = {"model.layers.14": [3, 7, 9], "8": [1]}
AUTO = {"14": [3, 7, 11]}


def _file(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_planted_pair_equals_the_hand_computation(tmp_path: Path) -> None:
    found = compare_selections(_file(tmp_path, "h.json", HUMAN), _file(tmp_path, "a.json", AUTO))
    assert (found["n_human"], found["n_auto"], found["n_shared"]) == (4, 3, 2)
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 4)
    assert found["f1"] == pytest.approx(4 / 7)
    assert found["only_human"] == ["L8.1", "L14.9"] and found["only_auto"] == ["L14.11"]
    assert "kappa" not in found, "without the number of candidates there is no kappa"


def test_kappa_with_candidates_equals_statsmodels(tmp_path: Path) -> None:
    found = compare_selections(_file(tmp_path, "h.json", HUMAN), _file(tmp_path, "a.json", AUTO), candidates=40)
    assert found["kappa"] == pytest.approx(cohens_kappa([[2, 2], [1, 35]]).kappa)
    with pytest.raises(ConfigError, match="5 different directions"):
        compare_selections(tmp_path / "h.json", tmp_path / "a.json", candidates=4)


def test_an_empty_selection_has_no_precision(tmp_path: Path) -> None:
    found = compare_selections(_file(tmp_path, "h.json", HUMAN), _file(tmp_path, "a.json", {}), candidates=10)
    assert found["precision"] is None and found["recall"] == 0 and found["kappa"] == 0


def test_latents_and_pcs_of_one_index_are_two_directions(tmp_path: Path) -> None:
    both = _file(tmp_path, "both.json", {"sae": {"14": [3]}, "pca": {"14": [3]}})
    latent = _file(tmp_path, "latent.json", {"sae": {"model.layers.14": [3]}})
    assert compare_selections(both, latent)["n_shared"] == 1
    bare = _file(tmp_path, "bare.json", {"14": [3]})
    assert compare_selections(latent, bare)["n_shared"] == 1, "a bare file beside one kind means that kind"
    with pytest.raises(DataError, match=r"bare\.json does not say"):
        compare_selections(both, bare)


@pytest.mark.parametrize("content", ["{", "[3]", '{"14": ["3"]}', '{"14": [true]}', '{"14": [-1]}', '{"encoder": [3]}'])
def test_a_bad_file_is_named(content: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json"):
        compare_selections(_file(tmp_path, "h.json", HUMAN), _file(tmp_path, "a.json", content))


def _autocaft(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from autocaft.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_prints_a_table_or_json_and_errors_without_traceback(tmp_path: Path) -> None:
    human, auto = _file(tmp_path, "h.json", HUMAN), _file(tmp_path, "a.json", AUTO)
    assert "0.67" in _autocaft("compare", human, auto).stdout
    found = json.loads(_autocaft("compare", human, auto, "--candidates", "40", "--json").stdout)
    assert found == compare_selections(human, auto, 40)
    missing = _autocaft("compare", human, tmp_path / "none.json")
    assert missing.returncode == 4 and "none.json" in missing.stderr and "Traceback" not in missing.stderr
    assert _autocaft("compare", human).returncode == 4, "one file alone is no run folder"
    assert not (tmp_path / "compare.json").exists()
