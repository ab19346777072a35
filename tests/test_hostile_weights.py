"""Broken and hostile weight files: our own error that names the file, no code run, memory bounded.

Each failure names the seed that made its file; ``damaged(content, seed)`` makes it again.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from animesketchnet_core.anime2sketch import Anime2Sketch
from animesketchnet_core.anime2sketch_file import (
    WrongSketcherError,
    original_keys,
    read_anime2sketch,
)
from animesketchnet_core.image_encoder_file import WrongEncoderError, read_image_encoder_kind
from animesketchnet_core.mini import MINI_FOLDER
from animesketchnet_core.sketch_file import SketchFile, SketchFileError
from animesketchnet_core.weight_container import UnreadableWeightsError, open_weights
from animesketchnet_core.weight_file import (
    WrongAdapterError,
    check_adapter_file,
    read_adapter,
)
from tests.hostile import (
    codes_that_touch,
    cut,
    damaged,
    memory_within,
    no_new_file,
    only,
    opcodes_that_touch,
)
from tests.tiny_adapters import TINY_KINDS, tiny_metadata, tiny_state
from training import models, single_file
from training.checkpoints import CheckpointError, Checkpoints
from training.loading import ModelError
from training.models import load_image_encoder
from training.single_file import read_checkpoint, read_image_encoder
from training.store import Store

State = dict[str, Tensor]


@dataclass(frozen=True)
class Reader:
    """Something that opens weight files.

    Attributes:
        read: opens the file, and checks what a good one must hold.
        errors: what it may raise.
        named: whether its message names the file; who calls the others does.
    """

    read: Callable[[Path], object]
    errors: type[Exception]
    named: bool = True


def read_whole_adapter(path: Path) -> None:
    state, _ = read_adapter(path)
    assert state
    assert all(tensor.is_floating_point() and tensor.isfinite().all() for tensor in state.values())


def read_sketch(path: Path) -> None:
    sketch = SketchFile.read(path)
    assert sketch.tokens.dtype == sketch.unconditional.dtype == torch.float32
    assert sketch.tokens.isfinite().all()
    assert sketch.unconditional.isfinite().all()


def read_sketcher(path: Path) -> None:
    net = read_anime2sketch(path)
    assert all(parameter.isfinite().all() for parameter in net.parameters())


READERS = {
    "adapter": Reader(read_whole_adapter, WrongAdapterError),
    "adapter's header": Reader(check_adapter_file, WrongAdapterError),
    "sketch": Reader(read_sketch, SketchFileError),
    "image encoder's header": Reader(read_image_encoder_kind, WrongEncoderError, named=False),
    "image encoder": Reader(read_image_encoder, ModelError),
    "checkpoint": Reader(read_checkpoint, ModelError),
    "Anime2Sketch": Reader(read_sketcher, WrongSketcherError, named=False),
}


def opened(reader: Reader, path: Path, case: object) -> None:
    """Opens a file with a reader: its own error, or a sound result."""
    with no_new_file(path.parent), only(reader.errors, case, *[path.name] * reader.named):
        reader.read(path)


# The files that are damaged: one of each kind, in each container.


def pickled(content: Any, *, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def encoder_state() -> State:
    """CLIP's vision part with one layer, in transformers' names."""
    torch.manual_seed(0)
    embeddings = "vision_model.embeddings"
    return {
        f"{embeddings}.class_embedding": torch.randn(7),
        f"{embeddings}.patch_embedding.weight": torch.randn(7, 3, 5, 5),
        f"{embeddings}.position_embedding.weight": torch.randn(10, 7),
        "vision_model.encoder.layers.0.mlp.fc1.weight": torch.randn(11, 7),
        "vision_model.post_layernorm.weight": torch.randn(7),
        "visual_projection.weight": torch.randn(3, 7),
    }


def sketcher_state() -> State:
    torch.manual_seed(0)
    net = Anime2Sketch(base_width=1)
    names = original_keys()
    return {names[name]: p.detach().clone() for name, p in net.named_parameters()}


@cache
def whole_files() -> dict[str, bytes]:
    sketch = {"tokens": torch.randn(2, 3, 5), "unconditional": torch.randn(1, 3, 5)}
    plus, plain, face = (tiny_state(kind) for kind in TINY_KINDS.values())
    halves = {key: tensor.half() for key, tensor in plus.items()}
    return {
        "adapter": save(halves, tiny_metadata().to_strings()),
        "plain": save(plain),
        "full face": save(face),
        "zip": pickled(plain),
        "legacy": pickled(plain, zipped=False),
        "sketch": save(sketch, {"animesketchnet_sketch.format": "1"}),
        "encoder": save(encoder_state()),
        "encoder zip": pickled(encoder_state()),
        "sketcher": save(sketcher_state()),
        "netG": pickled(sketcher_state(), zipped=False),
    }


READ_BY = {
    "adapter": ("adapter", "adapter's header"),
    "plain": ("adapter", "checkpoint"),
    "full face": ("adapter", "image encoder"),
    "zip": ("adapter", "adapter's header"),
    "legacy": ("adapter", "checkpoint"),
    "sketch": ("sketch", "adapter"),
    "encoder": ("image encoder's header", "image encoder"),
    "encoder zip": ("image encoder's header", "image encoder"),
    "sketcher": ("Anime2Sketch", "sketch"),
    "netG": ("Anime2Sketch", "image encoder's header"),
}


def suffix_of(name: str) -> str:
    return ".bin" if name in ("zip", "legacy", "encoder zip", "netG") else ".safetensors"


@pytest.mark.parametrize("name", READ_BY)
def test_the_files_that_are_damaged_are_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"a{suffix_of(name)}"
    path.write_bytes(whole_files()[name])
    if READ_BY[name][0].startswith("image encoder"):
        assert read_image_encoder_kind(path).hidden_width == 7
    else:
        READERS[READ_BY[name][0]].read(path)


@pytest.mark.parametrize("name", READ_BY)
def test_a_damaged_file_is_refused_or_read_right(tmp_path: Path, name: str) -> None:
    """100 files of each kind, 1,000 in all."""
    path = tmp_path / f"broken{suffix_of(name)}"
    for seed in range(100):
        path.write_bytes(damaged(whole_files()[name], seed))
        for reader in READ_BY[name]:
            opened(READERS[reader], path, f"{name}, seed {seed}, {reader}")


# Headers that lie


DTYPES = ("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F4", "F6_E2M3", "I16", "U16", "F16",
          "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64", "f16", "", "F512")  # fmt: skip
SIZES = (0, 1, 2, 3, -1, 2**31, 2**32, 2**62, 2**63, 2**64, 10**400, 1.5, True, None, "3", [3])
TEXTS = (
    "",
    "\0",
    "9" * 5000,
    "-1",
    "NaN",
    "Infinity",
    "5\n",
    "null",
    "{}",
    "[" * 9999,
    "線画",
    "x" * 9999,
)
KEYS = ("image_proj.latents", "image_proj.proj.weight", "image_proj.proj.3.weight", "tokens",
        "ip_adapter.1.to_k_ip.weight", "ip_adapter.x.to_k_ip.weight",
        "ip_adapter.-1.to_k_ip.weight",
        "ip_adapter.99999999999999999999.to_k_ip.weight", "ip_adapter.to_k_ip.weight", "",
        "image_proj.layers.7.0.to_q.weight", "image_proj.layers.", "__metadata__", "a" * 9999, "\0",
        "visual_projection.weight", "vision_model.encoder.layers.1.mlp.fc1.weight",
        "down_blocks.9999999999.attentions.0.transformer_blocks.0.attn2.processor.to_k_ip.weight",
        )  # fmt: skip


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: str, body: bytes) -> bytes:
    text = header.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + body


def with_lies(content: bytes, seed: int) -> bytes:
    """Changes what a header says: sizes, types, places, names, metadata, its own length."""
    rng = np.random.default_rng(seed)

    def one_of(values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    header, body = split(content)
    names = [name for name in header if name != "__metadata__"]
    entry = header[one_of(names)]
    lie = int(rng.integers(11))
    if lie == 0:
        entry["shape"] = [one_of(SIZES) for _ in range(rng.integers(5))]
    elif lie == 1:
        entry["shape"][int(rng.integers(len(entry["shape"])))] = one_of(SIZES)
    elif lie == 2:
        entry["dtype"] = one_of(DTYPES)
    elif lie == 3:  # a type of another size with places to match, so that the library takes it
        entry["dtype"] = one_of(DTYPES)
        start, _ = entry["data_offsets"]
        entry["data_offsets"] = [start, start + int(rng.integers(64))]
    elif lie == 4:
        entry["data_offsets"] = [one_of(SIZES), one_of(SIZES)]
    elif lie == 5:
        header[one_of(KEYS)] = header.pop(one_of(names))
    elif lie == 6:
        header["__metadata__"] = one_of(
            (None, 3, [], "x", {"format": 3}, {"format": None}, {"a": []})
        )
    elif lie == 7:
        strings = header.setdefault("__metadata__", {})
        ours = [
            *tiny_metadata().to_strings(),
            "animesketchnet.format",
            "animesketchnet_sketch.format",
        ]
        strings[one_of(ours)] = one_of(TEXTS)
    elif lie == 8:  # the same name twice
        name = one_of(names)
        return joined(
            json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(entry)}}}", body
        )
    elif lie == 9:
        length = one_of((0, 1, 7, len(content), len(content) - 8, 2**31, 2**63 - 1, 2**64 - 1))
        return struct.pack("<Q", length) + content[8:]
    else:
        body = body + bytes(int(rng.integers(1, 99)))
    return joined(json.dumps(header), body)


@pytest.mark.parametrize("name", ["adapter", "plain", "full face", "sketch", "encoder", "sketcher"])
def test_a_header_that_lies_is_refused_or_read_right(tmp_path: Path, name: str) -> None:
    """75 files of each kind, 450 in all."""
    path = tmp_path / "lies.safetensors"
    for seed in range(75):
        path.write_bytes(with_lies(whole_files()[name], seed))
        for reader in READ_BY[name]:
            opened(READERS[reader], path, f"{name}, seed {seed}, {reader}")


# Values that are no weights


ODD_TYPES = [torch.bool, torch.uint8, torch.int64, torch.float8_e4m3fn, torch.float8_e5m2,
             torch.complex64, torch.uint16]  # fmt: skip
if hasattr(torch, "float8_e8m0fnu"):  # from torch 2.7 on
    ODD_TYPES.append(torch.float8_e8m0fnu)
STATES = {"adapter": "plain", "sketch": "sketch", "image encoder": "encoder",
          "Anime2Sketch": "sketcher"}  # fmt: skip


def state_of(name: str) -> tuple[State, dict[str, str] | None]:
    return safetensors_of(whole_files()[name])


def safetensors_of(content: bytes) -> tuple[State, dict[str, str] | None]:
    return load(content), split(content)[0].get("__metadata__")


@pytest.mark.parametrize("dtype", ODD_TYPES, ids=str)
@pytest.mark.parametrize("reader", STATES)
def test_tensors_of_odd_types_are_refused_or_read_right(tmp_path, reader, dtype) -> None:
    """The first tensor, the last, and all of them."""
    path = tmp_path / "odd.safetensors"
    state, metadata = state_of(STATES[reader])
    for chosen in ([next(iter(state))], [list(state)[-1]], list(state)):
        odd = {key: torch.ones_like(state[key], dtype=torch.float32).to(dtype) for key in chosen}
        path.write_bytes(save({**state, **odd}, metadata))
        opened(READERS[reader], path, f"{reader}, {dtype}, {len(chosen)} tensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("reader", STATES)
def test_values_that_are_no_numbers_are_refused(tmp_path, reader, value) -> None:
    state, metadata = state_of(STATES[reader])
    for number, key in enumerate(state):
        broken = {**state, key: state[key].clone()}
        broken[key].view(-1)[-1] = value
        for suffix, content in {".safetensors": save(broken, metadata),
                                ".bin": pickled(broken)}.items():  # fmt: skip
            path = tmp_path / f"nan-{number}{suffix}"
            path.write_bytes(content)
            error, named = READERS[reader].errors, READERS[reader].named
            with pytest.raises(error) as caught:
                READERS[reader].read(path)
            assert not named or path.name in str(caught.value), f"{key} is {value}"


# Pickles


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    (tmp_path / "ran").mkdir()
    return tmp_path / "ran" / "code"


def zip_of(pickle_bytes: bytes) -> bytes:
    """A file of torch.save's form around a pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickle_bytes)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data/0", bytes(64))
    return file.getvalue()


