"""Sets everything up and draws one picture in a real ComfyUI; or runs the whole test suite.

    python quickstart.py                           install (once), draw, save into output/
    python quickstart.py --sketch my.png --prompt "a girl with glasses" --alpha 0.8
    python quickstart.py --comfyui ~/ComfyUI --keep
    python quickstart.py test [pytest arguments]   ruff, pyright and pytest

Needs Python 3.10 or newer and nothing else. All that it makes lies in .venv/ and output/ beside
this file, but for one link in the custom_nodes folder of the ComfyUI that it uses.
"""

from __future__ import annotations

import argparse
import copy
import io
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from comfyui_server import (
    ComfyUIError,
    ComfyUIServer,
    ServerEndedError,
    free_port,
    port_is_busy,
)
from comfyui_workflow import nodes_of, read_workflow, set_inputs, set_prompt
from installation import (
    PACK_NAME,
    ROOT,
    TORCH,
    VENV,
    QuickstartError,
    child,
    find_comfyui,
    has_accelerator,
    install,
    link_pack,
    prepare,
    prepare_venv,
    show_status,
)

if TYPE_CHECKING:
    from comfyui_server import OnProgress, Workflow

OUTPUT = ROOT / "output"
WORKFLOW = ROOT / "workflows" / "api" / "mini_quickstart.json"
SKETCHES = ROOT / "workflows"  # the reference sketches that shipped workflows name lie here


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the options of the drawing command."""
    parser = argparse.ArgumentParser(
        prog="quickstart.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--comfyui", type=Path, metavar="PATH", help="your ComfyUI's folder")
    parser.add_argument("--port", type=int, help="port of the server (default: any free one)")
    parser.add_argument("--keep", action="store_true", help="leave the server up until Ctrl-C")
    parser.add_argument("--sketch", type=Path, metavar="FILE", help="your own reference sketch")
    parser.add_argument("--prompt", metavar="TEXT", help="what to draw")
    parser.add_argument("--alpha", type=float, help="weight of the sketch, 0 to 1")
    parser.add_argument("--seed", type=int, help="same seed, same picture")
    parser.add_argument("--steps", type=int, help="sampling steps")
    parser.add_argument("--workflow", type=Path, default=WORKFLOW, help="workflow in API form")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        check_python(sys.version_info[:2])
        if arguments[:1] == ["test"]:
            return run_tests(arguments[1:])
        return draw(parse_arguments(arguments))
    except (QuickstartError, ComfyUIError, OSError) as error:
        print(f"\nquickstart: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nquickstart: stopped; the next run goes on from here.", file=sys.stderr)
        return 130


def check_python(version: tuple[int, ...]) -> None:
    """Raises when the interpreter is too old for ComfyUI and torch."""
    if version < (3, 10):
        raise QuickstartError(
            f"Python 3.10 or newer is needed, this is {'.'.join(map(str, version))}. Run it with "
            "a newer one: 'python3.12 quickstart.py', or 'py -3.12 quickstart.py' on Windows."
        )


def draw(options: argparse.Namespace) -> int:
    """Draws the workflow's picture with the user's changes and saves it."""
    workflow = changed_workflow(read_workflow(options.workflow), options)
    sketches = sketch_files(workflow, options.sketch)
    port = choose_port(options.port)
    python, comfyui = prepare(options.comfyui)
    link_pack(comfyui / "custom_nodes")
    with start_server(python, comfyui, port) as server:
        check_pack(server, workflow)
        for node, path in sketches.items():
            workflow[node]["inputs"]["image"] = server.upload_image(path)
        for path in save_pictures(run(server, workflow)):
            print(f"Saved {path}")
        if options.keep:
            keep(server)
    return 0


def changed_workflow(workflow: Workflow, options: argparse.Namespace) -> Workflow:
    """Returns a copy of the workflow with the given prompt, alpha, seed and steps."""
    workflow = copy.deepcopy(workflow)
    wanted = {
        ("AnimeSketchNetApply", "alpha"): options.alpha,
        ("KSampler", "seed"): options.seed,
        ("KSampler", "steps"): options.steps,
    }
    for (kind, name), value in wanted.items():
        if value is not None:
            set_inputs(workflow, kind, name, value)
    if options.prompt is not None:
        set_prompt(workflow, options.prompt)
    return workflow


def sketch_files(workflow: Workflow, sketch: Path | None) -> dict[str, Path]:
    """Says which file each LoadImage node is to get: the user's, or the one we ship."""
    if sketch is not None:
        if not sketch.is_file():
            raise QuickstartError(f"There is no picture {sketch.resolve()} (--sketch).")
        return dict.fromkeys(nodes_of(workflow, "LoadImage"), sketch)
    loaders = {key: node for key, node in workflow.items() if node["class_type"] == "LoadImage"}
    files = {key: SKETCHES / str(node["inputs"]["image"]) for key, node in loaders.items()}
    return {key: path for key, path in files.items() if path.is_file()}


