"""Opens a whole CLIP, pictures and texts, from transformers' folder or open_clip's weight file.

Both prepare pictures as openai/CLIP does (clip.py, `_transform`): bicubic resize of the shorter
side, the middle square cut out, CLIP's mean and standard deviation. Of square pictures nothing is
cut.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from animesketchnet_core.weight_container import UnreadableWeightsError, open_weights
from training.loading import ModelError
from training.networks import (
    ERRORS,
    check_folder,
    fingerprint,
    open_network,
    read_config,
    unreadable,
)

FOLDER = "a copy of openai/clip-vit-base-patch32 from huggingface.co"
FILE = (
    "ViT-B-32-quickgelu:FILE, where FILE is open_clip_model.safetensors of "
    "timm/vit_base_patch32_clip_224.openai from huggingface.co"
)
SOURCE = f"{FOLDER}, or to {FILE}"
QUICK = "-quickgelu"
PLAIN = ("ViT-", "RN")  # names of open_clip's models that prepare pictures as OpenAI does


@dataclass(frozen=True)
class ClipNetwork:
    """CLIP, of whichever library.

    Attributes:
        description: tells it, and how it prepares pictures, from another with equal weights.
        model: frozen, float32.
        prepare: a picture to what the model sees, [3, side, side].
        tokenize: a text to its tokens, those of beginning and end included.
        see: prepared pictures [n, 3, side, side] to embeddings [n, e].
        read: tokens [1, places], zeros after the end, to an embedding [1, e].
        places: for tokens of a text; what exceeds them is not read.
    """

    description: str
    model: Any
    prepare: Callable[[Image.Image], Tensor]
    tokenize: Callable[[str], list[int]]
    see: Callable[[Tensor], Tensor]
    read: Callable[[Tensor], Tensor]
    places: int

    def tokens(self, text: str) -> Tensor:
        """Makes a text what the model reads, [1, places]: cut, the end's token kept."""
        found = self.tokenize(text)
        if len(found) > self.places:
            found = [*found[: self.places - 1], found[-1]]
        return torch.tensor([found + [0] * (self.places - len(found))])


def open_clip_network(source: str, setting: str, device: torch.device) -> ClipNetwork:
    """Opens a folder, or a weight file with the name of its model before it.

    Args:
        source: "FOLDER", or "ViT-B-32-quickgelu:FILE".
        setting: that gave it, for messages.
        device: where it computes.

    Raises:
        ModelError: there is none, it is damaged, or not what it is said to be.
    """
    name, _, file = source.partition(":")
    if not source or Path(source).is_dir():
        return _from_folder(check_folder(source, setting, SOURCE), setting, device)
    if name.startswith(PLAIN) and file:
        return _from_file(name, Path(file), setting, device)
    raise ModelError(
        f"{setting} is {source}, which is no folder, and has no name of an open_clip model such "
        f"as ViT-B-32{QUICK}: in front. Set it to {SOURCE}."
    )


def _from_folder(folder: Path, setting: str, device: torch.device) -> ClipNetwork:
    from transformers import CLIPModel  # takes seconds

    kind = read_config(folder, setting, SOURCE).get("model_type")
    if kind != "clip":
        raise ModelError(f"{setting} is {folder}, which holds a {kind!r} network. Use {SOURCE}.")
    tokenizer = _tokenizer(folder, setting)
    model = open_network(CLIPModel, folder, setting, SOURCE, torch.float32, device, pickles=True)
    description = f"transformers {fingerprint(str(folder))}"
    return from_model(description, model, tokenizer, *_mean_and_std(folder, setting))


def from_model(
    description: str, model: Any, tokenizer: Any, mean: Any = None, std: Any = None
) -> ClipNetwork:
    """Makes a network of transformers' CLIPModel.

    Args:
        description: see `ClipNetwork`.
        model: on its device, frozen.
        tokenizer: transformers'.
        mean: of its pictures' channels; None: OpenAI's.
        std: likewise.
    """
    from open_clip.transform import image_transform  # takes seconds

    side = model.config.vision_config.image_size
    prepare: Any = image_transform(side, is_train=False, mean=mean, std=std)
    return ClipNetwork(
        description,
        model,
        prepare,
        lambda text: tokenizer(text, verbose=False).input_ids,
        lambda pixels: model.visual_projection(model.vision_model(pixels).pooler_output),
        lambda tokens: model.text_projection(model.text_model(tokens).pooler_output),
        model.config.text_config.max_position_embeddings,
    )


