"""Measures what sampling with a sketch costs: no adapter, ours, and ComfyUI_IPAdapter_plus.

    python tests/benchmarks/sampling.py --comfyui PATH --peer PATH               # on a GPU
    python tests/benchmarks/sampling.py --comfyui PATH --peer PATH --narrow 5 --size 256 512 1024

Run with ComfyUI's Python. The UNet is SD v1.5's with random weights, built by ComfyUI's own classes
and sampled by its own sampler; with --narrow N everything is an Nth as wide. Both packs get the
same random adapter, reference and strength, through their own nodes. All are timed in turn, in one
process, and compared within each round. Counts are of one step, its setup left out.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import itertools
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import findings
import machine
import torch
from layer_clock import LayerClock
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
class Times:
    """Seconds of a step and, among them, of its cross-attention layers."""

    step: float
    layers: float


@dataclass(frozen=True)
class Cost:
    """What one row of the table says of a step."""

    name: str
    size: int
    batch: int
    references: int
    times: Sequence[Times]  # one a round
    plain: Sequence[Times]  # the same without adapter
    counts: Mapping[str, int]  # see `counted`

    @property
    def case(self) -> tuple[int, int, int]:
        return self.size, self.batch, self.references

    @property
    def seconds(self) -> float:
        return statistics.median(each.step for each in self.times)

    @property
    def layers(self) -> float:
        return statistics.median(each.layers for each in self.times)

    @property
    def ratios(self) -> list[float]:
        """To no adapter, whole steps."""
        return [a.step / b.step for a, b in zip(self.times, self.plain, strict=True)]

    @property
    def added(self) -> float:
        """What the layers take longer, as a share of a step without adapter."""
        pairs = zip(self.times, self.plain, strict=True)
        return statistics.median((a.layers - b.layers) / b.step for a, b in pairs)

    def held(self, kind: str) -> float:
        """Megabytes for each reference: of the tensors, or of what CUDA allocated."""
        return self.counts[kind] / self.references / 1e6


def times_per_step(run: Run, steps: int, clock: LayerClock) -> Times:
    """The mean time of all steps but the first, in which the setup falls.

    On a CPU it is the processor's own time, which other programs leave alone.
    """
    moments = {}
    gpu = clock.device.type == "cuda"
    now = time.perf_counter if gpu else time.process_time

    def after(step: int) -> None:
        if step in (0, steps - 1):  # in between, the host may run ahead as it does for users
            if gpu:
                torch.cuda.synchronize(clock.device)
            moments[step] = now()
        if step == 0:
            clock.start()

    with torch.inference_mode():
        run(after)
    counted = steps - 1
    return Times((moments[counted] - moments[0]) / counted, clock.seconds() / counted)


def timed(runs: Mapping[str, Run], world: World) -> dict[str, list[Times]]:
    """The times of each, in turn and back again, after a round that does not count."""
    clock = LayerClock(world.model.model.diffusion_model, world.device)
    times: dict[str, list[Times]] = {name: [] for name in runs}
    for number in range(world.options.rounds + 1):
        for name in sorted(runs, reverse=bool(number % 2)):
            took = times_per_step(runs[name], world.options.steps, clock)
            if number:
                times[name].append(took)
    clock.remove()
    return times


def layers_patched(world: World, model: Any) -> int:
    """Counts the cross-attention layers whose patch ComfyUI finds: by the long or the short key."""
    keys = model.model_options["transformer_options"]["patches_replace"]["attn2"].keys()
    return sum(layer.comfy in keys or layer.comfy[:2] in keys for layer in layers_of(world))


def counted(
    world: World, make: Make | None, size: int, batch: int, references: int
) -> Counter[str]:
    """What one step with a pack has beside one without: `observed`, of memory the difference."""
    unload = importlib.import_module("comfy.model_management").unload_all_models
    gc.collect()
    unload()
    before = allocated(world.device)
    model = make(world, references) if make else world.model
    unload()  # weights in ComfyUI's care, which it may take off the device at any time
    counts = observed(world, model, size, batch)
    counts["allocated"] -= before
    counts["layers"] = layers_patched(world, model) if make else 0
    return counts


def measure(world: World, size: int, batch: int, references: int) -> list[Cost]:
    """All rows of the table for one size, batch and number of references."""
    packs: dict[str, Make] = {OURS: with_ours} | ({PEER: with_peer} if world.peer else {})
    counts = {
        name: counted(world, packs.get(name), size, batch, references) for name in (PLAIN, *packs)
    }
    for name in packs:
        counts[name]["projections"] -= counts[PLAIN]["projections"]
        counts[name]["allocated"] -= counts[PLAIN]["allocated"]
    counts[PLAIN]["projections"] = 0
    models = {PLAIN: world.model} | {name: make(world, references) for name, make in packs.items()}
    steps = world.options.steps
    runs = {name: sampling(world, model, size, batch, steps) for name, model in models.items()}
    times = timed({BOUND: unet_alone(world, size, batch, steps), **runs}, world)
    return [
        Cost(name, size, batch, references, taken, times[PLAIN], counts.get(name, Counter()))
        for name, taken in times.items()
    ]


HEADER = (
    "px", "batch", "references", "sampling with", "ms a step", "ratio (quartiles)",
    "ms in the layers", "adds", "of the peer's", "projections", "host syncs", "kernels",
    "MB a reference", "layers",
)  # fmt: skip


def row(cost: Cost, peer: Cost | None, world: World) -> list[Any]:
    """One line of the table; what there is not stays empty."""
    low, middle, high = statistics.quantiles(cost.ratios, n=4, method="inclusive")
    cells = [*cost.case, cost.name, f"{1e3 * cost.seconds:.1f}"]
    cells += [f"{middle:.3f} ({low:.3f} to {high:.3f})", f"{1e3 * cost.layers:.1f}"]
    if cost.name == BOUND:
        return cells + [""] * 7
    counts = [cost.counts[name] for name in ("projections", "syncs", "operations")]
    if cost.name == PLAIN:
        return [*cells, "", "", *counts, "", ""]
    return [
        *cells,
        f"{cost.added:+.2%}",
        f"{cost.added / peer.added:.2f}" if peer else "",
        *counts,
        f"{cost.held('bytes'):.2f}",
        f"{cost.counts['layers']} of {len(layers_of(world))}",
    ]


def demands(costs: Sequence[Cost], world: World) -> str:
    """What the project asks of our node, and what was measured: the worst of all sizes."""
    mine = [cost for cost in costs if cost.name == OURS]
    first = [cost for cost in mine if cost.references == world.options.references[0]]
    plain = {cost.case: cost for cost in costs if cost.name == PLAIN}
    theirs = {cost.case: cost for cost in costs if cost.name == PEER}
    added = max(cost.added for cost in first)
    syncs = max(c.counts["syncs"] - plain[c.case].counts["syncs"] for c in mine)
    projections = max(cost.counts["projections"] for cost in mine)
    held = max(max(cost.held("bytes"), cost.held("allocated")) for cost in mine)
    gpu = world.device.type == "cuda"
    lines = [
        ("demand", "measured", "met"),
        verdict("a step with a sketch: at most 2% more, on a GPU", f"{added:+.2%}",
                added <= 0.02 if gpu else None),
        verdict("K', V' computed while sampling: 0", projections, projections == 0),
        verdict("host syncs that it adds to a step: 0", syncs, syncs == 0),
        verdict("device memory a reference: at most 2 MB, in half precision", f"{held:.2f} MB",
                held <= 2 if gpu and world.options.dtype != "fp32" else None),
    ]  # fmt: skip
    if theirs:
        share = max(cost.added / theirs[cost.case].added for cost in mine)
        lines.append(
            verdict("at most a third of what the peer adds", f"{share:.2f}", share <= 1 / 3)
        )
    return findings.table(lines[0], lines[1:])


def verdict(demand: str, measured: Any, met: bool | None) -> tuple[str, Any, str]:
    """One demand; None is for what this device or type cannot tell."""
    return demand, measured, {True: "yes", False: "**no**", None: "not measured here"}[met]


def flops(world: World, size: int, batch: int) -> str:
    """Says which share of the arithmetic our branch has, so what it would cost at best."""
    unet, branch = unet_flops(world, size, batch), branch_flops(world, size, batch)
    return (
        f"- {size} px, batch {batch}: the UNet {unet / 1e9:.1f} GFLOP a step, the sketch's branch "
        f"{branch / 1e9:.3f} GFLOP a reference, {branch / unet:.2%}"
    )


def setting(world: World) -> str:
    """Machine, versions and settings in one line."""
    attention = importlib.import_module("comfy.ldm.modules.attention").optimized_attention
    comfyui = importlib.import_module("comfyui_version").__version__
    versions = [f"ComfyUI {comfyui} ({attention.__name__})"]
    options = world.options
    if options.peer:
        written = (options.peer / "pyproject.toml").read_text("utf-8")
        versions += [f"{PEER} {v}" for v in re.findall(r'^version = "(.*)"', written, re.M)[:1]]
    return (
        f"{machine.name(world.device)}, {', '.join(versions)}; {options.dtype}, with prompt and "
        f"negative prompt, widths / {options.narrow}{', mask' if options.mask else ''}; "
        f"{options.rounds} rounds of {options.steps} steps"
    )


def report(costs: Sequence[Cost], world: World) -> None:
    """Publishes all that was found."""
    options = world.options
    theirs = {c.case: c for c in costs if c.name == PEER}
    rows = [row(cost, theirs.get(cost.case), world) for cost in costs]
    parts = [
        setting(world),
        findings.table(HEADER, rows),
        "ms: median of the rounds; on a CPU the processor's own, all of its threads. ratio: of "
        "whole steps to no adapter, within each round. layers: the cross-attention layers, from "
        "the projection of Q to that of their result. adds: what they take longer than without "
        "adapter, as a share of a step: the ratio without the noise of all that is equal. No "
        "adapter is the bound for both packs. projections: of image tokens. MB: all that hangs on "
        "the patches (on a CPU also the copy that stays on the host beside a GPU).",
        demands(costs, world),
        "Arithmetic:",
        "\n".join(flops(world, size, batch) for size in options.size for batch in options.batch),
    ]
    amounts = {"size": options.size, "batch": options.batch, "references": options.references}
    over = max(amounts, key=lambda name: len(amounts[name]))
    pixels = {"size": lambda c: (c.size / 8) ** 2}.get(over, lambda c: getattr(c, over))
    if len(amounts[over]) > 1:
        grown = [
            f"{name} {findings.growth([(pixels(c), c.seconds) for c in costs if c.name == name])}"
            for name in dict.fromkeys(cost.name for cost in costs)
        ]
        amount = "number of latent pixels" if over == "size" else over
        parts.append(f"A step's time grows with this power of the {amount}: {', '.join(grown)}.")

    def draw(axes: Any) -> None:
        added = {
            name: [(getattr(c, over), 100 * c.added) for c in costs if c.name == name]
            for name in (OURS, *([PEER] if world.peer else []))
        }
        findings.lines(axes, added, over, "% added to a step without adapter", logarithmic=False)
        axes.set_xticks(amounts[over])
        axes.axhline(0, color="black", linewidth=0.8)

    findings.publish(options.output, "Sampling with a sketch", parts, draw)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = findings.parser(__doc__)
    parser.add_argument("--comfyui", type=Path, required=True, metavar="PATH", help="its folder")
    parser.add_argument("--peer", type=Path, metavar="PATH", help="of ComfyUI_IPAdapter_plus")
    parser.add_argument("--size", type=int, nargs="+", default=[512], help="sides in pixels")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="latents")
    parser.add_argument("--references", type=int, nargs="+", default=[1], help="1 2 4 8")
    parser.add_argument("--mask", action="store_true", help="references act on the left half")
    parser.add_argument("--steps", type=int, default=5, help="of each sampling; 2 at least")
    parser.add_argument("--rounds", type=int, default=9, help="samplings of each; 2 at least")
    parser.add_argument("--narrow", type=int, default=1, help="divide every width by this")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="fp16 on a GPU, else fp32")
    parser.add_argument("--pytorch-attention", action="store_true", help="on a CPU as on a GPU")
    options = parser.parse_args(argv)
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    options.dtype = options.dtype or ("fp16" if options.device == "cuda" else "fp32")
    if options.steps < 2 or options.rounds < 2:
        parser.error("--steps and --rounds need 2 at least: the first step is left out")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    options = parse(argv)
    with torch.no_grad():
        world = make_world(options)
        costs: list[Cost] = []
        for case in itertools.product(options.size, options.batch, options.references):
            costs += measure(world, *case)
        report(costs, world)


if __name__ == "__main__":
    main()
