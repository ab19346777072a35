"""The shipped workflows: well-formed UI graphs whose API forms say the same, in a real ComfyUI."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comfyui_server import ComfyUIServer

ROOT = Path(__file__).parents[1]
GRAPHS = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
NOTES = {"Note", "MarkdownNote"}


def read(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


def read_api(name: str) -> dict[str, Any]:
    return read(f"api/{name}")


def test_each_graph_has_its_api_form() -> None:
    assert len(GRAPHS) == 9
    assert sorted(path.stem for path in (ROOT / "workflows/api").glob("*.json")) == GRAPHS


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_follows_the_frontends_schema(name: str) -> None:
    """The rules of ComfyUI's frontend for workflows of version 0.4."""
    graph = read(name)
    assert graph["version"] == 0.4
    ids = [node["id"] for node in graph["nodes"]]
    assert len(set(ids)) == len(ids)
    assert graph["last_node_id"] == max(ids)
    assert graph["last_link_id"] == max(link[0] for link in graph["links"])
    for node in graph["nodes"]:
        assert len(node["pos"]) == len(node["size"]) == 2
        assert (node["flags"], node["mode"]) == ({}, 0)
        assert isinstance(node["order"], int)
        assert isinstance(node["properties"], dict)
    assert any(node["type"] in NOTES for node in graph["nodes"])


@pytest.mark.parametrize("name", GRAPHS)
def test_both_ends_of_a_link_know_it(name: str) -> None:
    graph = read(name)
    nodes = {node["id"]: node for node in graph["nodes"]}
    ends = set()
    for number, source, slot, target, place, kind in graph["links"]:
        output, entry = nodes[source]["outputs"][slot], nodes[target]["inputs"][place]
        assert number in output["links"]
        assert entry["link"] == number
        assert output["type"] == entry["type"] == kind
        ends.add(number)
    for node in graph["nodes"]:
        assert {entry["link"] for entry in node["inputs"]} <= ends | {None}
        assert {link for output in node["outputs"] for link in output["links"] or ()} <= ends


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_samples_as_the_paper_does(name: str) -> None:
    workflow = read_api(name)
    nodes = {node["class_type"]: node["inputs"] for node in workflow.values()}
    sampler = nodes.get("KSampler") or nodes["AnimeSketchNetAlphaSweep"]
    assert (sampler["sampler_name"], sampler["scheduler"]) == ("ddim", "ddim_uniform")
    assert sampler["steps"] == 50
    assert name not in ("mini_quickstart", "sd15") or nodes["AnimeSketchNetApply"]["alpha"] == 0.5
    prompts = [n["inputs"]["text"] for n in workflow.values() if "text" in n["inputs"]]
    assert sum("anime sketch" in prompt for prompt in prompts) == 1


@pytest.mark.parametrize("name", [name for name in GRAPHS if not name.startswith("mini")])
def test_missing_models_can_be_downloaded_by_comfyui(name: str) -> None:
    """ComfyUI offers direct links to safetensors files, saved under the name that a node uses."""
    used = {
        value
        for node in read_api(name).values()
        for value in node["inputs"].values()
        if isinstance(value, str) and value.endswith(".safetensors")
    }
    graph = read(name)
    models = [m for node in graph["nodes"] for m in node["properties"].get("models", ())]
    [note] = [node["widgets_values"][0] for node in graph["nodes"] if node["type"] in NOTES]
    assert {model["name"] for model in models} == used
    models += graph["models"]  # the encoder, which Load Sketch Encoder finds under any name
    assert {model["directory"] for model in models} >= {"checkpoints", "clip_vision", "ipadapter"}
    for model in models:
        assert model["url"].startswith("https://huggingface.co/")
        assert "/resolve/main/" in model["url"]
        assert model["url"].endswith(".safetensors")
        assert f"[{model['name']}]({model['url']})" in note


@pytest.mark.parametrize("name", GRAPHS)
def test_the_pictures_are_shipped_and_lie_in_the_input_folder(
    comfyui: ComfyUIServer, name: str
) -> None:
    loaders = [n["inputs"] for n in read_api(name).values() if n["class_type"] == "LoadImage"]
    assert loaders
    for inputs in loaders:
        shipped = (ROOT / "workflows" / inputs["image"]).read_bytes()
        assert comfyui.get("/view", filename=inputs["image"], type="input") == shipped


def to_api(graph: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """Turns a UI graph into the API form, as ComfyUI's frontend does."""
    sources = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    return {
        str(node["id"]): {
            "class_type": node["type"],
            "inputs": _inputs(node, info[node["type"]], sources),
        }
        for node in graph["nodes"]
        if node["type"] not in NOTES
    }


def _inputs(node: dict[str, Any], info: dict[str, Any], sources: dict[int, list]) -> dict[str, Any]:
    links = {entry["name"]: entry["link"] for entry in node["inputs"]}
    values = list(node["widgets_values"])
    inputs = {}
    for part in ("required", "optional"):
        for name, (kind, *more) in info["input"].get(part, {}).items():
            options = more[0] if more else {}
            if links.get(name) is not None:
                inputs[name] = sources[links[name]]
            elif isinstance(kind, list) or kind in WIDGETS:
                inputs[name] = values.pop(0)
                extra = options.get("control_after_generate"), options.get("image_upload")
                del values[: sum(map(bool, extra))]  # widgets that the server does not know
    assert values == [], f"node {node['id']} has too many widget values"
    return inputs


@pytest.mark.parametrize("name", GRAPHS)
def test_both_forms_say_the_same(comfyui: ComfyUIServer, name: str) -> None:
    written = read_api(name)
    for node in written.values():
        assert node.pop("_meta")["title"]
    assert to_api(read(name), comfyui.object_info()) == written


@pytest.mark.parametrize("name", GRAPHS)
def test_values_and_links_fit_the_nodes_own_definitions(comfyui: ComfyUIServer, name: str) -> None:
    workflow, info = read_api(name), comfyui.object_info()
    for node in workflow.values():
        definition = info[node["class_type"]]["input"]
        known = {**definition.get("required", {}), **definition.get("optional", {})}
        assert set(definition.get("required", {})) <= set(node["inputs"]) <= set(known)
        for key, value in node["inputs"].items():
            kind, options = (*known[key], {})[:2]
            if isinstance(value, list):
                source = info[workflow[value[0]]["class_type"]]
                assert source["output"][value[1]] == kind
            elif kind in ("INT", "FLOAT"):
                assert options["min"] <= value <= options["max"]
            elif isinstance(kind, list) and not key.endswith("_name") and key != "image":
                assert value in kind  # file names depend on what the user has


def test_comfyui_lists_the_graphs_as_templates(comfyui: ComfyUIServer) -> None:
    [(pack, names)] = json.loads(comfyui.get("/api/workflow_templates")).items()
    assert sorted(names) == GRAPHS
    for name in names:
        assert json.loads(comfyui.get(f"/api/workflow_templates/{pack}/{name}.json")) == read(name)


SIZES = {"mini_alpha_sweep": (640, 142), "mini_two_references": (256, 128)}


@pytest.mark.parametrize("name", [name for name in GRAPHS if name.startswith("mini")])
def test_what_the_mini_models_allow_runs(comfyui: ComfyUIServer, name: str) -> None:
    workflow = read_api(name)
    for node in workflow.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 2
    pictures = comfyui.images(comfyui.run(workflow))
    assert len(pictures) == (4 if name == "mini_batch" else 1)
    for content in pictures.values():
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.size == SIZES.get(name, (128, 128))
