"""The first stage: which films and pictures there are.

A film becomes a source of its own, named by its content. The pictures of a folder, and below it,
are one source; each is put upright, on white, into the data set's folder at once. A caption beside
a picture, NAME.txt or NAME.caption, comes along. What the settings no longer lead to leaves the
data set; what is named but cannot be found just now keeps what was made of it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from animesketchnet_core.files import StorageError
from training.files import sha256_of
from training.settings import ConfigError
from training.sources import CAPTION_SUFFIXES

from .images import SUFFIXES, PictureError, read_pixels
from .ledger import Outcome, Picture, Source
from .work import Work, digest

NAME = "ingest"
DEMO = "demo"  # stands for the test film
FILM_SUFFIXES = (
    ".mkv", ".mp4", ".m4v", ".mov", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".vob",
    ".wmv", ".flv", ".ogv",
)  # fmt: skip


@dataclass(frozen=True)
class Folder:
    """Pictures that were found together.

    Attributes:
        source: as the ledger has it.
        path: of the folder.
        files: the pictures, in order.
    """

    source: Source
    path: Path
    files: list[Path]


@dataclass
class Listing:
    """What lies where the settings point."""

    films: list[Path] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)
    missing: list[Path] = field(default_factory=list)


def run(work: Work) -> Counter[str]:
    """Brings the ledger's sources up to date, and takes in the pictures of folders.

    Raises:
        ConfigError: none of the sources is there.
    """
    if work.workers.first and DEMO in work.config.ingest.sources:
        from .demo import build_demo  # needs PyAV

        build_demo(work.folder / DEMO)
    work.workers.wait()
    listing = list_sources(work)
    if work.workers.first:
        _remove_unlisted(work, listing)
        for folder in listing.folders:
            work.ledger.add_source(folder.source)
    work.workers.wait()
    told: Counter[str] = Counter(missing=len(listing.missing))
    films = {film.as_posix(): film for film in listing.films}
    _take_all(work, films, "film", lambda item: _take_film(work, films[item]), told)
    for folder in listing.folders:
        _take_folder(work, folder, told)
    work.workers.wait()
    return +told


def list_sources(work: Work) -> Listing:
    """Finds films and pictures under the entries of ingest.sources.

    Raises:
        ConfigError: there are none.
    """
    listing = Listing()
    for entry in work.config.ingest.sources:
        path = work.folder / DEMO if entry == DEMO else Path(entry)
        files = sorted(_files(path))
        films = [file for file in files if file.suffix.lower() in FILM_SUFFIXES]
        pictures = [file for file in files if file.suffix.lower() in SUFFIXES]
        listing.films += [film for film in films if film not in listing.films]
        if pictures:
            folder = path if path.is_dir() else path.parent
            # From the entry as it stands in the settings: the same on every machine with them.
            name = hashlib.sha256(f"folder {Path(entry).as_posix()}".encode()).hexdigest()[:8]
            source = Source(name, path.as_posix(), "folder", {"file": path.name})
            listing.folders.append(Folder(source, folder, pictures))
        if not films and not pictures:
            listing.missing.append(path)
            work.workers.print(f"{NAME}: {path} has no film and no picture; what came of it stays.")
    if not listing.films and not listing.folders:
        raise ConfigError(
            "ingest.sources names no film and no picture that is there: "
            f"{', '.join(work.config.ingest.sources) or 'it is empty'}. Name films "
            f"({', '.join(FILM_SUFFIXES[:3])}, ...), pictures ({', '.join(SUFFIXES[:3])}, ...), "
            f'folders of them, or "{DEMO}" for the test film.'
        )
    return listing


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for file in path.rglob("*"):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if file.is_file() and not hidden:
            yield file


def _remove_unlisted(work: Work, listing: Listing) -> None:
    """Takes the sources that the settings no longer lead to out of the ledger."""
    here = {film.as_posix() for film in listing.films}
    here |= {folder.source.path for folder in listing.folders}
    for source in work.ledger.sources():
        path = Path(source.path)
        absent = any(path == lost or lost in path.parents for lost in listing.missing)
        if source.path not in here and not absent:
            work.remove(p for p in work.ledger.pictures() if p.source == source.id)
            work.ledger.remove_source(source.id)


def _take_all(
    work: Work,
    items: Sequence[str] | dict[str, Path],
    unit: str,
    take: Callable[[str], object],
    told: Counter[str],
) -> None:
    """Takes this process's share in; what cannot be read is told, and the rest goes on."""
    mine = work.workers.share(list(items))
    with tqdm(mine, desc=NAME, unit=unit, disable=not (work.workers.first and mine)) as bar:
        for item in bar:
            try:
                take(item)
                told["keep"] += 1
            except StorageError:  # the next one would fail as well
                raise
            except (PictureError, OSError) as error:
                bar.write(f"{NAME}: {error}")
                work.ledger.fail(item, NAME, str(error))
                told["failed"] += 1


