import pytest
import torch

from animesketchnet_core.line_weight import change_width
from animesketchnet_core.sketch_cleaning import clean_sketch, darken_ink
from animesketchnet_core.specks import connected, find_runs, remove_specks

OFF = {"whiten_paper": 0.0, "remove_specks": 0.0, "line_weight": 0.0, "ink": 0.0}


def drawing(height: int = 400, width: int = 600) -> torch.Tensor:
    """Black strokes on white paper [h, w, 3]: a frame, a diagonal of 3 pixels, a solid block."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    ink = (y - 20).abs() < 2
    ink |= (x - 30).abs() < 2
    ink |= (y - 0.5 * x).abs() < 2
    ink |= (y > 250) & (y < 330) & (x > 100) & (x < 180)
    return (1 - 0.95 * ink.float())[..., None].repeat(1, 1, 3)


def light(height: int = 400, width: int = 600) -> torch.Tensor:
    """Yellowed paper, lit from one side, with the soft shadow of a hand, [h, w, 3]."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    side = 0.95 - 0.4 * x - 0.1 * y
    shadow = 1 - 0.35 * torch.exp(-((x - 0.8) ** 2 + (y - 0.6) ** 2) / 0.05)
    return (side * shadow)[..., None] * torch.tensor([1.0, 0.95, 0.8])


def only(**settings: float) -> dict[str, float]:
    return {**OFF, **settings}


def test_uneven_light_and_yellow_paper_become_white_while_ink_stays_dark():
    photo = drawing() * light()
    paper, ink = drawing()[..., 0] > 0.9, drawing()[..., 0] < 0.1
    assert photo[paper].min() < 0.3  # the test tests something
    cleaned = clean_sketch(photo[None], **only(whiten_paper=1.0))[0]
    assert cleaned[paper].min() > 0.97
    assert cleaned[ink].max() < 0.2


def test_the_grain_of_paper_becomes_white_too():
    torch.manual_seed(0)
    photo = (drawing() * light() + 0.01 * torch.randn(400, 600, 3)).clamp(0, 1)
    cleaned = clean_sketch(photo[None], **only(whiten_paper=1.0))[0]
    paper, ink = drawing()[..., 0] > 0.9, drawing()[..., 0] < 0.1
    assert (cleaned[paper] > 0.97).float().mean() > 0.98
    assert cleaned[paper].min() > 0.85
    assert cleaned[ink].max() < 0.25


def test_grey_areas_that_were_drawn_stay_grey():
    """They have edges; shadows on paper have none."""
    sketch = drawing()
    sketch[100:220, 350:520] = 0.5
    cleaned = clean_sketch((sketch * light())[None], **only(whiten_paper=1.0))[0]
    grey = cleaned[110:210, 360:510]
    assert sketch[160, 360, 0] == 0.5
    assert grey.min() > 0.4
    assert grey.max() < 0.6
    paper = sketch[..., 0] > 0.9
    assert cleaned[paper].min() > 0.95


def test_half_the_whitening_takes_away_half_of_the_tone():
    photo = (drawing() * light())[None]
    whole = clean_sketch(photo, **only(whiten_paper=1.0))
    half = clean_sketch(photo, **only(whiten_paper=0.5))
    torch.testing.assert_close(half, (photo + whole) / 2)


@pytest.mark.parametrize("tone", [0.3, 0.8, 1.0])
def test_bare_paper_of_any_tone_becomes_white(tone):
    cleaned = clean_sketch(torch.full((1, 50, 70, 3), tone), **only(whiten_paper=1.0))
    assert cleaned.min() > 0.99


@pytest.mark.parametrize("columns", [[0.0], [0.0, 1.0], [1.0, 0.0, 0.0, 0.5]])
def test_ink_without_paper_around_it_is_served(columns):
    picture = torch.tensor(columns)[None, None, :, None].expand(1, 2, -1, 3)
    torch.testing.assert_close(clean_sketch(picture, **only(whiten_paper=1.0)), picture)


def test_a_clean_drawing_is_left_as_it_is():
    clean = drawing()[None]
    torch.testing.assert_close(clean_sketch(clean, **only(whiten_paper=1.0)), clean)


