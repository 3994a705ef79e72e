import lzma

import pytest

from lmaunet.trt.plan_bytes import kernel_sources, pack, plan_bytes, shared_bytes, unpack

LIBRARY = b"".join(b"__device__ int f%d();\n" % i for i in range(400))
FIRST, SECOND = (LIBRARY + b'extern "C" __global__ void %s() {}\n' % n for n in (b"one", b"two"))
PLAN = b"\x00\x01header\x00" + FIRST + b"\x00\x00" + SECOND + b"\xff" * 1000


def test_a_plan_is_told_apart():
    assert kernel_sources(PLAN) == [FIRST, SECOND]
    found = plan_bytes(PLAN, constants=600, packed=77)
    assert (found.plan, found.constants, found.packed) == (len(PLAN), 600, 77)
    assert (found.kernels, found.kernel_count) == (len(FIRST) + len(SECOND), 2)
    assert found.plan == found.constants + found.kernels + found.rest
    assert found.shared == len(LIBRARY) + 1  # and the empty line at the end


def test_compiled_kernels_are_not_counted():
    plan = b"\x7fELF" + bytes(range(256)) * 40 + LIBRARY
    found = plan_bytes(plan, 0, 0)
    assert (found.kernels, found.kernel_count, found.shared) == (0, 0, 0)
    assert shared_bytes([FIRST]) == 0


def test_packing():
    packed = pack(PLAN)
    assert unpack(packed) == PLAN == unpack(PLAN)
    assert pack(PLAN) == packed and len(packed) < len(PLAN) / 4
    assert lzma.decompress(packed) == PLAN  # what the command xz reads


@pytest.mark.parametrize("count", [1, 6, 20, 100])
def test_a_file_that_was_cut_short(count):
    packed = pack(PLAN)
    with pytest.raises(ValueError, match=f"it ends after {len(packed) - count} bytes"):
        unpack(packed[:-count])


def test_a_damaged_file():
    packed = bytearray(pack(PLAN))
    packed[len(packed) // 2] ^= 1
    with pytest.raises(ValueError, match="it is damaged"):
        unpack(bytes(packed))
