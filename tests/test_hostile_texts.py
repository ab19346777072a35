"""Broken and hostile settings, lists, archives, captions and records: our own error, or right."""

from __future__ import annotations

import io
import json
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from animesketchnet_core.files import StorageError
from comfyui_server import ComfyUIError
from comfyui_workflow import read_workflow
from tests.hostile import damaged, memory_within, no_new_file, only
from training.config import DataSettings, TrainConfig, load_config
from training.data import Dataset
from training.dataset.captions.wd14 import _vocabulary
from training.dataset.config import DatasetConfig
from training.dataset.config import load_config as load_dataset_config
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
from training.dataset.review.decisions import DecisionLog, Entry
from training.evaluation.config import EvaluateConfig
from training.evaluation.drawing import drawing_minutes
from training.evaluation.measuring import _known
from training.loading import ModelError
from training.models import load_base
from training.report import read_log
from training.settings import ConfigError, flatten, load_settings, to_toml
from training.sources import DataError

ROOT = Path(__file__).parents[1]
PROGRAMS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "train": (load_config, "paper.toml"),
    "dataset": (lambda path: load_dataset_config(path, []), "dataset-demo.toml"),
    "evaluate": (lambda path: load_settings(EvaluateConfig, path), "evaluate-mini.toml"),
}


# Settings


BAD_TOML = {
    "empty brackets": "[",
    "no value": "[run]\nseed =",
    "twice": "[run]\nseed = 1\nseed = 2",
    "section twice": "[run]\n[run]",
    "NUL": "[run]\nseed = 1\0",
    "Latin-1": "[run]\noutput = 'Zeichnungen für Anna'".encode("latin-1"),
    "UTF-16": "[run]\nseed = 1".encode("utf-16"),
    "a PNG": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "deep": "x = " + "[" * 100_000,
    "deep tables": "[" + "a." * 5000 + "a]\nx = 1",
    "large integer": "[run]\nseed = " + "9" * 5000,
    "larger than a float": "[run]\nmax_minutes = " + "9" * 400,
    "hexadecimal": "[run]\nseed = 0x" + "f" * 5000,
    "surrogate": '[run]\noutput = "\\ud800"',
    "a date": "[run]\nseed = 2024-13-45",
    "a time": "[run]\nseed = 2024-01-01",
    "a list": "[[run]]\nseed = 1",
    "a text": 'run = "x"',
    "a number": "run = 3",
    "a table in a value": "[run.seed]\nx = 1",
    "a key of many letters": "[run]\n" + "a" * 5000 + " = 1",
    "a quoted key": '[run]\n"" = 1',
    "another script": "[run]\n'種' = 1",
    "true for a number": "[run]\nseed = true",
}


@pytest.mark.parametrize("name", BAD_TOML)
@pytest.mark.parametrize("program", PROGRAMS)
def test_settings_that_cannot_be_read_are_told(tmp_path: Path, program: str, name: str) -> None:
    content = BAD_TOML[name]
    path = tmp_path / "my.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    with pytest.raises(ConfigError) as caught:
        PROGRAMS[program][0](path)
    assert len(str(caught.value)) < 8000


KINDS: dict[str, type] = {
    "train": TrainConfig,
    "dataset": DatasetConfig,
    "evaluate": EvaluateConfig,
}


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e308", "-1e308"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_numbers_without_sense_are_refused(program: str, text: str) -> None:
    assert taken(program, float, text) == set()


