from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from dataset_work import add_picture, open_work
from PIL import Image

import training.dataset
from training.dataset import adjust as stage
from training.dataset.adjust import (
    adjust,
    denoise,
    measure_noise,
    sharpen,
    without_specks,
)
from training.dataset.config import AdjustSettings
from training.dataset.images import Pixels, read_pixels
from training.dataset.ledger import Decision, Outcome
from training.dataset.sketching.levels import (
    Levels,
    adjusted_coverage,
    contrast,
    count_tones,
    coverage,
    find_levels,
    paper_tone,
    percentile,
)
from training.dataset.sketching.sketchers import SketchSettings, open_sketcher
from training.dataset.work import Work

ART = Path(training.dataset.__file__).parent / "demo_film" / "art"
USUAL = AdjustSettings()


@pytest.fixture(scope="module", params=["lines", "ink"])
def drawing(request: pytest.FixtureRequest) -> Pixels:
    """Of a girl in front of a background, 360 x 640."""
    background = Image.open(ART / "meadow.jpg").convert("RGB").resize((640, 360))
    girl = Image.open(ART / "sylvie_green_smile.png").convert("RGBA").resize((220, 360))
    background.paste(girl, (200, 0), girl)
    draw = open_sketcher(SketchSettings(method=request.param), torch.device("cpu"))
    return draw(np.array(background))


def pencilled(drawing: Pixels, noise: float = 4.0) -> Pixels:
    """The same in faint pencil on grey, grainy paper: tones 150 to 214."""
    grain = np.random.default_rng(0).normal(0, noise, drawing.shape)
    return (drawing * 0.25 + 150 + grain).round().clip(0, 255).astype(np.uint8)


def counts_of(**tones: int) -> np.ndarray:
    """counts_of(t255=90, t0=10)."""
    counts = np.zeros(256, dtype=np.int64)
    for tone, count in tones.items():
        counts[int(tone[1:])] = count
    return counts


def test_the_curve_is_levels_and_an_exponent() -> None:
    curve = Levels(50, 250, 2.0).curve()
    assert curve[[0, 50, 150, 250, 255]].tolist() == [0, 0, 64, 255, 255]  # 0.5 ** 2 * 255 = 63.75
    assert np.array_equal(Levels(0, 255).curve(), np.arange(256))
    assert not Levels(0, 255).changes


def test_tones_are_counted_in_strips() -> None:
    sketch = np.random.default_rng(0).integers(0, 256, (700, 30), dtype=np.uint8)
    counts = count_tones(sketch)
    assert np.array_equal(counts, np.bincount(sketch.ravel(), minlength=256))
    assert coverage(counts) == pytest.approx(1 - sketch.mean() / 255)
    assert percentile(counts, 30) == np.percentile(sketch, 30, method="inverted_cdf")


@pytest.mark.parametrize(
    ("tones", "white"),
    [
        ({"t0": 10, "t255": 90}, 255),
        ({"t0": 10, "t200": 90}, 200),
        ({"t0": 10, "t180": 25, "t200": 55, "t206": 10}, 194),  # grain of 6 above: 6 below
        ({"t10": 50, "t240": 50}, 240),
        ({"t30": 100}, 64),  # no paper at all: what is stretched is limited
    ],
)
def test_paper_is_the_most_frequent_bright_tone(tones: dict[str, int], white: int) -> None:
    assert paper_tone(counts_of(**tones), USUAL) == white


@pytest.mark.parametrize(
    ("tones", "black"),
    [
        ({"t20": 5, "t100": 5, "t255": 90}, 20),
        ({"t20": 1, "t60": 9, "t255": 990}, 60),  # of the 10 drawn the darkest quarter
        ({"t230": 5, "t255": 95}, 191),  # faint: at most four times as much contrast
        ({"t255": 100}, 0),
    ],
)
def test_ink_is_the_darkest_hundredth(tones: dict[str, int], black: int) -> None:
    assert find_levels(counts_of(**tones), USUAL).black == black


