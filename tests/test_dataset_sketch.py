import functools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from dataset_netg import write_netg
from dataset_work import add_picture, open_work
from onnx import TensorProto, helper
from PIL import Image

import training.dataset
from animesketchnet_core import anime2sketch_strips
from animesketchnet_core.anime2sketch_file import read_anime2sketch
from training.dataset import sketch
from training.dataset.images import Pixels, read_pixels, to_grey
from training.dataset.ledger import Decision
from training.dataset.sketching import sketchers
from training.dataset.sketching.faults import find_faults, find_pattern, is_inverted, view
from training.dataset.work import Work
from training.loading import ModelError
from training.settings import ConfigError

ART = Path(training.dataset.__file__).parent / "demo_film" / "art"
CPU = torch.device("cpu")


@functools.cache
def scene(name: str = "club.jpg", height: int = 270) -> Pixels:
    """A girl in front of a background, [height, 16 / 9 height, 3]."""
    width = height * 16 // 9
    background = Image.open(ART / name).convert("RGB").resize((width, height))
    girl = Image.open(ART / "sylvie_blue_surprised.png").convert("RGBA")
    girl = girl.resize((girl.width * height // girl.height, height))
    background.paste(girl, (width // 3, 0), girl)
    return np.array(background)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_netg(tmp_path_factory.mktemp("weights") / "netG.pth"))


def onnx_file(path: Path, side: int | str = "side", *, inverted: bool = False) -> str:
    """Draws how steep the picture is, |d/dx| + |d/dy|, dark on white; its input is -1 to 1."""
    across = np.zeros((3, 3), dtype=np.float32)
    across[1] = [-0.5, 0, 0.5]
    kernels = np.stack(
        [np.stack([kernel / 3] * 3) for kernel in (across, across.T)]
    )  # [2, 3, 3, 3]
    constants = [
        helper.make_tensor("w", TensorProto.FLOAT, kernels.shape, kernels.ravel()),
        helper.make_tensor("channels", TensorProto.INT64, [1], [1]),
        helper.make_tensor("white", TensorProto.FLOAT, [], [1.0]),
    ]
    nodes = [
        helper.make_node("Conv", ["picture", "w"], ["slopes"], pads=[1, 1, 1, 1]),
        helper.make_node("Abs", ["slopes"], ["steep"]),
        helper.make_node("ReduceSum", ["steep", "channels"], ["drawing" if inverted else "ink"]),
        helper.make_node("Sub", ["white", "ink"], ["drawing"]),
    ]
    return save_onnx(path, nodes[: 3 if inverted else 4], constants, [1, 3, side, side])


def save_onnx(path: Path, nodes: list, constants: list, shape: list) -> str:
    given = helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)
    drawn = helper.make_tensor_value_info("drawing", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "edges", [given], [drawn], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return str(path)


def run_on(work: Work, *pictures: Pixels) -> list[Pixels]:
    """Sketches pictures; returns the sketches as the files hold them."""
    for number, pixels in enumerate(pictures):
        add_picture(work, f"p{number}", pixels, number)
    sketch.run(work)
    forms = work.ledger.forms("sketch")
    return [read_pixels(work.folder / forms[f"p{n}"].path) for n in range(len(pictures))]


def decisions(work: Work, picture: str = "p0") -> dict[str, Decision]:
    return {d.check: d for _, stage, d in work.ledger.decisions(picture) if stage == "sketch"}


def settings_of(method: str, weights: str, folder: Path) -> dict[str, object]:
    file = onnx_file(folder / "edges.onnx") if method == "onnx" else weights
    small = {"tile": 256, "overlap": 128, "margin": 16, "multiple": 64}
    return {
        "lines": {"method": "lines"},
        "ink": {"method": "ink"},
        "exact": {"method": "anime2sketch", "weights": file, "replace_faulty": False},
        "tiles": {"method": "anime2sketch", "weights": file, "replace_faulty": False,
                  "tiling": "tiles", "tile": 256, "overlap": 0, "margin": 0},
        "onnx": {"method": "onnx", "weights": file, "replace_faulty": False, **small},
        "larger": {"method": "lines", "upscale": 720},
        "smaller": {"method": "lines", "resolution": 256},
    }[method]  # fmt: skip


NETWORKS = ("exact", "tiles", "onnx")  # these ones draw steepness itself
METHODS = ("lines", "ink", "exact", "tiles", "onnx", "larger", "smaller")


def edges(grey: Pixels) -> np.ndarray:
    light = grey.astype(np.float32)
    x, y = (cv2.Sobel(light, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    return np.sqrt(x**2 + y**2)


@pytest.mark.parametrize("method", METHODS)
def test_sketches_fit_their_pictures_pixel_for_pixel(tmp_path: Path, method: str) -> None:
    """Edges of both correlate best where they lie, not a pixel beside, on real art."""
    colour = scene()
    weights = str(write_netg(tmp_path / "netG.pth", edges=True))
    with open_work(tmp_path, sketch=settings_of(method, weights, tmp_path)) as work:
        (drawn,) = run_on(work, colour)
    assert drawn.shape == colour.shape[:2]
    assert drawn.dtype == np.uint8
    there = edges(to_grey(colour))
    here = 255 - drawn.astype(np.float32) if method in NETWORKS else edges(drawn)
    inside = (slice(4, -4), slice(4, -4))
    scores = {}
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            moved = np.roll(here, (dy, dx), (0, 1))
            scores[dy, dx] = np.corrcoef(there[inside].ravel(), moved[inside].ravel())[0, 1]
    print(f"{method}: {scores[0, 0]:.3f}, next {sorted(scores.values())[-2]:.3f}")  # noqa: T201
    assert max(scores, key=scores.__getitem__) == (0, 0)


@pytest.mark.parametrize("method", ["lines", "ink"])
def test_lines_are_dark_on_white_paper(tmp_path: Path, method: str) -> None:
    with open_work(tmp_path, sketch={"method": method}) as work:
        (drawn,) = run_on(work, scene("lecturehall.jpg"))
        assert (drawn > 250).mean() > 0.75
        assert 0.03 < (drawn < 60).mean() < 0.2
        assert {d.verdict for d in decisions(work).values()} == {"keep"}
        form = work.ledger.forms("sketch")["p0"]
        assert form.details == {
            "method": method, "sketched_at": [270, 480], "line_width": 1.0, "detail": 0.5,
        }  # fmt: skip


def test_the_stage_is_run_again_when_something_changed(tmp_path: Path, weights: str) -> None:
    path = tmp_path / "netG.pth"
    path.write_bytes(Path(weights).read_bytes())
    plain = {"method": "anime2sketch", "weights": str(path), "replace_faulty": False}
    with open_work(tmp_path, sketch=plain) as work:
        (first,) = run_on(work, scene(height=256))
        assert sketch.run(work) == Counter()
    with open_work(tmp_path, sketch={**plain, "memory_gb": 0.5}) as work:
        assert sketch.run(work) == Counter()  # memory changes nothing
    write_netg(path, seed=1)
    with open_work(tmp_path, sketch=plain) as work:
        assert sum(sketch.run(work).values()) == 1
        again = read_pixels(tmp_path / work.ledger.forms("sketch")["p0"].path)
        assert not np.array_equal(first, again)


def test_streamed_sketches_are_the_whole_pictures(
    tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the picture's file to the sketch's; 8 bits round what differs by 1e-6 now and then."""
    colour = scene(height=400)
    plain = {"method": "anime2sketch", "weights": weights, "replace_faulty": False}
    with open_work(tmp_path / "whole", sketch=plain | {"memory_gb": 1000}) as work:
        (whole,) = run_on(work, colour)
    net = read_anime2sketch(Path(weights))
    picture = torch.from_numpy(colour).float() / 255
    at_once = torch.cat(
        list(anime2sketch_strips.sketch_strips(net, picture, memory=1 << 50, device=CPU))
    )
    assert np.abs(whole - at_once.numpy() * 255).max() < 0.51
    monkeypatch.setattr(anime2sketch_strips, "_strip_rows", lambda width: 96)
    with open_work(tmp_path / "streamed", sketch=plain | {"memory_gb": 0.1}) as work:
        (streamed,) = run_on(work, colour)
        assert anime2sketch_strips.streamed_levels(512, 768, int(1e8)) == 3
    difference = np.abs(whole.astype(int) - streamed)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3
    assert whole.std() > 5


MEASURE = """
import sys
from dataclasses import replace

import machine
import numpy as np
import torch

from animesketchnet_core import anime2sketch_strips
from training.dataset.config import SketchSettings
from training.dataset.sketching.sketchers import open_sketcher

torch.set_num_threads(1)
anime2sketch_strips._strip_rows = lambda width: 64  # as for a picture 4096 wide
settings = SketchSettings(method="anime2sketch", weights=sys.argv[1])
colour = np.random.default_rng(0).integers(0, 256, (768, 512, 3), dtype=np.uint8)
for memory in (0.01, 1000):
    draw = open_sketcher(replace(settings, memory_gb=memory), torch.device("cpu"))
    draw(colour[:256, :256].copy())  # what libraries take once
    levels = anime2sketch_strips.streamed_levels(768, 512, int(memory * 1e9))
    bound = anime2sketch_strips.memory_needed(768, 512, levels) + 4 * 768 * 512
    print(levels, machine.bytes_taken(lambda: draw(colour)), bound)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_measured_is_what_was_said(tmp_path: Path) -> None:
    """The real width of 64 channels; on top of `memory_needed`, picture and sketch.

    glibc keeps what was freed, the more the larger the blocks that it has seen; with fixed
    thresholds it gives every large block back, and what is measured is what was in use.
    """
    path = write_netg(tmp_path / "netG.safetensors", base_width=64)
    command = [sys.executable, "-c", MEASURE, str(path)]
    folder = Path(__file__).parent
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536",
                   "MALLOC_ARENA_MAX": "1"}  # fmt: skip
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        cwd=folder.parent,
        env=os.environ | environment | {"PYTHONPATH": f"{folder.parent}:{folder / 'benchmarks'}"},
    )
    streamed, whole = ([int(word) for word in line.split()] for line in done.stdout.splitlines())
    assert (streamed[0], whole[0]) == (3, 0)
    for levels, taken, bound in (streamed, whole):
        print(f"{levels} levels: {taken / 1e6:.0f} of {bound / 1e6:.0f} MB")  # noqa: T201
        assert bound / 4 < taken < bound
    assert streamed[1] < 0.8 * whole[1]


def test_an_enlarged_picture_is_sketched_large(tmp_path: Path) -> None:
    colour = scene(height=144)
    with open_work(tmp_path / "a", sketch={"upscale": 512, "keep_large": True}) as work:
        (large,) = run_on(work, colour)
        assert large.shape == (288, 512)
        assert work.ledger.forms("sketch")["p0"].details["sketched_at"] == [288, 512]
    with open_work(tmp_path / "b", sketch={"upscale": 512}) as work:
        (small,) = run_on(work, colour)
        assert small.shape == (144, 256)
    with open_work(tmp_path / "c", sketch={"upscale": 100, "keep_large": True}) as work:
        (same,) = run_on(work, colour)  # never made smaller
        assert same.shape == (144, 256)


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"sketch\.resolution and sketch\.upscale"),
        open_work(tmp_path, sketch={"upscale": 512, "resolution": 512}),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="the same value for black and white"),
        open_work(tmp_path, sketch={"output_values": [1, 1]}),
    ):
        pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "anime2sketch"}, "needs sketch.weights, and it is empty. .* netG.pth"),
        ({"method": "anime2sketch", "weights": "/none"}, "there is no file /none"),
        ({"method": "onnx"}, r"needs sketch.weights, and it is empty. .* \[1, 3, height, width\]"),
        ({"method": "anime2sketch", "weights": "wrong"}, "sketch.weights is .*not a weight file"),
        ({"method": "onnx", "weights": "wrong"}, "onnxruntime cannot open"),
        ({"method": "onnx", "weights": "fixed"}, "512 x 512 pixels only, and sketch.tile is 1024"),
        ({"method": "onnx", "weights": "fixed", "tile": 1000}, "tile is 1000; expected a multiple"),
    ],
)
def test_weights_that_are_missing_or_wrong_are_told(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    if settings.get("weights") == "wrong":
        (tmp_path / "file").write_bytes(b"<html>")
        settings = {**settings, "weights": str(tmp_path / "file")}
    if settings.get("weights") == "fixed":
        settings = {**settings, "weights": onnx_file(tmp_path / "file", side=512)}
        if settings.get("tile"):
            settings["weights"] = onnx_file(tmp_path / "file", side=1000)
    with open_work(tmp_path, sketch=settings) as work:
        add_picture(work, "p0", scene(height=64))
        with pytest.raises(ModelError, match=message):
            sketch.run(work)
        assert decisions(work)["input"].verdict == "failed"


def test_a_network_that_gives_something_else_is_told(tmp_path: Path) -> None:
    node = helper.make_node("GlobalAveragePool", ["picture"], ["drawing"])
    path = save_onnx(tmp_path / "mean.onnx", [node], [], [1, 3, "h", "w"])
    settings = {"method": "onnx", "weights": path}
    with open_work(tmp_path, sketch=settings) as work:
        add_picture(work, "p0", scene(height=64))
        with pytest.raises(ModelError, match=r"gives \[1, 3, 1, 1\] for a picture of \[1024, 1024"):
            sketch.run(work)


def test_tiles_of_any_network_are_joined_and_their_seams_measured(tmp_path: Path) -> None:
    settings = settings_of("onnx", "", tmp_path)
    colour = scene()
    with open_work(tmp_path, sketch=settings) as work:
        (drawn,) = run_on(work, colour)
        details = work.ledger.forms("sketch")["p0"].details
    light = (colour.astype(np.float32) / 255 * 2 - 1).mean(2)
    steep = np.abs(np.gradient(light, axis=0)) + np.abs(np.gradient(light, axis=1))
    expected = (1 - steep).clip(0, 1) * 255
    assert np.abs(drawn - expected)[1:-1, 1:-1].max() < 0.51
    assert details["tile"] == 256
    assert details["overlap"] == 128
    assert details["seams"] == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("told", [True, False])
def test_white_lines_on_black_are_turned(tmp_path: Path, told: bool) -> None:
    """By the setting for a network that is known to draw so, or because it is seen."""
    settings = {
        "method": "onnx", "weights": onnx_file(tmp_path / "edges.onnx", inverted=True),
        "tile": 512, "output_values": [1.0, 0.0] if told else [0.0, 1.0], "replace_faulty": False,
    }  # fmt: skip
    with open_work(tmp_path, sketch=settings) as work:
        (drawn,) = run_on(work, scene())
        assert np.median(drawn) > 128
        polarity = decisions(work)["polarity"]
    assert polarity.verdict == "keep"
    assert ("it was inverted" in polarity.reason) is not told


@functools.cache
def good() -> Pixels:
    return sketchers.lines_sketcher(sketchers.SketchSettings(), CPU)(dark_scene())


def checkerboard(drawing: Pixels, period: int) -> Pixels:
    places = np.add.outer(np.arange(drawing.shape[0]), np.arange(drawing.shape[1]))
    wave = np.where(places // max(1, period // 2) % 2 == 0, 0, 12)
    return (drawing.astype(int) - wave).clip(0, 255).astype(np.uint8)


def broken(how: str) -> Pixels:
    """A good drawing with a fault planted; local ones in the left third."""
    drawing = good().copy()
    third = (slice(None), slice(0, 192))
    if how == "empty":
        return np.full_like(drawing, 255)
    if how == "wash":
        return (drawing * 0.3 + to_grey(dark_scene()) * 0.6).round().astype(np.uint8)
    if how == "blobs":
        drawing[third] = 5
    if how == "dark":
        drawing[third] = 255
    if how.startswith("pattern"):
        drawing[third] = checkerboard(drawing, int(how[-1]))[third]
    return drawing


@functools.cache
def dark_scene() -> Pixels:
    """Its left third lies in the dark."""
    colour = scene("lecturehall.jpg", 360).copy()
    colour[:, :192] = (colour[:, :192] * 0.35).astype(np.uint8)
    return colour


FAULTS = ("empty", "wash", "blobs", "dark", "pattern2", "pattern4", "pattern8")


@pytest.mark.parametrize("how", FAULTS)
def test_planted_faults_are_found_and_no_others(how: str) -> None:
    colour = dark_scene()
    assert not any(f.faulty for f in find_faults(colour, good()))
    found = {f.check for f in find_faults(colour, broken(how)) if f.faulty}
    assert how.rstrip("248") in found
    assert found <= {how.rstrip("248"), *(("dark",) if how == "empty" else ())}


@pytest.mark.parametrize("name", ["club.jpg", "meadow.jpg", "uni.jpg", "lecturehall.jpg"])
@pytest.mark.parametrize("method", ["lines", "ink"])
def test_good_sketches_of_real_art_have_no_fault(name: str, method: str) -> None:
    colour = scene(name, 360)
    draw = sketchers.open_sketcher(sketchers.SketchSettings(method=method), CPU)
    drawing = draw(colour)
    assert [f for f in find_faults(colour, drawing) if f.faulty] == []
    assert not is_inverted(view(colour, drawing)).faulty
    assert is_inverted(view(colour, 255 - drawing)).faulty


def test_a_pattern_that_the_picture_has_is_no_fault() -> None:
    colour = np.full((256, 256, 3), 255, np.uint8)
    colour[::4, ::4] = 0  # a screen tone
    assert find_pattern(np.full_like(colour, 255), colour[..., 0]).faulty
    assert not find_pattern(colour, colour[..., 0]).faulty
    hatched = np.full((256, 256), 255, np.uint8)
    hatched[::11] = 0
    hatched[:, ::13] = 0
    assert not find_pattern(np.full_like(colour, 255), hatched).faulty


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> dict[str, Pixels]:
    """Makes "anime2sketch" draw what the test puts in."""
    drawn: dict[str, Pixels] = {}

    def open_sketcher(*args: object) -> sketchers.Sketcher:
        return lambda colour: drawn["drawing"]

    monkeypatch.setattr(sketch, "open_sketcher", open_sketcher)
    return drawn


@pytest.mark.parametrize("how", FAULTS)
def test_faulty_sketches_are_replaced(tmp_path: Path, how: str, faulty: dict[str, Pixels]) -> None:
    colour = dark_scene()
    faulty["drawing"] = broken(how)
    with open_work(tmp_path, sketch={"method": "anime2sketch"}) as work:
        (drawn,) = run_on(work, colour)
        decision = decisions(work)[how.rstrip("248")]
        replaced = work.ledger.forms("sketch")["p0"].details["replaced"]
    assert decision.verdict == "keep"
    assert "replaced by lines" in decision.reason
    assert decision.score is not None
    assert decision.threshold is not None
    share = decision.details["replaced"]
    assert share == replaced
    assert share == 1 if how in ("empty", "wash") else 0.2 < share < 0.5
    # What was planted into lines is lines again, and the rest was left alone.
    planted, left = (np.abs(x.astype(int) - good()).mean() for x in (faulty["drawing"], drawn))
    assert left < 0.1 * planted


def test_faults_are_left_to_a_person_if_that_is_wanted(
    tmp_path: Path, faulty: dict[str, Pixels]
) -> None:
    colour = dark_scene()
    faulty["drawing"] = broken("blobs")
    with open_work(tmp_path, sketch={"method": "anime2sketch", "replace_faulty": False}) as work:
        (drawn,) = run_on(work, colour)
        assert decisions(work)["blobs"].verdict == "review"
    assert np.array_equal(drawn, faulty["drawing"])


def test_a_replacement_that_is_faulty_too_is_left_to_a_person(
    tmp_path: Path, faulty: dict[str, Pixels]
) -> None:
    colour = np.full((120, 160, 3), 200, np.uint8)
    faulty["drawing"] = np.full((120, 160), 255, np.uint8)
    with open_work(tmp_path, sketch={"method": "anime2sketch"}) as work:
        run_on(work, colour)
        decision = decisions(work)["empty"]
    assert decision.verdict == "review"
    assert "which are faulty, too: 0.00% of it is drawn on" in decision.reason


def test_a_flat_picture_is_left_to_a_person(tmp_path: Path) -> None:
    with open_work(tmp_path) as work:
        run_on(work, np.full((120, 160, 3), 200, np.uint8))
        assert decisions(work)["empty"].verdict == "review"


def test_grey_pictures_are_sketched(tmp_path: Path) -> None:
    grey = to_grey(scene(height=200))
    with open_work(tmp_path) as work:
        a, b = run_on(work, grey, np.repeat(grey[..., None], 3, axis=2))
    assert np.array_equal(a, b)
