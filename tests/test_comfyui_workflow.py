"""Where prompts, seeds and pictures go in workflows of other shapes than the shipped ones."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from comfyui_workflow import WorkflowError, set_inputs, set_prompt


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


WORKFLOW = {
    "1": node("CLIPTextEncode", text="a girl", clip=["9", 1]),
    "2": node("CLIPTextEncode", text="blurry", clip=["9", 1]),
    "3": node("ControlNetApplyAdvanced", positive=["1", 0], negative=["2", 0], strength=0.5),
    "4": node("ConditioningSetMask", conditioning=["3", 0], strength=1.0),
    "5": node("KSampler", positive=["4", 0], negative=["3", 1], seed=1),
    "6": node("CLIPTextEncodeSDXL", text_g="a girl", text_l="a girl", width=1024),
    "7": node("KSampler", positive=["6", 0], negative=["2", 0], seed=2),
}


def test_the_prompt_is_followed_through_what_changes_it() -> None:
    workflow = copy.deepcopy(WORKFLOW)
    set_prompt(workflow, "a boy")
    assert workflow["1"]["inputs"] == {"text": "a boy", "clip": ["9", 1]}
    assert workflow["6"]["inputs"] == {"text_g": "a boy", "text_l": "a boy", "width": 1024}
    assert {k: v for k, v in workflow.items() if k not in "16"} == {
        k: v for k, v in WORKFLOW.items() if k not in "16"
    }


def test_a_text_that_another_node_makes_is_replaced() -> None:
    workflow = copy.deepcopy(WORKFLOW)
    workflow["1"]["inputs"]["text"] = ["8", 0]
    set_prompt(workflow, "a boy")
    assert workflow["1"]["inputs"]["text"] == "a boy"


def test_all_nodes_of_a_class_are_set() -> None:
    workflow = copy.deepcopy(WORKFLOW)
    set_inputs(workflow, "KSampler", "seed", 7)
    assert [workflow[key]["inputs"]["seed"] for key in "57"] == [7, 7]
    with pytest.raises(WorkflowError, match="has no LoadImage node"):
        set_inputs(workflow, "LoadImage", "image", "x.png")


@pytest.mark.parametrize(
    "source",
    [
        node("ConditioningZeroOut", strength=1.0),
        node("ConditioningSetMask", conditioning=["3", 0]),  # a ring
        node("ConditioningSetMask", conditioning=["77", 0]),  # to nowhere
    ],
)
def test_a_prompt_from_no_text_is_an_error(source: dict[str, Any]) -> None:
    workflow = WORKFLOW | {"3": node("Reroute", positive=["1", 0]), "1": source}
    with pytest.raises(WorkflowError, match=r"node 5 \(KSampler\) comes from a .*no text"):
        set_prompt(copy.deepcopy(workflow), "a boy")