def test_the_exponent_brings_ink_into_the_band_and_no_further() -> None:
    settings = AdjustSettings(least_coverage=0.05, most_coverage=0.1)
    within = counts_of(t0=7, t255=93)
    assert find_levels(within, settings) == Levels(0, 255, 1.0)
    light = counts_of(t0=2, t200=10, t255=88)  # 0.02 + 0.1 * 0.216 = 0.042
    levels = find_levels(light, settings)
    assert levels.gamma > 1
    assert adjusted_coverage(light, levels) == pytest.approx(0.0525, abs=5e-4)
    heavy = counts_of(t0=5, t128=30, t255=65)
    levels = find_levels(heavy, AdjustSettings(least_coverage=0.05, most_coverage=0.15))
    assert levels.gamma < 1
    assert adjusted_coverage(heavy, levels) == pytest.approx(0.145, abs=5e-4)
    black = counts_of(t0=50, t255=50)
    assert find_levels(black, settings).gamma == pytest.approx(1 / 2.5, abs=1e-3)  # the limit


def test_the_contrast_is_that_of_paper_and_ink() -> None:
    """L* of 119 is 50.03, of white 100."""
    assert contrast(counts_of(t119=2, t255=98), USUAL) == pytest.approx(1 - 0.5003, abs=1e-3)
    assert contrast(counts_of(t255=100), USUAL) is None


@pytest.mark.parametrize("sigma", [0, 2, 5, 10])
def test_noise_is_measured_beside_lines(drawing: Pixels, sigma: float) -> None:
    noisy = pencilled(drawing, sigma)
    measured = measure_noise(noisy)
    expected = np.hypot(sigma, 0.29) if sigma else 0  # rounding adds 1 / sqrt(12)
    assert measured == pytest.approx(expected, rel=0.3, abs=0.05)  # a third lies beside a line


@pytest.mark.parametrize("how", ["bilateral", "nlmeans"])
def test_denoising_takes_grain_and_keeps_lines(drawing: Pixels, how: str) -> None:
    clean, noisy = pencilled(drawing, 0).astype(float), pencilled(drawing)
    smooth = denoise(noisy, how, 4.0).astype(float)
    paper = cv2.erode(drawing, np.ones((9, 9), np.uint8)) == 255
    strokes = cv2.dilate(drawing, np.ones((3, 3), np.uint8)) < 30
    assert np.std((smooth - clean)[paper]) < 0.45 * np.std((noisy - clean)[paper])
    assert abs((smooth - clean)[strokes].mean()) < 3  # of 64 levels that lines are darker
    whole = denoise(noisy[:200], how, 4.0)
    assert np.array_equal(smooth[:150], whole[:150])  # nothing far away counts


@pytest.mark.parametrize("how", ["bilateral", "nlmeans"])
def test_strips_do_not_show(monkeypatch: pytest.MonkeyPatch, drawing: Pixels, how: str) -> None:
    noisy = pencilled(drawing)
    at_once = (denoise(noisy, how, 4.0), sharpen(noisy, 0.5), measure_noise(noisy))
    monkeypatch.setattr(stage, "_STRIP", 37)
    in_strips = (denoise(noisy, how, 4.0), sharpen(noisy, 0.5), measure_noise(noisy))
    for a, b in zip(at_once, in_strips, strict=True):
        assert np.array_equal(a, b)


def test_specks_go_and_strokes_stay() -> None:
    sketch = np.full((400, 500), 255, np.uint8)
    sketch[100:102, 200:202] = 0  # a speck
    sketch[200, 100:180] = 0  # a thin stroke
    sketch[300:304, 50:54] = 200  # a faint one, too large
    clean, share = without_specks(sketch, 3.0)
    assert share == 4 / (400 * 500)
    assert (clean[100:102, 200:202] == 255).all()
    clean[100:102, 200:202] = 0
    assert np.array_equal(clean, sketch)
    assert without_specks(sketch, 0.5)[0] is sketch


def test_a_good_sketch_is_hardly_changed(drawing: Pixels) -> None:
    adjusted, done = adjust(drawing, USUAL)
    assert not done.denoised
    assert not done.equalised
    assert done.levels.gamma == 1
    assert np.abs(adjusted.astype(int) - drawing).mean() < 1
    assert done.after == pytest.approx(coverage(count_tones(adjusted)))


