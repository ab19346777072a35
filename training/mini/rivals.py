"""Trains what the adapter is compared with, at one budget: the paper's table 1 on a small scale.

AnimeSketchNet (Resampler), IP-Adapter (one linear layer) and ControlNet get the same frozen base,
the same pictures and captions, and the same number of steps and samples. The two adapters are
trained by the project's own trainer with the same settings (configs/mini.toml), ControlNet by
controlnet.py with the same optimizer.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path

import torch

from animesketchnet_core.files import write_atomically, write_safetensors
from training.config import load_config
from training.files import make_folder
from training.models import load_base
from training.train import train

from .autoencoder import encode
from .bundle import read_autoencoder
from .controlnet import train_controlnet
from .judge import load_judge
from .pictures import load_pictures

FOLDER = Path(__file__).parent / "rivals"
JUDGE = "judge.safetensors"
CONFIG = Path(__file__).parent.parent / "configs" / "mini.toml"
PROJECTIONS = {"animesketchnet": "resampler", "ip_adapter": "linear"}


def train_adapter(
    name: str, bundle: Path, pictures: Path, workspace: Path, steps: int, folder: Path
) -> None:
    """Trains one of the two adapters and writes its file.

    Args:
        name: "animesketchnet" or "ip_adapter".
        bundle: folder of the mini models.
        pictures: data set of the adapter.
        workspace: gets the run's folder.
        steps: of 48 pictures.
        folder: of the rivals.
    """
    settings = {
        "model.base": bundle,
        "model.projection": PROJECTIONS[name],
        "data.folders": pictures,
        "run.output": workspace / name,
        "run.max_steps": steps,
        "preview.every": 0,
    }
    train_to(make_folder(folder) / f"{name}.safetensors", settings)


def train_to(path: Path, settings: Mapping[str, object]) -> None:
    """Trains an adapter with configs/mini.toml and writes its file, once it is finished.

    Args:
        path: of the file.
        settings: in place of those in configs/mini.toml.

    Raises:
        KeyboardInterrupt: the trainer was asked to end before.
    """
    result = train(load_config(CONFIG, [(key, str(value)) for key, value in settings.items()]))
    if result.reason != "finished":
        number = signal.Signals.__members__.get(result.reason, signal.SIGINT)
        raise KeyboardInterrupt(number)
    weights = result.adapter.read_bytes()
    write_atomically(path, lambda temporary: temporary.write_bytes(weights))


def train_rival_controlnet(
    bundle: Path, pictures: Path, workspace: Path, steps: int, folder: Path
) -> None:
    """Trains the ControlNet and writes it, in diffusers' layout and half precision.

    Args:
        bundle: folder of the mini models.
        pictures: data set of the adapter.
        workspace: gets the checkpoint.
        steps: of 48 pictures.
        folder: of the ControlNet.
    """
    rows, pixels = load_pictures(pictures)
    latents = encode(read_autoencoder(bundle), pixels)
    base = load_base(bundle)
    torch.nn.Module.to(base.unet, torch.bfloat16)
    captions = [row["text"] for row in rows]
    model = train_controlnet(base, latents, pixels, captions, workspace, steps)
    make_folder(folder)
    weights = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    path = folder / "diffusion_pytorch_model.safetensors"
    write_safetensors(path, weights, {"format": "pt"})
    config = model.to_json_string()
    write_atomically(folder / "config.json", lambda temporary: temporary.write_text(config))


def keep_judge(workspace: Path, folder: Path) -> None:
    """Writes the trained judge beside the rivals, in half precision."""
    weights = {key: value.half() if value.is_floating_point() else value
               for key, value in load_judge(workspace).state_dict().items()}  # fmt: skip
    make_folder(folder)
    write_safetensors(folder / JUDGE, weights)
