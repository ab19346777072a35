"""The stage `frames` is killed, run again, and run with other settings."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from dataset_clips import whole_script, write_clip
from dataset_takes import Done, take

from training.dataset.ledger import Ledger

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("film") / "film.mp4", whole_script().frames)


@pytest.fixture(scope="module")
def done(film: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    return take(tmp_path_factory.mktemp("done"), film)


def rows(folder: Path) -> list[Any]:
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as db:
        tables = ("sources", "pictures", "decisions", "forms", "done")
        return [sorted(db.execute(f"SELECT * FROM {table}").fetchall()) for table in tables]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "pictures").rglob("*.png")}


RUN = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from dataset_takes import take
take(Path({folder!r}), Path({film!r}))
"""


def killed_at(folder: Path, film: Path, shots: int) -> None:
    """Runs the stage in its own process, and kills it when so many shots are in the ledger."""
    paths = [str(ROOT), str(ROOT / "tests")]
    code = RUN.format(paths=paths, folder=str(folder), film=str(film))
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, cwd=ROOT)
    try:
        while process.poll() is None and shots_in(folder) < shots:
            time.sleep(0.002)
        assert process.poll() is None, "it was to be killed on its way"
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()


def shots_in(folder: Path) -> int:
    path = folder / "ledger.sqlite"
    if not path.is_file():
        return 0
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            query = "SELECT count(*) FROM done WHERE item LIKE '%/shot-%'"
            return int(db.execute(query).fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def test_a_killed_run_goes_on(film: Path, done: Done, tmp_path: Path) -> None:
    for shots in (1, 5, 9):
        killed_at(tmp_path, film, shots)
        assert shots <= shots_in(tmp_path) < 16
    before = shots_in(tmp_path)
    shots = {picture.provenance["shot"]: 0 for picture in done.pictures if
             picture.provenance["shot"] >= before}  # fmt: skip
    told = take(tmp_path, film).told
    assert told["keep"] == sum(p.provenance["shot"] in shots for p in done.pictures)
    assert rows(tmp_path) == rows(done.folder)
    assert files(tmp_path) == files(done.folder)


def test_every_shot_is_a_place_to_go_on_from(film: Path, done: Done, tmp_path: Path) -> None:
    wanted = rows(done.folder)
    whole = take(tmp_path, film)
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as db, db:
        kept = {t: db.execute(f"SELECT * FROM {t}").fetchall() for t in ("done", "decisions")}
    for number in (1, 5, 7, 9, 11, 14):
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as db, db:
            for table, every in kept.items():
                marks = ", ".join("?" * len(every[0]))
                db.execute(f"DELETE FROM {table}")
                early = [r for r in every if "/shot-" in r[0] and int(r[0][-5:]) < number]
                pictures = [r for r in every if "/" not in r[0] and r[0] != "film0"]
                db.executemany(f"INSERT INTO {table} VALUES ({marks})", early + pictures)
        take(tmp_path, film)
        assert rows(tmp_path) == wanted, number
    assert len(whole.pictures) == len(done.pictures)


def test_a_file_that_was_taken_away_is_made_again(film: Path, tmp_path: Path) -> None:
    first = take(tmp_path, film)
    wanted, whole = rows(tmp_path), files(tmp_path)
    of_shot = {picture.provenance["shot"]: picture for picture in first.pictures}
    shots = (0, 5, max(of_shot))  # the first, one on its way, and the last one with pictures
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "pictures").rglob("*.png")}
    for shot in shots:
        (tmp_path / first.forms[of_shot[shot].id].path).unlink()
    told = take(tmp_path, film).told
    assert told == {"keep": sum(p.provenance["shot"] in shots for p in first.pictures)}
    assert rows(tmp_path) == wanted
    assert files(tmp_path) == whole
    written = {path.stem for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp}
    assert written == {p.id for p in first.pictures if p.provenance["shot"] in shots}
    assert take(tmp_path, film).told == {}


def test_a_film_that_is_away_costs_a_missing_file_and_nothing_else(
    film: Path, tmp_path: Path
) -> None:
    away = tmp_path / "film.mp4"
    away.write_bytes(film.read_bytes())
    first = take(tmp_path, away)
    wanted = rows(tmp_path)
    (tmp_path / first.forms[first.pictures[0].id].path).unlink()
    away.rename(tmp_path / "elsewhere.mp4")
    assert take(tmp_path, away).told == {"failed": 1}
    (tmp_path / "elsewhere.mp4").rename(away)
    take(tmp_path, away)
    assert rows(tmp_path) == wanted


def test_other_settings_replace_the_pictures(film: Path, tmp_path: Path) -> None:
    first = take(tmp_path, film)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.record(first.pictures[1].id, "filter", "x")
    fewer = take(tmp_path, film, per_shot=1)
    assert len(fewer.pictures) == 15
    assert {p.id for p in fewer.pictures} < {p.id for p in first.pictures}
    assert set(files(tmp_path)) == {f"{p.id}.png" for p in fewer.pictures}
    longer = take(tmp_path, film, min_shot=1.0)
    assert {s.reason for s in longer.shots if s.verdict == "drop"} == {"too short"}
    assert set(files(tmp_path)) == {f"{p.id}.png" for p in longer.pictures}
