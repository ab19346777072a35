"""A grid of pictures with a title above each column and a line of text above each group of rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Group = tuple[str, Tensor]
"""(line of text, pictures [rows, columns, h, w, 3] float in [0, 1]); no text, no line."""


def contact_sheet(titles: Sequence[str], groups: Sequence[Group]) -> Image.Image:
    """Lays pictures out.

    Args:
        titles: one for each column.
        groups: rows of pictures; all pictures are of one size.

    Raises:
        ValueError: a group has another number of columns than there are titles.
    """
    sizes = {tuple(pictures.shape[1:]) for _, pictures in groups}
    if len(sizes) != 1 or (columns := sizes.copy().pop()[0]) != len(titles):
        raise ValueError(f"Pictures {sorted(sizes)} do not fit under {len(titles)} titles.")
    _, height, width, _ = sizes.pop()
    label = label_height(height)
    heights = [label * bool(text) + height * len(pictures) for text, pictures in groups]
    sheet = Image.new("RGB", (columns * width, label + sum(heights)), "white")
    for column, title in enumerate(titles):
        write(sheet, title, (column * width, 0), width, label)
    top = label
    for (text, pictures), group_height in zip(groups, heights, strict=True):
        write(sheet, text, (0, top), sheet.width, label)
        first = top + group_height - height * len(pictures)
        for place in np.ndindex(len(pictures), columns):
            sheet.paste(to_image(pictures[place]), (place[1] * width, first + place[0] * height))
        top += group_height
    return sheet


def label_height(picture_height: int) -> int:
    """Height in pixels of a line of text that can be read beside pictures of this height."""
    return max(14, picture_height // 16)


def write(sheet: Image.Image, text: str, place: tuple[int, int], width: int, height: int) -> None:
    """Writes a line of text, cut with an ellipsis where it does not fit.

    Args:
        sheet: where to.
        text: characters that the built-in font lacks become "?".
        place: (left, top) of the line, in pixels.
        width: of the line, in pixels.
        height: of the line, in pixels.
    """
    font = ImageFont.load_default(height * 0.72)
    text = text.encode("latin-1", "replace").decode("latin-1")
    space = width - height // 2
    if font.getlength(text) > space:
        while text and font.getlength(text + "...") > space:
            text = text[:-1]
        text += "..."
    left, top = place
    ImageDraw.Draw(sheet).text((left + height // 4, top), text, fill="black", font=font)


def to_image(picture: Tensor) -> Image.Image:
    """Turns a picture [h, w, 3] in [0, 1] into Pillow's."""
    pixels = (picture.float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(pixels))


def to_tensor(image: Image.Image) -> Tensor:
    """Turns Pillow's picture into [h, w, 3], float in [0, 1]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).float() / 255
