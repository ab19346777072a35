"""The workflows in a real browser: Chromium with the frontend that ComfyUI serves."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from animesketchnet_core.alpha_curve import AlphaCurve
from animesketchnet_core.mini import MINI_FOLDER, adapter_path
from tests.every_node import NO_FILE, every_node, saving_a_sketch

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.conftest import Server

ROOT = Path(__file__).parents[1]
GRAPHS = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
OUTSIDE = ("https://", "Error fetching file size")  # of downloads; ComfyUI's own policy forbids it
PICTURES = os.environ.get("ANIMESKETCHNET_PICTURES")  # a folder to draw the documentation's into

RECTANGLES = """() => app.graph.nodes.map(node => {
    const [x, y, width, height] = node.getBounding();
    return [node.title, x, y, x + width, y + height];
})"""
MARKED = "() => app.graph.nodes.filter(node => node.has_errors).length"
TO_API = "async () => (await app.graphToPrompt()).output"


class Frontend:
    """ComfyUI's page, and the faults that its console told of since the last look."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self._faults: list[str] = []
        page.on("pageerror", lambda error: self._faults.append(str(error)))
        page.on("console", self._hear)
        page.goto(url)
        page.wait_for_function("() => window.app?.graph && app.vueAppReady", timeout=120_000)

    def _hear(self, message: Any) -> None:
        where = f"{message.text} ({message.location.get('url')})"
        if message.type == "error" and not any(part in where for part in OUTSIDE):
            self._faults.append(where)

    def faults(self) -> list[str]:
        """Returns what went wrong since the last call."""
        faults, self._faults = self._faults, []
        return faults

    def open_template(self, name: str) -> None:
        """Opens a template as a user does, in the template browser."""
        self.page.get_by_text("Templates", exact=True).first.click()
        self.page.get_by_text("AnimeSketchNet", exact=True).click()
        card = self.page.get_by_test_id(f"template-workflow-{name}")
        card.scroll_into_view_if_needed()
        self.faults()  # ComfyUI's own templates are not installed: their list is missing
        self.page.evaluate("() => { app.graph.extra = {left: true}; }")
        card.click()
        self.page.wait_for_function("() => app.graph.nodes.length && !app.graph.extra?.left")
        self.page.wait_for_timeout(1000)  # dialogs come a moment later

    def place(self, node: int, widget: str, share: float) -> tuple[float, float]:
        """Returns the point of the window at a share of a widget's width."""
        return tuple(
            self.page.evaluate(
                """([id, name, share]) => {
                    const node = app.graph.getNodeById(id);
                    const widget = node.widgets.find(widget => widget.name === name);
                    const edge = 15;  // litegraph's margin of a widget
                    const x = node.pos[0] + edge + share * (node.size[0] - 2 * edge);
                    const [left, top] = app.canvasPosToClientPos([x, node.pos[1] + widget.y + 10]);
                    return [left, top];
                }""",
                [node, widget, share],
            )
        )

    def value(self, node: int, widget: str) -> Any:
        """Returns a widget's value."""
        return self.page.evaluate(
            "([id, name]) => app.graph.getNodeById(id).widgets.find(w => w.name === name).value",
            [node, widget],
        )

    def pixels(self, node: int) -> list[int]:
        """Waits for the picture that a node shows, and returns its width and height."""
        # What is out of sight is not loaded.
        self.page.evaluate("id => app.canvas.centerOnNode(app.graph.getNodeById(id))", node)
        self.page.wait_for_function(
            "id => app.graph.getNodeById(id).imgs?.[0]?.complete", arg=node, timeout=120_000
        )
        return self.page.evaluate(
            "id => (p => [p.naturalWidth, p.naturalHeight])(app.graph.getNodeById(id).imgs[0])",
            node,
        )

    def run(self, server: Server) -> None:
        """Presses Run, and waits for the end."""
        finished = len(json.loads(server.get("/history")))
        self.page.get_by_role("button", name="Run", exact=True).first.click()
        while len(histories := json.loads(server.get("/history"))) == finished:
            time.sleep(0.2)
        last = list(histories.values())[-1]
        assert last["status"]["status_str"] == "success", last["status"]["messages"]

    def picture_of(self, kind: str) -> Image.Image:
        """Returns a picture of the first node of a kind, away from the others."""
        left, top, right, bottom = self.page.evaluate(
            """kind => {
                const node = app.graph.nodes.find(node => node.type === kind);
                const {naturalWidth = 1, naturalHeight = 0} = node.imgs?.[0] ?? {};
                const wide = naturalWidth > 4 * naturalHeight ? 900 : 420;
                const width = naturalHeight ? wide : Math.max(node.size[0], 280);
                const preview = 220;  // pixels that the node keeps for it at least
                const shown = Math.min(width * naturalHeight / naturalWidth, naturalHeight);
                const more = 30 + shown - preview;
                node.setSize([width, node.size[1]]);
                if (naturalHeight) node.setSize([width, node.computeSize()[1] + more]);
                node.pos = [0, 10000];
                app.canvas.ds.scale = 1;
                app.canvas.centerOnNode(node);
                app.canvas.draw(true, true);
                const [x, y, w, h] = node.getBounding();
                return [[x, y], [x + w, y + h]].flatMap(p => app.canvasPosToClientPos(p));
            }""",
            kind,
        )
        self.page.wait_for_timeout(500)
        edge = 12
        clip = {"x": left - edge, "y": top - edge}
        clip |= {"width": right - left + 2 * edge, "height": bottom - top + 2 * edge}
        picture = Image.open(io.BytesIO(self.page.screenshot(clip=clip))).convert("RGB")
        self.page.evaluate(
            "kind => app.graph.nodes.find(n => n.type === kind).pos = [5000, 20000]", kind
        )
        return picture


