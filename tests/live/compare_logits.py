#!/usr/bin/env python3
"""compare_logits.py: our logits beside llama.cpp's, and both beside the float truth.

The float truth of a model is llama.cpp's run of its F32 copy (dequantize.py) with an F32 cache and no flash attention: nothing
rounds. `kvqctl logits --kv 0` is run on the F32 copies and on the quantized files, for every instruction set asked for, over the
three real models and the random ones (make_random_gguf.py). Prints the mean KL divergence from the truth (nats) and how often the
top token is the same, with bound and verdict; exit status 1 if any line misses its bound, or if none was measured.
Run by scripts/test --long; needs scripts/setup-peer.

Bounds. F32 copies: 1e-4 and 99.5 %. Only sums in another order and the f16 cache differ there; those cost 1e-6 to 1e-5.
Quantized real files: no further from the truth than llama.cpp's own run of the same file (f16 cache, flash attention). Random models:
the same two bounds, but only 300 positions and logits that are far flatter than a language model's stand behind them, so the top
token may change once in fifty (near-ties are common) and our distance may be 1.25 times llama.cpp's plus 1e-5 (its error and
ours are independent samples of the same size). They are not blind: a rope base 10 % off moves llama-F32 by 0.29, dropped rope factors by 0.62, a window one token too long by 0.018.
"""
import argparse
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass

import numpy as np

import make_random_gguf
import peer
from dequantize import f32_copy
from eval_text import eval_text

REAL_MODELS = ["SmolLM2-135M-Instruct-Q4_1", "gemma-3-270m-Q4_K_M", "Qwen2.5-Coder-0.5B-Instruct"]
REAL_TEXT_BYTES = 2300    # 600 to 640 tokens
RANDOM_TEXT_BYTES = 420   # 300 to 330 tokens of the small vocabulary: past gemma3-window's 96 three times over
ROWS_AT_ONCE = 64         # rows of 262,144 doubles: 134 MB a piece


@dataclass
class Bound:
    kld: float
    same_top: float


F32_BOUND = Bound(1e-4, 0.995)
RANDOM_F32_BOUND = Bound(1e-4, 0.98)
RANDOM_SLACK, RANDOM_FLOOR = 1.25, 1e-5


def cut_text(n_bytes):
    """The first bytes of the eval text, in a file of their own, ended at a line."""
    text = eval_text().read_bytes()[:n_bytes]
    text = text[:text.rindex(b"\n") + 1]
    path = peer.cache_folder() / f"eval-{n_bytes}.txt"
    path.write_bytes(text)
    return path


def peer_logits(path, text, kv, flash):
    """llama.cpp's logits of the whole text, kept in the cache: [tokens, vocab_size] float32, memory-mapped."""
    stamp = f"{path}-{path.stat().st_size}-{path.stat().st_mtime_ns}-{kv}-{flash}-{peer.llama_cpp.__version__}"
    key = hashlib.sha256(stamp.encode() + text.read_bytes()).hexdigest()[:16]
    kept = peer.cache_folder() / "logits" / f"{path.stem}-{kv}-{key}.npy"
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        with peer.opened(path, kv=kv, flash=flash) as p:
            rows = p.logits(p.tokenize(text.read_bytes()))
        unfinished = kept.with_suffix(".unfinished")
        with open(unfinished, "wb") as out:
            np.save(out, rows)
        unfinished.rename(kept)
    return np.load(kept, mmap_mode="r")


def our_logits(kvqctl, path, text, isa, folder):
    out = pathlib.Path(folder) / "ours.npy"
    command = [str(kvqctl), "logits", "-m", str(path), "-f", str(text), "--kv", "0", "--backend", "cpu", "--isa", isa, "-o", str(out)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()[-400:]}")
    return np.load(out, mmap_mode="r")


def distance(truth, other):
    """Mean KL divergence and share of equal top tokens, a few rows at a time."""
    if truth.shape != other.shape:
        raise RuntimeError(f"shape {other.shape}, the truth has {truth.shape}")
    if not np.isfinite(other).all():
        raise RuntimeError("logits that are not finite")
    kld, same = 0.0, 0
    for start in range(0, len(truth), ROWS_AT_ONCE):
        k, s = peer.divergence(truth[start:start + ROWS_AT_ONCE], other[start:start + ROWS_AT_ONCE])
        kld, same = kld + k.sum(), same + s.sum()
    return float(kld / len(truth)), float(same / len(truth))


