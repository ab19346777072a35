"""A workflow in ComfyUI's API form: read from its file, and given another prompt, seed or picture.

Standard library only, as comfyui_server.py: quickstart.py needs it before anything is installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfyui_server import ComfyUIError

if TYPE_CHECKING:
    from comfyui_server import Workflow

# The inputs that take the prompt: of CLIPTextEncode, of SDXL's form of it, of SD3's and Flux's.
PROMPTS = ("text", "text_g", "text_l", "clip_l", "clip_g", "t5xxl")
# Where a node that changes a conditioning takes it from: ControlNet, areas, combinations.
CONDITIONINGS = ("positive", "conditioning", "conditioning_1", "conditioning_to")


class WorkflowError(ComfyUIError):
    """A file that is no workflow in API form, or a workflow that lacks a node."""


def read_workflow(path: Path) -> Workflow:
    """Reads a workflow in ComfyUI's API form.

    Raises:
        WorkflowError: there is no such file, or it holds something else.
    """
    try:
        workflow = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WorkflowError(f"There is no workflow {path}.") from None
    except (ValueError, OSError, RecursionError) as error:
        raise WorkflowError(f"{path} is not JSON: {error}.") from None
    nodes = workflow.values() if isinstance(workflow, dict) else [None]
    if not all(_is_node(node) for node in nodes):
        raise WorkflowError(f"{path} is no API workflow; in ComfyUI use 'Export (API)'.")
    return workflow


def _is_node(node: Any) -> bool:
    if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
        return False
    return isinstance(node.get("inputs"), dict)


def nodes_of(workflow: Workflow, kind: str) -> Workflow:
    """Returns the workflow's nodes of one class, by id.

    Raises:
        WorkflowError: there is none.
    """
    found = {key: node for key, node in workflow.items() if node["class_type"] == kind}
    if not found:
        raise WorkflowError(f"The workflow has no {kind} node, so it cannot be changed there.")
    return found


def set_inputs(workflow: Workflow, kind: str, name: str, value: Any) -> None:
    """Sets an input of all nodes of one class.

    Raises:
        WorkflowError: there is none.
    """
    for node in nodes_of(workflow, kind).values():
        node["inputs"][name] = value


def set_prompt(workflow: Workflow, prompt: str) -> None:
    """Sets the text from which the positive conditioning of each KSampler comes.

    Raises:
        WorkflowError: there is no KSampler, or its conditioning comes from no text.
    """
    for key, sampler in nodes_of(workflow, "KSampler").items():
        node, seen = sampler, set[str]()
        while not (texts := [name for name in PROMPTS if name in node["inputs"]]):
            links = (node["inputs"].get(name) for name in CONDITIONINGS)
            link = next((link for link in links if isinstance(link, list)), None)
            if link is None or link[0] in seen or link[0] not in workflow:
                raise WorkflowError(
                    f"The positive prompt of node {key} (KSampler) comes from a "
                    f"{node['class_type']} node, which has no text. Lead it to a CLIPTextEncode."
                )
            seen.add(link[0])
            node = workflow[link[0]]
        node["inputs"].update(dict.fromkeys(texts, prompt))
