"""Writes the seeds that are not text: files of a model, safetensors, and requests of the protocol.

    clients/python/generate.sh && PYTHONPATH=clients/python/gen python3 fuzz/seeds.py models/all-MiniLM-L6-v2
"""

import json
import struct
import sys
from pathlib import Path

from assay.v1 import embedding_pb2 as embedding
from assay.v1 import evaluation_pb2 as evaluation

SEEDS = Path(__file__).parent / "seeds"
MANIFEST = [
    "config.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "tokenizer_config.json",
]
ROBERTA = {
    "model_type": "xlm-roberta",
    "vocab_size": 10,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 66,
    "pad_token_id": 1,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu",
}
PROMPTS = {"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": "query"}


def write(target, name, content):
    directory = SEEDS / target
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(content)


def safetensors(tensors):
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    header = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return struct.pack("<Q", len(header)) + header + data


def manifests(model):
    write("model_manifest", "minilm", b"\0".join((model / name).read_bytes() for name in MANIFEST))
    parts = [json.dumps(part).encode() for part in (ROBERTA, [], {}, {"max_seq_length": 32}, PROMPTS)]
    write("model_manifest", "xlm_roberta", b"\0".join(parts))


def weights():
    word = "embeddings.word_embeddings.weight"
    for name, tensors in {
        "f32": {word: ("F32", [2, 2], struct.pack("<4f", 1, 2, 3, 4))},
        "f16_prefix": {f"bert.{word}": ("F16", [2], b"\0\x3c\0\x40"), "bert.x": ("BF16", [1], b"\x80\x7f")},
        "other": {word: ("I64", [1], b"\0" * 8), "empty": ("F32", [0], b"")},
    }.items():
        write("model_weights", f"{name}.safetensors", safetensors(tensors))


def requests():
    options = embedding.EmbedOptions(dimensions=4, prompt_name="query", normalize=True)
    sample = evaluation.Sample(user_input="q", response="a", reference="r", language="en", rubrics={"1": "bad", "2": "good"})
    sample.retrieved_contexts.add(text="c", id="1")
    evaluate = evaluation.EvaluateRequest(sample=sample)
    evaluate.metrics.add(name="faithfulness", label="mine")
    evaluate.metrics.add(name="lexical")
    evaluate.metrics.add(name="bleu").bleu.SetInParent()
    evaluate.metrics.add(name="aspect_critic").criterion.SetInParent()
    evaluate.options.budget.usd = 0.5
    messages = [
        embedding.EmbedRequest(inputs=["A red fox.", "今天天气很好。"], options=options),
        embedding.EmbedStreamRequest(id="1", input="text"),
        embedding.TokenizeRequest(inputs=["text"], input_type=1),
        evaluate,
        evaluation.EvaluateStreamRequest(id="1", request=evaluate),
    ]
    for method, message in enumerate(messages):
        write("request", type(message).__name__, bytes([method]) + message.SerializeToString())


manifests(Path(sys.argv[1]))
weights()
requests()
