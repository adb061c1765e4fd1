"""A model directory as one graph from ids and mask to unit vectors, for the peers that run graphs.

Made once and kept in the cache directory: ONNX in f32, the same quantised by ONNX Runtime, OpenVINO's form of it,
and that quantised by NNCF with the texts of the calibration file.
"""

import json
from pathlib import Path


def pooled_module(model: Path):
    """The encoder of `model` with pooling and normalisation, on the CPU in f32."""
    import torch
    from transformers import AutoModel

    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = AutoModel.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
            self.first_token = json.loads((model / "1_Pooling/config.json").read_text())["pooling_mode_cls_token"]

        def forward(self, input_ids, attention_mask):
            states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            if self.first_token:
                pooled = states[:, 0]
            else:
                weights = attention_mask.unsqueeze(-1).to(states.dtype)
                pooled = (states * weights).sum(1) / weights.sum(1)
            return torch.nn.functional.normalize(pooled, dim=-1)

    return Pooled().eval()


def onnx_f32(model: Path, cache: Path) -> Path:
    """ONNX with the fused operators that ONNX Runtime has for BERT."""
    fused = cache / "f32.onnx"
    if fused.exists():
        return fused
    import torch
    from onnxruntime.transformers import optimizer

    plain = cache / "plain.onnx"
    example = torch.ones(2, 16, dtype=torch.int64)
    axes = {"input_ids": {0: "batch", 1: "length"}, "attention_mask": {0: "batch", 1: "length"}, "vector": {0: "batch"}}
    torch.onnx.export(
        pooled_module(model), (example, example), plain, input_names=["input_ids", "attention_mask"],
        output_names=["vector"], dynamic_axes=axes, opset_version=17, dynamo=False,
    )
    config = json.loads((model / "config.json").read_text())
    made = optimizer.optimize_model(
        str(plain), model_type="bert", num_heads=config["num_attention_heads"], hidden_size=config["hidden_size"]
    )
    made.save_model_to_file(str(fused))
    return fused


def onnx_int8(model: Path, cache: Path) -> Path:
    """Dynamic quantization: weights in int8, activations scaled at run time."""
    quantised = cache / "int8.onnx"
    if not quantised.exists():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        onnx_f32(model, cache)
        # The fused graph is not quantized, since its attention has one scale for Q, K and V and is less accurate.
        quantize_dynamic(cache / "plain.onnx", quantised, per_channel=True, weight_type=QuantType.QInt8)
    return quantised


def openvino_f32(model: Path, cache: Path) -> Path:
    """OpenVINO model, converted from PyTorch."""
    path = cache / "openvino.xml"
    if not path.exists():
        import openvino
        import torch

        module = pooled_module(model)
        module.encoder.set_attn_implementation("sdpa")
        example = torch.ones(2, 16, dtype=torch.int64)
        example = {"input_ids": example, "attention_mask": example}
        shapes = {name: openvino.PartialShape([-1, -1]) for name in example}
        made = openvino.convert_model(module, example_input=example, input=shapes)
        openvino.save_model(made, path, compress_to_fp16=False)
    return path


def openvino_int8(model: Path, cache: Path) -> Path:
    """Post-training quantization with calibrated activations."""
    path = cache / "openvino-int8.xml"
    if not path.exists():
        import nncf
        import openvino
        from tokens import Tokens, padded

        texts = (cache / "calibration.txt").read_text(encoding="utf-8").splitlines()
        samples = [dict(zip(("input_ids", "attention_mask"), padded([ids]))) for ids in Tokens(model).ids(texts)]
        plain = openvino.Core().read_model(openvino_f32(model, cache))
        made = nncf.quantize(
            plain, nncf.Dataset(samples), subset_size=len(samples), model_type=nncf.ModelType.TRANSFORMER,
            # The default has a better mean, but is inaccurate for very short texts.
            advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alpha=0.5),
        )
        openvino.save_model(made, path, compress_to_fp16=False)
    return path