def test_a_speck_goes_and_a_stroke_stays():
    picture = torch.ones(1000, 1000, 3)
    picture[500, 100:130] = 0.0  # a stroke of 1 by 30 pixels
    picture[200:203, 300:303] = 0.0  # a speck of 3 by 3
    picture[700:704, 700:704] = 0.0  # a dot of 4 by 4
    cleaned = clean_sketch(picture[None], **only(remove_specks=3.0))[0]
    expected = picture.clone()
    expected[200:203, 300:303] = 1.0
    assert torch.equal(cleaned, expected)


def test_the_smooth_edge_of_a_speck_goes_with_it():
    picture = torch.ones(50, 50, 3)
    picture[20:25, 20:25] = 0.9
    picture[22, 22] = 0.0
    assert remove_specks(picture, 5).min() == 1.0
    assert torch.equal(remove_specks(picture, 4), picture)


def test_specks_grow_with_the_picture():
    small, large = torch.ones(1, 500, 500, 3), torch.ones(1, 1000, 1000, 3)
    small[0, 50:52, 50:52] = 0.0
    large[0, 100:104, 100:104] = 0.0
    for size, left in ((4.0, 1.0), (3.0, 0.0)):
        assert clean_sketch(small, **only(remove_specks=size)).min() == left
        assert clean_sketch(large, **only(remove_specks=size)).min() == left


def test_runs_are_connected_as_a_flood_fill_connects_them():
    torch.manual_seed(0)
    for density in (0.1, 0.4, 0.6):
        ink = torch.rand(37, 53) < density
        runs = find_runs(ink)
        labels = connected(runs, 53)
        picture = torch.full((37, 53), -1)
        for (row, first, last), label in zip(runs.tolist(), labels.tolist(), strict=True):
            picture[row, first : last + 1] = label
        assert torch.equal(picture >= 0, ink)
        assert flood_filled(ink) == {frozenset(group) for group in groups(picture)}


def groups(picture: torch.Tensor) -> list[list[tuple[int, int]]]:
    found: dict[int, list[tuple[int, int]]] = {}
    for y, x in (picture >= 0).nonzero().tolist():
        found.setdefault(int(picture[y, x]), []).append((y, x))
    return list(found.values())


def flood_filled(ink: torch.Tensor) -> set[frozenset[tuple[int, int]]]:
    left = {(y, x) for y, x in ink.nonzero().tolist()}
    found = set()
    while left:
        group, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            group.add((y, x))
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            edge += near
        found.add(frozenset(group))
    return found


def stroke(width: float, degrees: float, size: int = 101) -> torch.Tensor:
    """A straight stroke through the middle [size, size, 3], its edges smooth."""
    angle = torch.tensor(degrees).deg2rad()
    y, x = torch.meshgrid(
        torch.arange(size) - size // 2, torch.arange(size) - size // 2, indexing="ij"
    )
    distance = (x * angle.cos() + y * angle.sin()).abs()
    return 1 - (width / 2 - distance + 0.5).clamp(0, 1)[..., None].repeat(1, 1, 3)


def width_of(picture: torch.Tensor, degrees: float) -> float:
    """Mean width of the stroke that `stroke` made: its ink by its length, in a middle window."""
    size = picture.shape[0]
    angle = torch.tensor(degrees).deg2rad()
    y, x = torch.meshgrid(
        torch.arange(size) - size // 2, torch.arange(size) - size // 2, indexing="ij"
    )
    along = (y * angle.cos() - x * angle.sin()).abs() <= 20.5
    across = (x * angle.cos() + y * angle.sin()).abs() <= 20.5
    return float((1 - picture[..., 0])[along & across].sum() / 41)


@pytest.mark.parametrize("degrees", [0, 17, 45, 90, 120])
@pytest.mark.parametrize("change", [-2.0, -0.6, 0.3, 1.0, 3.0])
def test_lines_become_wider_by_what_was_asked(degrees, change):
    before = stroke(5.0, degrees)
    after = change_width(before, change)
    assert width_of(before, degrees) == pytest.approx(5, abs=0.15)
    grown = width_of(after, degrees) - width_of(before, degrees)
    assert grown == pytest.approx(change, abs=0.1 + 0.08 * abs(change))


