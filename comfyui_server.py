"""A ComfyUI server as a child process, and a client for its HTTP API and its progress messages.

Standard library only, since quickstart.py starts it before anything is installed. The routes are
ComfyUI's own (https://docs.comfy.org/development/comfyui-server/comms_routes); the progress
messages come over a websocket (RFC 6455), of which the reading half is all that is needed.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    # ComfyUI's API form: {"<node id>": {"class_type": str, "inputs": {...}}, ...}
    Workflow = dict[str, dict[str, Any]]
    OnProgress = Callable[[str, int, int], None]  # node id, steps done, steps in all
    Messages = Generator[dict[str, Any], None, None]  # {"type": ..., "data": {...}}

HOST = "127.0.0.1"
START_SECONDS = 300.0  # a cold disk and many custom nodes; a warm start takes 10 to 20 seconds


class ComfyUIError(RuntimeError):
    """ComfyUI did not start, refused a workflow, or failed while it ran one."""


class ServerEndedError(ComfyUIError):
    """The server's process is gone; only its log can say why."""


def free_port() -> int:
    """Returns a loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def port_is_busy(port: int) -> bool:
    """Says whether something accepts connections on the loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


class ComfyUIClient:
    """Talks to a ComfyUI server, on this machine or in its network."""

    def __init__(self, port: int, host: str = HOST):
        self.port = port
        self.host = host
        self.url = f"http://{host}:{port}"
        # Proxy settings are for the outside world, never for loopback.
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def get(self, path: str, **query: str) -> bytes:
        """Returns the body that the server answers with."""
        parameters = f"?{urllib.parse.urlencode(query)}" if query else ""
        with self._open(f"{self.url}{path}{parameters}", timeout=60) as reply:
            return reply.read()

    def object_info(self, node: str = "") -> dict[str, Any]:
        """Returns the server's description of one node class, or of all; {} for an unknown one."""
        return json.loads(self.get(f"/object_info/{node}" if node else "/object_info"))

    def submit(self, workflow: Workflow, client_id: str = "") -> str:
        """Queues a workflow in API form and returns its prompt id.

        Raises:
            ComfyUIError: the server refused it; the message lists what is wrong with which node.
        """
        prompt = {"prompt": workflow, "client_id": client_id or uuid.uuid4().hex}
        try:
            reply = self._post("/prompt", json.dumps(prompt).encode(), "application/json")
        except urllib.error.HTTPError as error:
            with error:
                raise ComfyUIError(describe_refusal(error.read())) from None
        return reply["prompt_id"]

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """Returns the entry of a finished prompt, None while it waits or runs."""
        return json.loads(self.get(f"/history/{prompt_id}")).get(prompt_id)

    def wait(self, prompt_id: str, seconds: float = 600.0) -> dict[str, Any]:
        """Waits for a queued prompt and returns its history entry.

        Raises:
            ComfyUIError: a node failed; the message names it.
            TimeoutError: it took longer than ``seconds``.
        """
        deadline = time.monotonic() + seconds
        while (entry := self.history(prompt_id)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"prompt {prompt_id} is not done after {seconds:.0f} seconds")
            time.sleep(0.1)
        if entry["status"]["status_str"] != "success":
            raise ComfyUIError(describe_failure(entry["status"]["messages"]))
        return entry

    def run(self, workflow: Workflow, on_progress: OnProgress | None = None) -> dict[str, Any]:
        """Queues a workflow, reports its progress, waits, and returns its history entry."""
        if on_progress is None:
            return self.wait(self.submit(workflow))
        client_id = uuid.uuid4().hex
        with socket.create_connection((self.host, self.port), timeout=60) as connection:
            channel = websocket_messages(connection, f"/ws?clientId={client_id}")
            with contextlib.closing(channel) as messages:
                next(messages)  # the greeting: from here on this client misses nothing
                prompt_id = self.submit(workflow, client_id)
                connection.settimeout(None)  # loading a model sends nothing; a dead server ends it
                follow(messages, prompt_id, on_progress)
        return self.wait(prompt_id)

    def images(self, entry: dict[str, Any]) -> dict[str, bytes]:
        """Returns the saved pictures of a history entry: file name -> content of the file."""
        outputs = [image for node in entry["outputs"].values() for image in node.get("images", [])]
        return {
            image["filename"]: self.get("/view", **image)
            for image in outputs
            if image["type"] == "output"
        }

    def upload_image(self, path: Path) -> str:
        """Puts a picture into the server's input folder; returns its name for LoadImage.

        A different picture of the same name stays: the server then numbers the new one.
        """
        boundary = uuid.uuid4().hex
        name = path.name.replace('"', "_")
        head = (
            f"--{boundary}\r\nContent-Type: application/octet-stream\r\n"
            f'Content-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
        )
        body = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        reply = self._post("/upload/image", body, f"multipart/form-data; boundary={boundary}")
        return reply["name"]

    def _post(self, path: str, body: bytes, content_type: str) -> dict[str, Any]:
        headers = {"Content-Type": content_type}
        request = urllib.request.Request(f"{self.url}{path}", body, headers)
        with self._open(request, timeout=60) as reply:
            return json.loads(reply.read())


