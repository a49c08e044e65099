import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_runtime import DeployError
from deploy_runtime.tensorrt_layers import BESIDE, UNKNOWN, precisions


def layer(
    nodes: list[str], read: str, kind: str = "CaskConvolution", key: str = "Format/Datatype"
) -> dict[str, object]:
    metadata = "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes)
    return {"Name": " + ".join(nodes), "LayerType": kind, "Inputs": [{"Name": "x", key: read}], "Metadata": metadata}


def told(*layers: dict[str, object]) -> str:
    return json.dumps({"Layers": list(layers), "Bindings": ["x"]})


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("Thirty-two wide channel vectorized row major Int8 format.", "int8"),
        ("Int8", "int8"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Half", "fp16"),
        ("Row major linear FP32", "fp32"),
        ("Float", "fp32"),
        ("BFloat16", "bf16"),
        ("N/A due to dynamic shapes", UNKNOWN),
        ("", UNKNOWN),
    ],
)
@pytest.mark.parametrize("key", ["Format/Datatype", "DataType"])  # version 10, version 11
def test_each_way_to_say_a_type(text: str, precision: str, key: str) -> None:
    assert precisions(told(layer(["a"], text, key=key)), ["a", "b"]) == {"a": precision}


def test_a_fused_layer_counts_for_each_of_its_nodes() -> None:
    assert precisions(told(layer(["a", "r", "b"], "Int8")), ["a", "b"]) == {"a": "int8", "b": "int8"}


def test_without_metadata_the_name_tells() -> None:
    bare = {**layer(["a", "relu"], "Half"), "Metadata": ""}
    assert precisions(told(bare), ["a"]) == {"a": "fp16"}


@pytest.mark.parametrize("kind", BESIDE)
def test_layers_beside_a_convolution_say_nothing_of_it(kind: str) -> None:
    assert precisions(told(layer(["a"], "Float", kind), layer(["a"], "Int8")), ["a"]) == {"a": "int8"}
    assert precisions(told(layer(["a"], "Float", kind)), ["a"]) == {}


def test_two_layers_that_disagree_tell_nothing() -> None:
    assert precisions(told(layer(["a"], "Float"), layer(["a"], "Int8")), ["a"]) == {"a": UNKNOWN}


def test_eight_bit_inputs_with_other_weights_are_not_int8() -> None:
    wide = {**layer(["a"], "Int8"), "Weights": {"Type": "Half", "Count": 9}}
    assert precisions(told(wide), ["a"]) == {"a": UNKNOWN}


@pytest.mark.parametrize("text", ["", "[]", '{"Layers": 3}', '{"Layers": ["conv1", "conv2"]}', "{"])
def test_what_is_no_table_is_an_error(text: str) -> None:
    with pytest.raises(DeployError, match="inspector gave"):
        precisions(text, ["a"])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_any_json_gives_precisions_or_an_error(value: object) -> None:
    try:
        found = precisions(json.dumps({"Layers": [value]}), ["a"])
    except DeployError:
        return
    assert set(found.values()) <= {"int8", "fp16", "bf16", "fp32", UNKNOWN}
