#!/usr/bin/env python3
"""make_seeds.py FOLDER: writes the seeds of all fuzz targets, FOLDER/TARGET/*. Needs nothing but Python; the same bytes every time.

Run by ctest before the replays and by scripts/test --long before fuzzing. Inputs that once broke something are files of their own
in tests/fuzz/corpus/TARGET/.
"""
import importlib.util
import pathlib
import struct
import sys

HERE = pathlib.Path(__file__).resolve().parent
U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}


def text(s):
    b = s.encode()
    return struct.pack("<Q", len(b)) + b


def value(kind, v):
    return text(v) if kind == STRING else struct.pack("<" + FORMATS[kind], v)


def key(name, kind, v):
    return text(name) + struct.pack("<I", kind) + value(kind, v)


def array(name, kind, items):
    return text(name) + struct.pack("<IIQ", ARRAY, kind, len(items)) + b"".join(value(kind, i) for i in items)


def gguf(keys, tensors, version=3):
    """tensors: (name, dims, type id, bytes)."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys)
    offset, body = 0, b""
    for name, dims, kind, data in tensors:
        head += text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", kind, offset)
        body += data + b"\0" * (-len(data) % 32)
        offset = len(body)
    return head + b"\0" * (-len(head) % 32) + body


# Block bytes and weights of each type id, as in kernels/formats.def.
BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84), 11: (256, 110),
          12: (256, 144), 13: (256, 176), 14: (256, 210), 20: (32, 18), 23: (256, 136), 30: (1, 2), 39: (32, 17)}


def gguf_seeds():
    scalars = [key(f"k.{kind}", kind, {STRING: "v", BOOL: True}.get(kind, 5)) for kind in [*FORMATS, STRING]]
    arrays = [array(f"a.{kind}", kind, {STRING: ["", "ab", "Ġx"], BOOL: [True, False]}.get(kind, [1, 2, 3])) for kind in [*FORMATS, STRING]]
    tensors = [(f"t.{kind}", [256, 2], kind, bytes(512 // block * size)) for kind, (block, size) in BLOCKS.items()]
    yield "scalars", gguf(scalars, [])
    yield "arrays", gguf(scalars + arrays, [], version=2)
    yield "tensors", gguf([key("general.architecture", STRING, "llama"), key("general.alignment", U32, 32)], tensors)
    yield "shapes", gguf([], [("a", [1], 0, bytes(4)), ("b", [2, 3, 4, 5], 0, bytes(480)), ("c", [32, 1], 8, bytes(34))])


def letters():
    """GPT-2's alphabet: a printable character for every byte."""
    keep = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in keep]
    return [chr(b) if b in keep else chr(256 + others.index(b)) for b in range(256)]


def vocabulary_seeds():
    """Small vocabularies of both families."""
    ends = [key("tokenizer.ggml.bos_token_id", U32, 1), key("tokenizer.ggml.eos_token_id", U32, 2), key("tokenizer.ggml.add_eos_token", BOOL, True)]

    def file(model, pre, tokens, types, more):
        return gguf([key("tokenizer.ggml.model", STRING, model), key("tokenizer.ggml.pre", STRING, pre), array("tokenizer.ggml.tokens", STRING, tokens),
                     array("tokenizer.ggml.token_type", I32, types)] + more + ends, [])
    tokens = letters() + ["he", "ll", "llo", "\u0120a", "<|im_start|>", "<|im_end|>", "<s>", "aa", "aaaa", ""]
    types = [1] * 260 + [3, 3, 4, 1, 1, 5]
    merges = array("tokenizer.ggml.merges", STRING, ["h e", "l l", "ll o", "\u0120 a", "a a", "aa aa", "x y"])
    for pre in ("llama-bpe", "qwen2", "smollm", "superbpe"):
        yield pre, file("gpt2", pre, tokens, types, [merges])
    plain = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + ["\u2581", "a", "aa", "\u2581a", "lo", "<x>"]
    types = [2, 3, 3] + [6] * 256 + [1] * 5 + [4]
    scores = array("tokenizer.ggml.scores", F32, [-float(i) for i in range(len(plain))])
    yield "llama", file("llama", "default", plain, types, [scores])
    yield "gemma4", file("gemma4", "gemma4", plain, types, [array("tokenizer.ggml.merges", STRING, ["\u2581 a", "a a", "l o"])])


