"""A model of a Triton repository, read and run as Triton does it: by its config.pbtxt, and by nothing else.

`read` knows the subset of protobuf's text format that is written; test_triton_schema.py holds it against Google's own
parser and Triton's schema. `Served` keeps the state of sequences as Triton's core does, pairing inputs and outputs by
the alphabetical order of their names.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]

TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"|([A-Za-z0-9_.+-]+)|([{}\[\]:,])')
TYPES = {"TYPE_FP32": np.float32, "TYPE_FP16": np.float16, "TYPE_INT64": np.int64}


def read(text: str) -> dict[str, list[Any]]:
    """Return a message: each field's values in order, whether it is repeated or not."""
    tokens = list(TOKEN.finditer(text))
    message, end = _message(tokens, 0)
    assert end == len(tokens), "something stands behind the message"
    return message


def _message(tokens: list[re.Match[str]], at: int) -> tuple[dict[str, list[Any]], int]:
    found: dict[str, list[Any]] = {}
    while at < len(tokens) and tokens[at][0] != "}":
        name, at = tokens[at][2], at + 1
        values = found.setdefault(name, [])
        if tokens[at][0] == "{":
            value, at = _message(tokens, at + 1)
            assert tokens[at][0] == "}"
            values.append(value)
            at += 1
        elif tokens[at + 1][0] == "[":
            end = next(i for i in range(at, len(tokens)) if tokens[i][0] == "]")
            values += [_scalar(token) for token in tokens[at + 2 : end] if token[0] != ","]
            at = end + 1
        else:
            assert tokens[at][0] == ":"
            values.append(_scalar(tokens[at + 1]))
            at += 2
    return found, at


def _scalar(token: re.Match[str]) -> Any:
    if token[1] is not None:
        return token[1].encode().decode("unicode_escape").encode("latin-1").decode()
    try:
        return int(token[2])
    except ValueError:
        return token[2]


class Served:
    """One model of a repository."""

    def __init__(self, model: Path) -> None:
        self.folder = model
        self.config = read((model / "config.pbtxt").read_text())
        assert self.config["name"] == [model.name]
        assert self.config["platform"] == ["onnxruntime_onnx"]
        file = model / str(self.config["version_policy"][0]["specific"][0]["versions"][0]) / "model.onnx"
        self._session: Any = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        sequences = self.config.get("sequence_batching", [{}])[0]
        self.states: list[dict[str, list[Any]]] = sequences.get("state", [])
        wanted = {one["name"][0] for one in self.config["input"]} | {one["input_name"][0] for one in self.states}
        assert {port.name for port in self._session.get_inputs()} == wanted
        self._kept: dict[int, dict[str, np.ndarray]] = {}

    def infer(self, inputs: dict[str, np.ndarray], sequence: int = 0, start: bool = False) -> dict[str, np.ndarray]:
        """Answer one request; of a sequence from its state, which begins anew with `start`."""
        for one in self.config["input"]:
            given, dims = inputs[one["name"][0]], one["dims"]
            assert given.dtype == TYPES[one["data_type"][0]]
            assert 1 <= len(given) <= (1 if self.states else self.config["max_batch_size"][0])
            assert len(given.shape) == 1 + len(dims)
            assert all(dim in (-1, size) for dim, size in zip(dims, given.shape[1:], strict=True))
        if self.states and start:
            self._kept[sequence] = {one["input_name"][0]: self._initial(one) for one in self.states}
        names = [port.name for port in self._session.get_outputs()]
        feed = {**inputs, **self._kept.get(sequence, {})}
        answers = dict(zip(names, self._session.run(names, feed), strict=True))
        pairs = zip(
            sorted(one["input_name"][0] for one in self.states),
            sorted(one["output_name"][0] for one in self.states),
            strict=True,
        )
        self._kept[sequence] = {before: answers[after] for before, after in pairs}
        told = {one["name"][0]: answers[one["name"][0]] for one in self.config["output"]}
        for one in self.config["output"]:
            shape = told[one["name"][0]].shape[1:]
            assert all(dim in (-1, size) for dim, size in zip(one["dims"], shape, strict=True))
        return told

    def _initial(self, state: dict[str, list[Any]]) -> np.ndarray:
        (begins,) = state["initial_state"]
        shape, dtype = (1, *begins["dims"]), TYPES[begins["data_type"][0]]
        if "zero_data" in begins:
            return np.zeros(shape, dtype)
        content = (self.folder / "initial_state" / begins["data_file"][0]).read_bytes()
        return np.frombuffer(content, dtype).reshape(shape)
