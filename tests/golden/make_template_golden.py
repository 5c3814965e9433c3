#!/usr/bin/env python3
"""make_template_golden.py: writes what test_template compares with, from Python's jinja2 set up as transformers does it:
templates/snippets.json (the corners of tests/live/template_snippets.py) and templates/renders.json (each templates/*.jinja
over a few conversations). Needs jinja2; run it after changing a snippet or template, and read the difference.

    tests/golden/make_template_golden.py [--check]      --check: exit 1 if a file would change"""
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "live"))
import compare_templates  # noqa: E402
import template_snippets  # noqa: E402

TITLES = ["plain", "system", "multi-turn", "unicode", "empty content", "blanks", "consecutive users", "unknown role", "no messages",
          "thinking", "tool call", "tool calls", "tool call text", "parts", "null content", "number content"]
VARIANTS = [{}, {"add_generation_prompt": True}, {"tools": compare_templates.TOOLS, "add_generation_prompt": True},
            {"enable_thinking": False, "add_generation_prompt": True}]


def entry(template_text, variables_used, /, **more):
    compare_templates.COMPILED.clear()
    text, _ = compare_templates.render_python(template_text, variables_used)
    return dict(more, text=text)  # null: an error


def snippets():
    return {"variables": template_snippets.VARIABLES,
            "snippets": [entry(s, template_snippets.VARIABLES, source=s) for s in template_snippets.SNIPPETS]}


def renders():
    conversations = {t: m for t, m in compare_templates.conversations() if t in TITLES}
    variables = [dict({"messages": conversations[t], "bos_token": "<s>", "eos_token": "</s>"}, **v)
                 for t in TITLES for v in VARIANTS]
    return {"variables": variables,
            "renders": [entry(path.read_text(), v, template=path.name, variables=i)
                        for path in sorted((HERE / "templates").glob("*.jinja")) for i, v in enumerate(variables)]}


def lines(value):
    """JSON with one line for each item of the lists in value, so that a change shows as one line."""
    def one(v):
        items = ",\n ".join(json.dumps(item, ensure_ascii=False) for item in v)
        return f"[\n {items}]" if isinstance(v, list) else json.dumps(v, ensure_ascii=False)
    return "{" + ",\n".join(f"{json.dumps(k)}: {one(v)}" for k, v in value.items()) + "}\n"


def main():
    changed = False
    for name, make in (("snippets.json", snippets), ("renders.json", renders)):
        path = HERE / "templates" / name
        text = lines(make())
        if not path.exists() or path.read_text() != text:
            changed = True
            print("differs:" if "--check" in sys.argv else "wrote", path)
            if "--check" not in sys.argv:
                path.write_text(text)
    sys.exit(1 if changed and "--check" in sys.argv else 0)


if __name__ == "__main__":
    main()
