import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy_compile.layer_table import PRECISION_OF, Row, precisions, rows
from deploy_runtime.tensorrt_build import TABLE

NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="],"), min_size=1, max_size=30)
TYPES = st.sampled_from(sorted(PRECISION_OF))
ROWS = st.builds(
    Row,
    name=NAMES,
    kind=st.sampled_from(["correlation", "gemm", "kgen", "runtime_fusion", "maxpool", "wait", "cjmp"]),
    inputs=st.lists(TYPES, max_size=3).map(tuple),
    constants=st.lists(TYPES, max_size=3).map(tuple),
    nodes=st.lists(NAMES, max_size=4).map(tuple),
)


def text(table: list[Row]) -> str:
    """Write a table as TensorRT-RTX 1.7.1 prints it."""

    def tensors(types: tuple[str, ...]) -> str:
        one = "{{ Name: t{}, Dimensions: [1,8,-1], Strides: [8,1], StrideOrder: [1,0], Datatype: {}, Format: (A) b }}"
        return "[ " + ", ".join(one.format(i, kind) for i, kind in enumerate(types)) + "]" if types else "[]"

    def line(row: Row) -> str:
        metadata = "\x1e".join(f"[ONNX Layer: {node}]" for node in row.nodes)
        event = ", EventId: 3" if row.kind == "wait" else ""
        jump = ", JumpTargetThen: __mye1_unroll0_myl0_95, JumpTargetElse: __myl_Resh_129" if row.kind == "cjmp" else ""
        return (
            f"Name: {row.name}, LayerType: {row.kind}, Inputs: {tensors(row.inputs)}, "
            f"Constants: {tensors(row.constants)}, Outputs: [], TacticName: , StreamId: 0{event}{jump}, "
            f"Metadata: {metadata}"
        )

    return "Layers:\n" + "\n".join(map(line, table)) + "\n\nI/O Tensors:\n Name: image, IOMode: Input"


@given(st.lists(ROWS, min_size=1, max_size=8))
def test_what_was_printed_is_read(table: list[Row]) -> None:
    assert rows(["noise", text(table), "more noise"]) == tuple(table)


@given(st.lists(ROWS, min_size=1, max_size=8), st.integers(0, 10_000))
def test_a_cut_table_is_never_half_understood(table: list[Row], cut: int) -> None:
    whole = text(table)
    message = whole[: len("Layers:\nName: ") + cut % len(whole)]
    try:
        found = rows([message])
    except ValueError:
        return
    assert [row.name for row in found] == [row.name for row in table][: len(found)]


def test_a_log_without_a_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="no layer table"):
        rows(["Layers: none", "built"])


def row(kind: str, inputs: tuple[str, ...], constants: tuple[str, ...] = (), matrix: str = "") -> Row:
    return Row("l", kind, inputs, constants, ("c",), matrix)


@pytest.mark.parametrize(
    ("table", "precision"),
    [
        ([row("correlation", ("Int8",), ("Int8", "Float")), row("kgen", ("Float",))], "int8"),
        ([row("kgen", ("Float",)), row("correlation", ("Half", "Half"), ("Half",))], "fp16"),
        ([row("correlation", ("Int8",), ("Float",))], "fp32"),  # 8-bit activations times float weights are not INT8
        ([row("gemm", ("Int8", "Int8"))], "int8"),  # two activations
        ([row("correlation", ("Int8",), ("Int8",)), row("gemm", ("Half",), ("Half",))], "fp16"),  # the widest of two
        ([row("kgen", ("Float",)), row("kgen", ("Half",), ("Half",))], "fp16"),  # only pointwise: the product decides
        # normalises in fp32, casts, multiplies by weights of fp16
        ([row("kgen", ("Float", "Float"), ("Half", "Half"), "Half")], "fp16"),
        ([row("kgen", ("Float",), ("Float", "Int8"), "Int8")], "fp32"),  # weights dequantized: not INT8
        ([row("kgen", ("Int8",), ("Float", "Int8"), "Int8")], "int8"),
        ([row("runtime_fusion", ("BFloat16",), ("BFloat16",))], "bf16"),
    ],
)
def test_the_precision_of_a_node(table: list[Row], precision: str) -> None:
    assert precisions(table, ["c", "absent"]) == {"c": precision}


def test_an_unknown_data_type_is_an_error() -> None:
    with pytest.raises(ValueError, match="FP4"):
        precisions([row("correlation", ("FP4",), ("FP4",))], ["c"])


def test_a_malformed_line_is_an_error() -> None:
    with pytest.raises(ValueError, match="not as expected"):
        rows([TABLE + "x, LayerType: conv, Outputs: []"])


@pytest.mark.parametrize("profile", ["", " [profile 1]"])
def test_a_size_handed_to_the_gpu_is_no_layer_in_any_profile(profile: str) -> None:
    size = (
        f"Name: [ShapeHostToDeviceCopy 0]{profile}, LayerType: ShapeHostToDevice, Inputs: [], Outputs: [ {{ Name: "
        f"(Unnamed Layer* 209) [Shuffle]_output{profile}, Location: Device, Dimensions: [], Datatype: Int64 }}], "
        "TacticName: , StreamId: 0, Metadata: "
    )
    conv = Row("/conv", "correlation", ("Int8",), ("Int8",), ("/conv",))
    assert rows([text([conv]).replace("\n\n", f"\n{size}\n\n")]) == (conv,)
