"""Pictures of any proportions, trained at the size that is nearest (framing.py, stream.py)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny_world
from tests.test_training_train import FULL, assert_same_run, checkpoint, log_of, stopping_after
from training import train as t
from training.config import DataSettings, from_mapping
from training.data import Dataset
from training.framing import bucket_of, buckets, frame
from training.settings import ConfigError
from training.stream import Stream

BUCKETS = {"fit": "bucket", "bucket_step": 8, "reference": "group"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tiny_world.write_models(tmp_path_factory.mktemp("models") / "m")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Half of the sketches square, a third wide, the rest tall."""
    folder = tiny_world.write_sketches(tmp_path_factory.mktemp("data") / "sketches", count=24)
    for number in range(12, 24):
        path = folder / f"{number:02d}.png"
        size = (80, 40) if number < 20 else (40, 80)
        Image.open(path).resize(size).save(path)
    return folder


@pytest.fixture
def configure(models, folder, tmp_path):
    def make(name: str = "out", **sections):
        sections = {**sections, "data": {**BUCKETS, **sections.get("data", {})}}
        return from_mapping(tiny_world.settings(models, folder, tmp_path / name, **sections))

    return make


def test_buckets_of_stable_diffusion_are_the_known_ones():
    sizes = buckets(512, 64)
    assert {(512, 512), (448, 576), (576, 448), (384, 640), (320, 768), (256, 1024)} <= set(sizes)
    assert all(h % 64 == w % 64 == 0 for h, w in sizes)
    assert all(h * w <= 512**2 and min(h, w) >= 256 for h, w in sizes)
    assert {(w, h) for h, w in sizes} == set(sizes)


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((512, 512), (512, 512)),
        ((3000, 2950), (512, 512)),
        ((1080, 1920), (384, 640)),
        ((1920, 1080), (640, 384)),
        ((100, 5000), (256, 1024)),
    ],
)
def test_a_picture_takes_the_bucket_of_its_proportions(size, bucket):
    assert bucket_of(*size, DataSettings(fit="bucket")) == bucket


def test_a_frame_keeps_the_middle_and_all_that_its_proportions_allow():
    picture = torch.ones(1, 30, 80, 4)
    picture[:, :, 8:72] = torch.tensor([0.5, 0.5, 0.5, 1.0])  # what a 15 x 32 frame keeps
    drawn = frame(picture, (15, 32), "bucket")
    assert drawn.shape == (1, 3, 15, 32)
    assert drawn.mean() == pytest.approx(0.5, abs=1e-6)


def test_each_step_is_of_one_size_and_every_row_is_shown_as_often(folder):
    settings = DataSettings(folders=(str(folder),), resolution=32, **BUCKETS)
    dataset = Dataset(settings, batch_size=4)
    assert len(dataset.stream.sizes) == 3
    shown: Counter[str] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    steps = 1200
    for step in range(steps):
        batch = [dataset.sample(5, position) for position in range(4 * step, 4 * step + 4)]
        (size,) = {dataset.size(sample.picture.picture) for sample in batch}
        sizes[size] += 1
        shown.update(sample.picture.picture for sample in batch)
    assert set(shown) == {row.picture for row in dataset.rows}
    for size, count in sizes.items():
        rows = [row.picture for row in dataset.rows if dataset.size(row.picture) == size]
        assert count / steps == pytest.approx(len(rows) / 24, abs=0.05)
        times = [shown[name] for name in rows]
        assert max(times) - min(times) <= 1  # no row of a size before all others had their turn
    # The stream does not depend on how it is read.
    again = Dataset(settings, batch_size=4)
    assert [again.sample(5, p) for p in (999, 3, 500)] == [
        dataset.sample(5, p) for p in (999, 3, 500)
    ]


def test_the_largest_step_is_of_the_largest_size():
    stream = Stream([1.0] * 10, [(8, 8)] * 9 + [(16, 8)], batch_size=2)
    step = stream.largest_step(seed=3)
    assert stream.row(3, 2 * step) == 9
    assert all(stream.row(3, 2 * before) != 9 for before in range(step))
    assert Stream([1.0], [(8, 8)], 2).largest_step(0) == 0


def test_a_row_that_is_never_shown_has_no_size():
    stream = Stream([0.0, 1.0, 1.0], [(16, 16), (8, 8), (16, 8)], batch_size=2)
    assert {stream.row(1, position) for position in range(100)} == {1, 2}
    assert stream.row(1, 2 * stream.largest_step(1)) == 2


def test_a_run_in_buckets_resumes_bit_for_bit_and_measures_held_out_pictures(configure):
    held_out = {"every": 3, "share": 0.3, "count": 8, "timesteps": 2}
    full = {key: value for key, value in FULL.items() if key != "data"}
    whole = configure("whole", run={"max_steps": 7}, held_out=held_out, **full)
    t.train(whole)
    parts = configure("parts", run={"max_steps": 7}, held_out=held_out, **full)
    with stopping_after(4):
        t.train(parts)
    t.train(parts)
    assert_same_run(whole.run.output, parts.run.output)
    measured = [line["held_out"] for line in log_of(whole) if "held_out" in line]
    assert len(measured) == 2
    assert all(np.isfinite(list(figures.values())).all() for figures in measured)
    stores = [path.name for path in Path(whole.run.output, "cache").glob("moments-*")]
    assert len(stores) == 3


def test_parts_of_a_batch_in_buckets_add_up_to_it(configure):
    whole = configure("whole", run={"max_steps": 3, "batch_size": 6})
    parts = configure("parts", run={"max_steps": 3, "batch_size": 6, "micro_batch": 4})
    t.train(whole)
    t.train(parts)
    one, other = checkpoint(whole.run.output)["adapter"], checkpoint(parts.run.output)["adapter"]
    assert all(torch.allclose(one[name], other[name], atol=2e-6) for name in one)


def test_another_batch_size_goes_on_with_whole_batches(configure):
    t.train(configure(run={"max_steps": 5, "batch_size": 3}))
    assert t.train(configure(run={"max_steps": 60, "batch_size": 4})).step == 60


def test_previews_of_a_resolution_between_the_buckets_fit_their_grid(configure):
    preview = {"every": 1, "steps": 2, "reference_count": 2}
    config = configure(data={"resolution": 35}, run={"max_steps": 1}, preview=preview)
    t.train(config)
    (path,) = Path(config.run.output, "previews").iterdir()
    with Image.open(path) as sheet:
        assert sheet.size == (4 * 32, 14 + 2 * 32)  # titles; an empty prompt takes no line


def test_sizes_that_the_unet_cannot_take_are_an_error(configure):
    with pytest.raises(ConfigError, match=r"multiples of 4\. Set data\.resolution"):
        t.train(configure(data={"fit": "crop", "resolution": 30}))
    with pytest.raises(ConfigError, match=r"data\.bucket_step is 64, more than data\.resolution"):
        configure(data={"bucket_step": 64})