def _take_film(work: Work, film: Path) -> None:
    """Makes a film a source; it is hashed again only when its size or time has changed."""
    path, stamp = film.as_posix(), _stamp(film)
    known = {source.path: source for source in work.ledger.sources()}
    if path in known and known[path].details.get("stamp") == stamp:
        return
    sha256 = sha256_of(film)
    details = {"file": film.name, "sha256": sha256, "stamp": stamp}
    source = Source(sha256[:8], path, "film", details)
    twin = next((s for s in known.values() if s.id == source.id and s.path != path), None)
    if twin is not None:
        raise PictureError(f"{path} is the same film as {twin.path} and is left out.")
    if path in known and known[path].id != source.id:
        work.remove(p for p in work.ledger.pictures() if p.source == known[path].id)
        work.ledger.remove_source(known[path].id)
    work.ledger.add_source(source)
    work.ledger.forget(path, NAME)  # an earlier failure


def _take_folder(work: Work, folder: Folder, told: Counter[str]) -> None:
    """Takes a folder's pictures in, drops those that are gone, and puts them in order."""
    source = folder.source.id
    files = {file.relative_to(folder.path).as_posix(): file for file in folder.files}
    done = work.ledger.digests(NAME)
    known = {p.provenance["file"]: p for p in work.ledger.pictures() if p.source == source}
    made = work.ledger.files(NAME)
    items = {f"{source}/{name}": file for name, file in files.items()}

    def take(item: str) -> None:
        caption, name = _caption(items[item]), item.removeprefix(f"{source}/")
        before = known.get(name)
        wanted = digest(work.config.ingest, _stamp(items[item]), caption)
        lost = before is not None and not work.has(made.get(before.id, ()))
        if done.get(item) != wanted or lost:
            _take_picture(work, folder, name, caption, before)
            work.ledger.record(item, NAME, wanted)

    work.workers.wait()  # nobody writes before all have read what is known
    _take_all(work, items, "picture", take, told)
    work.workers.wait()
    if work.workers.first:
        here = {p.provenance["file"]: p for p in work.ledger.pictures() if p.source == source}
        gone = [name for name in here if name not in files]
        work.remove(here.pop(name) for name in gone)
        for name in gone:
            work.ledger.forget(f"{source}/{name}", NAME)
        work.ledger.place_pictures(
            {here[name].id: place for place, name in enumerate(files) if name in here}
        )


def _take_picture(
    work: Work, folder: Folder, name: str, caption: str | None, before: Picture | None
) -> None:
    file = folder.path / name
    sha256 = sha256_of(file)
    pixels = read_pixels(file, work.config.ingest.max_megapixels)
    height, width = pixels.shape[:2]
    provenance = {"file": name, "sha256": sha256} | ({"caption": caption} if caption else {})
    # The name is part of it, so that the same picture twice is two pictures, one to be dropped.
    identity = hashlib.sha256(f"{sha256} {name}".encode()).hexdigest()[:16]
    picture = Picture(identity, folder.source.id, 0, width, height, provenance)
    if before is not None and before.id != identity:
        work.remove([before])
    colour = work.write(picture, "colour", pixels)
    outcome = Outcome(forms={"colour": colour})
    work.ledger.record(identity, NAME, sha256, outcome, [picture])


def _caption(file: Path) -> str | None:
    """The caption beside a picture, its lines joined; None if there is none."""
    for suffix in CAPTION_SUFFIXES:
        beside = file.with_suffix(suffix)
        if beside.is_file():
            try:
                return " ".join(beside.read_text(encoding="utf-8-sig").split()) or None
            except UnicodeDecodeError as error:
                raise PictureError(
                    f"{beside} is not UTF-8 text ({error}). Save it as UTF-8."
                ) from error
    return None


def _stamp(file: Path) -> str:
    """Size, times and place of a file: while they stay the same, so does its content.

    A file's own time alone does not tell: programs set it, and clocks go back.
    """
    status = file.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
