"""What lies beside a bundle in a package and is run on the device."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

from deploy_compile import device_files
from deploy_runtime import manifest as manifests
from deploy_runtime.evidence import Candidate
from deploy_runtime.spec import Batch, State, Tensor
from tests.runtime import tiny_bundle


def test_trtexec_is_told_every_shape(tmp_path: Path) -> None:
    """The script's lines, run with a trtexec that writes its arguments down and refuses the first form of a graph."""
    whole = tiny_bundle.write(tmp_path / "bundle")
    row = Candidate("tensorrt", "int8", "igx", "to_build", file="graphs/a.onnx", also=("graphs/b.onnx",))
    tensors = (Tensor("frames", ("batch", 6, 3, 16, 16), layout="NTCHW"), Tensor("h", ("batch", 1, 32), layout="NLC"))
    made = replace(
        manifests.read(whole), inputs=tensors, state=(State("h", "h_after"),), batch=Batch(1, 4, 16), candidates=(row,)
    )
    (tmp_path / "build_engine.sh").write_text(device_files.build_script(made))
    fake = tmp_path / "trtexec"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@" ">" >> told\ncase $1 in *a.onnx) exit 3; esac\n')
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["sh", str(tmp_path / "build_engine.sh")]
    done = subprocess.run(command, env=environment, check=False, cwd="/")
    assert done.returncode == 0
    first, second = [call.split() for call in (tmp_path / "told").read_text().split(">\n")[:-1]]
    assert first[0] == "--onnx=bundle/graphs/a.onnx"
    assert second == [
        "--onnx=bundle/graphs/b.onnx",
        "--stronglyTyped",
        "--saveEngine=engines/int8.engine",
        "--minShapes=frames:1x1x3x16x16,h:1x1x32",
        "--optShapes=frames:4x6x3x16x16,h:4x1x32",
        "--maxShapes=frames:16x6x3x16x16,h:16x1x32",
        "--timingCacheFile=engines/timing.cache",
        "--profilingVerbosity=detailed",
        "--exportLayerInfo=engines/int8.layers.json",
    ]
