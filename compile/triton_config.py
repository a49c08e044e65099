"""What Triton's `config.pbtxt` says of one graph of a bundle, as nested values for `pbtxt.text`.

The rules that Triton holds a model to are kept here. With `max_batch_size` the batch axis is left out of `dims`, and
the graph's own must be open; the other dims must be the graph's. State is no input and no output: it stands under
`sequence_batching`, which excludes `dynamic_batching`. Two traps: Triton pairs the states by the alphabetical order of
their names (triton-inference-server/server issue 8586, open), and its warm-up goes past the sequence scheduler, so that
a model that carries state would fail to load with one.
Sources: Triton's model_config.proto and documentation of release 2.73, the code of its core and ONNX Runtime backend.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy_compile.pbtxt import Message, Value, Word
from deploy_compile.targets import TARGETS
from deploy_runtime.errors import DeployError
from deploy_runtime.evidence import Backend, Candidate, Manifest
from deploy_runtime.spec import Classes, MultiLabel, State, Tensor

PLATFORMS: Mapping[Backend, str] = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}
OPEN = -1  # Triton's word for an axis of any length
MOST_DELAY_US = 1000  # that a request waits at most for others to make a batch with
IDLE_US = 60_000_000  # after which a sequence is given up: a camera may pause, its operation goes on
CANDIDATES = 64  # sequences that one instance serves in turn; more wait
DATA_TYPES = {
    "float32": "TYPE_FP32", "float16": "TYPE_FP16", "int64": "TYPE_INT64", "int32": "TYPE_INT32", "uint8": "TYPE_UINT8",
    "bool": "TYPE_BOOL",
}  # fmt: skip
LABELS = "labels.txt"
VERSION = 1


@dataclass(frozen=True)
class Port:
    """An input or output as a graph states it: its dtype in numpy's words, -1 for each open axis, batch first."""

    dtype: str
    dims: tuple[int, ...]


def served() -> tuple[str, ...]:
    """Return the names of the targets that Triton has a backend of ours for."""
    return tuple(target.name for target in TARGETS if PLATFORMS.keys() & set(target.backends))


def config(
    manifest: Manifest, row: Candidate, ports: tuple[Mapping[str, Port], Mapping[str, Port]], digest: str
) -> Message:
    """Return the configuration that serves the graph of `row`, whose inputs and outputs are `ports`.

    Raises DeployError where the graph is not what the manifest says, or Triton cannot serve it.
    """
    _check_batch(manifest)
    check_order(manifest.state)
    for tensors, found in zip((manifest.inputs, manifest.outputs), ports, strict=True):
        _check_ports(manifest, tensors, found)
    on_cpu = row.target == "cpu"
    said: dict[str, Value] = {
        "name": manifest.name,
        "platform": PLATFORMS[row.backend],
        "max_batch_size": manifest.batch.most,
        "version_policy": {"specific": {"versions": [VERSION]}},
        "input": [_port(manifest, tensor) for tensor in manifest.data_inputs],
        "output": [
            _port(manifest, tensor) | ({"label_filename": LABELS} if labelled(manifest, tensor) else {})
            for tensor in manifest.data_outputs
        ],
        "instance_group": [{"count": _instances(manifest, on_cpu), "kind": Word("KIND_CPU" if on_cpu else "KIND_GPU")}],
    }
    if manifest.state:
        said["sequence_batching"] = _sequences(manifest)
    elif manifest.batch.most > 1:
        sizes = sorted({size for size in (manifest.batch.best, manifest.batch.most) if size > 1})
        said["dynamic_batching"] = {"preferred_batch_size": sizes, "max_queue_delay_microseconds": MOST_DELAY_US}
    if row.target == "cuda":  # TF32 is not fp32, and ONNX Runtime's default
        cuda: dict[str, Value] = {"name": "cuda", "parameters": [{"key": "use_tf32", "value": "0"}]}
        said["optimization"] = {"execution_accelerators": {"gpu_execution_accelerator": [cuda]}}
    if not manifest.state:
        said["model_warmup"] = [
            _warmup(manifest, size) for size in sorted({1, manifest.batch.best, manifest.batch.most})
        ]
    said["parameters"] = [
        {"key": key, "value": {"string_value": value}} for key, value in _parameters(manifest, row, digest).items()
    ]
    return said


def data_file(manifest: Manifest, state: State) -> str:
    """Return the name of the file that holds the initial value of a state which does not begin at zero."""
    return f"state_{manifest.state.index(state)}.bin"


def labelled(manifest: Manifest, tensor: Tensor) -> bool:
    """Whether Triton's classification can name the classes of an output.

    It numbers all values of one answer in a row, so that only an output of one vector a sample has its labels.
    """
    task = manifest.task
    if not manifest.labels or not isinstance(task, Classes | MultiLabel):
        return False
    return tensor.shape[1:] == (len(manifest.labels),) and (not task.of or tensor.name in task.of)


