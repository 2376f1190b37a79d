"""Writers of the two model formats and the generator of weights, with the standard library alone, so that the tiny models
can be made at test time on any machine. dump_tiny.py reads the results back with safetensors, transformers and gguf.

Weights are integers n in [-127, 127] times a power of two: exact in F32, F16, BF16 and (one scale for all blocks) Q8_0,
so every file of a family holds bit-identical weights whatever its type."""

import json
import os
import struct

MASK = (1 << 64) - 1


class Generator:
    """splitmix64; each draw is a bell-shaped integer in [-127, 127] of standard deviation 36.7 (four 16-bit uniforms
    summed), integer arithmetic throughout."""

    def __init__(self, seed):
        self.state = seed & MASK

    def next_u64(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def integers(self, n):
        out = []
        for _ in range(n):
            z = self.next_u64()
            s = (z & 0xFFFF) + (z >> 16 & 0xFFFF) + (z >> 32 & 0xFFFF) + (z >> 48)
            out.append((s - 131070) * 127 // 131071)
        return out


class Tensor:
    """values[i] * 2^-shift + base, row-major, outermost dimension first."""

    def __init__(self, shape, values, shift, base=0.0):
        self.shape, self.values, self.shift, self.base = shape, values, shift, base

    def floats(self, add=0.0):
        scale = 2.0 ** -self.shift
        return [v * scale + self.base + add for v in self.values]


def pack(floats, dtype):
    if dtype == "F32":
        return struct.pack("<%df" % len(floats), *floats)
    if dtype == "F16":
        return struct.pack("<%de" % len(floats), *floats)
    if dtype == "BF16":  # exact by construction: the low half is zero
        raw = struct.pack("<%df" % len(floats), *floats)
        words = struct.unpack("<%dH" % (2 * len(floats)), raw)
        assert not any(words[0::2]), "value not exact in BF16"
        return struct.pack("<%dH" % len(floats), *words[1::2])
    raise ValueError(dtype)


def pack_q8_0(tensor):
    """Blocks of 32: f16 scale, 32 int8. The scale is the tensor's power of two."""
    assert tensor.base == 0.0 and tensor.shape[-1] % 32 == 0
    scale = struct.pack("<e", 2.0 ** -tensor.shift)
    v = tensor.values
    return b"".join(scale + struct.pack("<32b", *v[i:i + 32]) for i in range(0, len(v), 32))


def write_safetensors(path, tensors, dtype):
    """tensors: list of (name, Tensor)."""
    header, blobs, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name, t in tensors:
        blob = pack(t.floats(), dtype)
        header[name] = {"dtype": dtype, "shape": list(t.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head + b"".join(blobs))


GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY = 4, 5, 6, 7, 8, 9
GGML_TYPE = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 8, "Q4_K": 12, "Q6_K": 14, "BF16": 30}


def gguf_string(s):
    b = s.encode() if isinstance(s, str) else s
    return struct.pack("<Q", len(b)) + b


def gguf_value(kind, v):
    if kind == GGUF_STRING:
        return gguf_string(v)
    return struct.pack({GGUF_U32: "<I", GGUF_I32: "<i", GGUF_F32: "<f", GGUF_BOOL: "<?"}[kind], v)


def gguf_pair(key, kind, v):
    out = gguf_string(key)
    if isinstance(v, list):
        out += struct.pack("<IIQ", GGUF_ARRAY, kind, len(v))
        return out + b"".join(gguf_value(kind, x) for x in v)
    return out + struct.pack("<I", kind) + gguf_value(kind, v)


def write_gguf(path, pairs, tensors):
    """pairs: list of (key, kind, value or list); tensors: list of (name, shape, type name, data): bytes, or what has a length
    in bytes and yields its bytes in pieces."""
    out = [b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))]
    out += [gguf_pair(*p) for p in pairs]
    at = 0
    for name, shape, dtype, data in tensors:
        out.append(gguf_string(name) + struct.pack("<I", len(shape)))
        out.append(b"".join(struct.pack("<Q", d) for d in reversed(shape)))  # innermost dimension first
        out.append(struct.pack("<IQ", GGML_TYPE[dtype], at))
        at += len(data) + -len(data) % 32
    head = b"".join(out)
    with open(path, "wb") as f:
        f.write(head + b"\0" * (-len(head) % 32))
        for _, _, _, data in tensors:
            f.writelines([data] if isinstance(data, bytes) else data)
            f.write(b"\0" * (-len(data) % 32))


def write_json(path, value):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, indent=1, ensure_ascii=False)
        f.write("\n")