TEMPLATES = [
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}x{% endif %}",
    "{%- set ns = namespace(n=0) -%}{%- for m in messages if m.role != 'system' -%}{%- set ns.n = ns.n + 1 -%}{{ ns.n ~ loop.index0 }}{%- endfor -%}",
    "{% macro f(a, b='x') %}{{ a ~ b }}{% endmacro %}{{ f(1) }}{{ f(2, b='y') }}{{ messages[1:][::-1] | length }}",
    "{{ raise_exception('no') if messages[0].role == 'user' else messages | map(attribute='role') | join(',') | upper }}",
    "{{ tools | tojson(indent=2) if tools is defined and tools is not none else '' }}{{ strftime_now('%Y-%m-%d') }}{# c #}\0{\"tools\":[{\"a\":1}]}",
    "{% for i in range(3) %}{{ loop.first }}{% if i == 1 %}{% continue %}{% endif %}{% endfor %}{{ 'a b'.split(' ')[0].startswith('a') }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | last }}{% filter upper %}q{% endfilter %}{{ -3 // 2 * 1.5 % 2 ** 3 }}",
]
PROMPTS = [
    b"\0Why is the sky blue?",
    '\0caf\u00e9 \u20ac \U0001f600'.encode(),
    b'\1{"id":"a","messages":[{"role":"user","content":"hi"}],"max_tokens":7,"temperature":1.2,"top_p":0.9,"top_k":40,"min_p":0.01}',
    b'\1{"prompt":"x","stop":["a","b"],"logit_bias":{"65":1.5,"7":-100},"seed":9223372036854775807,"stream":false,"priority":9}',
    b'\0{"prompt":"x","session":"s","system":"Be brief.","raw":true,"deadline_ms":1000,"repetition_penalty":1.1,"model":"m"}',
    b'\3{"prompt":"\\u0000\\ud83d\\ude00","presence_penalty":-2,"frequency_penalty":2}', b"\2{not json", b"\1[]", b"\1",
]
CONFIGS = [
    "[model]\npath = /x.gguf\n[engine]\nquant_policy = 4\ncache_max_entry_count = 0.5\nsession_len = 0\n",
    "[mqtt]\nbroker = mqtts://h:8883\nnode = n-1\nkeepalive_s = 30s\nsession_expiry_s = 1d\nresponse_topic_prefixes = a/ b/\n[log]\nlevel = debug\n",
    "; comment\n[limits]\nmax_prompt_bytes=1M\nmax_request_s=30min\n[journal]\nmax_bytes = 1G\nretain_h = 2d\n[telemetry]\ninterval_s = 1\n",
    "[generation]\nsystem = Be brief.\nstop_words = a, b\nrandom_seed = 7\ntemperature = 1e0\ntop_p=.5\n[engin]\nthreds = x\n",
]
TEXTS = ["Hello, world! It's 1,234.5 o'clock.\n\n\t  x", "if (x != 0) { y <<= 3; } // \u00e9\u00e8\u0301 \u4e16\u754c \U0001f469\u200d\U0001f680",
         "  \u3000\u00a0 \r\n\n\n   a  b", "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u0939\u093f\u0928\u094d\u0926\u0940 \ud55c\uad6d\uc5b4", "<|im_start|>user<|end|>"]


def tiny_model():
    """The daemon tests' model: a whole llama in half a megabyte."""
    path = HERE.parent / "daemon" / "tiny_gguf.py"
    spec = importlib.util.spec_from_file_location("tiny_gguf", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main():
    root = pathlib.Path(sys.argv[1])

    def put(target, name, data):
        folder = root / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    for name, data in gguf_seeds():
        put("gguf", name, data)
    for name, data in vocabulary_seeds():
        put("vocabulary", name, data)
    for target, items in (("template", [t.encode() for t in TEMPLATES]), ("prompt", PROMPTS), ("config", [c.encode() for c in CONFIGS]),
                          ("tokenizer", [t.encode() for t in TEXTS])):
        for i, data in enumerate(items):
            put(target, f"seed{i}", data)
    (root / "model").mkdir(parents=True, exist_ok=True)
    sys.argv = ["tiny_gguf.py", str(root / "model" / "tiny.gguf")]
    tiny_model().main()


if __name__ == "__main__":
    main()
