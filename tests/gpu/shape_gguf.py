#!/usr/bin/env python3
"""shape_gguf.py SHAPE FILE: a GGUF of a known model's shape whose weights are rubbish, for benches of speed: Q4_0 blocks with one scale a
tensor and codes from a fixed pseudo-random megabyte, over and over. Needs nothing but Python; writes as fast as the disk takes it. The vocabulary
has the shape's size and the byte tokens, so that text can be read; what is answered means nothing. SHAPE: llama-3-8b, llama-2-7b, tiny, narrow
(the layers of the first two, for what a step costs the host).
"""
import pathlib
import random
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "daemon"))
from tiny_gguf import F32, STRING, U32, byte_alphabet, key, key_array, text  # noqa: E402

#            layers hidden  ffn    heads kv  vocabulary context
SHAPES = {
    "llama-3-8b": (32, 4096, 14336, 32, 8, 128256, 32768),
    "llama-2-7b": (32, 4096, 11008, 32, 32, 32000, 32768),
    "tiny": (2, 256, 512, 4, 2, 512, 4096),
    "narrow": (32, 256, 512, 4, 2, 512, 32768),
}
TYPE_F32, TYPE_Q4_0 = 0, 2
BLOCK_VALUES, BLOCK_BYTES = 32, 18


def make_blocks(scale):
    """A megabyte of Q4_0 blocks: the scale in half precision, then 16 bytes of codes."""
    rnd = random.Random(8)
    return b"".join(struct.pack("<e", scale) + rnd.randbytes(16) for _ in range((1 << 20) // BLOCK_BYTES))


def write_tensor(f, kind, n, blocks):
    if kind == TYPE_F32:
        data = struct.pack("<f", 1.0) * n
        f.write(data + b"\0" * (-len(data) % 32))
        return
    left = n // BLOCK_VALUES * BLOCK_BYTES
    pad = -left % 32
    while left > 0:
        f.write(blocks[:left])
        left -= min(left, len(blocks))
    f.write(b"\0" * pad)


def main():
    n_layers, hidden, ffn, n_heads, n_kv_heads, vocab, context = SHAPES[sys.argv[1]]
    head = hidden // n_heads
    letters = byte_alphabet()
    tokens = letters + ["<|end|>", "<|start|>"] + [f"<|{i}|>" for i in range(vocab - 258)]
    keys = [
        key("general.architecture", STRING, "llama"), key("general.name", STRING, f"random weights of the shape {sys.argv[1]}"),
        key("llama.context_length", U32, context), key("llama.embedding_length", U32, hidden), key("llama.block_count", U32, n_layers),
        key("llama.feed_forward_length", U32, ffn), key("llama.attention.head_count", U32, n_heads),
        key("llama.attention.head_count_kv", U32, n_kv_heads), key("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
        key("llama.rope.freq_base", F32, 500000.0), key("llama.rope.dimension_count", U32, head), key("llama.vocab_size", U32, vocab),
        key("tokenizer.ggml.model", STRING, "gpt2"), key("tokenizer.ggml.pre", STRING, "gpt-2"),
        key_array("tokenizer.ggml.tokens", STRING, tokens), key_array("tokenizer.ggml.token_type", 5, [1] * 256 + [3] * (vocab - 256)),
        key_array("tokenizer.ggml.merges", STRING, []), key("tokenizer.ggml.bos_token_id", U32, 257), key("tokenizer.ggml.eos_token_id", U32, 256),
    ]
    tensors = [("token_embd.weight", TYPE_Q4_0, (hidden, vocab))]
    for b in range(n_layers):
        tensors += [(f"blk.{b}.attn_norm.weight", TYPE_F32, (hidden,)), (f"blk.{b}.attn_q.weight", TYPE_Q4_0, (hidden, hidden)),
                    (f"blk.{b}.attn_k.weight", TYPE_Q4_0, (hidden, n_kv_heads * head)), (f"blk.{b}.attn_v.weight", TYPE_Q4_0, (hidden, n_kv_heads * head)),
                    (f"blk.{b}.attn_output.weight", TYPE_Q4_0, (hidden, hidden)), (f"blk.{b}.ffn_norm.weight", TYPE_F32, (hidden,)),
                    (f"blk.{b}.ffn_gate.weight", TYPE_Q4_0, (hidden, ffn)), (f"blk.{b}.ffn_up.weight", TYPE_Q4_0, (hidden, ffn)),
                    (f"blk.{b}.ffn_down.weight", TYPE_Q4_0, (ffn, hidden))]
    tensors += [("output_norm.weight", TYPE_F32, (hidden,)), ("output.weight", TYPE_Q4_0, (hidden, vocab))]
    infos, offset = [], 0
    for name, kind, dims in tensors:
        n = dims[0] * (dims[1] if len(dims) > 1 else 1)
        infos.append(text(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims) + struct.pack("<IQ", kind, offset))
        n_bytes = 4 * n if kind == TYPE_F32 else n // BLOCK_VALUES * BLOCK_BYTES
        offset += n_bytes + -n_bytes % 32
    start = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(keys)) + b"".join(keys) + b"".join(infos)
    # The output matrix is 64 times larger: else all logits lie within a few nats, and `refine` has all tiles to do instead of some 4 %.
    weights, output = make_blocks(1 / 512), make_blocks(1 / 8)
    with open(sys.argv[2], "wb") as f:
        f.write(start + b"\0" * (-len(start) % 32))
        for name, kind, dims in tensors:
            write_tensor(f, kind, dims[0] * (dims[1] if len(dims) > 1 else 1), output if name == "output.weight" else weights)


main()
