#!/usr/bin/env python3
"""eval_text.py: the running text of all comparisons, into the cache; prints its path.

Debian's fortunes: literature, computers and science concatenated, lines "%" removed, the first 90,000 bytes (as UTF-8 text: a
character cut at the end is dropped). Taken from the installed packages, or unpacked from the downloaded ones (nothing of them is
run or installed). Called by compare_logits.py, compare_kv.py, make_golden.py and people.
"""
import hashlib
import pathlib
import subprocess
import sys
import tempfile

FILES = ["literature", "computers", "science"]
PACKAGES = ["fortunes-min", "fortunes"]
INSTALLED = pathlib.Path("/usr/share/games/fortunes")
TEXT_BYTES = 90_000
SHA256 = "2294220280cedca1955930e2ce0f6de276a769623d4bd80fd39f77fc3173f170"


def unpack_packages(folder):
    subprocess.run(["apt-get", "download", "-qq", *PACKAGES], cwd=folder, check=True, stdin=subprocess.DEVNULL)
    for package in pathlib.Path(folder).glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(package), folder], check=True, stdin=subprocess.DEVNULL)
    return pathlib.Path(folder) / INSTALLED.relative_to("/")


def read_fortunes(folder):
    lines = [line for name in FILES for line in (folder / name).read_bytes().splitlines(keepends=True)]
    return b"".join(line for line in lines if line.rstrip(b"\n") != b"%")


def eval_text():
    from peer import cache_folder
    path = cache_folder() / "eval.txt"
    if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == SHA256:
        return path
    if all((INSTALLED / name).exists() for name in FILES):
        text = read_fortunes(INSTALLED)
    else:
        with tempfile.TemporaryDirectory(prefix="fortunes-") as folder:
            text = read_fortunes(unpack_packages(folder))
    path.write_bytes(text[:TEXT_BYTES].decode(errors="ignore").encode())
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        print(f"eval_text: another release of the fortunes than Debian 12's (sha256 {found}): figures differ a little",
              file=sys.stderr)
    return path


if __name__ == "__main__":
    print(eval_text())