@pytest.mark.parametrize("how", ["bilateral", "nlmeans"])
def test_pencil_on_grainy_grey_paper_becomes_ink_on_white(drawing: Pixels, how: str) -> None:
    adjusted, done = adjust(pencilled(drawing), AdjustSettings(denoise=how))
    assert done.denoised
    assert done.noise == pytest.approx(4, rel=0.25)
    assert done.equalised
    paper = cv2.erode(drawing, np.ones((7, 7), np.uint8)) == 255
    strokes = drawing < 20
    assert (adjusted[paper] == 255).mean() > 0.98
    assert np.median(adjusted[strokes]) < 50
    assert np.corrcoef(adjusted.ravel(), drawing.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("unsharp", [0.0, 0.5])
def test_what_was_adjusted_is_hardly_changed_again(drawing: Pixels, unsharp: float) -> None:
    settings = AdjustSettings(unsharp=unsharp)
    for sketch in (drawing, pencilled(drawing)):
        once, first = adjust(sketch, settings)
        twice, second = adjust(once, settings)
        change = np.abs(twice.astype(int) - once).mean()
        print(f"sharpened {unsharp}: changed by {change:.4f} levels")  # noqa: T201
        assert change < (0.05 if unsharp == 0 else 1.5)
        assert not second.equalised
        assert second.levels.gamma == 1
        assert second.after == pytest.approx(first.after, rel=0.02 if unsharp == 0 else 0.1)


def test_nothing_moves(drawing: Pixels) -> None:
    adjusted, _ = adjust(pencilled(drawing), USUAL)
    inside = (slice(4, -4), slice(4, -4))
    scores = {}
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            moved = np.roll(adjusted, (dy, dx), (0, 1))[inside]
            scores[dy, dx] = np.corrcoef(drawing[inside].ravel(), moved.ravel())[0, 1]
    assert max(scores, key=scores.__getitem__) == (0, 0)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 7), (600, 5)])
def test_any_size_is_served(size: tuple[int, int]) -> None:
    sketch = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    settings = AdjustSettings(unsharp=1, flat=1)
    assert adjust(sketch, settings)[0].shape == size


def run_on(work: Work, sketch: Pixels) -> tuple[Pixels, Decision, dict[str, object]]:
    """Adjusts a sketch; returns the file's pixels, the decision, and the form's details."""
    picture = add_picture(work, "p0", np.zeros((*sketch.shape, 3), np.uint8))
    form = work.write(picture, "sketch", sketch)
    work.ledger.record("p0", "sketch", "", Outcome(forms={"sketch": form}))
    stage.run(work)
    (decision,) = (d for _, name, d in work.ledger.decisions("p0") if name == "adjust")
    form = work.ledger.forms("adjusted")["p0"]
    return read_pixels(work.folder / form.path), decision, dict(form.details)


def test_the_chosen_values_are_in_the_ledger(tmp_path: Path, drawing: Pixels) -> None:
    sketch = pencilled(drawing)
    with open_work(tmp_path) as work:
        adjusted, decision, details = run_on(work, sketch)
        assert stage.run(work) == {}  # nothing is left to do
    expected, done = adjust(sketch, USUAL)
    assert np.array_equal(adjusted, expected)
    assert decision.check == "ink"
    assert decision.verdict == "keep"
    assert decision.score == done.after
    assert decision.details == {"band": [0.015, 0.2]}
    assert details["black"] == done.levels.black
    assert details["white"] == done.levels.white
    assert details["denoised"] is True
    assert details["clahe"] is True
    assert set(details) == {
        "noise", "denoised", "contrast", "clahe", "black", "white", "gamma", "specks",
        "coverage_before", "coverage",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("share", "threshold", "reason"),
    [(0.5, 0.2, "too much ink: 50.0%"), (0.002, 0.015, "too little ink: 0.2%")],
)
def test_ink_beyond_the_band_is_left_to_a_person(
    tmp_path: Path, share: float, threshold: float, reason: str
) -> None:
    sketch = np.full((500, 400), 255, np.uint8)
    sketch[: round(500 * share)] = 0
    with open_work(tmp_path) as work:
        adjusted, decision, _ = run_on(work, sketch)
    assert np.array_equal(adjusted, sketch)
    assert decision.verdict == "review"
    assert decision.reason.startswith(reason)
    assert decision.threshold == threshold
