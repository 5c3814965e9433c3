#!/usr/bin/env python3
"""make_random_gguf.py FOLDER: small random-weight models, one for each thing that no real test model has.

Every row of the architecture table (llama with and without Llama 3 rope factors, qwen2, qwen3, gemma3 with its sliding window), every
head size (64, 80, 96, 128, 256), linear rope scaling, the logits' softcap, and every weight type of kernels/formats.def. compare_logits.py runs ours and llama.cpp on
each. The weights are quantized by ggml's own functions, so that every file holds what real ones hold.

Random weights hide errors unless they are scaled with care: with small ones every softmax is flat and any mask or rope gives
the same logits. So queries and keys are scaled to scores of standard deviation near SCORE_SPREAD and logits to LOGIT_SPREAD.
The vocabulary is a small byte-level BPE (SentencePiece for gemma3) learned here from a few sentences.
"""
import collections
import ctypes
import pathlib
import sys
from dataclasses import dataclass, field

import numpy as np
from gguf import GGUFWriter, TokenType, quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T

SCORE_SPREAD = 2.0
LOGIT_SPREAD = 3.0
CONTEXT = 1024
N_MERGES = 240
CORPUS = ("the quick brown fox jumps over the lazy dog and then the other things that were there in the morning; "
          "computers are in general not made for thinking, and science is what we have learned about keeping from fooling "
          "ourselves. It was the best of times, it was the worst of times: the age of wisdom, the age of foolishness. ") * 4

WEIGHT_TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
                "IQ4_NL", "IQ4_XS", "MXFP4"]


@dataclass
class Shape:
    arch: str
    name: str
    weights: str = "F32"
    head_dim: int = 64
    n_heads: int = 4
    n_kv_heads: int = 2
    n_layers: int = 3
    hidden_dim: int = 256
    ffn_dim: int = 512
    tied: bool = True
    rope_base: float = 10000.0
    rope_factors: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    window: int = 0
    pre: str = "gpt-2"
    extra: dict = field(default_factory=dict)  # further metadata below the architecture's name


