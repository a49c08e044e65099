import pytest

from deploy_compile import pbtxt
from deploy_compile.pbtxt import Word
from tests.compile import triton_served


def test_every_kind_of_value() -> None:
    said = pbtxt.text(
        {
            "name": "a",
            "kind": Word("KIND_CPU"),
            "zero": True,
            "off": False,
            "dims": [-1, 3],
            "none": [],
            "input": [{"key": "x"}, {"key": "y", "value": {"share": 0.5}}],
            "direct": {},
        }
    )
    assert said == (
        'name: "a"\nkind: KIND_CPU\nzero: true\noff: false\ndims: [ -1, 3 ]\n'
        'input {\n  key: "x"\n}\ninput {\n  key: "y"\n  value {\n    share: 0.5\n  }\n}\ndirect {\n}\n'
    )


@pytest.mark.parametrize("text", ['a "quoted" \\ word', "two\nlines\tand\r", "bell \x07 and \x7f", "Ünïcode 日本", ""])
def test_a_string_comes_back_as_it_was(text: str) -> None:
    said = pbtxt.text({"name": text})
    assert said.count("\n") == 1
    if text.isascii():  # the reader of the tests goes byte by byte; test_triton_schema.py reads the rest
        octal = triton_served.read(said)["name"][0]
        assert octal == text


def test_a_list_holds_one_kind() -> None:
    with pytest.raises(TypeError, match="no scalar"):
        pbtxt.text({"input": ["a", {"key": "x"}]})
