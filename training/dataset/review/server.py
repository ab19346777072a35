"""The review page's web server, for this machine only.

It listens on 127.0.0.1. A page of another site that the reviewer has open could still send requests
here, so: the Host header must name this machine (against DNS rebinding), every change must come
from our own page (Origin or Referer) and carry a token that only that page knows, no answer may be
read or framed by other sites, and the page runs no script but its own files.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import webbrowser
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs

from animesketchnet_core.files import StorageError
from training.settings import ConfigError

from ..images import PictureError
from ..ledger import LedgerError
from ..stages import summary
from ..work import Work
from .api import Api, Refused
from .projection import run

LARGEST_BODY = 8 << 20  # bytes: the ids of 100,000 pictures
IDLE = 60.0  # seconds that an open connection may be silent
TOKEN = "X-Review-Token"
PAGES = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
PLACE_OF_TOKEN = b"TOKEN-OF-THIS-SERVER"
HOSTS = ("127.0.0.1", "localhost")  # with any port, since a tunnel may have another at its end
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_ID = r"([A-Za-z0-9-]{1,200})"
_DETAILS = re.compile(rf"/api/picture/{_ID}")
_PICTURE = re.compile(rf"/picture/{_ID}/([a-z]+)/([a-z]+)")


class ReviewServer(ThreadingHTTPServer):
    """Serves one data set; `serve_forever` until `shutdown`.

    Attributes:
        api: answers.
        token: that requests must carry which change something.
        address: of the page.
    """

    daemon_threads = True
    request_queue_size = 128  # a page opens several at once; of more than this, some wait seconds
    allow_reuse_address = os.name != "nt"  # there it would let two servers share a port

    def __init__(self, work: Work, port: int = 0) -> None:
        """Listens.

        Raises:
            ConfigError: the port cannot be had.
            StorageError: the log cannot be read.
        """
        self.api = Api(work)
        self.token = secrets.token_urlsafe(32)
        self.pages = {path.name: path.read_bytes() for path in PAGES.iterdir() if path.is_file()}
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"Port {port} cannot be had ({error}). Choose another with --port, or leave it out."
            ) from error
        self.address = f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says what went wrong, unless it is the browser that went away."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def serve(work: Work, port: int | None, open_browser: bool) -> None:
    """Shows the review page until Ctrl-C, then puts what was decided into the ledger.

    Args:
        work: the data set.
        port: of 127.0.0.1; None takes a free one.
        open_browser: whether to open the page at once.

    Raises:
        ConfigError: the port cannot be had.
        StorageError: the log or the ledger cannot be read or written.
    """
    with ReviewServer(work, port or 0) as server:
        print(f"The review page is at {server.address}  (Ctrl-C ends it)", flush=True)
        if open_browser:
            webbrowser.open(server.address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(f"\nreview: {summary(run(work))}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # else what is no request gets an answer without HEADERS
    timeout = IDLE

    @property
    def _ours(self) -> ReviewServer:
        return cast(ReviewServer, self.server)

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers what is no request, or no GET or POST."""
        self.close_connection = True
        self._send_json({"error": message or self.responses[code][0]}, code)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: a line for each thumbnail would hide the page's address."""

    def version_string(self) -> str:
        return "review"

    def _answer(self, respond: Callable[[str], None]) -> None:
        try:
            self._check_host()
            respond(self.path.partition("?")[0])
        except Refused as refused:
            self.close_connection = True  # its body may not have been read
            self._send_json(refused.answer, refused.status)
        except PictureError as error:
            self._send_json({"error": str(error)}, 404)
        except (LedgerError, StorageError, OSError) as error:
            if isinstance(error, (ConnectionError, TimeoutError)):
                raise  # the browser went away: there is nobody to tell
            self._send_json({"error": str(error)}, 500)

    def _get(self, path: str) -> None:
        api = self._ours.api
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # a body is not read, and is no next request
        if path == "/":
            page = self._ours.pages["index.html"]
            token = self._ours.token.encode()
            self._send(page.replace(PLACE_OF_TOKEN, token), "text/html; charset=utf-8")
            return
        if self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            raise Refused(403, "Pages of other sites get nothing here.")
        name = path.removeprefix("/page/")
        if name != path and name in self._ours.pages:
            kind = TYPES[Path(name).suffix]
            self._send(self._ours.pages[name], f"{kind}; charset=utf-8")
        elif path == "/favicon.ico":
            self._send(b"", "image/x-icon", status=204)
        elif path == "/api/pictures":
            self._send_json(api.overview())
        elif path == "/api/changes":
            self._send_json(api.changes(self._number("since")))
        elif found := _DETAILS.fullmatch(path):
            self._send_json(api.details(found[1]))
        elif found := _PICTURE.fullmatch(path):
            self._send_picture(*found.groups())
        else:
            raise Refused(404, "There is nothing here.")

    def _post(self, path: str) -> None:
        api = self._ours.api
        answers: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
            "/api/decide": api.decide, "/api/undo": api.undo, "/api/check": api.check,
            "/api/replace": api.replace,
        }  # fmt: skip
        self._check_origin()
        if path not in answers:
            raise Refused(404, "There is nothing here.")
        self._send_json(answers[path](self._body()))

    def _check_host(self) -> None:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or re.sub(r":\d+$", "", hosts[0]) not in HOSTS:
            raise Refused(403, f"This server is {' or '.join(HOSTS)}, and nothing else.")

    def _check_origin(self) -> None:
        ours = f"http://{self.headers['Host']}"
        origin, referer = self.headers.get("Origin"), self.headers.get("Referer", "")
        if origin != ours and not (origin is None and referer.startswith(f"{ours}/")):
            raise Refused(403, "Only the review page may change something.")
        if not secrets.compare_digest(self.headers.get(TOKEN, "").encode(), self._token()):
            raise Refused(403, "The server was started anew; load the page again.", stale=True)

    def _token(self) -> bytes:
        return self._ours.token.encode()

    def _body(self) -> Mapping[str, Any]:
        length = self.headers.get("Content-Length", "")
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "Requests are JSON.")
        if not length.isascii() or not length.isdecimal() or "Transfer-Encoding" in self.headers:
            raise Refused(411, "A request must say how long it is.")
        if int(length[:20]) > LARGEST_BODY:
            raise Refused(413, f"A request may have {LARGEST_BODY} bytes at most.")
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise Refused(400, "This is no JSON.") from None
        if not isinstance(body, dict):
            raise Refused(400, "A request is a JSON object.")
        return body

    def _query(self) -> dict[str, list[str]]:
        return parse_qs(self.path.partition("?")[2])

    def _number(self, name: str) -> int:
        value = self._query().get(name, [""])[-1]
        if not re.fullmatch(r"[0-9]{1,15}", value):
            raise Refused(400, f"{name} must be a number.")
        return int(value)

    def _send_picture(self, picture: str, form: str, size: str) -> None:
        shown = self._ours.api.picture(picture, form, size)
        tag = f'"{shown.tag}"'
        # A page asks with the hash, so what it gets under that address never changes.
        named = self._query().get("v") == [shown.tag[:16]]
        keep = "private, max-age=31536000, immutable" if named else "private, no-cache"
        headers = {"ETag": tag, "Cache-Control": keep}
        if self.headers.get("If-None-Match") == tag:
            self._send(b"", shown.type, headers, status=304)
        else:
            self._send(shown.path.read_bytes(), shown.type, headers)

    def _send_json(self, answer: Any, status: int = 200) -> None:
        text = json.dumps(answer, ensure_ascii=False).encode(errors="backslashreplace")
        self._send(text, "application/json; charset=utf-8", status=status)

    def _send(
        self, content: bytes, kind: str, headers: Mapping[str, str] = {}, status: int = 200
    ) -> None:
        self.send_response(status)
        mine = {"Content-Type": kind, "Content-Length": str(len(content)),
                "Cache-Control": "no-store"}  # fmt: skip
        if status in (204, 304):
            del mine["Content-Length"]
        for name, value in {**HEADERS, **mine, **headers}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)
