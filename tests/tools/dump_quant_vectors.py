#!/usr/bin/env python3
"""Writes tests/checkops/quant_vectors.bin: random blocks of every type and what the PyPI module `gguf` makes of them.

By hand, in a venv with `gguf` (and its numpy): dump_quant_vectors.py OUTPUT. The layout of the file is described in
tests/checkops/quant_vectors.c.
"""
import struct
import sys

import gguf
import numpy as np

TYPES = {  # name: (block bytes, elements, offsets of its halves in a block)
    "F16": (2, 1, [0]), "BF16": (2, 1, []),
    "Q8_0": (34, 32, [0]), "Q4_0": (18, 32, [0]), "Q4_1": (20, 32, [0, 2]), "Q5_0": (22, 32, [0]),
    "Q5_1": (24, 32, [0, 2]), "Q4_K": (144, 256, [0, 2]), "Q5_K": (176, 256, [0, 2]), "Q6_K": (210, 256, [208]),
}


def main():
    rng = np.random.default_rng(7)
    with open(sys.argv[1], "wb") as out:
        for name, (size, elems, halves) in TYPES.items():
            n_blocks = 512 if elems == 1 else 8 if elems == 32 else 3
            blocks = rng.integers(0, 256, (n_blocks, size), dtype=np.uint8)
            for at in halves:  # scales: either sign, many magnitudes, subnormal in the second block
                scale = (rng.normal(size=n_blocks) * 10.0 ** rng.integers(-3, 1, n_blocks)).astype(np.float16)
                scale[1] = np.float16(3e-6)
                blocks[:, at:at + 2] = scale.reshape(-1, 1).view(np.uint8)
            if name == "BF16":
                blocks = (rng.normal(size=n_blocks).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
                blocks = blocks.reshape(-1, 1).view(np.uint8)
            kind = getattr(gguf.GGMLQuantizationType, name)
            raw = blocks.view(np.float16) if name == "F16" else blocks
            values = gguf.quants.dequantize(raw.reshape(1, -1), kind).astype("<f4").reshape(-1)
            assert values.size == n_blocks * elems
            out.write(name.encode().ljust(8, b"\0") + struct.pack("<I", values.size))
            out.write(blocks.tobytes() + values.tobytes())


if __name__ == "__main__":
    main()
