"""The planted concepts: what is in the file, and what is kept apart."""

from __future__ import annotations

import json
from collections import Counter

from autocaft.calibrate.planted import SPLITS, Planted, build_sentences, load_concepts, mining_documents
from autocaft.resources import eval_data_dir
from autocaft.rundir.files import sha256_of

FOLDER = eval_data_dir() / "planted"
ALL = [concept for split in SPLITS for concept in load_concepts(split)]


def test_the_file_is_the_one_whose_hash_is_kept() -> None:
    hashes = json.loads((FOLDER / "sha256.json").read_text())
    assert hashes == {name: sha256_of(FOLDER / name) for name in hashes}


def test_there_are_forty_concepts_in_eight_families_and_no_family_is_in_both_halves() -> None:
    assert len(ALL) == 40 and len({concept.name for concept in ALL}) == 40
    tuning, held_out = ({concept.family for concept in load_concepts(split)} for split in SPLITS)
    assert len(tuning) == len(held_out) == 4 and not tuning & held_out


def test_no_sentence_that_builds_a_direction_is_mined() -> None:
    for split in SPLITS:
        concepts = load_concepts(split)
        mined = " ".join(document.text for document in mining_documents(concepts))
        assert not any(sentence.text in mined for concept in concepts for sentence in build_sentences(concept))
        assert not any(set(concept.build) & set(concept.mine) for concept in concepts)


def test_a_word_belongs_to_one_concept() -> None:
    counts = Counter(word.lower() for concept in ALL for word in concept.words)
    assert [word for word, n in counts.items() if n > 1] == []


def test_a_build_sentence_knows_where_its_word_ends() -> None:
    for concept in ALL:
        for text, stop in build_sentences(concept):
            assert any(text[:stop].endswith(word) for word in concept.words)


def test_every_word_and_every_sentence_is_used() -> None:
    concept = Planted("c", "f", "a concept", ("one", "two", "three"), tuple(f"{n} {{w}}." for n in range(8)), ())
    used = [text.split()[0] for text, _ in build_sentences(concept)]
    assert len(used) == 12 and len(set(used)) >= 6
