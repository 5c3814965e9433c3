#!/usr/bin/env python3
"""compare_tokens.py TOKENIZE [--bytes N] [--models FOLDER] [--sdist FILE.tar.gz]: our token ids against llama.cpp's.

TOKENIZE is the built tests/live/tokenize. The same hard text (token_text.py) goes through both, once as plain text and once with
special tokens parsed, BOS and EOS as the file says:
  - the real models in --models (all *.gguf; a megabyte each),
  - the vocabulary-only files that ship in --sdist, llama-cpp-python's source archive (files for tokenizers that we refuse are
    listed as skipped, and the list must be exactly the expected one),
  - a file with made-up merges for every row of engine/pretokenizers.def. Its merges are learned from text that was never cut into
    words, so that they reach over every boundary a pre-tokenizer can draw: one boundary in another place shows in the ids.
What ends a generation is compared as well, and what each token stands for. One difference fails the run.
"""
import argparse
import ctypes
import json
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile

import llama_cpp
import numpy as np
from gguf import GGUFWriter, TokenType

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from token_text import SPECIAL, make_text  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
N_MERGES = 2500
CHUNK_BYTES = 1 << 14
REFUSED = {"ggml-vocab-bert-bge.gguf", "ggml-vocab-nomic-bert-moe.gguf"}  # WordPiece and Unigram
SILENT = llama_cpp.llama_log_callback(lambda level, text, user: None)


class Peer:
    def __init__(self, path):
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load '{path}'")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)

    def encode(self, text, special, add):
        room = (llama_cpp.llama_token * (len(text) * 3 + 16))()
        n = llama_cpp.llama_tokenize(self.vocab, text, len(text), room, len(room), add, special)
        assert n >= 0
        return np.frombuffer(room, dtype=np.int32)[:n].copy()

    def facts(self):
        """per id: (ends a generation, is control, bytes of its piece)"""
        out = []
        room = ctypes.create_string_buffer(4096)
        for i in range(llama_cpp.llama_vocab_n_tokens(self.vocab)):
            n = llama_cpp.llama_token_to_piece(self.vocab, i, room, len(room), 0, True)
            out.append((bool(llama_cpp.llama_vocab_is_eog(self.vocab, i)), bool(llama_cpp.llama_vocab_is_control(self.vocab, i)), room.raw[:n] if n >= 0 else None))
        return out

    def close(self):
        llama_cpp.llama_model_free(self.model)


def ours(tokenize, model, paths, special, add):
    command = [tokenize, str(model)] + (["--special"] if special else []) + (["--bos"] if add else []) + [str(p) for p in paths]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return [np.array(json.loads(line)["ids"], dtype=np.int32) for line in done.stdout.splitlines()]


def our_facts(tokenize, model):
    done = subprocess.run([tokenize, str(model), "--pieces"], capture_output=True, text=True, check=True)
    rows = [line.split(" ") for line in done.stdout.splitlines()]
    return [(row[1][0] == "e", row[1][1] == "c", bytes.fromhex(row[2])) for row in rows]


def show_difference(want, got, peer):
    n = min(len(want), len(got))
    differing = np.nonzero(want[:n] != got[:n])[0]
    at = int(differing[0]) if len(differing) else n
    room = ctypes.create_string_buffer(4096)

    def pieces(ids):
        return [room.raw[:max(0, llama_cpp.llama_token_to_piece(peer.vocab, int(i), room, len(room), 0, True))] for i in ids]
    print(f"    first difference at token {at}: llama.cpp {want[at:at + 8].tolist()} ours {got[at:at + 8].tolist()}")
    print(f"    before: {pieces(want[max(0, at - 4):at])}\n    llama.cpp: {pieces(want[at:at + 8])}\n    ours: {pieces(got[at:at + 8])}")


def compare(tokenize, model, paths, label, facts):
    peer = Peer(model)
    failed = 0
    for special in (False, True):
        texts = [p.read_bytes() for p in paths]
        wanted, found = [peer.encode(t, special, True) for t in texts], ours(tokenize, model, paths, special, True)
        assert len(wanted) == len(found)
        differing = [i for i, (w, f) in enumerate(zip(wanted, found)) if len(w) != len(f) or not (w == f).all()]
        failed += len(differing) > 0
        print(f"{'FAIL' if differing else 'ok  '} {label}: {sum(map(len, texts))} bytes, {sum(map(len, wanted))} tokens"
              f"{', special tokens parsed' if special else ''}", flush=True)
        if differing:
            show_difference(wanted[differing[0]], found[differing[0]], peer)
    if facts:
        want, got = peer.facts(), our_facts(tokenize, model)
        # llama.cpp writes "[UNK_BYTE_0x...]" for a normal token that its byte alphabet cannot spell; ours is the text itself
        wrong = [i for i, (w, g) in enumerate(zip(want, got)) if w[:2] != g[:2] or (w[2] != g[2] and b"[UNK_BYTE_" not in (w[2] or b""))]
        failed += len(wrong) > 0 or len(want) != len(got)
        print(f"{'FAIL' if wrong or len(want) != len(got) else 'ok  '} {label}: ends, control and pieces of {len(want)} tokens")
        for i in wrong[:5]:
            print(f"    token {i}: llama.cpp {want[i]} ours {got[i]}")
    peer.close()
    return failed


def byte_letters():
    """GPT-2's alphabet: a printable character for every byte."""
    keep = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in keep]
    return {b: chr(b) if b in keep else chr(256 + others.index(b)) for b in range(256)}


