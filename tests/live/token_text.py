#!/usr/bin/env python3
"""token_text.py N_BYTES SEED FILE: hard text for tokenizers, the same on every run.

Used by compare_tokens.py (a megabyte) and make_token_golden.py (some kilobytes). Paragraphs drawn from every kind that
breaks tokenizers: prose in many scripts, code, CJK, emoji with joiners and modifiers, combining marks, numbers,
runs of white space of every kind, control characters, the text of special tokens, random code points, invalid UTF-8. Only bytes
that make llama.cpp end the process are left out: characters above U+10FFFF (F4 90 and up).
"""
import random
import sys

WORDS = """the of and to in is that it was for on are as with his they at be this from have or by one had not but what all were
we're when don't I'll you've she'd they'RE It'S can'T O'Neil rock'n'roll HTTPServer getElementById camelCase snake_case
SCREAMING_CASE kebab-case naïve café résumé Übergröße Straße ÅNGSTRÖM œuvre İstanbul ıspanak Łódź þing ǅungla ﬁnance
antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis e-mail x86_64 3rd 42nd v1.2.3 C++17 #include""".split()
SCRIPTS = [
    "Привет мир, как дела? Это проверка, ёлка и Ъ.", "Γειά σου Κόσμε, ΑΣΟΣ ςσ.", "שלום עולם, בְּרֵאשִׁית בָּרָא", "مرحبا بالعالم، كيف الحال؟ ١٢٣٤٥٦٧",
    "नमस्ते दुनिया, कैसे हो? १२३४", "สวัสดีชาวโลก ๑๒๓๔", "你好，世界！今天天气怎么样？中文分词测试。", "こんにちは世界。カタカナ、ひらがな・ﾊﾝｶｸ", "안녕하세요 세계, 잘 지내요? ㄱㄴㄷ",
    "Xin chào thế giới, tiếng Việt rất khó.", "გამარჯობა მსოფლიო", "Բարեւ աշխարհ", "ᠮᠣᠩᠭᠣᠯ᠎ᠠ", "ສະບາຍດີ ໑໒໓", "ជំរាបសួរ ១២៣", "မင်္ဂလာပါ ၁၂၃",
    "ሰላም ልዑል", "Ꮳꮃꭹ ᏣᎳᎩ", "𐐀𐐨𐐀 𝒳𝓎𝓏 𝟘𝟙𝟚𝟛 𝔄𝔅", "㈠㈡ Ⅷ Ⅻ ½ ¾ ² ³ ₁₂ ①②③ ㊿ 〇 二十三", "தமிழ் ௧௨௩", "বাংলা ১২৩ লেখা", "ఇది తెలుగు", "漢字かな交じり文ＡＢＣ１２３、全角　空白。",
    "ㄅㄆㄇ ㄅㄆㄇ注音", "۱۲۳۴۵ فارسی، است۔", "नि॒षद॑ ।॥ ॐ", "ꧏꦗꦮ ꩠꩡꩢ", "⼀⼁⽋ 豈更車 ｱｲｳ", "🄰🅱🆎 🇩🇪🇯🇵🇺🇳",
]
EMOJI = ["😀", "🤣", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👨🏿‍💻", "🇫🇷", "❤️", "☎︎", "✈️", "1️⃣", "#️⃣", "🫨", "🧑‍🚀", "🐈‍⬛", "…", "™", "©", "→", "∑", "√", "€", "¥", "₿", "␀", "▁", "▁▁"]
CODE = [
    "def f(x, *args, **kw):\n    return {k: v for k, v in kw.items() if v is not None}  # 100%\n",
    "int main(void) {\n\tfor (size_t i = 0; i < n; i++) { a[i] ^= 0xDEADBEEF >> 3; }\n\treturn 0;\n}\n",
    "<div class=\"a b\" id='x'>&nbsp;<b>bold</b><br/>\r\n</div>\r\n", "SELECT * FROM t WHERE id = 1 AND name LIKE '%x%'; -- ok\n",
    "https://example.org/a/b?c=d&e=f#g https://[::1]:8080/~user/%7Efoo\n", "{\"a\": [1, 2.5e-10, null, true], \"b\\u0041\": \"\\n\\t\"}\n",
    "C:\\Users\\me\\file.txt && echo $HOME || exit 1; ls -la | grep '^d' > /dev/null 2>&1\n", "$$\\int_0^\\infty e^{-x^2}\\,dx = \\frac{\\sqrt{\\pi}}{2}$$\n",
    "| a | b |\n|---|:-:|\n| 1 | 2 |\n\n```python\nx = 1\n```\n", "#!/bin/sh\nset -eu\n: \"${X:=1}\"\n", "if(a&&!b||c!==d){e+=f--;}else{g=h?i:j}//k\n",
    "    1.  item\n        - sub\n\t\t* x\n", "\"'`'\"''\"\"''' \"\"\" ```` ~~~~ ---- ==== ____ **** ####\n", "'s 't 're 've 'm 'll 'd 'S 'T 'RE 'Ve 'M 'lL 'D '' 'x\n",
]
SPECIAL = ["<s>", "</s>", "<bos>", "<eos>", "<unk>", "<pad>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<start_of_turn>", "<end_of_turn>", "<unused7>",
           "<0x0A>", "<0xE2>", "<|fim_prefix|>", "<|fim_middle|>", "<|file_sep|>", "<|repo_name|>", "<mask>", "[multimodal]", "<|im_start", "im_end|>",
           "<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|END_OF_TURN_TOKEN|>", "<end_of_utterance>", "<jupyter_start>", "<|object_ref_start|>",
           "<tool_call>", "</tool_call>", "<h1>", "</h1>", "<td>", "<table>", "<blockquote>", "<|user|>", "<|assistant|>", "<|end|>", "[EMPTY_3]", "<sentinel:12>", "IMGIMGABAZ", "<code>", "\n\n\n", "\t\t\t\t"]
NEW = "🫨🫩🛜🩵🪇🫎\U00011f04\U00011f34\U00011f50\u0cf3\u2ffc\U0002ebf0\U00031350\u31ef\U0001e030\U0001d2c0\u0ece\U0002b739"  # Unicode 15.0, 15.1
SPACES = [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", "\v", "\f", "\x85", "\xa0", "\u1680", "\u2003", "\u2009", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\u200b", "\u180e", "\ufeff",
          "\x1c", "\x1d", "\x1e", "\x1f", " \n", "\n ", " \r\n \t", "\t ", "\n\t"]
MARKS = ["\u0301", "\u0308", "\u0323", "\u20dd", "\u0e31", "\u064e", "\u05b0", "\u3099", "\u093f", "\ufe0f", "\u200d", "\U0001f3fd", "\U000e0061", "\u0489"]


def prose(r):
    words = [r.choice(WORDS) + r.choice(["", "", "", "", ",", ".", "!", "?", ";", ":", " -", "…", "'", "\"", ")"]) for _ in range(r.randrange(5, 60))]
    return r.choice([" ", " ", " ", "  ", "\n"]).join(words) + r.choice([".\n", "\n\n", " ", ""])


def scripts(r):
    return r.choice([" ", "", "\n", ", "]).join(r.choice(SCRIPTS) for _ in range(r.randrange(1, 6)))


def emoji(r):
    return r.choice(["", " "]).join(r.choice(EMOJI) for _ in range(r.randrange(1, 20)))


def code(r):
    return "".join(r.choice(CODE) for _ in range(r.randrange(1, 5)))


def numbers(r):
    out = []
    for _ in range(r.randrange(1, 12)):
        n = "".join(r.choice("0123456789") for _ in range(r.choice([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 40])))
        out.append(r.choice(["", "-", "$", "+", "x", " "]) + n + r.choice(["", "", ".5", "%", "e10", "th", ",000", "½", "٣", "Ⅷ"]))
    return r.choice([" ", ", ", "", "\n"]).join(out)


def spaces(r):
    out = []
    for _ in range(r.randrange(1, 10)):
        out.append(r.choice(SPACES) * r.choice([1, 1, 1, 2, 3, 4, 7, 16, 17, 33, 70]))
        out.append(r.choice(["", "", "a", "Ä", "1", "!", "中", "'s", "('", "_"]))
    return "".join(out)


def controls(r):
    return "".join(chr(r.choice([0, 1, 7, 8, 27, 127, 128, 0x9F, 0xAD, 0x200E, 0x202E, 0x2060, 0xFFF9, 0xFFFD, 0xFFFE, 0xE000, 0x10FFFF]))
                   + r.choice(["", "a", " ", "1"]) for _ in range(r.randrange(1, 12)))


def special(r):
    return "".join(r.choice(["", " ", "  ", "\n", "x", "é"]) + r.choice(SPECIAL) * r.choice([1, 1, 1, 2]) for _ in range(r.randrange(1, 10)))


def marks(r):
    return "".join(r.choice("aeionABZ 1!中あ한") + "".join(r.choice(MARKS) for _ in range(r.randrange(0, 4))) for _ in range(r.randrange(3, 30)))


def points(r):
    out = []
    top = r.choice([0x250, 0x800, 0x3000, 0xFFFF, 0x10FFFF])
    for _ in range(r.randrange(3, 40)):
        c = r.randrange(0x20, top)
        out.append(chr(0x41 if 0xD800 <= c <= 0xDFFF else c))
    return "".join(out)


def runs(r):
    return r.choice("aAzé中あ1!.-=~_*#👍") * r.choice([2, 3, 5, 8, 31, 64, 200, 700])


def invalid(r):
    kind = r.randrange(6)
    if kind == 0:
        return bytes(min(r.randrange(256), 0xF3) for _ in range(r.randrange(1, 40)))
    if kind == 1:  # cut characters
        return b" ".join(r.choice(EMOJI + SCRIPTS).encode()[:r.randrange(1, 6)] for _ in range(r.randrange(1, 8)))
    if kind == 2:  # overlong forms and surrogates
        return b"".join(r.choice([b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\xaf", b"\xe0\x9f\xbf", b"\xf0\x80\x80\xaf", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"a", b" ", b"1"])
                        for _ in range(r.randrange(1, 10)))
    if kind == 3:
        return b"".join(bytes([r.choice([0x80, 0xBF, 0xC2, 0xE2, 0xF0, 0xF8, 0xFC, 0xFE, 0xFF])]) + r.choice([b"", b"x", b" "]) for _ in range(r.randrange(1, 20)))
    text = bytearray(prose(r).encode() + scripts(r).encode())
    for _ in range(r.randrange(1, 6)):
        text[r.randrange(len(text))] = r.choice([0x00, 0x80, 0xC3, 0xE2, 0xED, 0xF0, 0xFF])
    return bytes(text)


def new(r):
    return "".join(r.choice(NEW) + r.choice(["", "", " ", "a", "1", "中", "!"]) for _ in range(r.randrange(1, 20)))


KINDS = [new, prose, prose, scripts, scripts, emoji, code, code, numbers, spaces, controls, special, marks, points, runs, invalid]


def make_text(n_bytes, seed):
    r = random.Random(seed)
    text = bytearray()
    while len(text) < n_bytes:
        part = r.choice(KINDS)(r)
        text += part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        text += r.choice([b"", b"", b" ", b"\n", b"\n\n"])
    return without_giants(bytes(text[:n_bytes]))


def make_short_text(seed):
    """Every kind three times."""
    r = random.Random(seed)
    parts = [kind(r) for kind in KINDS * 3]
    return without_giants(b"\n".join(p if isinstance(p, bytes) else p.encode("utf-8", "surrogatepass") for p in parts))


def without_giants(text):
    """Characters above U+10FFFF, which would end llama.cpp, become broken ones."""
    out = bytearray(text)
    for i, b in enumerate(out):
        if b >= 0xF4 and b < 0xF8 and not (b == 0xF4 and i + 1 < len(out) and 0x80 <= out[i + 1] < 0x90):
            out[i] = 0xF8
    return bytes(out)


if __name__ == "__main__":
    with open(sys.argv[3], "wb") as f:
        f.write(make_text(int(sys.argv[1]), int(sys.argv[2])))
