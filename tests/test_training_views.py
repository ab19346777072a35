"""Changed views of pictures (training/views.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import tiny_world
from training import train as t
from training.config import DataSettings, ViewSettings, from_mapping
from training.data import Dataset
from training.views import View, names_a_side, view_of

DIGEST = bytes(range(32))


def numbered(height: int = 6, width: int = 10) -> torch.Tensor:
    """A picture whose every pixel is another: [1, h, w, 4], opaque."""
    grey = torch.arange(height * width).view(1, height, width, 1) / (height * width)
    return torch.cat([grey.expand(-1, -1, -1, 3), torch.ones_like(grey)], dim=-1)


def test_the_plain_view_is_the_picture_and_has_its_key() -> None:
    picture = numbered()
    assert View("a").show(picture) is picture
    assert View("a").key(DIGEST) == DIGEST
    assert View("a", flip=True).key(DIGEST) == View("b", flip=True).key(DIGEST) != DIGEST
    assert len({View("a", zoom=zoom).key(DIGEST) for zoom in (1.0, 1.1, 1.2)}) == 3


def test_flip_and_part() -> None:
    picture = numbered()
    assert torch.equal(View("a", flip=True).show(picture)[0, :, 0], picture[0, :, -1])
    corner = View("a", zoom=2.0, place=(1.0, 0.0)).show(picture)
    assert torch.equal(corner, picture[:, 3:, :5])
    middle = View("a", zoom=1.25).show(picture)
    assert torch.equal(middle, picture[:, :5, 1:9]) or torch.equal(middle, picture[:, 1:, 1:9])


def test_lines_get_thicker_and_thinner_on_white_paper() -> None:
    line = torch.zeros(1, 20, 20, 4)  # a transparent sheet
    line[:, :, 9:12, 3] = 1  # with a black line three pixels wide
    for stroke, width in ((0.05, 5), (-0.05, 1), (0.02, 3)):  # a pixel each side; too little
        shown = View("a", stroke=stroke).show(line)
        dark = (shown[..., :3].mean(-1) < 0.5) & (shown[..., 3] > 0.5)
        assert dark[0, 10].sum() == width
    thick = View("a", stroke=0.05).show(line)
    assert thick[0, 10, 0].tolist() == [1, 1, 1, 1]


def test_views_follow_from_the_content_and_stay_within_the_settings() -> None:
    settings = ViewSettings(count=200, crop=0.2, stroke=0.01)

    def views(**changes) -> list[View]:
        arguments = {"sides_named": False, "reference": True, **changes}
        return [view_of("a", n, DIGEST, settings, **arguments) for n in range(200)]

    plain = views()
    assert plain == views()
    assert plain[0] == View("a")
    assert len(set(plain)) == 200
    assert 60 < sum(view.flip for view in plain) < 140
    assert all(1 <= view.zoom <= 1.25 for view in plain)
    assert max(view.zoom for view in plain) > 1.2
    assert -0.01 <= min(v.stroke for v in plain) < 0 < max(v.stroke for v in plain) <= 0.01
    assert not any(view.flip for view in views(sides_named=True))
    assert not any(view.stroke for view in views(reference=False))
    other = [view_of("a", n, DIGEST[::-1], settings, sides_named=False, reference=True)
             for n in range(1, 9)]  # fmt: skip
    assert not set(other) & set(plain)


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("facing Left", True),
        ("a right-handed boy", True),
        ("a bright leftover", False),
        ("", False),
    ],
)
def test_sides_that_captions_name(caption: str, named: bool) -> None:
    assert names_a_side(["x", caption]) == named


def test_the_stream_shows_every_view_and_the_cache_holds_them(tmp_path: Path) -> None:
    folder = tiny_world.write_sketches(tmp_path / "data", count=5)
    views = ViewSettings(count=3)
    dataset = Dataset(DataSettings(folders=(str(folder),)), views)
    assert len(dataset.targets) == len(dataset.references) == 15
    samples = [dataset.sample(0, position) for position in range(400)]
    assert {s.picture for s in samples} == set(dataset.targets)
    assert {s.reference for s in samples} == set(dataset.references)
    assert any(s.picture.flip for s in samples)
    assert len({(s.picture, s.reference) for s in samples}) > 15  # drawn each by itself
    lines = [{"file_name": f"{n:02d}.png", "text": "facing left"} for n in range(5)]
    tiny_world.write_metadata(folder, lines)
    named = Dataset(DataSettings(folders=(str(folder),)), views)
    assert not any(view.flip for view in [*named.targets, *named.references])


def test_training_on_views_resumes_and_differs_from_training_without(tmp_path: Path) -> None:
    models = tiny_world.write_models(tmp_path / "models")
    folder = tiny_world.write_sketches(tmp_path / "data")

    def run(name: str, steps: int, count: int) -> dict[str, torch.Tensor]:
        config = from_mapping(
            tiny_world.settings(
                models, folder, tmp_path / name, run={"max_steps": steps}, views={"count": count}
            )
        )
        path = t.train(config).adapter
        return t.read_adapter(path)[0]

    whole = run("whole", 4, 3)
    run("parts", 2, 3)
    parts = run("parts", 4, 3)
    plain = run("plain", 4, 1)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any(not torch.equal(whole[name], plain[name]) for name in whole)
