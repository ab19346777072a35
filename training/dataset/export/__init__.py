"""The stage `export`: writes the data set in the layouts that trainers read.

    exports/trainer/train/metadata.jsonl, ...
    exports/LAYOUT/README.md              the card
    exports/LAYOUT/provenance.jsonl       where each picture comes from, and how it was made
    exports/LAYOUT/checksums.sha256       of every file

Each layout is one file of this package; `manifest` is the three files above and nothing else, for
films whose frames may not be passed on. An export is replaced as a whole, and only if something has
changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from training.settings import ConfigError

from .. import stages
from ..config import DatasetConfig, RightsSettings
from ..work import Work, digest
from .card import write_card
from .folder import is_whole, recover, write_export
from .image_lists import CONTROLNET, IMAGEFOLDER, TRAINER
from .kohya import KOHYA
from .lllyasviel import LLLYASVIEL
from .plan import Layout, Plan, Row, json_lines, plan_digest
from .prepare import NAME, Prepare
from .provenance import provenance
from .rows import gather
from .webdataset import WEBDATASET

EXPORTS = "exports"
PROVENANCE = "provenance.jsonl"


def _nothing(rows: Sequence[Row], config: DatasetConfig, place: Path) -> Plan:
    return {}


LAYOUTS = {
    "trainer": TRAINER,
    "imagefolder": IMAGEFOLDER,
    "controlnet": CONTROLNET,
    "lllyasviel": LLLYASVIEL,
    "kohya": KOHYA,
    "webdataset": WEBDATASET,
    "manifest": Layout(
        _nothing, f"No pictures: `{PROVENANCE}` says how each is made again from the films.",
    ),
}  # fmt: skip


def run(work: Work) -> Counter[str]:
    """Exports in all layouts of the settings; shared among the processes.

    Raises:
        ConfigError: it is not said whose the pictures are.
        StorageError: there is no room; the exports that were there are unchanged.
        PictureError: a picture was taken away or exchanged behind the ledger's back.
    """
    check_rights(work.config.rights)
    told = stages.run(Prepare(), work)
    rows = gather(work)
    origins = provenance(work, rows)
    for name in work.workers.share(list(dict.fromkeys(work.config.export.layouts))):
        place = place_of(work, name)
        plan = plan_of(work, name, rows, origins)
        wanted = wanted_digest(work, plan)
        recover(place)
        if not is_current(work, name, wanted):
            link = work.config.export.files == "link"
            write_export(place, plan, work.folder, link, work.workers.first)
            work.ledger.record(f"{EXPORTS}/{name}", NAME, wanted)
    work.workers.wait()
    told["keep"] = len(rows) if work.workers.first else 0
    return +told


def check_rights(rights: RightsSettings) -> None:
    """Refuses to export pictures of which nobody has said whose they are.

    Raises:
        ConfigError: it names the settings that are empty, and what belongs into each.
    """
    hints = {
        "licence": 'such as "CC BY 4.0", or "none"',
        "holder": "who holds the rights, such as the film's studio",
        "note": "what allows this use, in a sentence",
    }
    missing = [name for name in hints if not getattr(rights, name).strip()]
    if missing:
        raise ConfigError(
            f"Nothing is exported while {', '.join(f'rights.{name}' for name in missing)} "
            f"{'is' if len(missing) == 1 else 'are'} empty. Set "
            + "; ".join(f"rights.{name}: {hint}" for name, hint in hints.items())
            + "."
        )


def place_of(work: Work, layout: str) -> Path:
    """The folder of an export."""
    return work.folder.absolute() / EXPORTS / layout


def plan_of(work: Work, name: str, rows: Sequence[Row], origins: Sequence[dict]) -> Plan:
    """Plans an export with its card and its provenance."""
    layout = LAYOUTS[name]
    lines = json_lines(origins)
    return {
        **layout.plan(rows, work.config, place_of(work, name)),
        PROVENANCE: lines,
        "README.md": write_card(work, name, layout, rows, lines),
    }


def wanted_digest(work: Work, plan: Plan) -> str:
    """What an export that is up to date has in the ledger."""
    return digest(work.config.rights, work.config.export.files, plan_digest(plan))


def is_current(work: Work, layout: str, wanted: str) -> bool:
    """Whether an export is there and what it should be; its files' content is not read."""
    known = work.ledger.digests(NAME).get(f"{EXPORTS}/{layout}")
    return known == wanted and is_whole(place_of(work, layout))
