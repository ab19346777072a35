"""What an export consists of, before a byte of it is written.

A layout turns rows into a plan: {path in the export: content}. The plan's digest says whether an
export is up to date; writing it is the matter of folder.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import DatasetConfig
from ..ledger import Form


@dataclass(frozen=True)
class Archive:
    """An uncompressed .tar file.

    Attributes:
        members: {name: content}, in their order.
    """

    members: Mapping[str, str | Form]


Content = str | Form | Archive
"""A text file, a copy of a file of the data set, or an archive."""

Plan = Mapping[str, Content]


@dataclass(frozen=True)
class Row:
    """One pair of pictures as the layouts see it.

    Attributes:
        id: the picture's; letters, digits and "-" only.
        split: "train", "validation" or "test".
        group: of its shot and whatever is like it; pictures of one group show one scene.
        source: the source's id.
        width: in pixels, as exported.
        height: in pixels, as exported.
        target: the picture that is learnt to be drawn.
        conditioning: the picture that goes along.
        caption: of the target; one line.
        other_caption: of the conditioning picture; one line, may be empty.
        other: what the conditioning picture is: "colour" or "sketch".
    """

    id: str
    split: str
    group: str
    source: str
    width: int
    height: int
    target: Form
    conditioning: Form
    caption: str
    other_caption: str
    other: str


@dataclass(frozen=True)
class Layout:
    """A way to lay a data set out.

    Attributes:
        plan: makes {path: content} of the rows, the settings and the folder it will lie in.
        use: how it is read, for the card; Markdown.
        data_files: the pattern of a split's files for Hugging Face's loaders, such as "{split}/**";
            empty if they cannot read it.
    """

    plan: Callable[[Sequence[Row], DatasetConfig, Path], Plan]
    use: str
    data_files: str = ""


def by_split(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Divides rows, in order, into the splits that have any."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.split, []).append(row)
    return found


def json_lines(entries: Iterable[Mapping[str, Any]]) -> str:
    """Writes one JSON object a line."""
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


def plan_digest(plan: Plan) -> str:
    """Hashes all that a plan says, without reading pictures."""
    text = json.dumps({name: _identity(content) for name, content in plan.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _identity(content: Content) -> Any:
    if isinstance(content, str):
        return hashlib.sha256(content.encode()).hexdigest()
    if isinstance(content, Form):
        return content.sha256
    return [[name, _identity(member)] for name, member in content.members.items()]
