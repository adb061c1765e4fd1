"""The peers by name. Each is imported only in the process that runs it."""

from importlib import import_module

# name -> module, class, arguments
PEERS = {
    "openvino-f16": ("openvino_engine", "OpenVino", {"precision": "f16"}),
    "openvino-bf16": ("openvino_engine", "OpenVino", {"precision": "bf16"}),
    "openvino-int8": ("openvino_engine", "OpenVino", {"precision": "int8"}),
    "openvino-f32": ("openvino_engine", "OpenVino", {"precision": "f32"}),
    "onnxruntime-int8": ("onnx_engine", "OnnxRuntime", {"precision": "int8"}),
    "onnxruntime-f32": ("onnx_engine", "OnnxRuntime", {"precision": "f32"}),
    "st-f32": ("torch_engine", "SentenceTransformers", {"precision": "f32"}),
    "st-bf16": ("torch_engine", "SentenceTransformers", {"precision": "bf16"}),
    "st-bf16-compiled": ("torch_engine", "SentenceTransformers", {"precision": "bf16", "compiled": True}),
    "candding-f32": ("candding_engine", "Candding", {}),
}

TITLES = {
    "openvino": "OpenVINO",
    "onnxruntime": "ONNX Runtime",
    "st": "sentence-transformers (PyTorch)",
    "candding": "candding (candle)",
    "candle": "candle BertModel",
    "assay": "Assay",
}


def make(name: str):
    """The engine of this name, not yet loaded."""
    module, kind, arguments = PEERS[name]
    return getattr(import_module(module), kind)(**arguments)


def title(name: str) -> str:
    """Name of an engine in the tables."""
    family, _, variant = name.partition("-")
    return f"{TITLES.get(family, family)} {variant.replace('-', ', ')}".strip()
