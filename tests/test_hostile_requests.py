"""Broken and hostile requests to the review page's server, as bytes on a socket.

Each failure names the seed that made its request; ``damaged(content, seed)`` makes it again.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.dataset_review_pictures import Client, fill, work_in
from tests.hostile import damaged, memory_within
from training.dataset.captions.clip_tokens import estimate_tokens
from training.dataset.review import faults
from training.dataset.review.server import HEADERS, LARGEST_BODY, ReviewServer

BODY = b'{"reviewer": "Mio", "entries": [{"id": "pic-000", "action": "accept", "seq": 0}]}'


class Server:
    """A running server, and what it needs for a request of its own page."""

    def __init__(self, server: ReviewServer, folder: Path) -> None:
        self.port: int = server.server_address[1]
        self.token = server.token
        self._log = folder / "review.jsonl"
        self.client = Client(server.address)

    def written(self) -> bytes:
        """All that was decided."""
        return self._log.read_bytes() if self._log.exists() else b""

    def connected(self, content: bytes = b"") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        connection.sendall(content)
        return connection

    def told(self, content: bytes) -> bytes:
        """All that it answers to bytes after which nothing more comes."""
        answer = b""
        with self.connected(content) as connection:
            connection.shutdown(socket.SHUT_WR)
            try:
                while piece := connection.recv(65536):
                    answer += piece
            except ConnectionError:  # it closed what it had not read to the end
                pass
        return answer

    def status(self, content: bytes) -> int:
        line = self.told(content).partition(b"\r\n")[0].split(b" ")
        return int(line[1]) if len(line) > 1 else 0

    def get(self, path: str = "/api/changes?since=0", method: str = "GET", *lines: str) -> bytes:
        head = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *lines, "", ""]
        return "\r\n".join(head).encode("latin-1")

    def post(self, body: bytes = BODY, path: str = "/api/decide", *lines: str) -> bytes:
        own = (
            f"Origin: http://127.0.0.1:{self.port}", f"X-Review-Token: {self.token}",
            "Content-Type: application/json", f"Content-Length: {len(body)}", *lines,
        )  # fmt: skip
        return self.get(path, "POST", *own) + body


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("set")
    work = work_in(folder)
    with work.ledger, pytest.MonkeyPatch.context() as patch:
        patch.setattr(faults, "token_counter", lambda: (estimate_tokens, False))  # CLIP's is slow
        fill(work, 3)
        with ReviewServer(work) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            yield Server(server, folder)
            server.shutdown()
            thread.join()


@pytest.fixture
def server(running: Server, capsys: pytest.CaptureFixture[str]) -> Iterator[Server]:
    """It must print nothing: a traceback is a request that was not dealt with."""
    yield running
    assert running.client.get("api/changes?since=0").status == 200
    printed = capsys.readouterr()
    assert not printed.out + printed.err


@pytest.fixture
def unchanged(server: Server) -> Iterator[None]:
    """Nothing is decided by the test's requests."""
    before = server.written()
    yield
    assert server.written() == before


def test_the_requests_that_are_damaged_are_right(server: Server) -> None:
    assert server.status(server.get()) == 200
    before = server.written()
    assert server.status(server.post()) in (200, 409)  # 409: a second time
    assert server.status(server.post(BODY.replace(b"000", b"001"))) == 200
    assert server.written().removeprefix(before)


def test_damaged_requests_are_refused_or_answered(server: Server) -> None:
    """400 requests: the whole, and the head alone, which is what a server stumbles over."""
    whole = [server.get(), server.post(), server.get("/picture/pic-000/colour/thumb"),
             server.post(b"{}", "/api/undo")]  # fmt: skip
    statuses: set[int] = set()
    with memory_within(200):
        for seed in range(400):
            request = whole[seed % len(whole)]
            head, end, body = request.partition(b"\r\n\r\n")
            sent = damaged(request, seed) if seed % 2 else damaged(head, seed) + end + body
            told = server.told(sent)
            if told:
                assert told.startswith(b"HTTP/1.1 "), f"seed {seed}: {told[:99]!r}"
                assert b"Content-Security-Policy: " in told, f"seed {seed}: {told[:99]!r}"
                statuses.add(int(told.split(b" ")[1]))
    assert {200, 400, 403, 404} <= statuses
    assert 500 not in statuses


