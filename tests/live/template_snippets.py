"""template_snippets.py: corners of the template language for compare_templates.py. What each must give, jinja2 says."""

VARIABLES = {
    "s": "Hello, Wörld", "n": 7, "f": 2.5, "t": True, "nothing": None, "empty": "",
    "l": [3, 1, 2], "words": ["b", "A", "c", "a", "B"],
    "d": {"b": 1, "a": {"c": [1, 2]}, "items": "shadowed", "Key": None},
    "m": [{"a": 1, "b": {"c": "x"}}, {"a": 2, "b": {"c": "y"}}, {"a": 1, "b": {}}],
    "nested": {"a": [1, {"b": [2.0, "é", None, True]}], "b": {"c": {"d": "e"}}, "c": "it's"},
    "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": " yo "}, {"role": "user", "content": "x"}],
    "bos_token": "<s>", "eos_token": "</s>",
}

SNIPPETS = r'''
{% for x in l %}{{ x }}{% endfor %}
{% for x in l %}{{ loop.index }}/{{ loop.length }} {{ loop.first }} {{ loop.last }} {{ loop.revindex }} {{ loop.revindex0 }};{% endfor %}
{% for x in l if x > 1 %}{{ loop.index0 }}{{ x }}{{ loop.last }}{% else %}none{% endfor %}
{% for x in [] %}a{% else %}empty{% endfor %}
{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}
{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in l %}{% continue %}{% else %}E{% endfor %}
{% for x in l %}{% break %}{% else %}E{% endfor %}
{% for x in [1] %}{% for y in [] %}{% else %}{% break %}{% endfor %}after{% endfor %}
{% for a, b in d.items() %}{{ a }}={{ b }};{% endfor %}
{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}
{% for a, b in ['xy', 'z'] %}{{ a }}{% endfor %}
{% for k in d %}{{ k }}{% endfor %}
{% for c in s %}{{ c }}.{% endfor %}
{% for x in 5 %}{% endfor %}
{% for x in none %}{% endfor %}
{% for x in missing %}a{% else %}b{% endfor %}
{% for x in l %}{{ loop.previtem }}-{{ loop.nextitem }};{% endfor %}
{% for x in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}
{% for x in l %}{{ loop.cycle('a', 'b') }}{% endfor %}
{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %}
{% for x in l|map('string') %}{{ loop.length }}{{ x }}{% endfor %}
{% for x in l if loop %}{{ x }}{% endfor %}
{% for x in l %}{{ loop }}{% endfor %}
{% for x in l %}{% for y in l %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}
{% for a, b in [(1, 2), (3, 4)] if a > 1 %}{{ loop.previtem }}{{ a }}{{ b }}{% endfor %}
{% for x in nested.a recursive %}{% if x is mapping %}({{ loop(x.b) }}){% else %}{{ x }}@{{ loop.depth }}{% endif %}{% endfor %}
{% for x in l %}{{ loop(l) }}{% endfor %}
{% for x in [[1, [2]], 3] recursive %}[{{ loop.depth0 }}{{ loop(x) if x is sequence else x }}]{% else %}E{% endfor %}
{% set x = 1 %}{% for i in l %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}
{% set ns = namespace(x=1) %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}
{% set ns = namespace() %}{{ ns.y is defined }}{% set ns.y = 2 %}{{ ns.y }}{{ ns['y'] }}
{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}{{ ns }}
{% set ns = namespace(_a=1) %}
{% set ns = namespace(a=1) %}{% set ns._b = 1 %}
{% set d2 = {} %}{% set d2.a = 1 %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}
{% set a, b = 'xy' %}{{ b }}{{ a }}
{% set a = 1, 2 %}{{ a }}
{% set ns = namespace() %}{% set ns.a, ns.b = 1, 2 %}{{ ns.a }}{{ ns.b }}
{% set x %}  text {{ n }} {% endset %}[{{ x }}]
{% set x | upper | trim %} abc {% endset %}[{{ x }}]
{% set true = 1 %}
{% set x.y = 1 %}
{% set (a, b) = (1, 2) %}{{ a + b }}
{% if x is defined %}{% set x = 1 %}{% endif %}{{ x }}
{% if false %}{% set s = 1 %}{% endif %}{{ s }}
{% for i in [1] %}{% if false %}{% set s = 1 %}{% endif %}{{ s }}{% endfor %}
{% for i in [1, 2] %}{% if i == 1 %}{% set q = i %}{% endif %}{{ q }}|{% endfor %}
{% for i in [1, 2] %}{{ q }}{% set q = i %}{{ q }}{% endfor %}{{ q }}
{% for i in [1] %}{{ late }}{% endfor %}{% set late = 1 %}{{ late }}
{% for i in [1] %}{{ s }}{% endfor %}{% set s = 1 %}{{ s }}
{{ s }}{% set s = 1 %}{{ s }}
{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(c=1, a=2) }}
{% macro m(a, b) %}{{ a }}{{ b is defined }}{{ b }}{% endmacro %}{{ m(1) }}
{% macro m(a) %}{{ b + a }}{% endmacro %}{{ m(1) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}
{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}
{% macro m(x) %}{{ x }}{{ varargs }}{% endmacro %}{{ m(1, 2) }}
{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}in {{ n }}{% endcall %}
{% macro m() %}<{{ caller(5) }}>{% endmacro %}{% call(x) m() %}in {{ x }}{% endcall %}
{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}
{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}
{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}
{% macro m(caller) %}{{ caller() }}{% endmacro %}
{% macro m(caller=none) %}{{ caller }}{% endmacro %}{{ m() }}
{% macro m(l) %}{% for x in l %}{{ m(x) if x is sequence and x is not string else x }},{% endfor %}{% endmacro %}{{ m([1, [2, [3]]]) }}
{% macro m() %}{% set s = 5 %}{{ s }}{% endmacro %}{{ m() }}{{ s }}
{% set y = 1 %}{% macro m() %}{{ y }}{% endmacro %}{% set y = 2 %}{{ m() }}
{% macro m() %}{{ y }}{% endmacro %}{{ m() }}{% set y = 2 %}{{ m() }}
{% macro m(a, a) %}{% endmacro %}
{% macro m(a=1, b) %}{% endmacro %}
{{ m }}{% macro m() %}{% endmacro %}{{ m }}{{ m.name }}{{ m.arguments }}
{% for i in l %}{% macro m() %}{{ i }}{{ loop.index }}{% endmacro %}{{ m() }}{% endfor %}
{% macro m() %}  a  {% endmacro %}{{ m()|trim }}{{ m() ~ 'x' }}
{% macro m(x) %}{{ x }}{% endmacro %}{{ m(*[1]) }}{{ m(**{'x': 2}) }}
{% macro m(x) %}{{ x }}{% endmacro %}{{ m(**{'x': 2}, x=3) }}
{% filter upper %}abc {{ s }}{% endfilter %}
{% filter replace('a', 'b') | upper %}aaa{% endfilter %}
{% for i in l %}{% filter upper %}a{% if i == 1 %}{% break %}{% endif %}{% endfilter %}{% endfor %}z
{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}
{% with a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{% endwith %}
{% with %}{% set z = 1 %}{{ z }}{% endwith %}{{ z }}
{% generation %}a{{ n }}{% set q = 1 %}{% endgeneration %}{{ q }}
{% for i in l %}{% generation %}{{ loop.index }}{% endgeneration %}{% endfor %}
{% for i in l %}{% generation %}{% break %}{% endgeneration %}{% endfor %}
{% break %}
{% if true %}{% continue %}{% endif %}
{% for i in l %}{% set loop = 1 %}{% endfor %}
{% for loop in l %}{{ loop }}{% endfor %}
{% set loop = 5 %}{{ loop }}
{% raw %}{{ x }} {% if %}{% endraw %}
a {%- raw -%} b {%- endraw -%} c
{# comment #}a{#- c -#} b
{# not closed
{{ not closed
{% if x %}
{% endif %}
{% unknown %}
{% if %}{% endif %}
{{ }}
{{ 1 + }}
{{ (1 }}
{{ [1 }}
{{ 1) }}
{{ 'abc }}
{{ a b }}
{{ 1 2 }}
{% for x %}{% endfor %}
{% for x in %}{% endfor %}
{% if a %}{% else %}{% else %}{% endif %}
{% if a %}{% endfor %}
{{ x|nofilter }}
{{ x is notest }}
{% if false %}{{ x|nofilter }}{% endif %}ok
{% if true %}{{ x|nofilter }}{% endif %}ok
{{ 'a' if true else x|nofilter }}
{% if true %}{% for i in l %}{{ i|nofilter }}{% endfor %}{% endif %}
{% if false %}{% for i in l %}{{ i|nofilter }}{% endfor %}{% endif %}
{% for i in [] %}{{ i|nofilter }}{% endfor %}
{% if a == 1 %}1{% elif n == 7 %}7{% elif true %}t{% else %}e{% endif %}
{% if not missing %}a{% endif %}{% if '' or [] or {} or 0 or none %}b{% else %}c{% endif %}
{{ missing }}|{{ missing.x is defined }}
{{ missing.x }}
{{ missing['x'] }}
{{ d.zz }}|{{ d['zz'] }}|{{ d.zz is undefined }}
{{ d.zz.y }}
{{ l[10] }}|{{ l[-1] }}|{{ l[10] is undefined }}|{{ l['x'] }}|{{ l.0 }}|{{ l.first }}
{{ d['items'] }}{{ nested['items'] is defined }}{{ nested['items'] is callable }}
{{ d.items() }}{{ d.keys() }}{{ d.values() }}
{{ d.items()[0] }}
{{ d.items()|list|first }}
{{ d.update({'x': 1}) }}
{{ l.append(4) }}
{{ l.append is defined }}{{ l.index is defined }}
{{ l.pop }}|{{ d.pop }}
{{ d.get('b') }}{{ d.get('zz') }}{{ d.get('zz', 'D') }}
{{ d.get(['x']) }}
{{ d.__class__ }}|{{ ''.__class__ }}|{{ l.__len__ }}
{{ none.x }}|{{ none['x'] }}|{{ n.x }}|{{ t.y }}
{{ none() }}
{{ s() }}
{{ s.nomethod() }}
{{ s.upper() }}{{ s['upper']() }}
{{ 1 + 2 * 3 - 4 / 2 }}|{{ 7 // 2 }}|{{ -7 // 2 }}|{{ 7 % 3 }}|{{ -7 % 3 }}|{{ 7 % -3 }}|{{ 2 ** 3 ** 2 }}|{{ 2 ** -1 }}
{{ 7.5 // 2 }}|{{ -7.5 // 2 }}|{{ 7.5 % 2 }}|{{ -7.5 % 2 }}|{{ 7.5 % -2 }}|{{ 1e300 * 1e10 }}|{{ -0.0 }}|{{ 0.0 // 1 }}|{{ 4.0 % -2 }}
{{ -2 ** 2 }}|{{ (-2) ** 2 }}|{{ - - 2 }}|{{ +true }}|{{ not not 1 }}
{{ 1 / 0 }}
{{ 1 % 0 }}
{{ 1 // 0.0 }}
{{ 0 ** -1 }}
{{ 1 + '1' }}
{{ '1' + 1 }}
{{ '1' ~ 1 ~ none ~ true ~ 1.0 ~ [1, 'a'] }}
{{ 'ab' * 3 }}{{ 3 * 'ab' }}{{ [1] * 2 }}{{ 'x' * -1 }}{{ (1,) * 2 }}
{{ [1] + [2] }}{{ (1,) + (2, 3) }}
{{ [1] + (2,) }}
{{ missing + 1 }}
{{ 'a' + missing }}
{{ 'a' ~ missing }}
{{ 1 < 2 < 3 }}{{ 1 < 3 < 2 }}{{ 1 == 1.0 }}{{ true == 1 }}{{ 'a' == 1 }}{{ none == missing }}{{ missing == missing2 }}
{{ 'a' < 1 }}
{{ none < none }}
{{ [1, 2] < [1, 3] }}{{ (1, 2) < (1,) }}{{ 'a' < 'b' }}{{ 'é' > 'z' }}
{{ {} < {} }}
{{ {'a': 1, 'b': 2} == {'b': 2, 'a': 1} }}{{ [1, [2]] == [1, [2.0]] }}{{ (1,) == [1] }}
{{ 1 in l }}{{ 5 not in l }}{{ 'a' in 'cat' }}{{ 'b' in d }}{{ 1 in d.values() }}{{ '' in '' }}{{ 3 in range(5) }}{{ 'x' in missing }}
{{ 1 in 'a' }}
{{ 1 in 5 }}
{{ 1 in none }}
{{ [1] in {} }}
{{ [1] in [[1]] }}
{{ 1 and 0 or 'x' }}{{ '' or 'd' }}{{ none and 1 }}{{ 1 and 2 }}
{{ 'a' if n }}|{{ 'a' if not n }}|{{ ('a' if not n) is defined }}
{{ ('a' if false).x }}
{{ 'a' if false else 'b' if false else 'c' }}
{{ s[0] }}{{ s[-1] }}{{ s[1:3] }}{{ s[::-1] }}{{ s[:-2] }}{{ s[8:] }}{{ s[5:1] }}{{ s[::2] }}{{ s[10:2:-3] }}{{ s[-100:100] }}
{{ l[1:] }}{{ l[::-1] }}{{ l[:2] }}{{ l[::2] }}{{ (1, 2, 3)[1:] }}{{ range(10)[2:8:3] }}{{ range(10)[::-1]|list }}{{ range(3)[-1] }}
{{ s[::0] }}
{{ nothing[1:] }}
{{ s['a':] }}
{{ s[1.5:] }}
{{ missing[1:] }}
{{ d[1:] }}
{{ s[none:2] }}{{ s[true:] }}
{{ 'a' 'b' "c" }}
{{ 'a\nb\t\x41\u00e9\U0001F600\101\\\'\"\q' }}
{{ 'a\
b' }}
{{ '\é' }}
{{ '\x4' }}
{{ 1_000 }}{{ 0x1f }}{{ 0b101 }}{{ 0o17 }}{{ 1e3 }}{{ 1.5e-3 }}{{ 1_0.5 }}{{ 00 }}
{{ 1.0 }}{{ 1e16 }}{{ 1e15 }}{{ 123456789012345678 }}{{ 0.1 + 0.2 }}{{ 1e-5 }}{{ 0.0001 }}{{ 5e-324 }}{{ 1.7976931348623157e308 }}{{ 2.5e-10 }}
{{ 1.x }}
{{ {'a': 1, 'b': [1, 2.0, none, true, 'x']} }}{{ (1,) }}{{ () }}{{ [] }}{{ {} }}{{ (1, 'a') }}
{{ ['it\'s', "say \"x\"", 'both\'"', 'a\\b', 'tab\t', '\x00\x7f\xa0é\u200b\U0001F600', 'ñ'] }}
{{ {1: 2, none: 3, true: 4, 1.5: 5, (1, 2): 6} }}
{{ {[1]: 2} }}
{{ {1: 'a', 1.0: 'b', true: 'c'} }}
{{ {'a': 1, 'a': 2} }}
{{ nested|tojson }}
{{ nested|tojson(indent=2) }}
{{ nested|tojson(indent='\t') }}
{{ nested|tojson(separators=(',', ':')) }}{{ nested|tojson(ensure_ascii=true) }}{{ {'b': 1, 'a': {'d': 1, 'c': 2}}|tojson(sort_keys=true) }}
{{ '<>&\'"\\\n\r\t\x08\x0c\x01\x7f/é\u2028😀'|tojson }}{{ '😀é\x7f'|tojson(ensure_ascii=true) }}
{{ [1, 1.0, 1e20, 1e-7, true, none, 'x', (1, 2), [], {}]|tojson }}{{ {}|tojson(indent=2) }}{{ [[], {}, [1]]|tojson(indent=1) }}
{{ {1: 'a', none: 'b', true: 'c', 2.5: 'd'}|tojson }}
{{ {(1, 2): 3}|tojson }}
{{ missing|tojson }}
{{ range(3)|tojson }}
{{ l|map('string')|tojson }}
{{ [missing]|tojson }}
{{ d.items()|tojson }}
{{ namespace(a=1)|tojson }}
{{ (1e308 * 10)|tojson }}{{ (-1e308 * 10)|tojson }}
{{ l|tojson(indent=0) }}{{ l|tojson(indent=-1) }}{{ l|tojson(indent=true) }}{{ l|tojson(none, 2) }}
{{ 'a'|tojson(1, 2, 3, 4, 5) }}
{{ ' a '|trim }}|{{ 'xxaxx'|trim('x') }}|{{ 5|trim }}|{{ none|trim }}|{{ missing|trim }}|
{{ 'aB ß ŉ ǆ ﬁ'|upper }}{{ 'AB İ Σ ΑΣ ΑΣΑ Σ.'|lower }}{{ 'hELLO wORLD'|capitalize }}{{ 'ǆ'|capitalize }}
{{ "they're bill's-friends (from the) [UK] {x} <y> a_b 1st"|title }}{{ "they're bill's a_b 1st ǆx"|string|lower }}
{{ "they're bill's a_b 1st ǆx ßa".title() }}{{ 'ßA'.capitalize() }}{{ 'aBß'.swapcase() }}
{{ l|length }}{{ s|count }}{{ d|length }}{{ missing|length }}{{ range(4)|length }}
{{ 5|length }}
{{ none|length }}
{{ l|map('string')|length }}
{{ l|join }}{{ l|join(', ') }}{{ s|join('-') }}{{ m|join(',', attribute='a') }}{{ [none, missing, 1.0]|join('|') }}{{ d|join(' ') }}{{ l|join(1) }}
{{ none|join }}
{{ missing|default('x') }}{{ ''|default('x') }}{{ ''|default('x', true) }}{{ none|d('x') }}{{ none|d('x', boolean=true) }}{{ 0|d('z', true) }}{{ missing|d }}
{{ missing.a|default('x') }}
{{ d.zz|default('x') }}
{{ l|first }}{{ l|last }}{{ s|first }}{{ s|last }}{{ []|first }}{{ []|last }}{{ d|first }}{{ d|last }}{{ missing|first }}
{{ 5|first }}
{{ l|map('string')|last }}
{{ 5|string ~ 'x' }}{{ [1]|string }}{{ missing|string }}
{{ '42'|int }}{{ '42.9'|int }}{{ ' 7 '|int }}{{ 'x'|int }}{{ 'x'|int(5) }}{{ '0x1F'|int(0, 16) }}{{ '1f'|int(base=16) }}{{ none|int }}{{ true|int }}{{ -2.9|int }}{{ '1_000'|int }}{{ '-5'|int }}{{ '+5'|int }}{{ '1e3'|int }}{{ []|int(3) }}{{ 'inf'|int }}{{ '__1'|int }}
{{ missing|int }}
{{ (1e308 * 10)|int }}
{{ '1.5'|float }}{{ 'x'|float }}{{ 'x'|float(2) }}{{ 3|float }}{{ none|float }}{{ ' 1e3 '|float }}{{ 'inf'|float }}{{ 'nan'|float }}{{ '-Infinity'|float }}{{ '1_0'|float }}{{ '.5'|float }}{{ '5.'|float }}{{ '.'|float }}
{{ 'abc'|list }}{{ d|list }}{{ missing|list }}{{ range(3)|list }}{{ (1, 2)|list }}
{{ 5|list }}
{{ d|items|list }}{{ missing|items|list }}
{% for k, v in nested|items %}{{ k }}{% endfor %}
{% for k, v in 5|items %}{{ k }}{% endfor %}
{{ nested|dictsort }}{{ {'b': 2, 'A': 1, 'c': 0}|dictsort }}{{ {'b': 2, 'A': 1, 'c': 0}|dictsort(true) }}{{ {'b': 2, 'A': 1}|dictsort(by='value') }}{{ {'b': 2, 'A': 1}|dictsort(reverse=true) }}
{{ {'b': 2}|dictsort(by='x') }}
{{ {1: 2, 'a': 3}|dictsort }}
{{ missing|dictsort }}
{{ m|map(attribute='a')|list }}{{ m|map(attribute='b.c')|list }}{{ m|map(attribute='b.c', default='D')|list }}{{ m|map(attribute='zz', default=0)|list }}{{ words|map('upper')|join }}{{ [[1, 2], [3]]|map('sum')|list }}{{ [[1, 2], [3]]|map(attribute=0)|list }}{{ ['a', 'b']|map('replace', 'a', 'z')|list }}{{ missing|map('upper')|list }}
{{ m|map|list }}
{{ m|map('nofilter')|list }}
{{ m|map(attribute='a', x=1)|list }}
{{ 5|map('upper')|list }}
{{ [1, 2, 3, 4]|select('odd')|list }}{{ [0, 1, '', 'a', none]|select|list }}{{ [1, 2, 3]|reject('gt', 1)|list }}{{ [0, 1]|reject|list }}{{ [1, 'a', 2.0, true]|select('number')|list }}{{ [1, 'a']|select('in', ['a'])|list }}
{{ m|selectattr('a', 'equalto', 1)|list|length }}{{ m|selectattr('b.c')|list|length }}{{ m|selectattr('b.c', 'defined')|list|length }}{{ m|rejectattr('a', '==', 1)|map(attribute='b')|list }}{{ m|selectattr('a', 'in', [2])|list }}
{{ m|selectattr|list }}
{{ m|selectattr('a', 'notest')|list }}
{{ [1, 2]|select('odd') is iterable }}{{ ([1, 2]|select('odd')) is sequence }}{% set g = [1, 2]|select('odd') %}{{ g|list }}{{ g|list }}
{{ (m|selectattr('role')|list) == [] }}
{{ 'aaa'|replace('a', 'b') }}{{ 'aaa'|replace('a', 'b', 2) }}{{ 'abc'|replace('', '-') }}{{ 5|replace(5, 6) }}{{ none|replace('o', '0') }}{{ 'a'|replace('a', none) }}
{{ 'a'|replace('a') }}
{{ 'a\nb\n\nc'|indent }}|{{ 'a\nb\n\nc'|indent(2, true) }}|{{ 'a\nb\n\nc'|indent(blank=true) }}|{{ 'a\nb'|indent('> ') }}|{{ ''|indent }}|{{ 'a\n'|indent(first=true) }}|{{ 'a\r\nb\x0bc'|indent(1) }}
{{ 5|indent }}
{{ missing|indent }}
{{ '<a>'|safe }}{{ '<a>'|e }}{{ '<a>'|escape|e }}{{ '<a>'|forceescape }}{{ ('<a>'|safe + '<b>') }}{{ '<b>' + '<a>'|safe }}{{ '<a>'|safe ~ '<b>' }}{{ ('<a>'|safe)[1:] + '&' }}{{ '<a>'|safe|upper + '&' }}{{ '&' + ('<a>'|safe|string) }}
{{ ('%s<'|safe) % '<' }}{{ '{}<'.format('<') }}{{ ('{}<'|safe).format('<') }}{{ ('<'|safe).join(['&', 'b']) }}{{ ['<', '&'|safe]|join('<') }}{{ ('a<'|safe).replace('a', '<') }}{{ ['<'|safe] }}{{ ('<'|safe) == '<' }}{{ ('<'|safe) is escaped }}{{ ('< a'|safe).split()[0] + '<' }}{{ ('<'|safe) * 2 + '<' }}{{ '<'|safe|tojson }}{{ '<'|safe|trim + '<' }}{{ '<'|safe|replace('a', 'b') + '<' }}{{ '<'|safe|indent + '<' }}{{ '<'|safe|title + '<' }}
{{ words|unique|list }}{{ words|unique(true)|list }}{{ [1, 1.0, true, 2]|unique|list }}{{ m|unique(attribute='a')|list|length }}
{{ [[1], [1]]|unique|list }}
{{ words|sort }}{{ words|sort(case_sensitive=true) }}{{ words|sort(reverse=true) }}{{ l|sort }}{{ m|sort(attribute='a', reverse=true)|map(attribute='b')|list }}{{ m|sort(attribute='a,b.c')|map(attribute='b')|list }}{{ s|sort }}{{ [none, none]|sort }}{{ [(2, 'a'), (1, 'b')]|sort }}{{ missing|sort }}
{{ [1, 'a']|sort }}
{{ [{}, {'a': 1}]|sort }}
{{ 'abc'|reverse }}{{ l|reverse|list }}{{ range(3)|reverse|list }}{{ l|map('string')|reverse|list }}{{ d|reverse|list }}
{{ 5|reverse }}
{{ l|sum }}{{ m|sum(attribute='a') }}{{ [0.1, 0.2]|sum }}{{ []|sum }}{{ l|sum(start=10) }}{{ [[1], [2]]|sum(start=[]) }}
{{ ['a']|sum }}
{{ l|min }}{{ l|max }}{{ words|min }}{{ words|max(true) }}{{ []|min }}{{ m|max(attribute='a') }}
{{ [1, 'a']|min }}
{{ -5|abs }}{{ 2.5|abs }}{{ true|abs }}{{ (-2.5)|abs }}
{{ 'a'|abs }}
{{ 2.5|round }}{{ 3.5|round }}{{ 2.675|round(2) }}{{ 1234.5|round(-2) }}{{ 5|round }}{{ 15|round(-1) }}{{ 25|round(-1) }}{{ 1.1|round(1, 'ceil') }}{{ 1.19|round(1, 'floor') }}{{ -2.5|round }}{{ 42.55|round|int }}{{ 1e20|round(2) }}{{ 0.5|round }}{{ -0.4|round }}
{{ 1.5|round(0, 'x') }}
{{ [1, 2, 3, 4, 5]|batch(2)|list }}{{ [1, 2, 3]|batch(2, 'x')|list }}{{ [1, 2, 3, 4, 5]|slice(2)|list }}{{ [1, 2, 3]|slice(2, 'f')|list }}{{ [1, 2]|batch(0)|list }}{{ []|batch(2)|list }}
{{ 'a b  c-d é_1'|wordcount }}{{ ''|wordcount }}
{{ '%s-%d-%5.2f|%-5s|%05d|%x|%X|%o|%e|%g|%r|%c|%%|%+d|% d|%i'|format('a', 5, 3.14159, 'ab', 42, 255, 255, 8, 12345.678, 0.0001, 'q', 'z', 5, 5, 7) }}{{ '%(a)s %(b)d' % {'a': 1, 'b': 2} }}{{ '%s' % [1, 2] }}{{ '%s' % 'x' }}{{ '%s %s' % ('a', 'b') }}{{ '%.2s|%5s|%*d' % ('abc', 'é', 4, 7) }}{{ '%d' % 3.7 }}{{ '%s'|format(none) }}{{ '%#x %#o' % (255, 8) }}{{ 'x' % [] }}{{ '%(a)s'|format(a=1) }}
{{ '%d' % 'a' }}
{{ '%s %s' % 'a' }}
{{ '%s' % (1, 2) }}
{{ 'x' % 1 }}
{{ '%z' % 1 }}
{{ '%' % 1 }}
{{ '%(a)s' % 1 }}
{{ '{} {}'.format(1, 'a') }}{{ '{0}{1}{0}'.format('a', 'b') }}{{ '{a} {b[0]} {c.x}'.format(a=1, b=[2], c={'x': 3}) }}{{ '{:>5}|{:<5}|{:^5}|{:*^7}|{:05d}|{:.2f}|{:,}|{:x}|{:+d}|{:%}|{:e}|{:s}|{!r}|{!s:>4}'.format('a', 'b', 'c', 'd', 42, 3.14159, 1234567, 255, 5, 0.25, 12345.678, 'st', 'q', 'z') }}{{ '{{}}'.format() }}{{ '{:{}}|'.format('a', 5) }}{{ '{:10.3f}|{:<10}|{:g}|{:.3}|{:b}|{:#x}|{:_}|{:08.3f}|{:=+6d}|{}'.format(3.14159, 5, 1e10, 2.0, 5, 255, 1000000, -3.14159, 42, missing) }}{{ '{:.3}'.format('abcdef') }}{{ '{}'.format(none) }}{{ '{0[a]}'.format({'a': 1}) }}
{{ '{[a]}'.format({'a': 1}) }}
{{ '{.a}'.format({'a': 1}) }}
{{ '{}'.format() }}
{{ '{a}'.format() }}
{{ '{0}{}'.format(1, 2) }}
{{ '{'.format() }}
{{ '}'.format() }}
{{ '{:d}'.format('a') }}
{{ '{:z}'.format(1) }}
{{ '{:5}'.format(none) }}
{{ '{:5}'.format([]) }}
{{ ' a b  c '.split() }}{{ 'a,b,,c'.split(',') }}{{ 'a b c d'.split(' ', 2) }}{{ ' a b c '.split(none, 1) }}{{ 'a b c'.split(maxsplit=1) }}{{ ''.split() }}{{ ''.split(',') }}{{ 'a,b,c'.rsplit(',', 1) }}{{ ' a b c '.rsplit(none, 1) }}{{ 'abc'.split('bc') }}{{ 'a<x>b<x>c'.split('<x>')[-1] }}{{ '  a  b '.split(none, 0) }}{{ ' a b '.rsplit(none, 0) }}{{ 'a b c'.rsplit() }}{{ 'a\u2003b\x1cc'.split() }}
{{ 'a'.split('') }}
{{ 'a'.split(1) }}
{{ 'a\nb\r\nc\rd\x0be\u2028f\n'.splitlines() }}{{ 'a\n\nb'.splitlines(true) }}{{ ''.splitlines() }}
{{ 'xxabcxx'.strip('x') }}{{ 'xyabc'.lstrip('yx') }}{{ 'abc\n'.rstrip() }}{{ '\u3000a\xa0'.strip() }}|{{ 'éaé'.strip('é') }}{{ 'a'.strip(none) }}{{ 'abc'.strip('') }}
{{ 'abc'.startswith('a') }}{{ 'abc'.startswith(('x', 'a')) }}{{ 'abc'.endswith('bc') }}{{ 'abc'.endswith(('x',)) }}{{ 'abc'.startswith('b', 1) }}{{ 'abc'.endswith('b', 0, 2) }}{{ 'abc'.startswith('') }}{{ ''.endswith('') }}{{ 'abc'.startswith('', 5) }}{{ 'abc'.startswith('c', -1) }}
{{ 'abc'.startswith(['a']) }}
{{ 'abc'.startswith(1) }}
{{ 'aXbX'.replace('X', 'y') }}{{ 'aXbX'.replace('X', 'y', 1) }}{{ 'ab'.replace('', '.') }}{{ 'ab'.replace('', '.', 1) }}{{ ''.replace('', 'x') }}{{ 'aaa'.replace('aa', 'b') }}{{ 'é'.replace('é', 'e') }}{{ 'a'.replace('a', 'b', 0) }}
{{ 'a'.replace('a', 1) }}
{{ 'héllo'.find('l') }}{{ 'héllo'.rfind('l') }}{{ 'a'.find('z') }}{{ 'héllo'.index('o') }}{{ 'abcabc'.find('c', 3) }}{{ 'abcabc'.find('c', 0, 2) }}{{ 'aaa'.count('a') }}{{ 'aaa'.count('aa') }}{{ 'éé'.count('') }}{{ 'abc'.find('', 3) }}{{ 'abc'.find('', 4) }}{{ 'abc'.rfind('', 0, 2) }}
{{ 'a'.index('z') }}
{{ ','.join(['a', 'b']) }}{{ ''.join('abc') }}{{ '-'.join({'a': 1, 'b': 2}) }}
{{ ','.join([1]) }}
{{ '12'.isdigit() }}{{ '²'.isdigit() }}{{ '²'.isdecimal() }}{{ '1.2'.isdigit() }}{{ ''.isdigit() }}{{ 'aé'.isalpha() }}{{ 'a1'.isalnum() }}{{ ' \n'.isspace() }}{{ 'AB1'.isupper() }}{{ 'ab'.islower() }}{{ '1'.isupper() }}{{ 'a\n'.isprintable() }}{{ 'é'.isascii() }}
{{ '5'.zfill(3) }}{{ '-5'.zfill(4) }}{{ 'é'.zfill(3) }}{{ 'ab'.center(7, '*') }}{{ 'ab'.center(5) }}{{ 'abc'.center(6, '-') }}{{ 'a'.ljust(3, '.') }}{{ 'a'.rjust(3) }}|{{ 'a\tb'.expandtabs(4) }}
{{ 'abcabc'.removeprefix('abc') }}{{ 'abcabc'.removesuffix('abc') }}{{ 'a'.removesuffix('') }}{{ 'a=b=c'.partition('=') }}{{ 'a=b=c'.rpartition('=') }}{{ 'a'.partition('=') }}{{ 'a'.rpartition('=') }}
{{ l.index(1) }}{{ l.count(1) }}{{ (1, 2).index(2) }}{{ l.copy() }}
{{ l.index(9) }}
{{ l.index(1, 2) }}
{{ range(5)|list }}{{ range(2, 5)|list }}{{ range(5, 0, -2)|list }}{{ range(0)|list }}{{ range(3) }}{{ range(1, 9, 2) }}{{ range(3).stop }}
{{ range(1, 2, 0) }}
{{ range('a') }}
{{ range(1000000) }}
{{ range() }}
{{ range(1.5) }}
{{ dict(a=1, b=2) }}{{ dict({'x': 1}, y=2) }}{{ dict([('a', 1)]) }}{{ dict() }}
{{ dict(5) }}
{% set j = joiner() %}{{ j() }}a{{ j() }}b{% set k = joiner('|') %}{{ k() }}{{ k() }}
{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.next() }}
{{ cycler() }}
{{ raise_exception('stop ' ~ n) }}
{{ raise_exception() }}
{{ strftime_now('%Y-%m-%d %H:%M:%S %j %a %A %b %B %p %I %y %e %d %m %U %W %V %G %u %w %% %D %F %T %R %c %x %X %C %h %k %l %n %t') }}{{ strftime_now('%-d %-m %_d') }}
{{ strftime_now(5) }}
{{ s is string }}{{ n is string }}{{ n is number }}{{ t is number }}{{ t is integer }}{{ n is integer }}{{ f is float }}{{ t is boolean }}{{ d is mapping }}{{ l is sequence }}{{ d is sequence }}{{ s is sequence }}{{ missing is sequence }}{{ none is iterable }}{{ s is iterable }}{{ missing is iterable }}{{ range(2) is sequence }}{{ d.items() is sequence }}{{ namespace() is iterable }}{{ namespace() is mapping }}
{{ 3 is odd }}{{ 4 is even }}{{ 6 is divisibleby 3 }}{{ 6 is divisibleby(4) }}{{ 'a' is lower }}{{ 'A' is upper }}{{ 1 is sameas 1 }}{{ none is sameas none }}{{ 1 is eq 1 }}{{ 1 is ne 1 }}{{ 1 is lt 2 }}{{ 2 is ge 2 }}{{ 'a' is in ['a'] }}{{ 'upper' is filter }}{{ 'odd' is test }}{{ 'x' is filter }}{{ range is callable }}{{ missing is callable }}{{ 2.0 is even }}
{{ 'a' is odd }}
{{ missing is odd }}
{{ 1 is defined is string }}
{{ 1 is not defined }}{{ not 1 is defined }}{{ x is defined and x }}{{ (x is defined) or 'y' }}{{ 1 is string or 2 is number }}
{{ 1 is defined if true else 2 }}
{{ x is equalto }}
{{ x is divisibleby }}
{{ [1, 2,] }}{{ (1,) }}{{ {'a': 1,} }}{{ dict(a=1,) }}
{{ 1, 2 }}
{{ (1, 2)[0] }}{{ [1, 2][1] }}{{ {'a': 5}.a }}{{ {'a': 5}['a'] }}{{ 'abc'[1] }}{{ 'abc'.1 }}
{{ d['a']['c'][1] }}{{ d.a.c.0 }}{{ d['a'].c[-1] }}
{{ nested.b.c.d }}{{ nested['b']['c'] }}
{{ -l[0] }}{{ -s|length }}{{ not l|length }}{{ -1|abs }}{{ 2 + 3|abs }}{{ 'a' ~ 'b'|upper }}
{{ s|upper|lower|title }}
{{ s | replace("l", "L") | length }}
{{ (s|length) + (l|length) }}
{{ 1 if true }}{{ missing if true }}
{{ 'x' if missing is defined and missing.y else 'z' }}
{{ m[0].a }}{{ m[-1]['a'] }}{{ (m|first).a }}{{ (m|last)['b'] }}
{{ m|groupby('a') }}
{% for g in m|groupby('a') %}{{ g.grouper }}:{{ g.list|length }}{{ g[0] }};{% endfor %}{% for k, v in m|groupby('b.c', default='-') %}{{ k }}{{ v|length }}{% endfor %}{{ ['b', 'A', 'a']|groupby(0)|list }}
{{ 1000|filesizeformat }}{{ 1|filesizeformat }}{{ 999|filesizeformat }}{{ 123456789|filesizeformat }}{{ 123456789|filesizeformat(true) }}
{{ 'a b/c?é=1&'|urlencode }}{{ {'a b': 1, 'c': 'é/'}|urlencode }}
{{ {'a': 1, 'b': none, 'c': '<'}|xmlattr }}
{{ 'Hello World foo'|truncate(8) }}{{ 'Hello World foo'|truncate(8, true) }}{{ 'Hello'|truncate(3) }}{{ 'Hello World foo bar'|truncate(11, false, '~', 0) }}{{ 'abc'|center(7) }}|
{{ 'a'|attr('upper') is callable }}{{ d|attr('b') is undefined }}{{ namespace(q=3)|attr('q') }}
{% print 1 + 1 %}
a
{%- if true %} b {%- endif %}
c
  {% if true %}
  x
  {% endif %}
y
  {%+ if true %}
  x
  {%+ endif %}
{% if true +%}
x
{% endif +%}
y
a {{- 1 -}} b
a{{ 1 }}
{# c #}
  {# c #}x
  {#- c -#}  x
{{ 1 }}  {% if true %}  2{% endif %}
 {{- '\n' }}
{{ '{{' }}{{ '%}' }}{{ "}}" }}{{ {'a': {'b': 1}} }}
{% if a%}x{%else%}y{%endif%}
{%if true%}a{%-endif-%}b
{%  for   x   in   l   %}{{x}}{%   endfor   %}
{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}{{ '<|' + message['role'] + '|>' + message['content'] | trim + eos_token }}{% endfor %}
{% for message in messages[::-1] %}{{ message.content }}{% endfor %}
{{ messages[0]['role'] }}{{ messages|length }}{{ messages[-1:] }}{{ messages[1:]|map(attribute='content')|join('|') }}
{% set loop_messages = messages[1:] if messages[0].role == 'system' else messages %}{{ loop_messages|length }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ messages | rejectattr('role', 'in', ['user', 'x']) | map(attribute='content') | first }}
{% set ns = namespace(found=false, idx=-1) %}{% for m in messages %}{% if m.role == 'user' and not ns.found %}{% set ns.found = true %}{% set ns.idx = loop.index0 %}{% endif %}{% endfor %}{{ ns.found }}{{ ns.idx }}
{{ {'a': 1} | length }}{{ [] | length }}
{{ ['a', ['b', ['c']]] }}{{ {'a': {'b': {}}} }}
{{ "abc"[:1] ~ "abc"[1:] }}
{{ 10 ** 18 }}{{ 2 ** 62 }}{{ -2 ** 63 }}
{{ 9223372036854775807 }}{{ -9223372036854775807 - 1 }}
{{ 1.0 * 3 }}{{ 3 / 1 }}{{ 10 // 3.0 }}{{ 5 % 2.5 }}{{ 1 - 0.9 }}{{ 1e22 }}{{ 123456789.123456789 }}{{ 1/3 }}
{{ true + true }}{{ true and false }}{{ true is true }}{{ 1 is true }}{{ false == 0 }}{{ [true, false, none] }}{{ True }}{{ None }}{{ False }}
{{ 'a' in namespace(a=1) }}
{{ caller }}{{ varargs }}{{ kwargs }}{{ loop }}
{{ l.0 }}{{ nested.a.1.b.0 }}
{{ "%s" | format("x") }}{{ "a" "b" | upper }}
{{ [x for x in l] }}
{{ lambda }}{{ is }}{{ if }}
{{ d.a.c is iterable and d.a.c is not string and d.a.c is not mapping }}
{{ 'ab' 'c' ~ 1 }}{{ ('a', 'b',) }}{{ ((1)) }}{{ ((1,),) }}
{%- set x = [] -%}{%- for i in range(3) -%}{%- set x = x + [i] -%}{{ x }}{%- endfor -%}{{ x }}
{% set x = {'k': []} %}{{ x.k }}{{ x['k']|length }}{{ x.k is sequence }}
{% include 'x' %}
{% extends 'x' %}
{% import 'x' as y %}
{% do 1 %}
{% trans %}x{% endtrans %}
{{ 'a' if 'x' in s else 'b' }}{{ not 'x' in s }}{{ 'x' not in s }}{{ 1 not in l == true }}
{{ (l|select('gt', 1)|list)[0] }}{{ (l|select('gt', 1)|first) }}{{ [1,2,3]|select('gt', 5)|first is undefined }}
{{ "a;b".split(";")|last }}{{ "x".split(";")[1] is undefined }}{{ "x".split(";")[1] }}
{{ s.split(',')[0].strip().lower().replace('h', 'j') }}
{{ '\u2028' in '\u2028' }}{{ '😀'|length }}{{ '😀é'[0] }}{{ '😀é'[::-1] }}{{ 'e\u0301'|length }}{{ '日本語'[1:] }}
'''.strip("\n").split("\n")
