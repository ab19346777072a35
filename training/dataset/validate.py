"""The stage `validate`: whether the data set and its exports are what they should be.

Each picture's files, hashes, sizes, polarity, alignment and caption; whether any picture is there
twice, any group or near pair in two splits, any split empty; the exports, file by file. Faults are
printed, and stay in the ledger under this stage's name, so that `explain` and the report tell of
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from tqdm import tqdm

from training.files import sha256_of
from training.settings import ConfigError

from . import export
from .captions.check import check_captions
from .duplicates.clusters import clusters_of
from .duplicates.near import near_pairs
from .export.folder import files_of, read_checksums
from .export.provenance import provenance
from .final_texts import all_final_texts
from .fingerprint import summaries
from .ledger import Decision, Outcome, Picture
from .split import groups_of, shares, splits_of
from .stages import before
from .validation.pair_check import Fault, pair_faults
from .work import Work

NAME = "validate"
SET = "data set"  # what faults are noted under that concern no single picture
PRINTED = 50  # faults; the rest is in the ledger
_SPLIT = "Run split, then export."
_EXPORT = "Run export."


def run(work: Work) -> Counter[str]:
    """Looks for faults; the pictures and the exports are shared among the processes.

    Returns:
        How many pictures are as they should be ("keep"), and how many faults there are ("fault").
    """
    kept = work.ledger.kept(before(export.NAME))
    if work.workers.first:
        for item in {item for item, stage, _ in work.ledger.decisions() if stage == NAME}:
            work.ledger.forget(item, NAME)
    work.workers.wait()
    mine = work.workers.share(kept)
    with tqdm(mine, desc=NAME, unit="picture", disable=not work.workers.first) as bar:
        for picture in bar:
            _note(work, pair_faults(work, picture))
    for layout in work.workers.share(list(dict.fromkeys(work.config.export.layouts))):
        _note(work, export_faults(work, layout))
    work.workers.wait()
    if work.workers.first:
        for look in (_rights, _failures, _captions, _twice, _splits, _stale):
            _note(work, look(work, kept))
    work.workers.wait()
    return _tell(work, kept) if work.workers.first else Counter()


def _note(work: Work, faults: Iterable[Fault]) -> None:
    """Adds faults to the ledger."""
    by_item: dict[str, list[Fault]] = {}
    for fault in faults:
        by_item.setdefault(fault.item, []).append(fault)
    for item, found in by_item.items():
        known = [d for _, stage, d in work.ledger.decisions(item) if stage == NAME]
        new = [
            Decision(f"{fault.check} {number}", "failed", str(fault))
            for number, fault in enumerate(found, len(known) + 1)
        ]  # numbered, since a picture may have several of one kind
        work.ledger.record(item, NAME, "", Outcome([*known, *new]))


def _tell(work: Work, kept: Sequence[Picture]) -> Counter[str]:
    found = [(item, d.reason) for item, stage, d in work.ledger.decisions() if stage == NAME]
    for _, reason in found[:PRINTED]:
        work.workers.print(f"{NAME}: {reason}")
    if len(found) > PRINTED:
        work.workers.print(f"{NAME}: and {len(found) - PRINTED} more; see the report, or explain.")
    faulty = {item for item, _ in found}
    return +Counter(keep=sum(p.id not in faulty for p in kept), fault=len(found))


def _rights(work: Work, kept: Sequence[Picture]) -> Iterator[Fault]:
    try:
        export.check_rights(work.config.rights)
    except ConfigError as error:
        yield Fault(SET, "rights", "whose the pictures are", "nothing", str(error))


def _failures(work: Work, kept: Sequence[Picture]) -> Iterator[Fault]:
    """Pictures that the export had to leave out."""
    for item, stage, decision in work.ledger.decisions():
        if stage == export.NAME and decision.verdict == "failed":
            yield Fault(item, "export", "a picture that can be exported", decision.reason, _EXPORT)


def _captions(work: Work, kept: Sequence[Picture]) -> Iterator[Fault]:
    texts = all_final_texts(work.ledger, "caption_sketch")
    captions = {item: text.text for item, text in texts.items()}
    ids = [picture.id for picture in kept]
    for line in check_captions(ids, captions, work.config.caption):
        item, _, found = line.partition(": ")
        yield Fault(item, "caption", "each keyword once, at its place, and no colours", found,
                    "Edit it in the review, or run caption.")  # fmt: skip


def _twice(work: Work, kept: Sequence[Picture]) -> Iterator[Fault]:
    """Pictures of the same pixels."""
    prints, forms = summaries(work.ledger), work.ledger.forms("colour")
    first: dict[object, str] = {}
    for picture in kept:
        if picture.id in prints:
            content: object = prints[picture.id].pixels
        elif picture.id in forms:
            content = forms[picture.id].sha256
        else:
            continue  # its missing file has been told
        other = first.setdefault(content, picture.id)
        if other != picture.id:
            fix = 'Run dedup with dedup.exact = "drop", or reject it in the review.'
            yield Fault(picture.id, "twice", "each picture once", f"the pixels of {other}", fix)


def _splits(work: Work, kept: Sequence[Picture]) -> Iterator[Fault]:
    settings = work.config.split
    splits = splits_of(work.ledger)
    ids = [picture.id for picture in kept]
    for item in ids:
        if item not in splits:
            yield Fault(item, "split", "a split", "none", _SPLIT)
    wanted = shares(settings)
    sizes = Counter(splits[item][0] for item in ids if item in splits)
    for name in wanted.keys() - sizes.keys():
        yield Fault(SET, "split", f"pictures in {name} (split.{name} = {getattr(settings, name)})",
                    "none", f"Add films, or set split.{name} = 0.")  # fmt: skip
    for name in sizes.keys() - wanted.keys():
        yield Fault(SET, "split", f"no pictures in {name}", str(sizes[name]), _SPLIT)
    yield from _leaks(work, ids, {item: split for item, (split, _) in splits.items()})


def _leaks(work: Work, ids: Sequence[str], splits: dict[str, str]) -> Iterator[Fault]:
    """Groups and near pairs that were torn apart."""
    settings = work.config.split
    groups = groups_of(work.ledger.pictures(), clusters_of(work.ledger), settings.by)
    parts: dict[str, dict[str, str]] = {}  # {group: {split: its first picture}}
    for item in ids:
        if item in splits:
            parts.setdefault(groups[item], {}).setdefault(splits[item], item)
    for group, found in parts.items():
        if len(found) > 1:
            told = ", ".join(f"{item} in {split}" for split, item in found.items())
            yield Fault(SET, "leak", f"the group {group} in one split", told, _SPLIT)
    placed = [item for item in ids if item in splits]
    for one, other in near_pairs(work.ledger, placed, settings.near):
        if splits[one] != splits[other]:
            expected = f"pictures that differ in {settings.near} bits or fewer in one split"
            told = f"{other} in {splits[other]}, this one in {splits[one]}"
            yield Fault(one, "leak", expected, told, _SPLIT)


def _stale(work: Work, kept: Sequence[Picture]) -> Iterator[Fault]:
    """Exports that nothing brings up to date any more."""
    folder = work.folder / export.EXPORTS
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name in export.LAYOUTS and path.name not in work.config.export.layouts:
            item, fix = f"{export.EXPORTS}/{path.name}", "Delete it, or add it to export.layouts."
            yield Fault(item, "layout", "only those of export.layouts", "an earlier export", fix)


def export_faults(work: Work, layout: str) -> Iterator[Fault]:
    """Compares an export with the ledger and with its own checksums."""
    item, place = f"{export.EXPORTS}/{layout}", export.place_of(work, layout)
    sums, files = read_checksums(place), files_of(place)
    if not sums:
        yield Fault(item, "files", "an export", "none", _EXPORT)
        return
    for name in sorted(sums.keys() - files):
        yield Fault(item, "files", f"a file {name}", "none", _EXPORT)
    for name in sorted(files - sums.keys()):
        yield Fault(item, "files", "only what checksums.sha256 lists", name,
                    "Keep it elsewhere and run export, which writes the folder anew.")  # fmt: skip
    for name in tqdm(sorted(sums.keys() & files), desc=item, unit="file",
                     disable=not work.workers.first):  # fmt: skip
        if (found := sha256_of(place / name)) != sums[name]:
            yield Fault(item, "hash", f"{name} with SHA-256 {sums[name]}", found,
                        f"Delete {name} and run export.")  # fmt: skip
    rows = export.gather(work)
    plan = export.plan_of(work, layout, rows, provenance(work, rows))
    if work.ledger.digests(export.NAME).get(item) != export.wanted_digest(work, plan):
        yield Fault(item, "age", "what the ledger has now", "an earlier state", _EXPORT)
