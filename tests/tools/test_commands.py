#!/usr/bin/env python3
"""test_commands.py KVQCTL MAKE_TINY_MODELS: kvqctl's commands at work on tiny random-weight models, as a person or a program sees
them: what is on stdout and on stderr, the JSON's shape, exit codes. Needs nothing but Python; reads the .npy with NumPy, too, where
there is one.
"""
import base64
import json
import math
import os
import pathlib
import platform
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

KVQCTL, MAKE = sys.argv[1:3]
GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden" / "tiny_logits.json"
FOLDER = tempfile.TemporaryDirectory(prefix="kvqctl_test_")
VOCABULARY = 260
BEGIN = 257


def path(name):
    return os.path.join(FOLDER.name, name)


MODEL = path("llama.gguf")
MODELS = [path(f"{name}.gguf") for name in ("llama", "qwen2", "gemma3", "qwen3")]
POOL = ["--cache", "400", "-t", "1"]


def run(*arguments, **options):
    return subprocess.run([KVQCTL, *map(str, arguments)], capture_output=True, timeout=120, **options)


def write(name, data):
    pathlib.Path(path(name)).write_bytes(data)
    return path(name)


def read_npy(name):
    """Rows of a float32 matrix, by the format's own description."""
    data = pathlib.Path(name).read_bytes()
    assert data[:8] == b"\x93NUMPY\x01\x00", data[:8]
    (n_header,) = struct.unpack("<H", data[8:10])
    assert (10 + n_header) % 64 == 0 and data[9 + n_header:10 + n_header] == b"\n"
    header = data[10:10 + n_header].decode()
    rows, columns = map(int, re.search(r"'shape': \((\d+), (\d+)\)", header).groups())
    assert "'descr': '<f4'" in header and "'fortran_order': False" in header
    values = struct.unpack(f"<{rows * columns}f", data[10 + n_header:])
    return [values[r * columns:(r + 1) * columns] for r in range(rows)]


def log_softmax(row):
    log_sum = math.log(sum(map(math.exp, row)))
    return [x - log_sum for x in row]