def choose_port(port: int | None) -> int:
    """Returns the wanted port if it is free, or any free one."""
    if port is None:
        return free_port()
    if not 1024 <= port <= 65535:
        raise QuickstartError(f"--port must be from 1024 to 65535, not {port}.")
    if port_is_busy(port):
        raise QuickstartError(
            f"Port {port} is busy, perhaps with a ComfyUI that runs already. Stop that program, "
            "choose another --port, or leave it out: then a free one is taken."
        )
    return port


def start_server(python: Path, comfyui: Path, port: int) -> ComfyUIServer:
    """Returns a server that starts when its ``with`` block is entered."""
    arguments = ["--disable-api-nodes", "--database-url", f"sqlite:///{VENV / 'comfyui.db'}"]
    if not has_accelerator(python):
        arguments.append("--cpu")
    print(f"Starting {comfyui} on {'the CPU' if '--cpu' in arguments else 'the GPU'} ...")
    return ComfyUIServer(python, comfyui, port, VENV / "comfyui.log", arguments)


def check_pack(server: ComfyUIServer, workflow: Workflow) -> None:
    """Raises with the server's own words when it started but could not load this pack."""
    kinds = {node["class_type"] for node in workflow.values()}
    missing = [k for k in sorted(kinds) if k.startswith(PACK_NAME) and not server.object_info(k)]
    if missing:
        words = [f"    {line}" for line in server.log_text().splitlines() if PACK_NAME in line]
        raise QuickstartError(
            f"ComfyUI runs but did not load {', '.join(missing)} of this pack. Its log "
            f"({server.log}) says:\n" + "\n".join(words[-8:])
        )


def run(server: ComfyUIServer, workflow: Workflow) -> dict[str, bytes]:
    """Runs the workflow with a progress bar; returns its pictures by file name."""
    try:
        return server.images(server.run(workflow, progress_display(workflow)))
    except ServerEndedError as error:
        raise QuickstartError(f"{error}\n{server.log_tail()}") from error
    except ComfyUIError as error:
        raise QuickstartError(f"{error}\nAll of the server's output: {server.log}") from error


def progress_display(workflow: Workflow) -> OnProgress:
    """Returns a function that draws the progress bar of the node at work."""
    started = time.monotonic()

    def show(node: str, done: int, total: int) -> None:
        title = workflow.get(node, {}).get("_meta", {}).get("title", "")
        bar = "#" * (30 * done // total) if total else ""
        show_status(f"[{bar:<30}] {done}/{total} {title} {time.monotonic() - started:.0f} s")
        if done == total and sys.stdout.isatty():
            print()

    return show


def save_pictures(pictures: dict[str, bytes]) -> list[Path]:
    """Writes the pictures into output/ under names that are free there."""
    OUTPUT.mkdir(exist_ok=True)
    paths = []
    for name, content in pictures.items():
        path, number = OUTPUT / name, 1
        while path.exists():
            number += 1
            path = OUTPUT / f"{Path(name).stem}-{number}{Path(name).suffix}"
        path.write_bytes(content)
        paths.append(path)
    if not paths:
        raise QuickstartError("The workflow ran but saved no picture; it needs a SaveImage node.")
    return paths


def keep(server: ComfyUIServer) -> None:
    """Waits until the user or the server ends."""
    print(f"ComfyUI stays up: open {server.url} in a browser; Ctrl-C here stops it.", flush=True)
    try:
        while server.process and server.process.poll() is None:
            time.sleep(0.5)
    except KeyboardInterrupt:
        print("\nStopping ComfyUI.")


def run_tests(arguments: Sequence[str]) -> int:
    """Installs all that the project can use, then runs every check; the tests come last."""
    python, comfyui = prepare_venv(find_comfyui(None))
    extras = f"{ROOT}[train,data,eval,dev]"
    project = ROOT / "pyproject.toml"
    install(python, "what training and the tests need", [*TORCH, "-e", extras], project)
    checks = (
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["pyright", "--pythonpath", str(python)],
        ["pytest", *arguments],
    )
    environment = {
        **os.environ,
        "COMFYUI_PATH": str(comfyui),
        "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1",  # it would ask the network for a newer version
    }
    failed = [check for check in checks if not passes(python, check, environment)]
    for check in failed:
        print(f"quickstart: failed: {' '.join(check)}", file=sys.stderr)
    return 1 if failed else 0


def passes(python: Path, check: Sequence[str], environment: dict[str, str]) -> bool:
    """Runs one check in the project's folder."""
    print(f"\n$ {' '.join(check)}", flush=True)
    command = [str(python), "-m", *check]
    with child(command, stdin=None, cwd=ROOT, env=environment) as process:
        process.wait()
    return process.returncode == 0


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # seen at once in a file or pipe too
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: no orphans
    sys.exit(main())
