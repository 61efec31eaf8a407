"""The planted cue, made anew for each test."""

from __future__ import annotations

import pytest

from tests.planted_cue import Planted, plant_cue


@pytest.fixture
def planted() -> Planted:
    return plant_cue()
