"""The arrows between the packages: nodes -> animesketchnet_core <- training, and no other.

Imports are read from the source, those inside functions too; then a real ComfyUI loads the pack
and says what came along and how long it took.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
TENSORS = {"torch", "einops", "safetensors", "numpy", "PIL"}  # what ComfyUI itself installs
COMFYUI = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "node_helpers"}
OURS = {"animesketchnet_core", "training", "nodes", "tests", "quickstart", "installation"}
OURS |= {"comfyui_server", "comfyui_workflow"}
STANDARD = {"comfyui_server", "comfyui_workflow"}  # only the standard library: for whoever draws

# Absolute imports that a package may write, the standard library aside.
ALLOWED = {"animesketchnet_core": TENSORS, "nodes": TENSORS | COMFYUI}
FORBIDDEN = {"training": COMFYUI | (OURS - {"animesketchnet_core", "training"} - STANDARD)}
MOST_SECONDS = 0.05  # what the pack may add to ComfyUI's start
RELATIVE = {"nodes": {"nodes", "animesketchnet_core"}}  # else only the package itself


def imports(source: str, path: Path) -> Iterator[tuple[int, str]]:
    """Yields (line, dotted name) of each import; relative ones start with "/" and our package."""
    for node in ast.walk(ast.parse(source, str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.ImportFrom):
            folder = path.parts[: len(path.parts) - node.level]
            for name in [node.module] if node.module else [alias.name for alias in node.names]:
                yield node.lineno, "/" + ".".join((*folder, name))


def is_allowed(package: str, name: str) -> bool:
    top = name.lstrip("/").split(".")[0]
    if name.startswith("/"):
        return top in RELATIVE.get(package, {package})
    if top in sys.stdlib_module_names:
        return True
    return top in ALLOWED[package] if package in ALLOWED else top not in FORBIDDEN[package]


def offences(package: str, source: str, path: Path) -> list[str]:
    return [
        f"{path}:{line} imports {name.lstrip('/')}"
        for line, name in imports(source, path)
        if not is_allowed(package, name)
    ]


@pytest.mark.parametrize("package", ["animesketchnet_core", "nodes", "training"])
def test_each_package_imports_only_what_it_may(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = [
        offence
        for file in files
        for offence in offences(package, file.read_text("utf-8"), file.relative_to(ROOT))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("animesketchnet_core", "import diffusers"),
        ("animesketchnet_core", "from animesketchnet_core.adapter import x"),
        ("animesketchnet_core", "from ..nodes import x"),
        ("nodes", "import animesketchnet_core.adapter"),
        ("nodes", "def f():\n    from transformers import CLIPTokenizer"),
        ("nodes", "from ..training.models import x"),
        ("nodes", "import nodes"),
        ("training", "from ..animesketchnet_core.adapter import x"),
        ("training", "import comfy.utils"),
        ("training", "from nodes import x"),
        ("training", "import quickstart"),
    ],
)
def test_the_check_finds(package: str, line: str) -> None:
    assert len(offences(package, line, Path(package) / "module.py")) == 1


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("animesketchnet_core", "from .adapter import x\nfrom . import mini\nimport torch.nn"),
        (
            "nodes",
            "from ..animesketchnet_core.adapter import x\nfrom .. import animesketchnet_core",
        ),
        ("nodes", "from comfy_api.latest import io\nimport folder_paths"),
        ("training", "from animesketchnet_core.adapter import x\nimport diffusers"),
        ("training", "from comfyui_server import x"),
    ],
)
def test_the_check_lets_pass(package: str, line: str) -> None:
    assert offences(package, line, Path(package) / "module.py") == []


@pytest.mark.parametrize("name", ["quickstart", "installation", *sorted(STANDARD)])
def test_what_runs_before_the_install_needs_only_python(name: str) -> None:
    source = (ROOT / f"{name}.py").read_text("utf-8")
    tops = {top.split(".")[0] for _, top in imports(source, Path(f"{name}.py"))}
    allowed = STANDARD if name in STANDARD else STANDARD | {"installation"}
    assert tops <= sys.stdlib_module_names | allowed


def test_no_test_imports_the_nodes_by_their_top_level_name() -> None:
    for file in sorted((ROOT / "tests").rglob("*.py")):
        tops = {name.split(".")[0] for _, name in imports(file.read_text("utf-8"), Path("x.py"))}
        assert "nodes" not in tops, file


LOAD_THE_PACK = """
import asyncio, json, sys, time
sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import nodes
from comfy_config import config_parser
folder, bytecode = sys.stdin.read().splitlines()
config_parser.extract_node_configuration(folder)  # ComfyUI's own reading of pyproject.toml
before = set(sys.modules)
sys.dont_write_bytecode, sys.pycache_prefix = False, bytecode
rounds = []
for _ in range(6):  # each anew; only the first has to compile the pack
    begun = time.process_time()
    loaded = asyncio.run(nodes.load_custom_node(folder))
    seconds = time.process_time() - begun
    names = set(sys.modules) - before
    new = {name.split(".")[0] for name in names if name[0] not in "/\\\\"}
    rounds.append({"loaded": loaded, "seconds": seconds, "new": sorted(new)})
    for name in names:
        del sys.modules[name]
known = sorted(name for name in nodes.NODE_CLASS_MAPPINGS if name.startswith("AnimeSketchNet"))
print(json.dumps({"rounds": rounds, "nodes": known}))
"""


@pytest.fixture(scope="module")
def report(comfyui_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ComfyUI's own loader makes of the pack, several times in one process."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD_THE_PACK],
        input=f"{ROOT}\n{tmp_path_factory.mktemp('bytecode')}",
        cwd=comfyui_folder,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert all(each["loaded"] for each in found["rounds"]), done.stderr
    return found


def test_the_pack_pulls_nothing_heavy_into_comfyui(report: dict[str, Any]) -> None:
    assert "AnimeSketchNetApply" in report["nodes"]
    allowed = TENSORS | COMFYUI | sys.stdlib_module_names
    assert set(report["rounds"][0]["new"]) <= allowed, "heavier than ComfyUI itself"


def test_the_pack_loads_in_fifty_milliseconds(report: dict[str, Any]) -> None:
    """The processor's time of the best round, so that a busy machine does not fail it."""
    seconds = [each["seconds"] for each in report["rounds"]]
    assert min(seconds) < MOST_SECONDS, seconds
