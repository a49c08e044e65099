"""NVIDIA ModelOpt's ONNX quantization with its defaults; a script of its own, for an environment of its own.

    PYTHON benchmarks/peers_modelopt.py GRAPH SAMPLES OUT    what peers.py calls

ModelOpt pins older versions of onnx and ONNX Runtime than this tool has. Its graphs are for TensorRT, with fp16 floats;
OpenVINO runs them here.
"""

import sys
from pathlib import Path

import numpy as np
from modelopt.onnx.quantization import quantize  # type: ignore[import-not-found]


def main() -> None:
    graph, samples, out = sys.argv[1:]
    stacked: dict[str, list[np.ndarray]] = {}
    for path in sorted(Path(samples).glob("*.npz"), key=lambda path: int(path.stem)):
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays:
                stacked.setdefault(name, []).append(arrays[name])
    data = {name: np.concatenate(arrays) for name, arrays in stacked.items()}
    quantize(graph, quantize_mode="int8", calibration_data=data, output_path=out)


if __name__ == "__main__":
    main()
