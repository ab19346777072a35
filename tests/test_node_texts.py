"""Every node has a help page and texts in three languages, read from the source without ComfyUI."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
LANGUAGES = ("en", "zh", "ja")


@dataclass(frozen=True)
class Node:
    """What a node's schema says, as far as texts are concerned."""

    node_id: str
    title: str
    inputs: tuple[str, ...]
    outputs: int


def constant(value: ast.expr) -> str:
    assert isinstance(value, ast.Constant), f"line {value.lineno}: write the text itself"
    return value.value


def read_nodes() -> Iterator[Node]:
    for path in sorted((ROOT / "nodes").glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "schema":
                fields = {keyword.arg: keyword.value for keyword in call.keywords}
                inputs, outputs = fields["inputs"], fields["outputs"]
                assert isinstance(inputs, ast.List), path.name
                assert isinstance(outputs, ast.List), path.name
                calls = [entry for entry in inputs.elts if isinstance(entry, ast.Call)]
                assert len(calls) == len(inputs.elts), path.name
                yield Node(
                    constant(fields["node_id"]),
                    constant(fields["display_name"]),
                    tuple(constant(entry.args[0]) for entry in calls),
                    len(outputs.elts),
                )


NODES = {node.node_id: node for node in read_nodes()}


def texts(language: str) -> dict[str, Any]:
    path = ROOT / "locales" / language / "nodeDefs.json"
    return json.loads(path.read_text(encoding="utf-8"))


def read_tables(page: str) -> dict[str, list[str]]:
    """The first column of each table, by its heading."""
    blocks = (block.splitlines() for block in page.split("\n\n") if block.startswith("|"))
    columns = ([row.split("|")[1].strip() for row in block] for block in blocks)
    return {heading: names for heading, _, *names in columns}


def test_all_nodes_of_the_pack_are_read() -> None:
    tree = ast.parse((ROOT / "nodes" / "__init__.py").read_text(encoding="utf-8"))
    [listed] = [entry.value for entry in ast.walk(tree) if isinstance(entry, ast.Return)]
    assert isinstance(listed, ast.List)
    assert len(NODES) == len(listed.elts) > 0


def test_there_are_texts_for_nothing_else() -> None:
    assert {page.stem for page in (ROOT / "web" / "docs").glob("*.md")} == set(NODES)
    for language in LANGUAGES:
        assert set(texts(language)) == set(NODES)


@pytest.mark.parametrize("node", NODES.values(), ids=NODES)
def test_a_help_page_names_every_input_and_output(node: Node) -> None:
    page = (ROOT / "web" / "docs" / f"{node.node_id}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {node.title}\n")
    tables = read_tables(page)
    assert tables.get("input", []) == list(node.inputs)
    assert len(tables.get("output", [])) == node.outputs


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node", NODES.values(), ids=NODES)
def test_every_input_and_output_has_its_texts(node: Node, language: str) -> None:
    words = texts(language)[node.node_id]
    assert words["display_name"]
    assert words["description"]
    assert tuple(words["inputs"]) == node.inputs
    assert list(words["outputs"]) == [str(number) for number in range(node.outputs)]
    for entry in (*words["inputs"].values(), *words["outputs"].values()):
        assert set(entry) == {"name", "tooltip"}
        assert all(entry.values())
