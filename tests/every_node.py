"""One graph with all of the pack's nodes, in the API form, for the mini models."""

from __future__ import annotations

import copy
from typing import Any

PROMPT = "of a happy face, grey hair, glasses, facing left"
# What they load is not part of this repository.
NO_FILE = ("AnimeSketchNetSketchModelLoader", "AnimeSketchNetEncoderLoader")


def every_node(steps: int) -> dict[str, dict[str, Any]]:
    """Returns the graph; it needs mini.safetensors among the adapters and a saved mini sketch."""

    def node(kind: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs}

    def ours(kind: str, **inputs: Any) -> dict[str, Any]:
        return node(f"AnimeSketchNet{kind}", **inputs)

    def picture(name: str) -> dict[str, Any]:
        return node("LoadImage", image=f"animesketchnet_{name}.png")

    def encoded(image: str) -> dict[str, Any]:
        return ours("Encode", animesketchnet=["loader", 0], clip_vision=["mini", 3],
                    image=[image, 0], tiles=1)  # fmt: skip

    sampling = {"seed": 1818, "steps": steps, "cfg": 3.0}
    sampling |= {"sampler_name": "ddim", "scheduler": "ddim_uniform"}
    prompts = {"positive": ["text", 0], "negative": ["nothing", 0], "latent_image": ["latent", 0]}
    graph = {
        "mini": ours("MiniLoader"),
        "loader": ours("Loader", adapter_name="mini.safetensors"),
        "info": ours("Info", animesketchnet=["loader", 0]),
        "first": picture("reference"),
        "second": picture("reference_3"),
        "coloured": picture("colour"),
        "sketch": encoded("first"),
        "sketch_2": encoded("second"),
        "combine": ours("Combine", sketch_a=["sketch", 0], sketch_b=["sketch_2", 0],
                        method="average", balance=0.5),
        "save": ours("SaveSketch", sketch=["combine", 0], filename_prefix="buns_and_topknot"),
        "load": ours("LoadSketch", animesketchnet=["loader", 0],
                     sketch_name="example_00001_.safetensors"),
        "steps": ours("AlphaOverSteps", preset="fade in", points="0:1, 1:0"),
        "layers": ours("AlphaOverLayers", preset="all", factors=""),
        "apply": ours("Apply", model=["mini", 0], sketch=["sketch", 0], alpha=1.0,
                      start_percent=0.0, end_percent=1.0, curve=["steps", 0],
                      layers=["layers", 0], negative_sketch=["load", 0]),
        "prompt": ours("Prompt", text=PROMPT, keywords="anime sketch", place="front"),
        "text": node("CLIPTextEncode", clip=["mini", 1], text=["prompt", 0]),
        "nothing": node("CLIPTextEncode", clip=["mini", 1], text=""),
        "latent": node("EmptyLatentImage", width=128, height=128, batch_size=1),
        "sampler": node("KSampler", model=["apply", 0], denoise=1.0, **sampling, **prompts),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["mini", 2]),
        "drawn": node("PreviewImage", images=["decode", 0]),
        "sweep": ours("AlphaSweep", model=["mini", 0], sketch=["combine", 0], vae=["mini", 2],
                      alphas="0, 0.5, 1", **sampling, **prompts),
        "map": ours("AttentionMap", model=["apply", 0], positive=["text", 0],
                    samples=["sampler", 0], vae=["mini", 2], percent=0.5, reference=1),
        "compare": ours("Compare", clip_vision=["mini", 3], sketch=["first", 0],
                        images=["sweep", 1]),
        "score": ours("Score", images=["sweep", 1], clip_vision=["mini", 3], sketch=["first", 0],
                      clip=["mini", 1], prompt=["prompt", 0]),
        "lines": ours("SketchFromImage", image=["coloured", 0], line_width=1.0, detail=0.9,
                      method="ink"),
        "clean": ours("CleanSketch", image=["lines", 0], whiten_paper=1.0, remove_specks=4.0,
                      line_weight=0.5, ink=0.5),
        "cleaned": node("PreviewImage", images=["clean", 0]),
    }  # fmt: skip
    numbers = {name: str(number) for number, name in enumerate(graph, 101)}  # no other graph's
    return {
        numbers[name]: {
            "class_type": entry["class_type"],
            "inputs": {
                key: [numbers[value[0]], value[1]] if isinstance(value, list) else value
                for key, value in entry["inputs"].items()
            },
        }
        for name, entry in graph.items()
    }


def saving_a_sketch(graph: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns the part of the graph that saves its last sketch, for Load Sketch to load."""
    kinds = ("Loader", "MiniLoader", "Encode", "SaveSketch")
    numbers = {entry["class_type"]: number for number, entry in graph.items()}
    encode = numbers["AnimeSketchNetEncode"]
    wanted = {numbers[f"AnimeSketchNet{kind}"] for kind in kinds}
    wanted.add(graph[encode]["inputs"]["image"][0])
    part = {number: copy.deepcopy(graph[number]) for number in wanted}
    saver = part[numbers["AnimeSketchNetSaveSketch"]]["inputs"]
    saver.update(sketch=[encode, 0], filename_prefix=name)
    return part
