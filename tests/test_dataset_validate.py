from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from dataset_pairs import RIGHTS, add_pair, colour_of, pairs, sketch_of
from PIL import Image

from training.dataset import export, split, validate
from training.dataset.fingerprint import Summary
from training.dataset.ledger import Decision, Outcome, Text
from training.dataset.split import splits_of
from training.dataset.validation.alignment import find_shift
from training.dataset.work import Work
from training.files import sha256_of

WORDS = ("waves", "sits", "runs", "sleeps", "sings", "reads", "smiles", "jumps")
COUNT = 8


def ready(work: Work, count: int = COUNT) -> None:
    """Gives the pairs captions without a fault, then splits and exports them."""
    for number in range(count):
        caption = f"anime sketch, lineart, monochrome, a girl {WORDS[number]}"
        item = f"f11ce-{number:04d}"
        work.ledger.record(item, "caption", "2", Outcome(texts={"caption_sketch": Text(caption)}))
    split.run(work)
    export.run(work)


def reasons(work: Work) -> list[str]:
    return [d.reason for _, stage, d in work.ledger.decisions() if stage == "validate"]


@pytest.fixture
def work(tmp_path):
    with pairs(tmp_path, COUNT, export={"layouts": ["trainer", "kohya"]}) as work:
        ready(work)
        yield work


def only_fault(work: Work) -> str:
    told = validate.run(work)
    (reason,) = reasons(work)
    assert told["fault"] == 1
    return reason


def test_a_good_data_set_has_no_faults(work, capsys):
    assert validate.run(work) == {"keep": COUNT}
    assert reasons(work) == []
    assert capsys.readouterr().out == ""


def test_mended_faults_are_forgotten(work, tmp_path, capsys):
    path = tmp_path / "pictures" / "colour" / "f11ce-0003.png"
    content = path.read_bytes()
    path.unlink()
    assert validate.run(work) == {"keep": COUNT - 1, "fault": 2}  # `colour` and `conditioning`
    assert "f11ce-0003: files: expected a file pictures/colour/" in capsys.readouterr().out
    path.write_bytes(content)
    assert validate.run(work) == {"keep": COUNT}


def test_a_changed_file_is_found_by_its_hash(work, tmp_path):
    path = tmp_path / "pictures" / "sketch" / "f11ce-0001.png"
    Image.fromarray(np.flipud(sketch_of(1))).save(path)
    assert only_fault(work).startswith("f11ce-0001: hash: expected pictures/sketch/f11ce-0001.png")


def redraw(work: Work, number: int, pixels) -> None:
    """Replaces a sketch as a stage would, and exports again as far as that goes."""
    picture = work.ledger.pictures()[number]
    form = work.write(picture, "adjusted", pixels)
    work.ledger.record(picture.id, "adjust", "2", Outcome(forms={"adjusted": form}))
    export.run(work)


@pytest.mark.parametrize(
    ("pixels", "told"),
    [
        (255 - sketch_of(2), r"polarity: expected dark lines on white, .*; found a mean of"),
        (np.roll(sketch_of(2), (6, -9), (0, 1)), r"alignment: .* fits better -\d+ pixels to the "
                                                 r"right and \d+ down"),
        (sketch_of(5), r"alignment: expected "),
        (np.full_like(sketch_of(2), 255), r"alignment: expected edges .*; found 0\.00"),
        (np.stack([sketch_of(2)] * 3, 2), r"kind: expected .*adjusted.* with 8 bits, L; found RGB"),
    ],
    ids=["inverted", "moved", "another", "empty", "rgb"],
)  # fmt: skip
def test_what_is_no_sketch_of_the_picture_is_told(work, pixels, told):
    redraw(work, 2, pixels)
    assert re.search(f"f11ce-0002: {told}", only_fault(work))


def test_16_bits_are_told(work, tmp_path):
    path = tmp_path / "pictures" / "adjusted" / "f11ce-0002.png"
    Image.fromarray(sketch_of(2).astype(np.uint16) * 257).save(path)
    picture = work.ledger.pictures()[2]
    forms = work.ledger.forms_of(picture.id)
    form = replace(forms["adjusted"], sha256=sha256_of(path))
    work.ledger.record(picture.id, "adjust", "2", Outcome(forms={"adjusted": form}))
    export.run(work)
    assert "with 8 bits, L; found I;16" in reasons_of(work)


def reasons_of(work: Work) -> str:
    validate.run(work)
    return "\n".join(reasons(work))


def test_another_size_is_told(work):
    redraw(work, 2, sketch_of(2)[:-8])
    told = reasons_of(work)
    assert "f11ce-0002: size: expected a sketch of 176 x 144 pixels" in told
    assert "found 176 x 136" in told
    assert "f11ce-0002: export: " in told  # it was left out


@pytest.mark.parametrize(
    ("caption", "told"),
    [
        ("lineart, monochrome, a girl waves", "the keyword 'anime sketch' is there 0 times"),
        ("anime sketch, lineart, monochrome, a red coat", "it says 'red'"),
        ("", "it has no caption"),
    ],
)
def test_captions_are_checked_one_by_one(work, caption, told):
    work.ledger.record(
        "f11ce-0006", "caption", "3", Outcome(texts={"caption_sketch": Text(caption)})
    )
    export.run(work)
    assert "f11ce-0006: caption: expected each keyword once" in (found := reasons_of(work))
    assert told in found


