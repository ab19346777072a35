"""The review's log, its stage, and its server."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from animesketchnet_core.files import StorageError
from tests.dataset_review_pictures import KEYWORDS, Client, fill, serving, work_in
from training.dataset.config import CaptionSettings
from training.dataset.final_texts import all_final_texts, final_texts
from training.dataset.ledger import Decision, Form, Outcome, Text
from training.dataset.review import run
from training.dataset.review.decisions import ConflictError, DecisionLog, Entry
from training.dataset.review.faults import CaptionRules
from training.dataset.review.replace import ReplaceError, replaced
from training.dataset.review.server import ReviewServer
from training.dataset.stages import before
from training.dataset.work import Work
from training.settings import ConfigError


def entry(id: str, action: str = "accept", value: str = "", seen: int = 0) -> Entry:
    return Entry(id, action, value, "", seen)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "review.jsonl").read_bytes().splitlines()]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled")
    work = work_in(folder)
    with work.ledger:
        fill(work)
    return folder


@pytest.fixture
def work(filled: Path, tmp_path: Path) -> Iterator[Work]:
    shutil.copytree(filled, tmp_path / "set")
    work = work_in(tmp_path / "set")
    with work.ledger:
        yield work


@pytest.fixture
def client(work: Work) -> Iterator[Client]:
    with ReviewServer(work) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield Client(server.address)
        server.shutdown()
        thread.join()


# The log


def test_line_holds_what_was_decided_by_whom_and_when(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path)
    log.append([Entry("a-1", "accept", "", "", 0)], "Mio")
    log.append([Entry("a-1", "reject", "blurred", "accept", 1)], "Rin \u2028 \u00e9")
    first, second = lines(tmp_path)
    times = first.pop("time"), second.pop("time")
    assert first == {
        "seq": 1, "group": 1, "size": 1, "id": "a-1", "action": "accept", "value": "",
        "before": "", "reviewer": "Mio",
    }  # fmt: skip
    assert (second["seq"], second["before"], second["reviewer"]) == (
        2,
        "accept",
        "Rin \u2028 \u00e9",
    )
    assert times[0] <= times[1]
    assert all(time.endswith("+00:00") for time in times)


def test_undo_goes_back_step_by_step_and_leaves_others_alone(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path)
    log.append([entry("a")], "Mio")
    log.append([entry("a", "caption_sketch", "new", 1)], "Mio")
    log.append([entry("b", "reject", "dull")], "Rin")
    log.append([entry("a", "reject", "x", 2), entry("c")], "Mio")
    assert log.state("a").verdict == "reject"
    assert {line.id for line in log.undo("Mio")} == {"a", "c"}
    assert (log.state("a").verdict, log.state("c").verdict) == ("accept", "")
    assert log.state("a").captions["caption_sketch"].value == "new"
    assert [line.action for line in log.undo("Mio")] == ["caption_sketch"]
    assert log.state("a").captions == {}
    log.undo("Mio")
    assert log.state("a").verdict == ""
    assert log.undo("Mio") == []
    assert log.state("b").verdict == "reject"
    again = DecisionLog(tmp_path)
    for id in "abc":
        assert again.state(id) == log.state(id)
    assert len(lines(tmp_path)) == 9  # five decisions and four undos; none was removed


def test_decision_on_what_somebody_changed_is_refused_whole(tmp_path: Path) -> None:
    log, other = DecisionLog(tmp_path), DecisionLog(tmp_path)
    other.append([entry("b", "reject")], "Rin")
    with pytest.raises(ConflictError) as refused:
        log.append([entry("a"), entry("b")], "Mio")
    assert refused.value.pictures == ["b"]
    assert (log.state("a").verdict, log.state("b").verdict) == ("", "reject")
    log.append([entry("b", seen=1)], "Mio")
    assert other.refresh() == 2
    assert other.state("b").verdict == "accept"


@pytest.mark.parametrize("kept", range(0, 175, 7))
def test_cut_line_is_passed_over_and_the_next_one_is_whole(tmp_path: Path, kept: int) -> None:
    log = DecisionLog(tmp_path)
    log.append([entry("a", "reject", "dull")], "Mio")
    log.append([entry("b")], "Mio")
    path = tmp_path / "review.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:kept])
    after = DecisionLog(tmp_path)
    whole = kept >= len(second) - 1  # only the end of the line is missing, or nothing
    assert after.state("b").verdict == ("accept" if whole else "")
    after.append([entry("c")], "Mio")
    again = DecisionLog(tmp_path)
    assert [again.state(id).verdict for id in "abc"] == [
        "reject",
        "accept" if whole else "",
        "accept",
    ]
    assert again.damaged == after.damaged == (0 if whole or not kept else 1)
    assert path.read_bytes().startswith(first + second[:kept])
    numbers = [json.loads(line)["seq"] for line in path.read_bytes().splitlines()[-1:]]
    assert numbers == [3 if whole else 2]


def test_half_a_swap_does_not_count(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path)
    log.append([entry("a"), entry("b", "reject")], "Mio")
    path = tmp_path / "review.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    after = DecisionLog(tmp_path)
    assert (after.state("a").seq, after.state("a").verdict) == (0, "")
    after.append([entry("a", "reject")], "Mio")
    again = DecisionLog(tmp_path)
    assert (again.state("a").verdict, again.state("a").seq) == ("reject", 2)
    assert again.damaged == 1


@pytest.mark.parametrize(
    "junk",
    ["[]", "7", '"a"', "{}", "[" * 100_000, '{"seq": 1}', "\x00\x00", '{"seq": true}'],
    ids=range(8),
)
def test_junk_in_the_log_is_passed_over(tmp_path: Path, junk: str) -> None:
    log = DecisionLog(tmp_path)
    log.append([entry("a")], "Mio")
    with (tmp_path / "review.jsonl").open("a") as file:
        file.write(junk + "\n")
    log.append([entry("b")], "Mio")
    again = DecisionLog(tmp_path)
    assert (again.state("a").verdict, again.state("b").verdict) == ("accept", "accept")
    assert again.damaged == 1


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    def write(name: str) -> None:
        log = DecisionLog(tmp_path)
        for k in range(20):
            log.append([entry(f"{name}-{k}"), entry(f"{name}-{k}-b")], name)

    threads = [threading.Thread(target=write, args=(name,)) for name in "wxyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = lines(tmp_path)
    assert [line["seq"] for line in found] == list(range(1, 161))
    assert DecisionLog(tmp_path).damaged == 0


def test_log_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path)
    (tmp_path / "review.jsonl").mkdir()
    with pytest.raises(StorageError, match=r"review\.jsonl cannot be read or written"):
        log.append([entry("a")], "Mio")


# Captions


def test_faults_name_the_keyword_and_its_number() -> None:
    rules = CaptionRules(CaptionSettings())
    assert rules.faults("caption_sketch", f"{KEYWORDS}, a girl") == []
    assert rules.faults("caption_color", "a girl with red hair") == []
    assert rules.faults("caption_color", " ") == ["it has no caption"]
    told = " ".join(rules.faults("caption_sketch", "anime sketch, anime sketch, a monochrome girl"))
    assert "'anime sketch' is there 2 times" in told
    assert "'lineart' is there 0 times" in told
    assert "'monochrome'" not in told


def test_replacing_words_and_expressions() -> None:
    texts = ["a red  red hat", "A Red.hat", "none"]
    assert replaced(texts, "red", "blue") == ["a blue blue hat", "A Red.hat", "none"]
    assert replaced(texts, "RED", r"\1", ignore_case=True)[1] == r"A \1.hat"
    assert replaced(texts, "d.h", "d h") == ["a red red hat", "A Red hat", "none"]
    assert replaced(texts, r"(\w)ed\W+hat", r"\1ot", regex=True)[:2] == ["a red rot", "A Rot"]


@pytest.mark.parametrize(
    ("find", "put", "said"),
    [
        ("", "", "nothing to look for"),
        ("(a", "", r"wrong: missing \), unterminated subpattern at position 0"),
        ("a", r"\2", "wrong: invalid group reference 2"),
        ("a", r"\g<b>", "wrong: unknown group name"),
        ("a" * 1001, "", "At most 1000 characters"),
        ("(?=(.*))", r"\1" * 400, "longer than 4000"),
    ],
)
def test_wrong_expressions_are_told(find: str, put: str, said: str) -> None:
    with pytest.raises(ReplaceError, match=said):
        replaced(["a" * 2000], find, put, regex=True)


def test_runaway_expression_is_ended() -> None:
    begun = time.monotonic()
    with pytest.raises(ReplaceError, match=r"did not come to an end in 0\.5 s"):
        replaced(["a" * 60 + "b"], "(a+)+$", "x", regex=True, seconds=0.5)
    assert time.monotonic() - begun < 5


# The stage


def kept(work: Work) -> list[str]:
    return [picture.id for picture in work.ledger.kept(before("split"))]


@pytest.mark.parametrize(
    ("require", "without", "accepted"),
    [
        ("all", [], ["pic-002"]),
        ("flagged", [0, 1, 3, 4], [0, 1, 2, 3, 4]),
        ("none", [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
    ],
)
def test_policy(work: Work, require: str, without: list[int], accepted: list[Any]) -> None:
    review = replace(work.config.review, require=require)
    work = replace(work, config=replace(work.config, review=review))
    run(work)
    assert kept(work) == [f"pic-{k:03d}" for k in without]
    DecisionLog(work.folder).append([entry("pic-002")], "Mio")
    run(work)
    assert kept(work) == [k if isinstance(k, str) else f"pic-{k:03d}" for k in accepted]


def test_what_waits_says_so(work: Work) -> None:
    assert run(work) == {"waiting": 1, "not asked about": 4}
    [waiting] = [d for _, stage, d in work.ledger.decisions("pic-002") if stage == "review"]
    assert (waiting.check, waiting.verdict, waiting.reason) == (
        "person",
        "drop",
        "waits for review",
    )
    # What the filters dropped does not wait, too.
    assert not [d for _, stage, d in work.ledger.decisions("pic-005") if stage == "review"]


def test_decisions_come_into_the_ledger_and_go_when_undone(work: Work) -> None:
    log = DecisionLog(work.folder)
    log.append([entry("pic-000", "reject", "dull")], "Mio")
    log.append([entry("pic-005")], "Mio")
    assert run(work) == {"rejected": 1, "accepted": 1, "waiting": 1, "not asked about": 3}
    [(_, _, rejected)] = [d for d in work.ledger.decisions("pic-000") if d[1] == "review"]
    assert (rejected.verdict, rejected.reason, rejected.details["reviewer"]) == (
        "drop",
        "dull",
        "Mio",
    )
    assert kept(work) == ["pic-001", "pic-003", "pic-004", "pic-005"]
    log.undo("Mio")
    log.undo("Mio")
    run(work)
    assert kept(work) == ["pic-000", "pic-001", "pic-003", "pic-004"]


def test_second_run_writes_nothing(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    DecisionLog(work.folder).append([entry("pic-000")], "Mio")
    run(work)
    monkeypatch.setattr(work.ledger, "record", None)
    run(work)


def test_edited_caption_wins_and_outlives_the_caption_stage(work: Work) -> None:
    log = DecisionLog(work.folder)
    log.append([entry("pic-000", "caption_sketch", f"{KEYWORDS}, mine")], "Mio")
    run(work)
    new = {"caption_sketch": Text(f"{KEYWORDS}, theirs"), "caption_color": Text("new")}
    work.ledger.record("pic-000", "caption", "y", Outcome(texts=new))
    found = final_texts(work.ledger, "pic-000")
    assert {name: text.text for name, text in found.items()} == {
        "caption_sketch": f"{KEYWORDS}, mine", "caption_color": "new",
    }  # fmt: skip
    assert found["caption_sketch"].details["reviewer"] == "Mio"
    assert all_final_texts(work.ledger, "caption_sketch")["pic-000"].text.endswith("mine")
    assert len(all_final_texts(work.ledger, "caption_sketch")) == 6
    log.undo("Mio")
    run(work)
    assert final_texts(work.ledger, "pic-000")["caption_sketch"].text.endswith("theirs")


def test_brought_back_picture_waits_until_it_has_a_sketch(work: Work) -> None:
    work.ledger.forget("pic-005", "sketch")
    DecisionLog(work.folder).append([entry("pic-005")], "Mio")
    assert run(work)["brought back, to be built"] == 1
    assert "pic-005" in [picture.id for picture in work.ledger.kept(before("sketch"))]
    assert "pic-005" not in kept(work)
    work.ledger.record("pic-005", "sketch", "x", Outcome(forms={"sketch": Form("x", "0" * 64)}))
    run(work)
    assert "pic-005" in kept(work)


def test_failed_picture_cannot_be_accepted_into_the_set(work: Work) -> None:
    work.ledger.fail("pic-001", "sketch", "damaged")
    DecisionLog(work.folder).append([entry("pic-001")], "Mio")
    run(work)
    assert "pic-001" not in kept(work)


# The server


def test_overview_tells_what_the_page_needs(client: Client) -> None:
    told = client.get("api/pictures").json
    pictures = {picture["id"]: picture for picture in told["pictures"]}
    assert list(pictures) == [f"pic-{k:03d}" for k in range(6)]
    assert pictures["pic-002"]["flags"] == ["filter/blur"]
    assert pictures["pic-005"]["drops"] == ["dedup/likeness"]
    assert pictures["pic-000"]["duplicate"]["cluster"] == "c-1"
    assert told["sources"] == {"alpha": "alpha.mkv", "beta": "beta.mkv"}
    assert told["seq"] == 0


def test_decision_is_on_the_disk_when_it_is_answered(client: Client, work: Work) -> None:
    answer = client.decide("pic-000", "reject", "dull")
    assert answer.json["states"]["pic-000"]["verdict"] == "reject"
    assert [line["value"] for line in lines(work.folder)] == ["dull"]
    assert client.get("api/changes?since=0").json["states"]["pic-000"]["reason"] == "dull"
    assert client.get("api/changes?since=1").json == {"states": {}, "seq": 1}


def test_late_decision_gets_409_and_the_newer_state(client: Client) -> None:
    client.decide("pic-000", "accept", by="Rin")
    answer = client.decide("pic-000", "reject", "dull")
    assert answer.status == 409
    assert answer.json["states"]["pic-000"]["last"][0] == "Rin"
    assert client.decide("pic-000", "reject", "dull", seq=1).status == 200


def test_wrong_caption_is_refused_with_what_is_wrong(client: Client, work: Work) -> None:
    answer = client.decide("pic-000", "caption_sketch", "a girl, lineart, lineart")
    assert answer.status == 422
    assert len(answer.json["faults"]) >= 3
    assert not (work.folder / "review.jsonl").exists()
    assert client.post(
        "api/check", {"caption": "caption_sketch", "text": f"{KEYWORDS}, x"}
    ).json == {"faults": []}
    client.decide("pic-000", "caption_sketch", f"  {KEYWORDS},\n x ")
    [line] = lines(work.folder)
    assert line["value"] == f"{KEYWORDS}, x"
    assert line["before"] == f"{KEYWORDS}, a girl in a meadow"


def replacing(**changed: Any) -> dict[str, Any]:
    return {
        "ids": [f"pic-{k:03d}" for k in range(5)], "caption": "caption_sketch", "find": "girl",
        "replace": "woman", **changed,
    }  # fmt: skip


def test_batch_is_previewed_then_done_as_previewed(client: Client, work: Work) -> None:
    preview = client.post("api/replace", replacing()).json
    assert [change["id"] for change in preview["changes"]] == ["pic-000", "pic-004"]
    assert (preview["count"], preview["left"]) == (2, 0)
    assert not (work.folder / "review.jsonl").exists()
    done = client.post("api/replace", replacing(token=preview["token"], reviewer="Mio"))
    assert done.json["count"] == 2
    assert {(line["id"], line["group"]) for line in lines(work.folder)} == {
        ("pic-000", 1), ("pic-004", 1),
    }  # fmt: skip
    edited = done.json["states"]["pic-004"]["captions"]
    assert edited == {"caption_sketch": f"{KEYWORDS}, a woman in a meadow"}
    undone = client.post("api/undo", {"reviewer": "Mio"}).json["undone"]
    assert len(undone) == 2


def test_batch_that_is_no_longer_as_previewed_is_refused(client: Client) -> None:
    preview = client.post("api/replace", replacing()).json
    client.decide("pic-000", "caption_sketch", f"{KEYWORDS}, a boy", by="Rin")
    answer = client.post("api/replace", replacing(token=preview["token"], reviewer="Mio"))
    assert answer.status == 409


def test_batch_leaves_out_what_would_become_wrong(client: Client) -> None:
    body = replacing(find="lineart, monochrome, a lecture", replace="a lecture")
    preview = client.post("api/replace", body).json
    assert (preview["count"], preview["left"]) == (0, 1)
    assert any("'lineart'" in fault for fault in preview["changes"][0]["faults"])
    done = client.post("api/replace", {**body, "token": preview["token"], "reviewer": "Mio"})
    assert done.status == 400


def test_wrong_expression_is_told(client: Client) -> None:
    answer = client.post("api/replace", replacing(find="(", regex=True))
    assert answer.status == 400
    assert "position 0" in answer.json["error"]


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:8000"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": None}, 403),
        ({"Origin": None, "Referer": "http://evil.example/127.0.0.1"}, 403),
        ({"X_Review_Token": None}, 403),
        ({"X_Review_Token": "\u00e9"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Length": "999999999999"}, 413),
        ({"Content_Length": "-1"}, 411),
    ],
)
def test_foreign_requests_change_nothing(
    client: Client, work: Work, changed: dict[str, Any], status: int
) -> None:
    body = {"reviewer": "Mio", "entries": [{"id": "pic-000", "action": "accept", "seq": 0}]}
    assert client.post("api/decide", body, **changed).status == status
    assert not (work.folder / "review.jsonl").exists()
    own = {"Origin": None, "Referer": client.address + "#pic-000"}
    assert client.post("api/decide", body, **own).status == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[" * 200_000, 400),
        (b"\xff", 400),
        ([], 400),
        ({}, 400),
        ({"reviewer": "Mio", "entries": []}, 400),
        ({"reviewer": "Mio", "entries": [{"id": "pic-000", "action": "undo", "seq": 0}]}, 400),
        ({"reviewer": "Mio", "entries": [{"id": "pic-000", "action": "accept"}]}, 400),
        ({"reviewer": "Mio", "entries": [{"id": "pic-000", "action": "accept", "seq": True}]}, 400),
        ({"reviewer": "Mio", "entries": [{"id": "no", "action": "accept", "seq": 0}]}, 404),
        ({"reviewer": "Mio", "entries": [{"id": "../x", "action": "accept", "seq": 0}]}, 404),
        ({"reviewer": " ", "entries": [{"id": "pic-000", "action": "accept", "seq": 0}]}, 400),
        ({"reviewer": "M" * 81, "entries": [{"id": "pic-000", "action": "accept", "seq": 0}]}, 400),
        ({"reviewer": "\ud800", "entries": [{"id": "pic-000", "action": "accept", "seq": 0}]}, 400),
        ({"reviewer": "M\x00", "entries": [{"id": "pic-000", "action": "accept", "seq": 0}]}, 400),
    ],
)
def test_bad_requests_are_refused(client: Client, work: Work, body: Any, status: int) -> None:
    answer = client.post("api/decide", body)
    assert answer.status == status
    assert answer.json["error"]
    assert not (work.folder / "review.jsonl").exists()


def test_other_sites_may_not_read(client: Client) -> None:
    for path in ("api/pictures", "picture/pic-000/colour/thumb", "page/page.js"):
        assert client.get(path, Sec_Fetch_Site="cross-site").status == 403
        assert client.get(path, Sec_Fetch_Site="same-site").status == 403
        assert client.get(path, Host="evil.example").status == 403
        assert client.get(path, Sec_Fetch_Site="same-origin").status == 200


def test_every_answer_is_guarded(client: Client) -> None:
    answers = [
        client.get(path)
        for path in ("", "page/page.js", "api/pictures", "nowhere", "picture/pic-000/sketch/full")
    ]
    answers.append(client.post("api/check", {"caption": "caption_color", "text": "x"}))
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert b"<script>" not in answers[0].content  # none inside the page, as the policy demands
    assert b"style=" not in answers[0].content


@pytest.mark.parametrize(
    "path",
    [
        "picture/../../etc/passwd/colour/full",
        "picture/..%2f..%2f..%2fetc%2fpasswd/colour/full",
        "picture//etc/passwd/colour/full",
        "picture/%2Fetc%2Fpasswd/colour/full",
        "picture/pic-000/..%2f..%2fledger.sqlite/full",
        "picture/pic-000/colour/../../../ledger.sqlite",
        "picture/pic-000%00/colour/full",
        "picture/pic-000/colour/huge",
        "picture/pic-000/nothing/full",
        "picture/pic-000/adjusted/full",
        "picture/other/colour/full",
        "page/../server.py",
        "page/..%2fserver.py",
        "page//etc/passwd",
        "page/",
        "ledger.sqlite",
        "review.jsonl",
        "api/picture/..%2f..%2fetc%2fpasswd",
    ],
)
def test_no_path_leads_anywhere_else(client: Client, path: str) -> None:
    # http.client, unlike urllib, sends the path as it stands.
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(client.address).port)
    connection.request("GET", "/" + path)
    answer = connection.getresponse()
    assert answer.status == 404
    assert "error" in json.loads(answer.read())
    connection.close()


@pytest.mark.parametrize("name", ["../secret.png", "/secret.png", "pictures/link.png"])
def test_files_outside_of_the_folder_stay_there(client: Client, work: Work, name: str) -> None:
    secret = work.folder.parent / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    (work.folder / "pictures" / "link.png").symlink_to(secret)
    name = str(secret) if name == "/secret.png" else name
    outcome = Outcome(forms={"colour": Form(name, "a" * 64)})
    work.ledger.record("pic-000", "frames", "x", outcome)
    for size in ("full", "preview", "thumb"):
        answer = client.get(f"picture/pic-000/colour/{size}")
        assert answer.status == 404
        assert "outside of the data set's folder" in answer.json["error"]


def test_pictures_come_in_sizes_and_are_cached(client: Client, work: Work) -> None:
    form = work.ledger.forms("colour")["pic-000"]
    full = client.get("picture/pic-000/colour/full")
    assert full.content == (work.folder / form.path).read_bytes()
    assert (full.headers["Content-Type"], full.headers["ETag"]) == (
        "image/png", f'"{form.sha256[:16]}"',
    )  # fmt: skip
    thumb = client.get("picture/pic-000/colour/thumb")
    [made] = (work.folder / "review-cache" / "thumb").iterdir()
    with Image.open(made) as picture:
        assert max(picture.size) == 320
    tag = thumb.headers["ETag"]
    assert client.get("picture/pic-000/colour/thumb", If_None_Match=tag).status == 304
    assert client.get("picture/pic-000/colour/thumb", If_None_Match='"old"').status == 200
    named = client.get(f"picture/pic-000/colour/thumb?v={form.sha256[:16]}")
    assert "immutable" in named.headers["Cache-Control"]
    assert "no-cache" in thumb.headers["Cache-Control"]


def test_missing_or_damaged_picture_is_told(client: Client, work: Work) -> None:
    path = work.folder / work.ledger.forms("colour")["pic-001"].path
    path.write_bytes(b"no picture")
    answer = client.get("picture/pic-001/colour/thumb")
    assert (answer.status, "cannot be read" in answer.json["error"]) == (404, True)
    path.unlink()
    assert "is missing" in client.get("picture/pic-001/colour/full").json["error"]


def test_details_tell_why(client: Client) -> None:
    told = client.get("api/picture/pic-002").json
    blur = next(d for d in told["decisions"] if d["check"] == "blur")
    assert (blur["score"], blur["threshold"], blur["verdict"]) == (11.25, 12.0, "review")
    assert told["provenance"]["seconds"] == 63.5


def test_many_requests_at_once(client: Client, work: Work) -> None:
    statuses: list[int] = []

    def ask(k: int) -> None:
        for path in (f"picture/pic-{k % 6:03d}/colour/preview", "api/pictures"):
            statuses.append(client.get(path).status)
        statuses.append(client.decide(f"pic-{k % 6:03d}", "accept", by=f"R{k}").status)

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses.count(200) == 30  # of two who decide on one picture, one is first
    assert statuses.count(409) == 6
    assert not list((work.folder / "review-cache").rglob("*.part"))


def test_port_in_use_is_told(work: Work) -> None:
    with ReviewServer(work) as server:
        port = server.server_address[1]
        with pytest.raises(ConfigError, match=rf"Port {port} cannot be had .* --port"):
            ReviewServer(work, port)
    with pytest.raises(ConfigError, match="Port 99999"):
        ReviewServer(work, 99999)


def test_kill_loses_nothing_that_was_answered(work: Work) -> None:
    """A client decides without a pause, the server is killed at some moment."""
    answered: list[int] = []
    with serving(work.folder) as (process, address):
        client = Client(address)
        seq = 0
        try:
            while True:
                answer = client.decide("pic-000", "reject", f"reason {seq}", seq=seq)
                seq = answer.json["states"]["pic-000"]["seq"]
                answered.append(seq)
                if len(answered) == 10:  # it dies in the middle of one of the next
                    threading.Timer(0.05, process.kill).start()
        except (OSError, http.client.HTTPException):
            pass
        assert process.wait() == -signal.SIGKILL
    assert len(answered) >= 10
    log = DecisionLog(work.folder)
    assert log.refresh() in (answered[-1], answered[-1] + 1)
    assert [line["seq"] for line in lines(work.folder)][: len(answered)] == answered


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ending_the_server_puts_decisions_into_the_ledger(work: Work, how: signal.Signals) -> None:
    with serving(work.folder) as (process, address):
        Client(address).decide("pic-000", "reject", "dull")
        process.send_signal(how)
        assert process.stdout is not None
        assert "1 rejected" in process.stdout.read()
        assert process.wait() == 0
    found = [d for _, stage, d in work.ledger.decisions("pic-000") if stage == "review"]
    assert found == [replace(found[0], check="person", verdict="drop", reason="dull")]


def test_decision_of_a_stage_that_comes_later_is_no_reason(work: Work, client: Client) -> None:
    work.ledger.record("pic-000", "split", "x", Outcome([Decision("share", "drop", "too many")]))
    assert client.get("api/pictures").json["pictures"][0]["drops"] == []
