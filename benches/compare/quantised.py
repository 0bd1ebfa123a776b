"""The peers in int8: the same ONNX, quantised by ONNX Runtime's own tools, dense layers only; tables stay f32 as they do with gavel.

Two ways, both with one scale per output channel of a weight. `dynamic`: activations are quantised at run time (the way that is closest to gavel's;
ONNX Runtime runs it, OpenVINO does not run it in int8). `qdq`: activations are quantised with ranges found on calibration rows before; both run it.
"""

import logging
from pathlib import Path


def quantised(model, onnx, folder, calibration):
    """Path of the quantised model by way, made if it is not there."""
    import onnxruntime.quantization as q

    logging.getLogger().setLevel(logging.ERROR)
    ops = ["MatMul", "Gemm"]
    dynamic, qdq = (Path(folder) / f"{onnx.stem}-{way}.onnx" for way in ("dynamic", "qdq"))
    prepared = onnx.with_suffix(".prepared.onnx")
    if not prepared.exists():
        q.shape_inference.quant_pre_process(str(onnx), str(prepared), skip_symbolic_shape=True)
    if not dynamic.exists():
        options = {"MatMulConstBOnly": True}
        q.quantize_dynamic(str(prepared), str(dynamic), op_types_to_quantize=ops, per_channel=True, weight_type=q.QuantType.QInt8, extra_options=options)
    if not qdq.exists():
        layers = [node_name for node_name in _layer_names(prepared)]
        q.quantize_static(
            str(prepared),
            str(qdq),
            _Rows(calibration),
            quant_format=q.QuantFormat.QDQ,
            op_types_to_quantize=ops,
            nodes_to_quantize=layers,
            per_channel=True,
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
        )
    return dict(dynamic=dynamic, qdq=qdq)


def _layer_names(file):
    """Nodes that multiply by a weight: the dot interaction is none."""
    import onnx

    graph = onnx.load(str(file), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights]


class _Rows:
    """Calibration rows, as the quantiser asks for them."""

    def __init__(self, inputs):
        self.rows = iter(inputs)

    def get_next(self):
        return next(self.rows, None)

    def rewind(self):
        raise NotImplementedError("calibration reads the rows once")
