"""Measures what sampling with a sketch costs: no adapter, ours, and ComfyUI_IPAdapter_plus.

    python tests/benchmarks/sampling.py --comfyui PATH --peer PATH               # on a GPU
    python tests/benchmarks/sampling.py --comfyui PATH --peer PATH --narrow 5 --size 256

Run with ComfyUI's Python. The UNet is SD v1.5's with random weights, built by ComfyUI's own classes
and sampled by its own sampler; with --narrow N everything is an Nth as wide. Both packs get the
same random adapter, reference and strength, through their own nodes. All are timed in turn, in one
process; a row's ratio is taken within each round. Counts are of one step, its setup left out.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import platform
import re
import shlex
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sampling_counts import allocated, branch_flops, observed, unet_flops
from sampling_world import (
    DTYPES,
    OURS,
    PEER,
    Run,
    World,
    layers_of,
    make_world,
    sampling,
    unet_alone,
    with_ours,
    with_peer,
)

PLAIN, BOUND = "no adapter", "UNet alone"

Make = Callable[[World, int], Any]
"""Puts a number of references into the world's model."""


@dataclass(frozen=True)
class Cost:
    """What one row of the table says of a step."""

    name: str
    size: int
    references: int
    seconds: float  # of the fastest round: what makes others slower is not the pack's
    plain: float  # the same without adapter
    ratios: Sequence[float]  # to no adapter, one a round
    counts: Mapping[str, int]  # see `counted`

    @property
    def added(self) -> float:
        return self.seconds / self.plain - 1

    def held(self, kind: str) -> float:
        """Megabytes for each reference: of the tensors, or of what CUDA allocated."""
        return self.counts[kind] / self.references / 1e6


def seconds_per_step(run: Run, steps: int, device: torch.device) -> float:
    """The mean time of all steps but the first, in which the setup falls.

    On a CPU it is the processor's own time, which other programs leave alone.
    """
    moments = {}
    gpu = device.type == "cuda"
    clock = time.perf_counter if gpu else time.process_time

    def after(step: int) -> None:
        if step in (0, steps - 1):  # in between, the host may run ahead as it does for users
            if gpu:
                torch.cuda.synchronize(device)
            moments[step] = clock()

    with torch.inference_mode():
        run(after)
    return (moments[steps - 1] - moments[0]) / (steps - 1)