class ComfyUIServer(ComfyUIClient):
    """A ComfyUI process that lives as long as the ``with`` block.

    Args:
        python: interpreter that has ComfyUI's packages.
        comfyui: folder with ComfyUI's main.py.
        port: loopback port to listen on.
        log: file for all that the process prints.
        arguments: further command-line arguments of main.py.
        seconds: how long to wait for its first answer.
    """

    def __init__(
        self,
        python: Path,
        comfyui: Path,
        port: int,
        log: Path,
        arguments: Sequence[str] = (),
        seconds: float = START_SECONDS,
    ):
        super().__init__(port)
        self.log = log
        self._folder = comfyui
        self._seconds = seconds
        options = ("--listen", HOST, "--port", str(port), "--disable-auto-launch", *arguments)
        self._command = [str(python), "main.py", *options]
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ComfyUIServer:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
            )
        try:
            self._wait_until_it_answers()
        except BaseException:  # Ctrl-C too: no server is left behind
            self.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def log_text(self) -> str:
        """Returns all that the server has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """Ends the process: politely, then for good."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + self._seconds
        while time.monotonic() < deadline:
            self._raise_if_ended()
            try:
                self.get("/system_stats")
            except OSError:  # not listening yet
                time.sleep(0.25)
            else:
                return
        raise ComfyUIError(f"ComfyUI gave no answer in {self._seconds:.0f} s.\n{self.log_tail()}")

    def _raise_if_ended(self) -> None:
        code = self.process.poll() if self.process else None
        if code is not None:
            raise ComfyUIError(f"ComfyUI ended with exit code {code}.\n{self.log_tail()}")

    def log_tail(self, lines: int = 12) -> str:
        """Returns the end of the log, headed by where the whole is."""
        tail = "\n".join(f"    {line}" for line in self.log_text().splitlines()[-lines:])
        return f"The last lines of {self.log}:\n{tail}"


def websocket_messages(connection: socket.socket, path: str) -> Messages:
    """Opens a websocket over the connection and yields its JSON messages until it ends."""
    key = base64.b64encode(os.urandom(16)).decode()
    connection.sendall(
        f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    with connection.makefile("rb") as stream:
        status = stream.readline().decode(errors="replace").strip()
        if " 101 " not in f"{status} ":
            raise ComfyUIError(f"ComfyUI refused the progress channel {path}: {status!r}")
        while stream.readline().strip():  # the rest of the reply's header
            pass
        while len(head := _read_or_end(stream, 2)) == 2:
            text, close = head[0] & 0x0F == 1, head[0] & 0x0F == 8
            payload = stream.read(_payload_length(head[1] & 0x7F, stream.read))
            if close:
                return
            if text:  # binary messages are preview pictures
                yield json.loads(payload)


def _read_or_end(stream: BinaryIO, size: int) -> bytes:
    try:
        return stream.read(size)
    except ConnectionError:  # the server was killed: the same to us as its closing the stream
        return b""


def _payload_length(length: int, read: Callable[[int], bytes]) -> int:
    if length == 126:
        return struct.unpack("!H", read(2))[0]
    if length == 127:
        return struct.unpack("!Q", read(8))[0]
    return length


def follow(messages: Messages, prompt_id: str, on_progress: OnProgress) -> None:
    """Reports the steps of one prompt until it has ended, well or badly.

    Raises:
        ServerEndedError: the messages ended first, so the server is gone.
    """
    ends = {"execution_success", "execution_error", "execution_interrupted"}
    for message in messages:
        kind, data = message["type"], message.get("data") or {}
        if data.get("prompt_id") != prompt_id:
            continue
        if kind == "progress":
            on_progress(str(data["node"]), int(data["value"]), int(data["max"]))
        if kind in ends:
            return
    raise ServerEndedError("ComfyUI ended while it worked on the picture.")


def describe_refusal(body: bytes) -> str:
    """Turns the answer to a refused prompt into lines: the reason, then each node's errors."""
    try:
        reply = json.loads(body)
    except ValueError:
        return f"ComfyUI refused the workflow: {body[:500].decode(errors='replace')}"
    lines = [f"ComfyUI refused the workflow: {_message(reply.get('error', {}))}"]
    for node, report in (reply.get("node_errors") or {}).items():
        for error in report["errors"]:
            lines.append(f"    node {node} ({report['class_type']}): {_message(error)}")
    return "\n".join(lines)


def describe_failure(messages: Sequence[Sequence[Any]]) -> str:
    """Turns the status messages of a failed prompt into one line that names the node."""
    for kind, data in messages:
        if kind == "execution_error":
            node = f"node {data['node_id']} ({data['node_type']})"
            return f"{node} failed: {data['exception_message'].strip()}"
    return "ComfyUI stopped the workflow before it was done (interrupted)."


def _message(error: dict[str, Any] | str) -> str:
    if isinstance(error, str):
        return error
    parts = (error.get("message"), error.get("details"))
    return ": ".join(part for part in parts if part)