@pytest.mark.parametrize("text", ["[nan, nan]", "[inf]", "[-inf, 1.0]", "[1.0, nan]"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_lists_of_numbers_without_sense_are_refused(program: str, text: str) -> None:
    assert taken(program, tuple, text) == set()


@pytest.mark.parametrize("program", PROGRAMS)
def test_integers_without_sense_are_refused(program: str) -> None:
    assert taken(program, int, "-1") <= {"split.near"}  # -1: off
    assert taken(program, int, str(2**63 - 1)) <= {"run.seed"}
    assert taken(program, int, str(-(2**63))) == set()
    assert taken(program, int, str(2**63)) == set()


def taken(program: str, kind: type, text: str) -> set[str]:
    """The settings of one type that can be set to a value."""
    found = set()
    for key, value in flatten(KINDS[program]()).items():
        if type(value) is kind:
            with suppress(ConfigError):
                load_settings(KINDS[program], None, [(key, text)])
                found.add(key)
    return found


def test_a_folder_in_place_of_settings_is_told(tmp_path: Path) -> None:
    for load, _ in PROGRAMS.values():
        with pytest.raises(ConfigError, match="There is no configuration file"):
            load(tmp_path)


def test_settings_that_begin_with_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    """As Windows' editor saves them."""
    path = tmp_path / "my.toml"
    path.write_bytes(b"\xef\xbb\xbf[run]\nseed = 7\n")
    assert load_config(path).run.seed == 7


@pytest.mark.parametrize("program", PROGRAMS)
def test_damaged_settings_are_told_or_read(tmp_path: Path, program: str) -> None:
    load, name = PROGRAMS[program]
    whole = (ROOT / "training" / "configs" / name).read_bytes()
    path = tmp_path / "broken.toml"
    for seed in range(100):
        path.write_bytes(damaged(whole, seed))
        with only(ConfigError, f"{program}, seed {seed}"):
            to_toml(load(path))


# Lists of pictures


def png(shade: int = 0) -> bytes:
    content = io.BytesIO()
    Image.new("L", (5, 3), shade).save(content, "PNG")
    return content.getvalue()


def list_of(*entries: object, suffix: str = ".jsonl") -> str:
    if suffix == ".json":
        return json.dumps(entries)
    return "\n".join(map(json.dumps, entries))


GOOD = {"file_name": "a.png", "text": "a girl"}
BAD_LISTS: dict[str, tuple[str, str | bytes]] = {
    "deep": (".jsonl", '{"file_name": ' + "[" * 100_000),
    "large integer": (".jsonl", '{"file_name": "a.png", "text": ' + "9" * 5000 + "}"),
    "cut": (".jsonl", '{"file_name": "a.png", "te'),
    "two in a line": (".jsonl", json.dumps(GOOD) * 2),
    "not UTF-8": (".jsonl", b'{"file_name": "\xff.png"}'),
    "UTF-16": (".jsonl", json.dumps(GOOD).encode("utf-16")),
    "a number": (".jsonl", "3"),
    "a name that is no text": (".jsonl", list_of({**GOOD, "file_name": ["a.png"]})),
    "a long name": (".jsonl", list_of({**GOOD, "file_name": "a" * 5000 + ".png"})),
    "a deep name": (".jsonl", list_of({**GOOD, "file_name": "a/" * 5000 + "a.png"})),
    "NUL in a name": (".jsonl", list_of({**GOOD, "file_name": "a\0.png"})),
    "half a character in a name": (".jsonl", list_of({**GOOD, "file_name": "\ud800.png"})),
    "half a character in a caption": (".jsonl", list_of({**GOOD, "text": "a \ud800 girl"})),
    "a folder": (".jsonl", list_of({**GOOD, "file_name": "sub"})),
    "out": (".jsonl", list_of({**GOOD, "file_name": "sub/../../a.png"})),
    "out, Windows": (".jsonl", list_of({**GOOD, "file_name": "sub\\..\\..\\a.png"})),
    "absolute": (".jsonl", list_of({**GOOD, "file_name": "/etc/passwd"})),
    "a device": (".jsonl", list_of({**GOOD, "file_name": "C:\\a.png"})),
    "null": (".jsonl", list_of({**GOOD, "text": None})),
    "no caption": (".jsonl", list_of({**GOOD, "text": []})),
    "numbers": (".jsonl", list_of({**GOOD, "text": [1, 2]})),
    "deep array": (".json", "[" * 100_000),
    "array, large integer": (".json", "[" + "9" * 5000 + "]"),
    "array, cut": (".json", list_of(GOOD, suffix=".json")[:-2]),
    "object": (".json", json.dumps(GOOD)),
    "array in an array": (".json", "[[]]"),
    "a large cell": (".csv", f"file_name,text\na.png,{'x' * 200_000}\n"),
    "NUL in a cell": (".csv", "file_name,text\na.png\0,x\n"),
    "more columns": (".csv", "file_name,text\na.png,x,y\n"),
    "empty": (".csv", ""),
    "CSV not UTF-8": (".csv", b"file_name,text\na.png,\xff\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_LISTS)
def test_a_broken_list_is_told(tmp_path: Path, name: str) -> None:
    suffix, content = BAD_LISTS[name]
    (tmp_path / "set" / "sub").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "set"):
        (folder / "a.png").write_bytes(png())
    path = tmp_path / "set" / f"list{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=f"list{suffix}") as caught:
        Dataset(DataSettings(folders=(str(path),)))
    assert len(str(caught.value)) < 8000


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".json"])
def test_a_damaged_list_is_told_or_read(tmp_path: Path, suffix: str) -> None:
    rows = [{"file_name": f"{n}.png", "text": f"a girl, {n} 線"} for n in range(4)]
    for n in range(4):
        (tmp_path / f"{n}.png").write_bytes(png(n))
    whole = list_of(*rows, suffix=suffix)
    if suffix == ".csv":
        whole = "file_name,text\n" + "".join(f'{r["file_name"]},"{r["text"]}"\n' for r in rows)
    path = tmp_path / f"list{suffix}"
    for seed in range(150):
        path.write_bytes(damaged(whole.encode(), seed))
        with no_new_file(tmp_path), only(DataError, f"{suffix}, seed {seed}", "list"):
            for row in Dataset(DataSettings(folders=(str(path),))).rows:
                assert Path(row.picture).parent == tmp_path
                "".join(row.captions).encode()


# Captions


SCRIPTS = {
    "Arabic, right to left": "فتاة ذات شعر طويل",
    "Hebrew with marks": "נַעֲרָה עִם שֵׂעָר",
    "overrides": "a \u202egirl\u202c \u2066with\u2069 hair",
    "combining": "g\u0308\u0301\u0327" * 50,
    "Zalgo": "a" + "\u0301" * 3000,
    "Japanese": "長い髪の少女、線画",
    "Korean": "긴 머리 소녀",
    "Devanagari": "लंबे बालों वाली लड़की",
    "Thai": "เด็กผู้หญิงผมยาว",
    "Tibetan": "བུ་མོ་སྐྲ་རིང་།",
    "Cuneiform": "𒀀𒁀𒂀",
    "Egyptian": "𓀀𓁐",
    "emoji": "👩🏽‍🎨👨‍👩‍👧‍👦🏳️‍🌈",
    "private and unassigned": "\ue000\U000e0001\U0010ffff\u0378",
    "spaces of all kinds": "a\u00a0\u2003\u200b\u3000\ufeffgirl",
    "controls": "a\x01\x07\x1b[31mgirl\x7f",
    "NUL": "a\0girl",
    "special tokens": "<|endoftext|><|startoftext|> a girl </s> [MASK]",
    "markup": "<script>alert(1)</script> & 'girl' \" {{x}} %s %n ${x}",
    "10,000 letters": "x" * 10_000,
    "10,000 words": "girl " * 10_000,
    "10,000 scripts": "".join(chr(0x4E00 + n) for n in range(10_000)),
    "empty": "",
    "spaces": "   ",
}


@pytest.fixture(scope="module")
def base() -> Any:
    return load_base("mini")


@pytest.mark.parametrize("name", SCRIPTS)
def test_captions_of_every_script_are_read_kept_and_encoded(tmp_path, base, name) -> None:
    text = SCRIPTS[name]
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "metadata.jsonl").write_text(json.dumps({**GOOD, "text": text}), encoding="utf-8")
    dataset = Dataset(DataSettings(folders=(str(tmp_path),)))
    assert dataset.captions == [text]
    assert to_toml(TrainConfig())
    with memory_within(200):
        encoded = base.encode_text([text])
    assert encoded.shape[:2] == (1, 77)
    assert encoded.isfinite().all()


