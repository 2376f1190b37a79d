"""Single constructs and their corners, each rendered with SNIPPET_CONTEXT by both sides of check_template.py."""

CONTEXT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None}], "x": 5, "s": "abc",
           "n": [1, 2, 3], "d": {"a": 1, "items": 2, "k": {"z": [0]}}, "bos_token": "<s>"}

SNIPPETS = r"""
{% set x = 1 %}{% for i in n %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}
{% for i in n %}{% set y = i %}{% endfor %}{{ y }}
{% if true %}{% set y = 1 %}{% endif %}{{ y }}
{% if false %}{% set x = 1 %}{% endif %}{{ x }}
{% for i in n %}{% if i == 2 %}{% set x = 'two' %}{% endif %}{{ x }}{% endfor %}
{% set x %}a{% set x = 2 %}b{{ x }}{% endset %}{{ x }}
{% with x = 1, y = x %}{{ x }}{{ y }}{% set x = 9 %}{{ x }}{% endwith %}{{ x }}
{% macro f() %}{{ x }}{% set x = 7 %}{{ x }}{% endmacro %}{{ f() }}{{ x }}
{% set x = 6 %}{% macro f() %}{{ x }}{% endmacro %}{% set x = 8 %}{{ f() }}
{% macro f(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(b=3) }}{{ f(b=3, a=4) }}
{% macro f(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, 3, z=4) }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, b=2) }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, a=2) }}
{% macro f(a) %}{{ a is defined }}{% endmacro %}{{ f() }}{{ f(none) }}
{% macro f(a) %}[{{ caller() }}]{% endmacro %}{% call f(1) %}body {{ x }}{% endcall %}
{% macro f() %}{% for i in n %}{{ caller(i, k=2) }}{% endfor %}{% endmacro %}{% call(i, k) f() %}<{{ i }}{{ k }}>{% endcall %}
{% macro f() %}{{ caller is defined }}{% endmacro %}{{ f() }}
{% macro f() %}x{% endmacro %}{% call f() %}{% endcall %}
{% macro f() %}{{ caller() }}{% endmacro %}{{ f() }}
{% macro fact(i) %}{{ 1 if i < 2 else i * fact(i - 1) | int }}{% endmacro %}{{ fact(5) }}
{% macro f(l) %}{% for i in l %}{{ loop.index }}{% if i is iterable %}{{ f(i) }}{% endif %}{% endfor %}{% endmacro %}{{ f([1, [2, [3]]]) }}
{% for i in n %}{{ loop.index }}{% for j in 'ab' %}{{ loop.index }}{{ j }}{% endfor %}{{ loop.index }}{% endfor %}
{% for i in n %}{% set outer = loop %}{% for j in 'ab' %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}
{% for i in n if i > 1 %}{{ loop.index }}/{{ loop.length }}{{ loop.first }}{{ loop.last }}{% endfor %}
{% for i in n if loop.index > 1 %}{{ i }}{% endfor %}
{% for k in n %}{% for i in n if loop.index > 1 %}{{ i }}{% endfor %}{% endfor %}
{% for i in [] %}a{% else %}b{% endfor %}
{% for i in n %}{% continue %}{% else %}else{% endfor %}
{% for i in n %}{% break %}{% else %}else{% endfor %}
{% for i in n %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% else %}else{% endfor %}
{% for a, b in d.items() %}{{ a }}={{ b }};{% endfor %}
{% for a, (b, c) in [(1, (2, 3)), (4, 'xy')] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{% for a, b in [1] %}{% endfor %}
{% for i in missing %}x{% else %}e{% endfor %}
{% for i in none %}x{% endfor %}
{% for i in 5 %}x{% endfor %}
{% for i in d %}{{ i }}{% endfor %}
{% for i in 1, 2 %}{{ i }}{% endfor %}
{% for i in n %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }}{% endfor %}
{% for i in n | select %}{{ loop.revindex }}{{ loop.revindex0 }}{% endfor %}
{% for i in [1, 1, 2, 1] %}{{ loop.changed(i) }}{{ loop.cycle('a', 'b') }}{% endfor %}
{% for i in n %}{{ loop }}{% break %}{% endfor %}
{{ loop is defined }}{{ loop }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set a, b = b, a %}{{ a }}{{ b }}
{% set ns = namespace() %}{% set ns.a, b = 1, 2 %}{{ ns.a }}{{ b }}
{% set ns = namespace(a=1) %}{{ ns.a }}{{ ns['a'] }}{{ ns.b is defined }}{{ ns.items }}{{ ns }}
{% set ns = namespace({'q': 1}, w=2) %}{{ ns.q + ns.w }}
{% set d.a = 1 %}
{% set q.a = 1 %}
{% set ns = namespace() %}{% for i in n %}{% set ns.last = i %}{% endfor %}{{ ns.last }}
{{ d.items }}
{{ d['items'] }}{{ d.get('items') }}{{ d.k.z[0] }}{{ d.k.z.0 }}{{ d.nothing }}{{ d['nothing'] }}
{{ d.keys() | list }}{{ d.values() | list }}{{ d.keys() }}{{ d.values() }}{{ d.items() }}
{{ d.nothing.more }}
{{ missing }}{{ missing is defined }}{{ missing | default('z') }}{{ not missing }}{{ missing == nope }}{{ missing == none }}
{{ missing.a }}
{{ missing['a'] }}
{{ missing() }}
{{ missing + 1 }}
{{ 1 + missing }}
{{ 'a' + missing }}
{{ 'a' ~ missing ~ none ~ true ~ 1.0 }}
{{ missing | length }}{{ missing | list }}{{ missing | join }}{{ missing | upper }}{{ missing | first }}{{ missing | last }}
{{ missing < 1 }}
{{ -missing }}
{{ missing in n }}{{ 1 in missing }}
{{ missing[1:] }}
{{ none.a }}{{ none['a'] }}
{{ none[1:] if x else 1 }}{{ messages[1].content[1:] }}
{{ messages[1].content | length }}
{{ messages[1].content ~ '' }}{{ messages[1].content }}
{{ messages[1].content + 'a' }}
{{ 'a' in messages[1].content }}
{{ messages[5] }}{{ messages[5] is defined }}{{ messages[-1].role }}
{{ messages[5].role }}
{{ s[0] }}{{ s[-1] }}{{ s[9] }}{{ s[0:2] }}{{ s[::-1] }}{{ s['upper']() }}{{ s.upper() }}{{ s.nothing }}
{{ s.nothing() }}
{{ x() }}
{{ x.a }}{{ x['a'] }}{{ x[0] }}
{{ n[true] }}{{ n['1'] }}{{ n[1.0] }}{{ n[none] }}
{{ {1: 'a'}[true] }}{{ {1: 'a'}[1.0] }}{{ {'a': 1, 'a': 2} }}{{ {none: 1, (1, 2): 3} }}
{{ {[1]: 2} }}
{{ {}[[]] }}
{{ n.append(4) }}
{{ d.update({}) }}
{{ d.pop('a') }}
{{ n.append }}{{ n.append is defined }}
{{ s.__class__ }}{{ s.__class__ is defined }}{{ d.__len__ }}
{{ s.__class__.x }}
{{ 1 + 1.0 }}{{ 7 // 2 }}{{ -7 // 2 }}{{ 7 % -3 }}{{ -7 % 3 }}{{ 7 / 2 }}{{ 4 / 2 }}{{ 2 ** 10 }}{{ 2 ** -1 }}{{ 2 ** 0.5 }}
{{ 2 ** 3 ** 2 }}{{ -2 ** 2 }}{{ - 2 | abs }}{{ -2 | abs }}{{ +2 }}{{ --2 }}{{ not not 1 }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 1.0 % 0 }}
{{ true + true }}{{ true * 3 }}{{ 'a' * true }}{{ -true }}{{ 1 == true }}{{ 1 is sameas true }}
{{ 'a' * 3 }}{{ 3 * 'a' }}{{ [1] * 2 }}{{ (1,) * 2 }}{{ 'a' * -1 }}{{ [1] + [2] }}{{ (1,) + (2,) }}
{{ [1] + (2,) }}
{{ 'a' - 'b' }}
{{ 'a' < 'b' }}{{ 'a' < 'B' }}{{ [1, 2] < [1, 3] }}{{ (1,) < (1, 2) }}{{ 1 < 2.5 < 3 }}{{ 1 < 2 > 5 }}{{ 1 == 1.0 }}{{ '1' == 1 }}
{{ 'a' < 1 }}
{{ none < 1 }}
{{ {} < {} }}
{{ 1 if x }}{{ 1 if not x }}{{ (1 if not x) is defined }}{{ 1 if not x else 2 if not x else 3 }}
{{ x or 1 }}{{ 0 or 'a' }}{{ x and 'b' }}{{ [] and 1 }}{{ not x or 1 }}
{{ 'a' in s }}{{ 'z' not in s }}{{ 1 in n }}{{ 'a' in d }}{{ not 'a' in d }}{{ '' in s }}{{ 5 in range(9) }}{{ 'x' in ('x',) }}
{{ 1 in s }}
{{ none in n }}{{ [1] in [[1]] }}
{{ 5 is number }}{{ true is number }}{{ true is integer }}{{ 1.0 is float }}{{ 's' is sequence }}{{ d is sequence }}{{ d is mapping }}
{{ n is iterable }}{{ 5 is iterable }}{{ none is iterable }}{{ missing is iterable }}{{ missing is sequence }}{{ missing is mapping }}
{{ (n | map('string')) is sequence }}{{ (n | map('string')) is iterable }}{{ range(3) is sequence }}{{ d.items() is sequence }}
{{ 4 is divisibleby 2 }}{{ 4 is divisibleby(3) }}{{ 3 is odd }}{{ 3 is even }}{{ 3.0 is odd }}{{ x is gt 3 }}{{ x is not none }}
{{ x is in n }}{{ 1 is in n }}{{ 's' is in ['s'] }}{{ x is eq 5 and x is ne 4 }}{{ x is defined is true }}
{{ 'a' is string and 'b' is string or false }}{{ not x is none }}{{ x is not string }}{{ x is callable }}{{ s.upper is callable }}
{{ 'Ab' is upper }}{{ 'AB' is upper }}{{ 'ab1' is lower }}{{ '' is lower }}
{{ 's' is odd }}
{{ n | first }}{{ n | last }}{{ [] | first }}{{ [] | last }}{{ 'ab' | last }}{{ d | first }}{{ n | max }}{{ [] | max }}{{ n | sum }}
{{ n | map('string') | last }}
{{ n | map('string') | length }}
{{ (n | map('string'))[0] }}{{ (n | select)[0] is defined }}
{{ 'y' if [] | select else 'n' }}{{ 'y' if n | map('upper') else 'n' }}
{% set g = n | map('string') %}{{ g | list }}{{ g | list }}{{ g | join }}
{{ none | map('upper') | list }}{{ 0 | map('upper') | list }}{{ none | selectattr('a') | list }}
{{ 5 | map('upper') | list }}
{{ messages | map(attribute='role') | join(',') }}{{ messages | map(attribute='role.x') | list }}
{{ messages | map(attribute='nothing.x') | list }}
{{ messages | map(attribute='nothing', default='?') | list }}{{ messages | selectattr('content') | list | length }}
{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | first }}
{{ messages | groupby('role') }}{% for r, l in messages | groupby('role') %}{{ r }}{{ l | length }}{% endfor %}
{{ (messages | groupby('role'))[0].grouper }}{{ (messages | groupby('role'))[0].list | length }}
{{ [3, 1, 2] | sort }}{{ ['b', 'A', 'a'] | sort }}{{ ['b', 'A', 'a'] | sort(case_sensitive=true) }}{{ [3, 1] | sort(true) }}
{{ [1, 'a'] | sort }}
{{ [none, 1] | sort }}
{{ d | dictsort }}{{ {'b': 1, 'A': 2} | dictsort(true) }}{{ {'b': 1, 'A': 2} | dictsort(by='value', reverse=true) }}
{{ d | items | list }}{{ missing | items | list }}
{{ n | items | list }}
{{ [1, [2], {'a': none}] | tojson }}{{ 'é"\\\n\u2028<' | tojson }}{{ 'é😀\x7f' | tojson(ensure_ascii=true) }}{{ 1.0 | tojson }}{{ 1e100 | tojson }}
{{ {'b': 1, 'a': [1, {}], 'c': []} | tojson(indent=2) }}{{ [1] | tojson(indent=0) }}{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}
{{ {'b': 1, 'a': [2]} | tojson(indent='--', separators=('; ', ' = ')) }}{{ {'a': 1} | tojson(separators=[',', ':']) }}
{{ {1: 2, none: 3, true: 4, 1.5: 6} | tojson }}{{ (1, 2) | tojson }}{{ true | tojson }}{{ none | tojson }}
{{ missing | tojson }}
{{ {'a': missing} | tojson }}
{{ range(3) | tojson }}
{{ {(1, 2): 3} | tojson }}
{{ d | tojson | length }}{{ d | tojson | upper }}
{{ 'a b' | title }}{{ "it's o-k (x) <y" | title }}{{ "it's".title() }}{{ 'ABC def' | capitalize }}{{ 'ŉ' | upper }}{{ 'ΑΣ' | lower }}
{{ '  a ' | trim }}|{{ 'xxaxx' | trim('x') }}|{{ 5 | trim }}|{{ none | trim }}|{{ '\u3000a\x1f' | trim }}|
{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\n\nb' | indent(1, blank=true) }}|{{ '' | indent }}|{{ 'a\n' | indent }}|
{{ 5 | indent }}
{{ 'abc' | replace('b', 'x') }}{{ 'aaa' | replace('a', 'b', 2) }}{{ 5 | replace(5, 6) }}{{ 'ab' | replace('', '-') }}{{ 'ab'.replace('', '-', 2) }}
{{ '3' | int }}{{ '3.7' | int }}{{ 'x' | int }}{{ 'x' | int(9) }}{{ '0x1f' | int(base=16) }}{{ '0b11' | int(0, 2) }}{{ 3.9 | int }}{{ -3.9 | int }}{{ none | int }}{{ '1_0' | int }}{{ ' 7 ' | int }}{{ true | int }}{{ '1e3' | int }}
{{ '3' | float }}{{ 'x' | float }}{{ 'inf' | float }}{{ 'nan' | float }}{{ '1e400' | float }}{{ [] | float(2) }}{{ '1_0.5' | float }}
{{ missing | int }}
{{ 2.5 | round }}{{ 3.5 | round }}{{ 2.675 | round(2) }}{{ 1234.5 | round(-2) }}{{ 15 | round(-1) }}{{ 25 | round(-1) }}{{ 2.1 | round(0, 'ceil') }}{{ 7 | round(0, 'floor') }}{{ -2.5 | round }}
{{ 1.0 }}{{ 0.1 + 0.2 }}{{ 1e15 }}{{ 1e16 }}{{ 1e-4 }}{{ 1e-5 }}{{ 123456789.123456789 }}{{ -0.0 }}{{ 1e308 * 10 }}{{ 5e-324 }}{{ 1.5e300 }}
{{ [1.0, 'a', none, true, (1,), {'b': 'c'}] }}{{ ["it's", 'say "x"', 'both\'"', 'n\n\t\\', '\x00\x7f\xad\u200b\ue000é😀'] }}
{{ n | batch(2) | list }}{{ n | batch(2, 'x') | list }}{{ n | slice(2) | list }}{{ n | slice(2, 'x') | list }}{{ n | slice(5) | list }}
{{ n | reverse }}
{{ n | reverse | list }}{{ 'abc' | reverse }}{{ d | reverse | list }}{{ range(3) | reverse | list }}
{{ 5 | reverse }}
{{ [1, 2, 1, 'a', 'A'] | unique | list }}{{ ['a', 'A'] | unique(true) | list }}
{{ [[1], [1]] | unique | list }}
{{ n | join('-') }}{{ n | join }}{{ ['a', 1, none] | join(', ') }}{{ messages | join('|', attribute='role') }}{{ 'abc' | join('.') }}{{ d | join(',') }}
{{ ', '.join(['a', 'b']) }}{{ '-'.join('abc') }}
{{ ', '.join([1]) }}
{{ 'a,b,,c'.split(',') }}{{ ' a  b '.split() }}{{ 'a b c'.split(' ', 1) }}{{ 'a b c'.split(maxsplit=1) }}{{ 'a b c'.rsplit(none, 1) }}{{ ''.split() }}{{ ''.split(',') }}
{{ 'abc'.split('') }}
{{ ' a  b c '.split(none, 1) }}{{ ' a  b c '.rsplit(none, 1) }}{{ ' a '.split(none, 0) }}{{ ' a '.rsplit(none, 0) }}{{ '  '.split(none, 0) }}{{ ' a b '.split(none, 9) }}{{ ' a b '.rsplit(none, 9) }}{{ 'a,b,c'.rsplit(',', 0) }}
{{ 'a\nb\r\nc\x0bd'.splitlines() }}{{ 'a=b=c'.partition('=') }}{{ 'a=b=c'.rpartition('=') }}{{ 'abc'.partition('x') }}
{{ 'abc'.startswith(('x', 'a')) }}{{ 'abc'.endswith('c', 0, 2) }}{{ 'abc'.find('c') }}{{ 'abc'.find('x') }}{{ 'äbc'.find('c') }}{{ 'abcabc'.rfind('b') }}{{ 'aaa'.count('a') }}
{{ 'abc'.index('x') }}
{{ 'abc'.startswith(1) }}
{{ 'a'.center(5, '*') }}{{ 'ab'.center(5, '*') }}{{ 'abc'.center(6, '*') }}{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3) }}{{ '-5'.zfill(4) }}{{ '5'.zfill(3) }}
{{ '%s and %d' % ('a', 5) }}{{ '%s' % 5 }}{{ '%5.1f|%-5s|%05d' % (3.14159, 'ab', 42) }}{{ '%(a)s' % {'a': 1} }}{{ '%%' % () }}{{ '%s' % none }}{{ '%r' % 'a' }}{{ '%s' % [1] }}
{{ '%d' % 'a' }}
{{ '%s %s' % 'a' }}
{{ 'x' % 5 }}
{{ '{} {}'.format(1, 'a') }}{{ '{1}{0}'.format(1, 2) }}{{ '{a}'.format(a=3) }}{{ '{{}}'.format() }}{{ '{!r}'.format('a') }}
{{ '{}'.format() }}
{{ '{'.format() }}
{{ range(5) }}{{ range(1, 9, 3) | list }}{{ range(3, 0, -1) | list }}{{ range(3)[1] }}{{ range(9)[2:4] }}{{ range(3) | length }}{{ range(0, 10, 3)[::-1] | list }}
{{ range(0, 5, 0) }}
{{ range(100001) }}
{{ range('a') }}
{{ dict(a=1) }}{{ dict([('a', 1), ['b', 2]]) }}{{ dict({'a': 1}, a=2) }}{{ dict() }}
{{ dict(1) }}
{{ [1, 2, 3][1:] }}{{ [1, 2, 3][-2:] }}{{ [1, 2, 3][::2] }}{{ (1, 2)[::-1] }}{{ 'abc'[5:] }}{{ 'abc'[::-2] }}{{ n[:'a'] }}
{{ n[::0] }}
{{ [1, 2, 3].index(2) }}{{ [1, 1].count(1) }}{{ (1, 2).index(2) }}
{{ [1].index(2) }}
{{ f'a' }}
{{ 1_000 }}{{ 0x1F }}{{ 0o17 }}{{ 0b101 }}{{ 1e3 }}{{ 1.5E-3 }}{{ 1_0.0_1 }}{{ 1.e }}
{{ 'a' 'b' "c" }}{{ 'a\
b' }}{{ '\x41\u00e9\U0001F600\101\0' | length }}{{ '\d\é' }}
{{ '\N{DASH}' if 0 else 1 }}
{{ {'a': {'b': {}}} }}{{ {'a': 1}.a }}{{{'a': 1}['a']}}
{{ [1, 2,] }}{{ (1, 2,) }}{{ {'a': 1,} }}{{ () }}{{ (1) }}{{ 1, 2 }}{{ f(1,) if 0 }}
{{ x if x is defined and x > 3 and not (x == 4) else 'no' }}
{{ x | default(1) | string | length + 1 }}{{ 'a' ~ 1 + 2 }}{{ 1 + 2 ~ 'a' }}{{ 2 * 3 ~ 4 }}
{% raw %}{{ x }}{% if %}{# #}{% endraw %}{%- raw -%}  {{ y }}  {%- endraw -%} z
{# comment {{ x }} {% if %} #}a{#- b -#} c {##}d{#-#}e
  {% if x %}
    yes
  {% endif %}
  {%- if x %} a {%- endif %} b
   {%+ if x %}kept{% endif +%}
{% if x -%}   a   {%- endif %}
{{ x -}}
   {{- x }}
{{ bos_token }}{% print x %}{% print 'a' ~ x %}
{% filter upper %}a{{ s }}{% endfilter %}{% filter replace('a', 'b') | title %}ab a{% endfilter %}
{% set y | upper %}a{{ s }}{% endset %}{{ y }}{% set y | replace('A', 'x') | length %}AAb{% endset %}{{ y }}
{% generation %}a{% set x = 1 %}{{ x }}{% endgeneration %}{{ x }}
{% if x: %}colon{% endif %}{% for i in n: %}{{ i }}{% endfor %}
{% if x == 5 %}a{% elif x == 6 %}b{% else %}c{% endif %}{% if not x %}{% elif x > 4 %}d{% endif %}
{% if %}{% endif %}
{% for %}{% endfor %}
{% endif %}
{% else %}
{% foo %}
{{ }}
{{ x
{% if x %}
{% macro f( %}{% endmacro %}
{% macro f(a=1, b) %}{% endmacro %}
{% set 1 = 2 %}
{% set true = 2 %}
{% for loop in n %}{% endfor %}
{% for i in n %}{% set loop = 1 %}{% endfor %}
{{ x | }}
{{ x is }}
{{ x. }}
{{ x[ }}
{{ (1 }}
{{ [1 2] }}
{{ {'a' 1} }}
{{ f(a=1, 2) }}
{{ f(**d, *n) }}
{{ 1 = 1 }}
{{ a b }}
{{ 'a }}
{{ x ! y }}
{{ x is defined is defined }}
{{ x is string is defined }}
{{ raise_exception('boom') }}
{{ raise_exception("multi\nline " ~ x) }}
{% if false %}{{ raise_exception('no') }}{% endif %}fine
{{ strftime_now('%Y-%m-%d') }}{{ strftime_now('%d %b %Y, %A %H:%M:%S %j %y %B %% %-d') }}{{ strftime_now('') }}
{{ range is callable }}{{ namespace is callable }}{{ dict(*[[('a', 1)]], **{'b': 2}) }}
{% macro f(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ f(*[1, 2]) }}{{ f(*[1], **{'b': 3}) }}{{ f(**{'a': 1, 'b': 2}) }}
{{ n | tojson | safe }}{{ ('<' | safe) }}{{ '<' | e }}{{ '<a href="x">&\'' | escape }}
{{ 'foo bar baz qux' | truncate(9) }}{{ 'foo bar baz qux' | truncate(9, true) }}{{ 'foo bar baz qux' | truncate(11) }}{{ 'foo bar' | truncate(11, false, '!', 0) }}
{{ 'a b' | wordcount }}{{ 'a' | center(5) }}|{{ 'a%sb' | format(3) }}{{ '%(x)s' | format(x=4) }}{{ s | attr('upper') is callable }}{{ d | attr('a') }}
{{ x | abs }}{{ -5 | abs }}{{ -1.5 | abs }}{{ 'a' | abs }}
{{ [1, 2, 3] | min }}{{ ['b', 'A'] | min }}{{ messages | max(attribute='role') }}{{ [1, 'a'] | min }}
{{ [[1, 2], [3]] | sum(start=[]) }}{{ [{'a': 1}, {'a': 2}] | sum(attribute='a') }}{{ ['a'] | sum }}
{{ '<|im_start|>' + messages[0]['role'] + '\n' + messages[0].content ~ '<|im_end|>' }}
{%- for message in messages %}{{- '\n' if not loop.first -}}{{ message.role }}:{{ message['content'] or 'nothing' }}{%- endfor %}
""".strip("\n")


def snippets():
    """One a line, but where a line begins with spaces (or inside "..."), it belongs to the one before."""
    out = []
    for line in SNIPPETS.split("\n"):
        if out and (line.startswith(" ") or out[-1].endswith(("\\", " -}}"))):
            out[-1] += "\n" + line
        else:
            out.append(line)
    return out
