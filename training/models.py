"""The frozen models: Stable Diffusion's UNet, autoencoder and text encoder, and CLIP's vision part.

Everything is read from local folders, in diffusers' layout (unet/, vae/, text_encoder/, as on the
Hugging Face hub) or in that of the embedded mini models (the same with model.safetensors in each),
or from the single files that ComfyUI uses (single_file.py). Nothing is ever downloaded.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from animesketchnet_core import clip_input, mini
from animesketchnet_core.files import writing
from animesketchnet_core.image_features import ImageFeatures
from animesketchnet_core.unet_layers import UNetShape

from .loading import ModelError, check_values, load_strictly
from .single_file import read_checkpoint, read_image_encoder

# The types in which the UNet computes, by their names in the settings.
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Stable Diffusion v1's noise schedule (scheduler/scheduler_config.json of every such model).
SD_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}


@dataclass
class Base:
    """A Stable Diffusion v1 model, frozen.

    Attributes:
        name: where it came from, for messages and metadata.
        unet: predicts the noise.
        vae: pictures to latents and back.
        text_encoder: CLIP's text part; its last hidden states are what the UNet attends to.
        tokenizer: CLIP's.
        alphas_cumprod: the noise schedule, float32 [timesteps]; large is clean.
    """

    name: str
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    alphas_cumprod: Tensor

    @property
    def shape(self) -> UNetShape:
        """What the layer table needs to know of the UNet."""
        return UNetShape.from_diffusers(self.unet.config)

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        return self.unet.device

    @property
    def latent_scale(self) -> int:
        """Pixels per latent along a side: 8 for Stable Diffusion."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    @property
    def size_step(self) -> int:
        """Pixels of which a picture's sides must be multiples: 64 for Stable Diffusion."""
        return self.latent_scale * 2 ** (len(self.unet.config["block_out_channels"]) - 1)

    def fingerprint(self) -> str:
        """Hashes all weights, as they are now."""
        parts = (self.unet, self.vae, self.text_encoder)
        return hashlib.sha256(" ".join(map(fingerprint, parts)).encode()).hexdigest()

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Base:
        """Moves every model to a device and, if given, casts the UNet; the encoders keep theirs."""
        for model in (self.vae, self.text_encoder):
            nn.Module.to(model, device)
        nn.Module.to(self.unet, device, dtype)  # ModelMixin.to warns at each cast
        self.alphas_cumprod = self.alphas_cumprod.to(device)
        return self

    @torch.no_grad()
    def encode_text(self, captions: Sequence[str]) -> Tensor:
        """Encodes captions, cut at 77 tokens, as Stable Diffusion does.

        Returns:
            Last hidden states after the final layer norm, [b, 77, cross_attention_dim].
        """
        tokens = self.tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=self.text_encoder.config.max_position_embeddings,
            return_tensors="pt",
        )
        return self.text_encoder(tokens.input_ids.to(self.text_encoder.device)).last_hidden_state

    @torch.no_grad()
    def encode_pictures(self, pixels: Tensor) -> Tensor:
        """Encodes pictures to the parameters of their latents' distribution.

        Args:
            pixels: [b, 3, height, width] in [-1, 1].

        Returns:
            Mean and log variance joined, [b, 8, height / 8, width / 8], not yet scaled.
        """
        pixels = pixels.to(self.vae.device, memory_format=torch.channels_last)
        return self.vae.encode(pixels).latent_dist.parameters  # type: ignore[union-attr]

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Decodes scaled latents [b, 4, h, w] to pictures [b, 3, 8 h, 8 w] in [0, 1]."""
        unscaled = latents.to(self.vae.dtype) / self.vae.config["scaling_factor"]
        return (self.vae.decode(unscaled).sample / 2 + 0.5).clamp(0, 1)  # type: ignore[union-attr]


@dataclass
class ImageEncoder:
    """CLIP's vision transformer, and what of it an adapter reads.

    Attributes:
        name: where it came from, for messages and metadata.
        model: the frozen network.
        reads: the penultimate layer (Resampler), or the image embedding (the plain IP-Adapter).
    """

    name: str
    model: CLIPVisionModelWithProjection
    reads: ImageFeatures = ImageFeatures.HIDDEN_STATES

    @property
    def size(self) -> int:
        """Side of the picture that it sees, in pixels."""
        return int(self.model.config.image_size)  # type: ignore[arg-type]  # never a pair here

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one picture's features: (tokens, width), ViT-H/14: (257, 1280); or (width,)."""
        config = self.model.config
        if self.reads is ImageFeatures.IMAGE_EMBEDDING:
            return (config.projection_dim,)
        patch = int(config.patch_size)  # type: ignore[arg-type]
        return ((self.size // patch) ** 2 + 1, config.hidden_size)  # one per patch, the class token

    @property
    def width(self) -> int:
        """Width of its features (ViT-H/14: 1280, its image embedding 1024)."""
        return self.shape[-1]

    @torch.no_grad()
    def features(self, fitted: Tensor) -> Tensor:
        """Encodes pictures that `clip_input.fit_sketch` made.

        Args:
            fitted: [b, size, size, 3] in [0, 1].

        Returns:
            Penultimate hidden states [b, tokens, width], or image embeddings [b, width].
        """
        return self._read(clip_input.pixel_values(fitted))

    @torch.no_grad()
    def unconditional(self) -> Tensor:
        """What stands for "no sketch" (see `ImageFeatures`), [1, *shape]."""
        if self.reads is ImageFeatures.IMAGE_EMBEDDING:
            return torch.zeros(1, *self.shape, device=self.model.device, dtype=self.model.dtype)
        return self._read(clip_input.unconditional_pixel_values(self.size))

    def _read(self, pixels: Tensor) -> Tensor:
        pixels = pixels.to(self.model.device, self.model.dtype)
        if self.reads is ImageFeatures.IMAGE_EMBEDDING:
            return self.model(pixels).image_embeds
        return self.model(pixels, output_hidden_states=True).hidden_states[-2]


def load_base(source: str | Path) -> Base:
    """Loads a base model in float32 on the CPU, frozen and in evaluation mode.

    Args:
        source: "mini", a folder with unet/, vae/ and text_encoder/, or a checkpoint file.

    Raises:
        ModelError: a part is missing or is not what it should be.
    """
    folder = mini.MINI_FOLDER if str(source) == "mini" else Path(source)
    if folder.is_file():
        return _base(str(source), folder, *read_checkpoint(folder))
    for part in ("unet", "vae", "text_encoder"):
        if not (folder / part / "config.json").is_file():
            raise ModelError(
                f"The base model {source} has no {part}/config.json. Expected the folder of a "
                'Stable Diffusion v1.5 model in diffusers\' layout, or "mini".'
            )
    return _base(
        str(source),
        folder,
        _diffusers_part(UNet2DConditionModel, folder / "unet"),
        _diffusers_part(AutoencoderKL, folder / "vae"),
        _text_encoder(folder),
    )


def _base(
    name: str, source: Path, unet: nn.Module, vae: nn.Module, text_encoder: nn.Module
) -> Base:
    return Base(
        name=name,
        unet=frozen(unet),
        # All convolutions: a third faster this way on CPUs. The UNet is not.
        vae=frozen(vae).to(memory_format=torch.channels_last),
        text_encoder=frozen(text_encoder),
        tokenizer=_tokenizer(source),
        alphas_cumprod=_alphas_cumprod(source / "scheduler" / "scheduler_config.json"),
    )


def load_image_encoder(
    source: str | Path,
    base: str | Path = "mini",
    reads: ImageFeatures = ImageFeatures.HIDDEN_STATES,
) -> ImageEncoder:
    """Loads CLIP's vision part in float32 on the CPU, frozen and in evaluation mode.

    Args:
        source: a transformers folder (config.json, model.safetensors), a transformers or
            open_clip file; empty: image_encoder/ of the base.
        base: the base model's source, used when source is empty.
        reads: what of it is read.
    """
    base_folder = mini.MINI_FOLDER if str(base) == "mini" else Path(base)
    folder = Path(source) if str(source) else base_folder / "image_encoder"
    if folder.is_file():
        return ImageEncoder(folder.stem, frozen(read_image_encoder(folder)), reads)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"The image encoder {folder} has no config.json. Expected a transformers folder of "
            "CLIP ViT-H/14 (image_encoder/ of h94/IP-Adapter); set model.image_encoder."
        )
    if (folder / "model.safetensors").is_file():
        with _reading(folder):
            model = CLIPVisionModelWithProjection(CLIPVisionConfig.from_pretrained(folder))
            load_strictly(model, load_file(folder / "model.safetensors"), folder)
    else:
        model = _pretrained(CLIPVisionModelWithProjection, folder)
    return ImageEncoder(folder.name, frozen(model), reads)


def frozen(model: nn.Module) -> Any:
    """Makes a model float32, gradient-free and free of dropout."""
    return model.float().eval().requires_grad_(False)


def fingerprint(model: nn.Module) -> str:
    """Hashes a model's weights, names, shapes and types; equal weights give equal text."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _diffusers_part(kind: Any, folder: Path) -> nn.Module:
    """Loads a UNet or an autoencoder from a folder of either layout."""
    weights = folder / "model.safetensors"  # the mini layout's name
    if not weights.is_file():
        return _pretrained(kind, folder, low_cpu_mem_usage=False)
    with _reading(folder):
        config = kind.load_config(folder)
        if not isinstance(config, dict):
            raise TypeError("config.json holds no settings")
        model = kind.from_config(config)
        load_strictly(model, load_file(weights), folder)
    return model


def _pretrained(kind: Any, folder: Path, **options: Any) -> Any:
    """Loads a folder's weights, of whichever names; those that it lacks are not left to chance."""
    with _reading(folder):
        model, found = kind.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, **options
        )
        if missing := sorted(found["missing_keys"]):
            raise ModelError(
                f"{folder} lacks {len(missing)} weights of {kind.__name__} ({missing[0]}, ...). "
                "Copy the folder anew from where it came."
            )
        check_values(model, model.state_dict(), folder)
        return model


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Tells whatever the libraries raise for a damaged folder under its name."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # of JSON, pickle, safetensors, and of their own for odd settings
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(
            f"{folder} cannot be loaded ({reason[:300]}). Copy the folder anew from where it came, "
            "with weights in .safetensors files."
        ) from error


