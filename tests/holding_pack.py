"""A ComfyUI pack for tests: it holds the server's work at a chosen place until told to go on.

A place is "module:name" or "module:Class.name"; our modules go by their names in this repository.
What a test does while the work is held does not depend on how fast the machine is.
"""

from __future__ import annotations

import functools
import gc
import importlib
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from aiohttp import web
from server import PromptServer  # ComfyUI's

NODE_CLASS_MAPPINGS: dict[str, Any] = {}
OURS = "AnimeSketchNet"
GO_ON_AFTER = 120.0  # seconds: a test that failed does not leave the server held


class Holder:
    """Holds work at a call of a place; each place is held once."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.held_at = ""
        self.go_on = threading.Event()
        self.undo: list[Callable[[], None]] = []

    def watch(self, places: list[str], call: int) -> None:
        for place in places:
            owner, name = self.owner(place)
            original = vars(owner)[name]
            put = functools.partial(type.__setattr__ if isinstance(owner, type) else setattr, owner)
            put(name, self.wrapped(place, original, call))
            self.undo.append(functools.partial(put, name, original))

    def wrapped(self, place: str, original: Any, call: int) -> Any:
        is_method = isinstance(original, classmethod)
        function = original.__func__ if is_method else original

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls[place] += 1
            if self.calls[place] == call:
                self.go_on.clear()
                self.held_at = place
                self.go_on.wait(GO_ON_AFTER)
            return function(*args, **kwargs)

        return classmethod(counted) if is_method else counted

    @staticmethod
    def owner(place: str) -> tuple[Any, str]:
        module, _, path = place.partition(":")
        if not module.startswith("comfy"):
            pack = next(name for name in sys.modules if name.endswith(f"/{OURS}"))
            module = f"{pack}.{module}"
        *parents, name = path.split(".")
        return functools.reduce(getattr, parents, importlib.import_module(module)), name

    def release(self) -> None:
        self.held_at = ""
        self.go_on.set()

    def forget(self) -> None:
        self.release()
        while self.undo:
            self.undo.pop()()
        self.calls.clear()


holder = Holder()
routes = PromptServer.instance.routes


@routes.post("/holding/watch")
async def watch(request: web.Request) -> web.Response:
    holder.forget()
    holder.watch(**await request.json())
    return web.json_response({})


@routes.post("/holding/go_on")
async def go_on(request: web.Request) -> web.Response:
    holder.release()
    return web.json_response({})


@routes.post("/holding/forget")
async def forget(request: web.Request) -> web.Response:
    holder.forget()
    return web.json_response({})


@routes.get("/holding")
async def state(request: web.Request) -> web.Response:
    return web.json_response({"held_at": holder.held_at, "calls": holder.calls})


@routes.get("/holding/alive")
async def alive(request: web.Request) -> web.Response:
    """How many objects of our classes there are."""
    gc.collect()
    found = (type(thing) for thing in gc.get_objects())
    ours = (kind.__name__ for kind in found if f"/{OURS}." in str(kind.__module__))
    return web.json_response(Counter(ours))
