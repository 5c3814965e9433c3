#!/usr/bin/env python3
"""compare_kv.py: what each KV format costs, ours beside llama.cpp's, in one run over the same chunks of text.

On the F32 copies of the three real models, where nothing but the cache rounds: `kvqctl eval` for every policy of ours (LMDeploy's two
formats are rows of our table), and llama.cpp with q8_0 and q4_0 caches (flash attention on, as it asks for). Each is judged against the
same engine's f16 cache: mean KL divergence in nats and share of equal top tokens over the second half of each 1024-token chunk.
Exit status 1 if a policy of ours misses its bound or is missing. Run by scripts/test --long; needs scripts/setup-peer.

Bounds: int8 and int4 are a little above what a numpy simulation of the formats gives on these models (0.0005, 0.0014, 0.0006 and
0.005, 0.011, 0.006); llama.cpp's q4_0 has 0.06, 0.17 and 1.1 there. LMDeploy's formats are shown, not judged.
"""
import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np

import peer
from dequantize import f32_copy
from eval_text import eval_text

CHUNK_TOKENS = 1024
POLICIES = ["0", "8", "4", "lmdeploy8", "lmdeploy4"]
PEER_BITS = {"q8_0": 8.5, "q4_0": 4.5}
# Largest mean KL divergence that a policy may have.
BOUNDS = {
    "SmolLM2-135M-Instruct-Q4_1": {"8": 0.001, "4": 0.010},
    "gemma-3-270m-Q4_K_M": {"8": 0.002, "4": 0.020},
    "Qwen2.5-Coder-0.5B-Instruct": {"8": 0.001, "4": 0.012},
}
ROWS_AT_ONCE = 64


def chunks_of(p, text, n_chunks):
    """The ids of the text in chunks; where the file asks for a BOS it takes the place of a chunk's first token."""
    ids = p.tokenize(text, add_bos=False)
    whole = [ids[i:i + CHUNK_TOKENS] for i in range(0, len(ids) - CHUNK_TOKENS + 1, CHUNK_TOKENS)][:n_chunks or None]
    if p.bos() is not None:
        whole = [[p.bos()] + chunk[1:] for chunk in whole]
    return whole


def second_half(p, kv, ids):
    p.open_context(kv, flash=True, n_ctx=CHUNK_TOKENS)
    first = CHUNK_TOKENS // 2
    return np.concatenate([rows for _, rows in p.decode(ids, wanted=lambda pos: pos >= first)])


def peer_rows(path, text, n_chunks):
    """llama.cpp's formats: {name: (mean KL divergence, share of equal top tokens)}."""
    sums = {kv: [0.0, 0, 0] for kv in PEER_BITS}
    with peer.opened(path, n_ctx=CHUNK_TOKENS) as p:
        for ids in chunks_of(p, text, n_chunks):
            truth = second_half(p, "f16", ids)
            for kv, total in sums.items():
                other = second_half(p, kv, ids)
                for i in range(0, len(truth), ROWS_AT_ONCE):
                    kld, same = peer.divergence(truth[i:i + ROWS_AT_ONCE], other[i:i + ROWS_AT_ONCE])
                    total[0], total[1], total[2] = total[0] + kld.sum(), total[1] + same.sum(), total[2] + len(kld)
    return {kv: (kld / n, same / n) for kv, (kld, same, n) in sums.items()}


def our_rows(kvqctl, path, text_path, n_chunks):
    command = [kvqctl, "eval", "-m", str(path), "-f", str(text_path), "-c", str(CHUNK_TOKENS), "--kv", ",".join(POLICIES), "-o", "json"]
    if n_chunks:
        command += ["--chunks", str(n_chunks)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()[-400:]}")
    return {str(row["policy"]): row for row in json.loads(done.stdout)["kv"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kvqctl", default="build/kvqctl")
    parser.add_argument("--models", default=",".join(BOUNDS))
    parser.add_argument("--chunks", type=int, default=0, help="chunks of 1024 tokens; 0: all of the text")
    parser.add_argument("--peer-only", action="store_true", help="only llama.cpp's rows")
    parser.add_argument("--ours-only", action="store_true", help="only ours")
    parser.add_argument("--json", help="write the table there too")
    args = parser.parse_args()

    text_path = eval_text()
    table, failed = [], 0
    print(f"{'model':30} {'format':12} {'bits':>6} {'ppl':>8} {'mean KLD':>10} {'bound':>8} {'same top':>9}")

    def line(model, name, bits, ppl, kld, same, bound):
        nonlocal failed
        good = bound is None or kld <= bound
        failed += not good
        table.append({"model": model, "format": name, "bits": bits, "ppl": ppl, "mean_kld": kld, "same_top": same, "bound": bound,
                      "ok": good})
        print(f"{model:30} {name:12} {bits:6.2f} {ppl:8.3f} {kld:10.5f} {bound if bound is not None else '':>8} {same:9.2%}"
              f"{'' if bound is None else '  ok' if good else '  FAILED'}", flush=True)

    for model in args.models.split(","):
        copy = f32_copy(peer.cache_folder() / "models" / f"{model}.gguf")
        if not args.peer_only:
            try:
                ours = our_rows(args.kvqctl, copy, text_path, args.chunks)
            except RuntimeError as why:
                print(f"{model}: FAILED: {why}")
                failed += 1
                ours = {}
            for policy in POLICIES:
                bound = BOUNDS[model].get(policy)
                if policy in ours:
                    row = ours[policy]
                    line(model, policy, row["bits_per_value"], row["ppl"], row["mean_kld"], row["same_top"], bound)
                elif ours:
                    failed += 1
                    print(f"{model}: FAILED: kvqctl eval printed no row for policy {policy}")
        if args.ours_only:
            continue
        for kv, (kld, same) in peer_rows(copy, text_path.read_bytes(), args.chunks).items():
            line(model, f"llama {kv}", PEER_BITS[kv], float("nan"), kld, same, None)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(table, indent=1))
    print(f"{len(table)} rows, {failed} failed")
    sys.exit(0 if table and not failed else 1)


if __name__ == "__main__":
    main()
