#!/usr/bin/env python3
"""make_token_golden.py [--check] MODELS_FOLDER: writes tests/golden/tokens.json, llama.cpp's ids of hard text for check_tokens.py.
--check: exit 1 if the file would change.

Run by people, inside the environment of scripts/setup-peer, when tests/live/token_text.py or the peer's version changes. Per real model:
the ids of a short text, which the file carries, with and without special tokens parsed; and the digest of the ids of a long one,
which check_tokens.py makes anew (in pieces: llama.cpp's time grows with the square of the special tokens in a text).
"""
import base64
import hashlib
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "live"))
import llama_cpp  # noqa: E402
from check_tokens import LONG_BYTES, MODES, digest, long_texts  # noqa: E402
from compare_tokens import SILENT, Peer  # noqa: E402
from token_text import make_short_text  # noqa: E402


def main():
    llama_cpp.llama_log_set(SILENT, None)
    short = make_short_text("golden")
    longs = long_texts()
    golden = {"llama_cpp_python": llama_cpp.__version__, "short": base64.b64encode(short).decode(),
              "long_sha256": hashlib.sha256(b"".join(longs)).hexdigest(), "models": {}}
    for path in sorted(pathlib.Path(sys.argv[-1]).glob("*.gguf")):
        peer = Peer(path)
        golden["models"][path.name] = {
            mode: {"short": peer.encode(short, special, True).tolist(), "long": digest([peer.encode(t, special, True).tolist() for t in longs])}
            for mode, special in MODES.items()}
        peer.close()
        print(f"{path.name}: {len(short)} and {LONG_BYTES} bytes")
    path = HERE / "tokens.json"
    text = json.dumps(golden, separators=(",", ":")).replace('"models"', '\n"models"').replace('"plain"', '\n"plain"').replace('"special"', '\n"special"') + "\n"
    if "--check" not in sys.argv:
        path.write_text(text)
    elif path.read_text() != text:
        sys.exit(f"differs: {path}")


if __name__ == "__main__":
    main()
