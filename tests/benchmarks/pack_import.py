"""Times what a pack adds to ComfyUI's start: ours, and ComfyUI_IPAdapter_plus.

    python tests/benchmarks/pack_import.py --comfyui PATH --peer PATH

Run with ComfyUI's Python. A process of its own for each round imports what ComfyUI has imported
before any pack, then the pack, and lists its nodes; once with nothing compiled yet, as after an
update, then as at every other start. The bound is Python reading the pack's compiled files.
"""

from __future__ import annotations

import argparse
import marshal
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import findings
import machine
from sampling_world import OURS, PEER, ROOT, load_pack, module_name, start_comfyui


def main(argv: Sequence[str] | None = None) -> None:
    parser = findings.parser(__doc__)
    parser.add_argument("--comfyui", type=Path, required=True, metavar="PATH", help="its folder")
    parser.add_argument("--peer", type=Path, metavar="PATH", help="of ComfyUI_IPAdapter_plus")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=(OURS, PEER), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    folders = {OURS: ROOT} | ({PEER: options.peer} if options.peer else {})
    if options.one:
        return imported(options, options.one, folders[options.one])
    report(options, {pack: rounds(options, pack) for pack in folders})


def rounds(options: argparse.Namespace, pack: str) -> list[list[float]]:
    """What each process printed; the first one had to compile."""
    command = [sys.executable, __file__, "--one", pack, "--comfyui", options.comfyui]
    command += ["--peer", options.peer] if options.peer else []
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    printed = []
    with tempfile.TemporaryDirectory() as compiled:
        for _ in range(options.rounds + 1):
            done = subprocess.run(
                command,
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                env=environment | {"PYTHONPYCACHEPREFIX": compiled},
            )
            printed.append([float(word) for word in done.stdout.splitlines()[-1].split()])
    return printed


def imported(options: argparse.Namespace, pack: str, folder: Path) -> None:
    """Prints milliseconds, files of the pack and of others, and the bound's milliseconds."""
    options.device, options.pytorch_attention, options.dtype = "cpu", False, "fp32"
    start_comfyui(options)
    before = set(sys.modules)
    taken = machine.seconds(lambda: load_pack(pack, folder))
    new = set(sys.modules) - before
    own = {name for name in new if name.startswith(module_name(pack))}
    cached = [getattr(sys.modules[name], "__cached__", None) for name in own]
    files = [Path(path) for path in cached if path and Path(path).exists()]
    bound = min(machine.seconds(lambda: read(files)) for _ in range(5))
    print(1e3 * taken, len(own), len(new) - len(own), 1e3 * bound)


def read(compiled: Sequence[Path]) -> None:
    for path in compiled:
        marshal.loads(path.read_bytes()[16:])  # after the header


def report(options: argparse.Namespace, found: dict[str, list[list[float]]]) -> None:
    header = ("pack", "ms", "ms when compiled anew", "own modules", "others", "times the bound")
    rows = []
    for pack, (first, *later) in found.items():
        ms, own, others, bound = min(later)
        rows.append((pack, f"{ms:.0f}", f"{first[0]:.0f}", f"{own:.0f}", f"{others:.0f}",
                     f"{ms / bound:.1f}"))  # fmt: skip

    def draw(axes: Any) -> None:
        axes.barh(list(found), [min(later)[0] for _, *later in found.values()])
        axes.set(xlabel="ms of processor")

    findings.publish(
        options.output,
        "Import of the pack",
        [
            f"{machine.name()}; milliseconds of processor, best of {options.rounds}",
            findings.table(header, rows),
            "others: modules that ComfyUI had not imported yet. Bound: reading the pack's compiled "
            "files and making code of them, without running any. `tests/test_import_rules.py` "
            "fails above 50 ms.",
        ],
        draw,
    )


if __name__ == "__main__":
    main()
