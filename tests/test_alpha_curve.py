"""Alpha over the steps: interpolation, jumps, text, presets."""

from __future__ import annotations

import pytest

from animesketchnet_core.alpha_curve import PRESETS, AlphaCurve


def test_between_two_points_it_is_a_line():
    curve = AlphaCurve(((0.2, 1.0), (0.6, 0.0)))
    assert [curve.at(x) for x in (0.2, 0.3, 0.5, 0.6)] == pytest.approx([1, 0.75, 0.25, 0])


def test_outside_its_points_it_stays_level():
    curve = AlphaCurve(((0.2, 0.7), (0.6, 0.3)))
    assert (curve.at(0.0), curve.at(1.0)) == (0.7, 0.3)


def test_two_points_at_one_place_are_a_jump():
    curve = AlphaCurve(((0.0, 1.0), (0.5, 1.0), (0.5, 0.0)))
    assert (curve.at(0.499), curve.at(0.5), curve.at(0.9)) == (1.0, 0.0, 0.0)


def test_text_goes_there_and_back():
    curve = AlphaCurve.from_text(" 0:1, 0.4 : 1;\n0.6:0.25,")
    assert curve.points == ((0, 1), (0.4, 1), (0.6, 0.25))
    assert AlphaCurve.from_text(curve.to_text()) == curve


@pytest.mark.parametrize("curve", PRESETS.values(), ids=list(PRESETS))
def test_each_preset_can_be_edited_as_text(curve: AlphaCurve):
    assert AlphaCurve.from_text(curve.to_text()) == curve
    assert max(curve.at(x / 100) for x in range(101)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one point"),
        ("0.5", r"'0.5' is no point.*progress:factor"),
        ("0:1:2", r"'0:1:2' is no point"),
        ("0:x", r"'0:x' is no point"),
        ("1.5:1", r"1.5:1 is out of range"),
        ("0:-1", r"0:-1 is out of range"),
        ("0:nan", r"0:nan is out of range"),
        ("0.6:1, 0.4:0", r"from left to right, got 0.6:1, 0.4:0"),
    ],
)
def test_a_wrong_text_is_named(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        AlphaCurve.from_text(text)
