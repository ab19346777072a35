from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from animesketchnet_core.files import StorageError
from training.dataset.ledger import (
    Decision,
    Form,
    Ledger,
    LedgerError,
    Outcome,
    Picture,
    Source,
    Text,
)


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def picture(name: str, place: int = 0) -> Picture:
    return Picture(name, "film", place, 7, 5, {"pts": place})


def test_all_that_is_recorded_comes_back(ledger):
    outcome = Outcome(
        [Decision("blur", "review", "soft", 0.25, 0.5, {"edges": 3})],
        {"colour": Form("a.png", "12", {"levels": [1, 2]})},
        {"caption": Text("a girl", {"scores": [0.5]})},
        {"hash": b"\0\1"},
    )
    ledger.add_source(Source("film", "x/film.mkv", "film", {"sha256": "34"}))
    ledger.record("a", "frames", "digest", outcome, [picture("a", 3)])
    assert ledger.sources() == [Source("film", "x/film.mkv", "film", {"sha256": "34"})]
    assert ledger.pictures() == [picture("a", 3)]
    assert ledger.decisions("a") == [("a", "frames", outcome.decisions[0])]
    assert ledger.forms("colour") == {"a": outcome.forms["colour"]}
    assert ledger.forms_of("a") == outcome.forms
    assert ledger.texts("caption") == {"a": outcome.texts["caption"]}
    assert ledger.texts_of("a") == outcome.texts
    assert ledger.features("hash") == {"a": b"\0\1"}
    assert ledger.digests("frames") == {"a": "digest"}


def test_recording_again_replaces_what_the_stage_said_and_nothing_else(ledger):
    ledger.record("a", "frames", "1", Outcome(features={"x": b"1"}), [picture("a")])
    ledger.record("a", "filter", "1", Outcome([Decision("blur", "drop")]))
    ledger.record("a", "filter", "2", Outcome([Decision("text", "keep")]))
    assert [d.check for _, _, d in ledger.decisions("a")] == ["text"]
    assert ledger.features("x") == {"a": b"1"}
    assert ledger.digests("filter") == {"a": "2"}


def test_kept_heeds_the_stages_that_it_is_given_and_what_a_person_said(ledger):
    for place, name in enumerate("cab"):
        ledger.record(name, "frames", "", pictures=[picture(name, place)])
    ledger.record("a", "filter", "", Outcome([Decision("blur", "drop")]))
    ledger.record("b", "filter", "", Outcome([Decision("blur", "review")]))
    ledger.fail("c", "sketch", "no room")
    assert [p.id for p in ledger.kept(("frames",))] == ["c", "a", "b"]
    assert [p.id for p in ledger.kept(("frames", "filter"))] == ["c", "b"]
    assert [p.id for p in ledger.kept(("frames", "filter", "sketch"))] == ["b"]
    ledger.record("a", "review", "", Outcome([Decision("person", "keep")]))
    ledger.record("c", "review", "", Outcome([Decision("person", "keep")]))
    # A person brings back what was dropped, but no picture that could not be worked on.
    assert [p.id for p in ledger.kept(("frames", "filter", "sketch"))] == ["a", "b"]


def test_a_failure_is_not_done(ledger):
    ledger.record("a", "sketch", "1")
    ledger.fail("a", "sketch", "unreadable")
    assert ledger.digests("sketch") == {}
    assert ledger.decisions("a")[0][2] == Decision("input", "failed", "unreadable")


def test_pictures_and_sources_leave_with_all_that_was_said(ledger):
    ledger.add_source(Source("film", "f", "film"))
    ledger.add_source(Source("film2", "g", "film"))
    ledger.record("film/shot-1", "frames", "1", Outcome([Decision("shot", "keep")]))
    ledger.record("film2/shot-1", "frames", "1", Outcome([Decision("shot", "keep")]))
    ledger.record("a", "frames", "1", Outcome([Decision("x", "keep")]), [picture("a")])
    ledger.remove_pictures(["a"])
    ledger.remove_source("film")
    assert ledger.pictures() == []
    assert [item for item, _, _ in ledger.decisions()] == ["film2/shot-1"]
    assert [source.id for source in ledger.sources()] == ["film2"]