def _tokenizer(folder: Path, setting: str) -> Any:
    """The folder's own, or else CLIP's, which all of these models share."""
    from transformers import CLIPTokenizer

    from training.models import clip_tokenizer

    if not any((folder / name).is_file() for name in ("merges.txt", "tokenizer.json")):
        return clip_tokenizer()
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except ERRORS as error:
        raise unreadable(setting, folder, SOURCE, error) from error


def _mean_and_std(folder: Path, setting: str) -> tuple[Any, Any]:
    """As the folder has them; None for OpenAI's."""
    path = folder / "preprocessor_config.json"
    try:
        given = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise unreadable(setting, path, SOURCE, error) from error
    return given.get("image_mean"), given.get("image_std")


def _from_file(name: str, path: Path, setting: str, device: torch.device) -> ClipNetwork:
    import open_clip  # takes seconds
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = open_clip.get_model_config(name)
    if config is None or any(key.startswith("hf_") for key in config["text_cfg"]):
        known = ", ".join(n for n in open_clip.list_models() if n.startswith(PLAIN) and QUICK in n)
        raise ModelError(
            f"{setting} names {name}, which open_clip does not know as a model with CLIP's own "
            f"text part. With OpenAI's weights these are: {known}. Set it to {FILE}."
        )
    shapes = _check_file(name, path, setting, quick=bool(config.get("quick_gelu")))
    try:
        model: Any = open_clip.create_model(name, pretrained=str(path), precision="fp32")
    except (*ERRORS, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise unreadable(setting, path, SOURCE, error) from error
    _check_shapes(model, shapes, name, path, setting)
    model.eval().requires_grad_(False).to(device)
    tokenizer: Any = open_clip.get_tokenizer(name)
    prepare: Any = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    return ClipNetwork(
        f"open_clip {name}",
        model,
        prepare,
        lambda text: [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id],
        model.encode_image,
        model.encode_text,
        config["text_cfg"]["context_length"],
    )


def _check_file(name: str, path: Path, setting: str, *, quick: bool) -> dict[str, tuple[int, ...]]:
    """Refuses files that cannot be read, and OpenAI's weights under a name without QuickGELU.

    Given a file, open_clip computes them with GELU and says nothing
    (https://github.com/mlfoundations/open_clip/issues/771). They are told by their numbers: OpenAI
    published them in float16.
    """
    try:
        container = open_weights(path)
        layers = [k for k in container.shapes if k.endswith(("mlp.c_fc.weight", "conv1.weight"))]
        half = all(torch.equal(w, w.half().to(w.dtype)) for w in map(container.read, layers))
    except (UnreadableWeightsError, OSError) as error:
        raise ModelError(
            f"{setting} is {path}, which cannot be read. {error} Use {FILE}."
        ) from error
    if not quick and half and layers:
        raise ModelError(
            f"{setting} is {name}:{path}. Its weights are float16 numbers, as OpenAI's are, which "
            f"need QuickGELU; {name} would compute them with GELU and give wrong scores. Set it "
            f"to {name}{QUICK}:{path}. If they were trained with GELU, give their float32 file."
        )
    return container.shapes


def _check_shapes(
    model: Any, shapes: dict[str, tuple[int, ...]], name: str, path: Path, setting: str
) -> None:
    """Refuses weights that open_clip has stretched to fit: position embeddings."""
    for key, weight in model.state_dict().items():
        given = shapes.get(key, tuple(weight.shape))
        if weight.ndim and given != tuple(weight.shape):
            raise ModelError(
                f"{setting} is {name}:{path}, where {key} has the shape {list(given)}; {name} has "
                f"{list(weight.shape)}. Put the name of the file's own model in front."
            )
