"""Fixtures for tests against a real ComfyUI, whose folder COMFYUI_PATH names, and in a browser.

``python quickstart.py test`` sets that variable; without it those tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from comfyui_server import ComfyUIServer, free_port
from installation import link_pack

if TYPE_CHECKING:
    from playwright.sync_api import Browser

collect_ignore = ["inside_comfyui"]  # test_nodes_inside.py runs that folder in its own process

SHARED_FOLDERS = ("custom_nodes", "input", "models", "output", "temp", "user")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "msedge")
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)  # before -m selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"comfyui", "comfyui_folder"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("comfyui")


@pytest.fixture(scope="session")
def comfyui_folder() -> Path:
    """The folder of a real ComfyUI (it has main.py)."""
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        pytest.skip("COMFYUI_PATH is not set; 'python quickstart.py test' sets ComfyUI up")
    folder = Path(path)
    if not (folder / "main.py").is_file():
        raise FileNotFoundError(f"COMFYUI_PATH={path} is no ComfyUI folder: it has no main.py.")
    return folder


@pytest.fixture(scope="session")
def comfyui(comfyui_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running ComfyUI with this repository as its only pack, one for the whole test run.

    It is a client too: submit, wait, run, images, object_info, upload_image, log_text. Its
    models, input, output and custom_nodes folders lie in ``base``, apart from anybody's own.
    """
    with Server(comfyui_folder, tmp_path_factory.mktemp("comfyui")) as server:
        yield server


@pytest.fixture(scope="module")  # Playwright occupies the thread's event loop while it is open
def browser() -> Iterator[Browser]:
    """Chromium, without a window."""
    sync = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(CHROMIUM)} is installed")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=QUIET)
        yield browser
        browser.close()


class Server(ComfyUIServer):
    """A ComfyUI on the CPU that keeps all its files, and this pack, in one empty folder."""

    def __init__(self, comfyui: Path, base: Path, *more: str):
        self.base = base
        for name in SHARED_FOLDERS:
            (base / name).mkdir()
        link_pack(base / "custom_nodes")
        options = (*more, "--cpu", "--disable-api-nodes", "--base-directory", str(base))
        database = ("--database-url", f"sqlite:///{base / 'user' / 'comfyui.db'}")
        log = base / "server.log"
        super().__init__(Path(sys.executable), comfyui, free_port(), log, (*options, *database))