class Run(unittest.TestCase):
    def test_text_goes_to_stdout_and_figures_to_stderr(self):
        done = run("run", "-m", MODEL, "-p", "Hello", "-n", 20, "--seed", 1, *POOL)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertGreater(len(done.stdout), 0)
        done.stdout.decode()  # whole characters
        self.assertRegex(done.stderr.decode(), r"^prompt \d+ tokens, .* answer 20 tokens, .* length; seed 1; kv 8, [\d.]+ KiB\n$")

    def test_the_same_seed_gives_the_same_text(self):
        for kv in "0", "8", "4":
            texts = [run("run", "-m", MODEL, "-p", "Hello", "-n", 30, "--seed", 7, "--kv", kv, "-q", *POOL) for _ in range(2)]
            self.assertEqual(texts[0].stdout, texts[1].stdout)
            self.assertEqual(texts[0].stderr, b"")
        other = run("run", "-m", MODEL, "-p", "Hello", "-n", 30, "--seed", 8, "-q", *POOL)
        self.assertNotEqual(other.stdout, texts[0].stdout)

    def test_every_option_of_the_drawing_reaches_it(self):
        """Each alone forces what is drawn, so that an option which is dropped, or taken for another, shows."""
        def text(*options):
            done = run("run", "-m", MODEL, "-p", "Hello", "--raw", "-n", 40, "-q", *options, *POOL)
            self.assertEqual(done.returncode, 0, done.stderr)
            return done.stdout.decode()

        likeliest = text("--temp", 0)
        drawn = ["--temp", 1, "--top-k", 0, "--seed", 1]
        self.assertEqual(text("--temp", 0, "--seed", 2), likeliest)
        self.assertNotEqual(text(*drawn), likeliest)
        for only_the_likeliest in ["--top-k", 1], ["--top-p", "1e-6"], ["--min-p", 1]:
            self.assertEqual(text(*drawn, *only_the_likeliest), likeliest, only_the_likeliest)
        # What was seen has its logit multiplied by 100; an answer then has no other letters than its prompt.
        self.assertLessEqual(set(text("--temp", 0, "--repetition-penalty", "0.01")), set("Hello"))
        # Two nats more for each time a token was said make the first one win for good; two nats once do not.
        self.assertEqual(len(set(text("--temp", 0, "--frequency-penalty", -2))), 1)
        favoured = text("--temp", 0, "--presence-penalty", -2)
        self.assertNotEqual(favoured, likeliest)
        self.assertGreater(len(set(favoured)), 1)

    def test_the_prompt_comes_from_a_file_or_a_pipe_too(self):
        common = ["-n", 10, "--seed", 1, "-q", *POOL]
        spoken = run("run", "-m", MODEL, "-p", "Hello", *common).stdout
        self.assertEqual(run("run", "-m", MODEL, "-f", write("prompt", b"Hello"), *common).stdout, spoken)
        self.assertEqual(run("run", "-m", MODEL, "-f", "-", *common, input=b"Hello").stdout, spoken)
        self.assertEqual(run("run", "-m", MODEL, *common, input=b"Hello").stdout, spoken)
        self.assertNotEqual(run("run", "-m", MODEL, "-p", "Hello", "--raw", *common).stdout, spoken)
        self.assertNotEqual(run("run", "-m", MODEL, "-p", "Hello", "--system", "Be short.", *common).stdout, spoken)

    def test_a_stop_string_ends_the_text(self):
        whole = run("run", "-m", MODEL, "-p", "x", "-n", 60, "--seed", 3, "-q", *POOL).stdout.decode()
        stop = whole[len(whole) // 2:][:2]
        cut = run("run", "-m", MODEL, "-p", "x", "-n", 60, "--seed", 3, "-q", "--stop", stop, *POOL).stdout.decode()
        self.assertEqual(cut, whole[:whole.index(stop)])

    def test_ctrl_c_ends_the_answer_and_keeps_what_was_said(self):
        process = subprocess.Popen([KVQCTL, "run", "-m", MODEL, "-p", "x", "-n", "0", "--seed", "1", "--session-len", "2048",
                                    "--kv", "0", "--isa", "ref", *POOL], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        first = process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        rest, figures = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130, figures)
        self.assertEqual(len(first), 1)
        self.assertIn(b"cancelled", figures)
        self.assertLess(len(rest), 2048)

    def test_errors_are_one_line_and_an_exit_code(self):
        foreign = "avx2" if platform.machine() == "aarch64" else "neon"
        cases = [
            (2, ["run", "-m", MODEL, "-p", "x", "--kv", "5"], "'5' is no value for '--kv POLICY'"),
            (2, ["run", "-p", "x"], "'-m, --model FILE' is missing."),
            (2, ["run", "-m", MODEL, "-p", "x", "-f", "y"], "are both given"),
            (2, ["rnu"], "did you mean 'run'?"),
            (1, ["run", "-m", "/nowhere.gguf", "-p", "x"], "'/nowhere.gguf'"),
            (1, ["run", "-m", __file__, "-p", "x"], "test_commands.py"),
            (1, ["run", "-m", MODEL, "-f", "/nowhere.txt"], "Cannot open '/nowhere.txt': No such file or directory."),
            (1, ["run", "-m", MODEL, "-p", "x" * 3000, "--session-len", "256", *POOL], "256"),
            (2, ["run", "-m", MODEL, "-p", "x", "--isa", "mmx", *POOL], "'mmx' is no value for '--isa NAME'"),
            (1, ["run", "-m", MODEL, "-p", "x", "--isa", foreign, *POOL], f"'{foreign}'"),
            (2, ["run", "-m", MODEL, "-f", write("nul", b"a\0b"), *POOL], "NUL byte at offset 1"),
            (2, ["ask", "--broker", "mqtt://127.0.0.1:1", "-f", write("nul", b"a\0b")], "NUL byte at offset 1"),
            (1, ["run", "-m", MODEL, "-p", "x", "--backend", "cuda"], "backend 'cuda' is asked for: "),
            (1, ["show", MODEL, "--backend", "cuda"], "backend 'cuda' is asked for: "),
            (1, ["show", MODEL, "--backend", "cuda", "-o", "json"], "backend 'cuda' is asked for: "),
            (1, ["run", "-m", MODEL, "-p", "x", "--cache", "2", "--session-len", "1024"], "cache_max_entry_count"),
        ]
        for code, arguments, text in cases:
            done = run(*arguments, stdin=subprocess.DEVNULL, env={**os.environ, "KVQ_CUDA_PLUGIN": "/nowhere/libkvq-cuda.so"})
            lines = done.stderr.decode().splitlines()
            self.assertEqual(len(lines), 1, (arguments, lines))
            self.assertTrue(lines[0].startswith("kvqctl: "), lines[0])
            self.assertIn(text, lines[0])
            self.assertEqual((done.returncode, done.stdout), (code, b""), arguments)

    def test_the_ends_of_every_range_are_admitted_by_the_engine_too(self):
        """What kvqctl says is allowed, from its own help, is refused neither by kvqctl nor by the engine behind it."""
        ranges = re.findall(r"--([\w-]+) [XPNT] .*\((above )?(-?\d+)(?: to|, up to) (-?\d+)(?:; default .*)?\)$",
                            run("run", "--help").stdout.decode(), re.M)
        self.assertEqual([name for name, *_ in ranges if name not in ("tokens", "device", "threads")],
                         ["temp", "top-k", "top-p", "min-p", "repetition-penalty", "presence-penalty", "frequency-penalty"])
        common = ["run", "-m", MODEL, "-p", "x", "-n", 1, "-q", *POOL]
        for name, above, low, high in ranges:
            if name in ("tokens", "device", "threads"):  # of the machine and the context, not of the choice of tokens
                continue
            for value in "1e-45" if above else low, high:
                done = run(*common, f"--{name}={value}")
                self.assertEqual((done.returncode, done.stderr), (0, b""), (name, value))
            if above:
                done = run(*common, f"--{name}={low}")
                self.assertEqual(done.returncode, 2)
                self.assertIn(f"'{low}' is no value for '--{name} ", done.stderr.decode())

    def test_an_answer_that_cannot_be_written_is_an_error(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([KVQCTL, "run", "-m", MODEL, "-p", "x", *POOL], stdout=full, stderr=subprocess.PIPE, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"Cannot write the answer: No space left on device.", done.stderr)


class Tokenize(unittest.TestCase):
    def ids(self, data, *more):
        done = run("tokenize", "-m", MODEL, "-f", write("text", data), "-o", "json", *more)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)["ids"]

    def test_any_bytes_become_ids(self):
        self.assertEqual(self.ids(b"abc"), [97, 98, 99])
        self.assertEqual(self.ids(b"this"), [256, 105, 115])  # "th" is the one merge
        self.assertEqual(self.ids(b""), [])
        self.assertEqual(self.ids("é".encode()), [0xC3, 0xA9])
        self.assertEqual(self.ids(b"a\0b"), [97, 0, 98])

    def test_control_tokens_are_text_unless_asked_for(self):
        self.assertEqual(self.ids(b"<bos>", "--special"), [BEGIN])
        self.assertEqual(self.ids(b"<bos>"), list(b"<bos>"))

    def test_the_backend_makes_no_difference(self):
        """Every command with a model takes --backend, so that a script may give it to all; no GPU is needed here."""
        for backend in "auto", "cpu", "cuda":
            self.assertEqual(self.ids(b"abc", "--backend", backend), [97, 98, 99])

    def test_lines(self):
        done = run("tokenize", "-m", MODEL, "-f", "-", "-o", "lines", input=b"ab")
        self.assertEqual(done.stdout, b"97\n98\n")


class Logits(unittest.TestCase):
    def test_they_are_llama_cpps_for_every_architecture(self):
        """Mean KL divergence from llama.cpp's run of the F32 copies: rounding of products and of the f16 cache, no more."""
        golden = json.loads(GOLDEN.read_text())
        text = write("text", golden["text"].encode())
        self.assertEqual(Tokenize.ids(self, golden["text"].encode()), golden["ids"])
        refused = run("show", write_vocabulary_only(architecture=b"none")).stdout.decode()
        known = re.search(r"architecture 'none' is not supported \((.*)\)", refused).group(1).split(", ")
        self.assertEqual(sorted(golden["models"]), sorted(known))
        for model, expected in golden["models"].items():
            values = struct.unpack(f"<{golden['positions'] * VOCABULARY}f", base64.b64decode(expected["logits"]))
            truth = [log_softmax(values[i:i + VOCABULARY]) for i in range(0, len(values), VOCABULARY)]
            for isa in "ref", "auto":
                done = run("logits", "-m", path(f"{model}.gguf"), "-f", text, "--kv", 0, "--isa", isa, "-o", path("l.npy"), *POOL)
                self.assertEqual(done.returncode, 0, done.stderr)
                ours = [log_softmax(row) for row in read_npy(path("l.npy"))[-len(truth):]]
                kld = sum(math.exp(a) * (a - b) for p, q in zip(truth, ours) for a, b in zip(p, q)) / len(truth)
                self.assertLess(kld, 2 * expected["llama_kld"] + 1e-4, (model, isa))

    def test_a_row_for_each_token(self):
        text = write("text", b"It was the best of times, it was the worst of times.")
        ids = Tokenize.ids(self, pathlib.Path(text).read_bytes(), "--bos")
        for model in MODELS:
            done = run("logits", "-m", model, "-f", text, "--kv", 0, "-o", path("l.npy"), *POOL)
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"", b""))
            rows = read_npy(path("l.npy"))
            self.assertEqual(len(rows), len(ids))
            self.assertEqual({len(row) for row in rows}, {VOCABULARY})
            self.assertGreater(max(rows[-1]) - min(rows[-1]), 1)
            try:
                import numpy
            except ImportError:
                continue
            read = numpy.load(path("l.npy"))
            self.assertEqual((read.shape, read.dtype), ((len(ids), VOCABULARY), numpy.float32))
            self.assertEqual(read[-1].tolist(), list(rows[-1]))

    def test_a_file_that_cannot_be_is_no_file(self):
        done = run("logits", "-m", MODEL, "-f", write("empty", b""), "-o", path("none.npy"), *POOL)
        self.assertEqual(done.returncode, 2)
        self.assertFalse(os.path.exists(path("none.npy")))
        done = run("logits", "-m", MODEL, "-f", write("text", b"abc"), "-o", "/nowhere/x.npy", *POOL)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"Cannot write '/nowhere/x.npy': No such file or directory.", done.stderr)


