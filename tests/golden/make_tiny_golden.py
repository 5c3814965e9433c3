#!/usr/bin/env python3
"""make_tiny_golden.py [--check] MAKE_TINY_MODELS: writes tests/golden/tiny_logits.json, llama.cpp's logits of the tiny random-weight models.

Run by people, after scripts/setup-peer, when tests/engine/tiny_model.c, the text or the peer's version changes. tests/tools/
test_commands.py compares `kvqctl logits` with it. --check: exit 1 if the file differs from what would be made by more than another CPU
does (SAME_LOGIT, SAME_DIVERGENCE times llama.cpp's divergence). What it keeps:
text, ids   a text longer than gemma3's window, and llama.cpp's ids of it
positions   the last N_POSITIONS of them
logits      of each model, all of them by the float truth (F32 copy, F32 cache, no flash attention), as base64 of little-endian float32
llama_kld   how far llama.cpp's own run of the file as it is (f16 cache, flash attention) is from that
"""
import base64
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "live"))
import peer  # noqa: E402
from dequantize import dequantize  # noqa: E402

TEXT = ("The lighthouse keeper wrote down the weather three times a day: wind, sea, and how far he could see. On the ninth of "
        "May he wrote that there was nothing to be seen at all, and then went on to describe it for two pages.")
N_POSITIONS = 8
SAME_LOGIT, SAME_DIVERGENCE = 0.01, 2.0


def last_rows(path, ids=None, **options):
    with peer.opened(path, **options) as p:
        ids = ids or p.tokenize(TEXT, add_bos=False)
        first = len(ids) - N_POSITIONS
        return ids, np.concatenate([rows for _, rows in p.decode(ids, wanted=lambda pos: pos >= first)])


def make(path):
    copy = path.with_suffix(".f32")
    dequantize(path, copy)
    ids, truth = last_rows(copy, kv="f32", flash=False)
    _, theirs = last_rows(path, ids)
    kld = float(peer.divergence(truth, theirs)[0].mean())
    print(f"{path.stem}: {len(ids)} ids, llama.cpp's divergence {kld:.2e}")
    logits = base64.b64encode(np.ascontiguousarray(truth, "<f4").tobytes()).decode()
    return ids, {"llama_kld": float(f"{kld:.3g}"), "logits": logits}


def differences(kept, golden):
    """In what the kept file is not what was made."""
    found = [key for key in golden if key != "models" and kept.get(key) != golden[key]]
    if kept["models"].keys() != golden["models"].keys():
        return [*found, "the models"]
    for name, made in golden["models"].items():
        ours, theirs = (np.frombuffer(base64.b64decode(m["logits"]), "<f4") for m in (kept["models"][name], made))
        if ours.shape != theirs.shape or not np.abs(ours - theirs).max() <= SAME_LOGIT:
            found.append(f"the logits of {name}")
        if not 1 / SAME_DIVERGENCE <= kept["models"][name]["llama_kld"] / made["llama_kld"] <= SAME_DIVERGENCE:
            found.append(f"llama.cpp's divergence on {name}")
    return found


def main():
    arguments = [a for a in sys.argv[1:] if a != "--check"]
    if len(arguments) != 1:
        sys.exit(__doc__.splitlines()[0])
    models = {}
    with tempfile.TemporaryDirectory(prefix="tiny-golden-") as folder:
        subprocess.run([arguments[0], folder], check=True)
        for path in sorted(pathlib.Path(folder).glob("*.gguf")):
            ids, models[path.stem] = make(path)
    golden = {"peer": f"llama-cpp-python {peer.llama_cpp.__version__}", "text": TEXT, "ids": ids, "positions": N_POSITIONS,
              "models": models}
    path = HERE / "tiny_logits.json"
    if "--check" not in sys.argv:
        path.write_text(json.dumps(golden, indent=1) + "\n")
    elif found := differences(json.loads(path.read_text()), golden):
        sys.exit(f"differs: {path}: {', '.join(found)}")


if __name__ == "__main__":
    main()