def _text_encoder(folder: Path) -> CLIPTextModel:
    weights = folder / "text_encoder" / "model.safetensors"
    if not weights.is_file():
        return _pretrained(CLIPTextModel, weights.parent)
    with _reading(weights.parent):
        if _has_token_rows(weights):
            config, state_dict = mini.load_part("text_encoder", folder)
        else:
            config = json.loads((weights.parent / "config.json").read_text(encoding="utf-8"))
            state_dict = load_file(weights)
        model = CLIPTextModel(CLIPTextConfig.from_dict(config))
        load_strictly(model, state_dict, weights.parent)
        return model


def _has_token_rows(weights: Path) -> bool:
    """Whether a text encoder stores only the token rows that its training touched."""
    with safe_open(weights, "pt") as file:
        return "token_ids" in file.keys()  # noqa: SIM118  # not a mapping


def _alphas_cumprod(path: Path) -> Tensor:
    """Computes the noise schedule from a diffusers scheduler configuration, or SD v1's own."""
    with _reading(path):
        given = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        config = SD_SCHEDULE | {k: v for k, v in given.items() if k in SD_SCHEDULE}
    for key in ("beta_schedule", "prediction_type"):
        if config[key] != SD_SCHEDULE[key]:
            raise ModelError(
                f"{path} has {key} {config[key]!r}; the trainer knows {SD_SCHEDULE[key]!r} only "
                "(Stable Diffusion v1)."
            )
    first, last, steps = (config[k] for k in ("beta_start", "beta_end", "num_train_timesteps"))
    numbers = all(type(value) in (int, float) for value in (first, last, steps))
    if not numbers or not 0 < first <= last < 1 or not 1 <= steps <= _MOST_TIMESTEPS:
        raise ModelError(
            f"{path} has betas from {first!r} to {last!r} in {steps!r} steps; expected a rise "
            "between 0 and 1. Copy the file anew from where the model came."
        )
    betas = torch.linspace(first**0.5, last**0.5, int(steps), dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


_MOST_TIMESTEPS = 100_000  # Stable Diffusion has 1000


def _tokenizer(folder: Path) -> CLIPTokenizer:
    """Loads the base's own tokenizer, or builds CLIP's from open_clip's vocabulary file."""
    if (folder / "tokenizer" / "merges.txt").is_file():
        with _reading(folder / "tokenizer"):
            return CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    return clip_tokenizer()


def clip_tokenizer() -> CLIPTokenizer:
    """Builds CLIP's tokenizer offline from `bpe_simple_vocab_16e6.txt.gz`, a file of open_clip."""
    spec = importlib.util.find_spec("open_clip")  # found, not imported: the import takes seconds
    if spec is None or spec.origin is None:
        raise ModelError(
            "The base has no tokenizer/ folder, and open_clip_torch, which carries CLIP's "
            "vocabulary, is not installed. Fix: pip install open_clip_torch."
        )
    text = gzip.decompress(
        (Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    ).decode("utf-8")
    merges = text.split("\n")[1 : 49152 - 256 - 2 + 1]  # as in CLIP's simple_tokenizer.py
    with tempfile.TemporaryDirectory() as temporary:
        vocabulary = {token: number for number, token in enumerate(_clip_vocabulary(merges))}
        with writing(Path(temporary)):
            Path(temporary, "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
            Path(temporary, "merges.txt").write_text(
                "\n".join(["#version: 0.2", *merges]), encoding="utf-8"
            )
        return CLIPTokenizer.from_pretrained(temporary, local_files_only=True, model_max_length=77)


def _clip_vocabulary(merges: Sequence[str]) -> list[str]:
    """Lists CLIP's 49,408 tokens in the order of their numbers."""
    letters = _byte_letters()
    return [
        *letters,
        *(letter + "</w>" for letter in letters),
        *("".join(merge.split()) for merge in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]


def _byte_letters() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in its order: printable bytes first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]
