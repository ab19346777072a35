"""Writes captions without any network, from nothing but what is known to be true.

Such captions are thin. Known are the picture's format, whether it came from a film, what the
settings say of its source (caption.texts), and, if wanted, the words of its file's name
(caption.from_names), which whoever named the file may have meant otherwise. Without the last two
all pictures of a format have one caption, which teaches a model nothing of their content. That is
why they are marked for review (caption.review_templates). How dark a picture is would be a fact,
too, but one that no drawing of its lines shows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from training.settings import ConfigError

from ..config import CaptionSettings
from ..ledger import Picture, Source
from .cleanup import clean_caption
from .colour_words import word_set

# Names that cameras, programs and people give without saying what is to be seen.
_EMPTY_WORDS = word_set(
    "img image dsc dscf dscn pxl vid picture pic photo frame frames screenshot screencap screen "
    "shot scan untitled unnamed copy final new old edit edited output export render tmp temp test "
    "version ver rev resized small large big hd fhd uhd px png jpg jpeg webp bmp tif tiff avif "
    "color colour colored coloured color sketch page pages vol cut scene file data input"
)
_SQUARE = 1.2  # longer side / shorter side up to which a picture counts as square


class Template:
    """The facts that captions are made of."""

    def __init__(self, settings: CaptionSettings, sources: Sequence[Source]) -> None:
        """Reads the settings' texts.

        Raises:
            ConfigError: one is for a source that does not exist.
        """
        self._settings = settings
        self._sources = {source.id: source for source in sources}
        self._texts = dict(_entry(text) for text in settings.texts)
        names = {name for source in sources for name in _names(source)}
        for name in self._texts:
            if name not in names:
                raise ConfigError(
                    f"caption.texts has a text for {name!r}, which is no source. Sources are: "
                    f"{', '.join(sorted(names)) or 'none'}."
                )

    def write(self, picture: Picture) -> str:
        """Writes a picture's caption; never empty."""
        source = self._sources.get(picture.source)
        pieces = [self._subject(source), *self._named(picture, source), _format(picture, source)]
        return ", ".join(dict.fromkeys(piece for piece in pieces if piece))

    def _subject(self, source: Source | None) -> str:
        if source is None:
            return ""
        found = (self._texts[name] for name in _names(source) if name in self._texts)
        return next(found, "")

    def _named(self, picture: Picture, source: Source | None) -> list[str]:
        """What the names of a file and its folders say, of pictures from folders."""
        if not self._settings.from_names or source is None or source.kind != "folder":
            return []
        path = PurePosixPath(str(picture.provenance.get("file", "")))
        return [words_of_name(part) for part in (path.stem, *path.parent.parts)]


def words_of_name(name: str) -> str:
    """Lists the words of a file's name: "SylvieSmile_02" is "sylvie smile".

    Returns:
        Nothing for numbers, hashes and names such as "IMG_1234" or "Screenshot".
    """
    if re.fullmatch(r"(?=.*\d)[0-9a-f-]{8,}", name, re.IGNORECASE):
        return ""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    found = re.findall(r"[^\W\d_]{2,}", apart)
    return clean_caption(" ".join(w.lower() for w in found if w.lower() not in _EMPTY_WORDS))


def _format(picture: Picture, source: Source | None) -> str:
    tall = picture.height / picture.width
    shape = "tall" if tall > _SQUARE else "wide" if 1 / tall > _SQUARE else "square"
    of_film = source is not None and source.kind == "film"
    return f"a {shape} {'frame of a film' if of_film else 'picture'}"


def _entry(text: str) -> tuple[str, str]:
    name, colon, caption = text.partition(":")
    caption = clean_caption(caption)
    if not colon or not name.strip() or not caption:
        raise ConfigError(
            f"caption.texts has {text!r}; expected is the name of a film or folder, a colon, and "
            'what it shows, such as "episode-1: a girl in a classroom".'
        )
    return name.strip(), caption


def _names(source: Source) -> tuple[str, ...]:
    """How a source may be called in caption.texts."""
    file = PurePosixPath(str(source.details.get("file") or PurePosixPath(source.path).name))
    return tuple(dict.fromkeys((file.name, file.stem, source.id)))