@pytest.mark.parametrize(("sent", "status"), [
    (b"", 0),
    (b"\r\n\r\n", 0),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400),  # TLS
    (b"GET / HTTP/1.1\r\n\r\n", 403),
    (b"GET / HTTP/1.0\r\n\r\n", 403),
    (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 505),
    (b"GET / HTTP/x\r\n\r\n", 400),
    (b"GET  /  HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    (b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    (b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    (b"GET http://evil.example/api/pictures HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
    (b"GET //[::1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    (b"GET /api/changes?since=" + b"9" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
    (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
    (b"GET / HTTP/1.1\r\nA: " + b"b" * 70_000 + b"\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 403),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\n evil.example\r\n\r\n", 403),
    (b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n", 403),
    (b"GET / HTTP/1.1\r\nHost: localhost.\r\n\r\n", 403),
    (b"GET / HTTP/1.1\r\nHost: localhost@evil.example\r\n\r\n", 403),
    (b"POST /api/undo HTTP/1.1\r\nHost: localhost\r\nReferer: http://[\r\n\r\n", 403),
    (b"POST /api/undo HTTP/1.1\r\nHost: localhost\r\nReferer: http://localhost.evil/\r\n\r\n", 403),
])  # fmt: skip
def test_requests_written_by_hand(server: Server, sent: bytes, status: int) -> None:
    assert server.status(sent) == status


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT",
                                    "PROPFIND", "get", "<script>"])  # fmt: skip
def test_other_methods_are_refused_and_tell_nothing(server: Server, method: str) -> None:
    """As every answer they forbid other sites to read or frame them; OPTIONS allows nothing."""
    told = server.told(server.get("/", method, "Origin: https://evil.example"))
    head = told.partition(b"\r\n\r\n")[0]
    assert told.startswith(b"HTTP/1.1 501 ")
    for name, value in HEADERS.items():
        assert f"{name}: {value}".encode() in head
    assert b"access-control" not in head.lower()
    assert b"Content-Type: application/json" in head
    assert b"Connection: close" in head


@pytest.mark.usefixtures("unchanged")
def test_a_request_hidden_in_another_is_not_carried_out(server: Server) -> None:
    """What another site's page can send: no header of its own, but any body."""
    hidden = server.post()
    for name in ("Content-Length", "content-length"):
        for head in (server.get("/", "POST", "Content-Type: text/plain", f"{name}: {len(hidden)}"),
                     server.get("/api/decide", "POST", "Transfer-Encoding: chunked"),
                     server.get("/", "PUT", f"{name}: {len(hidden)}")):  # fmt: skip
            told = server.told(head + hidden)
            assert told.count(b"HTTP/1.1 ") == 1
    for head in (server.get("/", "GET", f"Content-Length: {len(hidden)}"),
                 server.get("/", "GET", "Transfer-Encoding: chunked")):  # fmt: skip
        assert server.told(head + hidden).count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("lines", [
    ("Transfer-Encoding: chunked",), ("Content-Length: 1e2",), ("Content-Length: -5",),
    ("Content-Length: +5",), ("Content-Length: ",), ("Content-Length: 5, 5",),
    ("Content-Length: \xb2",), (f"Content-Length: {LARGEST_BODY + 1}",),
    ("Content-Length: " + "9" * 5000,),
])  # fmt: skip
@pytest.mark.usefixtures("unchanged")
def test_bodies_of_no_known_or_too_great_a_length_are_refused(server: Server, lines: Any) -> None:
    head = server.post(b"").replace(b"Content-Length: 0\r\n", b"")
    request = head.replace(b"\r\n\r\n", "\r\n".join(["", *lines, "", ""]).encode("latin-1"))
    assert server.status(request + BODY) in (411, 413)


@pytest.mark.parametrize("end", [0, 1, len(BODY) // 2, len(BODY) - 1])
@pytest.mark.usefixtures("unchanged")
def test_a_body_that_ends_early_changes_nothing(server: Server, end: int) -> None:
    head = server.post().removesuffix(BODY)
    assert server.status(head + BODY[:end]) == 400


@pytest.mark.parametrize("body", [
    b'{"caption": "caption_color", "ids": ["\\ud800"], "find": "a", "replace": "b"}',
    b'{"caption": "caption_color", "ids": ["\\u0000<script>"], "find": "a", "replace": "b"}',
    b'{"caption": ["caption_color"], "text": "x"}', b'{"caption": {}, "text": "x"}',
    b'{"caption": "caption_color", "text": {"a": 1}}', b'{"text": NaN}', b'{"a": 1e999}',
    b'{"a": ' + b"1" * 5000 + b"}", b'{"a": ' + b"[" * 100_000,
    b'{"reviewer": ["a"]}', b'{"entries": {"id": "pic-000"}}', b'{"entries": [[]]}',
    b'{"reviewer": "a", "entries": [{"id": ["x"], "action": "accept", "seq": 0}]}',
    b'{"reviewer": "a", "entries": [{"id": "pic-000", "action": ["accept"], "seq": 0}]}',
    b'{"reviewer": "a", "entries": [{"id": "pic-000", "action": "accept", "seq": 1e300}]}',
    b'{"reviewer": "a", "entries": [{"id": "pic-000", "action": "accept", "seq": '
    + b"9" * 400 + b"}]}",
    b'{"caption": "caption_color", "ids": ["pic-000"], "find": "a", "replace": "b", "token": {}}',
])  # fmt: skip
@pytest.mark.parametrize("path", ["/api/decide", "/api/undo", "/api/check", "/api/replace"])
@pytest.mark.usefixtures("unchanged")
def test_json_of_another_kind_is_refused_with_words(server: Server, path: str, body: bytes) -> None:
    told = server.told(server.post(body, path))
    status = int(told.split(b" ")[1])
    assert status in (200, 400, 404, 409, 422)
    if path in ("/api/decide", "/api/replace"):  # the others heed what is theirs
        assert status != 200
        assert b'"error": "' in told


def test_slow_and_half_sent_requests_keep_nobody_waiting(server: Server) -> None:
    """A hundred connections that stand still at different places of a request."""
    request = server.post()
    with ExitStack() as stack:
        for number in range(100):
            sent = request[: len(request) * number // 100]
            stack.enter_context(server.connected(sent))
        assert server.client.get("api/pictures").status == 200
        assert server.client.decide("pic-002", "accept").status == 200
    assert server.client.get("api/pictures").status == 200


def test_the_server_is_reached_from_this_machine_alone(server: Server) -> None:
    """Not under this machine's other addresses, of which all of 127/8 are some."""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.port), timeout=5)
