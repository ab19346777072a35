"""A small comparison for tests: pictures of the mini world's portraits and figures made up."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from training.evaluation.figures import AlphaPoint, alpha_chart, figure3, figure4
from training.evaluation.measures.measure import Column
from training.evaluation.page import Report
from training.evaluation.scored import Scored
from training.evaluation.statistics import Estimate
from training.evaluation.tables import comparison, differences, spread, where_it_loses

LORELEI = Path(__file__).parents[1] / "training" / "mini" / "lorelei" / "test.zip"
OURS = "AnimeSketchNet"
METHODS = (OURS, "ControlNet <scribble>", "IP-Adapter", "Stable Diffusion v1.5")
ITM = Column("itm", "BLIP-ITM", 1, "BLIP-2's probability that text and picture match, 0 to 100%.",
             percent=True, digits=2)  # fmt: skip
COSINE = Column("itc", "BLIP-Cosine", 1, "Cosine of BLIP-2's features, -1 to 1.", digits=4)
CLIP = Column("clip", "CLIP Score", 1, "100 x cosine of CLIP ViT-B/32's features.", digits=2)
EDGES = Column("edges", "Stroke distance", -1, "Distance of stroke widths & ink, 0 is equal.")
COLUMNS = (ITM, COSINE, CLIP, EDGES)
PROMPTS = (
    "anime sketch, a woman with short hair and glasses looks to the left, pencil grain",
    "anime sketch, a man with a beard, <bold> lines",
    "anime sketch, a girl with freckles & flowers in her hair",
    "anime sketch, a boy who wears earrings, grey paper",
    "anime sketch, an old man with a moustache",
)
_GAINS = {METHODS[0]: 0.0, METHODS[1]: 0.35, METHODS[2]: -0.5, METHODS[3]: 0.02}


def portraits(folder: Path, count: int) -> list[Path]:
    """Unpacks portraits, every second one not square."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with zipfile.ZipFile(LORELEI) as archive:
        for number in range(count):
            picture = Image.open(io.BytesIO(archive.read(f"{number:05d}.webp"))).convert("RGB")
            if number % 2:
                picture = picture.crop((30, 0, picture.width - 30, picture.height))
            paths.append(folder / f"{number:05d}.png")
            picture.save(paths[-1])
    return paths


def scored(folder: Path, seeds: int = 4) -> list[Scored]:
    """Makes pictures up: pairs x methods x seeds, with table1's part."""
    paths = portraits(folder / "pictures", len(PROMPTS) * (1 + len(METHODS)))
    rng = np.random.default_rng(7)
    entries = []
    for number, prompt in enumerate(PROMPTS):
        hard = rng.normal(scale=0.4)
        for seed in range(seeds):
            noise = rng.normal(scale=0.3)
            for place, method in enumerate(METHODS):
                good = _GAINS[method] + hard + noise + rng.normal(scale=0.2)
                values = {
                    "itm": 1 / (1 + math.exp(-2 - 2 * good)),
                    "itc": 0.42 + 0.02 * good,
                    "clip": 30.6 + good,
                    "edges": math.nan if "Stable" in method else math.exp(-2 - good),
                }
                picture = paths[(number * len(METHODS) + place + seed) % len(paths)]
                reference = paths[-1 - number]
                entries.append(
                    Scored(method, "table1", f"pair{number}", prompt, reference, seed,
                           math.nan if "Stable" in method else 0.5, picture, values)
                )  # fmt: skip
    return entries


def curve(gain: float) -> list[AlphaPoint]:
    """A method's points from alpha 0 to 1; the last is beaten by the one before."""
    points = []
    for alpha in (0.0, 0.25, 0.5, 0.75, 1.0):
        text = 30.6 - 3 * alpha**2 + gain
        fidelity = 0.4 + 0.3 * alpha**0.5 - 0.2 * max(0, alpha - 0.75) + gain / 20
        points.append(
            AlphaPoint(
                alpha,
                Estimate(text, text - 0.3, text + 0.3, 20),
                Estimate(fidelity, fidelity - 0.02, fidelity + 0.02, 20),
            )
        )
    return points


def report(folder: Path) -> Report:
    """A report with every section."""
    entries = scored(folder)
    pairs = [f"pair{number}" for number in range(len(PROMPTS))]
    lost = differences("Differences to pictures from the same noise", entries, COLUMNS, OURS)
    alone = AlphaPoint(math.nan, Estimate(31, 30.8, 31.2, 20), Estimate(0.38, 0.37, 0.39, 20))
    same = [entry for entry in entries if entry.pair == "pair2"]
    two = [entry for entry in entries if entry.method in (METHODS[0], METHODS[2])]
    return Report(
        title="Comparison <demo>",
        headline=["ControlNet is best in all four columns, AnimeSketchNet second."],
        columns=COLUMNS,
        scored=entries,
        table1={
            "table1": comparison("Five prompts, four seeds", entries, COLUMNS, OURS),
            "table1-differences": lost,
            "table1-spread": spread("Where ITM saturates", entries, COLUMNS, OURS),
        },
        losses=where_it_loses(lost, OURS),
        table2={"table2": comparison("40 more pictures", two, COLUMNS[:3], OURS)},
        figure3=figure3(entries, METHODS, pairs),
        figure4=figure4(same, METHODS, ["pair2"]),
        alpha=alpha_chart({OURS: curve(0), "IP-Adapter": curve(-0.6), "text only": [alone]},
                          recommended=0.5),
        recommended="Alpha 0.5 is recommended: `text` loses 0.75 and fidelity gains 0.21.",
        warnings=["2 prompts are longer than 77 tokens and were cut.",
                  "DINO is missing: `measures.dino` names no folder."],
        provenance={
            "command": "python -m training.evaluate --config demo.toml",
            "hours": "0.01 on a CPU",
            "weights <hash>": "0123456789abcdef" * 4,
            "settings": 'run = "<script>"\nseed = 1\n',
        },
    )  # fmt: skip