def test_other_files_and_versions_are_refused(tmp_path):
    (tmp_path / "text").write_text("no ledger, but long enough to be looked at " * 50)
    with pytest.raises(LedgerError, match="is no ledger of a data set"):
        Ledger(tmp_path / "text")
    with sqlite3.connect(tmp_path / "newer") as db:
        db.execute("CREATE TABLE sources (id TEXT)")
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(LedgerError, match="a ledger of version 99; this program reads 1"):
        Ledger(tmp_path / "newer")


def test_a_full_disk_is_told_and_what_was_there_stays(ledger):
    ledger.record("a", "frames", "1", pictures=[picture("a")])
    pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
    ledger._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match=r"full.*Make room on the disk"):
        ledger.record("b", "frames", "1", Outcome(features={"x": bytes(1 << 20)}), [picture("b")])
    assert [p.id for p in ledger.pictures()] == ["a"]
    ledger._db.execute("PRAGMA max_page_count = 100000")
    ledger.record("b", "frames", "1", Outcome(features={"x": bytes(1 << 20)}), [picture("b")])
    assert [p.id for p in ledger.pictures()] == ["a", "b"]


def _write(path: Path, name: str, count: int) -> None:
    with Ledger(path) as ledger:
        for i in range(count):
            key = f"{name}{i:03d}"
            ledger.record(key, "frames", "1", Outcome([Decision("x", "keep")]), [picture(key)])


def test_processes_write_at_once_and_nothing_is_lost(tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=_write, args=(tmp_path / "ledger", name, 40)) for name in "abc"
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    with Ledger(tmp_path / "ledger") as ledger:
        assert len(ledger.pictures()) == 120
        assert len(ledger.decisions()) == 120


def test_kill_at_any_moment_loses_at_most_the_item_in_hand(tmp_path):
    """A picture is there with all that was said of it, or not at all."""
    script = (
        "import sys, pathlib; from training.dataset.ledger import *\n"
        "with Ledger(pathlib.Path(sys.argv[1])) as ledger:\n"
        "    for i in range(100000):\n"
        "        key = f'{sys.argv[2]}-{i:06d}'\n"
        "        forms = {'colour': Form('p', 'h')}\n"
        "        made = Outcome([Decision('x', 'keep')], forms, {}, {'f': b'1'})\n"
        "        ledger.record(key, 'frames', '1', made, [Picture(key, 's', i, 1, 1)])\n"
        "        print(key, flush=True)\n"
    )
    path = tmp_path / "ledger"
    last = []
    for attempt in range(4):
        command = [sys.executable, "-c", script, str(path), str(attempt)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=os.getcwd())
        assert process.stdout is not None
        for _ in range(5 + 7 * attempt):
            line = process.stdout.readline()
        time.sleep(0.003 * attempt)
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
        process.wait()
        process.stdout.close()
        last.append((rest or [line.strip()])[-1])
    with Ledger(path) as ledger:
        ids = [p.id for p in ledger.pictures()]
        assert set(last) <= set(ids)
        assert set(ids) == set(ledger.forms("colour")) == set(ledger.features("f"))
        assert set(ids) == set(ledger.digests("frames"))


def _opens(folder: Path, together: Any, told: Any) -> None:
    for number in range(60):
        together.wait()
        try:
            with Ledger(folder / f"{number}.sqlite") as ledger:
                ledger.sources()
        except Exception as error:
            told.put(repr(error))
    told.put("done")


def test_processes_may_begin_a_ledger_at_once(tmp_path: Path) -> None:
    """SQLite refuses one of two that switch to WAL mode together, and does not wait."""
    context = multiprocessing.get_context("spawn")
    together, told = context.Barrier(3), context.Queue()
    for _ in range(3):
        context.Process(target=_opens, args=(tmp_path, together, told), daemon=True).start()
    assert [told.get(timeout=60) for _ in range(3)] == ["done"] * 3
