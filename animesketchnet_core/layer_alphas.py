"""How alpha differs between the UNet's layers, in names that hold for every checkpoint.

A layer is named by its place: `down.0.1` is the second attention of the first down block, `mid` the
middle block, `up.1.0` the first attention of the second up block, `down.2.0.7` one transformer
block of many (SDXL). The beginning of a name stands for all that begin so: `up`, `down.2`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from .alpha_curve import MOST_FACTOR
from .unet_layers import CrossAttentionLayer

ALL = "all"


@dataclass(frozen=True)
class LayerAlphas:
    """A factor of alpha for each layer.

    Attributes:
        entries: (name or beginning of a name, factor); a later entry wins over an earlier one.
        preset: what a layer has that no entry names, a key of PRESETS.
    """

    entries: tuple[tuple[str, float], ...] = ()
    preset: str = ALL

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(
                f"There is no layer preset {self.preset!r}; there are {', '.join(PRESETS)}."
            )
        for name, factor in self.entries:
            if not 0 <= factor <= MOST_FACTOR:
                raise ValueError(
                    f"The layer list gives {name} the factor {factor:g}; it must be 0 to "
                    f"{MOST_FACTOR}."
                )

    def by_index(self, layers: Sequence[CrossAttentionLayer]) -> dict[int, float]:
        """Returns the factor of each of a UNet's layers, by its index in the weight file.

        Raises:
            ValueError: an entry names no layer of this UNet; says which names there are.
        """
        names = {layer.index: layer_name(layer) for layer in layers}
        for entry, _ in self.entries:
            if not any(_names(entry, name) for name in names.values()):
                raise ValueError(
                    f"The layer list names {entry!r}, which this model does not have. It has "
                    f"{', '.join(_places(names.values()))}; the beginning of a name stands for all "
                    f"that begin so, and {ALL!r} for all."
                )
        preset = _preset_factors(self.preset, names)
        return {index: self._factor(name, preset[index]) for index, name in names.items()}

    def _factor(self, name: str, preset: float) -> float:
        return next((f for entry, f in reversed(self.entries) if _names(entry, name)), preset)

    @classmethod
    def from_text(cls, text: str, preset: str = ALL) -> LayerAlphas:
        """Reads "name:factor" entries, such as "all:0, down.2:0.5, mid:1".

        Raises:
            ValueError: says which piece of the text is no entry, or that there is no such preset.
        """
        pieces = [piece.strip() for piece in re.split(r"[,;\n]", text) if piece.strip()]
        return cls(tuple(map(_entry, pieces)), preset)


@dataclass(frozen=True)
class _Place:
    """Where in the UNet an attention sits.

    Attributes:
        block: "down.2", "mid", "up.0", ...
        attention: its number in the block.
        level: 0 is the coarsest level that attends, with the middle block; 1 the next finer, ...
        finest: whether no finer level attends.
    """

    block: str
    attention: int
    level: int
    finest: bool


def _composition(place: _Place) -> float:
    return float(place.level == 0)


def _style(place: _Place) -> float:
    return float(place.level > 0)


def _line(place: _Place) -> float:
    return float(place.finest)


# SD v1.5 and all that attends on its finest level. Measured on the mini models, whose coarsest
# level draws the reference's hair but not its pencil and paper, and the other way round.
PRESETS: Mapping[str, Callable[[_Place], float]] = {
    ALL: lambda place: 1.0,
    "style": _style,
    "composition": _composition,
    "line": _line,
}

# SDXL: Wang et al. 2024 (InstantStyle, arXiv:2404.02733), section 3.3.
_SDXL_PRESETS: Mapping[str, Callable[[_Place], float]] = {
    **PRESETS,
    "style": lambda place: float((place.block, place.attention) == ("up.0", 1)),
    "composition": lambda place: float((place.block, place.attention) == ("down.2", 1)),
}


def _preset_factors(preset: str, names: Mapping[int, str]) -> dict[int, float]:
    places = {index: name.split(".") for index, name in names.items()}
    down = [int(part[1]) for part in places.values() if part[0] == "down"]
    presets = PRESETS if min(down) == 0 else _SDXL_PRESETS
    coarsest_up = min(int(part[1]) for part in places.values() if part[0] == "up")

    def place(part: str, *numbers: str) -> _Place:
        if part == "mid":
            return _Place("mid", 0, 0, finest=False)
        block, attention = int(numbers[0]), int(numbers[1])
        level = max(down) - block if part == "down" else block - coarsest_up
        finest = level == max(down) - min(down)
        return _Place(f"{part}.{block}", attention, level, finest)

    return {index: presets[preset](place(*part)) for index, part in places.items()}


def layer_name(layer: CrossAttentionLayer) -> str:
    """Names a layer by its place, such as "down.0.1.0": block, attention, transformer block."""
    block, *rest = layer.diffusers.split(".")
    numbers = [piece for piece in rest if piece.isdigit()]
    if block == "mid_block":
        return ".".join(["mid", *numbers[1:]])  # its only attention needs no number
    return ".".join([block.removesuffix("_blocks"), *numbers])


def _names(entry: str, name: str) -> bool:
    return entry == ALL or f"{name}.".startswith(f"{entry}.")


def _places(names: Iterable[str]) -> list[str]:
    """The names without their transformer block, each once."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


def _entry(piece: str) -> tuple[str, float]:
    name, _, factor = piece.partition(":")
    try:
        return name.strip(), float(factor)
    except ValueError:
        raise ValueError(
            f"{piece!r} is no entry of a layer list. Write name:factor, with commas between the "
            "entries, such as all:0, down.2:0.5, mid:1."
        ) from None