class Bench(unittest.TestCase):
    def test_json_has_the_shape_that_others_rely_on(self):
        done = run("bench", "-m", MODEL, "-p", 40, "-n", 6, "-d", "0,50", "-b", "1,3", "--kv", "0,4,lmdeploy8", "-r", 3, "-o", "json", *POOL)
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        result = json.loads(done.stdout)
        self.assertEqual(result["model"], "llama")
        self.assertEqual(result["machine"]["threads"], 1)
        self.assertEqual(result["machine"]["backend"], "cpu")
        got = [(r["test"], r["kv"], r["tokens"], r["depth"], r["batch"]) for r in result["runs"]]
        expected = [row for kv in (0, 4, "lmdeploy8") for row in
                    [("prefill", kv, 40, 0, 1), ("decode", kv, 6, 0, 1), ("decode", kv, 6, 50, 1), ("batch", kv, 46, 0, 1),
                     ("batch", kv, 138, 0, 3)]]
        self.assertEqual(got, expected)
        for r in result["runs"]:
            speed = r["tokens_per_s"]
            self.assertTrue(0 < speed["min"] <= speed["median"] <= speed["max"], r)

    def test_zero_leaves_a_test_out(self):
        for arguments, tests in [(["-p", 0, "-b", 0], {"decode"}), (["-n", 0, "-b", 0], {"prefill"}), (["-n", 0], {"prefill", "batch"})]:
            done = run("bench", "-m", MODEL, "-p", 20, "-n", 3, "-d", 0, "-b", 2, *arguments, "--kv", 8, "-r", 1, "-o", "json", *POOL)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual({r["test"] for r in json.loads(done.stdout)["runs"]}, tests)

    def test_the_table_has_a_line_for_each_test(self):
        done = run("bench", "-m", MODEL, "-p", 20, "-n", 3, "-d", 0, "-b", 2, "--kv", 8, "-r", 1, *POOL)
        self.assertEqual([line.split()[0] for line in done.stdout.decode().splitlines()[1:]], ["test", "prefill", "decode", "batch"])

    def test_a_depth_beyond_the_model_is_an_error(self):
        done = run("bench", "-m", MODEL, "-d", 5000, "--kv", 8, *POOL)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(b"2048", done.stderr)