@pytest.mark.parametrize("name", SCRIPTS)
def test_captions_of_every_script_go_through_the_ledger(tmp_path: Path, name: str) -> None:
    text = SCRIPTS[name]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        picture = Picture("1", "source", 0, 5, 3, {"caption": text})
        ledger.record("1", "caption", "x", Outcome(texts={"caption": Text(text)}), [picture])
        assert ledger.texts("caption")["1"].text == text
        assert ledger.pictures()[0].provenance["caption"] == text


def test_a_caption_file_of_any_bytes_is_told_or_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    whole = "a girl with 長い髪\nand \u0301 more\n".encode()
    for seed in range(100):
        (tmp_path / "a.txt").write_bytes(damaged(whole, seed))
        with only(DataError, f"seed {seed}", "a.txt"):
            for caption in Dataset(DataSettings(folders=(str(tmp_path),))).captions:
                assert caption.strip()


def test_a_folder_that_counts_too_often_is_told(tmp_path: Path) -> None:
    """A date before the name is no number of repeats."""
    folder = tmp_path / "20240131_girl"
    folder.mkdir()
    (folder / "a.png").write_bytes(png())
    (folder / "a.txt").write_text("a girl")
    with pytest.raises(DataError, match=r"20240131_girl.*20,240,131 times.*Rename"):
        Dataset(DataSettings(folders=(str(tmp_path),)))
    folder.rename(tmp_path / "10_girl")
    assert Dataset(DataSettings(folders=(str(tmp_path),))).rows[0].weight == 10


