"""One page that shows how a run goes: curves, previews, and whether the model listens.

    python -m training.report output/first        # writes output/first/report.html

The page is one file without scripts; the trainer rewrites it at each preview and measurement.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from animesketchnet_core.files import write_atomically

from .program import run_program

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = {  # of the held-out chart
    "loss": "right sketch and text",
    "other_sketch": "another picture's sketch",
    "no_sketch": "no sketch",
    "no_text": "no text",
    "training": "training pictures",
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
img, svg { max-width: 100%; height: auto; } table { border-collapse: collapse; }
td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top; }
.warning { background: #fff3cd; padding: .4rem .8rem; border-left: 4px solid #d9a400; }
"""
SHOWN = 12  # previews at most, evenly spread over the run


def write_report(output: Path) -> Path:
    """Writes report.html of a run's folder from log.jsonl, previews/ and config.toml."""
    entries = read_log(output / "log.jsonl")
    losses = [entry for entry in entries if entry.get("loss") is not None]
    held_out = [entry for entry in entries if "held_out" in entry]
    copying = [entry for entry in entries if "nearest" in entry]
    parts = [f"<h1>{html.escape(output.resolve().name)}</h1>", _summary(losses)]
    parts += [f'<p class="warning">{html.escape(text)}</p>' for text in warnings(entries)]
    if losses:
        smooth = smoothed([entry["loss"] for entry in losses])
        steps = [entry["step"] for entry in losses]
        curves = {"each line of the log": (steps, [e["loss"] for e in losses], 0.35),
                  "smoothed": (steps, smooth, 1.0)}  # fmt: skip
        parts += ["<h2>Training loss</h2>", chart(curves, "step", "loss")]
    if held_out:
        parts += ["<h2>Does it listen? Losses on held-out pictures</h2>", _listening(held_out[-1])]
        steps = [entry["step"] for entry in held_out]
        curves = {
            label: (steps, [mean(entry["held_out"][name]) for entry in held_out], 1.0)
            for name, label in LINES.items()
        }
        parts.append(chart(curves, "step", "loss"))
        count = len(held_out[-1]["held_out"]["loss"])
        alike = [entry for entry in held_out if len(entry["held_out"]["loss"]) == count]
        steps = [entry["step"] for entry in alike]
        curves = {
            f"{(k + 0.5) / count:.0%} noise": (
                steps, [entry["held_out"]["loss"][k] for entry in alike], 1.0
            )
            for k in range(count)
        }  # fmt: skip
        parts += ["<h2>With the right sketch and text, by timestep</h2>"]
        parts.append(chart(curves, "step", "loss"))
        bins = held_out[-1]["held_out"]
        places = [(k + 0.5) / len(bins["loss"]) for k in range(len(bins["loss"]))]
        curves = {label: (places, bins[name], 1.0) for name, label in LINES.items()}
        parts += ["<h2>All of them by timestep, at the last measurement</h2>"]
        parts.append(chart(curves, "share of noise (timestep / 1000)", "loss"))
    if copying:
        steps = [entry["step"] for entry in copying]
        curves = {
            "drawn pictures": (steps, [entry["nearest"] for entry in copying], 1.0),
            "training pictures": (steps, [e["nearest_in_training"] for e in copying], 1.0),
        }
        parts += ["<h2>Does it copy? Similarity to the nearest training picture</h2>"]
        parts.append(chart(curves, "step", "cosine"))
    parts += _previews(output / "previews")
    if (output / "config.toml").is_file():
        settings = html.escape((output / "config.toml").read_text(encoding="utf-8"))
        parts.append(
            f"<h2>Settings</h2><details><summary>all</summary><pre>{settings}</pre></details>"
        )
    title = f"<title>{html.escape(output.resolve().name)}</title>"
    head = f'<!doctype html><html lang="en"><meta charset="utf-8">{title}<style>{STYLE}</style>'
    page = head + "\n".join(parts) + "</html>\n"
    path = output / "report.html"
    write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return path


