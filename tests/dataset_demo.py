"""The demo film, built once and kept in pytest's cache for later runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training.dataset.demo import build_demo, truth


@pytest.fixture(scope="session")
def demo_folder(request: pytest.FixtureRequest) -> Path:
    folder = Path(request.config.cache.mkdir("animesketch-demo"))  # type: ignore[union-attr]
    build_demo(folder)
    return folder


@pytest.fixture(scope="session")
def demo_truth(demo_folder: Path) -> dict[str, Any]:
    return truth(demo_folder)
