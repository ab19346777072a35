"""Measures the stages `fingerprint` and `dedup`: which kinds are found, and how long much takes.

    export PYTHONPATH=.:tests
    python tests/benchmarks/dataset_dedup.py kinds                   # the confusion matrix
    python tests/benchmarks/dataset_dedup.py many --pictures 1000 100000  # minutes and memory

`many` makes thumbnails from windows of the demo film's art: shots of a few pictures each, in which
the camera pans, a part is drawn anew, or nothing happens; openings that each film repeats; and
black frames. Their hashes are taken from them, so they lie as near to each other as
real ones, or nearer: all come from six paintings. The bound is looking at each pair of hashes once
(the exclusive or of 64 bits and its count, by NumPy).
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import findings
import machine
import numpy as np
from dataset_likeness import ART, Shown, both_films, truth, verdicts, work_with
from numpy.typing import NDArray
from PIL import Image

from training.dataset import dedup, fingerprint
from training.dataset.config import DatasetConfig
from training.dataset.duplicates.comparer import Comparer
from training.dataset.duplicates.rank import ranked
from training.dataset.fingerprint import summaries, summary, thumbnail
from training.dataset.ledger import Ledger, Outcome, Picture
from training.dataset.work import Work
from training.workers import Workers

PER_SHOT, PER_FILM = 3, 330  # pictures of a shot, shots of a film
OPENING = 20  # shots that all films begin with
WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def main(argv: Sequence[str] | None = None) -> None:
    parser = findings.parser(__doc__)
    parser.add_argument("what", choices=("kinds", "many"))
    parser.add_argument("--pictures", type=int, nargs="+", default=[100_000])
    options = parser.parse_args(argv)
    if options.what == "many":
        return report(options, [measured_apart(count) for count in options.pictures])
    with tempfile.TemporaryDirectory() as folder:
        kinds(Path(folder))


def kinds(folder: Path) -> None:
    """Prints what was found of what was planted."""
    shown = {one.id: one for one in both_films(folder)}
    work = work_with(list(shown.values()), folder)
    fingerprint.run(work)
    dedup.run(work)
    pictures, prints = work.ledger.pictures(), summaries(work.ledger)
    comparer = Comparer(work, prints, pictures)
    names = sorted(shown)
    pairs = [(a, b) for number, a in enumerate(names) for b in names[number + 1 :]]
    edges = comparer.compare_all(pairs)  # each with each, candidates or not
    named = {pair: str(edges[pair].kind) if pair in edges else "none" for pair in pairs}
    print_table(Counter((truth(shown[a], shown[b]), named[a, b]) for a, b in pairs))
    found = dedup.find(pictures, ranked(pictures, {}), prints, comparer, work)
    looked = {(a, b) for a in found for b in found[a]}
    missed = Counter(
        named[pair] for pair in edges if pair not in looked and pair[::-1] not in looked
    )
    print("alike, but not compared (copies are not looked at again):", dict(missed))
    print_drops(work, shown)


def print_table(table: Counter[tuple[str, str]]) -> None:
    rows, columns = sorted({pair[0] for pair in table}), sorted({pair[1] for pair in table})
    print("planted \\ found | " + " | ".join(columns))
    for row in rows:
        print(f"{row:15} | " + " | ".join(f"{table[row, c]:{len(c)}}" for c in columns))


def print_drops(work: Work, shown: dict[str, Shown]) -> None:
    decided = verdicts(work)
    dropped = {item: d for item, d in decided.items() if d.verdict == "drop"}
    reasons = Counter(truth(shown[item], shown[d.details["of"]]) for item, d in dropped.items())
    print("dropped, by what they really were:", dict(reasons))
    kept = [shown[item] for item in shown if item not in dropped]
    left = Counter(truth(a, b) for n, a in enumerate(kept) for b in kept[n + 1 :])
    print("left:", {kind: left[kind] for kind in ("exact", "held", "across", "camera")})


@dataclass(frozen=True)
class Cost:
    """What deduplicating so many pictures takes, their fingerprints being there."""

    pictures: int
    dropped: int
    clock: float  # seconds
    processors: float  # seconds, of all processes
    again: float  # the same with nothing new
    memory: int  # bytes, of the process and of the largest other one


def measured_apart(count: int) -> Cost:
    """Runs `many` in a process of its own, whose peak of memory is its own, too."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        cost = pool.submit(many, count).result()
    print(cost, file=sys.stderr)
    return cost


