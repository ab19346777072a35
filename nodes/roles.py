"""Which conditioning gets the sketch and which the unconditional tokens.

ComfyUI calls the UNet for several lists of conditionings at once and numbers them in the order of
the call. That order says nothing reliable: the usual guider gives [positive, negative], dual CFG
[negative, middle, positive], self-attention guidance [negative] alone. What each list is, the
guider knows, so it is asked: the very list first, then the conditionings' uuids (context windows
copy the lists), then the position as the last resort.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Conds = Sequence[Mapping[str, Any]]
"""One list of conditionings, as the guider holds it while sampling."""

SKETCH_ROLE = "positive"  # ComfyUI marks dual CFG's middle prompt as negative, so no sketch for it


def sketch_gets(conds: Sequence[Conds | None], guider: Any) -> tuple[bool, ...]:
    """Says for each list of a call whether it gets the sketch.

    Args:
        conds: the lists of the call; None where the guider leaves one out.
        guider: ComfyUI's guider with `conds` and `original_conds` by role, or None if unknown.

    Returns:
        One entry for each list: True for the sketch, False for the unconditional tokens.
    """
    roles = _lists_by_role(guider)
    if SKETCH_ROLE not in roles:
        return tuple(position == 0 for position in range(len(conds)))
    owners = _uuid_owners(guider)
    return tuple(
        cond is not None and _gets(_role(cond, roles, owners), position, len(conds))
        for position, cond in enumerate(conds)
    )


def own_entries(
    conds: Sequence[Conds | None], guider: Any
) -> Iterator[tuple[int, Mapping[str, Any], bool]]:
    """Goes through all conditionings of a call.

    Yields:
        The number of the list, the conditioning, and whether it belongs there: ComfyUI puts copies
        of area prompts, with all that they carry, into the other roles' lists.
    """
    roles = _lists_by_role(guider)
    owners = _uuid_owners(guider)
    for number, cond in enumerate(conds):
        role = _role(cond, roles, owners) if cond is not None else None
        for entry in cond or ():
            owner = owners.get(entry.get("uuid"), role)
            yield number, entry, role is None or owner == role


def _gets(role: str | None, position: int, count: int) -> bool:
    if role is not None:
        return role == SKETCH_ROLE
    # A list that nobody knows: alone in a call, it is an extra prompt (the older Perp-Neg node's
    # empty one); beside others, something that a node made of the list in that position.
    return position == 0 and count > 1


def _role(cond: Conds, roles: Mapping[str, Conds], owners: Mapping[Any, str]) -> str | None:
    for role, known in roles.items():
        if cond is known:
            return role
    # Area conditionings appear as copies in the other roles' lists, behind the list's own entries.
    uuids = (entry.get("uuid") for entry in cond)
    return next((owners[uuid] for uuid in uuids if uuid in owners), None)


def _lists_by_role(guider: Any) -> Mapping[str, Conds]:
    return getattr(guider, "conds", None) or {}


def _uuid_owners(guider: Any) -> dict[Any, str]:
    originals: Mapping[str, Conds] = getattr(guider, "original_conds", None) or {}
    return {entry["uuid"]: role for role, conds in originals.items() for entry in conds}
