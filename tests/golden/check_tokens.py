#!/usr/bin/env python3
"""check_tokens.py KVQCTL MODELS_FOLDER: our token ids of hard text beside llama.cpp's in tokens.json.

Run by scripts/test in the default mode, for each model of that file; needs only Python itself. tests/live/compare_tokens.py asks
llama.cpp itself, for a megabyte and for every pre-tokenizer.
"""
import base64
import hashlib
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "live"))
from token_text import make_text  # noqa: E402

MODES = {"plain": False, "special": True}
LONG_BYTES, PIECE_BYTES = 1 << 17, 1 << 14


def long_texts():
    return [make_text(PIECE_BYTES, f"golden {i}") for i in range(LONG_BYTES // PIECE_BYTES)]


def digest(lists):
    h = hashlib.sha256()
    for ids in lists:
        h.update(struct.pack(f"<{len(ids) + 1}i", len(ids), *ids))
    return h.hexdigest()


def tokenize(kvqctl, model, text, special):
    with tempfile.NamedTemporaryFile() as f:
        f.write(text)
        f.flush()
        command = [kvqctl, "tokenize", "-m", str(model), "-f", f.name, "--bos", "-o", "json"] + (["--special"] if special else [])
        return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["ids"]


def first_difference(want, got):
    at = next((i for i, (w, g) in enumerate(zip(want, got)) if w != g), min(len(want), len(got)))
    return f"from token {at} of {len(want)} on: {want[at:at + 8]} wanted, {got[at:at + 8]} found"


def check_model(kvqctl, model, golden, short, longs):
    failed = 0
    for mode, special in MODES.items():
        got = tokenize(kvqctl, model, short, special)
        if got != golden[mode]["short"]:
            print(f"FAIL {model.name}, {mode}: short text differs {first_difference(golden[mode]['short'], got)}")
            failed += 1
        lists = [tokenize(kvqctl, model, text, special) for text in longs]
        if digest(lists) != golden[mode]["long"]:
            print(f"FAIL {model.name}, {mode}: ids of the long text differ; tests/live/compare_tokens.py says where")
            failed += 1
        print(f"{model.name}, {mode}: {len(got)} and {sum(map(len, lists))} ids compared")
    return failed


def main():
    kvqctl, models = sys.argv[1], pathlib.Path(sys.argv[2])
    golden = json.loads((HERE / "tokens.json").read_text())
    longs = long_texts()
    if hashlib.sha256(b"".join(longs)).hexdigest() != golden["long_sha256"]:
        print("FAIL: token_text.py no longer makes the text of tokens.json; run make_token_golden.py")
        return 1
    failed = sum(check_model(kvqctl, models / name, ids, base64.b64decode(golden["short"]), longs) for name, ids in golden["models"].items())
    return 1 if failed or not golden["models"] else 0


if __name__ == "__main__":
    sys.exit(main())