@pytest.fixture(scope="module")
def frontend(comfyui: Server, browser: Browser) -> Iterator[Frontend]:
    """A page on the running server."""
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    # A first visit starts with the template browser; we open it ourselves.
    page.request.post(f"{comfyui.url}/settings", data={"Comfy.TutorialCompleted": True})
    frontend = Frontend(page, comfyui.url)
    page.wait_for_timeout(2000)
    news = page.get_by_text("Introducing Nodes 2.0").locator("xpath=../..").get_by_role("button")
    if news.count():
        news.last.click()
    # Settings that were never saved, templates that are not installed: ComfyUI's own.
    assert [fault for fault in frontend.faults() if "AnimeSketchNet" in fault] == []
    yield frontend
    page.close()


@pytest.mark.parametrize("name", GRAPHS)
def test_a_template_opens_as_it_was_written(frontend: Frontend, name: str) -> None:
    frontend.open_template(name)
    assert frontend.faults() == []
    assert frontend.page.get_by_text("Missing Node Types").count() == 0
    graph = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    models = [m for node in graph["nodes"] for m in node["properties"].get("models", ())]
    models += graph.get("models", ())
    if frontend.page.get_by_text("Missing Models", exact=True).count():
        for model in models:  # each with a button to download it
            listed = f"{model['directory']} / {model['name']}"
            assert frontend.page.get_by_text(listed, exact=True).is_visible()
        frontend.page.keyboard.press("Escape")
        frontend.page.locator(".p-dialog-mask").wait_for(state="detached")
    else:  # a newer frontend marks the nodes
        loaders = sum("models" in node["properties"] for node in graph["nodes"])
        assert frontend.page.evaluate(MARKED) == loaders
    api = json.loads((ROOT / "workflows/api" / f"{name}.json").read_text(encoding="utf-8"))
    shown = frontend.page.evaluate(TO_API)
    assert {key: (n["class_type"], n["inputs"]) for key, n in shown.items()} == {
        key: (n["class_type"], n["inputs"]) for key, n in api.items()
    }
    rectangles = frontend.page.evaluate(RECTANGLES)
    for k, (title, left, top, right, bottom) in enumerate(rectangles):
        for other, x, y, x_end, y_end in rectangles[k + 1 :]:
            apart = right <= x or x_end <= left or bottom <= y or y_end <= top
            assert apart, f"{title} lies on {other}"


def test_quickstart_draws_when_alpha_is_moved_and_run_is_pressed(
    frontend: Frontend, comfyui: Server
) -> None:
    frontend.open_template("mini_quickstart")
    if not PICTURES:
        frontend.page.evaluate("app.graph.getNodeById(8).widgets[2].value = 3")
    frontend.page.mouse.move(*frontend.place(4, "alpha", 0.5))
    frontend.page.mouse.down()
    frontend.page.mouse.move(*frontend.place(4, "alpha", 0.8), steps=5)
    frontend.page.mouse.up()
    assert frontend.value(4, "alpha") == pytest.approx(0.8, abs=0.02)
    frontend.run(comfyui)
    assert frontend.pixels(10) == [128, 128]
    assert frontend.pixels(3) == [112, 112]  # what CLIP sees
    assert frontend.faults() == []
    if PICTURES:
        frontend.page.get_by_role("button", name="Fit View").first.click()
        frontend.page.wait_for_timeout(1000)
        shown = Image.open(io.BytesIO(frontend.page.screenshot())).convert("RGB")
        shown.save(Path(PICTURES, "mini_quickstart.webp"), quality=80)


