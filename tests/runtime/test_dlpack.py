"""DLPack both ways, on memory of the host: the protocol is the same there, and every library speaks it."""

import gc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.dlpack import from_dlpack

from deploy_runtime import DeployError, dlpack
from deploy_runtime.dlpack import CPU, DeviceArray

DTYPES = ("float32", "float16", "int32", "uint8", "int64")


def ours(array: np.ndarray) -> DeviceArray:
    return DeviceArray(array.ctypes.data, array.shape, array.dtype, CPU, 0, array)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.sampled_from(DTYPES))
def test_what_is_given_is_what_is_read(shape: list[int], dtype: str) -> None:
    array = np.arange(np.prod(shape)).astype(dtype).reshape(shape)
    for other in (array, torch.from_numpy(array)):
        found = dlpack.view(other, "x")
        assert (found.shape, found.dtype) == (tuple(shape), array.dtype)
        assert found.address == array.ctypes.data or not array.size
        np.testing.assert_array_equal(np.from_dlpack(found), array)
        np.testing.assert_array_equal(from_dlpack(found).numpy(), array)


def test_others_share_our_memory_and_keep_it() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    shared = from_dlpack(ours(array))
    shared[1, 2] = 99.0
    assert array[1, 2] == 99.0
    assert len(dlpack._given) == 1
    del array
    gc.collect()
    assert shared[1, 2] == 99.0
    del shared
    gc.collect()
    assert not dlpack._given


def test_a_capsule_that_nobody_takes_frees_what_it_holds() -> None:
    array = np.zeros(4, np.float32)
    capsule = ours(array).__dlpack__()
    assert len(dlpack._given) == 1
    del capsule
    gc.collect()
    assert not dlpack._given


def test_a_slice_that_is_not_dense_is_refused_and_a_dense_one_is_read_at_its_place() -> None:
    array = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    with pytest.raises(DeployError, match="input x is not dense"):
        dlpack.view(array[:, ::2], "x")
    with pytest.raises(DeployError, match="input x is not dense"):
        dlpack.view(array.T, "x")
    np.testing.assert_array_equal(np.from_dlpack(dlpack.view(array[2:], "x")), array[2:].numpy())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64])
def test_a_type_that_no_engine_takes_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(DeployError, match="no engine takes"):
        dlpack.view(torch.zeros(3, dtype=dtype), "x")


def test_arrays_of_the_host_are_not_on_a_gpu() -> None:
    assert not dlpack.on_gpu(np.zeros(3))
    assert not dlpack.on_gpu(torch.zeros(3))
    assert not dlpack.on_gpu([1.0])
    assert dlpack.on_gpu(DeviceArray(0, (3,), np.dtype("f4"), dlpack.CUDA, 0))
