#!/usr/bin/env python3
"""tiny_gguf.py FILE: a one-layer llama with random F32 weights and a byte-level vocabulary, in half a megabyte.

The daemon's tests want an engine that answers anything, at once, on any machine and under any sanitizer; what it answers does not
matter. Needs nothing but Python. The same bytes every time.
"""
import array
import random
import struct
import sys

N_EMBED, N_HEADS, N_KV_HEADS, N_FFN, CONTEXT = 128, 2, 1, 192, 131072
TEMPLATE = "{% for m in messages %}{{ '<' + m['role'] + '> ' + m['content'] + '\\n' }}{% endfor %}<assistant> "
U32, F32, BOOL, STRING, ARRAY, U8 = 4, 6, 7, 8, 9, 0


def byte_alphabet():
    """GPT-2's map of bytes to printable characters, which byte-level vocabularies are written in."""
    plain = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    extra = [b for b in range(256) if b not in plain]
    table = {b: chr(b) for b in plain}
    table.update({b: chr(256 + i) for i, b in enumerate(extra)})
    return [table[b] for b in range(256)]


def text(s):
    b = s.encode()
    return struct.pack("<Q", len(b)) + b


def value(kind, v):
    if kind == STRING:
        return text(v)
    return struct.pack({U32: "<I", F32: "<f", BOOL: "<?"}[kind], v)


def key(name, kind, v):
    return text(name) + struct.pack("<I", kind) + value(kind, v)


def key_array(name, kind, items):
    body = b"".join(text(i) if kind == STRING else struct.pack("<i", i) for i in items)
    return text(name) + struct.pack("<IIQ", ARRAY, kind, len(items)) + body


def main():
    rnd = random.Random(20260101)
    bytes_ = byte_alphabet()
    tokens = bytes_ + ["<|end|>", "<|start|>"]
    merges = [f"{a} {b}" for a, b in (("t", "h"), ("th", "e"), ("i", "n"), ("a", "n"))]
    tokens += ["th", "the", "in", "an"]
    vocab = len(tokens)
    types = [1] * 256 + [3, 3] + [1] * 4
    keys = [
        key("general.architecture", STRING, "llama"),
        key("general.name", STRING, "tiny"),
        key("llama.context_length", U32, CONTEXT),
        key("llama.embedding_length", U32, N_EMBED),
        key("llama.block_count", U32, 1),
        key("llama.feed_forward_length", U32, N_FFN),
        key("llama.attention.head_count", U32, N_HEADS),
        key("llama.attention.head_count_kv", U32, N_KV_HEADS),
        key("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
        key("llama.rope.freq_base", F32, 10000.0),
        key("llama.rope.dimension_count", U32, N_EMBED // N_HEADS),
        key("llama.vocab_size", U32, vocab),
        key("tokenizer.ggml.model", STRING, "gpt2"),
        key("tokenizer.ggml.pre", STRING, "gpt-2"),
        key_array("tokenizer.ggml.tokens", STRING, tokens),
        key_array("tokenizer.ggml.token_type", 5, types),
        key_array("tokenizer.ggml.merges", STRING, merges),
        key("tokenizer.ggml.bos_token_id", U32, 257),
        key("tokenizer.ggml.eos_token_id", U32, 256),
        key("tokenizer.ggml.add_bos_token", BOOL, True),
        key("tokenizer.chat_template", STRING, TEMPLATE),
    ]

    def weights(n, spread):
        return array.array("f", (rnd.gauss(0, spread) for _ in range(n)))

    head = N_EMBED // N_HEADS
    shapes = [
        ("token_embd.weight", (N_EMBED, vocab), 0.3),
        ("blk.0.attn_norm.weight", (N_EMBED,), None),
        ("blk.0.attn_q.weight", (N_EMBED, N_HEADS * head), 0.1),
        ("blk.0.attn_k.weight", (N_EMBED, N_KV_HEADS * head), 0.1),
        ("blk.0.attn_v.weight", (N_EMBED, N_KV_HEADS * head), 0.1),
        ("blk.0.attn_output.weight", (N_HEADS * head, N_EMBED), 0.1),
        ("blk.0.ffn_norm.weight", (N_EMBED,), None),
        ("blk.0.ffn_gate.weight", (N_EMBED, N_FFN), 0.1),
        ("blk.0.ffn_up.weight", (N_EMBED, N_FFN), 0.1),
        ("blk.0.ffn_down.weight", (N_FFN, N_EMBED), 0.1),
        ("output_norm.weight", (N_EMBED,), None),
    ]
    infos, data, offset = [], [], 0
    for name, dims, spread in shapes:
        n = 1
        for d in dims:
            n *= d
        values = weights(n, spread) if spread else array.array("f", [1.0] * n)
        if name == "token_embd.weight":
            for special in (256, 257):  # never the most likely: answers end at max_tokens
                values[special * N_EMBED:(special + 1) * N_EMBED] = array.array("f", [0.0] * N_EMBED)
        infos.append(text(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims) +
                     struct.pack("<IQ", 0, offset))
        raw = values.tobytes()
        raw += b"\0" * (-len(raw) % 32)
        data.append(raw)
        offset += len(raw)
    head_bytes = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(keys)) + b"".join(keys) + b"".join(infos)
    with open(sys.argv[1], "wb") as f:
        f.write(head_bytes + b"\0" * (-len(head_bytes) % 32) + b"".join(data))


if __name__ == "__main__":
    main()