def all_shapes():
    shapes = [Shape("llama", f"llama-{w}", weights=w) for w in WEIGHT_TYPES]
    shapes += [
        Shape("llama", "llama-rope-factors", head_dim=128, n_heads=8, rope_base=500000.0, rope_factors=True, pre="llama-bpe"),
        Shape("llama", "llama-head80", head_dim=80, n_heads=16, n_kv_heads=4, tied=False),
        Shape("llama", "llama-head96", head_dim=96, n_heads=8, n_kv_heads=8),
        Shape("llama", "llama-head128", head_dim=128, n_heads=6, n_kv_heads=1, weights="Q8_0"),
        Shape("llama", "llama-head256", head_dim=256, n_heads=4, n_kv_heads=2, tied=False),
        Shape("qwen2", "qwen2-bias", head_dim=64, n_heads=4, n_kv_heads=2, qkv_bias=True, rope_base=1e6, pre="qwen2"),
        Shape("qwen2", "qwen2-bias-Q4_0", head_dim=128, n_heads=2, n_kv_heads=1, qkv_bias=True, rope_base=1e6, weights="Q4_0",
              pre="qwen2", tied=False),
        Shape("qwen3", "qwen3-norm", head_dim=128, n_heads=4, n_kv_heads=2, qk_norm=True, rope_base=1e6, pre="qwen2"),
        Shape("qwen3", "qwen3-norm-Q4_K", head_dim=64, n_heads=8, n_kv_heads=4, qk_norm=True, rope_base=1e6, weights="Q4_K",
              pre="qwen2", tied=False),
        # Seven layers: the pattern is five local ones and a global one.
        Shape("gemma3", "gemma3-window", head_dim=256, n_heads=4, n_kv_heads=1, n_layers=7, qk_norm=True, post_norms=True,
              window=96, rope_base=1e6),
        Shape("gemma3", "gemma3-window-Q8_0", head_dim=64, n_heads=4, n_kv_heads=2, n_layers=7, qk_norm=True, post_norms=True,
              window=64, rope_base=1e6, weights="Q8_0"),
        Shape("llama", "llama-rope-linear", extra={"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
        Shape("llama", "llama-rope-scale-linear", extra={"rope.scale_linear": 4.0}),
        # Layers of the window are not scaled.
        Shape("gemma3", "gemma3-linear-softcap", head_dim=128, n_heads=4, n_kv_heads=2, n_layers=7, qk_norm=True, post_norms=True,
              window=64, rope_base=1e6, extra={"rope.scaling.factor": 8.0, "final_logit_softcapping": 5.0}),
    ]
    return shapes


# ---- vocabularies -----------------------------------------------------------------------------------------------------------

def byte_characters():
    """GPT-2's printable stand-ins for the 256 bytes: printable bytes stand for themselves, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7f), *range(0xa1, 0xad), *range(0xae, 0x100)]
    others = [b for b in range(256) if b not in printable]
    table = {b: chr(b) for b in printable}
    table.update({b: chr(256 + i) for i, b in enumerate(others)})
    return [table[b] for b in range(256)]


def learn_merges(words, n):
    """Plain BPE: join the commonest pair, n times. words: {tuple of symbols: count}."""
    merges = []
    for _ in range(n):
        pairs = collections.Counter()
        for symbols, count in words.items():
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += count
        if not pairs:
            break
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(best)
        words = collections.Counter({merge(symbols, best): c for symbols, c in words.items()})
    return merges


def merge(symbols, pair):
    out, i = [], 0
    while i < len(symbols):
        if symbols[i:i + 2] == pair:
            out.append(pair[0] + pair[1])
            i += 2
        else:
            out.append(symbols[i])
            i += 1
    return tuple(out)


def corpus_words(space):
    words = CORPUS.split(" ")
    return collections.Counter(tuple((space if i else "") + w) for i, w in enumerate(words) if w)


def add_bpe(writer, pre):
    merges = learn_merges(corpus_words("Ġ"), N_MERGES)
    tokens = byte_characters() + [a + b for a, b in merges]
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens + specials)
    writer.add_token_types([TokenType.NORMAL] * len(tokens) + [TokenType.CONTROL] * len(specials))
    writer.add_token_merges([f"{a} {b}" for a, b in merges])
    writer.add_bos_token_id(len(tokens))
    writer.add_eos_token_id(len(tokens) + 2)
    writer.add_add_bos_token(pre == "llama-bpe")
    return len(tokens) + len(specials)


def add_spm(writer):
    """SentencePiece with byte fallback; a piece's score is minus the rank of its merge, as the real converters write it."""
    merges = learn_merges(corpus_words("▁"), N_MERGES)
    letters = sorted({c for word in corpus_words("▁") for c in word})
    pieces = [a + b for a, b in merges] + letters
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{b:02X}>" for b in range(256)), *pieces]
    types = ([TokenType.CONTROL] * 3 + [TokenType.UNKNOWN] + [TokenType.BYTE] * 256 + [TokenType.NORMAL] * len(pieces))
    scores = [-1000.0] * 260 + [-float(rank) for rank in range(len(pieces))]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_scores(scores)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    return len(tokens)


# ---- weights ----------------------------------------------------------------------------------------------------------------

def ggml_quantizer():
    import llama_cpp
    library = ctypes.CDLL(str(pathlib.Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    quantize = library.ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64,
                         ctypes.c_void_p]
    return quantize


QUANTIZE = ggml_quantizer()


def quantized(values, kind):
    """values float32 [rows, columns] -> uint8 [rows, bytes of a row]."""
    block, block_bytes = GGML_QUANT_SIZES[kind]
    rows, columns = values.shape
    out = np.zeros((rows, columns // block * block_bytes), np.uint8)
    source = np.ascontiguousarray(values, np.float32)
    written = QUANTIZE(int(kind), source.ctypes.data, out.ctypes.data, 0, rows, columns, None)
    if written != out.nbytes:
        raise RuntimeError(f"ggml quantized {written} bytes of {kind.name}, expected {out.nbytes}")
    return out


class Weights:
    def __init__(self, writer, shape, seed):
        self.writer, self.kind = writer, T[shape.weights]
        self.random = np.random.default_rng(seed)

    def matrix(self, name, rows, columns, spread):
        """A product with a unit-variance input has standard deviation `spread`."""
        values = self.random.standard_normal((rows, columns), np.float32) * (spread / np.sqrt(columns))
        if self.kind in (T.F32, T.F16, T.BF16):
            data = quants.quantize(values, self.kind)
        else:
            data = quantized(values, self.kind)
        self.writer.add_tensor(name, data, raw_dtype=self.kind)

    def vector(self, name, n, centre, spread):
        self.writer.add_tensor(name, (centre + spread * self.random.standard_normal(n)).astype(np.float32))


def add_layer(w, shape, l):
    s, p = shape, f"blk.{l}."
    q_rows, kv_rows = s.n_heads * s.head_dim, s.n_kv_heads * s.head_dim
    # A dot product of two vectors of spread a over d dimensions has spread a^2 sqrt(d); attention divides by sqrt(d).
    spread = 1.0 if s.qk_norm else SCORE_SPREAD ** 0.5
    w.vector(p + "attn_norm.weight", s.hidden_dim, 1.0, 0.1)
    w.matrix(p + "attn_q.weight", q_rows, s.hidden_dim, spread)
    w.matrix(p + "attn_k.weight", kv_rows, s.hidden_dim, spread)
    w.matrix(p + "attn_v.weight", kv_rows, s.hidden_dim, 1.0)
    w.matrix(p + "attn_output.weight", s.hidden_dim, q_rows, 1.0)
    if s.qkv_bias:
        w.vector(p + "attn_q.bias", q_rows, 0.0, 1.0)
        w.vector(p + "attn_k.bias", kv_rows, 0.0, 8.0)  # Qwen2.5's keys have biases far above the rest
        w.vector(p + "attn_v.bias", kv_rows, 0.0, 0.3)
    if s.qk_norm:
        w.vector(p + "attn_q_norm.weight", s.head_dim, SCORE_SPREAD ** 0.5, 0.2)
        w.vector(p + "attn_k_norm.weight", s.head_dim, SCORE_SPREAD ** 0.5, 0.2)
    if s.post_norms:
        w.vector(p + "post_attention_norm.weight", s.hidden_dim, 1.0, 0.1)
        w.vector(p + "post_ffw_norm.weight", s.hidden_dim, 1.0, 0.1)
    w.vector(p + "ffn_norm.weight", s.hidden_dim, 1.0, 0.1)
    w.matrix(p + "ffn_gate.weight", s.ffn_dim, s.hidden_dim, 1.0)
    w.matrix(p + "ffn_up.weight", s.ffn_dim, s.hidden_dim, 1.0)
    w.matrix(p + "ffn_down.weight", s.hidden_dim, s.ffn_dim, 1.0)


def add_rope_factors(writer, shape):
    """Llama 3.1's rule: short wavelengths as they are, long ones slowed by 8, a ramp between."""
    d = np.arange(0, shape.head_dim, 2) / shape.head_dim
    wavelength = 2 * np.pi * shape.rope_base ** d
    low, high = CONTEXT / 1.0, CONTEXT / 4.0
    ramp = np.clip((CONTEXT / wavelength - 1.0) / (4.0 - 1.0), 0, 1)
    factors = np.where(wavelength < high, 1.0, np.where(wavelength > low, 8.0, 1.0 / ((1 - ramp) / 8.0 + ramp)))
    writer.add_tensor("rope_freqs.weight", factors.astype(np.float32))


def add_metadata(writer, s):
    writer.add_name(s.name)
    writer.add_block_count(s.n_layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(s.hidden_dim)
    writer.add_feed_forward_length(s.ffn_dim)
    writer.add_head_count(s.n_heads)
    writer.add_head_count_kv(s.n_kv_heads)
    writer.add_key_length(s.head_dim)
    writer.add_value_length(s.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(s.rope_base)
    if s.arch == "llama":
        writer.add_rope_dimension_count(s.head_dim)
    if s.window:
        writer.add_sliding_window(s.window)
    for name, value in s.extra.items():
        (writer.add_string if isinstance(value, str) else writer.add_float32)(f"{s.arch}.{name}", value)


def write_model(path, shape, seed):
    writer = GGUFWriter(path, shape.arch)
    add_metadata(writer, shape)
    vocab_size = add_spm(writer) if shape.arch == "gemma3" else add_bpe(writer, shape.pre)
    writer.add_vocab_size(vocab_size)
    w = Weights(writer, shape, seed)
    # Embeddings are small beside what the layers add (1 for gemma3 after its factor sqrt(hidden_dim)); else tied ones make
    # every position predict its own token with certainty, and no error in between could be seen.
    embedding_spread = 1.0 if shape.post_norms else 0.1 * np.sqrt(shape.hidden_dim)
    w.matrix("token_embd.weight", vocab_size, shape.hidden_dim, embedding_spread)
    for l in range(shape.n_layers):
        add_layer(w, shape, l)
    logit_spread = LOGIT_SPREAD / (embedding_spread if shape.tied else 1.0)  # the last norm sets how far logits spread
    w.vector("output_norm.weight", shape.hidden_dim, logit_spread, 0.1 * logit_spread)
    if not shape.tied:
        w.matrix("output.weight", vocab_size, shape.hidden_dim, 1.0)
    if shape.rope_factors:
        add_rope_factors(writer, shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_all(folder):
    """Writes every model that is not there yet; returns their paths in the table's order."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed, shape in enumerate(all_shapes()):
        path = folder / f"{shape.name}.gguf"
        if not path.exists():
            unfinished = path.with_suffix(".unfinished")
            write_model(unfinished, shape, seed)
            unfinished.rename(path)
        paths.append(path)
    return paths


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__.splitlines()[0])
    for made in make_all(sys.argv[1]):
        print(made)
