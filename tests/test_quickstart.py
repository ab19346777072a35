"""The command line, the changes to the workflow, and the whole drawing path with a stand-in."""

from __future__ import annotations

import json
import socket
import struct
import sys
from pathlib import Path

import pytest

import quickstart
from comfyui_server import ComfyUIServer, ServerEndedError
from comfyui_workflow import WorkflowError
from installation import QuickstartError

WORKFLOW = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "reference.png"}},
    "2": {"class_type": "AnimeSketchNetApply", "inputs": {"model": ["9", 0], "alpha": 0.5}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a girl", "clip": ["9", 1]}},
    "4": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["9", 1]}},
    "5": {
        "class_type": "KSampler",
        "inputs": {"positive": ["3", 0], "negative": ["4", 0], "seed": 11, "steps": 50},
    },
}


def changed(*arguments: str) -> dict:
    return quickstart.changed_workflow(WORKFLOW, quickstart.parse_arguments(arguments))


def test_nothing_given_changes_nothing() -> None:
    assert changed() == WORKFLOW


def test_each_option_reaches_its_input() -> None:
    result = changed("--prompt", "a boy", "--alpha", "0", "--seed", "0", "--steps", "7")
    assert result["3"]["inputs"]["text"] == "a boy"
    assert result["4"]["inputs"]["text"] == "blurry"
    assert result["2"]["inputs"]["alpha"] == 0.0
    assert (result["5"]["inputs"]["seed"], result["5"]["inputs"]["steps"]) == (0, 7)
    assert WORKFLOW["5"]["inputs"]["seed"] == 11


def test_an_option_without_its_node_is_an_error() -> None:
    options = quickstart.parse_arguments(["--alpha", "0.3"])
    with pytest.raises(WorkflowError, match="no AnimeSketchNetApply node"):
        quickstart.changed_workflow({"3": WORKFLOW["3"]}, options)


def test_sketches_are_ours_or_the_users(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(quickstart, "SKETCHES", tmp_path)
    assert quickstart.sketch_files(WORKFLOW, None) == {}
    ours, theirs = tmp_path / "reference.png", tmp_path / "theirs.png"
    for path in (ours, theirs):
        path.touch()
    assert quickstart.sketch_files(WORKFLOW, None) == {"1": ours}
    assert quickstart.sketch_files(WORKFLOW, theirs) == {"1": theirs}
    with pytest.raises(QuickstartError, match=r"no picture .*missing\.png"):
        quickstart.sketch_files(WORKFLOW, tmp_path / "missing.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not JSON"), ('{"nodes": [], "links": []}', "no API workflow"), ("[]", "no API")],
)
def test_a_file_that_is_no_workflow_is_refused(tmp_path, text, message) -> None:
    path = tmp_path / "workflow.json"
    path.write_text(text)
    with pytest.raises(WorkflowError, match=message):
        quickstart.read_workflow(path)
    with pytest.raises(WorkflowError, match="There is no workflow"):
        quickstart.read_workflow(tmp_path / "missing.json")


def test_a_busy_port_is_an_error_and_none_means_a_free_one() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(QuickstartError, match=f"Port {port} is busy"):
            quickstart.choose_port(port)
        assert quickstart.choose_port(None) != port
    with pytest.raises(QuickstartError, match="not 70000"):
        quickstart.choose_port(70_000)


def test_an_old_python_is_told_what_to_do() -> None:
    with pytest.raises(QuickstartError, match=r"this is 3\.9"):
        quickstart.check_python((3, 9))
    quickstart.check_python((3, 10))


