from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest

from animesketchnet_core.files import StorageError
from tests.dataset_work import add_picture, open_work
from training.dataset import stages
from training.dataset.images import PictureError
from training.dataset.ledger import Decision, Outcome
from training.loading import ModelError

GREY = np.full((5, 7, 3), 128, np.uint8)


@dataclass(frozen=True)
class Settings:
    strength: int = 1


class Stage:
    """Turns colour pictures into their negatives."""

    name = "sketch"
    reads = ("colour",)

    def __init__(self, strength=1, fault=None):
        self.strength = strength
        self.fault = fault or {}
        self.seen = []

    def settings(self, work):
        return Settings(self.strength)

    @contextmanager
    def open(self, work):
        def examine(picture):
            self.seen.append(picture.id)
            if picture.id in self.fault:
                raise self.fault[picture.id]
            form = work.write(picture, "sketch", 255 - work.read(picture, "colour"))
            return Outcome([Decision("negative", "keep")], {"sketch": form})

        yield examine


@pytest.fixture
def work(tmp_path):
    with open_work(tmp_path) as work:
        for place, name in enumerate("abc"):
            add_picture(work, name, GREY + place, place)
        yield work


def test_only_what_changed_is_done_again(work):
    first = Stage()
    assert stages.run(first, work) == {"keep": 3}
    assert first.seen == ["a", "b", "c"]
    assert (work.read(work.ledger.pictures()[1], "sketch") == 126).all()
    again = Stage()
    assert stages.run(again, work) == {}
    add_picture(work, "b", GREY + 9, 1)
    assert stages.run(again, work) == {"keep": 1}
    assert again.seen == ["b"]
    other = Stage(strength=2)
    stages.run(other, work)
    assert other.seen == ["a", "b", "c"]


def test_a_file_that_was_taken_away_is_made_again(work):
    stages.run(Stage(), work)
    path = work.folder / work.ledger.forms("sketch")["b"].path
    before = path.read_bytes()
    path.unlink()
    again = Stage()
    stages.run(again, work)
    assert again.seen == ["b"]
    assert path.read_bytes() == before


def test_a_picture_that_fails_is_noted_and_tried_again(work, capsys):
    stage = Stage(fault={"b": PictureError("b is damaged")})
    assert stages.run(stage, work) == {"keep": 2, "failed": 1}
    assert "sketch: b is damaged" in capsys.readouterr().out
    assert [p.id for p in work.ledger.kept(("sketch",))] == ["a", "c"]
    mended = Stage()
    stages.run(mended, work)
    assert mended.seen == ["b"]
    assert len(work.ledger.kept(("sketch",))) == 3


def test_dropped_pictures_are_not_looked_at(work):
    work.ledger.record("a", "filter", "", Outcome([Decision("blur", "drop")]))
    stage = Stage()
    stages.run(stage, work)
    assert stage.seen == ["b", "c"]


def test_a_disk_that_stays_full_ends_the_stage(work):
    fault = {name: StorageError("disk full") for name in "abc"}
    with pytest.raises(StorageError, match="disk full"):
        stages.run(Stage(fault=fault), work)
    assert len(work.ledger.decisions("a")) == 1
    del fault["b"]
    assert stages.run(Stage(fault=fault), work) == {"keep": 1, "failed": 2}


def test_missing_weights_are_noted_for_each_picture(work):
    class Missing(Stage):
        @contextmanager
        def open(self, work):
            raise ModelError("there is no netG.pth")
            yield

    with pytest.raises(ModelError, match=r"netG\.pth"):
        stages.run(Missing(), work)
    told = [decision.reason for _, _, decision in work.ledger.decisions()]
    assert told == ["there is no netG.pth"] * 3


def test_nothing_is_loaded_when_nothing_is_to_be_done(work):
    stages.run(Stage(), work)

    class Costly(Stage):
        @contextmanager
        def open(self, work):
            raise AssertionError("loaded")
            yield

    assert stages.run(Costly(), work) == {}
