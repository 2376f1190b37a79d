"""The container of test vectors (.ttv), read in C by vectors.c. Little endian:

    char magic[8] = "TTVEC001"; u64 n_tensors;
    n_tensors records of 112 bytes: char name[64] (zero-padded), u32 type, u32 n_dims, u64 dims[4] (unused = 1),
                                    u64 offset (from the file's start, a multiple of 8)
    data, row-major, outermost dimension first
"""

import struct

import numpy as np

TYPES = {"float32": 0, "float16": 1, "int32": 2, "float64": 3, "uint16": 4, "uint32": 5}
NAMES = {v: k for k, v in TYPES.items()}


def write(path, tensors):
    """tensors: dict of name -> array, in order."""
    at = 16 + 112 * len(tensors)
    head, blobs = [b"TTVEC001" + struct.pack("<Q", len(tensors))], []
    for name, a in tensors.items():
        a = np.asarray(a, order="C")
        dims = list(a.shape) + [1] * (4 - a.ndim)
        assert len(name) < 64 and a.ndim <= 4
        head.append(struct.pack("<64sII4QQ", name.encode(), TYPES[str(a.dtype)], a.ndim, *dims, at))
        blob = a.tobytes() + b"\0" * (-a.nbytes % 8)
        blobs.append(blob)
        at += len(blob)
    with open(path, "wb") as f:
        f.write(b"".join(head + blobs))


def read(path):
    data = open(path, "rb").read()
    assert data[:8] == b"TTVEC001"
    out = {}
    for i in range(struct.unpack_from("<Q", data, 8)[0]):
        name, kind, n_dims, d0, d1, d2, d3, at = struct.unpack_from("<64sII4QQ", data, 16 + 112 * i)
        shape = (d0, d1, d2, d3)[:n_dims]
        count = int(np.prod(shape)) if n_dims else 1
        out[name.rstrip(b"\0").decode()] = np.frombuffer(data, NAMES[kind], count, at).reshape(shape)
    return out
