"""Stage `frames`: takes each film's settled, sharp frames as pictures.

A film is surveyed once (bars, combing), then read once from its start to its end; when a shot is
over, its chosen frames are made pictures at full size. The ledger has an entry for each shot, with
the place where the next one begins, so that a run that was killed goes on from there, and a shot
whose files were taken away is read again alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from animesketchnet_core.files import StorageError

from .config import FramesSettings
from .film.colour import colours_of, to_picture
from .film.films import MISSING, Film, FilmError, Shown, open_film
from .film.holds import Offer
from .film.interlacing import deinterlaced
from .film.looks import Look, looks
from .film.shots import marked
from .film.splitting import Place, Shot, shots
from .film.survey import Survey, survey
from .ledger import Decision, Outcome, Picture, Source
from .stages import MOST_IN_A_ROW
from .work import Work, digest

STAGE = "frames"


def run(work: Work) -> Counter[str]:
    """Takes frames from all films that have not been dealt with; pictures by verdict.

    Raises:
        StorageError: there is no room to write.
    """
    done = work.ledger.digests(STAGE)
    films = [source for source in work.ledger.sources() if source.kind == "film"]
    wanted = {s.id: digest(work.config.frames, s.details.get("sha256", s.path)) for s in films}
    lost = _lost_shots(work)
    pending = [s for s in films if done.get(s.id) != wanted[s.id] or s.id in lost]
    work.workers.wait()  # nobody writes before all have read what is to be done
    told: Counter[str] = Counter()
    unwritten = 0
    for source in work.workers.share(pending):
        try:
            told += _Run(work, source, wanted[source.id], lost.get(source.id, set())).whole()
            unwritten = 0
        except FilmError as error:
            _tell_failed(work, source, error, told)
        except StorageError as error:
            unwritten += 1
            if unwritten == MOST_IN_A_ROW:
                raise
            _tell_failed(work, source, error, told)
    work.workers.wait()
    return told


def _lost_shots(work: Work) -> dict[str, set[int]]:
    """Finds {film: shots} with pictures whose files were taken away."""
    made = work.ledger.files(STAGE)
    lost: dict[str, set[int]] = {}
    for picture in work.ledger.pictures():
        if picture.id in made and not work.has(made[picture.id]):
            lost.setdefault(picture.source, set()).add(picture.provenance["shot"])
    return lost


def _tell_failed(work: Work, source: Source, error: Exception, told: Counter[str]) -> None:
    tqdm.write(f"{STAGE}: {error}")
    work.ledger.fail(source.id, STAGE, str(error))
    told["failed"] += 1


@dataclass
class _Run:
    """The work on one film.

    Attributes:
        work: the data set.
        source: the film's.
        digest: of the settings and the film.
        lost: shots that an earlier run took and whose files are gone.
    """

    work: Work
    source: Source
    digest: str
    lost: set[int]

    def whole(self) -> Counter[str]:
        """Takes the shots that are not done: as a rule all from where the last run stopped."""
        film = open_film(Path(self.source.path))
        known = survey(film)
        done = self._done()
        told: Counter[str] = Counter()
        number, start = self._next(0, done)
        with self._bar(film) as bar:
            while start is not None:
                for shot in self._shots(film, known, start, bar):
                    told += self._write(film, known, shot, number)
                    number += 1
                    bar.set_postfix(shots=number, pictures=told["keep"])
                    if number in done:
                        number, start = self._next(number, done)
                        break
                else:  # the film is over
                    start = None
        self._finish(film, known, number)
        return told

    @property
    def _settings(self) -> FramesSettings:
        return self.work.config.frames

    def _item(self, number: int) -> str:
        return f"{self.source.id}/shot-{number:05d}"

    def _bar(self, film: Film) -> Any:
        return tqdm(
            desc=f"{STAGE} {film.path.name}",
            total=film.seconds or None,
            unit="s of film",
            disable=not self.work.workers.first,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<"
            "{remaining}, {rate_fmt}{postfix}]" if film.seconds else None,
        )  # fmt: skip

    def _done(self) -> set[int]:
        """The shots that earlier runs took, and whose files are there."""
        shot = f"{self.source.id}/shot-"
        made = {
            int(item.removeprefix(shot))
            for item, made_with in self.work.ledger.digests(STAGE).items()
            if item.startswith(shot) and made_with == self.digest
        }
        return made - self.lost

    def _next(self, number: int, done: set[int]) -> tuple[int, Place | None]:
        """The first shot from `number` on that is not done, and its place; no place after all."""
        while number in done:
            number += 1
        if not number:
            return 0, Place()
        following = self._shot_details(number - 1)["next"]
        return number, Place(**following) if following else None

    def _shot_details(self, number: int) -> Any:
        decisions = self.work.ledger.decisions(self._item(number))
        return next(d.details for _, stage, d in decisions if stage == STAGE)

    def _shots(self, film: Film, known: Survey, start: Place, bar: Any) -> Iterator[Shot]:
        frames = film.frames(start.lead_pts)
        if self._deinterlaces(known):
            frames = deinterlaced(film, frames)
        combs = known.combs and not self._deinterlaces(known)
        small = looks(film, _timed(film, frames, bar), known.crop, combs, start.lead_index)
        found = marked(small, self._settings, float(film.fps))
        return shots(film, found, known.crop, self._settings, start)

    def _deinterlaces(self, known: Survey) -> bool:
        how = self._settings.deinterlace
        return how == "always" or (how == "auto" and known.interlaced)

    def _write(self, film: Film, known: Survey, shot: Shot, number: int) -> Counter[str]:
        """Makes a shot's pictures and writes down what became of it."""
        seconds = shot.seconds(film)
        offers = shot.chooser.chosen()
        if seconds < self._settings.min_shot - 1e-3:
            offers = []
        for offer in offers:
            self._picture(film, known, shot, number, offer)
        details = {
            **shot.counts,
            "pictures": len(offers),
            "first": shot.first,
            "last": shot.last,
            "next": asdict(shot.following) if shot.following else None,
        }
        if shot.following is None:
            details |= {"end": film.seconds_of(shot.end), "trouble": film.trouble}
        reason = self._reason(film, shot, offers)
        decision = Decision("shot", "keep" if offers else "drop", reason, seconds,
                            self._settings.min_shot, details)  # fmt: skip
        self.work.ledger.record(self._item(number), STAGE, self.digest, Outcome([decision]))
        return Counter(keep=len(offers)) if offers else Counter(drop=1)

    def _reason(self, film: Film, shot: Shot, offers: list[Offer]) -> str:
        if offers:
            moving = "" if offers[0].settled else ", the sharpest, as nothing stands still"
            return f"{len(offers)} of {shot.counts['frames']} frames{moving}"
        if shot.first is None:
            return "nothing but fades, single colours or damage"
        if shot.seconds(film) < self._settings.min_shot - 1e-3:
            return "too short"
        if shot.counts["held"] + shot.counts["moving"] == 0:
            return "all frames combed"
        return "never stands still"

    def _picture(self, film: Film, known: Survey, shot: Shot, number: int, offer: Offer) -> None:
        """Writes one frame's file, then its entry."""
        look = offer.look
        colours = colours_of(film, look.frame, self._settings.hdr_peak)
        pixels = to_picture(film, look.frame, colours, known.crop)
        place = look.pts - min(0, film.start)
        picture = Picture(
            id=f"{self.source.id}-{place:010d}",
            source=self.source.id,
            place=place,
            width=pixels.shape[1],
            height=pixels.shape[0],
            provenance={
                **_provenance(film, known, shot, offer),
                "shot": number,
                "primaries": colours.primaries,
                "transfer": colours.transfer,
                "matrix": colours.matrix,
                "range": colours.range,
                "guessed": list(colours.guessed),
                "hdr": colours.hdr,
                "peak": colours.peak,
                "deinterlaced": self._deinterlaces(known),
            },
        )
        form = self.work.write(picture, "colour", pixels)
        self.work.ledger.record(
            picture.id, STAGE, self.digest, Outcome(forms={"colour": form}), [picture]
        )

    def _finish(self, film: Film, known: Survey, count: int) -> None:
        """Writes down the film as a whole, and takes out what other settings had chosen."""
        self._remove_stale()
        every = [self._shot_details(number) for number in range(count)]
        names = ("frames", "held", "moving", "combed", "transition", "flash", "damaged", "lost",
                 "pictures")  # fmt: skip
        sums = {name: sum(shot[name] for shot in every) for name in names}
        details = {**sums, "shots": count, **_film_details(film, known)}
        text = f"{sums['frames']} frames, {count} shots, {sums['pictures']} pictures"
        decisions = [Decision("film", "keep", text, details=details)]
        end, trouble = (every[-1]["end"], every[-1]["trouble"]) if every else (0.0, "")
        end += float(1 / film.fps)
        if trouble or film.seconds - end > MISSING:
            why = trouble or "the file has no more, or no more that can be decoded"
            text = f"{film.path} stopped at {end:.1f} s of {film.seconds:.1f} s: {why}"
            decisions.append(Decision("end", "review", text, end, film.seconds))
        if sums["damaged"] or sums["lost"]:
            text = (
                f"{film.path}: {sums['lost']} packets skipped, {sums['damaged']} frames damaged by "
                "them"
            )
            decisions.append(Decision("damage", "review", text, sums["damaged"]))
        for decision in decisions[1:]:
            tqdm.write(f"{STAGE}: {decision.reason}")
        self.work.ledger.record(self.source.id, STAGE, self.digest, Outcome(decisions))

    def _remove_stale(self) -> None:
        ledger, done = self.work.ledger, self.work.ledger.digests(STAGE)
        for item, made_with in done.items():
            if item.startswith(f"{self.source.id}/shot-") and made_with != self.digest:
                ledger.forget(item, STAGE)
        self.work.remove(
            picture for picture in ledger.pictures()
            if picture.source == self.source.id and done.get(picture.id) != self.digest
        )  # fmt: skip


