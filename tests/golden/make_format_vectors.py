#!/usr/bin/env python3
"""make_format_vectors.py [--check]: writes tests/golden/formats.txt, blocks of every number format with the floats that the gguf package's
own dequantize makes of them. Read by tests/unit/test_formats.c. Run in the venv of scripts/setup-peer; prints what it wrote.
--check: exit 1 if the file would change.

A line is: format's name, the block's bytes in hex, the floats' bits in hex. Bytes are random from a fixed seed; halves that are no
finite number are made finite, since of a NaN only that it is one would be comparable."""
import pathlib
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

BLOCKS = 3
# Where a block keeps halves (bytes from its begin).
HALVES = {
    "F16": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": [],
}


def blocks_of(name: str, rng: np.random.Generator) -> np.ndarray:
    _, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    raw = rng.integers(0, 256, (BLOCKS, block_bytes), dtype=np.uint8)
    for at in HALVES.get(name, []):
        raw[:, at + 1] &= 0xBF  # an exponent below 16: finite and of a usual size
    if name == "MXFP4":
        raw[:, 0] = [0, 1, 125]  # the two exponents that are made by hand, and one of the others
    if name in ("F32", "BF16"):
        raw[:, -1] &= 0xBF
    return raw


def main() -> None:
    out = pathlib.Path(__file__).resolve().parent / "formats.txt"
    rng = np.random.default_rng(20260101)
    lines = []
    for name in [*HALVES, "F32", "BF16"]:
        kind = GGMLQuantizationType[name]
        for block in blocks_of(name, rng):
            floats = block.view(np.float32) if name == "F32" else dequantize(block.reshape(1, -1), kind)
            bits = floats.astype(np.float32).reshape(-1).view(np.uint32)
            lines.append(f"{name} {block.tobytes().hex()} {''.join(f'{b:08x}' for b in bits)}\n")
    if "--check" in sys.argv[1:]:
        if out.read_text(encoding="ascii") != "".join(lines):
            sys.exit(f"differs: {out}")
    else:
        out.write_text("".join(lines), encoding="ascii")
    print(f"{out}: {len(lines)} blocks", file=sys.stderr)


if __name__ == "__main__":
    main()
