#!/usr/bin/env python3
"""long_prompts.py [--kvqd PROGRAM] [--model NAME ...]: long prompts on real models through the daemon with an int4 cache, and a short
one sent meanwhile that must not wait for them.

For each model: a prompt of about so many tokens as the table says is published; a short prompt follows at once. The short one's first delta must come before the long one's, and both finals must come. A needle in the middle of the long text is asked
for, and the same is asked with an f16 cache: both answers are printed, and must be the same where the model finds the needle at all.
Runs in scripts/test --long; needs scripts/fetch-models.
"""
import argparse
import json
import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
parser.add_argument("--kvqd", default=str(HERE.parent.parent / "build" / "release" / "kvqd"))
parser.add_argument("--model", action="append", help="only models whose name contains this")
args = parser.parse_args()
os.environ["KVQD"] = os.path.abspath(args.kvqd)
os.environ.setdefault("KVQD_TEST_LIMIT_S", "1800")
sys.path.insert(0, str(HERE.parent / "daemon"))
from world import World, check, equal  # noqa: E402

MODELS = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "kvqd" / "models"

# Prompts that nearly fill the session: the text has 1.02 times the tokens, the answer 24 more.
#        file                                 prompt tokens, session_len, pool
TABLE = [("SmolLM2-135M-Instruct-Q4_1.gguf", 7900, 8192, "256M"),
         ("Qwen2.5-Coder-0.5B-Instruct.gguf", 24000, 24576, "512M")]

SENTENCES = ["The harbour was quiet in the morning and the boats lay still.", "A letter came from the city, but nobody opened it.",
             "Rain fell on the roofs until late in the afternoon.", "The old clock in the hall had stopped years ago.",
             "They walked along the river and spoke about the weather.", "In the market one could buy apples, cheese and rope."]
NEEDLE = "The secret number of the lighthouse is 7421."


def long_text(n_tokens):
    """Sentences of about 11.7 tokens each, the needle in the middle."""
    n = int(n_tokens / 11.5)
    lines = [f"{SENTENCES[i * 7 % 6]}" for i in range(n)]
    lines.insert(n // 2, NEEDLE)
    return " ".join(lines) + "\n\nWhat is the secret number of the lighthouse? Answer with the number."


def run(model, n_tokens, session_len, pool, policy, with_short):
    config = (f"[engine]\nthreads = 0\nquant_policy = {policy}\ncache_max_entry_count = {pool}\nsession_len = {session_len}\n"
              "[limits]\nmax_prompt_bytes = 1000000\n")
    with World(config, model=False) as w:
        (w.state / "models" / "model.gguf").symlink_to(MODELS / model)
        w.start()
        w.pub("prompt/long", json.dumps({"prompt": long_text(n_tokens), "max_tokens": 24, "temperature": 0}))
        if with_short:
            w.pub("prompt/short", json.dumps({"prompt": "Say hello.", "max_tokens": 8, "temperature": 0}))
            first = w.out.wait(lambda m: m.topic.endswith("/delta"), "a first delta").json()
            equal(first["id"], "short", "whose first token comes first")
            w.out.rewind()
            short = w.final("short")
            check(short["error"] is None, f"the short prompt failed: {short['error']}")
            w.out.rewind()
        final = w.final("long")
        check(final["error"] is None, f"the long prompt failed: {final['error']}")
        if with_short:
            print(f"  short prompt's first token after {short['timings']['ttft_ms']:.0f} ms, the long one's after "
                  f"{final['timings']['ttft_ms']:.0f} ms")
        return final


for model, n_tokens, session_len, pool in TABLE:
    if args.model and not any(name in model for name in args.model):
        continue
    int4 = run(model, n_tokens, session_len, pool, "4", True)
    f16 = run(model, n_tokens, session_len, "2G", "0", False)
    check(int4["usage"]["prompt_tokens"] >= n_tokens, f"the prompt has only {int4['usage']['prompt_tokens']} tokens")
    print(f"{model}: {int4['usage']['prompt_tokens']} tokens\n  int4: {int4['text']!r}\n  f16:  {f16['text']!r}")
    check(("7421" in int4["text"]) == ("7421" in f16["text"]), "int4 and f16 do not agree on the needle")
print("ok")