def dims(manifest: Manifest, tensor: Tensor) -> list[int]:
    """Return a tensor's dims without the batch axis, with the time axis of what streams open."""
    letters = tensor.layout if len(tensor.layout) == len(tensor.shape) else " " * len(tensor.shape)
    return [
        OPEN if isinstance(dim, str) or (manifest.state and letter == "T") else dim
        for dim, letter in zip(tensor.shape[1:], letters[1:], strict=True)
    ]


def _port(manifest: Manifest, tensor: Tensor) -> dict[str, Value]:
    return {"name": tensor.name, "data_type": _data_type(tensor), "dims": dims(manifest, tensor)}


def _data_type(tensor: Tensor) -> Word:
    if tensor.dtype not in DATA_TYPES:
        raise DeployError(f"{tensor.name} is {tensor.dtype}, which Triton has no word for here", "Use float32.")
    return Word(DATA_TYPES[tensor.dtype])


def _sequences(manifest: Manifest) -> Message:
    """Return how Triton keeps the state of each stream: oldest first, so that many streams share one instance."""
    tensors = {tensor.name: tensor for tensor in manifest.inputs}
    most = manifest.batch.most
    oldest: dict[str, Value] = {"max_candidate_sequences": max(CANDIDATES, most)}
    if most > 1:
        oldest |= {"preferred_batch_size": [most], "max_queue_delay_microseconds": MOST_DELAY_US}
    return {
        "max_sequence_idle_microseconds": IDLE_US,
        "oldest": oldest,
        "state": [_state(manifest, one, tensors[one.input]) for one in manifest.state],
    }


def _state(manifest: Manifest, state: State, tensor: Tensor) -> Message:
    kind: dict[str, Value] = {"data_type": _data_type(tensor), "dims": dims(manifest, tensor)}
    begins: Value = {"data_file": data_file(manifest, state)} if state.initial else {"zero_data": True}
    assert isinstance(begins, Mapping)
    initial = {**kind, **begins, "name": f"{state.input} before the first frame"}
    return {"input_name": state.input, "output_name": state.output, **kind, "initial_state": [initial]}


def _warmup(manifest: Manifest, size: int) -> Message:
    inputs: list[Message] = [
        {"key": t.name, "value": {"data_type": _data_type(t), "dims": dims(manifest, t), "zero_data": True}}
        for t in manifest.data_inputs
    ]
    return {"name": f"batch of {size}", "batch_size": size, "inputs": inputs}


def _instances(manifest: Manifest, on_cpu: bool) -> int:
    """Return how many engines run side by side: one, or one a core for a bundle made for throughput on a CPU."""
    cores = manifest.provenance.machine.get("cores", "1")
    return int(cores) if on_cpu and manifest.objective == "throughput" and cores.isdecimal() else 1


def _parameters(manifest: Manifest, row: Candidate, digest: str) -> Mapping[str, str]:
    told = {"bundle_sha256": digest}
    if row.backend == "tensorrt":
        return told  # which graph it is the device decides
    told |= {"graph": str(row.file), "precision": row.precision}
    if row.target != "cpu":
        return told
    # 0: the physical cores of the machine that serves, as deploy_runtime takes them
    return {"intra_op_thread_count": "1" if manifest.objective == "throughput" else "0", **told}


def _check_batch(manifest: Manifest) -> None:
    batch = manifest.batch
    if batch.least > 1:
        raise DeployError(
            f"{manifest.name} serves batches of {batch.least} to {batch.most}, and Triton may send single samples",
            f"Compile it with --batch 1:{batch.best}:{batch.most}.",
        )


def check_order(state: Sequence[State]) -> None:
    """Raise DeployError where Triton would feed a state that comes out into another one that goes in."""
    if [one.output for one in sorted(state, key=lambda one: one.input)] != sorted(one.output for one in state):
        raise DeployError(
            "the names of the states that go in and of those that come out sort differently, and Triton would mix "
            "them up without a word (triton-inference-server/server issue 8586)",
            "Rename them in the recipe, so that no name is the beginning of another.",
        )


def _check_ports(manifest: Manifest, tensors: Sequence[Tensor], found: Mapping[str, Port]) -> None:
    """Compare the manifest's tensors with the graph's, as Triton will when it loads the model."""
    again = "Build the bundle again: its graph is not what its manifest says."
    if {tensor.name for tensor in tensors} != set(found):
        raise DeployError(
            f"the graph has {', '.join(sorted(found))} and the manifest {', '.join(t.name for t in tensors)}", again
        )
    for tensor in tensors:
        port, wanted = found[tensor.name], (OPEN, *dims(manifest, tensor))
        if port.dtype != tensor.dtype:
            raise DeployError(f"{tensor.name} is {port.dtype} in the graph and {tensor.dtype} in the manifest", again)
        if port.dims != wanted:
            raise DeployError(
                f"{tensor.name} is {list(port.dims)} in the graph and {list(wanted)} in the manifest (-1: open)", again
            )
