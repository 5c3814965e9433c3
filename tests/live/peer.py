"""peer.py: llama.cpp, through llama-cpp-python's low-level interface, as the outside reference of the live tests.

Used by compare_logits.py, compare_kv.py, make_golden.py and tests/bench/compare.py, inside the environment that
scripts/setup-peer makes. One model, one context, one sequence; logits are handed out row by row, so that a vocabulary of
262,144 tokens never needs more than one batch in memory. Also the few numbers that all comparisons share: log-softmax,
KL divergence, same top token.
"""
import contextlib
import ctypes
import os
import pathlib

import llama_cpp
import numpy as np

SILENT = llama_cpp.llama_log_callback(lambda level, text, user: None)
KV_TYPES = {"f32": llama_cpp.GGML_TYPE_F32, "f16": llama_cpp.GGML_TYPE_F16,
            "q8_0": llama_cpp.GGML_TYPE_Q8_0, "q4_0": llama_cpp.GGML_TYPE_Q4_0}


def cache_folder():
    folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "kvqd"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def silence():
    llama_cpp.llama_log_set(SILENT, None)


class Peer:
    """A model and a context of llama.cpp. kv: the cache's type, flash: its flash attention (it wants that for a quantized V)."""

    def __init__(self, path, kv="f16", flash=True, n_ctx=1024, n_batch=128, threads=None, n_seq=1):
        silence()
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load '{path}'")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self.n_batch = n_batch
        self.threads = threads or len(os.sched_getaffinity(0))
        self.context = None
        self.open_context(kv, flash, n_ctx, n_seq)

    def open_context(self, kv, flash, n_ctx, n_seq=1):
        if self.context:
            llama_cpp.llama_free(self.context)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, self.n_batch, self.n_batch
        params.n_seq_max = n_seq
        params.n_threads = params.n_threads_batch = self.threads
        params.type_k = params.type_v = KV_TYPES[kv]
        params.flash_attn_type = (llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash
                                  else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED)
        params.no_perf = True
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError(f"llama.cpp cannot make a context of {n_ctx} tokens with a {kv} cache")

    def close(self):
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)
        self.context = self.model = None

    def tokenize(self, text, add_bos=True, special=False):
        data = text if isinstance(text, bytes) else text.encode()
        room = len(data) + 8
        ids = (llama_cpp.llama_token * room)()
        n = llama_cpp.llama_tokenize(self.vocab, data, len(data), ids, room, add_bos, special)
        if n < 0:
            raise RuntimeError(f"llama.cpp cannot tokenize {len(data)} bytes")
        return list(ids[:n])

    def bos(self):
        """The token that the file wants in front, or None."""
        return llama_cpp.llama_vocab_bos(self.vocab) if llama_cpp.llama_vocab_get_add_bos(self.vocab) else None

    def is_end(self, token):
        return llama_cpp.llama_vocab_is_eog(self.vocab, token)

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def decode(self, ids, first_pos=0, wanted=lambda pos: True):
        """Appends ids at first_pos in steps of n_batch; yields (pos, logits float32 [n, vocab_size]) for each step's wanted
        positions, which have to be a run of neighbours. The array is a copy."""
        batch = llama_cpp.llama_batch_init(self.n_batch, 0, 1)
        try:
            for start in range(0, len(ids), self.n_batch):
                piece = ids[start:start + self.n_batch]
                kept = []
                for i, token in enumerate(piece):
                    pos = first_pos + start + i
                    batch.token[i], batch.pos[i] = token, pos
                    batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
                    batch.logits[i] = bool(wanted(pos))
                    if batch.logits[i]:
                        kept.append(pos)
                batch.n_tokens = len(piece)
                status = llama_cpp.llama_decode(self.context, batch)
                if status:
                    raise RuntimeError(f"llama_decode: status {status} at token {start}")
                if kept:
                    logits = llama_cpp.llama_get_logits(self.context)
                    flat = np.ctypeslib.as_array(logits, shape=(len(kept), self.vocab_size))
                    yield kept[0], flat.copy()
        finally:
            llama_cpp.llama_batch_free(batch)

    def logits(self, ids):
        """float32 [len(ids), vocab_size], the whole of it in memory."""
        self.clear()
        return np.concatenate([rows for _, rows in self.decode(ids)])

    def greedy(self, ids, n):
        """The n most likely tokens after ids, one at a time; ends early at an end token."""
        self.clear()
        for _, rows in self.decode(ids, wanted=lambda pos: pos == len(ids) - 1):
            pass
        answer = []
        while len(answer) < n:
            token = int(rows[-1].argmax())
            answer.append(token)
            if self.is_end(token):
                break
            for _, rows in self.decode([token], first_pos=len(ids) + len(answer) - 1):
                pass
        return answer


@contextlib.contextmanager
def opened(*args, **kwargs):
    peer = Peer(*args, **kwargs)
    try:
        yield peer
    finally:
        peer.close()


def log_softmax(logits):
    """In double sums: rows of 262,144 values lose the fifth digit in single ones."""
    top = logits.max(axis=-1, keepdims=True)
    return logits - top - np.log(np.exp((logits - top).astype(np.float64)).sum(axis=-1, keepdims=True))


def divergence(truth, other):
    """Rows of logits -> per row KL(truth || other) in nats, and whether the top token is the same."""
    p, q = log_softmax(truth), log_softmax(other)
    return (np.exp(p) * (p - q)).sum(axis=-1), truth.argmax(-1) == other.argmax(-1)
