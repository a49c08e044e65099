"""docs/passes.md from the results of benchmarks/passes.py; by hand is only what was tried once and left out."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "passes.md"
KINDS = {
    "fp32": "ONNX Runtime fp32",
    "int8": "ONNX Runtime int8",
    "openvino int8": "OpenVINO int8",
    "openvino fp32": "OpenVINO fp32, without and with",
}
HEAD = """# Graph passes for one backend: what each is worth

Made by `python benchmarks/passes.py` from the results in `benchmarks/results/passes`: the engine that ships beside the
same one with a pass left out, and with none (but U8), interleaved in one run on one thread. Numbers are how many times
**slower** an engine is than the one that ships (processor time, medians, 95 % interval): above 1 the pass pays. Each
engine is one process, and two processes of the same engine differ by some 1 %, which the intervals do not know.

* **clips as frames** (`compile/lower_3d.py`): 3-D convolutions and what surrounds them as 2-D ones.
* **whole vectors** (`compile/pad_channels.py`): channels around depthwise convolutions filled up to a multiple of 16.
* **blocks** (`compile/fold_strides.py`): the first convolution of an INT8 graph over blocks of 2 x 2 pixels.
* **pooled means** (`compile/rewrite_onnxruntime.py`): a mean over all positions as pooling, which has an INT8 kernel.
* **U8** (the same): activations as U8 instead of S8.

A dash: the pass finds nothing in that graph. A model without a row: none does.

*differs* is the largest difference between the answers of the engine with none of them and of the one that ships, over
the largest answer, on 4 held-out samples. In fp32 it is rounding, of sums in another order; where it is 0 in INT8 not
one integer differs. OpenVINO fuses other kernels where Concats are nested and rounds some integers to the neighbour; as
written, both graphs give the same bits (tests/compile/test_nest_concats.py).

When a pass is applied follows from the graph, not from a model's name: see `compile/lower_onnxruntime.py`. These five
are for ONNX Runtime on x86 processors. OpenVINO has fast kernels for clips: it gets them as they are. Its own, where an
INT8 graph has what they are for:

* **nested Concats** (`compile/nest_concats.py`): what the Concats of a dense block share is joined once.
* **pools in bytes** (`compile/rewrite_openvino.py`): what is quantized right behind a MaxPool is quantized before it.

{machines}
"""
FOOT = """
Tried once (AMD EPYC with AVX2, processor time; how fast what ships would be with it, 1 being as it is) and left out:

* X3D's stem, 1x3x3 and then 5x1x1 depthwise, merged to one 5x3x3: 0.93 in fp32, 0.80 in INT8 (x3d_s).
* Neighbours in time made by Pad: 0.90; by Slice on floats: 0.93 (x3d_s); by Gather on integers: 0.95 to 0.96
  (slowfast_r50, r2plus1d_r50).
* Dense floats as frames: 0.94 (r2plus1d_r18), 1.03 (slowfast_r50), 1.11 (r2plus1d_r50): not worth a rule that tells
  them apart, so that fp32 graphs stay clips where no depthwise convolution over clips is among them.
* A float convolution as frames that is alone among other operators, as MViT's patches are made: 0.975 of mvit_base.
* Depthwise convolutions over clips as sums where nothing around them is frames, as MViT pools: 0.77 of one such layer.
* In INT8 all as frames but the depthwise convolutions, with transposes around each of those: 0.57 (x3d_s).
"""


def write_page(results: Path) -> None:
    """Write the page: a table a backend and precision."""
    found = _read(results)
    machines = sorted({_machine(result) for result in found})
    text = HEAD.format(machines=f"Measured on {'; '.join(machines)}." if machines else "Nothing is measured yet.")
    tables = [line for kind in KINDS for line in _table([result for result in found if kind in result], kind)]
    PAGE.write_text("\n".join([text, *tables]) + FOOT)


def summary(results: Path) -> list[str]:
    """Return a table of one row a pass and engine, over the models whose graph the pass changes, for another page."""
    lines = ["| engine | changed | models | times slower | least to most |", "| --- | --- | ---: | ---: | --- |"]
    found = _read(results)
    for kind, engine in KINDS.items():
        timed = [(result["model"], result[kind]) for result in found if kind in result]
        for variant in (name for name in (timed[0][1] if timed else ()) if name not in ("all", "none")):
            slower = {model: rows[variant]["slower"][0] for model, rows in timed if rows[variant]}
            if slower:
                mean = geometric_mean(slower.values())
                least, most = (pick(slower, key=slower.__getitem__) for pick in (min, max))
                spread = f"{slower[least]:.2f} ({least}) to {slower[most]:.2f} ({most})" if len(slower) > 1 else least
                lines.append(f"| {engine.partition(',')[0]} | {variant} | {len(slower)} | {mean:.2f} | {spread} |")
    return [*lines, ""]


def _read(results: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]


def _machine(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    return f"{machine['cpu']} ({machine['instructions']}), {machine['cores']} cores, {result['date']}"


def _table(results: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
    if not results:
        return []
    variants = [variant for variant in results[0][kind] if variant != "all"]
    lines = [f"## {KINDS[kind]}", "", f"| model | ships, ms | {' | '.join(variants)} | differs | commit |"]
    lines.append(f"| --- | ---: |{' --- |' * len(variants)} ---: | --- |")
    for result in results:
        rows = result[kind]
        cells = " | ".join(_slower(rows[variant]["slower"]) if rows[variant] else "–" for variant in variants)
        differs = f"{rows[variants[-1]]['difference']:.0e}" if rows[variants[-1]] else "–"
        lines.append(f"| `{result['model']}` | {rows['all']['ms']:.0f} | {cells} | {differs} | {result['commit']} |")
    return [*lines, ""]


def _slower(interval: Sequence[float]) -> str:
    ratio, low, high = interval
    return f"{ratio:.2f} ({low:.2f}–{high:.2f})"