def timed(runs: Mapping[str, Run], world: World) -> dict[str, list[float]]:
    """Seconds per step of each, in turn and back again, after a round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(world.options.rounds + 1):
        for name in sorted(runs, reverse=bool(number % 2)):
            took = seconds_per_step(runs[name], world.options.steps, world.device)
            if number:
                seconds[name].append(took)
    return seconds


def layers_patched(world: World, model: Any) -> int:
    """Counts the cross-attention layers whose patch ComfyUI finds: by the long or the short key."""
    keys = model.model_options["transformer_options"]["patches_replace"]["attn2"].keys()
    return sum(layer.comfy in keys or layer.comfy[:2] in keys for layer in layers_of(world))


def counted(world: World, make: Make | None, size: int, references: int) -> Counter[str]:
    """What one step with a pack has beside one without: `observed`, of memory the difference."""
    unload = importlib.import_module("comfy.model_management").unload_all_models
    gc.collect()
    unload()
    before = allocated(world.device)
    model = make(world, references) if make else world.model
    unload()  # weights in ComfyUI's care, which it may take off the device at any time
    counts = observed(world, model, size)
    counts["allocated"] -= before
    counts["layers"] = layers_patched(world, model) if make else 0
    return counts


def measure(world: World, size: int, references: int) -> list[Cost]:
    """All rows of the table for one size and number of references."""
    packs: dict[str, Make] = {OURS: with_ours} | ({PEER: with_peer} if world.peer else {})
    counts = {name: counted(world, packs.get(name), size, references) for name in (PLAIN, *packs)}
    for name in packs:
        counts[name]["projections"] -= counts[PLAIN]["projections"]
        counts[name]["allocated"] -= counts[PLAIN]["allocated"]
    counts[PLAIN]["projections"] = 0
    models = {PLAIN: world.model} | {name: make(world, references) for name, make in packs.items()}
    steps = world.options.steps
    runs = {name: sampling(world, model, size, steps) for name, model in models.items()}
    seconds = timed({BOUND: unet_alone(world, size, steps), **runs}, world)
    return [
        Cost(
            name,
            size,
            references,
            min(taken),
            min(seconds[PLAIN]),
            [t / plain for t, plain in zip(taken, seconds[PLAIN], strict=True)],
            counts.get(name, Counter()),
        )
        for name, taken in seconds.items()
    ]


HEADER = (
    "px", "references", "sampling with", "ms a step", "ratio (quartiles)", "adds", "of the peer's",
    "projections", "host syncs", "kernels", "MB a reference", "layers", "import ms",
)  # fmt: skip


def markdown(lines: Sequence[Sequence[Any]]) -> str:
    """A table; its first line is the header."""
    written = ["| " + " | ".join(map(str, line)) + " |" for line in lines]
    return "\n".join([written[0], "|---" * len(lines[0]) + "|", *written[1:]])


def row(cost: Cost, peer: Cost | None, world: World) -> list[Any]:
    """One line of the table; what there is not stays empty."""
    low, middle, high = statistics.quantiles(cost.ratios, n=4, method="inclusive")
    cells = [cost.size, cost.references, cost.name, f"{1e3 * cost.seconds:.1f}"]
    cells.append(f"{middle:.3f} ({low:.3f} to {high:.3f})")
    if cost.name == BOUND:
        return cells + [""] * 8
    counts = [cost.counts[name] for name in ("projections", "syncs", "operations")]
    if cost.name == PLAIN:
        return [*cells, "", "", *counts, "", "", ""]
    return [
        *cells,
        f"{cost.added:+.1%}",
        f"{cost.added / peer.added:.2f}" if peer else "",
        *counts,
        f"{cost.held('bytes'):.2f}",
        f"{cost.counts['layers']} of {len(layers_of(world))}",
        f"{world.import_ms[cost.name]:.0f}",
    ]


def demands(costs: Sequence[Cost], world: World) -> str:
    """What the project asks of our node, and what was measured: the worst of all sizes."""
    mine = [cost for cost in costs if cost.name == OURS]
    first = [cost for cost in mine if cost.references == world.options.references[0]]
    plain = {(cost.size, cost.references): cost for cost in costs if cost.name == PLAIN}
    theirs = {(cost.size, cost.references): cost for cost in costs if cost.name == PEER}
    added = max(cost.added for cost in first)
    syncs = max(c.counts["syncs"] - plain[c.size, c.references].counts["syncs"] for c in mine)
    projections = max(cost.counts["projections"] for cost in mine)
    held = max(max(cost.held("bytes"), cost.held("allocated")) for cost in mine)
    gpu, imported = world.device.type == "cuda", world.import_ms[OURS]
    lines = [
        ("demand", "measured", "met"),
        verdict("a step with a sketch: at most 2% more, on a GPU", f"{added:+.1%}",
                added <= 0.02 if gpu else None),
        verdict("K', V' computed while sampling: 0", projections, projections == 0),
        verdict("host syncs that it adds to a step: 0", syncs, syncs == 0),
        verdict("device memory a reference: at most 2 MB, in half precision", f"{held:.2f} MB",
                held <= 2 if gpu and world.options.dtype != "fp32" else None),
        verdict("import: under 50 ms", f"{imported:.0f} ms", imported < 50),
    ]  # fmt: skip
    if theirs:
        share = max(cost.added / theirs[cost.size, cost.references].added for cost in mine)
        lines.append(
            verdict("at most a third of what the peer adds", f"{share:.2f}", share <= 1 / 3)
        )
    return markdown(lines)


def verdict(demand: str, measured: Any, met: bool | None) -> tuple[str, Any, str]:
    """One demand; None is for what this device or type cannot tell."""
    return demand, measured, {True: "yes", False: "**no**", None: "not measured here"}[met]


def flops(world: World, size: int) -> str:
    """Says which share of the arithmetic our branch has, so what it would cost at best."""
    unet, branch = unet_flops(world, size), branch_flops(world, size)
    return (
        f"- {size} px: the UNet {unet / 1e9:.1f} GFLOP a step, the sketch's branch "
        f"{branch / 1e9:.3f} GFLOP a reference, {branch / unet:.2%}"
    )


def machine(world: World) -> str:
    """Device, versions and settings in one line."""
    gpu = world.device.type == "cuda"
    name = torch.cuda.get_device_name() if gpu else platform.processor() or platform.machine()
    attention = importlib.import_module("comfy.ldm.modules.attention").optimized_attention
    versions = [f"torch {torch.__version__}", f"Python {platform.python_version()}"]
    comfyui = importlib.import_module("comfyui_version").__version__
    versions.append(f"ComfyUI {comfyui} ({attention.__name__})")
    if world.options.peer:
        written = (world.options.peer / "pyproject.toml").read_text("utf-8")
        versions += re.findall(r'^version = "(.*)"', written, re.M)[:1]
        versions[-1] = f"{PEER} {versions[-1]}"
    options = world.options
    return (
        f"{name}, {torch.get_num_threads()} threads, {', '.join(versions)}; {options.dtype}, batch "
        f"{options.batch} with prompt and negative prompt, widths / {options.narrow}"
        f"{', mask' if options.mask else ''}; {options.rounds} rounds of {options.steps} steps"
    )


def report(costs: Sequence[Cost], world: World) -> str:
    """All that was found, as Markdown."""
    theirs = {(c.size, c.references): c for c in costs if c.name == PEER}
    rows = [row(cost, theirs.get((cost.size, cost.references)), world) for cost in costs]
    table = markdown([HEADER, *rows])
    arithmetic = "\n".join(flops(world, size) for size in world.options.size)
    return (
        f"{machine(world)}\n\n    {shlex.join(['python', *sys.argv])}\n\n{table}\n\n"
        f"ms: of the fastest round; on a CPU the processor's own, all of its threads. ratio: to no "
        f"adapter within each round; adds: of the fastest rounds. No adapter is the "
        f"bound for both packs. projections: of image tokens. MB: all that hangs on the "
        f"patches (on a CPU also the copy that stays on the host beside a GPU).\n\n"
        f"{demands(costs, world)}\n\nArithmetic:\n\n{arithmetic}\n"
    )


def plot(costs: Sequence[Cost], world: World, path: Path) -> None:
    """Draws what the packs add over the references, or over the sizes if these are more."""
    from matplotlib.figure import Figure

    over, other = "references", "size"
    if len(world.options.size) > len(world.options.references):
        over, other = other, over
    axes = (figure := Figure(figsize=(6, 4), layout="constrained")).subplots()
    for name, line in ((OURS, "o-"), (PEER, "s--")):
        for value in getattr(world.options, other):
            drawn = [c for c in costs if c.name == name and getattr(c, other) == value]
            if drawn:
                places = [getattr(cost, over) for cost in drawn]
                label = f"{name}, {other} {value}"
                axes.plot(places, [100 * cost.added for cost in drawn], line, label=label)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel=over, ylabel="% added to a step without adapter")
    axes.set_xticks(getattr(world.options, over))
    axes.legend()
    figure.savefig(path, dpi=120)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--comfyui", type=Path, required=True, metavar="PATH", help="its folder")
    parser.add_argument("--peer", type=Path, metavar="PATH", help="of ComfyUI_IPAdapter_plus")
    parser.add_argument("--size", type=int, nargs="+", default=[512], help="sides in pixels")
    parser.add_argument("--batch", type=int, default=1, help="latents")
    parser.add_argument("--references", type=int, nargs="+", default=[1], help="1 2 4 8")
    parser.add_argument("--mask", action="store_true", help="references act on the left half")
    parser.add_argument("--steps", type=int, default=5, help="of each sampling; 2 at least")
    parser.add_argument("--rounds", type=int, default=9, help="samplings of each; 2 at least")
    parser.add_argument("--narrow", type=int, default=1, help="divide every width by this")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="fp16 on a GPU, else fp32")
    parser.add_argument("--pytorch-attention", action="store_true", help="on a CPU as on a GPU")
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="beside it goes a plot")
    options = parser.parse_args(argv)
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    options.dtype = options.dtype or ("fp16" if options.device == "cuda" else "fp32")
    if options.steps < 2 or options.rounds < 2:
        parser.error("--steps and --rounds need 2 at least: the first step is left out")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line; prints Markdown."""
    options = parse(argv)
    with torch.no_grad():
        world = make_world(options)
        costs: list[Cost] = []
        for size in options.size:
            for references in options.references:
                costs += measure(world, size, references)
        written = report(costs, world)
    print(written)
    if options.output:
        options.output.write_text(written, encoding="utf-8")
        if importlib.util.find_spec("matplotlib"):
            plot(costs, world, options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