def many(count: int) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.db")
        work = Work(DatasetConfig(), Path(folder), ledger, Workers("auto"))
        for picture, pixels in drawn(count):
            small = thumbnail(pixels)
            features = {"summary": summary(pixels, small).pack(), "thumbnail": small.pack()}
            ledger.record(picture.id, "fingerprint", "", Outcome(features=features), [picture])
        begun, used = time.perf_counter(), processors()
        dedup.run(work)
        clock, taken = time.perf_counter() - begun, processors() - used
        used = processors()
        dedup.run(work)
        again = processors() - used
        memory = sum(resource.getrusage(who).ru_maxrss * 1024 for who in WHO)
        dropped = sum(d.verdict == "drop" for _, stage, d in ledger.decisions() if stage == "dedup")
        return Cost(count, dropped, clock, taken, again, memory)


def report(options: argparse.Namespace, costs: Sequence[Cost]) -> None:
    a_pair = seconds_a_pair()
    header = ("pictures", "dropped", "minutes", "of processors", "again", "times the bound",
              "GiB at most")  # fmt: skip
    rows = [
        (f"{c.pictures:,}", f"{c.dropped:,}", f"{c.clock / 60:.2f}", f"{c.processors / 60:.2f}",
         f"{c.again / 60:.2f}", f"{c.processors / (a_pair * c.pictures**2 / 2):.0f}",
         f"{c.memory / 2**30:.2f}")
        for c in costs
    ]  # fmt: skip
    parts = [
        f"{machine.name()}; fingerprints were there; again: with nothing new",
        findings.table(header, rows),
        f"Bound: each pair of 64-bit hashes once, {a_pair * 1e9:.2f} ns a pair. GiB: of the "
        "process and the largest of its workers.",
    ]
    series = {
        "processors": [(c.pictures, c.processors) for c in costs],
        "again": [(c.pictures, c.again) for c in costs],
        "each pair of hashes": [(c.pictures, a_pair * c.pictures**2 / 2) for c in costs],
    }
    if len(costs) > 1:
        power = findings.growth(series["processors"])
        memory = findings.growth([(c.pictures, c.memory) for c in costs])
        parts.append(f"Processors' time grows with the power {power}, memory with {memory}.")
    findings.publish(
        options.output,
        "Duplicates",
        parts,
        lambda axes: findings.lines(axes, series, "pictures", "seconds"),
    )


def seconds_a_pair(count: int = 4000) -> float:
    hashes = np.random.default_rng(0).integers(0, 2**63, count, dtype=np.uint64)

    def compare() -> None:
        for one in hashes:
            np.bitwise_count(hashes ^ one)

    return machine.seconds(compare) / count**2


def processors() -> float:
    """Seconds of processors that this process and those that it has ended have used."""
    used = [resource.getrusage(who) for who in WHO]
    return sum(each.ru_utime + each.ru_stime for each in used)


def drawn(count: int) -> Iterator[tuple[Picture, NDArray[np.uint8]]]:
    """Draws pictures of 256 x 144, film after film, shot after shot."""
    art = [
        cv2.resize(np.asarray(Image.open(path).convert("RGB")), (1024, 576))
        for path in sorted(ART.glob("*.jpg"))
    ]
    noise = np.random.default_rng(1).normal(0, 0.4, (2_000_003, 1)).astype(np.float32)
    for number in range(count):
        shot, place = divmod(number, PER_SHOT)
        film, scene = divmod(shot, PER_FILM)
        seed = scene if scene < OPENING else shot
        black = np.zeros((144, 256, 3), np.float32)
        pixels = black if shot % 50 == 49 else scene_of(seed, place, art)
        start = number * 7919 % (len(noise) - 144 * 256)
        noisy = pixels + noise[start : start + 144 * 256].reshape(144, 256, 1)
        name = f"film{film:04}-{number:07}"
        picture = Picture(name, f"film{film:04}", number, 1920, 1080, {"shot": scene})
        yield picture, np.rint(noisy).clip(0, 255).astype(np.uint8)


def scene_of(seed: int, place: int, art: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """A window of the art with a part of another one, as the `place`-th picture of its shot."""
    chance = np.random.default_rng([0, seed])
    image = art[int(chance.integers(len(art)))]
    motion = chance.choice(["none", "pan", "part", "other"])
    share = chance.uniform(0.3, 0.8)
    height, width = (int(side * share) for side in image.shape[:2])
    top = int(chance.uniform(0, image.shape[0] - height))
    left = int(chance.uniform(0, image.shape[1] - width))
    if motion == "pan":
        left = min(left + place * width // 20, image.shape[1] - width)
    window = cv2.resize(image[top : top + height, left : left + width], (256, 144))
    pixels = window[:, :: chance.choice([-1, 1]), chance.permutation(3)].astype(np.float32)
    figure = art[int(chance.integers(len(art)))][100:400:3, 200:440:4]  # [100, 60, 3]
    x = int(chance.integers(0, 190)) if motion != "other" else 10 + 60 * place
    pixels[44:144, x : x + 60] = figure * chance.uniform(0.3, 1, 3)
    if motion == "part":
        pixels[60:66, x + 20 : x + 30] = 60.0 * place
    return pixels


if __name__ == "__main__":
    main()
