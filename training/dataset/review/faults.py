"""What is wrong with a caption, told while it is typed, by the rules of captions/check.py."""

from __future__ import annotations

from functools import lru_cache

from ..captions.check import caption_faults
from ..captions.clip_tokens import token_counter
from ..config import CaptionSettings

REMEMBERED = 1 << 18  # captions: the page asks for all of them each time that it is loaded


class CaptionRules:
    """The rules of one data set."""

    def __init__(self, settings: CaptionSettings) -> None:
        self._settings = settings
        self._count, _ = token_counter()
        self._found = lru_cache(REMEMBERED)(self._look)

    def faults(self, name: str, text: str) -> list[str]:
        """Lists what is wrong with a caption.

        Args:
            name: "caption_sketch", which must pass captions/check.py, or "caption_color", which
                must say something.
            text: the caption.
        """
        return list(self._found(name, text))

    def _look(self, name: str, text: str) -> tuple[str, ...]:
        if name == "caption_sketch":
            return tuple(caption_faults(text, self._settings, self._count))
        return () if text.strip() else ("it has no caption",)