# Archives


def packed(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w", **options: Any) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode, **options) as archive:  # type: ignore[call-overload]
        for member, data in members:
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> Any:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    return info, data


def sample(stem: str = "a") -> list[tuple[tarfile.TarInfo, bytes]]:
    return [member(f"{stem}.png", png()), member(f"{stem}.txt", b"a girl")]


@pytest.mark.parametrize("name", ["../a", "../../etc/a", "/a", "/etc/a", "s/../../a", "./../a",
                                  "//a"])  # fmt: skip
def test_a_tar_with_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "0.tar"
    path.write_bytes(packed(*sample(), *sample(name)))
    with pytest.raises(DataError, match=r"0\.tar holds .*leads out"):
        Dataset(DataSettings(folders=(str(path),)))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE,
                                  tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])  # fmt: skip
def test_links_and_devices_in_a_tar_are_passed_over(tmp_path: Path, kind: bytes) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(99))
    link = str(secret) if kind != tarfile.LNKTYPE else "../secret.png"
    (tmp_path / "set").mkdir()
    path = tmp_path / "set" / "0.tar"
    path.write_bytes(packed(*sample(), member("b.png", kind=kind, link=link),
                            member("b.txt", b"b")))  # fmt: skip
    with no_new_file(tmp_path):
        dataset = Dataset(DataSettings(folders=(str(path),)))
    assert [Path(row.picture).name for row in dataset.rows] == ["a.png"]


def test_a_tar_with_a_sparse_file_is_refused(tmp_path: Path) -> None:
    """Such a file claims gigabytes, and does not lie in the tar as it is."""
    content = bytearray(packed(*sample()))
    content[156:157] = tarfile.GNUTYPE_SPARSE
    content[257:265] = b"ustar  \0"
    content[386:410] = b"%011o\0%011o\0" % (0, 512)
    content[483:495] = b"%011o\0" % 2**32
    path = tmp_path / "0.tar"
    path.write_bytes(signed(content))
    with memory_within(50), pytest.raises(DataError, match=r"0\.tar.*a\.png.*sparse"):
        Dataset(DataSettings(folders=(str(path),)))


def signed(content: bytearray) -> bytes:
    """Puts the right checksum into the first header."""
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    return bytes(content)


@pytest.mark.parametrize("size", [b"\xff" * 11 + b"\0", b"\xff" * 10 + b"\xfe\0",
                                  b"\x80" + b"\x7f" * 11, b"77777777777\0", b"-0000000001\0",
                                  b"x" * 12])  # fmt: skip
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGNAME,
                                  tarfile.XHDTYPE, tarfile.DIRTYPE])  # fmt: skip
def test_a_tar_with_a_size_that_lies_is_refused(tmp_path: Path, kind: bytes, size: bytes) -> None:
    """A negative one leads Python's own reader in circles (CVE-2025-8194)."""
    content = bytearray(packed(*sample()))
    content[124:136] = size
    content[156:157] = kind
    path = tmp_path / "0.tar"
    path.write_bytes(signed(content))
    with memory_within(50), only(DataError, f"{kind!r} of {size!r}", "0.tar"):
        for row in Dataset(DataSettings(folders=(str(path),))).rows:
            assert Path(row.picture).name == "a.png"


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_is_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "0.tar"
    path.write_bytes(packed(*sample(), mode=mode))
    with pytest.raises(DataError, match=r"0\.tar is not an uncompressed tar file"):
        Dataset(DataSettings(folders=(str(path),)))


