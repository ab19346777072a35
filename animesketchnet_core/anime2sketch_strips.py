"""Runs Anime2Sketch's generator on pictures of any size in strips, exactly as on the whole.

Instance norm alone looks at the whole picture, and all that it needs is each channel's mean and
variance. So the large levels are never kept: strips of rows are computed once for the statistics,
then again, normalised, for the level below. A strip takes as many rows of its neighbours along as
its convolutions reach, so the result is the whole picture's. Tiles that are normalised each by
itself differ from tile to tile.

Levels are numbered as in `anime2sketch`: features of level i are what its convolution gives,
strokes of level i what its transposed convolution gives, at twice the size; strokes of level 0 are
the drawing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .clip_input import flatten_onto_white, unit_range
from .progress import OnProgress

MULTIPLE = 256  # eight levels halve the picture
MOST_STREAMED = 3  # each level more computes the larger ones once more


class Generator(Protocol):
    """What `Anime2Sketch` has."""

    down: nn.ModuleList
    up: nn.ModuleList


def sketch_strips(
    net: Generator,
    picture: Tensor,
    *,
    memory: int,
    device: torch.device,
    on_progress: OnProgress | None = None,
) -> Iterator[Tensor]:
    """Draws one picture, strip by strip from the top.

    Args:
        net: the generator, its weights float32.
        picture: [h, w, c], float in [0, 1] or uint8, c = 1, 3 or 4; strips of it go to the device.
        memory: bytes that the work may take, `memory_needed` for some number of streamed levels up
            to 3; where that is not enough, 3 are streamed all the same.
        device: where the work is done.
        on_progress: called with (done, total) after each strip; it may raise to stop the work.

    Yields:
        Rows of the drawing, [y, w] each, float32 in [0, 1], dark on white.
    """
    height, width = picture.shape[:2]
    passage = _Passage(net, picture, device, streamed_levels(height, width, memory))
    steps = passage.steps()
    total = passage.strip_count()
    for done in range(1, total + 1):
        with torch.no_grad():
            strip = next(steps)
        if on_progress is not None:
            on_progress(done, total)
        if strip is not None:
            yield strip


def streamed_levels(height: int, width: int, memory: int) -> int:
    """How many levels have to be streamed, 0 to 3, to keep within `memory` bytes."""
    fitting = (n for n in range(MOST_STREAMED) if memory_needed(height, width, n) <= memory)
    return next(fitting, MOST_STREAMED)


def memory_needed(height: int, width: int, streamed: int) -> int:
    """Bytes that a picture takes with so many levels streamed, its own and the net's aside.

    The first kept level's features take 64 / 2^streamed bytes a pixel. Three such are alive at
    once, and convolutions on a processor copy two of them; a fifth more is what the allocator was
    seen to hold back. A strip takes up to 1,000 bytes a pixel.
    """
    height, width = _padded(height), _padded(width)
    strip = width * min(height, _strip_rows(width))
    return 384 * height * width // 2**streamed + 1000 * strip


def _padded(length: int) -> int:
    return -(-length // MULTIPLE) * MULTIPLE


def _strip_rows(width: int) -> int:
    return max(64, (1 << 18) // width)


@dataclass
class _Norm:
    """An instance norm whose statistics were gathered strip by strip; [1, c, 1, 1] each."""

    mean: Tensor
    scale: Tensor

    def apply(self, x: Tensor) -> Tensor:
        return x.sub_(self.mean).mul_(self.scale)


class _Passage:
    """One picture's way through the net.

    Levels below `kept` are streamed; of level `kept` the features, and of the next one the strokes,
    are kept whole.
    """

    def __init__(self, net: Generator, picture: Tensor, device: torch.device, kept: int) -> None:
        self.net = net
        self.picture = picture
        self.device = device
        self.kept = kept
        self.levels = len(net.down)
        self.height, self.width = _padded(picture.shape[0]), _padded(picture.shape[1])
        self.columns = mirrored(torch.arange(self.width), picture.shape[1])
        self.norms_down: dict[int, _Norm] = {}
        self.norms_up: dict[int, _Norm] = {}
        self.kept_features = torch.empty(0)
        self.kept_strokes = torch.empty(0)

    def steps(self) -> Iterator[Tensor | None]:
        """Does the work one strip a step; the last pass gives the drawing's rows."""
        for level in range(self.kept + 1):
            yield from self._pass_down(level)
        self.kept_strokes = self._strokes_from_deeper()
        for level in range(self.kept, 0, -1):
            statistics = _Statistics()
            for a, b in self._strips(level - 1):
                statistics.add(self._raw_strokes(level, a, b))
                yield None
            self.norms_up[level] = statistics.norm(self.device)
        for a, b in self._drawn_strips():
            drawing = self._raw_strokes(0, a, b)[0, 0, :, : self.picture.shape[1]]
            yield drawing.tanh().add(1).div(2)

    def strip_count(self) -> int:
        """How many steps there are."""
        down = sum(len(self._strips(level)) for level in range(self.kept + 1))
        up = sum(len(self._strips(level - 1)) for level in range(1, self.kept + 1))
        return down + up + len(self._drawn_strips())

    def _pass_down(self, level: int) -> Iterator[None]:
        """Gathers a streamed level's statistics, or keeps its features, a strip a step."""
        statistics, strips = _Statistics(), []
        for a, b in self._strips(level):
            strip = self._raw_features(level, a, b)
            if level > 0:
                statistics.add(strip)
            if level == self.kept:
                strips.append(strip)
            yield None
        if level > 0:
            self.norms_down[level] = statistics.norm(self.device)
        if level == self.kept:
            whole = torch.cat(strips, dim=2)
            self.kept_features = _leaky(self._normalised(whole, self.norms_down.get(level)))

    def _strokes_from_deeper(self) -> Tensor:
        """What the levels beyond the kept one draw, [1, c, y, x] of the kept one's size."""
        skips, x = [], self.kept_features
        for level in range(self.kept + 1, self.levels):
            x = self.net.down[level](x)
            if level < self.levels - 1:
                x = _leaky(_instance_norm(x))
                skips.append(x)
        x = _instance_norm(self.net.up[self.levels - 1](x.relu_()))
        for level in range(self.levels - 2, self.kept, -1):
            x = torch.cat([skips.pop(), x], dim=1).relu_()  # [1, 2 c, y, x]
            x = _instance_norm(self.net.up[level](x))
        return x

    def _features(self, level: int, a: int, b: int) -> Tensor:
        """Rows a to b of a level's features, normalised, with the leaky ReLU; [1, c, b - a, x]."""
        if level == self.kept:
            return self.kept_features[:, :, a:b]
        return _leaky(self._normalised(self._raw_features(level, a, b), self.norms_down.get(level)))

    def _raw_features(self, level: int, a: int, b: int) -> Tensor:
        """The same as the convolution gives them: row j comes from rows 2 j - 1 to 2 j + 2."""
        first, last = max(0, 2 * a - 2), min(2 * self._rows(level), 2 * b + 2)
        x = self._features(level - 1, first, last) if level else self._pixels(first, last)
        # The rows at a cut, which the convolution took for the picture's border, are dropped.
        return self.net.down[level](x)[:, :, a - first // 2 : b - first // 2]

    def _strokes(self, level: int, a: int, b: int) -> Tensor:
        """Rows a to b of a level's strokes, normalised; [1, c, b - a, x]."""
        if level == self.kept + 1:
            return self.kept_strokes[:, :, a:b]
        return self._normalised(self._raw_strokes(level, a, b), self.norms_up[level])

    def _raw_strokes(self, level: int, a: int, b: int) -> Tensor:
        """The same as the transposed convolution gives them: row j reaches 2 j - 1 to 2 j + 2."""
        first, last = max(0, (a + 1) // 2 - 1), min(self._rows(level), b // 2 + 1)
        # The leaky ReLU of the features changes nothing here: the ReLU comes after it.
        parts = [self._features(level, first, last), self._strokes(level + 1, first, last)]
        x = torch.cat(parts, dim=1).relu_()  # [1, 2 c, y, x]
        del parts
        return self.net.up[level](x)[:, :, a - 2 * first : b - 2 * first]

    def _pixels(self, a: int, b: int) -> Tensor:
        """Rows a to b of the picture in [-1, 1], mirrored beyond its border; [1, 3, b - a, w]."""
        rows = mirrored(torch.arange(a, b), self.picture.shape[0]).to(self.picture.device)
        strip = unit_range(self.picture[rows].to(self.device))  # [y, w, c]
        strip = flatten_onto_white(strip)[:, self.columns.to(self.device)]
        return strip.movedim(-1, 0)[None] * 2 - 1

    def _rows(self, level: int) -> int:
        """Height of a level's features."""
        return self.height >> (level + 1)

    def _strips(self, level: int) -> list[tuple[int, int]]:
        """Cuts a level's features into strips (first row, row after the last)."""
        return _cut(self._rows(level), max(1, _strip_rows(self.width) >> (level + 1)))

    def _drawn_strips(self) -> list[tuple[int, int]]:
        return _cut(self.picture.shape[0], _strip_rows(self.width))

    @staticmethod
    def _normalised(x: Tensor, norm: _Norm | None) -> Tensor:
        return x if norm is None else norm.apply(x)


class _Statistics:
    """Mean and variance of each channel over strips [1, c, y, x].

    Chan et al., "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances" (1979).
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.squares = torch.zeros(())  # summed squares of the distances from the mean

    def add(self, strip: Tensor) -> None:
        """Takes a strip in."""
        count = strip.shape[2] * strip.shape[3]
        variance, mean = torch.var_mean(strip, dim=(2, 3), correction=0)
        variance, mean = variance.cpu().double(), mean.cpu().double()  # not every GPU has doubles
        total, delta = self.count + count, mean - self.mean
        self.squares = self.squares + variance * count + delta**2 * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total

    def norm(self, device: torch.device) -> _Norm:
        """Returns the norm of all that was added."""
        scale = torch.rsqrt(self.squares / self.count + _EPS)
        mean, scale = (x.float().to(device)[..., None, None] for x in (self.mean, scale))
        return _Norm(mean, scale)  # [1, c, 1, 1]


_EPS = 1e-5  # InstanceNorm2d's


def _instance_norm(x: Tensor) -> Tensor:
    """InstanceNorm2d without parameters, in place; [1, c, y, x]."""
    variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
    return x.sub_(mean).mul_(torch.rsqrt(variance + _EPS))


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu_(x, 0.2)


def mirrored(places: Tensor, length: int) -> Tensor:
    """Maps places beyond the border to those that a mirror there shows, as often as it takes."""
    period = max(1, 2 * length - 2)
    places = places % period
    return torch.where(places < length, places, period - places)


def _cut(rows: int, strip: int) -> list[tuple[int, int]]:
    return [(a, min(a + strip, rows)) for a in range(0, rows, strip)]
