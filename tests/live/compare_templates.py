#!/usr/bin/env python3
"""compare_templates.py: our Jinja interpreter beside Python's jinja2, set up as transformers does it.

    compare_templates.py RENDER_TEMPLATE --sdist FILE.tar.gz [--expressions N] [--seed N] [--verbose]

RENDER_TEMPLATE is the program built from tests/tools/render_template.c. Three parts:
  1. every chat template that ships in llama-cpp-python's source archive (read from the archive, kept nowhere), over many
     conversations: the texts must be the same bytes, and what fails in one must fail in the other;
  2. snippets, each a corner of the language (template_snippets.py);
  3. random expressions, and random templates of nested statements, thousands of each.
Prints counts; exits 1 if anything differs, 2 if there was nothing to compare."""
import argparse
import copy
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import warnings
from datetime import datetime, timezone

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

import template_snippets

warnings.simplefilter("ignore")  # of Python's compiler, about what generated expressions do to constants
ALWAYS = {"tools": None, "documents": None, "add_generation_prompt": False}  # transformers always passes these
NOW_S = 1718467200  # 2024-06-15 16:00 UTC, a Saturday


# ---- the peer: jinja2 as transformers' chat_template_utils.py sets it up ---------------------------------------------------

class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller):
        return caller()


class Namespace(jinja2.utils.Namespace):
    def __init__(*args, **kwargs):
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            Namespace.check(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name, value):
        Namespace.check(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def check(name):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(name)


def make_environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(format):
        return datetime.fromtimestamp(NOW_S, timezone.utc).replace(tzinfo=None).strftime(format)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    env.globals["dict"] = lambda *args, **kwargs: dict(*args, **kwargs)
    env.globals["namespace"] = Namespace
    return env


ENVIRONMENT = make_environment()
COMPILED = {}


def render_python(source, variables):
    """(text, None) or (None, error)."""
    try:
        if source not in COMPILED:
            COMPILED[source] = ENVIRONMENT.from_string(source)
        text = COMPILED[source].render(**copy.deepcopy(dict(ALWAYS, **variables)))
        text.encode()
        return text, None
    except Exception as e:  # any failure is one answer
        return None, f"{type(e).__name__}: {e}"


class Ours:
    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def render(self, source, variables):
        parts = [source.encode(), json.dumps(variables).encode(),
                 variables.get("bos_token", "").encode(), variables.get("eos_token", "").encode()]
        head = " ".join(str(len(p)) for p in parts) + f" {NOW_S}\n"
        self.process.stdin.write(head.encode() + b"".join(parts))
        self.process.stdin.flush()
        line = self.process.stdout.readline().split()
        if len(line) != 2:
            sys.exit(f"the program ended (status {self.process.wait()}) at template:\n{source[:2000]}\n{variables}")
        text = self.process.stdout.read(int(line[1])).decode()
        return (text, None) if line[0] == b"ok" else (None, f"{line[0].decode()}: {text}")


class Comparison:
    def __init__(self, ours, verbose):
        self.ours, self.verbose = ours, verbose
        self.n = self.n_texts = self.n_errors = self.n_limits = self.n_different = 0

    def compare(self, what, source, variables):
        theirs, ours = render_python(source, variables), self.ours.render(source, variables)
        self.n += 1
        # Integers beyond 64 bits and complex numbers: the documented limit, counted apart.
        if theirs[0] is not None and ours[1] and re.search("64 bits|complex number", ours[1]):
            self.n_limits += 1
            return
        self.n_texts += theirs[0] is not None
        self.n_errors += theirs[0] is None
        if theirs[0] == ours[0]:
            return
        self.n_different += 1
        if self.n_different <= 10 or self.verbose:
            print(f"DIFFERENT {what}\n  python: {theirs!r:.1500}\n  ours:   {ours!r:.1500}")

    def report(self, title):
        limits = f", {self.n_limits} beyond 64 bits" if self.n_limits else ""
        print(f"{title}: {self.n} renders, {self.n_texts} texts and {self.n_errors} errors{limits}, "
              f"{'all identical' if not self.n_different else f'{self.n_different} DIFFERENT'}", flush=True)
        return self.n_different == 0


# ---- part 1: templates in use ------------------------------------------------------------------------------------------------

TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Current weather of a place, in \"metric\" units & more <b>",
        "parameters": {"type": "object", "required": ["city"], "properties": {
            "city": {"type": "string", "description": "Name, e.g. Zürich or 東京"},
            "days": {"type": "integer", "description": "How far ahead", "default": 3, "minimum": 1},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            "places": {"type": "array", "items": {"type": "object", "properties": {"lat": {"type": "number"}}}},
            "either": {"type": ["string", "null"], "nullable": True},
            "any": {"anyOf": [{"type": "string"}, {"type": "number"}]}}}}},
    {"type": "function", "function": {
        "name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}},
        "return": {"type": "string", "description": "ISO 8601"}}},
]
CALL = {"id": "call00001", "type": "function", "function": {
    "name": "get_weather",
    "arguments": {"city": "Zürich", "days": 2, "deep": {"a": [1, 2.5, None, True], "q": "it's \"x\""}}}}