def test_the_curve_is_edited_with_the_mouse(frontend: Frontend) -> None:
    frontend.open_template("mini_alpha_over_steps")
    mouse, node = frontend.page.mouse, 12
    assert frontend.value(node, "preset") == "lines last"
    curve = frontend.page.locator(".animesketchnet-curve")
    points = curve.locator("circle")
    assert points.count() == 2  # 0.3:0, 0.5:1
    box, place = curve.bounding_box(), points.last.bounding_box()
    assert box
    assert place
    mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    mouse.down()
    mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.5 * box["height"], steps=4)
    mouse.up()
    assert frontend.value(node, "preset") == "custom"
    moved = AlphaCurve.from_text(frontend.value(node, "points")).points
    assert moved[0] == (0.3, 0)
    assert moved[1] == pytest.approx((0.91, 0.5), abs=0.04)

    mouse.dblclick(box["x"] + 0.1 * box["width"], box["y"] + 0.5 * box["height"])
    assert len(AlphaCurve.from_text(frontend.value(node, "points")).points) == points.count() == 3
    points.nth(1).click(button="right")
    left = AlphaCurve.from_text(frontend.value(node, "points"))
    assert left.points[1] == moved[1]
    sent = frontend.page.evaluate(TO_API)[str(node)]["inputs"]
    assert sent == {"preset": "custom", "points": left.to_text()}
    assert frontend.faults() == []


def test_the_blueprint_puts_four_nodes_into_one(frontend: Frontend) -> None:
    page = frontend.page
    page.evaluate("app.graph.clear()")
    # Not by a double click, which ComfyUI does not always take for one while the machine is busy;
    # letters typed then are its own shortcuts.
    page.evaluate("app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.wait_for_function("() => document.activeElement?.role === 'combobox'")
    page.keyboard.type("Draw after a sketch")
    page.get_by_role("option", name="Draw after a sketch").first.wait_for()
    page.wait_for_timeout(500)  # a moment until the first one is chosen
    page.keyboard.press("Enter")
    page.wait_for_function("() => app.graph.nodes.length")
    page.evaluate("app.graph.nodes[0].widgets.find(w => w.name === 'alpha').value = 0.7")
    sent = {
        node["class_type"]: (key, node["inputs"]) for key, node in page.evaluate(TO_API).items()
    }
    kinds = ("Loader", "EncoderLoader", "Encode", "Apply")
    assert set(sent) == {f"AnimeSketchNet{kind}" for kind in kinds}
    (loader, _), (finder, found), (encode, encoded), (_, applied) = (
        sent[f"AnimeSketchNet{kind}"] for kind in kinds
    )
    assert found["animesketchnet"] == encoded["animesketchnet"] == [loader, 0]
    assert encoded["clip_vision"] == [finder, 0]
    assert applied["sketch"] == [encode, 0]
    assert applied["alpha"] == 0.7
    assert frontend.faults() == []


def test_every_node_runs_and_shows_what_it_did(frontend: Frontend, comfyui: Server) -> None:
    graph = every_node(steps=50 if PICTURES else 2)
    nodes = {entry["class_type"]: int(number) for number, entry in reversed(graph.items())}
    (comfyui.base / "models" / "animesketchnet").mkdir(exist_ok=True)
    bundle = Path(os.environ.get("ANIMESKETCHNET_MINI", MINI_FOLDER))
    adapter = comfyui.base / "models" / "animesketchnet" / "mini.safetensors"
    shutil.copyfile(adapter_path(bundle), adapter)
    comfyui.run(saving_a_sketch(graph, "example"))

    info = comfyui.object_info()
    for entry in graph.values():
        entry["_meta"] = {"title": info[entry["class_type"]]["display_name"]}
    evaluate = frontend.page.evaluate
    evaluate("graph => app.loadApiJson(graph, 'every node')", graph)
    evaluate("kinds => kinds.forEach(k => app.graph.add(LiteGraph.createNode(k)))", NO_FILE)
    shown = evaluate("() => app.graph.nodes.map(node => node.type)")
    known = {name for name in info if name.startswith("AnimeSketchNet")}
    assert known <= set(shown)
    evaluate("kinds => app.graph.nodes.forEach(n => { if (kinds.includes(n.type)) n.mode = 2; })",
             NO_FILE)  # fmt: skip
    frontend.run(comfyui)
    for kind in ("Encode", "AlphaSweep", "AttentionMap", "Compare", "Score"):
        assert min(frontend.pixels(nodes[f"AnimeSketchNet{kind}"])) > 60
    assert "image tokens: 16" in frontend.value(nodes["AnimeSketchNetInfo"], "shown")
    assert "buns_and_topknot" in frontend.value(nodes["AnimeSketchNetSaveSketch"], "shown")
    assert frontend.faults() == []
    if PICTURES:
        for kind in known:
            frontend.picture_of(kind).save(Path(PICTURES, f"{kind}.webp"), quality=88)
