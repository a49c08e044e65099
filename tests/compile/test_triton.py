"""A bundle as a model of a Triton repository, held to Triton's own rules and served by its configuration alone."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import deploy_recipes
from deploy_compile import triton_config
from deploy_compile.__main__ import main
from deploy_compile.triton import write_repository
from deploy_runtime import load
from deploy_runtime import manifest as manifests
from deploy_runtime.device_build import TRIED_FIRST
from deploy_runtime.errors import DeployError, UsageError
from deploy_runtime.spec import Batch, Classes, State, Tensor
from tests import toys
from tests.compile.triton_served import Served, read
from tests.runtime import tiny_bundle, tiny_stream

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize(("batch", "size"), [(Batch(1, 1, 1), 1), (Batch(1, 2, 4), 1), (Batch(1, 2, 4), 4)])
def test_what_is_served_is_what_the_runtime_gives(tmp_path: Path, batch: Batch, size: int) -> None:
    bundle = tiny_bundle.write(tmp_path / "bundle", batch=batch)
    served = Served(write_repository(bundle, tmp_path / "repo", "cpu", force=False))
    images = np.concatenate(toys.images(size))
    with load(bundle, backend="onnxruntime") as model:
        wanted = model.run({"image": images})
    got = served.infer({"image": images})
    assert got.keys() == wanted.keys()
    assert np.array_equal(got["logits"], wanted["logits"])


@pytest.mark.parametrize("initial", [0.0, 0.25])
def test_a_stream_is_kept_by_the_configuration_alone(tmp_path: Path, initial: float) -> None:
    """Two cameras in turn, chunks of one and of three frames: what deploy_runtime's streams give."""
    bundle = tiny_bundle.changed(tiny_stream.write(tmp_path / "bundle"), state=(State("h", "h_next", initial),))
    served = Served(write_repository(bundle, tmp_path / "repo", "cpu", force=False))
    films = tiny_stream.clips(2)
    with load(bundle, backend="onnxruntime") as model:
        streams = [(model.stream(), model.stream(3)) for _ in films]
        for step in range(3):
            for camera, film in enumerate(films):
                chunk, longer = film[None, step : step + 1], film[None, 3 * (step % 2) : 3 * (step % 2) + 3]
                one, three = streams[camera]
                for number, given, stream in ((camera, chunk, one), (10 + camera, longer, three)):
                    wanted = stream.step({"frames": given})["logits"]
                    got = served.infer({"frames": given}, sequence=number, start=step == 0)
                    assert set(got) == {"logits"}  # the state is told to nobody
                    assert np.array_equal(got["logits"], wanted)
    assert served.infer({"frames": films[:1, :1]}, start=True)["logits"].shape == (1, 1, tiny_stream.CLASSES)


def test_the_rules_that_no_parser_checks(tmp_path: Path) -> None:
    whole = tiny_bundle.write(tmp_path / "whole", batch=Batch(1, 2, 4))
    stream = tiny_stream.write(tmp_path / "stream", batch=Batch(1, 1, 4))
    for number, bundle in enumerate((whole, stream)):
        config = Served(write_repository(bundle, tmp_path / f"repo{number}", "cpu", force=False)).config
        most = config["max_batch_size"][0]
        assert most == 4
        assert not config.keys() >= {"dynamic_batching", "sequence_batching"}
        batching = config.get("dynamic_batching") or config["sequence_batching"][0]["oldest"]
        assert all(0 < size <= most for size in batching[0]["preferred_batch_size"])
        for port in (*config["input"], *config["output"]):
            assert port["dims"]
            assert all(dim == -1 or dim > 0 for dim in port["dims"])
        states = config.get("sequence_batching", [{}])[0].get("state", [])
        listed = {port["name"][0] for port in (*config["input"], *config["output"])}
        for state in states:
            assert not {state["input_name"][0], state["output_name"][0]} & listed
            assert all(dim > 0 for dim in state["initial_state"][0]["dims"])
            assert state["initial_state"][0]["dims"] == state["dims"]
            assert state["initial_state"][0]["name"][0]
        warmups = config.get("model_warmup", [])
        assert not (warmups and states)
        for warmup in warmups:
            assert warmup["batch_size"][0] <= most
            assert {one["key"][0] for one in warmup["inputs"]} == {port["name"][0] for port in config["input"]}
            assert all(dim > 0 for one in warmup["inputs"] for dim in one["value"][0]["dims"])


