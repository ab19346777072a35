"""Tiny networks with random weights in the real layouts, written as folders that programs load."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2Processor,
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipImageProcessor,
    BlipProcessor,
    PreTrainedTokenizerFast,
)

SIDE = 28
QUERIES = 4
WORDS = re.findall(
    r"\S+",
    "a an the girl boy cat dog hat dress hair eyes red blue green sits stands holds with in on of "
    "and room garden street anime illustration question answer who what where is being worn done "
    "picture clothes background pose that wearing : ? ,",
)


def t5_tokenizer() -> PreTrainedTokenizerFast:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -2.0 - 0.01 * i) for i, word in enumerate(WORDS)]
    pieces += [(letter, -9.0) for letter in "▁abcdefghijklmnopqrstuvwxyzQAIW,?:."]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def bert_tokenizer(folder: Path) -> BertTokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(WORDS)]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    return BertTokenizer(str(folder / "vocab.txt"))


def image_processor() -> BlipImageProcessor:
    return BlipImageProcessor(size={"height": SIDE, "width": SIDE})


def vision() -> dict[str, object]:
    # As transformers draws BLIP-2's vision weights (1e-10), no picture would make a difference.
    return {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": SIDE, "patch_size": 14, "initializer_range": 0.5,
    }  # fmt: skip


def qformer(**more: object) -> dict[str, object]:
    return {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "vocab_size": 80, "encoder_hidden_size": 16,
        "initializer_range": 0.3, **more,
    }  # fmt: skip


def stir(model: torch.nn.Module, seed: int) -> None:
    """Random weights, large enough for pictures and words to matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name.lower():
                weight.copy_(0.4 * torch.randn(weight.shape, generator=generator))


def write_blip2(
    folder: Path, *, knows_queries: bool = True, room: bool = True, seed: int = 0
) -> Blip2ForConditionalGeneration:
    """Writes a captioner; without `knows_queries` it is one that writes without looking.

    Without `room` the image token has no row in the word embeddings.
    """
    tokenizer = t5_tokenizer()
    processor = Blip2Processor(image_processor(), tokenizer, QUERIES if knows_queries else None)
    size = len(tokenizer)
    text = {
        "model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2,
        "vocab_size": size if room else size - 1, "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False, "decoder_start_token_id": 0, "pad_token_id": 0,
        "eos_token_id": 1, "architectures": ["T5ForConditionalGeneration"],
    }  # fmt: skip
    config = Blip2Config(
        vision_config=vision(), qformer_config=qformer(), text_config=text,
        num_query_tokens=QUERIES, image_token_index=size - 1,
    )  # fmt: skip
    model = Blip2ForConditionalGeneration(config)
    language = model.language_model
    # flan-t5 has an output layer of its own, although transformers ties it in new models.
    language.lm_head.weight = torch.nn.Parameter(torch.zeros_like(language.lm_head.weight))
    stir(model, seed)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model.eval()


def write_blip2_itm(
    folder: Path, *, knows_queries: bool = True, seed: int = 1
) -> Blip2ForImageTextRetrieval:
    tokenizer = bert_tokenizer(folder)
    processor = Blip2Processor(image_processor(), tokenizer, QUERIES if knows_queries else None)
    more = {"use_qformer_text_input": True}
    config = Blip2Config(
        vision_config=vision(), qformer_config=qformer(**more), num_query_tokens=QUERIES,
        image_text_hidden_size=8, image_token_index=len(tokenizer) - 1,
        text_config={"model_type": "opt", "hidden_size": 16, "num_hidden_layers": 1,
                     "ffn_dim": 16, "num_attention_heads": 2, "vocab_size": 80,
                     "word_embed_proj_dim": 16},
    )  # fmt: skip
    model = Blip2ForImageTextRetrieval(config)
    stir(model, seed)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model.eval()


def write_blip_itm(folder: Path, *, seed: int = 2) -> BlipForImageTextRetrieval:
    tokenizer = bert_tokenizer(folder)
    config = BlipConfig(
        vision_config=vision(),
        text_config={"hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 32,
                     "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 80,
                     "max_position_embeddings": 64, "bos_token_id": 2, "sep_token_id": 3},
        image_text_hidden_size=8,
    )  # fmt: skip
    model = BlipForImageTextRetrieval(config)
    stir(model, seed)
    model.save_pretrained(folder)
    BlipProcessor(image_processor(), tokenizer).save_pretrained(folder)
    return model.eval()


# name, category (9 rating, 0 general, 4 character), bias: the probability of a grey picture
TAGS = (
    ("general", 9, 2.0), ("sensitive", 9, -2.0), ("explicit", 9, -5.0),
    ("1girl", 0, 3.0), ("red_hair", 0, 1.0), ("school_uniform", 0, 0.0), ("outdoors", 0, -3.0),
    ("^_^", 0, 2.5), ("hatsune_miku_(vocaloid)", 4, 2.0), ("rem_(re:zero)", 4, 1.0),
)  # fmt: skip


def write_tagger(folder: Path, side: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Writes a tagger in WD14's layout: the mean of each channel, a matrix, a sigmoid.

    Returns:
        The matrix [3, tags] (of B, G, R in 0 to 255) and the bias [tags].
    """
    folder.mkdir(parents=True, exist_ok=True)
    matrix = np.random.default_rng(0).normal(0, 0.004, (3, len(TAGS))).astype(np.float32)
    bias = np.array([tag[2] for tag in TAGS], dtype=np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "matrix"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["output"]),
    ]
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", side, side, 3])
    result = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", len(TAGS)])
    weights = [
        numpy_helper.from_array(np.array([1, 2], dtype=np.int64), "axes"),
        numpy_helper.from_array(matrix, "matrix"),
        numpy_helper.from_array(bias, "bias"),
    ]
    graph = helper.make_graph(nodes, "tagger", [picture], [result], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(folder / "model.onnx"))
    with (folder / "selected_tags.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["tag_id", "name", "category", "count"])
        writer.writerows([number, name, kind, 100] for number, (name, kind, _) in enumerate(TAGS))
    return matrix, bias
