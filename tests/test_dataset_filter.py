from __future__ import annotations

import re
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest
from PIL import Image, ImageDraw, ImageFilter

from tests.dataset_work import add_picture, open_work
from training.dataset import filter as quality
from training.dataset import measure
from training.dataset.config import QUALITY_CHECKS, FilterSettings
from training.dataset.demo_film.scenes import (
    Figure,
    art,
    coarse,
    credits,
    darkened,
    defocused,
    drawn,
    grained,
    marked,
    scene,
    smeared,
    subtitled,
    titled,
)  # fmt: skip
from training.dataset.images import to_grey
from training.dataset.ledger import Picture, Source
from training.dataset.measure import Figures, measured, open_classifier
from training.dataset.quality.lettering import TextBox, open_reader
from training.dataset.quality.medium import GRID, look_at, to_lab
from training.dataset.quality.overlays import Seen, corners_of, find_overlays
from training.loading import ModelError
from training.settings import ConfigError

FULL = (0, 0, 1280)
BACKGROUNDS = ("club", "lecturehall", "meadow", "uni")
FIGURES = [f"{dress}_{face}" for dress in ("blue", "green")
           for face in ("giggle", "normal", "smile", "surprised")]  # fmt: skip
WITHOUT_TEXT = {"text": False}


def pixels(picture):
    return np.array(picture.convert("RGB"))


def figure(name, background="lecturehall", left=500):
    return scene(background, FULL, Figure(name, left, 20, 720))


@pytest.fixture(scope="module")
def read():
    return open_reader(480, threads=1)


DEFAULTS = FilterSettings()


def judged(picture, read=None, settings=DEFAULTS):
    """All decisions on one picture that is alone in its folder, by check."""
    features = measured(pixels(picture), read).features
    figures = Figures.unpack(features["quality"])
    corners = measure.unpack_corners(features["quality-corners"])
    thumbnail = measure.unpack_thumbnail(features["quality-thumbnail"])
    seen = Seen("a", "a", figures.text or (), figures.content_mask(), corners, thumbnail)
    known = quality.Known(
        Picture("a", "s", 0, figures.width, figures.height),
        figures,
        find_overlays([seen])["a"],
        figures.filmed,
    )
    return {d.check: d for d in quality.judge([known], settings)["a"].decisions}


def verdicts(decisions, verdict):
    return {check for check, decision in decisions.items() if decision.verdict == verdict}


CLEAN = {
    **{name: partial(art, name) for name in (*BACKGROUNDS, "concert1", "concert2")},
    **{name: partial(figure, name, BACKGROUNDS[k % 4]) for k, name in enumerate(FIGURES)},
    **{f"{name} alone": partial(figure, name, "white") for name in ("blue_smile", "green_normal")},
    "grain": lambda: grained(figure("green_smile", "meadow"), 1),
}
UNSURE = {"uni", "grain", *FIGURES[3::4]}
"""Before an avenue painted from a photograph, or under grain: nobody can be sure."""


@pytest.mark.parametrize("name", CLEAN)
def test_clean_art_passes_every_check(read, name):
    decisions = judged(CLEAN[name](), read)
    assert tuple(decisions) == QUALITY_CHECKS
    assert not verdicts(decisions, "drop")
    assert verdicts(decisions, "review") <= ({"live_action"} if name in UNSURE else set())


@pytest.mark.parametrize("name", FIGURES)
def test_sprites_as_they_lie_there_are_not_dropped(name):
    sprite = art(f"sylvie_{name}")
    white = Image.new("RGBA", sprite.size, "white")
    assert not verdicts(judged(Image.alpha_composite(white, sprite)), "drop")


def shot(name="blue_smile"):
    return figure(name, "club")


def small_words(picture):
    sign = ImageDraw.Draw(picture := picture.copy())
    sign.text((300, 200), "Room 214", fill="black")
    return picture


def enlarged(picture, factor):
    size = round(picture.width / factor), round(picture.height / factor)
    return picture.resize(size, Image.Resampling.LANCZOS).resize(picture.size)