def test_a_single_sample_is_a_batch_of_one_without_batching(tmp_path: Path) -> None:
    bundle = tiny_bundle.write(tmp_path / "bundle")
    config = Served(write_repository(bundle, tmp_path / "repo", "cpu", force=False)).config
    assert config["max_batch_size"] == [1]
    assert config["input"][0]["dims"] == [3, 16, 16]
    assert "dynamic_batching" not in config
    assert [one["batch_size"] for one in config["model_warmup"]] == [[1]]
    threads = {one["key"][0]: one["value"][0]["string_value"][0] for one in config["parameters"]}
    assert threads["intra_op_thread_count"] == "0"
    assert threads["bundle_sha256"] == manifests.digest(bundle)


def test_one_engine_a_core_for_throughput(tmp_path: Path) -> None:
    bundle = tiny_bundle.write(tmp_path / "bundle", objective="throughput")
    made = manifests.read(bundle).provenance
    tiny_bundle.changed(bundle, provenance=replace(made, machine={**made.machine, "cores": "6"}))
    model = write_repository(bundle, tmp_path / "repo", "cpu", force=False)
    config = read((model / "config.pbtxt").read_text())
    assert config["instance_group"] == [{"count": [6], "kind": ["KIND_CPU"]}]
    assert {"key": ["intra_op_thread_count"], "value": [{"string_value": ["1"]}]} in config["parameters"]
    assert "set `count` of `instance_group`" in (model / "README.md").read_text()


def test_labels_stand_beside_the_scores_of_one_sample(tmp_path: Path) -> None:
    bundle = tiny_bundle.write(tmp_path / "bundle")
    model = write_repository(bundle, tmp_path / "repo", "cpu", force=False)
    assert (model / "labels.txt").read_text() == "a\nb\nc\nd\ne\n"
    assert Served(model).config["output"][0]["label_filename"] == ["labels.txt"]
    # Triton numbers the scores of all frames in a row: those of a stream have no labels there
    stream = tiny_bundle.changed(tiny_stream.write(tmp_path / "stream"), labels=("a", "b", "c", "d"))
    model = write_repository(stream, tmp_path / "other", "cpu", force=False)
    assert not (model / "labels.txt").exists()
    assert "label_filename" not in Served(model).config["output"][0]


def test_a_device_gets_a_config_and_the_command_that_makes_the_plan(tmp_path: Path) -> None:
    bundle = tiny_bundle.for_device(tiny_bundle.write(tmp_path / "bundle"))
    model = write_repository(bundle, tmp_path / "repo", "jetson-jp6", force=False)
    config = read((model / "config.pbtxt").read_text())
    assert config["platform"] == ["tensorrt_plan"]
    assert config["instance_group"] == [{"count": [1], "kind": ["KIND_GPU"]}]
    assert [one["key"] for one in config["parameters"]] == [["bundle_sha256"]]  # the device decides on the precision
    assert list((model / "1").iterdir()) == []
    page = (model / "README.md").read_text()
    assert "python -m deploy_runtime build BUNDLE --plan REPO/toy/1/model.plan" in page
    assert "Not run on hardware" in page
    assert "TensorRT 10.3" in page
    assert "int8_fp16 first, through TensorRT for jetson-jp6: `graphs/int8_fp16.onnx`" in page
    assert TRIED_FIRST[0] == "int8_fp16"  # what `build` begins with