def test_a_damaged_tar_is_told_or_read(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    samples = [entry for stem in ("a", "s/b", "c") for entry in sample(stem)]
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        long = "漢" * 60 if form != tarfile.USTAR_FORMAT else "d"
        whole = packed(*samples, *sample(long), format=form)
        for seed in range(100):
            path.write_bytes(damaged(whole, seed))
            with no_new_file(tmp_path), only(DataError, f"form {form}, seed {seed}", "0.tar"):
                dataset = Dataset(DataSettings(folders=(str(path),)))
                for row in dataset.rows:
                    assert row.picture.startswith(f"{path.as_posix()}/")
                    dataset.pictures.open(row.picture)


def test_a_json_in_a_tar_that_is_broken_is_told(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    for content in (b"[", b"3", b"\xff", b"[" * 100_000, b"9" * 5000, b"{}"):
        path.write_bytes(packed(member("a.png", png()), member("a.json", content)))
        with pytest.raises(DataError, match=r"0\.tar/a"):
            Dataset(DataSettings(folders=(str(path),)))


# What evaluations and training runs have written


BROKEN_LINES = [
    b"", b"\n\n", b"{", b"3", b"null", b"[]", b'"x"', b"{}", b"\xff\xfe", b"\0" * 512,
    b"[" * 100_000, b"9" * 5000, b'{"group": 3}', b'{"group": "g"}', b'{"figures": {}}',
    b'{"group": "g", "figures": 3}', b'{"group": "g", "figures": {"x": 3}}',
    b'{"group": "g", "figures": {"x": ["a"]}}', b'{"group": ["g"], "figures": {}}',
    b'{"method": "m"}', b'{"method": "m", "seconds": "x"}', b'{"method": ["m"], "seconds": 1}',
    b'{"seconds": 1}', b'{"loss": "x", "step": []}', b'{"held_out": 3}',
]  # fmt: skip


@pytest.mark.parametrize("line", BROKEN_LINES, ids=lambda line: repr(line[:30]))
def test_broken_lines_of_scores_are_passed_over(tmp_path: Path, line: bytes) -> None:
    good = b'{"group": "h", "figures": {"x": [0.5, null]}}\n'
    (tmp_path / "m-1.0.jsonl").write_bytes(good + line + b"\n" + good.replace(b"h", b"i"))
    known = _known(tmp_path, "m-1")
    assert known == {name: {"x": [0.5, None]} for name in "hi"}


@pytest.mark.parametrize("line", BROKEN_LINES, ids=lambda line: repr(line[:30]))
def test_broken_lines_of_a_drawing_log_are_passed_over(tmp_path: Path, line: bytes) -> None:
    good = b'{"method": "A", "seconds": 30}\n'
    (tmp_path / "log.0.jsonl").write_bytes(good + line + b"\n" + good)
    assert drawing_minutes(tmp_path) == {"A": 1.0}


@pytest.mark.parametrize("line", BROKEN_LINES[:-2], ids=lambda line: repr(line[:30]))
def test_broken_lines_of_a_training_log_are_passed_over(tmp_path: Path, line: bytes) -> None:
    good = b'{"step": 1, "loss": 0.5}\n'
    (tmp_path / "log.jsonl").write_bytes(good + line + b"\n" + good.replace(b"1", b"2"))
    assert [entry["step"] for entry in read_log(tmp_path / "log.jsonl") if "loss" in entry] == [
        1,
        2,
    ]


def test_a_damaged_log_of_decisions_is_read_as_far_as_it_can(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path)
    log.append([Entry("a", "accept", "", "", 0), Entry("b", "reject", "x", "", 0)], "me")
    log.undo("me")
    whole = log.path.read_bytes()
    for seed in range(150):
        log.path.write_bytes(damaged(whole, seed))
        with no_new_file(tmp_path), only((), f"seed {seed}"):
            read = DecisionLog(tmp_path)
            assert read.refresh() >= 0
            assert read.state("a").verdict in ("", "accept", "open")
    undo = json.loads(whole.splitlines()[-1]) | {"seq": 99, "group": 99, "size": 1}
    for value in ("9" * 5000, "²", "-1", "\0"):
        log.path.write_bytes(whole + json.dumps(undo | {"value": value}).encode() + b"\n")
        with only((), value[:5]):
            DecisionLog(tmp_path).refresh()


# Workflows, vocabularies


@pytest.mark.parametrize("content", [
    b"", b"[", b"[]", b"3", b"\xff", b"[" * 100_000, b"9" * 5000, b'{"1": 3}', b'{"1": {}}',
    b'{"1": {"class_type": "KSampler"}}', b'{"1": {"class_type": 3, "inputs": []}}',
], ids=lambda content: repr(content[:30]))  # fmt: skip
def test_a_broken_workflow_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.json"
    path.write_bytes(content)
    with pytest.raises(ComfyUIError, match=r"w\.json"):
        read_workflow(path)


@pytest.mark.parametrize("content", [
    b"", b"name\nx", b"name,category\nx", b"\xff", b"name,category\n" + b"x" * 200_000 + b",0\n",
    b"name,category\n\0,0\n",
], ids=lambda content: repr(content[:30]))  # fmt: skip
def test_a_broken_vocabulary_is_told_or_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "selected_tags.csv"
    path.write_bytes(content)
    with only(ModelError, content[:30], "selected_tags.csv"):
        names, kinds = _vocabulary(path)
        assert all(isinstance(text, str) for text in [*names, *kinds])


# The ledger of a data set


def written_ledger(path: Path) -> bytes:
    with Ledger(path) as ledger:
        ledger.add_source(Source("source", "folder", "folder", {"file": "x"}))
        for n in range(20):
            picture = Picture(f"p{n}", "source", n, 5, 3, {"file": f"{n}.png"})
            outcome = Outcome([Decision("blur", "drop", "it is blurred", 0.5, 0.7, {"x": [1, 2]})],
                              {"colour": Form("colour/x.png", "0" * 64)},
                              {"caption": Text("a girl 線")}, {"phash": bytes(8)})  # fmt: skip
            ledger.record(f"p{n}", "filter", "digest", outcome, [picture])
    return path.read_bytes()


def read_all(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.sources()
        ledger.pictures()
        ledger.kept(["filter"])
        ledger.decisions()
        ledger.forms("colour")
        ledger.forms_of("p1")
        ledger.files("filter")
        ledger.texts("caption")
        ledger.texts_of("p1")
        ledger.features("phash")
        ledger.digests("filter")


def test_a_damaged_ledger_is_told_or_read(tmp_path: Path) -> None:
    whole = written_ledger(tmp_path / "whole.sqlite")
    read_all(tmp_path / "whole.sqlite")
    path = tmp_path / "set" / "broken.sqlite"
    path.parent.mkdir()
    for seed in range(200):
        for old in path.parent.iterdir():
            old.unlink()
        path.write_bytes(damaged(whole, seed))
        with only((LedgerError, StorageError), f"seed {seed}", "broken.sqlite"):
            read_all(path)


@pytest.mark.parametrize("content", [b"x", b"\0" * 4096, b"<html>" * 99, b"SQLite format 3\0",
                                     b"SQLite format 3\0" + bytes(999)])  # fmt: skip
def test_a_file_that_is_no_ledger_is_told_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(content)
    with pytest.raises(LedgerError, match=r"ledger\.sqlite is no ledger.*run\.output"):
        read_all(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("version", [0, 2, 99, -1])
def test_the_data_base_of_another_program_is_told_and_not_changed(tmp_path, version: int) -> None:
    path = tmp_path / "ledger.sqlite"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE bookmarks (url TEXT)")
    db.execute(f"PRAGMA user_version = {version}")
    db.commit()
    db.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=r"ledger\.sqlite.*run\.output"):
        read_all(path)
    assert path.read_bytes() == before


def test_a_data_base_of_the_same_version_and_other_tables_is_told(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "ledger.sqlite")
    db.execute("CREATE TABLE bookmarks (url TEXT)")
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()
    with pytest.raises(LedgerError, match=r"ledger\.sqlite.*no such table.*run\.output"):
        read_all(tmp_path / "ledger.sqlite")


@pytest.mark.parametrize("text", ["{", "3", "[]", "null", "\0", "[" * 100_000, "9" * 5000])
def test_a_ledger_whose_details_are_broken_is_told(tmp_path: Path, text: str) -> None:
    tables = {"pictures": "provenance", "sources": "details", "decisions": "details",
              "forms": "details", "texts": "details"}  # fmt: skip
    for table, column in tables.items():
        path = tmp_path / f"{table}.sqlite"
        written_ledger(path)
        db = sqlite3.connect(path)
        db.execute(f"UPDATE {table} SET {column} = ?", (text,))
        db.commit()
        db.close()
        with pytest.raises(LedgerError, match=rf"{table}\.sqlite"):
            read_all(path)
