"""Which list of conditionings gets the sketch; the module needs nothing of ComfyUI."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest


@pytest.fixture(scope="module")
def roles() -> ModuleType:
    path = Path(__file__).parents[1] / "nodes" / "roles.py"
    spec = importlib.util.spec_from_file_location("roles_under_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entry(uuid: str) -> dict:
    return {"uuid": uuid}


@pytest.fixture
def guider() -> SimpleNamespace:
    """A dual CFG guider; its positive prompt has two parts, its middle one a copy of the first."""
    originals = {
        "positive": [entry("p1"), entry("p2")],
        "middle": [entry("m")],
        "negative": [entry("n")],
    }
    conds = {role: [dict(e) for e in entries] for role, entries in originals.items()}
    conds["middle"].append(entry("p1"))  # ComfyUI copies area prompts so
    return SimpleNamespace(original_conds=originals, conds=conds)


def test_the_very_list_is_known_in_any_order(roles: ModuleType, guider: SimpleNamespace) -> None:
    conds = guider.conds
    order = [conds["negative"], conds["middle"], conds["positive"]]
    assert roles.sketch_gets(order, guider) == (False, False, True)
    assert roles.sketch_gets(order[::-1], guider) == (True, False, False)


def test_a_list_left_out_gets_nothing(roles: ModuleType, guider: SimpleNamespace) -> None:
    assert roles.sketch_gets([guider.conds["positive"], None], guider) == (True, False)
    assert roles.sketch_gets([None, guider.conds["negative"]], guider) == (False, False)


def test_one_list_alone_is_known(roles: ModuleType, guider: SimpleNamespace) -> None:
    assert roles.sketch_gets([guider.conds["negative"]], guider) == (False,)
    assert roles.sketch_gets([guider.conds["positive"]], guider) == (True,)


def test_copied_lists_are_known_by_their_first_own_entry(
    roles: ModuleType, guider: SimpleNamespace
) -> None:
    copies = [[dict(e) for e in guider.conds[role]] for role in ("middle", "positive", "negative")]
    assert roles.sketch_gets(copies, guider) == (False, True, False)


def test_an_unknown_list_beside_others_goes_by_its_position(
    roles: ModuleType, guider: SimpleNamespace
) -> None:
    unknown = [entry("x")]
    assert roles.sketch_gets([unknown, guider.conds["negative"]], guider) == (True, False)
    assert roles.sketch_gets([guider.conds["positive"], unknown], guider) == (True, False)


def test_an_unknown_list_alone_is_an_extra_prompt(
    roles: ModuleType, guider: SimpleNamespace
) -> None:
    assert roles.sketch_gets([[entry("x")]], guider) == (False,)


@pytest.mark.parametrize("stranger", [None, SimpleNamespace(), SimpleNamespace(conds={})])
def test_without_a_guider_the_first_list_is_the_prompt(roles: ModuleType, stranger: object) -> None:
    assert roles.sketch_gets([[entry("a")], [entry("b")]], stranger) == (True, False)
    assert roles.sketch_gets([[entry("a")]], stranger) == (True,)