def test_the_same_picture_twice_is_told(work):
    picture = work.ledger.pictures()[4]
    for number, name in ((0, "colour"), (0, "adjusted")):
        pixels = colour_of(number) if name == "colour" else np.minimum(sketch_of(number), 250)
        form = work.write(picture, name, pixels)
        stage = "frames" if name == "colour" else "adjust"
        pictures = [picture] if stage == "frames" else []
        work.ledger.record(picture.id, stage, "2", Outcome(forms={name: form}), pictures)
    export.run(work)
    assert "f11ce-0004: twice: expected each picture once; found the pixels of f11ce-0000" in (
        only_fault(work)
    )


def move(work: Work, item: str, name: str) -> None:
    """Puts a picture into another split, behind the stage's back."""
    group = splits_of(work.ledger)[item][1]
    details = {"split": name, "group": group}
    decision = Decision("split", "keep", details=details)
    work.ledger.record(item, "split", "?", Outcome([decision]))
    export.run(work)


def test_a_group_torn_apart_is_told(work):
    split_of = {item: name for item, (name, _) in splits_of(work.ledger).items()}
    item = next(item for item, name in split_of.items() if name == "train")
    move(work, item, "test")
    assert "data set: leak: expected the group f11ce/shot-" in only_fault(work)


def summary(bits: int, seed: str, contrast: float = 50.0) -> Outcome:
    found = Summary(seed.ljust(32).encode(), bits, 0, contrast, np.zeros(66, np.uint8))
    return Outcome(features={"summary": found.pack()})


@pytest.mark.parametrize(("distance", "contrast", "leaks"), [(4, 50, 1), (5, 50, 0), (4, 1, 0)])
def test_near_pictures_stay_together_and_are_told_if_they_do_not(work, distance, contrast, leaks):
    first = {name: item for item, (name, _) in sorted(splits_of(work.ledger).items(), reverse=True)}
    one, other = sorted((first["train"], first["test"]))
    near = 0x5555_0000_FFFF_1234
    flipped = near ^ int("1" * distance, 2) << 7
    work.ledger.record(one, "fingerprint", "1", summary(near, "a", contrast))
    work.ledger.record(other, "fingerprint", "1", summary(flipped, "b", contrast))
    assert validate.run(work)["fault"] == leaks
    if leaks:
        assert reasons(work)[0].startswith(f"{one}: leak: expected pictures that differ in 4 bits")
    split.run(work)
    export.run(work)
    validate.run(work)
    assert not [reason for reason in reasons(work) if "leak" in reason]
    splits = splits_of(work.ledger)
    assert (splits[one] == splits[other]) == bool(leaks)


def test_an_empty_split_is_told(tmp_path):
    with pairs(tmp_path, 4) as work:  # two scenes for three splits
        ready(work, 4)
        assert only_fault(work) == (
            "data set: split: expected pictures in test (split.test = 0.2); found none. "
            "Add films, or set split.test = 0."
        )


def test_missing_rights_are_told(work, tmp_path):
    with pairs(tmp_path, COUNT, rights={**RIGHTS, "holder": ""}) as other:
        found = reasons_of(other)
    assert "data set: rights: " in found
    assert "rights.holder: who holds the rights" in found


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda place: (place / "train" / "metadata.jsonl").unlink(), "files: expected a file "
                                                                        "train/metadata.jsonl"),
        (lambda place: (place / "train" / "x.png").touch(), "files: expected only what checksums."
                                                             "sha256 lists; found train/x.png"),
        (lambda place: (place / "README.md").write_text("?"), "hash: expected README.md with"),
        (lambda place: place.rename(place.with_name("else")), "files: expected an export; found"),
    ],
    ids=["missing", "unlisted", "changed", "gone"],
)  # fmt: skip
def test_damaged_exports_are_told(work, tmp_path, damage, told):
    damage(tmp_path / "exports" / "trainer")
    assert f"exports/trainer: {told}" in only_fault(work)


def test_an_export_of_an_earlier_state_is_told(work):
    drop = Decision("person", "drop")
    work.ledger.record("f11ce-0000", "review", "1", Outcome([drop]))
    told = reasons_of(work)
    assert "exports/trainer: age: expected what the ledger has now; found an earlier state" in told
    split.run(work)
    export.run(work)
    assert validate.run(work) == {"keep": COUNT - 1}


def test_a_layout_that_is_no_longer_wanted_is_told(work, tmp_path):
    with pairs(tmp_path, COUNT, export={"layouts": ["trainer"]}) as other:
        assert "exports/kohya: layout: expected only those of export.layouts" in only_fault(other)


def test_a_new_picture_without_a_split_is_told(work):
    add_pair(work, COUNT)
    told = reasons_of(work)
    assert "f11ce-0008: split: expected a split; found none. Run split, then export." in told


@pytest.mark.parametrize("number", [0, 4, 9, 14, 22])
@pytest.mark.parametrize("move", [(0, 0), (5, -7), (-11, 3)])
def test_shifts_are_found(number, move):
    drawn = np.roll(sketch_of(number), move, (0, 1))
    shift = find_shift(colour_of(number), drawn, 2)
    assert abs(shift.x - move[1]) <= 2
    assert abs(shift.y - move[0]) <= 2
    assert shift.there > 0.5
    assert (shift.there > shift.here + 0.03) == (move != (0, 0))
