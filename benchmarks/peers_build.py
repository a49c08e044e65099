"""How each alternative makes its model ready, with its own defaults: one function each, run in a process.

All start from what a user has: the network, its plain ONNX export, and the calibration samples that we use too.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from deploy_compile.sample_files import read


def torch_eager(raw: Path, samples: Path, out: Path) -> None:
    """Nothing to build: the network as it is."""


def torch_compile(raw: Path, samples: Path, out: Path) -> None:
    """Nothing to build ahead: it compiles when it is opened, and that is timed there."""


def onnxruntime_fp32(raw: Path, samples: Path, out: Path) -> Path:  # noqa: ARG001 - as the others
    """The plain export."""
    return raw


def onnxruntime_int8(raw: Path, samples: Path, out: Path) -> Path:
    """`quantize_static` as its documentation says: pre-processing first, then every default."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static  # type: ignore[import-untyped]
    from onnxruntime.quantization.shape_inference import quant_pre_process  # type: ignore[import-untyped]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._samples: Iterator[dict[str, np.ndarray]] = read(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._samples, None)

    quant_pre_process(str(raw), str(out / "prepared.onnx"))
    quantize_static(str(out / "prepared.onnx"), str(out / "model.onnx"), Reader())
    return out / "model.onnx"


def openvino_fp32(raw: Path, samples: Path, out: Path) -> Path:
    """OpenVINO's own converter on the plain export, computed in fp32."""
    return _converted(raw, samples, out)


def openvino_bf16(raw: Path, samples: Path, out: Path) -> Path:
    """The same, computed in bf16: OpenVINO's default where the processor has it."""
    return _converted(raw, samples, out)


def nncf_int8(raw: Path, samples: Path, out: Path) -> Path:
    """NNCF's post-training quantization with its defaults; `transformer` where its documentation asks for it."""
    import nncf  # type: ignore[import-not-found]
    import openvino  # type: ignore[import-untyped]

    model = openvino.convert_model(raw)
    _shape(model, samples)
    given = list(read(samples))
    attention = any(node.op_type == "Softmax" for node in onnx.load(raw, load_external_data=False).graph.node[:-2])
    kind: Any = nncf.ModelType.TRANSFORMER if attention else None
    dataset = nncf.Dataset(given, lambda sample: sample)
    quantized = nncf.quantize(model, dataset, subset_size=len(given), model_type=kind)
    openvino.save_model(quantized, out / "model.xml", compress_to_fp16=False)
    return out / "model.xml"


def modelopt_int8(raw: Path, samples: Path, out: Path) -> Path:
    """NVIDIA ModelOpt's ONNX quantization with its defaults, in the environment that MODELOPT_PYTHON names."""
    script = Path(__file__).with_name("peers_modelopt.py")
    command = [modelopt_python(), str(script), str(raw), str(samples), str(out / "model.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}")
    return out / "model.onnx"


def modelopt_python() -> str:
    """The interpreter that has ModelOpt, which pins older versions of onnx and ONNX Runtime than ours."""
    return os.environ.get("MODELOPT_PYTHON", sys.executable)


def olive_int8(raw: Path, samples: Path, out: Path) -> Path:
    """Olive's static quantization with its defaults. It reports what is run to its maker unless told not to."""
    os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"
    from olive.data.config import DataComponentConfig, DataConfig  # type: ignore[import-not-found]
    from olive.data.registry import Registry  # type: ignore[import-not-found]
    from olive.hardware import DEFAULT_CPU_ACCELERATOR  # type: ignore[import-not-found]
    from olive.model import ONNXModelHandler  # type: ignore[import-not-found]
    from olive.passes.olive_pass import create_pass_from_dict  # type: ignore[import-not-found]
    from olive.passes.onnx.quantization import OnnxStaticQuantization  # type: ignore[import-not-found]

    Registry.register_dataset("peers")(lambda **_: [(sample, 0) for sample in read(samples)])
    data = DataConfig(
        name="calibration",
        load_dataset_config=DataComponentConfig(type="peers"),
        pre_process_data_config=DataComponentConfig(type="skip_pre_process"),
        post_process_data_config=DataComponentConfig(type="skip_post_process"),
        dataloader_config=DataComponentConfig(type="no_auto_batch_dataloader"),
    )
    settings = {"data_config": data}
    made = create_pass_from_dict(
        OnnxStaticQuantization, settings, disable_search=True, accelerator_spec=DEFAULT_CPU_ACCELERATOR
    )
    return Path(made.run(ONNXModelHandler(str(raw)), str(out / "model.onnx")).model_path)


def _converted(raw: Path, samples: Path, out: Path) -> Path:
    import openvino

    model = openvino.convert_model(raw)
    _shape(model, samples)
    openvino.save_model(model, out / "model.xml", compress_to_fp16=False)
    return out / "model.xml"


def _shape(model: Any, samples: Path) -> None:
    """Fix the batch at 1, as ours is: a dynamic axis would cost it some 15 %."""
    first = next(read(samples))
    model.reshape({name: list(array.shape) for name, array in first.items()})