class Eval(unittest.TestCase):
    TEXT = b"The age of wisdom, the age of foolishness: 1234567890. " * 20

    def test_json_has_the_shape_that_others_rely_on(self):
        for model in MODELS:
            done = run("eval", "-m", model, "-f", write("text", self.TEXT), "-c", 512, "--chunks", 2, "--kv", "0,8,4,lmdeploy4", "-o",
                       "json", *POOL)
            self.assertEqual((done.returncode, done.stderr), (0, b""))
            rows = json.loads(done.stdout)["kv"]
            self.assertEqual([r["policy"] for r in rows], [0, 8, 4, "lmdeploy4"])
            truth, eight, four, lmdeploy4 = rows
            self.assertEqual((truth["mean_kld"], truth["same_top"], truth["bits_per_value"]), (0, 1, 16))
            self.assertTrue(0 < eight["mean_kld"] < four["mean_kld"] < lmdeploy4["mean_kld"], rows)
            self.assertTrue(8 < eight["bits_per_value"] < 9 and 4 < four["bits_per_value"] < 6.1, rows)
            for r in rows:
                self.assertTrue(1 < r["ppl"] < 1e6 and 0 < r["same_top"] <= 1, r)

    def test_perplexity_and_divergence_are_those_of_the_logits(self):
        """From the .npy files of `kvqctl logits`, by the definitions."""
        text = write("text", self.TEXT[:96])
        ids = Tokenize.ids(self, self.TEXT[:96])
        c = len(ids)
        done = run("eval", "-m", MODEL, "-f", text, "-c", c, "--kv", "0,4", "-o", "json", *POOL)
        truth, four = json.loads(done.stdout)["kv"]
        rows = []
        for kv in "0", "4":
            self.assertEqual(run("logits", "-m", MODEL, "-f", text, "--kv", kv, "-o", path("l.npy"), *POOL).returncode, 0)
            rows.append([log_softmax(row) for row in read_npy(path("l.npy"))])
        scored = range(c // 2, c - 1)
        self.assertEqual(len(rows[0]), c)  # this model's file asks for no begin-of-text
        for row, result in zip(rows, (truth, four)):
            nll = sum(-row[i][ids[i + 1]] for i in scored) / len(scored)
            self.assertAlmostEqual(result["ppl"], math.exp(nll), delta=1e-4 * result["ppl"])
        p, q = rows
        kld = sum(math.exp(a) * (a - b) for i in scored for a, b in zip(p[i], q[i])) / len(scored)
        top = sum(p[i].index(max(p[i])) == q[i].index(max(q[i])) for i in scored) / len(scored)
        self.assertAlmostEqual(four["mean_kld"], kld, delta=1e-5 + 1e-3 * kld)
        self.assertAlmostEqual(four["same_top"], top, places=6)

    def test_a_text_shorter_than_a_chunk_is_an_error(self):
        done = run("eval", "-m", MODEL, "-f", write("text", b"short"), *POOL)
        self.assertEqual(done.returncode, 2)
        self.assertIn(b"has 5 tokens, fewer than the 1024 of one chunk", done.stderr)

    def test_the_table(self):
        done = run("eval", "-m", MODEL, "-f", write("text", self.TEXT), "-c", 128, "--chunks", 1, "--kv", "8", *POOL)
        self.assertEqual([line.split()[0] for line in done.stdout.decode().splitlines()[1:]], ["kv", "8"])


class Show(unittest.TestCase):
    def test_the_table_tells_metadata_formats_and_plans(self):
        done = run("show", MODEL, "--cache", "400")
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        text = done.stdout.decode()
        self.assertRegex(text, r"llama\.context_length +2048\n")
        self.assertRegex(text, r"tokenizer\.ggml\.tokens +\[260 text\]\n")
        self.assertRegex(text, r"blk\.\*\.attn_q\.weight +Q8_0 +2 +128 x 64 ")
        self.assertRegex(text, r"\n  4 +[\d.]+ +\d+ +\d+  ")

    def test_json_plans_say_what_fits(self):
        for model in MODELS:
            done = run("show", model, "--cache", "400", "-o", "json")
            result = json.loads(done.stdout)
            self.assertEqual(result["metadata"]["general.name"], os.path.basename(model)[:-5])
            plans = {p["policy"]: p for p in result["plans"]}
            self.assertEqual(list(plans), [0, 8, 4])
            self.assertEqual([p["hard_layers"] for p in plans.values()], [0, 0, int("qwen2" in model)])
            for p in plans.values():
                self.assertLessEqual(abs(p["pool_bytes"] - plans[0]["pool_bytes"]), p["block_bytes"])  # the policy only re-cuts it
                self.assertEqual([c["tokens_a_sequence"] for c in p["capacity"]][:2], [128, 512])
            whole = [plans[kv]["capacity"][2]["tokens"] for kv in (0, 8, 4)]
            self.assertTrue(whole[0] < whole[1] < whole[2], whole)

    def test_json_of_a_file_whose_name_is_no_text_lacks_it(self):
        name = write("\udcff.gguf", pathlib.Path(MODEL).read_bytes())
        result = json.loads(run("show", name, "--cache", "400", "-o", "json").stdout)
        self.assertNotIn("path", result)
        self.assertEqual(len(result["plans"]), 3)

    def test_a_file_without_weights_is_shown_with_the_reason(self):
        done = run("show", write_vocabulary_only())
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("No plan for policy 0: ", done.stdout.decode())

    def test_text_of_the_file_cannot_drive_the_terminal(self):
        done = run("show", write_vocabulary_only(name=b"evil \x1b[31m\x07 name"))
        self.assertNotIn(b"\x1b", done.stdout)
        self.assertIn(b"evil  [31m  name", done.stdout)

    def test_no_gguf(self):
        done = run("show", __file__)
        self.assertEqual(done.returncode, 1)


def write_vocabulary_only(name=b"words", architecture=b"llama"):
    def text(value):
        return struct.pack("<Q", len(value)) + value

    keys = [(b"general.architecture", 8, text(architecture)), (b"general.name", 8, text(name)),
            (b"tokenizer.ggml.model", 8, text(b"gpt2")), (b"tokenizer.ggml.pre", 8, text(b"gpt-2")),
            (b"tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 3) + text(b"a") + text(b"b") + text(b"ab")),
            (b"tokenizer.ggml.merges", 9, struct.pack("<IQ", 8, 1) + text(b"a b"))]
    data = b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys)) + b"".join(text(k) + struct.pack("<I", t) + v for k, t, v in keys)
    return write("vocabulary.gguf", data)