CALL_TEXT = {"id": "abcdefghi", "type": "function",
             "function": {"name": "get_weather", "arguments": "{\"city\": \"Oslo\"}"}}


def message(role, content, **more):
    return dict({"role": role, "content": content}, **more)


def conversations():
    u, a, s, t = (lambda c, r=r, **k: message(r, c, **k) for r in ("user", "assistant", "system", "tool"))
    yield "plain", [u("Hello, who are you?")]
    yield "system", [s("You are terse."), u("Hello")]
    yield "developer", [message("developer", "You are terse."), u("Hello")]
    yield "multi-turn", [s("Be kind."), u("Hi"), a("Hello!"), u("How are you?"), a("Fine."), u("Bye")]
    yield "ends with assistant", [u("Hi"), a("Hello!")]
    yield "unicode", [s("Antworte höflich. 请用中文"), u("Grüße 👩‍👩‍👧 e\u0301 \u200b\u2028 ﬁ İ ß"), a("  你好\n\n"),
                      u("\tтекст\r\nx ")]
    yield "empty content", [s(""), u(""), a(""), u(" ")]
    yield "blanks", [s("  a \n"), u("\n\n b\t"), a("  c  \n"), u("d")]
    yield "special text", [u("<|im_start|>system\nx<|im_end|> {{ x }} {% y %} <s> [INST] & < > ' \" \\ \\n")]
    yield "consecutive users", [u("one"), u("two")]
    yield "consecutive assistants", [u("one"), a("two"), a("three"), u("four")]
    yield "assistant first", [a("I begin."), u("ok")]
    yield "system late", [u("a"), s("b"), u("c")]
    yield "two systems", [s("a"), s("b"), u("c")]
    yield "unknown role", [message("wizard", "abracadabra"), u("x")]
    yield "no messages", []
    yield "thinking", [u("2+2?"), a("<think>\nhm, 4\n</think>\n\n4"), u("and 3+3?"), a("<think>x</think>6"), u("ok")]
    yield "reasoning", [u("2+2?"), a("4", reasoning_content="two and two\n"), u("3+3?"), a("6", reasoning_content=""),
                        u("k")]
    yield "thinking key", [u("2+2?"), a("4", thinking="two and two"), u("more")]
    yield "tool call", [u("Weather?"), a("", tool_calls=[CALL]),
                        t("{\"temp\": 20}", tool_call_id="call00001", name="get_weather"), a("20 degrees."), u("Thanks")]
    yield "tool calls", [s("sys"), u("Weather?"), a("Let me see.", tool_calls=[CALL, dict(CALL, id="call00002")]),
                         t("20", tool_call_id="call00001", name="get_weather"),
                         t("21 <ok> & 'fine'", tool_call_id="call00002", name="get_weather")]
    yield "tool call text", [u("Weather?"), a(None, tool_calls=[CALL_TEXT]), t("cold", tool_call_id="abcdefghi"),
                             u("and?")]
    yield "tool call without content", [u("W?"), {"role": "assistant", "tool_calls": [CALL]},
                                        t("1", tool_call_id="call00001"), a("one")]
    yield "tool reasoning", [u("W?"), a("", reasoning_content="must look", tool_calls=[CALL]),
                             t("1", tool_call_id="call00001")]
    yield "tool ends", [u("W?"), a("", tool_calls=[CALL_TEXT])]
    yield "tool alone", [t("surprise")]
    yield "parts", [u([{"type": "text", "text": "What is this?"}, {"type": "image"}]),
                    a([{"type": "text", "text": "A cat"}]), u([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])]
    yield "parts system", [s([{"type": "text", "text": "Sys"}]), u([{"type": "image_url", "image_url": {"url": "x"}}])]
    yield "null content", [u(None), a("x")]
    yield "number content", [u(5), a(1.5), u(True)]
    yield "no role", [{"content": "x"}]
    yield "no content", [{"role": "user"}]
    yield "long", [m for i in range(30) for m in (u(f"question {i} " * 5), a(f"answer {i}\n" * 3))] + [u("end")]


