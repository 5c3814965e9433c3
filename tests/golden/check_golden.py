#!/usr/bin/env python3
"""check_golden.py KVQCTL MODELS_FOLDER: our token ids, logits and greedy answers beside the golden vectors in this folder.

Run by scripts/test in the default mode, for each model that make_golden.py wrote; needs only Python itself. Bounds: ids equal;
mean KL divergence of the last rows (over the truth's 64 most likely tokens and one for all others) at most SLACK times that of
llama.cpp's own run of the same quantized file; the greedy answer begins with what the truth is sure of. 32 rows tell a wrong
rope or mask (0.1 and more) from rounding (0.001 to 0.02), not small differences: those are for compare_logits.py.
"""
import array
import base64
import json
import math
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
SLACK, FLOOR = 2.0, 0.002


def partial_divergence(truth, ours):
    """KL divergence over the given tokens and the rest of the vocabulary as one: log-probabilities in, nats out."""
    rest_truth, rest_ours = (max(1.0 - math.fsum(map(math.exp, row)), 1e-9) for row in (truth, ours))
    return math.fsum(math.exp(p) * (p - q) for p, q in zip(truth, ours)) + rest_truth * math.log(rest_truth / rest_ours)


def unpack(text, kind):
    values = array.array(kind)
    values.frombytes(base64.b64decode(text))
    if sys.byteorder == "big":
        values.byteswap()
    return values


def npy_rows(path, n_rows):
    """The last n_rows of a float32 .npy file of shape [tokens, vocab_size], and how many tokens it has."""
    with open(path, "rb") as f:
        magic, major = f.read(6), f.read(2)[0]
        if magic != b"\x93NUMPY" or major not in (1, 2):
            raise ValueError(f"{path} is no .npy file of version 1 or 2")
        header_bytes = struct.unpack("<H", f.read(2))[0] if major == 1 else struct.unpack("<I", f.read(4))[0]
        header = f.read(header_bytes).decode()
        if "'<f4'" not in header or "'fortran_order': False" not in header:
            raise ValueError(f"{path}: not little-endian float32 in C order: {header.strip()}")
        tokens, vocab_size = (int(n) for n in header.split("(")[1].split(")")[0].split(",")[:2])
        f.seek((tokens - n_rows) * vocab_size * 4, os.SEEK_CUR)
        rows = []
        for _ in range(n_rows):
            row = array.array("f")
            row.fromfile(f, vocab_size)
            rows.append(row)
    return tokens, rows


def log_probs(row, ids):
    top = max(row)
    if not all(map(math.isfinite, row)):
        raise ValueError("logits that are not finite")
    log_sum = math.log(math.fsum(math.exp(x - top) for x in row))
    return [row[i] - top - log_sum for i in ids]


def run(command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        raise ValueError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.decode(errors='replace').strip()[-300:]}")
    return done.stdout


class Golden:
    def __init__(self, kvqctl, folder, path):
        self.kvqctl, self.data = kvqctl, json.loads(path.read_text())
        self.model = str(pathlib.Path(folder) / self.data["model"])
        self.text = (HERE / "text.txt").read_text().rstrip("\n")

    def check_ids(self, work):
        ids = json.loads(run([self.kvqctl, "tokenize", "-m", self.model, "-f", self.text_file(work), "--bos", "-o", "json"]))["ids"]
        if ids != self.data["ids"]:
            at = next((i for i, (a, b) in enumerate(zip(ids, self.data["ids"])) if a != b), min(len(ids), len(self.data["ids"])))
            raise ValueError(f"ids differ from number {at} on: {ids[at:at + 8]}, expected {self.data['ids'][at:at + 8]}")
        return f"{len(ids)} ids equal"

    def check_logits(self, work):
        out = str(pathlib.Path(work) / "logits.npy")
        run([self.kvqctl, "logits", "-m", self.model, "-f", self.text_file(work), "--kv", "0", "-o", out])
        n, top = self.data["positions"], self.data["top"]
        tokens, rows = npy_rows(out, n)
        if tokens != len(self.data["ids"]):
            raise ValueError(f"{tokens} rows of logits for {len(self.data['ids'])} ids")
        ids, truth = unpack(self.data["top_ids"], "i"), unpack(self.data["top_log_probs"], "f")
        total = 0.0
        for r, row in enumerate(rows):
            part = slice(r * top, (r + 1) * top)
            total += partial_divergence(list(truth[part]), log_probs(row, ids[part]))
        bound = SLACK * self.data["llama_kld"] + FLOOR
        if not total / n <= bound:
            raise ValueError(f"mean KL divergence {total / n:.5f} from the float truth, bound {bound:.5f}")
        return f"mean KL divergence {total / n:.5f}, bound {bound:.5f} (llama.cpp {self.data['llama_kld']:.5f})"

    def check_greedy(self, work):
        greedy = self.data["greedy"]
        answer = run([self.kvqctl, "run", "-m", self.model, "-p", greedy["prompt"], "--raw", "--temp", "0", "-n", str(greedy["n"]),
                      "--kv", "0"]).decode()
        if not answer.startswith(greedy["text"]):
            raise ValueError(f"greedy answer {answer!r}, expected {greedy['text']!r}")
        return f"greedy answer {greedy['text']!r}"

    def text_file(self, work):
        path = pathlib.Path(work) / "text.txt"
        path.write_text(self.text)
        return str(path)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.splitlines()[0])
    passed = failed = 0
    for path in sorted(p for p in HERE.glob("*.json") if '"top_log_probs"' in p.read_text()):
        golden = Golden(sys.argv[1], sys.argv[2], path)
        for check in (golden.check_ids, golden.check_logits, golden.check_greedy):
            with tempfile.TemporaryDirectory(prefix="golden-") as work:
                try:
                    print(f"ok      {path.stem}: {check(work)}", flush=True)
                    passed += 1
                except (ValueError, OSError, KeyError) as why:
                    print(f"FAILED  {path.stem}: {check.__name__}: {why}", flush=True)
                    failed += 1
    print(f"golden: {passed} passed, {failed} failed")
    sys.exit(0 if passed and not failed else 1)


if __name__ == "__main__":
    main()