def _timed(film: Film, frames: Iterator[Shown], bar: Any) -> Iterator[Shown]:
    """Moves the bar on as frames go by."""
    for shown in frames:
        seconds = film.seconds_of(int(shown.frame.pts or 0))
        if film.seconds:
            bar.total = max(bar.total, seconds)  # the header may say too little
        bar.update(max(0.0, seconds - bar.n))
        yield shown


def _provenance(film: Film, known: Survey, shot: Shot, offer: Offer) -> dict[str, Any]:
    look: Look = offer.look
    first, last = shot.first or (0, 0), shot.last or (0, 0)
    return {
        "pts": look.pts,
        "time_base": str(film.time_base),
        "seconds": film.seconds_of(look.pts),
        "frame": look.index,
        "kind": look.kind,
        "shot_first": film.seconds_of(first[1]),
        "shot_last": film.seconds_of(last[1]),
        "held": offer.held,
        "settled": offer.settled,
        "sharpness": round(offer.sharpness, 4),
        **_film_details(film, known),
    }


def _film_details(film: Film, known: Survey) -> dict[str, Any]:
    return {
        "stream": film.stream,
        "codec": film.codec,
        "fps": str(film.fps),
        "aspect": str(film.aspect),
        "crop": list(known.crop),
        "interlaced": known.interlaced,
    }
