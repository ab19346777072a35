"""Compares methods on the same prompts, references and noise: the paper's tables and figures.

    python -m training.evaluate --config training/configs/evaluate-mini.toml   # no download
    python -m training.evaluate --config training/configs/evaluate.toml        # SD v1.5 and peers
    python -m training.evaluate --config my.toml --cases.limit 20              # any setting
    python -m training.evaluate --config my.toml --print-config                # all settings

    accelerate launch -m training.evaluate --config my.toml                    # on all GPUs

Writes report.html, tables (Markdown, CSV, LaTeX), figures and pictures.csv into run.output. The
same command again draws and measures only what is missing. evaluation/README.md tells the rest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from animesketchnet_core.files import StorageError
from animesketchnet_core.weight_file import WrongAdapterError
from comfyui_server import ComfyUIError

from .evaluation.config import EvaluateConfig
from .evaluation.run import evaluate
from .loading import ModelError
from .program import run_program
from .settings import ConfigError, load_settings, read_overrides, to_toml
from .sources import DataError

INPUT_ERRORS = (
    ConfigError, DataError, ModelError, WrongAdapterError, StorageError, ComfyUIError,
    FileNotFoundError,
)  # fmt: skip


def parse(argv: Sequence[str] | None) -> tuple[EvaluateConfig, argparse.Namespace]:
    """Reads the command line and the file that it names.

    Raises:
        ConfigError: a setting that cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file of settings")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="one setting"
    )
    parser.add_argument("--print-config", action="store_true", help="print all settings and end")
    arguments, rest = parser.parse_known_args(argv)
    overrides = read_overrides(arguments.set, rest)
    return load_settings(EvaluateConfig, arguments.config, overrides), arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        0: all went well; 2: an input cannot be used; 130, 143: ended by Ctrl-C, by SIGTERM.
    """

    def work() -> int:
        config, arguments = parse(argv)
        if arguments.print_config:
            print(to_toml(config))
            return 0
        if not config.methods:
            raise ConfigError("There is no method to evaluate; list them as [[methods]].")
        print(evaluate(config))
        return 0

    return run_program(work, INPUT_ERRORS)


if __name__ == "__main__":
    sys.exit(main())
