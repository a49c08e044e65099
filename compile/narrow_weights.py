"""INT8 weights in 7 bits, for x86 processors whose 8-bit products saturate.

Without VNNI (`avx512_vnni`, `avx_vnni`), OpenVINO and ONNX Runtime multiply pairs of U8 activations and S8 weights
with `vpmaddubsw`, which clips the sum of two products at 16 bits, without a word: 255·127·2 does not fit. Measured on
such a processor, that cost 10 dB on resnet50 and on x3d_s. With weights within ±63 the sum always fits, for 1 to
2 dB. Depthwise convolutions are left alone: both libraries compute them in wider integers.

The trap: a graph for a processor *with* VNNI, run on one without, saturates; a device finds that with the bundle's
golden samples.
"""

import platform

import numpy as np
import onnx

from deploy_compile.machine import instructions
from deploy_compile.onnx_graph import array, attribute, heavy_nodes, links

X86 = frozenset({"x86_64", "AMD64", "i686"})  # as platform.machine() says it
VNNI = frozenset({"avx512_vnni", "avx_vnni"})
FULL, NARROW = 127, 63  # the largest weight in 8 bits, and the largest of which two products fit in 16 bits
NOTE = "weights in 7 bits: this processor has no VNNI, and 8-bit products would saturate"


def saturates() -> bool:
    """Whether this machine's processor clips sums of 8-bit products; so taken where the system does not tell."""
    return platform.machine() in X86 and not VNNI.intersection(instructions())


def narrow(model: onnx.ModelProto) -> int:
    """Requantize the INT8 weights of the dense heavy nodes to ±63 in place; return how many.

    A scale grows by 127/63 as the integers shrink. Raises ValueError for weights that are not S8.
    """
    known = links(model)
    done: set[str] = set()
    for node in heavy_nodes(model):
        dequantize = known.producers.get(node.input[1])
        if dequantize is None or dequantize.op_type != "DequantizeLinear" or dequantize.input[0] not in known.constants:
            continue  # a float weight, or an activation
        weight, scale = (known.constants[name] for name in dequantize.input[:2])
        values = array(weight)
        if values.dtype != np.int8:
            raise ValueError(f"the weights of {node.name} are {values.dtype}, not int8")
        depthwise = attribute(node, "group", 1) > 1 and values.shape[1] == 1
        if weight.name in done or depthwise or np.abs(values.astype(np.int16)).max(initial=0) <= NARROW:
            continue
        smaller = np.rint(values.astype(np.float32) * (NARROW / FULL)).astype(np.int8)
        larger = (array(scale).astype(np.float32) * (FULL / NARROW)).astype(array(scale).dtype)
        weight.CopyFrom(onnx.numpy_helper.from_array(smaller, weight.name))
        scale.CopyFrom(onnx.numpy_helper.from_array(larger, scale.name))
        done.add(weight.name)
    return len(done)
