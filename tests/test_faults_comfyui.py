"""What goes wrong under a running ComfyUI: interruptions, files that vanish, a full disk, a kill.

The server has tests/holding_pack.py as a second pack, which holds its work at a chosen place. What
can be tested without a server is in inside_comfyui/check_faults.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Server
from safetensors.torch import save_file
from test_comfyui_encoder import vit_h
from tiny_adapters import tiny_state

from animesketchnet_core.anime2sketch import Anime2Sketch
from animesketchnet_core.anime2sketch_file import original_keys
from animesketchnet_core.image_projection import PatchProjectionConfig
from animesketchnet_core.mini import adapter_path
from animesketchnet_core.sketch_file import SketchFile
from comfyui_server import ComfyUIError
from tests.every_node import every_node, saving_a_sketch

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(sys.platform != "linux", reason="/sys, /dev/full, signals"),
]
SAVED = Path("output", "animesketchnet")

Workflow = dict[str, dict[str, Any]]


class HeldServer(Server):
    """A server whose work can be held; the way to see and do what a user does meanwhile."""

    def __init__(self, comfyui: Path, base: Path):
        super().__init__(comfyui, base)
        shutil.copy(Path(__file__).with_name("holding_pack.py"), base / "custom_nodes")

    def post(self, path: str, **content: Any) -> None:
        request = urllib.request.Request(self.url + path, json.dumps(content).encode())
        self._open(request, timeout=60).close()

    def watch(self, *places: str, call: int = 1) -> None:
        self.post("/holding/watch", places=places, call=call)

    def holding(self) -> dict[str, Any]:
        return json.loads(self.get("/holding"))

    def held(self, prompt: str) -> str:
        """Waits until the work is held, and says where; "" if the prompt has ended before."""
        deadline = time.monotonic() + 100
        while not (place := self.holding()["held_at"]):
            if self.history(prompt):
                return ""
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return place

    def interrupt(self, prompt: str) -> dict[str, Any]:
        """Interrupts held work as ComfyUI's button does, lets it go on, and returns its end."""
        self.post("/interrupt")
        self.post("/holding/go_on")
        return self.ended(prompt)

    def ended(self, prompt: str) -> dict[str, Any]:
        deadline = time.monotonic() + 100
        while (entry := self.history(prompt)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return entry

    def forget_results(self) -> None:
        """Runs a graph that shares nothing with others: ComfyUI keeps the last one's results."""
        self.run(NOTHING)

    def shown(self, entry: dict[str, Any]) -> dict[str, Any]:
        """What each node has shown: pictures by their content, text."""
        return {
            node: [self.get("/view", **picture) for picture in output["images"]]
            if "images" in output
            else output
            for node, output in entry["outputs"].items()
        }


@pytest.fixture(scope="module")
def server(comfyui_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeldServer]:
    server = HeldServer(comfyui_folder, tmp_path_factory.mktemp("held"))
    with server:
        write_models(server.base / "models")
        server.run(saving_a_sketch(every_node(steps=1), "example"))
        yield server


@pytest.fixture(autouse=True)
def _nothing_is_held(server: HeldServer) -> Iterator[None]:
    yield
    server.post("/holding/forget")


def write_models(folder: Path) -> None:
    """One file for each loader."""
    for name in ("animesketchnet", "animesketchnet_sketchers", "clip_vision"):
        (folder / name).mkdir()
    shutil.copy(adapter_path(), folder / "animesketchnet" / "mini.safetensors")
    state = tiny_state(PatchProjectionConfig(embedding_dim=1280, output_dim=37))
    save_file(state, folder / "animesketchnet" / "h.safetensors")
    save_file(vit_h(), folder / "clip_vision" / "h.safetensors")
    torch.manual_seed(0)
    keys, net = original_keys(), Anime2Sketch(base_width=4)
    tensors = {keys[name]: 0.15 * torch.randn(p.shape) for name, p in net.named_parameters()}
    save_file(tensors, folder / "animesketchnet_sketchers" / "net.safetensors")


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def ours(kind: str, **inputs: Any) -> dict[str, Any]:
    return node(f"AnimeSketchNet{kind}", **inputs)


def shown(source: str, slot: int = 0) -> dict[str, Any]:
    return node("PreviewImage", images=[source, slot])


NOTHING = {
    "1": node("EmptyImage", width=8, height=8, batch_size=1, color=0),
    "2": shown("1"),
}


def all_nodes() -> Workflow:
    """Every node of the pack, those that load files of others, too."""
    graph = every_node(steps=2)
    graph |= {
        "1": ours("Loader", adapter_name="h.safetensors"),
        "2": ours("EncoderLoader", animesketchnet=["1", 0]),
        "3": node("PreviewAny", source=["2", 1]),
        "4": ours("SketchModelLoader", model_name="net.safetensors"),
        "5": neural("6", "4"),
        "6": node("LoadImage", image="animesketchnet_colour.png"),
        "7": shown("5"),
    }
    return graph


def neural(image: str, model: str) -> dict[str, Any]:
    return ours("SketchFromImage", image=[image, 0], line_width=1.0, detail=0.5, method="neural",
                sketch_model=[model, 0])  # fmt: skip


# ------------------------------------------------------------------------------ interruptions


EXECUTE = (
    "nodes.alpha_over_layers:AlphaOverLayers",
    "nodes.alpha_over_steps:AlphaOverSteps",
    "nodes.apply:ApplyAnimeSketchNet",
    "nodes.attention_map:AttentionMap",
    "nodes.clean_sketch:CleanSketch",
    "nodes.combine:CombineSketches",
    "nodes.compare:CompareSketches",
    "nodes.encode:EncodeSketch",
    "nodes.encoder_loader:LoadSketchEncoder",
    "nodes.info:AdapterInfo",
    "nodes.load:LoadAnimeSketchNet",
    "nodes.mini_loader:LoadMiniModels",
    "nodes.prompt:SketchPrompt",
    "nodes.score:ScorePicture",
    "nodes.sketch_files:LoadSketch",
    "nodes.sketch_files:SaveSketch",
    "nodes.sketch_from_image:SketchFromImage",
    "nodes.sketch_model:LoadSketchModel",
    "nodes.sweep:AlphaSweep",
)


def test_each_node_is_interrupted_and_the_same_graph_then_gives_the_same(
    server: HeldServer,
) -> None:
    pack = {kind for kind in server.object_info() if kind.startswith("AnimeSketchNet")}
    assert len(pack) == len(EXECUTE)
    graph = all_nodes()
    assert pack == {entry["class_type"] for entry in graph.values()} & pack
    undisturbed = without_saved(server.shown(server.run(graph)))
    alive = json.loads(server.get("/holding/alive"))
    assert alive["SketchReference"] > 0
    server.forget_results()

    server.watch(*(f"{kind}.execute" for kind in EXECUTE))
    held, entry = set(), {}
    while entry.get("status", {}).get("status_str") != "success":
        prompt = server.submit(graph)
        if place := server.held(prompt):
            held.add(place.removesuffix(".execute"))
            entry = server.interrupt(prompt)
        else:
            entry = server.ended(prompt)
        assert not [message for message in entry["status"]["messages"] if "error" in message[0]]
    assert held == set(EXECUTE)
    last = without_saved(server.shown(entry))  # not of nodes whose results it only passed over
    assert undisturbed | last == undisturbed
    assert len(last) > 6
    assert json.loads(server.get("/holding/alive")) == alive
    files = sorted((server.base / SAVED).iterdir())
    assert all(SketchFile.read(file) for file in files if file.suffix == ".safetensors")
    assert not [file for file in files if file.suffix != ".safetensors"]


def without_saved(shown: dict[str, Any]) -> dict[str, Any]:
    """All but what Save Sketch says, which counts its files."""
    return {node: what for node, what in shown.items() if "Saved" not in str(what)}


EMPTY = node("EmptyImage", width=1024, height=1024, batch_size=1, color=0x336699)
SAMPLING = {"seed": 3, "steps": 4, "cfg": 3.0, "sampler_name": "ddim", "scheduler": "ddim_uniform"}
DRAWING = {
    "mini": ours("MiniLoader"),
    "picture": node("LoadImage", image="animesketchnet_reference.png"),
    "sketch": ours("Encode", animesketchnet=["mini", 4], clip_vision=["mini", 3],
                   image=["picture", 0]),
    "apply": ours("Apply", model=["mini", 0], sketch=["sketch", 0], alpha=1.0, start_percent=0.0,
                  end_percent=1.0),
    "text": node("CLIPTextEncode", clip=["mini", 1], text="anime sketch"),
    "latent": node("EmptyLatentImage", width=128, height=128, batch_size=1),
}  # fmt: skip
PROMPTS = {"positive": ["text", 0], "negative": ["text", 0], "latent_image": ["latent", 0]}
CLIP = "comfy.clip_model:CLIPVisionModelProjection.forward"
UNET = "comfy.model_base:BaseModel.apply_model"


def of_many_pictures(kind: str, **inputs: Any) -> Workflow:
    return {
        "mini": DRAWING["mini"],
        "picture": DRAWING["picture"],
        "many": node("RepeatImageBatch", image=["picture", 0], amount=20),
        "x": ours(kind, clip_vision=["mini", 3], **inputs),
    }


COMPARING = of_many_pictures("Compare", sketch=["picture", 0], images=["many", 0])
SCORING = of_many_pictures("Score", images=["many", 0])
ENCODING = of_many_pictures("Encode", animesketchnet=["mini", 4], image=["many", 0])
ENCODING |= {"encode": ENCODING["x"], "x": shown("encode", 1)}


# For each node that works for long: a graph that shows x, where it is held and at which call, and
# what must not be called any more.
LONG: dict[str, tuple[Workflow, str, int, str]] = {
    "Encode Sketch": (
        ENCODING, CLIP, 2, "animesketchnet_core.adapter:AnimeSketchAdapter.tokens",
    ),
    "Compare with Sketch": (
        COMPARING, CLIP, 2,
        "nodes.compare:laid_out",
    ),
    "Score Picture, likeness": (
        SCORING, "animesketchnet_core.sketch_likeness:_shrink", 2,
        CLIP,
    ),
    "Score Picture, CLIP": (
        SCORING, CLIP, 2, "nodes.score:laid_out",
    ),
    "Alpha Sweep": (
        {**DRAWING, "x": ours("AlphaSweep", model=["mini", 0], sketch=["sketch", 0],
                              vae=["mini", 2], alphas="0.5, 1", **SAMPLING, **PROMPTS)},
        UNET, 3, "comfy.sd:VAE.decode",
    ),
    "Apply AnimeSketchNet, in a sampler": (
        {**DRAWING, "sampler": node("KSampler", model=["apply", 0], denoise=1.0, **SAMPLING,
                                    **PROMPTS),
         "decode": node("VAEDecode", samples=["sampler", 0], vae=["mini", 2]),
         "x": shown("decode")},
        UNET, 3, "comfy.sd:VAE.decode",
    ),
    "Attention Map": (
        {**DRAWING, "x": ours("AttentionMap", model=["apply", 0], positive=["text", 0],
                              samples=["latent", 0], vae=["mini", 2], percent=0.5, reference=1)},
        UNET, 1, "nodes.attention_map:heat_map",
    ),
    "Sketch from Image, lines": (
        {"image": EMPTY, "lines": ours("SketchFromImage", image=["image", 0], line_width=1.0,
                                       detail=0.5), "x": shown("lines")},
        "animesketchnet_core.sketch_extraction:_response", 2, "nodes.pictures:preview",
    ),
    "Sketch from Image, neural": (
        {"image": EMPTY, "model": ours("SketchModelLoader", model_name="net.safetensors"),
         "lines": neural("image", "model"), "x": shown("lines")},
        "animesketchnet_core.anime2sketch_strips:_Passage._raw_features", 2,
        "animesketchnet_core.anime2sketch_strips:_Passage._strokes_from_deeper",
    ),
    "Clean Sketch": (
        {"image": EMPTY, "clean": ours("CleanSketch", image=["image", 0], whiten_paper=0.0,
                                       remove_specks=0.0, line_weight=4.0, ink=0.0),
         "x": shown("clean")},
        "animesketchnet_core.line_weight:_grow", 2, "nodes.pictures:preview",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", LONG)
def test_long_work_ends_with_its_current_piece(server: HeldServer, what: str) -> None:
    graph, place, call, later = LONG[what]
    server.forget_results()
    server.watch(place, later, call=call)
    prompt = server.submit(graph)
    assert server.held(prompt) == place
    entry = server.interrupt(prompt)
    assert "execution_interrupted" in dict(entry["status"]["messages"])
    assert server.holding()["calls"] == {place: call}
    server.post("/holding/forget")

    after = server.shown(server.run(graph))["x"]
    server.forget_results()
    assert server.shown(server.run(graph))["x"] == after


# ------------------------------------------------------------------------------ files of models


ADAPTER = {"load": ours("Loader", adapter_name="mini.safetensors")}
LOADERS: dict[str, tuple[str, Workflow, str, str]] = {  # file, graph, class, what is said if lost
    "adapter": (
        "models/animesketchnet/mini.safetensors",
        {**ADAPTER, "x": ours("Info", animesketchnet=["load", 0])},
        "nodes.load:LoadAnimeSketchNet",
        "'mini.safetensors' is not in models/animesketchnet or .*https://",
    ),
    "sketch": (
        f"{SAVED}/example_00001_.safetensors",
        {"adapter": ADAPTER["load"],
         "load": ours("LoadSketch", animesketchnet=["adapter", 0],
                      sketch_name="example_00001_.safetensors"),
         "x": node("PreviewAny", source=["load", 0])},
        "nodes.sketch_files:LoadSketch",
        "'example_00001_.safetensors' is not in .*animesketchnet. Write it there with Save Sketch",
    ),
    "image encoder": (
        "models/clip_vision/h.safetensors",
        {"adapter": ours("Loader", adapter_name="h.safetensors"),
         "load": ours("EncoderLoader", animesketchnet=["adapter", 0],
                      clip_vision_name="h.safetensors"),
         "x": node("PreviewAny", source=["load", 1])},
        "nodes.encoder_loader:LoadSketchEncoder",
        "'h.safetensors' is not in models/clip_vision.*(find by itself|https://)",
    ),
    "image encoder, found": (
        "models/clip_vision/h.safetensors",
        {"adapter": ours("Loader", adapter_name="h.safetensors"),
         "load": ours("EncoderLoader", animesketchnet=["adapter", 0]),
         "x": node("PreviewAny", source=["load", 1])},
        "nodes.encoder_loader:LoadSketchEncoder",
        "No file of models/clip_vision gives these.*https://",
    ),
    "sketch model": (
        "models/animesketchnet_sketchers/net.safetensors",
        {"load": ours("SketchModelLoader", model_name="net.safetensors"),
         "x": node("PreviewAny", source=["load", 0])},
        "nodes.sketch_model:LoadSketchModel",
        "'net.safetensors' is not in models/animesketchnet_sketchers.*https://",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", LOADERS)
def test_a_replaced_file_is_read_anew_however_old_it_says_it_is(
    server: HeldServer, what: str
) -> None:
    name, graph, _, _ = LOADERS[what]
    path = server.base / name
    server.run(graph)
    assert "load" in cached(server.run(graph))
    before = path.stat()
    for age in (0, 86_400 * 10**9, -86_400 * 10**9):  # the clock went back, or forth
        other = path.with_suffix(".new")
        other.write_bytes(changed(path.read_bytes()))
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns - age))
        other.replace(path)
        assert path.stat().st_size == before.st_size
        assert "load" not in cached(server.run(graph))
    with path.open("r+b") as file:  # in place, as rsync --inplace --times does
        file.write(changed(path.read_bytes()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 86_400 * 10**9))
    assert "load" not in cached(server.run(graph))
    assert "load" in cached(server.run(graph))


def cached(entry: dict[str, Any]) -> list[str]:
    return dict(entry["status"]["messages"])["execution_cached"]["nodes"]


def changed(content: bytes) -> bytes:
    """The weight file with another last value."""
    return content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]


@pytest.mark.parametrize("what", LOADERS)
def test_a_lost_file_is_named_with_the_fix_and_works_when_it_is_back(
    server: HeldServer, what: str, request: pytest.FixtureRequest
) -> None:
    name, graph, kind, message = LOADERS[what]
    path = server.base / name
    before = server.shown(server.run(graph))
    elsewhere = path.rename(server.base / "elsewhere")
    request.addfinalizer(lambda: elsewhere.exists() and elsewhere.rename(path))
    with pytest.raises(ComfyUIError, match=f"(?s){message}"):  # although its result is known
        server.run(graph)
    elsewhere.rename(path)

    server.forget_results()
    server.watch(f"{kind}.execute")
    prompt = server.submit(graph)
    assert server.held(prompt)
    path.rename(elsewhere)
    server.post("/holding/go_on")
    with pytest.raises(ComfyUIError, match=f"(?s){message}"):
        server.wait(prompt)
    elsewhere.rename(path)
    after = server.shown(server.run(graph))
    assert after.keys() == before.keys()
    if what != "sketch model" and what != "sketch":  # these are shown with their address
        assert after == before


# ------------------------------------------------------------------------------ disks and kills


def saving(name: str) -> Workflow:
    return saving_a_sketch(every_node(steps=1), name)


def files_of(server: HeldServer, name: str) -> list[str]:
    return sorted(path.name for path in (server.base / SAVED).iterdir() if name in path.name)


def test_a_full_disk_is_told_and_leaves_no_file(server: HeldServer) -> None:
    assert server.process is not None
    part = server.base / SAVED / f".full_00001_.safetensors.{server.process.pid}.part"
    part.symlink_to("/dev/full")
    with pytest.raises(ComfyUIError, match=r"SaveSketch.*full_00001_\.safetensors cannot be written"
                       r".*No space left.*Make room on the disk"):  # fmt: skip
        server.run(saving("full"))
    assert files_of(server, "full") == []
    server.run(saving("full"))
    assert files_of(server, "full") == ["full_00001_.safetensors"]


@pytest.mark.parametrize(
    ("folder", "graph", "message"),
    [
        pytest.param(SAVED, saving("read_only"), "SaveSketch.*animesketchnet", id="sketches"),
        pytest.param(
            Path("output"), saving("no_folder"), "SaveSketch.*animesketchnet", id="output"
        ),
        pytest.param(Path("temp"), ENCODING, "Encode.*temp", id="preview of Encode"),
        pytest.param(Path("temp"), COMPARING, "Compare.*temp", id="preview of Compare"),
    ],
)
def test_a_folder_that_cannot_be_written_is_told(
    server: HeldServer, folder: Path, graph: Workflow, message: str
) -> None:
    server.forget_results()
    path = server.base / folder
    kept = path.rename(server.base / "kept")
    path.symlink_to("/sys")  # where not even root may make a file
    try:
        with pytest.raises(
            ComfyUIError, match=f"{message}.*written.*(denied|not permitted|Read-only).*writable"
        ):
            server.run(graph)
    finally:
        path.unlink()
        kept.rename(path)
    server.run(graph)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_killed_server_leaves_no_half_file(server: HeldServer, end: signal.Signals) -> None:
    """The last tests: what the server knew is gone."""
    assert server.process is not None
    name = end.name.lower()
    server.watch("animesketchnet_core.files:_force_to_disk")
    assert server.held(server.submit(saving(name)))
    server.process.send_signal(end)
    server.process.wait(30)
    [part] = files_of(server, name)
    assert part.startswith(".")
    assert part.endswith(".part")
    server.__enter__()
    listed = server.object_info("AnimeSketchNetLoadSketch")["AnimeSketchNetLoadSketch"]
    assert part not in str(listed)
    server.run(saving(name))
    assert files_of(server, name) == [part, f"{name}_00001_.safetensors"]
    SketchFile.read(server.base / SAVED / f"{name}_00001_.safetensors")
