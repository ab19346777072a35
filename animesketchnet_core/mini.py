"""The embedded mini models: a small world in SD v1.5's architecture, shipped inside the package.

The folder is laid out as a diffusers pipeline (unet/, vae/, text_encoder/, scheduler/) with an
image_encoder/ and adapter.safetensors beside it, so that diffusers, ComfyUI's model classes and the
trainer all read the same files. Its README.md is the model card.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

MINI_FOLDER = Path(__file__).parent / "mini"

TEXT_PROJECTION = "text_projection.safetensors"
TOKEN_IDS = "token_ids"
TOKEN_TABLE = "text_model.embeddings.token_embedding.weight"


def load_part(name: str, folder: Path = MINI_FOLDER) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Loads one of the mini models.

    Args:
        name: "unet", "vae", "text_encoder" or "image_encoder".
        folder: another folder of the same layout, e.g. one that is still being trained.

    Returns:
        Its diffusers or transformers configuration, and its weights in float32.

    Raises:
        FileNotFoundError: the folder has no such part.
    """
    config = json.loads(_existing(folder / name / "config.json").read_text(encoding="utf-8"))
    stored = load_file(_existing(folder / name / "model.safetensors"))
    if TOKEN_IDS in stored:
        rows = stored[TOKEN_TABLE].float()  # [r, d]
        stored[TOKEN_TABLE] = expand_token_table(stored.pop(TOKEN_IDS), rows, config["vocab_size"])
    weights = {
        key: tensor.float() if tensor.is_floating_point() else tensor
        for key, tensor in stored.items()
    }
    return config, weights


def load_scheduler_config(folder: Path = MINI_FOLDER) -> dict[str, Any]:
    """Reads the mini world's noise schedule, a diffusers scheduler configuration."""
    path = _existing(folder / "scheduler" / "scheduler_config.json")
    return json.loads(path.read_text(encoding="utf-8"))


def load_text_projection(folder: Path = MINI_FOLDER) -> Tensor:
    """Loads what makes text and image encoder a CLIP, which compares them: [to, from] float32.

    It maps the text encoder's pooled state into the image embeddings' space. Nothing that draws
    needs it.
    """
    return load_file(_existing(folder / TEXT_PROJECTION))["weight"].float()


def adapter_path(folder: Path = MINI_FOLDER) -> Path:
    """Finds the mini world's weight file; read it with `weight_file.read_adapter`."""
    return _existing(folder / "adapter.safetensors")


def expand_token_table(token_ids: Tensor, rows: Tensor, vocab_size: int) -> Tensor:
    """Rebuilds CLIP's token table from the rows that training touched.

    The full table of 49,408 rows would be most of the mini model. A word that was never trained
    gets the mean of those that were, the least surprising vector for the text encoder.

    Args:
        token_ids: the rows' places in the table [r], integers, each once.
        rows: the trained rows [r, d].
        vocab_size: number of rows of the whole table.

    Returns:
        The table [vocab_size, d].
    """
    if token_ids.shape != rows.shape[:1] or token_ids.unique().numel() != len(rows):
        raise ValueError(
            f"{TOKEN_IDS} must name each of the {len(rows)} stored token rows once, got "
            f"{list(token_ids.shape)} ids, {token_ids.unique().numel()} of them different."
        )
    table = rows.mean(dim=0).repeat(vocab_size, 1)  # [vocab_size, d]
    table[token_ids.long()] = rows
    return table


def compact_token_table(table: Tensor, token_ids: Tensor) -> dict[str, Tensor]:
    """Undoes `expand_token_table`: the two tensors that a text encoder's file stores.

    Args:
        table: the whole table [vocab_size, d].
        token_ids: the rows to keep [r], integers.
    """
    token_ids = token_ids.unique().to(torch.int64)
    return {TOKEN_IDS: token_ids, TOKEN_TABLE: table[token_ids].clone()}


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"The mini models have no {path}. They belong to the project's repository: restore "
            "the file from there, or train them again with `python -m training.mini`."
        )
    return path
