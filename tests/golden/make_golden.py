#!/usr/bin/env python3
"""make_golden.py [--check]: writes tests/golden/MODEL.json, the small golden vectors that check_golden compares ours with.

Run by people, after scripts/setup-peer, when text.txt or the peer's version changes. --check: exit 1 if a file differs from what would be
made by more than another CPU does: the truth by up to 0.003 nats (measured between two), llama.cpp's own run by 1.6 times its
divergence. What it keeps of each real model:
ids        llama.cpp's token ids of text.txt (without its last line end), BOS as the file says
positions  the last N_POSITIONS of them: behind gemma-3's sliding window of 512
top        for each position the TOP most likely ids and their log-probabilities by the float truth (F32 copy, F32 cache, no flash
           attention), as base64 of little-endian int32 and float32
llama_kld  how far llama.cpp's own run of the quantized file is from that, by the same measure over the same rows
greedy     the truth's greedy continuation, cut before the first token whose lead over the second is below MIN_LEAD nats: what
           remains a quantized run has to repeat
"""
import base64
import json
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "live"))
import peer  # noqa: E402
from check_golden import partial_divergence  # noqa: E402
from compare_logits import REAL_MODELS  # noqa: E402
from dequantize import f32_copy  # noqa: E402

N_POSITIONS, TOP = 32, 64
MAX_ANSWER, MIN_LEAD = 24, 0.7
SAME_LOG_PROB, SAME_DIVERGENCE = 0.01, 2.0
PROMPT = "Water boils at 100 degrees Celsius and freezes at 0 degrees. The capital of France is Paris. The capital of Germany is"


def pack(array, kind):
    return base64.b64encode(np.ascontiguousarray(array, dtype=kind).tobytes()).decode()


def last_rows(p, ids):
    p.clear()
    first = len(ids) - N_POSITIONS
    return peer.log_softmax(np.concatenate([rows for _, rows in p.decode(ids, wanted=lambda pos: pos >= first)]))


def sure_answer(p, ids):
    """Greedy ids for as long as the first choice leads clearly."""
    answer = []
    p.clear()
    fresh, pos = ids, 0
    while len(answer) < MAX_ANSWER:
        for _, rows in p.decode(fresh, first_pos=pos, wanted=lambda at: at == pos + len(fresh) - 1):
            pass
        second, first = np.sort(peer.log_softmax(rows[-1:])[0])[-2:]
        token = int(rows[-1].argmax())
        if first - second < MIN_LEAD or p.is_end(token):
            break
        answer.append(token)
        pos, fresh = pos + len(fresh), [token]
    return answer


def text_of(p, ids):
    out = b""
    for token in ids:
        room = peer.llama_cpp.ctypes.create_string_buffer(64)
        n = peer.llama_cpp.llama_token_to_piece(p.vocab, token, room, len(room), 0, False)
        out += room.raw[:n]
    return out.decode()


def made(name):
    """What to keep of a model, and the truth's rows, of which that has the top."""
    file = peer.cache_folder() / "models" / f"{name}.gguf"
    text = (HERE / "text.txt").read_text().rstrip("\n")
    with peer.opened(f32_copy(file), kv="f32", flash=False) as p:
        ids = p.tokenize(text)
        truth = last_rows(p, ids)
        answer = sure_answer(p, p.tokenize(PROMPT))
        answer_text = text_of(p, answer)
    with peer.opened(file) as p:
        theirs = last_rows(p, ids)
    top = np.argsort(-truth, axis=-1, kind="stable")[:, :TOP]
    top_truth = np.take_along_axis(truth, top, -1)
    kld = [partial_divergence(t.tolist(), o[i].tolist()) for t, o, i in zip(top_truth, theirs, top)]
    golden = {
        "model": file.name, "peer": f"llama-cpp-python {peer.llama_cpp.__version__}",
        "ids": ids, "positions": N_POSITIONS, "top": TOP,
        "top_ids": pack(top, "<i4"), "top_log_probs": pack(top_truth, "<f4"),
        "llama_kld": round(float(np.mean(kld)), 6),
        "greedy": {"prompt": PROMPT, "n": len(answer), "text": answer_text},
    }
    print(f"{name}: {len(ids)} ids, llama.cpp's divergence {golden['llama_kld']}, answer {answer_text!r}")
    return golden, truth


def differences(kept, golden, truth):
    """In what the kept vectors are not those that were made."""
    exact = [key for key in golden if key not in ("top_ids", "top_log_probs", "llama_kld") and kept.get(key) != golden[key]]
    if exact or kept.keys() != golden.keys():
        return exact or ["the keys"]
    shape = truth.shape[0], TOP
    ids = np.frombuffer(base64.b64decode(kept["top_ids"]), "<i4").reshape(shape)
    log_probs = np.frombuffer(base64.b64decode(kept["top_log_probs"]), "<f4").reshape(shape)
    distance = float(np.abs(log_probs - np.take_along_axis(truth, ids, -1)).max())
    least = np.sort(truth, axis=-1)[:, -TOP]  # no more likely one may be missing
    missing = float((least - log_probs.min(axis=-1)).max())
    print(f"  log-probabilities differ by at most {distance:.2e}; llama.cpp's divergence was {kept['llama_kld']}")
    found = []
    if not max(distance, missing) <= SAME_LOG_PROB or len(set(map(len, map(set, ids.tolist())))) != 1:
        found.append("the log-probabilities")
    if not 1 / SAME_DIVERGENCE <= kept["llama_kld"] / golden["llama_kld"] <= SAME_DIVERGENCE:
        found.append("llama.cpp's divergence")
    return found


def main():
    status = 0
    for name in REAL_MODELS:
        golden, truth = made(name)
        path = HERE / f"{name}.json"
        if "--check" not in sys.argv:
            path.write_text(json.dumps(golden, ensure_ascii=False) + "\n")
            continue
        found = differences(json.loads(path.read_text()), golden, truth)
        if found:
            print(f"differs: {path}: {', '.join(found)}")
            status = 1
    sys.exit(status)


if __name__ == "__main__":
    main()