def read_log(path: Path) -> list[dict[str, Any]]:
    """Reads log.jsonl; lines that are cut short or damaged are left out."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}. Expected the folder of a training run.")
    entries = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def warnings(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What somebody should know about the run, in words."""
    told = []
    held_out = [entry["held_out"] for entry in entries if "held_out" in entry]
    if held_out:
        last = {name: mean(values) for name, values in held_out[-1].items()}
        if last["other_sketch"] <= last["loss"]:
            told.append(
                "The model does not listen to the sketch: another picture's sketch serves it as "
                "well. Train longer, or raise optimizer.learning_rate."
            )
        if last["no_text"] <= last["loss"]:
            told.append(
                "The model does not listen to the text: it does as well without. Use references "
                'that are not the target (data.reference = "group") or lower objective.alpha.'
            )
    gaps = [mean(figures["loss"]) - mean(figures["training"]) for figures in held_out]
    if len(gaps) > 3 and gaps[-1] > gaps[-2] > gaps[-3] > gaps[-4]:
        told.append(
            "The gap between held-out and training pictures has grown three times in a row: the "
            "model begins to learn the training pictures by heart. best.safetensors is from before."
        )
    copying = [entry for entry in entries if "nearest" in entry]
    if copying and copying[-1]["nearest"] > max(0.95, copying[-1]["nearest_in_training"]):
        told.append(
            "What the model draws is nearer to training pictures than they are to each other: it "
            "may copy. Look at the previews beside the training pictures."
        )
    if skipped := max((entry.get("skipped", 0) for entry in entries), default=0):
        told.append(f"{skipped} steps were skipped, as their gradients were not finite.")
    return told


def smoothed(values: Sequence[float], share: float = 0.05) -> list[float]:
    """A running mean over a share of the run, at least the last value."""
    width = max(1, int(len(values) * share))
    return [mean(values[max(0, k - width + 1) : k + 1]) for k in range(len(values))]


def chart(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float], float]], across: str, up: str
) -> str:
    """Draws curves (x, y, opacity) by name as SVG."""
    from matplotlib.figure import Figure  # takes a second, and only reports need it

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for label, (x, y, opacity) in curves.items():
        axes.plot(x, y, label=label, alpha=opacity, marker="." if len(x) < 40 else None)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return to_svg(figure)


def to_svg(figure: Figure) -> str:
    """Writes a figure as SVG to be put into a page; the same figure gives the same text."""
    from matplotlib import rc_context

    drawn = io.StringIO()
    with rc_context({"svg.hashsalt": "animesketchnet"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None}, transparent=True)
    return drawn.getvalue()[drawn.getvalue().index("<svg") :]


def _summary(losses: Sequence[Mapping[str, Any]]) -> str:
    if not losses:
        return "<p>No step is logged yet.</p>"
    last = losses[-1]
    return (
        f"<p>Step {last['step']:,}, loss {smoothed([e['loss'] for e in losses])[-1]:.4f} "
        f"(mean of the last 5%), {last['pictures_per_second']:g} pictures a second.</p>"
    )


def _listening(entry: Mapping[str, Any]) -> str:
    figures = {name: mean(values) for name, values in entry["held_out"].items()}
    rows = "".join(
        f"<tr><td>{html.escape(label)}</td><td>{figures[name]:.5f}</td>"
        f"<td>{100 * (figures[name] / figures['loss'] - 1):+.2f}%</td></tr>"
        for name, label in LINES.items()
    )
    return (
        "<p>The same pictures, noise and timesteps each time. A model that listens does worse when "
        "the sketch is exchanged or taken away, or the text is.</p>"
        f"<table><tr><th>given</th><th>loss</th><th></th></tr>{rows}</table>"
    )


def _previews(folder: Path) -> list[str]:
    paths = sorted(folder.glob("step-*.png"), reverse=True)
    stride = -(-len(paths) // SHOWN) if paths else 1
    parts = ["<h2>Previews</h2>"] if paths else []
    for number, path in enumerate(paths[::stride]):
        step = int(path.stem.removeprefix("step-"))
        data = base64.b64encode(path.read_bytes()).decode()
        image = f'<img alt="previews after step {step}" src="data:image/png;base64,{data}">'
        opened = " open" if number == 0 else ""
        parts.append(f"<details{opened}><summary>step {step:,}</summary>{image}</details>")
    return parts


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; 0: written, 2: an input cannot be used, 130, 143: interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m training.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="output folder of a training run")
    run = parser.parse_args(argv).run

    def work() -> int:
        print(write_report(run))
        return 0

    return run_program(work, (OSError,), "the report that was there before is unchanged")


if __name__ == "__main__":
    sys.exit(main())
