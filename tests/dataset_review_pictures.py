"""A data set to be reviewed, and the page's server as a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

import training.dataset
from training.dataset.config import DatasetConfig, ReviewSettings, RunSettings
from training.dataset.ledger import Decision, Form, Ledger, Outcome, Picture, Source, Text
from training.dataset.work import Work
from training.workers import Workers

ROOT = Path(__file__).parents[1]
ART = Path(training.dataset.__file__).parent / "demo_film" / "art"
KEYWORDS = "anime sketch, lineart, monochrome"
HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
SUBJECTS = ("a girl in a meadow", "a girl laughs, long hair", "a lecture hall", "a club room")


def work_in(folder: Path, require: str = "flagged") -> Work:
    config = DatasetConfig(
        run=RunSettings(output=str(folder)), review=ReviewSettings(require=require)
    )
    return Work(config, folder, Ledger(folder / "ledger.sqlite"), Workers("cpu"))


def fill(work: Work, count: int = 6, size: tuple[int, int] = (320, 180)) -> list[str]:
    """Makes pictures of two films, (width, height); the third is flagged, the last one dropped."""
    for film in ("alpha", "beta"):
        work.ledger.add_source(Source(film, f"/films/{film}.mkv", "film"))
    ids = [f"pic-{k:03d}" for k in range(count)]
    for k, id in enumerate(ids):
        picture = Picture(
            id, "alpha" if k < count // 2 else "beta", k, *size,
            {"seconds": 61.5 + k, "shot": k // 3, "frame": 1476 + 24 * k, "pts": 1000 * k},
        )  # fmt: skip
        work.ledger.record(id, "ingest", "x", Outcome(), [picture])
        sketch = work.write(picture, "sketch", _drawing(k, size)[..., 0])
        work.ledger.record(id, "frames", "x", Outcome(forms={"colour": _colour(work, picture, k)}))
        work.ledger.record(id, "sketch", "x", Outcome(forms={"sketch": sketch}))
        subject = HOSTILE if k == 1 else SUBJECTS[k % len(SUBJECTS)]
        texts = {
            "caption_sketch": Text(f"{KEYWORDS}, {subject}"),
            "caption_color": Text(f"{subject}, red hair"),
        }
        work.ledger.record(id, "caption", "x", Outcome(texts=texts))
    doubt = Decision("blur", "review", "a little soft", 11.25, 12.0)
    fine = Decision("text", "keep", "no text found", 0.0, 0.5)
    work.ledger.record(ids[2], "filter", "x", Outcome([doubt, fine]))
    alike = {"cluster": "c-1", "kind": "held frame", "of": ids[0]}
    best = Decision("representative", "keep", "the best of 2", details={"cluster": "c-1"})
    work.ledger.record(ids[0], "dedup", "x", Outcome([best]))
    dropped = Decision("likeness", "drop", f"like {ids[0]}", 2.0, 5.0, alike)
    work.ledger.record(ids[-1], "dedup", "x", Outcome([dropped]))
    return ids


def _colour(work: Work, picture: Picture, k: int) -> Form:
    art = ("meadow.jpg", "lecturehall.jpg", "club.jpg", "uni.jpg")[k % 4]
    with Image.open(ART / art) as opened:
        pixels = np.array(opened.convert("RGB").resize((picture.width, picture.height)))
    return work.write(picture, "colour", pixels)


def _drawing(k: int, size: tuple[int, int]) -> np.ndarray:
    paper = Image.new("RGB", (1280, 720), "white")
    pen = ImageDraw.Draw(paper)
    for step in range(8):
        pen.ellipse((100 + 30 * k + 60 * step, 80, 500 + 60 * step, 640), outline="black", width=3)
    return np.array(paper.resize(size))


class Answer:
    """What the server said."""

    def __init__(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        self.status, self.headers, self.content = status, headers, content

    @property
    def json(self) -> Any:
        return json.loads(self.content)


class Client:
    """Speaks to the server as the page does, unless told otherwise."""

    def __init__(self, address: str) -> None:
        self.address = address
        page = self.get("").content.decode()
        found = re.search(r'name="token" content="([^"]+)"', page)
        assert found is not None
        self.token = found[1]

    def get(self, path: str, **headers: str) -> Answer:
        return self._ask(urllib.request.Request(self.address + path), headers)

    def post(self, path: str, body: Any, /, **changed: str | None) -> Answer:
        headers = {
            "Content_Type": "application/json", "Origin": self.address.rstrip("/"),
            "X_Review_Token": self.token, **changed,
        }  # fmt: skip
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data)
        return self._ask(request, headers)

    def decide(
        self, id: str, action: str, value: str = "", seq: int = 0, by: str = "Mio"
    ) -> Answer:
        entry = {"id": id, "action": action, "value": value, "seq": seq}
        return self.post("api/decide", {"reviewer": by, "entries": [entry]})

    def _ask(self, request: urllib.request.Request, headers: Mapping[str, str | None]) -> Answer:
        for name, value in headers.items():
            if value is not None:
                request.add_header(name.replace("_", "-"), value)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return Answer(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read())


PROGRAM = """
import signal
import sys
from pathlib import Path
from tests.dataset_review_pictures import work_in
from training.dataset.captions.clip_tokens import estimate_tokens
from training.dataset.review import faults, serve
from training.program import run_program
faults.token_counter = lambda: (estimate_tokens, False)  # CLIP's own takes seconds to load
signal.signal(signal.SIGINT, signal.default_int_handler)  # background shells have it ignored
work = work_in(Path(sys.argv[1]))
sys.exit(run_program(lambda: serve(work, int(sys.argv[2]), open_browser=False) or 0, ()))
"""


@contextmanager
def serving(folder: Path, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Starts the server as a user does; yields the process and the page's address."""
    command = [sys.executable, "-c", PROGRAM, str(folder), str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found is not None
            yield process, found[0]
        finally:
            process.kill()
