"""Labelled samples: a CSV that fits the network and the folder, or one clear error."""

from pathlib import Path

import numpy as np
import pytest

from deploy_compile import labelled
from deploy_recipes.recipe import Classes, Features, MultiLabel, Preprocess, Recipe, Task, Tensor
from deploy_runtime.errors import DeployError, UsageError
from tests import toys


def recipe(task: Task, labels: tuple[str, ...] = ()) -> Recipe:
    inputs, outputs = (Tensor("image", ("batch", 3, 8, 8)),), (Tensor("logits", ("batch", 3)),)
    how = Preprocess(crop=(8, 8), mean=(0.5,) * 3, std=(0.25,) * 3, layout="CHW", short_side=8)
    return toys.recipe(inputs, outputs, task, labels=labels, preprocess=how)


NUMBERED, NAMED = recipe(Classes(3)), recipe(Classes(3), ("idle", "incision", "suture tied"))
FINDINGS = recipe(MultiLabel(2), ("oedema", "effusion"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "samples"
    (place / "p1").mkdir(parents=True)
    for place_in_folder in ("a.npy", "b.npy", "p1/c.npy"):
        np.save(place / place_in_folder, np.full((8, 8, 3), 128, np.uint8))
    return place


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "truth.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_classes_by_number_by_name_and_several_a_sample(folder: Path, tmp_path: Path) -> None:
    found = labelled.read(folder, table(tmp_path, "file,label\na.npy,0\np1/c.npy,2\n"), NUMBERED)
    assert [(one.file.name, one.truth) for one in found] == [("a.npy", (0,)), ("c.npy", (2,))]
    named = labelled.read(folder, table(tmp_path, "label,file,note\nsuture tied,a.npy,x\n1,b.npy,\n"), NAMED)
    assert [one.truth for one in named] == [(2,), (1,)]
    frames = labelled.read(folder, table(tmp_path, "file,label\na.npy,0 1 2\nb.npy,idle idle incision\n"), NAMED)
    np.testing.assert_array_equal(labelled.truth(frames), [[0, 1, 2], [0, 0, 1]])


def test_findings_have_a_column_each(folder: Path, tmp_path: Path) -> None:
    found = labelled.read(folder, table(tmp_path, "\ufefffile,oedema,effusion\na.npy,1,0\nb.npy,0, 1\n"), FINDINGS)
    np.testing.assert_array_equal(labelled.truth(found), [[1, 0], [0, 1]])


def test_samples_come_in_the_order_of_the_lines_and_as_inference_sees_them(folder: Path, tmp_path: Path) -> None:
    np.save(folder / "b.npy", np.zeros((8, 8, 3), np.uint8))
    found = labelled.read(folder, table(tmp_path, "file,label\nb.npy,0\na.npy,1\n"), NUMBERED)
    values = [sample["image"] for sample in labelled.samples(found, NUMBERED)]
    assert [value.shape for value in values] == [(1, 3, 8, 8)] * 2
    assert [float(value.mean()) for value in values] == pytest.approx([-2.0, (128 / 255 - 0.5) / 0.25], abs=1e-5)


@pytest.mark.parametrize(
    ("text", "net", "message", "fix"),
    [
        ("name,class\na.npy,0\n", NUMBERED, "has the columns name, class", "file,label"),
        ("file,label\n", NUMBERED, "no line below its header", "one line a sample"),
        ("file,label\nz.npy,0\n", NUMBERED, "line 2 of the labels names z.npy", "relative to"),
        ("file,label\na.npy,0\n../truth.csv,0\n", NUMBERED, "line 3 of the labels", "relative to"),
        ("file,label\na.npy,3\n", NUMBERED, "'3', which is no class", "0 to 2"),
        ("file,label\na.npy,incison\n", NAMED, "'incison', which is no class", "Did you mean incision?"),
        ("file,label\na.npy,x\n", NUMBERED, "'x', which is no class", "--labels FILE.txt"),
        ("file,label\na.npy,0\na.npy,1\n", NUMBERED, "names a file twice", "one line a file"),
        ("file,oedema\na.npy,1\n", FINDINGS, "1 columns beside file", "one column a label"),
        ("file,effusion,oedema\na.npy,1,0\n", FINDINGS, "not the labels of toy in their order", "file,oedema,effusion"),
        ("file,oedema,effusion\na.npy,1,yes\n", FINDINGS, "'yes' for a label", "0 or 1"),
    ],
)
def test_what_does_not_fit_is_refused(
    folder: Path, tmp_path: Path, text: str, net: Recipe, message: str, fix: str
) -> None:
    with pytest.raises(DeployError, match=message) as caught:
        labelled.read(folder, table(tmp_path, text), net)
    assert fix in caught.value.fix


def test_unlike_many_labels_a_line_are_refused(folder: Path, tmp_path: Path) -> None:
    found = labelled.read(folder, table(tmp_path, "file,label\na.npy,0\nb.npy,0 1\n"), NUMBERED)
    with pytest.raises(DeployError, match="1 to 2 words a line"):
        labelled.truth(found)


def test_a_file_of_several_samples_is_refused(folder: Path, tmp_path: Path) -> None:
    np.savez(folder / "many.npz", image=np.zeros((2, 3, 8, 8), np.float32))
    found = labelled.read(folder, table(tmp_path, "file,label\nmany.npz,0\n"), NUMBERED)
    with pytest.raises(DeployError, match="holds several samples"):
        list(labelled.samples(found, NUMBERED))


def test_a_network_that_decides_nothing_has_no_accuracy(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="decides nothing"):
        labelled.read(folder, table(tmp_path, "file,label\na.npy,0\n"), recipe(Features()))


def test_a_file_that_is_no_text_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    path.write_bytes(b"\xff\xfe\x00file")
    with pytest.raises(DeployError, match="cannot be read"):
        labelled.read(folder, path, NUMBERED)