def test_a_gpu_through_onnx_runtime_computes_fp32_as_fp32(tmp_path: Path) -> None:
    bundle = tiny_bundle.write(tmp_path / "bundle")
    found = manifests.read(bundle)
    rows = (*found.candidates, replace(found.candidates[1], target="cuda"))
    model = write_repository(tiny_bundle.changed(bundle, candidates=rows), tmp_path / "repo", "cuda", force=False)
    config = read((model / "config.pbtxt").read_text())
    accelerators = config["optimization"][0]["execution_accelerators"][0]["gpu_execution_accelerator"]
    assert accelerators == [{"name": ["cuda"], "parameters": [{"key": ["use_tf32"], "value": ["0"]}]}]
    assert config["instance_group"][0]["kind"] == ["KIND_GPU"]


def test_weights_outside_the_graph_come_along(tmp_path: Path) -> None:
    bundle = tiny_bundle.write(tmp_path / "bundle")
    graph = bundle / "graphs" / "fp32.onnx"
    loaded = onnx.load(graph)
    onnx.save_model(loaded, graph, save_as_external_data=True, location="fp32.onnx.data", size_threshold=0)
    tiny_bundle.changed(bundle)
    model = write_repository(bundle, tmp_path / "repo", "cpu", force=False)
    assert (model / "1" / "fp32.onnx.data").read_bytes() == (bundle / "graphs" / "fp32.onnx.data").read_bytes()
    images = np.concatenate(toys.images(1))
    with load(bundle, backend="onnxruntime") as opened:
        assert np.array_equal(Served(model).infer({"image": images})["logits"], opened.run({"image": images})["logits"])


def test_weights_from_elsewhere_are_refused(tmp_path: Path) -> None:
    bundle = tiny_bundle.write(tmp_path / "bundle")
    graph = bundle / "graphs" / "fp32.onnx"
    loaded = onnx.load(graph)
    onnx.save_model(loaded, graph, save_as_external_data=True, location="fp32.onnx.data", size_threshold=0)
    bare = onnx.load(graph, load_external_data=False)
    for tensor in bare.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = "../../secret"
    onnx.save(bare, graph)
    (bundle / "graphs" / "fp32.onnx.data").unlink()
    tiny_bundle.changed(bundle)
    with pytest.raises(DeployError, match="no file of the bundle"):
        write_repository(bundle, tmp_path / "repo", "cpu", force=False)
    assert not (tmp_path / "repo").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"outputs": (Tensor("logits", ("batch", 6)),), "task": Classes(6)}, r"logits is \[-1, 5\] in the graph and"),
        ({"outputs": (Tensor("scores", ("batch", 5)),)}, "graph has logits and the manifest scores"),
        ({"inputs": (Tensor("image", ("batch", 3, 16, 16), "float16"),)}, "image is float32 in the graph and float16"),
        ({"batch": Batch(2, 2, 4)}, "Triton may send single samples"),
        ({"name": "../elsewhere"}, "cannot be the name of a folder"),
    ],
)
def test_what_triton_could_not_serve_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    bundle = tiny_bundle.write(tmp_path / "bundle", **changes)
    with pytest.raises(DeployError, match=words):
        write_repository(bundle, tmp_path / "repo", "cpu", force=False)
    assert not (tmp_path / "repo").exists()


def test_states_that_triton_would_mix_up_are_refused(tmp_path: Path) -> None:
    found = manifests.read(tiny_stream.write(tmp_path / "bundle"))
    names = ("state_l1", "state_l10")  # `state_l10_next` sorts before `state_l1_next`
    shape: tuple[int | str, ...] = ("batch", 1, tiny_stream.HIDDEN)
    mixed = replace(
        found,
        state=tuple(State(name, f"{name}_next") for name in names),
        inputs=(found.inputs[0], *(Tensor(name, shape) for name in names)),
        outputs=(found.outputs[0], *(Tensor(f"{name}_next", shape) for name in names)),
    )
    ports = tuple(
        {t.name: triton_config.Port("float32", (-1, *triton_config.dims(mixed, t))) for t in tensors}
        for tensors in (mixed.inputs, mixed.outputs)
    )
    row = mixed.candidates[1]
    with pytest.raises(DeployError, match="issue 8586"):
        triton_config.config(mixed, row, (ports[0], ports[1]), "0" * 64)