class Report:
    def __init__(self):
        self.rows, self.failed = [], 0
        print(f"{'model':34} {'weights':9} {'isa':8} {'tokens':>6} {'mean KLD':>10} {'bound':>10} {'same top':>8} {'bound':>8}")

    def line(self, model, weights, isa, tokens, found, bound):
        kld, same = found
        good = kld <= bound.kld and same >= bound.same_top  # false for a NaN
        self.failed += not good
        self.rows.append({"model": model, "weights": weights, "isa": isa, "tokens": tokens, "mean_kld": kld, "same_top": same,
                          "bound_kld": bound.kld, "bound_same_top": bound.same_top, "ok": good})
        print(f"{model:34} {weights:9} {isa:8} {tokens:6} {kld:10.2e} {bound.kld:10.2e} {same:8.2%} {bound.same_top:8.2%}"
              f"  {'ok' if good else 'FAILED'}", flush=True)

    def broken(self, model, weights, isa, why):
        self.failed += 1
        self.rows.append({"model": model, "weights": weights, "isa": isa, "error": str(why), "ok": False})
        print(f"{model:34} {weights:9} {isa:8} FAILED: {why}", flush=True)


def compare(report, args, name, path, text, random):
    copy = f32_copy(path)
    truth = peer_logits(copy, text, "f32", flash=False)
    theirs = distance(truth, peer_logits(path, text, "f16", flash=True))
    print(f"{name:34} {'file':9} {'(llama)':8} {len(truth):6} {theirs[0]:10.2e} {'':10} {theirs[1]:8.2%}", flush=True)
    if args.peer_only:
        return
    f32_bound = RANDOM_F32_BOUND if random else F32_BOUND
    file_bound = Bound(theirs[0] * RANDOM_SLACK + RANDOM_FLOOR, theirs[1] - 0.05) if random else Bound(theirs[0], 0.0)
    for isa in args.isa.split(","):
        for weights, file, bound in (("F32 copy", copy, f32_bound), ("file", path, file_bound)):
            if random and weights == "F32 copy" and not name.endswith("-F32") and path.stem in TYPE_ROWS:
                continue  # the sixteen weight types share one architecture: its F32 row stands for their copies
            try:
                with tempfile.TemporaryDirectory(prefix="logits-") as folder:
                    ours = our_logits(args.kvqctl, file, text, isa, folder)
                    report.line(name, weights, isa, len(ours), distance(truth, ours), bound)
            except RuntimeError as why:
                report.broken(name, weights, isa, why)


TYPE_ROWS = {f"llama-{w}" for w in make_random_gguf.WEIGHT_TYPES}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kvqctl", default="build/kvqctl")
    parser.add_argument("--isa", default="ref,auto", help="instruction sets, comma separated (ref,auto)")
    parser.add_argument("--models", default="real,random", help="real, random, or names (parts of file names)")
    parser.add_argument("--peer-only", action="store_true", help="only make and print llama.cpp's side")
    parser.add_argument("--json", help="write the table there too")
    args = parser.parse_args()

    models = peer.cache_folder() / "models"
    work = [(name, models / f"{name}.gguf", False) for name in REAL_MODELS]
    work += [(path.stem, path, True) for path in make_random_gguf.make_all(peer.cache_folder() / "random")]
    groups = args.models.split(",")
    work = [w for w in work if ("random" if w[2] else "real") in groups or any(g in w[0] for g in groups)]
    texts = {False: cut_text(REAL_TEXT_BYTES), True: cut_text(RANDOM_TEXT_BYTES)}

    report = Report()
    for name, path, random in work:
        compare(report, args, name, path, texts[random], random)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(report.rows, indent=1))
    measured = len(report.rows) or args.peer_only
    print(f"{len(report.rows) - report.failed} within bounds, {report.failed} not")
    sys.exit(0 if measured and not report.failed else 1)


if __name__ == "__main__":
    main()
