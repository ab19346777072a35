"""Is it a sketch (animesketchnet_core/sketch_likeness.py), on drawings and on colour art."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from animesketchnet_core.clip_input import flatten_onto_white
from animesketchnet_core.ink import extract_ink
from animesketchnet_core.sketch_extraction import extract_lines
from animesketchnet_core.sketch_likeness import ink_map, sketch_likeness
from training.dataset.quality.medium import look_at, to_lab
from training.evaluation.cases import Pair
from training.evaluation.measures.likeness import SketchLikenessMeasure
from training.mini.portraits import load_portraits
from training.mini.styles import AXES, Style, render

ROOT = Path(__file__).parents[1]
ART = sorted((ROOT / "training" / "dataset" / "demo_film" / "art").glob("*.[jpw]*g"))
COLOUR = [*ART, ROOT / "workflows" / "animesketchnet_colour.png"]
REFERENCES = sorted((ROOT / "workflows").glob("animesketchnet_reference*.png"))


def opened(path: Path) -> Tensor:
    image = Image.open(path).convert("RGBA")
    image.thumbnail((480, 480))
    return flatten_onto_white(torch.from_numpy(np.array(image)).float()[None] / 255)


@pytest.mark.parametrize("path", COLOUR, ids=lambda path: path.stem)
def test_colour_art_is_no_sketch_and_the_lines_drawn_of_it_are(path: Path) -> None:
    picture = opened(path)
    assert sketch_likeness(picture).likeness.item() == 0
    assert sketch_likeness(extract_lines(picture)).likeness.item() == 1
    assert sketch_likeness(extract_ink(picture)).likeness.item() == 1


def test_a_painted_background_is_no_sketch_without_its_colours_either() -> None:
    for path in (path for path in ART if path.suffix == ".jpg"):
        grey = opened(path).mean(-1, keepdim=True)
        assert sketch_likeness(grey).likeness.item() == 0, path


def test_portraits_of_every_style_are_sketches() -> None:
    """Bold, fine, hatched, in grey ink and on grey paper."""
    _, drawings = load_portraits("test", 8)
    for choice in itertools.product(*(range(len(words)) for words in AXES.values())):
        style = Style(*choice)
        pictures = render(drawings, [style] * len(drawings)).permute(0, 2, 3, 1)
        assert sketch_likeness(pictures).likeness.min() > 0.5, style


def test_reference_sketches_are_sketches() -> None:
    assert len(REFERENCES) == 4
    assert all(sketch_likeness(opened(path)).likeness > 0.5 for path in REFERENCES)


def test_the_data_set_builder_is_not_contradicted() -> None:
    """What it drops as line art is a sketch, what has colours to it is none."""
    pictures = [opened(path) for path in [*COLOUR[::4], *REFERENCES]]
    pictures += [extract_lines(picture) for picture in pictures]
    told = []
    for picture in pictures:
        medium = look_at((picture[0] * 255).round().byte().numpy())
        found = sketch_likeness(picture)
        assert found.chroma.item() == pytest.approx(medium.chroma, abs=0.02)
        if medium.chroma > 8:
            assert found.likeness < 0.5
        if medium.line_art > 0.4:
            assert found.likeness > 0.5
        told.append((medium.chroma > 8, medium.line_art > 0.4))
    assert (True, False) in told
    assert (False, True) in told


def test_chroma_is_that_of_cie_lab() -> None:
    """Half the picture in one colour, a tenth in another."""
    picture = torch.full((1, 10, 10, 3), 0.75)
    picture[:, :1] = torch.tensor([0.2, 0.4, 0.6])
    lab = to_lab((picture[0] * 255).round().byte().numpy())
    expected = float(np.hypot(*(lab[0, 0, 1:] - lab[5, 0, 1:])))
    assert expected > 20
    assert sketch_likeness(picture).chroma.item() == pytest.approx(expected, abs=0.3)


def test_ink_is_dark_against_its_own_paper() -> None:
    """An eleventh of the rows in black, whatever the paper: on white, on grey, on yellow."""
    for paper in ((1.0, 1.0, 1.0), (0.8, 0.8, 0.8), (0.9, 0.85, 0.7)):
        sheet = torch.tensor(paper).expand(1, 11, 13, 3).clone()
        sheet[:, 5] = 0
        found = sketch_likeness(sheet)
        assert found.ink_ratio.item() == pytest.approx(1 / 11, abs=1e-4)
        assert found.paper_share.item() == pytest.approx(10 / 11, abs=1e-4)
    assert ink_map(sheet)[0, :, 7].tolist() == pytest.approx(
        [0.0] * 5 + [1.0] + [0.0] * 5, abs=1e-4
    )


def test_large_pictures_have_the_figures_of_small_ones() -> None:
    small = opened(REFERENCES[0])
    large = small.repeat_interleave(7, 1).repeat_interleave(7, 2)
    one, two = sketch_likeness(small), sketch_likeness(large)
    assert two.ink_ratio.item() == pytest.approx(one.ink_ratio.item(), abs=0.003)
    assert two.paper_share.item() == pytest.approx(one.paper_share.item(), abs=0.02)


def test_a_bare_a_black_and_a_night_sheet_are_no_sketches() -> None:
    stars = torch.full((1, 31, 37, 3), 0.1)
    stars[:, ::10, ::10] = 1
    for sheet in (torch.ones(1, 31, 37, 3), torch.zeros(1, 31, 37, 3), stars):
        assert sketch_likeness(sheet).likeness.item() == 0


def test_each_picture_of_a_batch_is_judged_alone() -> None:
    batch = torch.cat([torch.ones(1, 17, 19, 3), torch.rand(1, 17, 19, 3)])
    batch[0, 8] = 0
    found = sketch_likeness(batch).likeness
    assert found[0] == 1
    assert found[1] == 0


def test_the_measure_gives_its_columns() -> None:
    measure = SketchLikenessMeasure()
    figures = measure.score(torch.cat([opened(path) for path in REFERENCES[2:]]), Pair("a", "b"))
    assert list(figures) == [column.key for column in measure.columns]
    assert all(values.shape == (2,) for values in figures.values())


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(TypeError, match="divide 8-bit values by 255"):
        sketch_likeness(torch.ones(1, 5, 7, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"got \[5, 7, 3\]"):
        ink_map(torch.ones(5, 7, 3))