VARIANTS = [
    {}, {"add_generation_prompt": True}, {"add_generation_prompt": False},
    {"tools": TOOLS, "add_generation_prompt": True}, {"tools": []},
    {"tools": [tool["function"] for tool in TOOLS]},
    {"enable_thinking": False, "add_generation_prompt": True}, {"enable_thinking": True, "add_generation_prompt": True},
    {"tools": TOOLS, "enable_thinking": False}, {"thinking": True, "add_generation_prompt": True},
    {"reasoning_effort": "high", "add_generation_prompt": True, "tools": TOOLS, "builtin_tools": ["browser", "python"]},
    {"documents": [{"title": "T", "text": "Some text"}, {"title": "Ü", "text": "more"}], "add_generation_prompt": True},
    {"date_string": "26 Jul 2024", "tools_in_user_message": False, "tools": TOOLS},
    {"controls": {"length": "short", "originality": "abstractive"}, "strip_thinking": True, "preserve_thinking": True},
]


def c_string(literal):
    """The text of a C++ string literal that has no escapes but those of JSON and \\'."""
    return json.loads(literal.replace("\\'", "'"))


def templates(sdist):
    with tarfile.open(sdist) as archive:
        for member in archive:
            if re.search(r"/models/templates/[^/]*\.jinja$", member.name):
                yield os.path.basename(member.name), archive.extractfile(member).read().decode()
            elif member.name.endswith("/tests/test-chat-template.cpp"):
                source = archive.extractfile(member).read().decode()
                literals = re.findall(r'\.template_str=? \*/ (?:u8|U8C\()?("(?:[^"\\\n]|\\.)*")\)?,\n', source)
                for i, literal in enumerate(literals):
                    yield f"test-chat-template.cpp {i}", c_string(literal)


def compare_templates(ours, sdist, verbose):
    comparison, n = Comparison(ours, verbose), 0
    for name, source in templates(sdist):
        n += 1
        COMPILED.clear()
        for title, messages in conversations():
            for i, variant in enumerate(VARIANTS):
                variables = dict({"messages": messages, "bos_token": "<s>", "eos_token": "</s>"}, **variant)
                comparison.compare(f"{name} / {title} / {i}", source, variables)
    if n == 0:
        sys.exit(f"no template found in {sdist}")
    return comparison.report(f"{n} templates")


# ---- part 2: snippets ----------------------------------------------------------------------------------------------------------

def compare_snippets(ours, verbose):
    comparison = Comparison(ours, verbose)
    for source in template_snippets.SNIPPETS:
        COMPILED.clear()
        comparison.compare(repr(source), source, template_snippets.VARIABLES)
    return comparison.report("snippets")


# ---- part 3: random expressions --------------------------------------------------------------------------------------------------

