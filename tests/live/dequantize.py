#!/usr/bin/env python3
"""dequantize.py IN.gguf OUT.gguf: the same model with every tensor in F32.

On such a copy nothing rounds weights or activations, so llama.cpp with an F32 cache and without flash attention is the float
truth, and a KV format can be judged by itself. Called by compare_logits.py and compare_kv.py (f32_copy) and by people. Tensors
are written one by one: memory stays near the largest of them.
"""
import pathlib
import sys

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter, quants
from gguf.constants import GGMLQuantizationType

FILE_TYPE_ALL_F32 = 0


def copy_metadata(reader, writer):
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue  # the container's own, and what the writer has put there already
        value = FILE_TYPE_ALL_F32 if name == "general.file_type" else field.contents()
        sub_type = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, field.types[0], sub_type=sub_type)


def dequantize(source, target):
    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    copy_metadata(reader, writer)
    for tensor in reader.tensors:
        shape = [int(n) for n in reversed(tensor.shape)]  # the file has the innermost first
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), int(np.prod(shape)) * 4,
                               raw_dtype=GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        writer.write_tensor_data(np.ascontiguousarray(quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
    writer.close()


def f32_copy(path):
    """The cached F32 copy of a model, made at the first call."""
    from peer import cache_folder
    path = pathlib.Path(path)
    copy = cache_folder() / "f32" / path.name
    if not copy.exists():
        copy.parent.mkdir(exist_ok=True)
        unfinished = copy.with_suffix(".unfinished")
        dequantize(path, unfinished)
        unfinished.rename(copy)
    return copy


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__.splitlines()[0])
    dequantize(sys.argv[1], sys.argv[2])