def test_triton_keeps_the_states_of_every_recipe_apart() -> None:
    streams = [recipe for recipe in map(deploy_recipes.get, deploy_recipes.names()) if recipe.state]
    assert any(len(recipe.state) > 10 for recipe in streams)
    for recipe in streams:
        triton_config.check_order(recipe.state)


@pytest.mark.parametrize("target", ["rtx", "rtx-turing"])
def test_tensorrt_rtx_has_no_backend_in_triton(tmp_path: Path, target: str) -> None:
    with pytest.raises(UsageError, match="no backend"):
        write_repository(tiny_bundle.write(tmp_path / "bundle"), tmp_path / "repo", target, force=False)


def test_what_does_not_ship_is_asked_for_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="ships nothing") as error:
        write_repository(tiny_bundle.write(tmp_path / "bundle"), tmp_path / "repo", "jetson-jp6", force=False)
    assert "--target jetson-jp6" in error.value.fix


def test_a_damaged_bundle_is_refused(tmp_path: Path) -> None:
    bundle = tiny_bundle.write(tmp_path / "bundle")
    with (bundle / "graphs" / "fp32.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DeployError, match="bytes instead of"):
        write_repository(bundle, tmp_path / "repo", "cpu", force=False)


def test_a_model_that_stands_is_replaced_only_when_asked(tmp_path: Path) -> None:
    bundle, repo = tiny_bundle.write(tmp_path / "bundle"), tmp_path / "repo"
    model = write_repository(bundle, repo, "cpu", force=False)
    other = repo / "other"
    other.mkdir()
    before = (model / "1" / "model.onnx").stat().st_ino
    assert write_repository(bundle, repo, "cpu", force=False) == model
    assert (model / "1" / "model.onnx").stat().st_ino == before  # nothing was written again
    (model / "1" / "model.plan").write_bytes(b"made on a device")
    with pytest.raises(DeployError, match="another model") as error:
        write_repository(bundle, repo, "cpu", force=False)
    assert "--force" in error.value.fix
    write_repository(bundle, repo, "cpu", force=True)
    assert not (model / "1" / "model.plan").exists()
    assert sorted(path.name for path in repo.iterdir()) == ["other", "toy"]  # no temporary folder is left


def test_what_is_no_model_is_never_replaced(tmp_path: Path) -> None:
    place = tmp_path / "repo" / "toy"
    place.mkdir(parents=True)
    (place / "thesis.txt").write_text("years of work")
    with pytest.raises(DeployError, match="something else"):
        write_repository(tiny_bundle.write(tmp_path / "bundle"), tmp_path / "repo", "cpu", force=True)
    assert (place / "thesis.txt").read_text() == "years of work"


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tiny_bundle.write(tmp_path / "bundle")
    words = [
        "deploy-compile",
        "package",
        str(bundle),
        "--target",
        "cpu",
        "--format",
        "triton",
        "--out",
        str(tmp_path / "repo"),
    ]
    monkeypatch.setattr(sys, "argv", words)
    main()
    assert "model toy stands in" in capsys.readouterr().out
    written = [path for path in (tmp_path / "repo").rglob("*") if path.is_file()]
    assert written
    for path in written:  # neither a path of this machine nor the bundle's folder
        assert str(tmp_path).encode() not in path.read_bytes()
    monkeypatch.setattr(sys, "argv", [*words, "--target", "jetsn-jp6"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "Did you mean jetson-jp6" in capsys.readouterr().err
