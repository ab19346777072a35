"""The client against a real ComfyUI, and its parsers against hand-made bytes."""

from __future__ import annotations

import json
import socket
import struct
import sys
from pathlib import Path

import pytest

from comfyui_server import (
    ComfyUIError,
    ComfyUIServer,
    ServerEndedError,
    describe_failure,
    describe_refusal,
    follow,
    free_port,
    port_is_busy,
    websocket_messages,
)

PNG = b"\x89PNG\r\n\x1a\n"


def flat_picture(colour: int = 0xFF8000, width: int = 64, prefix: str = "flat") -> dict:
    size = {"width": width, "height": 48, "batch_size": 1}
    return {
        "1": {"class_type": "EmptyImage", "inputs": {**size, "color": colour}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


def frame(text: str, opcode: int = 1) -> bytes:
    """A websocket frame as a server sends it: final, unmasked (RFC 6455 section 5.2)."""
    payload = text.encode()
    if len(payload) < 126:
        return bytes([0x80 | opcode, len(payload)]) + payload
    if len(payload) < 65536:
        return bytes([0x80 | opcode, 126]) + struct.pack("!H", len(payload)) + payload
    return bytes([0x80 | opcode, 127]) + struct.pack("!Q", len(payload)) + payload


def received(sent: bytes) -> list[dict]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        return list(websocket_messages(ours, "/ws"))


def test_a_picture_comes_back(comfyui: ComfyUIServer) -> None:
    seen = []
    entry = comfyui.run(flat_picture(), lambda *step: seen.append(step))
    [(name, content)] = comfyui.images(entry).items()
    assert name.startswith("flat")
    assert content.startswith(PNG)
    assert struct.unpack("!II", content[16:24]) == (64, 48)
    assert seen == []  # neither node reports steps


def test_an_uploaded_picture_is_loaded(comfyui: ComfyUIServer, tmp_path: Path) -> None:
    made = comfyui.images(comfyui.run(flat_picture(width=40, prefix="upload")))
    sketch = tmp_path / 'my "sketch".png'
    sketch.write_bytes(next(iter(made.values())))
    workflow = flat_picture(prefix="uploaded")
    workflow["1"] = {"class_type": "LoadImage", "inputs": {"image": comfyui.upload_image(sketch)}}
    content = next(iter(comfyui.images(comfyui.run(workflow)).values()))
    assert struct.unpack("!II", content[16:24]) == (40, 48)


def test_a_refused_workflow_names_node_and_input(comfyui: ComfyUIServer) -> None:
    with pytest.raises(ComfyUIError, match=r"node 1 \(EmptyImage\).*smaller than min.*width"):
        comfyui.run(flat_picture(width=0))


def test_an_unknown_node_is_named(comfyui: ComfyUIServer) -> None:
    workflow = flat_picture()
    workflow["1"]["class_type"] = "NoSuchNode"
    with pytest.raises(ComfyUIError, match="NoSuchNode"):
        comfyui.submit(workflow)
    assert comfyui.object_info("NoSuchNode") == {}


def test_a_failing_node_is_named(comfyui: ComfyUIServer, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    workflow = flat_picture()
    workflow["1"] = {"class_type": "LoadImage", "inputs": {"image": comfyui.upload_image(broken)}}
    with pytest.raises(ComfyUIError, match=r"node 1 \(LoadImage\) failed: .*broken\.png"):
        comfyui.run(workflow, lambda *step: None)


def test_messages_of_each_length_are_read() -> None:
    texts = [json.dumps({"type": "x", "data": {"text": "y" * n}}) for n in (3, 300, 70_000)]
    binary = frame("preview", opcode=2)
    sent = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
    sent += frame(texts[0]) + binary + frame(texts[1]) + frame(texts[2])
    sent += frame("", opcode=8) + frame(texts[0])
    assert received(sent) == [json.loads(text) for text in texts]


def test_a_refused_websocket_is_an_error() -> None:
    with pytest.raises(ComfyUIError, match="404 Not Found"):
        received(b"HTTP/1.1 404 Not Found\r\n\r\n")


def test_follow_reports_only_its_own_prompt_and_ends() -> None:
    def progress(prompt: str, value: int) -> dict:
        return {
            "type": "progress",
            "data": {"prompt_id": prompt, "node": "7", "value": value, "max": 5},
        }

    done = {"type": "execution_success", "data": {"prompt_id": "mine"}}
    status = {"type": "status", "data": None}
    sent = [status, progress("mine", 1), progress("other", 2), progress("mine", 3), done]
    messages, seen = iter([*sent, progress("mine", 4)]), []
    follow(messages, "mine", lambda *step: seen.append(step))
    assert seen == [("7", 1, 5), ("7", 3, 5)]
    with pytest.raises(ServerEndedError, match="ended while"):
        follow(iter([progress("mine", 1)]), "mine", lambda *step: None)


def test_answers_are_described() -> None:
    assert "<html>" in describe_refusal(b"<html>")
    assert "out of disk" in describe_refusal(json.dumps({"error": "out of disk"}).encode())
    assert "interrupted" in describe_failure([["execution_start", {}]])
    data = {"node_id": "5", "node_type": "KSampler", "exception_message": "no memory\n"}
    expected = "node 5 (KSampler) failed: no memory"
    assert describe_failure([["execution_error", data]]) == expected


def test_busy_and_free_ports() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert port_is_busy(listener.getsockname()[1])
    assert not port_is_busy(free_port())


def test_a_server_that_does_not_start_shows_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("print('no flux capacitor'); raise SystemExit(3)")
    server = ComfyUIServer(Path(sys.executable), tmp_path, free_port(), tmp_path / "log.txt")
    with pytest.raises(ComfyUIError, match=r"exit code 3(.|\n)*no flux capacitor"), server:
        pass


def test_a_server_that_never_answers_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("import time; print('asleep'); time.sleep(60)")
    log = tmp_path / "log.txt"
    server = ComfyUIServer(Path(sys.executable), tmp_path, free_port(), log, seconds=1.0)
    with pytest.raises(ComfyUIError, match=r"no answer in 1 s"), server:
        pass
    assert server.process is not None
    assert server.process.poll() is not None
