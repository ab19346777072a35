"""Looks before a build begins at what it would stumble over hours later."""

from __future__ import annotations

from collections.abc import Iterator

from training.loading import ModelError
from training.networks import check_folder

from .captions.blip2 import SETTING as BLIP2
from .captions.blip2 import SOURCE as BLIP2_SOURCE
from .captions.itm import SETTING as ITM
from .captions.itm import SOURCE as ITM_SOURCE
from .captions.template import Template
from .export import check_rights
from .sketching.sketchers import check_weights
from .work import Work


def check(work: Work) -> None:
    """Refuses settings that a later stage cannot work with, and tells of models that are missing.

    The stages before a missing model can do their part, so that is printed and not raised.

    Raises:
        ConfigError: the rights are not told, or a caption is for a source that does not exist.
    """
    check_rights(work.config.rights)
    Template(work.config.caption, work.ledger.sources())
    for error in _missing(work):
        work.workers.print(f"warning: {error}")


def _missing(work: Work) -> Iterator[ModelError]:
    caption = work.config.caption
    try:
        check_weights(work.config.sketch)
    except ModelError as error:
        yield error
    wanted = [(caption.itm, ITM, ITM_SOURCE)] if caption.itm else []
    if caption.writer == "blip2":
        wanted.append((caption.blip2, BLIP2, BLIP2_SOURCE))
    for folder, setting, source in wanted:
        try:
            check_folder(folder, setting, source)
        except ModelError as error:
            yield error
