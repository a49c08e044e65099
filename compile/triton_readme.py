"""The page beside a model in a Triton repository: how to start it, how to ask it, and what nobody has run."""

from deploy_compile import triton_config
from deploy_compile.targets import Target
from deploy_runtime.evidence import Candidate, Manifest
from deploy_runtime.spec import Tensor

PLAN = "python -m deploy_runtime build BUNDLE --plan REPO/{name}/1/model.plan"
LIBRARIES = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT"}


def page(manifest: Manifest, row: Candidate, target: Target, digest: str, quantized_products: bool) -> str:
    """Return the page in Markdown. `quantized_products`: the graph multiplies quantized matrices."""
    parts = [
        f"# {manifest.name} in Triton",
        f"Recipe {manifest.recipe}, {row.precision}{' first' if row.backend == 'tensorrt' else ''}, through "
        f"{LIBRARIES[row.backend]} for {target.name}: `{row.file}` of the bundle whose manifest.json has\nthe sha256 "
        f"`{digest}`.",
        "Not run in Triton: the configuration was checked against Triton's schema and the rules of its code.",
        _start(manifest, row, target),
        _asking(manifest),
        *([_streaming(manifest, row)] if manifest.state else []),
    ]
    if notes := _notes(manifest, row, quantized_products):
        parts.append("## To know\n\n" + "\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts) + "\n"


def _start(manifest: Manifest, row: Candidate, target: Target) -> str:
    serve = "    tritonserver --model-repository=REPO"
    if row.backend == "onnxruntime":
        return f"## Start\n\n{serve}"
    capabilities = f" ({', '.join(target.compute_capabilities)})" if target.compute_capabilities else ""
    return (
        "## Start\n\nNot run on hardware. A plan belongs to one GPU and one version of TensorRT: make it on the device"
        f"{capabilities},\nwith the TensorRT of the Triton that will serve it ({target.library}), then start:\n\n"
        f"    {PLAN.format(name=manifest.name)}\n{serve}\n\nThe first precision that builds and passes there becomes "
        f"the plan: it begins with {row.precision} and says which it was."
        + "".join(f"\n\nKnown there: {remark}." for remark in target.remarks)
    )


def _asking(manifest: Manifest) -> str:
    lines = [f"- takes {_told(manifest, tensor)}" for tensor in manifest.data_inputs]
    lines += [f"- gives {_told(manifest, tensor)}" for tensor in manifest.data_outputs]
    most = 1 if manifest.state else manifest.batch.most  # Triton takes one sample a request of a sequence
    batch = "One sample a request" if most == 1 else f"1 to {most} samples a request"
    return (
        f"## Ask\n\n{batch}; the batch axis stands before these, -1 is open:\n\n"
        + "\n".join(lines)
        + "\n\nTriton neither prepares frames nor looks for NaN: send what `model.prepare` of deploy_runtime gives."
    )


def _told(manifest: Manifest, tensor: Tensor) -> str:
    labels = ", with labels" if triton_config.labelled(manifest, tensor) else ""
    return f"`{tensor.name}` {triton_config.dims(manifest, tensor)} {tensor.dtype}{labels}"


def _streaming(manifest: Manifest, row: Candidate) -> str:
    timed = next((tensor for tensor in manifest.data_inputs if "T" in tensor.layout), None)
    frames = f" up to {timed.shape[timed.layout.index('T')]}" if timed and row.backend == "tensorrt" else ""
    return (
        "## Stream\n\nTriton keeps the state of each sequence. Give every request of one camera the same `sequence_id`,"
        "\nthe first one `sequence_start`, the last one `sequence_end`. A request is a chunk of frames: one, or several"
        f"{frames}.\n{_silent(manifest)}"
        f"After {triton_config.IDLE_US // 1_000_000} s without a request the sequence is given up, and the "
        "next request refused until one starts anew.\nNo warm-up is configured: Triton's does not reach models that "
        "carry state."
    )


def _silent(manifest: Manifest) -> str:
    if not manifest.window:
        return ""
    return f"Answers are those of a window of {manifest.window} frames: leave out those before the first one is full.\n"


def _notes(manifest: Manifest, row: Candidate, quantized_products: bool) -> list[str]:
    notes = []
    if row.backend == "onnxruntime":
        versions = manifest.provenance.versions
        found = next((versions[name] for name in ("onnxruntime-gpu", "onnxruntime") if name in versions), None)
        if found:
            notes.append(f"parity and speed were measured with ONNX Runtime {found}; Triton brings its own.")
        if manifest.objective == "throughput" and row.target == "cpu":
            notes.append("one engine a core: set `count` of `instance_group` to the cores of the machine that serves.")
        if quantized_products:
            notes.append(
                "Triton cannot leave out ONNX Runtime's MatMulAddFusion, as the bundle's runtime does: some quantized "
                "matrices\n  are then multiplied in float, and it is slower."
            )
    if manifest.provenance.weights == "seeded":
        notes.append("the weights are seeded: an architecture check, not a model to ship.")
    return notes
