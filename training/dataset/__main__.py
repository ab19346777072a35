"""Builds a data set of sketches and captions from films and pictures.

    python -m training.dataset build --config training/configs/dataset-demo.toml
    python -m training.dataset review --config my.toml      # look, edit captions, accept, reject
    python -m training.dataset explain ID --config my.toml  # why a picture was kept or dropped
    python -m training.dataset filter --config my.toml      # one stage alone
    python -m training.dataset build --config my.toml --sketch.method ink

    accelerate launch -m training.dataset build --config my.toml    # on all GPUs of the machine

`build` runs the stages in order, checks the result and writes report/index.html. The same command
goes on where it was stopped; a changed setting runs again what follows from it.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from animesketchnet_core.files import StorageError
from training.files import occupied, remove_leftovers
from training.loading import ModelError
from training.program import run_program
from training.settings import ConfigError, read_overrides, to_toml
from training.workers import Workers

from .config import DatasetConfig, load_config
from .images import PictureError
from .ledger import Ledger, LedgerError
from .prerequisites import check
from .stages import summary
from .work import Work

# Each is a module with `run(work)`. Shared stages divide the pictures among the processes; the
# others are run by the first one.
SHARED = (
    "ingest", "frames", "measure", "fingerprint", "sketch", "adjust", "caption", "export",
    "validate",
)  # fmt: skip
STAGES = (
    "ingest", "frames", "measure", "filter", "fingerprint", "dedup", "sketch", "adjust", "caption",
    "review", "split", "export", "validate", "report",
)  # fmt: skip
NEEDS = {"filter": ("measure",), "dedup": ("fingerprint",)}  # what else one stage alone runs
ERRORS = (ConfigError, ModelError, LedgerError, PictureError, StorageError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        0: all went well; 1: the data set has faults; 2: an input cannot be used; 130, 143: ended by
        Ctrl-C, by SIGTERM (`review` gives 0 then, as that is how it ends).
    """

    def work() -> int:
        arguments, config = parse(argv)
        if arguments.print_config:
            print(to_toml(config))
            return 0
        return command(arguments, config)

    return run_program(work, ERRORS)


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, DatasetConfig]:
    """Reads the command line: the command, --config, --section.key value."""
    parser = argparse.ArgumentParser(
        prog="python -m training.dataset",
        description=__doc__,
        epilog="Any setting can also be given as --section.key VALUE, e.g. --frames.per_shot 2.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = ("build", "explain", *STAGES)
    parser.add_argument("command", choices=commands, metavar="COMMAND", help=", ".join(commands))
    parser.add_argument("id", nargs="?", help="of a picture (or how it begins), for explain")
    parser.add_argument("--config", metavar="FILE.toml", help="the settings")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="one setting"
    )
    parser.add_argument("--print-config", action="store_true", help="print all settings and end")
    parser.add_argument("--port", type=int, help="of the review page (default: any free one)")
    parser.add_argument("--no-browser", action="store_true", help="review opens no browser")
    arguments, rest = parser.parse_known_args(argv)
    return arguments, load_config(arguments.config, read_overrides(arguments.set, rest))


def command(arguments: argparse.Namespace, config: DatasetConfig) -> int:
    """Runs one command on the data set of the settings."""
    folder = Path(config.run.output)
    if arguments.command in ("explain", "review") and not (folder / LEDGER).is_file():
        raise ConfigError(f"There is no data set in {folder} yet: run `build` first (run.output).")
    workers = Workers(config.run.device)
    _limit_threads(config.run.threads)
    with Ledger(folder / LEDGER) as ledger:
        work = Work(config, folder, ledger, workers)
        if arguments.command == "explain":
            from .explain import explain

            print(explain(work, arguments.id or ""))
            return 0
        if arguments.command == "review":
            from .review import serve

            serve(work, arguments.port, open_browser=not arguments.no_browser)
            return 0
        if not workers.first:
            return run_stages(work, arguments.command)
        with occupied(folder):
            remove_leftovers(folder)
            return run_stages(work, arguments.command)


LEDGER = "ledger.sqlite"


def run_stages(work: Work, name: str) -> int:
    """Runs one stage with those that it needs, or all of them; returns the exit code."""
    stages = STAGES if name == "build" else (*NEEDS.get(name, ()), name)
    worst = 0
    for stage in stages:
        try:
            started = time.monotonic()
            told = run_stage(work, stage)
            seconds = time.monotonic() - started
            worst = max(worst, 1 if told["fault"] else 0)
            work.workers.print(f"{stage}: {summary(told)} ({seconds:.1f} s)")
            if (name, stage) == ("build", "ingest"):
                check(work)
        except ModelError as error:  # the others may still work, and the report tells of it
            if work.workers.first:
                print(f"{stage}: {error}", file=sys.stderr)
            worst = 2
    return worst


def run_stage(work: Work, stage: str) -> Counter[str]:
    """Runs a stage, alone or with the other processes."""
    module = importlib.import_module(f".{stage}", __package__)
    alone = stage not in SHARED
    told = module.run(work) if work.workers.first or not alone else Counter()
    return sum(work.workers.gather(told), Counter())


def _limit_threads(threads: int) -> None:
    if threads:
        import cv2  # here, since only the settings say whether it is needed
        import torch

        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)


if __name__ == "__main__":
    sys.exit(main())