def test_each_colour_is_widened_by_itself():
    picture = torch.ones(101, 101, 3)
    picture[..., 1] = stroke(5.0, 30)[..., 0]
    after = change_width(picture, 1.0)
    assert torch.equal(after[..., 1], change_width(stroke(5.0, 30), 1.0)[..., 0])
    assert after[..., [0, 2]].min() == 1.0


def test_edges_stay_smooth():
    column = change_width(stroke(5.0, 0), 0.5)[50, :, 0]
    assert ((column > 0.05) & (column < 0.95)).sum() == 2  # a pixel at each edge is grey
    assert column[50] == 0


def test_line_weight_is_in_thousandths_of_the_shorter_side():
    picture = stroke(5.0, 0, 501)[None].expand(1, -1, -1, 3)
    after = clean_sketch(picture, **only(line_weight=4.0))[0]
    assert width_of(after, 0) - width_of(picture[0], 0) == pytest.approx(2.0, abs=0.1)


def test_ink_makes_grey_strokes_black_and_leaves_white_and_widths():
    pencil = 1 - 0.5 * (1 - stroke(5.0, 0))
    black = darken_ink(pencil, 1.0)
    assert black[50, 48:53].max() < 0.01
    assert black[:, :40].min() == 1.0
    assert width_of(black, 0) == pytest.approx(5.0, abs=0.15)
    half = darken_ink(pencil, 0.5)[50, 50, 0]
    assert black[50, 50, 0] + 0.1 < half < pencil[50, 50, 0] - 0.1


def test_ink_leaves_grey_areas_beside_black_lines():
    sketch = drawing()
    sketch[100:220, 350:520] = 0.5
    torch.testing.assert_close(
        darken_ink(sketch, 1.0)[150, 400], torch.full((3,), 0.5), atol=0.05, rtol=0
    )


def test_all_off_changes_nothing():
    torch.manual_seed(0)
    picture = torch.rand(2, 31, 47, 3)
    assert torch.equal(clean_sketch(picture, **OFF), picture)


def test_grey_transparent_and_batches():
    grey = (drawing() * light())[None, ..., :1]
    expected = clean_sketch(grey.expand(-1, -1, -1, 3))
    torch.testing.assert_close(clean_sketch(grey), expected)
    clear = torch.zeros(1, 40, 40, 4)
    assert clean_sketch(clear).min() == 1.0
    batch = clean_sketch(torch.cat([1 - grey, grey]))
    torch.testing.assert_close(batch[1:], expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 97), (97, 1), (3, 1000), (1023, 517)])
def test_any_size_is_served(shape):
    cleaned = clean_sketch(torch.rand(1, *shape, 3), line_weight=-1.0)
    assert cleaned.shape == (1, *shape, 3)
    assert cleaned.isfinite().all()
    assert cleaned.min() >= 0
    assert cleaned.max() <= 1


@pytest.mark.parametrize("name", list(OFF))
def test_settings_out_of_range_are_refused(name):
    for value in (100.0, float("nan")):
        with pytest.raises(ValueError, match=f"{name} must be from"):
            clean_sketch(torch.ones(1, 3, 3, 3), **only(**{name: value}))


def test_pictures_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="NaN or infinite"):
        clean_sketch(torch.full((1, 3, 3, 3), float("nan")))


def test_progress_is_told_step_by_step():
    told = []
    clean_sketch(torch.rand(2, 9, 9, 3), on_progress=lambda *progress: told.append(progress))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)] * 2


def test_widening_lines_of_a_large_picture_is_told_in_steps():
    told = []
    settings = {"whiten_paper": 0.0, "remove_specks": 0.0, "ink": 0.0}
    picture = torch.rand(1, 500, 500, 3)  # 5 thousandths are 2.5 pixels, two steps
    clean_sketch(picture, line_weight=5.0, **settings, on_progress=lambda *p: told.append(p))
    assert told == [(1, 4), (2, 4), (3, 4), (7, 8), (8, 8), (4, 4)]