def test_pictures_get_free_names(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(quickstart, "OUTPUT", tmp_path / "output")
    names = [quickstart.save_pictures({"a.png": bytes([n])})[0].name for n in range(3)]
    assert names == ["a.png", "a-2.png", "a-3.png"]
    assert (tmp_path / "output" / "a-2.png").read_bytes() == b"\1"
    with pytest.raises(QuickstartError, match="SaveImage"):
        quickstart.save_pictures({})


def test_errors_end_with_1_and_ctrl_c_with_130(monkeypatch, capsys, tmp_path) -> None:
    assert quickstart.main(["--workflow", str(tmp_path / "none.json")]) == 1
    assert "quickstart: There is no workflow" in capsys.readouterr().err

    def interrupt(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(quickstart, "draw", interrupt)
    assert quickstart.main([]) == 130


def test_test_hands_its_arguments_to_pytest(monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(quickstart, "find_comfyui", lambda given: None)
    monkeypatch.setattr(quickstart, "prepare_venv", lambda given: (Path("py"), Path("ComfyUI")))
    monkeypatch.setattr(quickstart, "install", lambda *arguments: None)
    monkeypatch.setattr(
        quickstart,
        "passes",
        lambda python, check, environment: seen.append((check, environment["COMFYUI_PATH"])),
    )
    assert quickstart.main(["test", "-k", "resampler"]) == 1
    assert [check[0] for check, _ in seen] == ["ruff", "ruff", "pyright", "pytest"]
    assert seen[-1] == (["pytest", "-k", "resampler"], "ComfyUI")


@pytest.fixture
def picture_workflow(tmp_path: Path) -> Path:
    workflow = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "sketch.png"}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "q"}},
    }
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(workflow))
    return path


@pytest.fixture
def started(comfyui: ComfyUIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the test run's server in the place of a new one; returns the output folder."""
    python = Path(sys.executable)
    monkeypatch.setattr(quickstart, "prepare", lambda given: (python, tmp_path))
    monkeypatch.setattr(quickstart, "link_pack", lambda custom_nodes: None)
    monkeypatch.setattr(quickstart, "OUTPUT", tmp_path / "output")
    monkeypatch.setattr(ComfyUIServer, "__enter__", lambda self: comfyui)
    monkeypatch.setattr(ComfyUIServer, "__exit__", lambda self, *exception: None)
    monkeypatch.setattr(quickstart, "has_accelerator", lambda python: False)
    return tmp_path / "output"


def test_draws_the_users_sketch(comfyui, started, picture_workflow, tmp_path, capsys) -> None:
    made = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 24, "height": 40, "batch_size": 1, "color": 0},
        },
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "in"}},
    }
    sketch = tmp_path / "mine.png"
    sketch.write_bytes(next(iter(comfyui.images(comfyui.run(made)).values())))
    arguments = ["--workflow", str(picture_workflow), "--sketch", str(sketch)]
    assert quickstart.main(arguments) == 0
    [saved] = started.iterdir()
    assert f"Saved {saved}" in capsys.readouterr().out
    assert struct.unpack("!II", saved.read_bytes()[16:24]) == (24, 40)


def test_a_refused_workflow_is_explained(started, picture_workflow, capsys) -> None:
    assert quickstart.main(["--workflow", str(picture_workflow)]) == 1  # sketch.png is not there
    message = capsys.readouterr().err
    assert "node 1 (LoadImage)" in message
    assert "sketch.png" in message
    assert "server.log" in message


def test_a_server_that_dies_shows_its_last_words(tmp_path, monkeypatch) -> None:
    server = ComfyUIServer(Path(sys.executable), tmp_path, 1, tmp_path / "server.log")
    server.log.write_text("Killed\n")

    def die(self: object, *arguments: object) -> None:
        raise ServerEndedError("ComfyUI ended")

    monkeypatch.setattr(ComfyUIServer, "run", die)
    with pytest.raises(QuickstartError, match=r"ComfyUI ended\nThe last lines(.|\n)*Killed"):
        quickstart.run(server, WORKFLOW)


def test_a_pack_that_does_not_load_is_explained(comfyui) -> None:
    workflow = {"1": {"class_type": "AnimeSketchNetNoSuchNode", "inputs": {}}}
    with pytest.raises(QuickstartError, match="did not load AnimeSketchNetNoSuchNode"):
        quickstart.check_pack(comfyui, workflow)
