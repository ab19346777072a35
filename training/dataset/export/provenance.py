"""Says of each picture where it comes from, as far as others may know it.

What lies on this machine's disk, and where, is nobody's business: of its paths only the last part
is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from ..ledger import Form, Picture, Source, Text
from ..work import Work

if TYPE_CHECKING:  # the package `export` needs this file
    from .plan import Row


def provenance(work: Work, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Says of each row where it comes from: enough to make it again from the films."""
    ledger = work.ledger
    pictures = {picture.id: picture for picture in ledger.pictures()}
    sources = {source.id: source_entry(source) for source in ledger.sources()}
    return [
        _entry(row, pictures[row.id], sources.get(row.source, {"id": row.source}),
               ledger.forms_of(row.id), ledger.texts_of(row.id))
        for row in rows
    ]  # fmt: skip


def source_entry(source: Source) -> dict[str, Any]:
    """What may be told of a source: id, kind, the file's name and hash."""
    details = {key: source.details[key] for key in ("sha256", "licence") if key in source.details}
    return {"id": source.id, "kind": source.kind, "file": PurePath(source.path).name, **details}


def _entry(
    row: Row,
    picture: Picture,
    source: Mapping[str, Any],
    forms: Mapping[str, Form],
    texts: Mapping[str, Text],
) -> dict[str, Any]:
    made = {
        name: {"sha256": form.sha256, "details": without_paths(form.details)}
        for name, form in sorted(forms.items())
    }
    return {
        "id": row.id,
        "split": row.split,
        "group": row.group,
        "source": dict(source),
        "place": picture.place,
        "width": picture.width,
        "height": picture.height,
        "provenance": without_paths(picture.provenance),
        "forms": made,
        "caption": row.caption,
        "other_caption": row.other_caption,
        "captions": {
            name: without_paths(text.details) for name, text in sorted(texts.items())
        },
    }  # fmt: skip


def without_paths(value: Any) -> Any:
    """Cuts paths that lead into this machine's disk to their last part, in nested values."""
    if isinstance(value, Mapping):
        return {str(key): without_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(item) for item in value]
    if isinstance(value, str) and len(value) > 1:
        if value[0] in "/~" or value.startswith(".."):
            return PurePosixPath(value).name
        if PureWindowsPath(value).is_absolute():
            return PureWindowsPath(value).name
    return value