class VocabularyOnly(unittest.TestCase):
    def test_tokenize_needs_no_weights(self):
        done = run("tokenize", "-m", write_vocabulary_only(), "-f", write("text", b"abba"), "-o", "json")
        self.assertEqual(json.loads(done.stdout), {"ids": [2, 1, 0]})


class Help(unittest.TestCase):
    def test_every_command_has_help(self):
        usage = run("--help").stdout.decode()
        commands = re.findall(r"^  (\w+) ", usage, re.M)
        self.assertGreaterEqual(len(commands), 6)
        for command in commands:
            done = run(command, "--help")
            self.assertEqual((done.returncode, done.stderr), (0, b""))
            self.assertTrue(done.stdout.decode().startswith(f"Usage: kvqctl {command}"))
            self.assertEqual(run("help", command).stdout, done.stdout)
        self.assertEqual(run().returncode, 2)
        self.assertRegex(run("--version").stdout.decode(), r"^kvqctl \d+\.\d+\.\d+\n$")


class Progress(unittest.TestCase):
    def test_a_bar_on_a_terminal_and_none_in_a_pipe(self):
        arguments = [KVQCTL, "bench", "-m", MODEL, "-p", "1500", "-n", "400", "-d", "0", "-b", "0", "--kv", "0", "-r", "40", "--isa",
                     "ref", "-t", "1"]
        master, slave = pty.openpty()
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=slave)
        os.close(slave)
        drawn, begin = b"", time.monotonic()
        while b"%" not in drawn and time.monotonic() - begin < 60:
            try:
                drawn += os.read(master, 4096)
            except OSError:  # the other side is closed
                break
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=60), 130)
        os.close(master)
        self.assertRegex(drawn.decode(), r"\r0 \[#*\.*\] +\d+ %")
        self.assertGreater(time.monotonic() - begin, 0.9)  # not in the first second


if __name__ == "__main__":
    subprocess.run([MAKE, FOLDER.name], check=True)
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