def learn_merges(text, n_merges):
    """Pairs by frequency, twenty at a time, over the whole text as one word."""
    ids = np.frombuffer(text, dtype=np.uint8).astype(np.int64)
    pieces = [bytes([b]) for b in range(256)]
    merges, seen = [], set(pieces)
    while len(merges) < n_merges:
        codes, counts = np.unique(ids[:-1] << 32 | ids[1:], return_counts=True)
        before = len(merges)
        for code in codes[np.argsort(-counts, kind="stable")]:
            left, right = int(code >> 32), int(code & 0xFFFFFFFF)
            whole = pieces[left] + pieces[right]
            if whole in seen or len(whole) > 24:
                continue
            seen.add(whole)
            merges.append((pieces[left], pieces[right]))
            pieces.append(whole)
            ids = merge_pair(ids, left, right, len(pieces) - 1)
            if len(merges) == before + 20:
                break
        assert len(merges) > before
    return merges[:n_merges]


def merge_pair(ids, left, right, whole):
    hits, last = [], -2
    for at in np.nonzero((ids[:-1] == left) & (ids[1:] == right))[0]:
        if at > last + 1:  # "aaa" holds one pair, not two
            hits.append(at)
            last = at
    ids[hits] = whole
    return np.delete(ids, [at + 1 for at in hits])


def write_made_up(path, pre, merges, letters):
    def spell(piece):
        return "".join(letters[b] for b in piece)
    plain = pre in ("gemma4", "sarvam-moe")
    if plain:
        def spell(piece):  # noqa: F811
            return piece.replace(b" ", "▁".encode()).decode()
        merges = [(a, b) for a, b in merges if is_text(a) and is_text(b) and b"\n" not in (a + b).strip(b"\n")]
        tokens = [f"<0x{b:02X}>" for b in range(256)]
        tokens += sorted({c for a, b in merges for c in (a + b).decode().replace(" ", "▁")})
    else:
        tokens = [letters[b] for b in range(256)]
    tokens += [spell(a + b) for a, b in merges]
    tokens = list(dict.fromkeys(tokens))
    n_normal = len(tokens)
    tokens += [t for t in SPECIAL if t not in set(tokens)]
    types = [int(TokenType.BYTE) if plain and i < 256 else int(TokenType.NORMAL) for i in range(n_normal)]
    types += [int(TokenType.USER_DEFINED if i % 3 == 0 else TokenType.CONTROL) for i in range(len(tokens) - n_normal)]
    w = GGUFWriter(str(path), "llama")
    w.add_tokenizer_model("gemma4" if pre == "gemma4" else "gpt2")
    w.add_tokenizer_pre(pre)
    w.add_token_list([t.encode() for t in tokens])
    w.add_token_types(types)
    w.add_token_merges([f"{spell(a)} {spell(b)}" for a, b in merges])
    w.add_bos_token_id(n_normal)
    w.add_eos_token_id(n_normal + 1)
    w.add_add_eos_token(True)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def write_texts(folder, name, n_bytes):
    """In pieces: llama.cpp's time grows with the square of the number of special tokens in a text."""
    paths = []
    for i in range((n_bytes + CHUNK_BYTES - 1) // CHUNK_BYTES):
        paths.append(pathlib.Path(folder) / f"{name}{i}.txt")
        paths[-1].write_bytes(make_text(CHUNK_BYTES, f"{name} {i}"))
    return paths


def unpack_vocabularies(sdist, folder):
    paths = []
    with tarfile.open(sdist) as archive:
        for member in archive:
            name = pathlib.PurePosixPath(member.name).name
            if member.isfile() and name.startswith("ggml-vocab-") and name.endswith(".gguf"):
                paths.append(pathlib.Path(folder) / name)
                paths[-1].write_bytes(archive.extractfile(member).read())
    return sorted(paths)


def is_text(piece):
    try:
        piece.decode()
        return True
    except UnicodeDecodeError:
        return False


def row_names():
    table = (ROOT / "engine/pretokenizers.def").read_text()
    return re.findall(r'^NAME\("([^"]+)"', table, re.M)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tokenize")
    parser.add_argument("--bytes", type=int, default=1 << 20)
    parser.add_argument("--row-bytes", type=int, default=150_000)
    parser.add_argument("--models", type=pathlib.Path)
    parser.add_argument("--sdist", type=pathlib.Path)
    parser.add_argument("--rows", default="", help="only these rows, separated by commas")
    a = parser.parse_args()
    llama_cpp.llama_log_set(SILENT, None)
    failed, compared = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        made_up = pathlib.Path(folder) / "made-up.gguf"
        long_paths, short_paths = write_texts(folder, "long", a.bytes), write_texts(folder, "short", a.row_bytes)
        for model in sorted(a.models.glob("*.gguf")) if a.models else []:
            failed += compare(a.tokenize, model, long_paths, model.name, True)
            compared += 1
        skipped = set()
        for model in unpack_vocabularies(a.sdist, folder) if a.sdist else []:
            try:
                ours(a.tokenize, model, ["/dev/null"], False, False)
            except RuntimeError as e:
                print(f"skip {model.name}: {e}")
                skipped.add(model.name)
                continue
            failed += compare(a.tokenize, model, long_paths, model.name, True)
            compared += 1
        if a.sdist and skipped != REFUSED:
            print(f"FAIL skipped {sorted(skipped)}, expected {sorted(REFUSED)}")
            failed += 1
        merges, letters = learn_merges(make_text(120_000, 3), N_MERGES), byte_letters()
        for pre in [n for n in row_names() if not a.rows or n in a.rows.split(",")]:
            write_made_up(made_up, pre, merges, letters)
            failed += compare(a.tokenize, made_up, short_paths, f"row '{pre}'", True)
            compared += 1
    print(f"{compared} vocabularies compared, {failed} differences")
    return 1 if failed or not compared else 0


if __name__ == "__main__":
    sys.exit(main())