blurred = ImageFilter.GaussianBlur
FAULTS = {  # a picture, what it is dropped for, what it goes to review for
    "subtitle": (lambda: subtitled(shot(), "Wait for me here."), {"subtitle"}, set()),
    "two lines": (
        lambda: subtitled(subtitled(shot(), "Wait for me here.").crop((0, 52, 1280, 720))
                          .resize((1280, 720)), "I am coming."), {"subtitle"}, set()),
    "title": (lambda: titled(shot(), "Concert\nafter Class"), {"credits"}, set()),
    "credits": (lambda: credits(("Cast", "Sylvie", "Drawn by many", "Music"), 180),
                {"credits", "dark"}, {"empty"}),
    "sign": (lambda: small_words(shot()), set(), set()),
    "blur 2": (lambda: shot().filter(blurred(2)), {"blur", "resolution", "upscale"}, set()),
    "blur 6": (lambda: defocused(shot(), 6), {"blur", "resolution", "upscale"}, set()),
    "blur 1.5": (lambda: shot().filter(blurred(1.5)), {"upscale"}, {"blur", "resolution"}),
    "whip pan": (lambda: smeared(shot(), 30), set(), {"motion"}),
    "enlarged 2": (lambda: enlarged(shot(), 2), set(), {"upscale"}),
    "320 x 180": (lambda: coarse(shot()), {"blur", "resolution", "upscale"}, set()),
    "night at 8 %": (lambda: darkened(shot(), 0.08), {"dark"}, set()),
    "black": (lambda: art("black"), {"dark", "empty"}, set()),
    "white": (lambda: art("white"), {"bright", "empty", "monochrome"}, set()),
    "lines": (lambda: drawn(shot()), {"line_art", "monochrome"}, set()),
    "grey": (lambda: shot().convert("L"), {"monochrome"}, set()),
    "panorama": (lambda: art("club").crop((0, 200, 1280, 500)), {"aspect"}, set()),
    "thumbnail": (lambda: art("concert1").resize((376, 240)), {"size"}, {"resolution"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_told_by_their_kind(read, name):
    paint, dropped, doubtful = FAULTS[name]
    decisions = judged(paint(), read)
    doubt = verdicts(decisions, "review") - {"live_action"}  # what is no art may look like no art
    assert (verdicts(decisions, "drop"), doubt) == (dropped, doubtful)
    for check in dropped | doubtful:
        decision = decisions[check]
        assert decision.score is not None
        assert decision.threshold in getattr(FilterSettings(), f"{check}_at")
        assert re.search("refused|doubtful", decision.reason)


def test_each_check_can_be_off_noted_or_for_review(read):
    picture = subtitled(shot(), "Wait for me here.")
    for action, verdict in (("review", "review"), ("keep", "keep"), ("drop", "drop")):
        decision = judged(picture, read, FilterSettings(subtitle=action))["subtitle"]
        assert decision.verdict == verdict
        assert decision.score > 0.8
        assert "Wait for me" in decision.reason
    assert "subtitle" not in judged(picture, read, FilterSettings(subtitle="off"))
    assert not {"subtitle", "credits"} & set(judged(picture))  # nobody looked for text


def test_figures_are_the_same_again_and_survive_packing(read):
    picture = pixels(subtitled(shot(), "Wait for me here."))
    first, again = measured(picture, read), measured(picture, read)
    assert first.features == again.features
    figures = Figures.unpack(first.features["quality"])
    assert figures.pack() == first.features["quality"]
    assert figures.text[0].letters == "waitformehere"
    assert (figures.content_mask() == look_at(picture).content).all()


def test_figures_do_not_depend_on_the_size():
    large = art("concert1")
    small = large.resize((1200, 765), Image.Resampling.BOX)
    one, other = look_at(pixels(large)), look_at(pixels(small))
    for name in ("darkest", "lightest", "chroma", "filmed", "even_area", "outlines"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=0.06, abs=0.04)


def test_colours_are_those_of_the_standard():
    rgb = np.array([[[255, 0, 0], [255, 255, 255], [0, 0, 0], [119, 119, 119]]], np.uint8)
    lab = [[53.24, 80.09, 67.20], [100, 0, 0], [0, 0, 0], [50.03, 0, 0]]
    assert to_lab(rgb)[0] == pytest.approx(np.array(lab), abs=0.05)


# Overlays over the pictures of one source


def line(text, left=0.3, top=0.88, right=0.7, bottom=0.95, score=0.95):
    return TextBox(text, score, left, top, right, bottom)


def seen(name, boxes=(), shot=None, corners=None, thumbnail=None):
    corners = np.zeros((2, 2, 2, 54, 96), bool) if corners is None else corners
    thumbnail = np.full((36, 64), 90, np.uint8) if thumbnail is None else thumbnail
    return Seen(name, shot or name, boxes, np.ones(GRID, bool), corners, thumbnail)


def test_text_that_stays_is_a_mark_and_other_text_low_in_the_middle_a_subtitle():
    said = ["One.", "Another one.", "", "The third.", "Yes!", "So it ends."]
    mark = line("ASN", 0.88, 0.05, 0.97, 0.12)
    pictures = [
        seen(str(k), [mark, *([line(text)] if text else [])]) for k, text in enumerate(said)
    ]
    found = find_overlays(pictures)
    assert [round(found[str(k)].logo, 3) for k in range(6)] == [1] * 6
    assert [found[str(k)].subtitle for k in range(6)] == [0.95, 0.95, 0, 0.95, 0.95, 0.95]
    assert found["0"].logos == ("ASN",)
    assert found["2"].credits == 0
    few = find_overlays(pictures[:4])  # too few shots to tell what stays
    assert few["0"].logo == 0


def test_a_caption_that_stays_low_in_the_middle_is_no_subtitle():
    found = find_overlays([seen(str(k), [line("www.example.org")]) for k in range(6)])
    assert found["3"].subtitle == 0
    assert found["3"].logo == 1


def test_a_sign_and_misread_railings_are_left_alone():
    sign, railing = line("Exit", 0.1, 0.3, 0.2, 0.35), line("mmmmmm", score=0.83)
    found = find_overlays([seen("a", [sign, railing])])["a"]
    assert (found.subtitle, found.logo, found.other) == (0, 0, (sign,))
    assert found.credits < 0.01


def test_a_mark_without_letters_is_found_among_changing_pictures():
    rng = np.random.default_rng(5)
    pictures = []
    for k in range(16):
        edges = rng.random((2, 2, 2, 54, 96)) < 0.2
        if k not in (3, 7, 11):  # over white nothing is seen of it
            edges[0, 0, 1, 10, 40:70] = edges[0, 0, 1, 20, 40:70] = True
            edges[1, 0, 1, 10:20, 40] = edges[1, 0, 1, 10:20, 70] = True
        pictures.append(seen(str(k), corners=edges))
    found = find_overlays(pictures)
    shown = {k for k in range(16) if found[str(k)].logo}
    assert shown == set(range(16)) - {3, 7, 11}
    assert found["0"].logos == ("upper right",)
    assert found["0"].logo == 13 / 16


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5])
def test_foliage_is_no_mark(density):
    rng = np.random.default_rng(6)
    for count in (5, 8, 30):
        found = find_overlays(
            [seen(str(k), corners=rng.random((2, 2, 2, 54, 96)) < density) for k in range(count)]
        )
        assert all(f.logo == 0 for f in found.values())


def test_real_pictures_with_and_without_a_mark():
    views = [("club", 0), ("lecturehall", 0), ("meadow", 0), ("uni", 0), ("club", 200),
             ("lecturehall", 200), ("meadow", 200), ("uni", 200)]  # fmt: skip
    plain = [scene(name, (left / 2, left / 4, 1280 - left), Figure("blue_smile", 100 + left, 40),
                   flipped=bool(left)) for name, left in views]  # fmt: skip
    for picture_of, share in ((marked, 1.0), (lambda picture: picture, 0.0)):
        pictures = [
            seen(str(k), corners=corners_of(to_grey(pixels(picture_of(picture)))))
            for k, picture in enumerate(plain)
        ]
        found = find_overlays(pictures)
        assert [found[str(k)].logo for k in range(len(views))] == [share] * len(views)


def test_the_same_drawing_without_the_subtitle_is_found():
    rng = np.random.default_rng(7)
    drawing = rng.integers(0, 256, (36, 64)).astype(np.uint8)
    with_text, smile = drawing.copy(), drawing.copy()
    with_text[32:34, 20:44] = 255
    smile[12:16, 32:36] = np.clip(smile[12:16, 32:36].astype(int) + 8, 0, 255)
    pictures = [
        seen("said", [line("One.")], "s", thumbnail=with_text),
        seen("clean", [], "s", thumbnail=drawing),
        seen("smile", [], "s", thumbnail=smile),
        seen("elsewhere", [], "t", thumbnail=drawing),
    ]
    assert find_overlays(pictures)["said"].clean == ("clean",)


# The stages


def fill(work, names, **provenance):
    for place, (name, picture) in enumerate(names.items()):
        add_picture(work, name, pixels(picture), place, **provenance)


def run_both(work):
    return measure.run(work), quality.run(work)


def test_a_changed_threshold_measures_nothing_again(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)  # not even imported
    art_of = {"good": shot(), "soft": defocused(shot(), 4), "night": darkened(shot(), 0.08)}
    with open_work(tmp_path, filter=WITHOUT_TEXT) as work:
        fill(work, art_of)
        assert run_both(work) == ({"keep": 3}, {"keep": 1, "drop": 2})
        assert run_both(work) == ({}, {})
        lenient = {"blur": "keep", "resolution": "off", "upscale": "review"}
    with open_work(tmp_path, filter={**WITHOUT_TEXT, **lenient}) as work:
        assert run_both(work) == ({}, {"keep": 1, "review": 1, "drop": 1})
        assert [p.id for p in work.ledger.kept(["filter"])] == ["good", "soft"]
    with open_work(tmp_path, filter={**WITHOUT_TEXT, "dark_at": [0.05, 0.01]}) as work:
        assert run_both(work) == ({}, {"keep": 2, "drop": 1})
        assert [p.id for p in work.ledger.kept(["filter"])] == ["good", "night"]
        add_picture(work, "good", pixels(shot("green_smile")), 0)
        assert measure.run(work) == {"keep": 1}


def test_subtitled_drawing_goes_where_a_clean_one_is_whatever_the_setting(tmp_path):
    pair = {"said": subtitled(shot(), "Wait for me here."), "silent": shot()}
    with open_work(tmp_path, filter={"subtitle": "keep"}, run={"threads": 1}) as work:
        fill(work, pair, shot=3)
        assert run_both(work)[1] == {"keep": 1, "drop": 1}
        found = {item: d for item, stage, d in work.ledger.decisions() if d.check == "subtitle"}
        assert found["said"].verdict == "drop"
        assert found["said"].details["clean"] == "silent"
        assert found["silent"].verdict == "keep"
        work.ledger.remove_pictures(["silent"])
        assert quality.run(work) == {"keep": 1}  # the setting counts where there is no other


def test_a_film_s_median_speaks_for_each_of_its_pictures(tmp_path):
    with open_work(tmp_path, filter=WITHOUT_TEXT) as work:
        work.ledger.add_source(Source("source", "film.mkv", "film"))
        fill(work, {f"p{k}": figure(name) for k, name in enumerate([*FIGURES[:7]])})
        add_picture(work, "road", pixels(art("uni")), 9)
        run_both(work)
        found = {item: d for item, _, d in work.ledger.decisions() if d.check == "live_action"}
        assert found["road"].verdict == "keep"
        assert found["road"].details["own"] > FilterSettings().live_action_at[0]


def test_what_was_not_measured_and_what_cannot_be_is_told(tmp_path):
    with open_work(tmp_path, filter=WITHOUT_TEXT) as work:
        add_picture(work, "good", pixels(shot()))
        assert quality.run(work) == {"failed": 1}
        add_picture(work, "dot", np.zeros((4, 9, 3), np.uint8))
        assert measure.run(work)["failed"] == 1
        (decision,) = [d for item, stage, d in work.ledger.decisions("dot")]
        assert "9 x 4 pixels" in decision.reason


def test_missing_rapidocr_stops_measure_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with open_work(tmp_path) as work:
        add_picture(work, "good", pixels(shot()))
        with pytest.raises(ModelError, match="pip install rapidocr"):
            measure.run(work)
        assert work.ledger.decisions("good")[0][2].verdict == "failed"


def test_thresholds_in_the_wrong_order_are_refused():
    with pytest.raises(ConfigError, match=r"filter\.blur_at is 4, 3; expected .* larger"):
        FilterSettings(blur_at=(4.0, 3.0))
    with pytest.raises(ConfigError, match=r"filter\.dark_at is 0\.1, 0\.2; expected .* smaller"):
        FilterSettings(dark_at=(0.1, 0.2))
    replace(FilterSettings(), size_at=(512.0, 512.0))


def tiny_classifier(path, outputs=2):
    """The mean of the red plane as the logit of live action."""
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    weights = np.zeros((3, outputs), np.float32)
    weights[0, -1] = 5
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["input"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["output"]),
        ],
        "classifier",
        [helper.make_tensor_value_info("input", floats, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("output", floats, [1, outputs])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


def test_a_classifier_s_probability_is_the_score(tmp_path):
    classify = open_classifier(tiny_classifier(tmp_path / "net.onnx"), 1)
    red = np.zeros((40, 50, 3), np.uint8)
    red[..., 0] = 255
    assert classify(red) == pytest.approx(1 / (1 + np.exp(-5)))
    assert classify(255 - red) == pytest.approx(1 / (1 + np.exp(5)))
    settings = {**WITHOUT_TEXT, "classifier": str(tmp_path / "net.onnx")}
    with open_work(tmp_path / "set", filter=settings) as work:
        add_picture(work, "a", pixels(shot()))
        run_both(work)
        (score,) = [d.score for _, _, d in work.ledger.decisions() if d.check == "live_action"]
        figures = Figures.unpack(work.ledger.features("quality")["a"])
        assert score == figures.classified
        assert 0 < score < 1


def test_a_wrong_classifier_is_told(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        open_classifier(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(ModelError, match="onnxruntime cannot open"):
        open_classifier(tmp_path / "text.onnx")
    classify = open_classifier(tiny_classifier(tmp_path / "three.onnx", 3), 1)
    with pytest.raises(ModelError, match="needed are two values"):
        classify(np.zeros((40, 50, 3), np.uint8))