class Generator:
    """Expressions that are often, but not always, meaningful: values of each type, and operators that mix them."""

    STRINGS = ["", "a", "abc", "Hello World", " x y ", "a,b,,c", "12", "-3.5", "ÄÖß", "日本語テ", "a'b\"c", "line\nbreak\n",
               "<b>&", "%s|%d", "{} {0}", "e\u0301", "tab\there", "A-b c_d"]
    NAMES = ["s", "n", "f", "t", "nothing", "l", "d", "m", "words", "undefined_name", "nested", "empty"]
    FILTERS = ["abs", "capitalize", "count", "dictsort", "e", "first", "float", "int", "items|list", "join", "join(', ')", "last",
               "length", "list", "lower", "max", "min", "reject|list", "reverse|list", "round", "round(1)", "safe", "select|list",
               "sort", "sort(reverse=true)", "string", "sum", "title", "tojson", "tojson(indent=2)", "trim", "unique|list", "upper",
               "wordcount", "default('D')", "default('D', true)", "d", "map('upper')|list", "map('length')|list",
               "map(attribute='a')|list", "selectattr('a')|list", "rejectattr('a')|list", "replace('a', 'Z')", "indent(2)",
               "batch(2)|list", "slice(2)|list", "center(9)", "truncate(5)", "format(1)", "urlencode", "attr('a')",
               "select('number')|list", "reject('string')|list", "groupby('a')|list", "filesizeformat", "round(0, 'floor')",
               "sort(case_sensitive=true)", "int(7)", "float(1.5)", "trim('a')", "list|length", "string|length", "tojson|length"]
    TESTS = ["defined", "undefined", "none", "boolean", "true", "false", "integer", "float", "number", "string", "mapping",
             "sequence", "iterable", "callable", "odd", "even", "divisibleby 2", "lower", "upper", "eq 1", "ne 'a'", "lt 2",
             "gt 'a'", "ge 0", "le 1.5", "in [1, 'a']", "in 'abc'", "sameas none", "escaped", "equalto 'abc'"]
    METHODS = ["upper()", "lower()", "strip()", "lstrip()", "rstrip('c')", "split()", "split(',')", "split(' ', 1)",
               "rsplit(',', 1)", "startswith('a')", "endswith(('c', 'd'))", "replace('a', 'bb')", "replace('', '-', 2)",
               "find('b')", "count('a')", "title()", "capitalize()", "splitlines()", "join(['x', 'y'])", "isdigit()", "isalpha()",
               "zfill(5)", "removeprefix('a')", "removesuffix('c')", "format(1, 2)", "get('a')", "get('zz', 5)", "items()|list",
               "keys()|list", "values()|list", "index(1)", "index('a')", "partition(',')", "center(10, '*')", "rfind('a')",
               "swapcase()", "append(1)", "pop()", "isspace()", "isupper()", "islower()", "ljust(6)", "rjust(6, '.')",
               "expandtabs()", "isalnum()", "rpartition(' ')", "copy()", "a", "b.c", "real_nothing"]
    BINARY = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or"]

    def __init__(self, seed):
        self.random = random.Random(seed)

    def string(self):
        return json.dumps(self.random.choice(self.STRINGS), ensure_ascii=self.random.random() < 0.3)

    def number(self):
        return self.random.choice(["0", "1", "2", "3", "7", "-1", "-4", "10", "0.5", "2.5", "-1.25", "1e3", "100", "1_000",
                                   "3.0", "1e16", "1e-7", "0x1F", "true", "false"])

    def atom(self):
        kind = self.random.random()
        if kind < 0.3:
            return self.string()
        if kind < 0.5:
            return self.number()
        if kind < 0.85:
            return self.random.choice(self.NAMES)
        return self.random.choice(["none", "[]", "{}", "()", "range(4)", "range(5, 0, -2)", "dict(a=1)", "[1, 2, 3]", "('a', 'b')"])

    def slice(self):
        part = [self.random.choice(["", "1", "-1", "2", "-3", "0", "10"]) for _ in range(self.random.choice([2, 2, 3]))]
        if len(part) == 3 and self.random.random() < 0.8 and part[2] == "0":
            part[2] = "-1"
        return ":".join(part)

    def expression(self, depth):
        if depth <= 0:
            return self.atom()
        e, kind = self.expression, self.random.randrange(13)
        if kind <= 2:
            return f"({e(depth - 1)} {self.random.choice(self.BINARY)} {e(depth - 1)})"
        if kind <= 4:
            return f"({e(depth - 1)})|{self.random.choice(self.FILTERS)}"
        if kind == 5:
            return f"({e(depth - 1)} is {self.random.choice(['', 'not '])}{self.random.choice(self.TESTS)})"
        if kind <= 7:
            return f"({e(depth - 1)}).{self.random.choice(self.METHODS)}"
        if kind == 8:
            # not on a constant: there Jinja2's optimizer makes Undefined of what is an error at run time
            return f"[{e(depth - 1)}, s][0][{self.slice()}]"
        if kind == 9:
            return f"({e(depth - 1)})[{e(depth - 2)}]"
        if kind == 10:
            return f"({e(depth - 1)} if {e(depth - 2)} else {e(depth - 2)})"
        if kind == 11:
            items = [e(depth - 2) for _ in range(self.random.randrange(4))]
            return self.random.choice(["[%s]", "(%s,)" if items else "(%s)"]) % ", ".join(items)
        return self.random.choice(["not (%s)", "-(%s)", "(%s) < 2 <= 3", "{'k': %s, 1: 2}", "'%%s' %% (%s,)"]) % e(depth - 1)


