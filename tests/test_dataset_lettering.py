from __future__ import annotations

import socket
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from training.dataset.demo_film.scenes import Figure, art, scene, subtitled
from training.dataset.quality.lettering import TextBox, joined, open_reader
from training.loading import ModelError


def box(text="ab", left=0.1, top=0.2, right=0.5, bottom=0.3, score=0.9):
    return TextBox(text, score, left, top, right, bottom)


@pytest.fixture(scope="module")
def read():
    return open_reader(480, threads=1)


def test_place_of_a_box():
    assert box().area == pytest.approx(0.04)
    assert box().centre == pytest.approx((0.3, 0.25))
    assert box().overlap(box()) == pytest.approx(1)
    assert box().overlap(box(left=0.3, right=0.7)) == pytest.approx(1 / 3)
    assert box().overlap(box(top=0.31, bottom=0.4)) == 0
    assert box(right=0.1).overlap(box(right=0.1)) == 0


def test_letters_are_compared_without_case_width_and_signs():
    assert box("\uff21.S-n 1").letters == "asn1"  # a full-width A
    assert box("Straße").letters == box("STRASSE").letters
    assert box("-- ..").letters == ""
    assert joined([box("a"), box("b")]) == "a / b"


def test_a_subtitle_is_read_where_it_is(read):
    clean = scene("meadow", (0, 0, 1280), Figure("blue_smile", 200, 40))
    picture = np.array(subtitled(clean, "Good night."))
    (line,) = read(picture)
    assert line.letters == "goodnight"
    assert line.score > 0.9
    y, x = np.nonzero(np.any(picture != np.array(clean), axis=2))  # the text and its edge
    truth = box(left=x.min() / 1280, right=x.max() / 1280, top=y.min() / 720, bottom=y.max() / 720)
    assert line.overlap(truth) > 0.7


def test_size_of_the_picture_does_not_matter(read):
    font = ImageFont.load_default(40)
    picture = Image.new("L", (800, 450), 200)
    ImageDraw.Draw(picture).text((100, 300), "Platform 12", fill=10, font=font)
    ImageDraw.Draw(picture).text((420, 60), "Exit", fill=10, font=font)
    small = read(np.array(picture))
    large = read(np.array(picture.resize((3200, 1800), Image.Resampling.BICUBIC)))
    assert [line.letters for line in small] == ["exit", "platform12"]  # from top to bottom
    for one, other in zip(small, large, strict=True):
        assert one.letters == other.letters
        assert one.overlap(other) > 0.8


@pytest.mark.parametrize("name", ["club", "lecturehall", "meadow", "uni", "concert1", "concert2"])
def test_nothing_is_read_into_drawings(read, name):
    assert read(np.array(art(name))) == []


def test_it_says_and_fetches_nothing(capfd, monkeypatch):
    def refused(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "socket", refused)
    read = open_reader(256, threads=1)
    read(np.array(subtitled(art("black"), "Hello")))
    read(np.array(art("black")))
    assert capfd.readouterr() == ("", "")


def test_without_rapidocr_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(ModelError, match=r"pip install rapidocr.*filter\.text = false"):
        open_reader(480)


def test_a_wheel_without_its_networks_is_told(monkeypatch, tmp_path):
    import rapidocr

    monkeypatch.setattr(rapidocr, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(ModelError, match=r"\*_det_\*\.onnx, and holds none"):
        open_reader(480)