def legacy_of(pickle_bytes: bytes) -> bytes:
    """A file of torch.save's form before 1.6 around a pickle."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    begins = (0x1950A86A20F9469CFC6C, 1001, system)
    return b"".join(pickle.dumps(part, 2) for part in begins) + pickle_bytes


def hostile_pickles(marker: Path) -> dict[str, bytes]:
    codes = {name: pickle.dumps(code, 2) for name, code in codes_that_touch(marker).items()}
    codes |= opcodes_that_touch(marker)
    forms: dict[str, Callable[[bytes], bytes]] = {"bare": bytes, "zip": zip_of, "legacy": legacy_of}
    return {f"{name}, {form}": forms[form](code) for name, code in codes.items() for form in forms}


def test_the_pickles_do_run_code_where_pickle_reads_them(marker: Path) -> None:
    """Otherwise the tests below would prove nothing."""
    for name, code in {**{n: pickle.dumps(c, 4) for n, c in codes_that_touch(marker).items()},
                       **opcodes_that_touch(marker)}.items():  # fmt: skip
        if name == "getattr":  # gives the function to whom would call it
            continue
        result = pickle.loads(code)
        if hasattr(result, "close"):
            result.close()
        assert marker.is_file(), name
        marker.unlink()


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt", ".pth", ".safetensors"])
def test_no_reader_runs_the_code_in_a_pickle(tmp_path: Path, marker: Path, suffix: str) -> None:
    for number, (name, content) in enumerate(hostile_pickles(marker).items()):
        path = tmp_path / f"hostile-{number}{suffix}"
        path.write_bytes(content)
        for kind, reader in READERS.items():
            with pytest.raises(reader.errors):
                reader.read(path)
            assert not marker.exists(), f"{kind} ran {name}"


def test_no_folder_of_a_model_runs_the_code_in_a_pickle(tmp_path: Path, marker: Path) -> None:
    folders = {
        "unet": "diffusion_pytorch_model.bin",
        "vae": "diffusion_pytorch_model.bin",
        "text_encoder": "pytorch_model.bin",
        "image_encoder": "pytorch_model.bin",
    }
    contents = hostile_pickles(marker)
    for name in ("os.system, zip", "exec, legacy", "GLOBAL, bare"):
        for part, file in folders.items():
            base = copy_of_mini(tmp_path / "base")
            (base / part / "model.safetensors").unlink()
            (base / part / file).write_bytes(contents[name])
            with pytest.raises(ModelError, match=part):
                open_part(base, part)
            assert not marker.exists(), f"{part} ran {name}"


def open_part(base: Path, part: str) -> None:
    """Opens one part as `load_base` and `load_image_encoder` do, without the others."""
    if part == "image_encoder":
        load_image_encoder("", base)
    elif part == "text_encoder":
        models._text_encoder(base)
    elif part == "scheduler":
        models._alphas_cumprod(base / part / "scheduler_config.json")
    else:
        models._diffusers_part(PARTS[part], base / part)


PARTS = {"unet": models.UNet2DConditionModel, "vae": models.AutoencoderKL}


def copy_of_mini(folder: Path) -> Path:
    """The mini base in another folder, for damage; its files are links until they are replaced."""
    for path in MINI_FOLDER.rglob("*"):
        copy = folder / path.relative_to(MINI_FOLDER)
        if path.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.unlink(missing_ok=True)
            copy.symlink_to(path)
    for leftover in folder.rglob("*.bin"):
        leftover.unlink()
    return folder


def test_no_checkpoint_of_a_run_runs_the_code_in_it(tmp_path: Path, marker: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    path = tmp_path / "step-000000007.pt"
    for name, content in hostile_pickles(marker).items():
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=path.name):
            checkpoints.latest(torch.device("cpu"))
        assert not marker.exists(), name


BOMB = 400_000_000  # bytes that a bomb unpacks to; the file has less than half a megabyte


def bomb(member: str, form: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", form) as archive:
        for name in ("archive/data.pkl", "archive/data/0"):
            with archive.open(name, "w", force_zip64=True) as entry:
                if name == member:
                    for _ in range(BOMB // 1_000_000):
                        entry.write(bytes(1_000_000))
                elif name.endswith("pkl"):
                    entry.write(plain_pickle())
                else:
                    entry.write(bytes(64))
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def plain_pickle() -> bytes:
    with zipfile.ZipFile(io.BytesIO(pickled({"tokens": torch.zeros(BOMB // 4)[:16]}))) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        return archive.read(name)


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
@pytest.mark.parametrize("member", ["archive/data.pkl", "archive/data/0"])
def test_a_compressed_bomb_is_refused_before_it_unpacks(tmp_path, member, suffix) -> None:
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(bomb(member))
    assert path.stat().st_size < 1_000_000
    with memory_within(50):
        for reader in READERS.values():
            with pytest.raises(reader.errors, match=r"compressed|no safetensors"):
                reader.read(path)
        path.rename(tmp_path / "step-000000001.pt")
        with pytest.raises(CheckpointError, match="step-000000001"):
            Checkpoints(tmp_path, 2).latest(torch.device("cpu"))


# Folders of models


CONFIGS = ("", "[", "[]", "null", "3", "{}", "{\"block_out_channels\": [-1, 10000000000000]}",
           "{\"hidden_size\": -3}", "{\"patch_size\": 0}", "{\"num_attention_heads\": 0}",
           "{\"vocab_size\": \"many\"}", "[" * 100_000, "\ud800", "\0" * 99,
           "{\"hidden_size\": " + "9" * 5000 + "}", "{\"beta_start\": NaN}",
           "{\"num_train_timesteps\": 1e308}", "{\"num_train_timesteps\": 0}",
           "{\"beta_end\": \"x\"}")  # fmt: skip


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "image_encoder", "scheduler"])
def test_a_broken_configuration_of_a_model_is_told_by_its_folder(tmp_path, part) -> None:
    file = "scheduler_config.json" if part == "scheduler" else "config.json"
    whole = (MINI_FOLDER / part / file).read_bytes()
    texts = [text.encode("utf-8", "surrogatepass") for text in CONFIGS]
    if part in ("unet", "image_encoder"):  # without sizes they are the full ones, of 3.4 GB
        texts = [text for text in texts if b"{" not in text]
        texts.append(b'{"hidden_size": -3, "block_out_channels": [-1, 10000000000000]}')
    for seed, content in enumerate([*texts, *(damaged(whole, seed) for seed in range(15))]):
        base = copy_of_mini(tmp_path / "base")
        (base / part / file).unlink()
        (base / part / file).write_bytes(content)
        with only(ModelError, f"{part}, {content[:40]!r}, seed {seed - len(texts)}", part):
            open_part(base, part)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "image_encoder"])
def test_broken_weights_of_a_model_are_told_by_its_folder(tmp_path, part) -> None:
    whole = (MINI_FOLDER / part / "model.safetensors").read_bytes()
    state, metadata = safetensors_of(whole)
    key = next(key for key in state if state[key].is_floating_point() and state[key].ndim == 1)
    broken = {"NaN": torch.full_like(state[key], float("nan")), "ints": state[key].to(torch.int8)}
    contents = {name: save({**state, key: tensor}, metadata) for name, tensor in broken.items()}
    contents["lost"] = save({k: t for k, t in state.items() if k != key}, metadata)
    contents |= {f"seed {seed}": cut(whole, np.random.default_rng(seed)) for seed in range(5)}
    for name, content in contents.items():
        base = copy_of_mini(tmp_path / "base")
        (base / part / "model.safetensors").unlink()
        for file in WEIGHTS[part]:  # the mini layout, and the one that the libraries write
            if name == "ints" and file != "model.safetensors":
                continue  # the libraries cast them
            (base / part / file).write_bytes(content)
            with pytest.raises(ModelError, match=part):
                open_part(base, part)
            (base / part / file).unlink()


WEIGHTS = {
    "unet": ("model.safetensors", "diffusion_pytorch_model.safetensors"),
    "vae": ("model.safetensors", "diffusion_pytorch_model.safetensors"),
    "text_encoder": ("model.safetensors",),
    "image_encoder": ("model.safetensors",),
}


@pytest.mark.parametrize("layout", ["transformers", "open_clip"])
def test_an_image_encoder_of_a_known_size_with_a_tensor_of_another_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    """Each tensor in turn is lost, a number, a list, of other sizes, NaN."""
    monkeypatch.setattr(single_file, "VISION_KINDS", {(6, 1): (2, "gelu")})
    whole = encoder_in(layout)
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(save(whole))
    read_image_encoder(path)
    shapes = ((), (1,), (7,), (2, 2), (6, 6, 6), (1, 1, 1, 1))
    for key in whole:
        others: list[Tensor | None] = [None, *(torch.ones(shape) for shape in shapes)]
        others.append(torch.full_like(whole[key], float("nan")))
        for other in others:
            changed = {k: t for k, t in whole.items() if k != key}
            path.write_bytes(save(changed if other is None else {**changed, key: other}))
            with only(ModelError, f"{key} is {None if other is None else other.shape}", path.name):
                model = read_image_encoder(path)
                assert all(p.isfinite().all() for p in model.parameters())


def encoder_in(layout: str) -> State:
    torch.manual_seed(0)
    if layout == "open_clip":
        transformer = pytest.importorskip("open_clip.transformer")
        net = transformer.VisionTransformer(10, 5, 6, 1, 2, 2, output_dim=4)
        return {f"visual.{key}": value.clone() for key, value in net.state_dict().items()}
    config = models.CLIPVisionConfig(
        hidden_size=6, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
        image_size=10, patch_size=5, projection_dim=4,
    )  # fmt: skip
    model = models.CLIPVisionModelWithProjection(config)
    return {k: t.clone() for k, t in model.state_dict().items() if t.is_floating_point()}


@pytest.mark.parametrize("shape", [(), (3,), (320, 4), (320, 9, 3, 3), (1, 4, 3, 3)])
def test_a_checkpoint_whose_first_layer_is_of_another_shape_is_told(tmp_path, shape) -> None:
    """Nothing of Stable Diffusion's size is made before the file is known to be one."""
    names = {
        f"{single_file.UNET}input_blocks.0.0.weight": torch.ones(shape),
        f"{single_file.VAE}x": torch.ones(1),
        f"{single_file.TEXT}x": torch.ones(1),
    }
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(save(names))
    mini = single_file.Sizes(
        *(json.loads((MINI_FOLDER / part / "config.json").read_text("utf-8"))
          for part in ("unet", "vae", "text_encoder"))
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"checkpoint\.safetensors"):
        read_checkpoint(path, mini)