def compare_expressions(ours, n, seed, verbose):
    comparison, generator = Comparison(ours, verbose), Generator(seed)
    for _ in range(n):
        COMPILED.clear()
        source = "{{ " + generator.expression(generator.random.choice([1, 2, 3, 4])) + " }}"
        # Addresses of objects, and the order of lazy errors within a generator that nobody reads, are Python's own affair.
        text = render_python(source, template_snippets.VARIABLES)[0]
        if text is not None and re.search(r" at 0x[0-9a-f]+|<built-in method|<class|<function", text):
            continue
        COMPILED.clear()
        comparison.compare(source, source, template_snippets.VARIABLES)
    return comparison.report(f"random expressions, seed {seed}")


# ---- part 4: random statements: scopes, captures, jumps, white space -------------------------------------------------------------

class Programs:
    """Templates of nested statements over a few names, so that every rule about which name is whose is met often."""

    NAMES = ["a", "b", "c", "s", "l"]
    VALUES = ["1", "2", "a", "b", "c ~ 'x'", "a + 1", "[1, 2]", "'t'", "s", "l", "ns.a", "loop.index", "loop.last", "loop.length",
              "none", "b|default('u')", "(a, b)", "missing", "ns.b|length", "loop.previtem", "loop.nextitem", "varargs", "kwargs"]
    ITERABLES = ["l", "[1, 2, 3]", "'xyz'", "[]", "range(3)", "l|map('string')", "{'k': 1, 'j': 2}", "[(1, 2), (3, 4)]", "a"]
    SPACES = ["", "", " ", "\n", "  \n  ", "\n\n", " x ", "y\n", "\tz", "\n  w"]

    def __init__(self, seed):
        self.random = random.Random(seed)

    def pick(self, items):
        return self.random.choice(items)

    def tag(self, text):
        return "{%" + self.pick(["", "", "-", "+"]) + f" {text} " + self.pick(["", "", "-", "+"]) + "%}"

    def output(self):
        value = self.pick(self.VALUES + [f"m({self.pick(self.VALUES)})", f"m({self.pick(self.VALUES)}, q={self.pick(self.VALUES)})",
                                         "caller()", "caller(1)", "loop([1])"])
        return "{{" + self.pick(["", "", "-"]) + f" {value} " + self.pick(["", "", "-"]) + "}}"

    def condition(self):
        return self.pick(["true", "false", "a is defined", "b == 1", "loop.first", "c", "l", "not s", "a is odd", "ns.a == 2"])

    def body(self, depth, in_loop):
        parts = []
        for _ in range(self.random.randrange(1, 5)):
            parts.append(self.pick(self.SPACES))
            parts.append(self.statement(depth, in_loop))
        return "".join(parts) + self.pick(self.SPACES)

    def statement(self, depth, in_loop):
        t, kind = self.tag, self.random.randrange(18)
        if depth <= 0 or kind <= 4:
            return self.output()
        if kind <= 7:
            target = self.pick(self.NAMES + ["ns.a", "ns.b", "a, b"])
            return t(f"set {target} = {self.pick(self.VALUES)}")
        if kind <= 9:
            branches = self.body(depth - 1, in_loop)
            if self.random.random() < 0.3:
                branches += t(f"elif {self.condition()}") + self.body(depth - 1, in_loop)
            if self.random.random() < 0.5:
                branches += t("else") + self.body(depth - 1, in_loop)
            return t(f"if {self.condition()}") + branches + t("endif")
        if kind <= 12:
            target = self.pick(self.NAMES + ["a, b"])
            test = f" if {self.pick(['a', 'b', 'a != 1', 'ns.a', 'loop.first'])}" if self.random.random() < 0.3 else ""
            recursive = " recursive" if self.random.random() < 0.1 else ""
            text = t(f"for {target} in {self.pick(self.ITERABLES)}{test}{recursive}") + self.body(depth - 1, True)
            if self.random.random() < 0.3:
                text += t("else") + self.body(depth - 1, in_loop)
            return text + t("endfor")
        if kind == 13:
            signature = self.pick(["", "p", "p, q=a", "a, b=1", "q=b"])
            return t(f"macro m({signature})") + self.body(depth - 1, False) + t("endmacro")
        if kind == 14:
            signature = self.pick(["", "(a)", "(a, b=2)"])
            return t(f"call{signature} m({self.pick(['', '1', 'a'])})") + self.body(depth - 1, False) + t("endcall")
        if kind == 15:
            head, end = self.pick([("set a", "endset"), ("set b | upper", "endset"), ("filter upper", "endfilter"),
                                   ("with a = b, c = a", "endwith"), ("with", "endwith"), ("generation", "endgeneration")])
            return t(head) + self.body(depth - 1, in_loop and end != "endgeneration") + t(end)
        if kind == 16 and in_loop:
            return t(f"if {self.condition()}") + t(self.pick(["break", "continue"])) + t("endif")
        return self.pick(["{# c #}", "{#- c -#}", "{# c\n#}", "{% raw %} {{ x }} {% endraw %}", "{%- raw -%} {% y %}{%- endraw -%}"])

    def program(self):
        return "{% set ns = namespace(a=1, b='bb') %}" + self.body(self.random.choice([1, 2, 3, 3, 4]), False)


def compare_programs(ours, n, seed, verbose):
    comparison, programs = Comparison(ours, verbose), Programs(seed)
    variables = {"s": "S", "l": [3, [1, 2]], "c": "C"}
    for _ in range(n):
        COMPILED.clear()
        source = programs.program()
        text, error = render_python(source, variables)
        # Python's compiler has limits of its own, and prints addresses of objects.
        if text is not None and re.search(r" at 0x[0-9a-f]+", text) or error and "RecursionError" in error:
            continue
        comparison.compare(source, source, variables)
    return comparison.report(f"random templates, seed {seed}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--sdist", help="llama-cpp-python's source archive; without it part 1 is left out, and said so")
    parser.add_argument("--expressions", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    ours = Ours(args.program)
    same = [compare_snippets(ours, args.verbose), compare_expressions(ours, args.expressions, args.seed, args.verbose),
            compare_programs(ours, args.expressions, args.seed, args.verbose)]
    if args.sdist:
        same.append(compare_templates(ours, args.sdist, args.verbose))
    else:
        print("no --sdist: the templates in use are not compared")
    sys.exit(0 if all(same) else 1)


if __name__ == "__main__":
    main()