# What a training run left behind


def test_a_damaged_checkpoint_of_a_run_is_told_or_read_right(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    config = {"run.seed": 1}
    state = {"step": 7, "seen": 9, "best": 1.0, "config": config, "adapter": tiny_state()}
    path = checkpoints.save(7, state)
    whole = path.read_bytes()
    for seed in range(60):
        path.write_bytes(damaged(whole, seed))
        with no_new_file(tmp_path), only(CheckpointError, f"seed {seed}", path.name):
            found = checkpoints.latest(torch.device("cpu"))
            assert found is not None
            assert found.keys() == state.keys()


@pytest.mark.parametrize("content", [3, [], {}, torch.ones(3), {"step": 1},
    {"step": "7", "seen": 9, "config": {}, "adapter": {}},
    {"step": 7, "seen": 9, "config": [], "adapter": {}}], ids=repr)  # fmt: skip
def test_a_file_that_is_no_checkpoint_of_a_run_is_told(tmp_path: Path, content: object) -> None:
    path = tmp_path / "step-000000003.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"step-000000003.pt is no checkpoint of this"):
        Checkpoints(tmp_path, 2).latest(torch.device("cpu"))


def test_a_damaged_cache_is_dropped_and_never_read_wrong(tmp_path: Path) -> None:
    keys, values = [bytes([k]) * 32 for k in range(3)], torch.randn(3, 2, 5)
    store = Store(tmp_path, (2, 5))
    store.add(keys, values)
    [path] = tmp_path.glob("*.safetensors")
    whole = path.read_bytes()
    for seed in range(150):
        for content in (damaged(whole, seed), with_lies(whole, seed)):
            path.write_bytes(content)
            store = Store(tmp_path, (2, 5))
            for key, value in zip(keys, values.half(), strict=True):
                if not store.missing([key]):
                    assert torch.equal(store.get([key])[0], value), f"seed {seed}"
            path.unlink(missing_ok=True)


@pytest.mark.parametrize(("keys", "values"), [
    (torch.ones(3, 32, dtype=torch.uint8), torch.ones(2, 2, 5).half()),
    (torch.tensor(1, dtype=torch.uint8), torch.ones(2, 2, 5).half()),
    (torch.ones(2, 31, dtype=torch.uint8), torch.ones(2, 2, 5).half()),
    (torch.ones(2, 32, dtype=torch.uint8), torch.ones(2, 2, 5)),
    (torch.ones(2, 32), torch.ones(2, 2, 5).half()),
    (torch.ones(2, 32, dtype=torch.uint8), torch.tensor(1.0).half()),
])  # fmt: skip
def test_a_cache_with_a_right_checksum_and_wrong_content_is_dropped(tmp_path, keys, values) -> None:
    from training.store import _crc32

    path = tmp_path / "a.safetensors"
    tensors = {"keys": keys, "values": values}
    path.write_bytes(save(tensors, {"crc32": str(_crc32(**tensors))}))
    store = Store(tmp_path, (2, 5))
    assert not path.exists()
    assert store.missing([b"\1" * 32]) == [b"\1" * 32]


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ("2.4.0", False),
        ("2.5.1+cu124", False),
        ("2.6.0", True),
        ("2.14.1+cpu", True),
        ("3.0", True),
    ],
)
def test_an_old_torch_opens_no_pickles(
    version: str, safe: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 2.6 even weights_only=True could run code (CVE-2025-32434)."""
    path = tmp_path / "x.bin"
    torch.save({"a": torch.ones(3)}, path)
    monkeypatch.setattr(torch, "__version__", version)
    if safe:
        assert open_weights(path).shapes == {"a": (3,)}
    else:
        with pytest.raises(UnreadableWeightsError, match=r"update torch to 2\.6 or newer"):
            open_weights(path)
