"""Small random templates: expressions grown by the type they should have, with a pinch of wrong types, inside random
statements and whitespace control."""

CONTEXT = {
    "s": "Hello, World",
    "t": " a-b c\t(d) \n",
    "u": "Straße ÉÀ ǆ Σίσυφος ﬁ 世界",
    "e": "",
    "n": 7,
    "m": -3,
    "z": 0,
    "f": 2.5,
    "g": -0.125,
    "h": 1e22,
    "yes": True,
    "no": False,
    "nil": None,
    "l": [3, 1, 2],
    "w": ["pear", "Apple", "fig", "apple"],
    "x": [],
    "mix": [1, "a", None, 2.0, [1], {"k": "v"}, True],
    "d": {"b": 2, "a": 1, "C": 3, "items": "own", "x y": None},
    "rows": [{"name": "Bob", "age": 30, "tags": ["x", "y"]}, {"name": "al", "age": 4.5}, {"name": "Cy", "age": 30,
             "in": {"deep": "D"}}],
}
STRINGS = ["s", "t", "u", "e"]
INTS = ["n", "m", "z"]
FLOATS = ["f", "g", "h"]
LISTS = ["l", "w", "x", "mix", "rows"]

LITERALS = {
    "str": ["'a'", '"b"', "''", "'a b'", "'x\\ny'", "'\\''", "'\\t\\u00e9\\x41'", "'%s'", "'%d-%5.2f|'", "', '", "'ß'", "'l'",
            "'name'", "'{}{}'", "'12'", "' 3.5 '", "'0x1f'", "'ab' 'cd'", "'Ab-cD eF'", "'\\q'"],
    "int": ["0", "1", "2", "3", "10", "255", "1_000", "0x1f", "0b11"],
    "float": ["0.5", "1.0", "1e3", "2.25", "1e-5", "3.14159", "1e16", "123456789.125"],
    "bool": ["true", "false", "True"],
    "list": ["[]", "[1, 2, 3]", "['b', 'a']", "(1, 'x')", "[[1], [2, 3]]", "(5,)", "[none, 0]"],
    "dict": ["{}", "{'a': 1}", "{'k': [1], 2: 'two'}", "dict(a=1, b='x')"],
    "any": ["none", "missing", "nil", "nothing.at"],
}
COMPARE = ["==", "!=", "<", "<=", ">", ">=", "in", "not in"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "true", "false", "mapping",
         "sequence", "iterable", "callable", "upper", "lower", "odd", "even", "divisibleby 3", "divisibleby(2)", "eq 1",
         "equalto('a')", "ne none", "gt 2", "lessthan 5", "in [1, 'a']", "sameas true", "filter", "test", "ge(1)"]
STR_FILTERS = ["upper", "lower", "title", "capitalize", "trim", "trim('aH ')", "string", "replace('l', 'L')",
               "replace('a', '', 1)", "replace('', '-')", "indent", "indent(2, true)", "indent('> ', blank=true)", "center(20)",
               "truncate(8)", "truncate(9, true, '!')", "truncate(10, leeway=0)", "default('z')", "reverse",
               "format(1, 2)", "default('q', true)"]
LIST_FILTERS = ["sort", "sort(reverse=true)", "unique | list", "reverse | list", "list", "map('string') | list", "select | list",
                "reject('none') | list", "map('upper') | list", "batch(2) | list", "batch(2, 'z') | list", "slice(2) | list",
                "slice(3, 0) | list", "sort(case_sensitive=true)", "select('string') | list", "reject('odd') | list",
                "map(attribute='name') | list", "selectattr('age') | list", "selectattr('age', 'gt', 5) | list",
                "rejectattr('name', 'equalto', 'Bob') | list", "sort(attribute='age')", "sort(attribute='name,age')",
                "map(attribute='tags.0', default='-') | list", "groupby('age') | list", "map('length') | list",
                "map('default', 'x') | list", "selectattr('in.deep', 'defined') | map(attribute='name') | list"]
STR_METHODS = ["strip()", "lstrip()", "rstrip('d')", "upper()", "lower()", "title()", "capitalize()", "swapcase()",
               "replace('l', 'x', 1)", "center(15, '*')", "ljust(14)", "rjust(14, '.')", "zfill(14)", "removeprefix('He')",
               "removesuffix('d')", "strip('Hd')"]
INT_FROM_STR = ["find('l')", "rfind('l')", "count('l')", "find('l', 4)", "count('')", "find('o', -4)", "rfind('l', 0, 5)",
                "index('l')", "rindex('o')"]
BOOL_FROM_STR = ["startswith('He')", "endswith('d')", "isalpha()", "isdigit()", "isupper()", "islower()", "isspace()",
                 "isalnum()", "startswith(('a', 'H'))", "isnumeric()", "isdecimal()", "endswith('o', 0, 5)", "isascii()"]
LIST_FROM_STR = ["split()", "split(',')", "split('l', 1)", "rsplit('l', 1)", "rsplit(none, 1)", "splitlines()", "split(maxsplit=1)",
                 "partition(',')", "rpartition('o')", "splitlines(true)", "rsplit()"]
SLICES = ["[1:]", "[:-1]", "[::-1]", "[1:3]", "[::2]", "[-2:]", "[5:1:-2]", "[:]", "[10:]", "[-100:2]", "[3::-1]"]


class Grower:
    def __init__(self, rng):
        self.r = rng
        self.extra = {"str": [], "int": [], "any": []}  # names that statements have set

    def pick(self, options):
        return self.r.choice(options)

    def expr(self, kind, depth):
        r = self.r
        if r.random() < 0.04:
            kind = self.pick(["str", "int", "float", "bool", "list", "dict", "any"])
        if depth <= 0:
            return self.leaf(kind)
        return getattr(self, "grow_" + kind)(depth - 1)

    def leaf(self, kind):
        names = {"str": STRINGS, "int": INTS, "float": FLOATS, "bool": ["yes", "no"], "list": LISTS, "dict": ["d", "rows[0]"],
                 "any": ["mix[%d]" % self.r.randrange(-8, 8), "rows[1].name", "d.b", "d['x y']", "d.nothing", "rows[2]['in'].deep"]}
        own = self.extra.get(kind, [])
        return self.pick(LITERALS[kind] + names[kind] * 2 + own * 3)

    def paren(self, text):
        return "(" + text + ")"

    def grow_str(self, d):
        c = self.r.randrange(14)
        s = self.paren(self.expr("str", d))
        if c < 3:
            return s + " | " + self.pick(STR_FILTERS)
        if c < 5:
            return s + "." + self.pick(STR_METHODS)
        if c == 5:
            return s + self.pick(SLICES)
        if c == 6:
            return s + " + " + self.paren(self.expr("str", d))
        if c == 7:
            return s + " ~ " + self.paren(self.expr(self.pick(["int", "float", "bool", "str", "list", "any", "dict"]), d))
        if c == 8:
            return self.paren(self.expr("list", d)) + " | join(" + self.pick(["", "', '", "'-'", "n", "d='+'"]) + ")"
        if c == 9:
            return self.paren(self.expr(self.pick(["list", "dict", "any", "float", "str", "int"]), d)) + " | " + self.pick(
                ["string", "tojson", "tojson(indent=2)", "tojson(ensure_ascii=true)", "tojson(sort_keys=true)",
                 "tojson(separators=(',', ':'))"])
        if c == 10:
            return "%s if %s else %s" % (self.expr("str", d), self.expr("bool", d), self.expr("str", d))
        if c == 11:
            return "'%%%s' %% %s" % (self.pick(["s", "d", "5s", "-5s|", "05d", ".2f", "x", "r", "e", "+d", "g", "c", "%%s", "#x", "08.3d", " d",
                                                  "-7d|", "#o", "+.3e", "010.1f", "X", "i", ".2s", "7.3s"]),
                                     self.paren(self.expr(self.pick(["int", "float", "str"]), d)))
        if c == 12:
            return s + " * " + self.pick(["2", "0", "-1", "3", "n"])
        return s + "[" + self.expr("int", d) + "]"

    def grow_int(self, d):
        c = self.r.randrange(9)
        if c < 4:
            return "%s %s %s" % (self.paren(self.expr("int", d)), self.pick(["+", "-", "*", "//", "%", "+", "**"]),
                                 self.paren(self.expr("int", d)))
        if c == 4:
            return self.paren(self.expr(self.pick(["str", "list", "dict"]), d)) + " | " + self.pick(["length", "count"])
        if c == 5:
            return self.paren(self.expr("str", d)) + "." + self.pick(INT_FROM_STR)
        if c == 6:
            return self.paren(self.expr(self.pick(["str", "float", "int", "any"]), d)) + " | int" + self.pick(
                ["", "(5)", "(base=16)", "(0, 8)"])
        if c == 7:
            return self.pick(["-", "+"]) + self.paren(self.expr("int", d))
        return self.paren(self.expr("int", d)) + " | " + self.pick(["abs", "round", "default(1)", "round(-1)"])

    def grow_float(self, d):
        c = self.r.randrange(6)
        if c < 3:
            return "%s %s %s" % (self.paren(self.expr(self.pick(["float", "int"]), d)), self.pick(["+", "-", "*", "/", "//", "%", "/"]),
                                 self.paren(self.expr(self.pick(["float", "int"]), d)))
        if c == 3:
            return self.paren(self.expr(self.pick(["float", "str", "int", "any"]), d)) + " | float" + self.pick(["", "(1.5)"])
        if c == 4:
            return self.paren(self.expr("float", d)) + " | round(" + self.pick(["", "1", "2", "3, 'ceil'", "0, 'floor'", "-1"]) + ")"
        return self.paren(self.expr("float", d)) + " | abs"

    def grow_bool(self, d):
        c = self.r.randrange(8)
        if c < 2:
            kind = self.pick(["int", "str", "float", "list"])
            return "%s %s %s" % (self.paren(self.expr(kind, d)), self.pick(COMPARE), self.paren(self.expr(kind, d)))
        if c == 2:
            return "%s %s %s" % (self.expr("bool", d), self.pick(["and", "or"]), self.expr("bool", d))
        if c == 3:
            return "not " + self.expr("bool", d)
        if c == 4:
            return "%s is %s%s" % (self.paren(self.expr(self.pick(["any", "str", "int", "list", "bool", "dict"]), d)),
                                   self.pick(["", "not "]), self.pick(TESTS))
        if c == 5:
            return self.paren(self.expr("str", d)) + "." + self.pick(BOOL_FROM_STR)
        if c == 6:
            return "%s %s %s" % (self.expr("str", 0), self.pick(["in", "not in"]), self.paren(self.expr(self.pick(["str", "list", "dict"]), d)))
        return "%s < %s <= %s" % (self.expr("int", 0), self.expr("float", 0), self.expr("int", 0))

    def grow_list(self, d):
        c = self.r.randrange(11)
        if c < 3:
            return self.paren(self.expr("list", d)) + " | " + self.pick(LIST_FILTERS)
        if c == 3:
            return self.paren(self.expr("list", d)) + self.pick(SLICES)
        if c == 4:
            return self.paren(self.expr("str", d)) + "." + self.pick(LIST_FROM_STR)
        if c == 5:
            return "[" + ", ".join(self.expr(self.pick(["int", "str", "any", "float", "bool"]), d) for _ in range(self.r.randrange(4))) + "]"
        if c == 6:
            return self.paren(self.expr("list", d)) + " + " + self.paren(self.expr("list", d))
        if c == 7:
            return "range(%s) | list" % self.pick(["3", "1, 4", "5, 0, -2", "n", "0", "2, 9, 3"])
        if c == 8:
            return self.paren(self.expr("dict", d)) + self.pick([".items() | list", " | items | list", ".keys() | list", ".values() | list",
                                                                 " | dictsort", " | list", " | dictsort(by='value')",
                                                                 " | dictsort(true, reverse=true)"])
        if c == 9:
            return self.paren(self.expr("str", d)) + " | list"
        return self.paren(self.expr("list", d)) + " * 2"

    def grow_dict(self, d):
        c = self.r.randrange(4)
        if c == 0:
            return "{%s: %s, 'z': %s}" % (self.expr(self.pick(["str", "int"]), 0), self.expr("any", d), self.expr("str", d))
        if c == 1:
            return "dict(%s, q=%s)" % (self.expr("dict", d), self.expr("int", d))
        if c == 2:
            return self.paren(self.expr("list", d)) + "[0]"
        return self.leaf("dict")

    def grow_any(self, d):
        c = self.r.randrange(9)
        if c == 0:
            return self.paren(self.expr("list", d)) + " | " + self.pick(["first", "last", "max", "min", "sum", "length"])
        if c == 1:
            return self.paren(self.expr("list", d)) + "[" + self.expr("int", d) + "]"
        if c == 2:
            return self.paren(self.expr("dict", d)) + self.pick([".a", "['b']", ".get('a')", ".get('q', 'none')", "[2]", ".items", "['items']"])
        if c == 3:
            return "%s or %s" % (self.expr("any", d), self.expr("str", d))
        if c == 4:
            return "%s | default(%s)" % (self.paren(self.expr("any", d)), self.expr("str", d))
        if c == 5:
            return "%s if %s" % (self.expr("any", d), self.expr("bool", d))
        if c == 6:
            return self.paren(self.expr("any", d)) + self.pick(["[0]", ".name", "['k']", "[-1]"])
        if c == 7:
            return "'{} and {%s}'.format(%s, %s%s)" % (self.pick(["", "x", "", "}"]), self.expr("any", d), self.pick(["", "x="]), self.expr("int", d))
        return self.expr(self.pick(["str", "int", "list", "bool", "float"]), d)

    # -- statements --

    def tag(self, inside):
        left, right = self.pick(["", "", "-", "", "+"]), self.pick(["", "", "-", "", "+"])
        return "{%" + left + " " + inside + " " + right + "%}"

    def text(self):
        return self.pick(["", "", " ", "\n", "x", " y\n", "\n\n  ", "  \t", "z\n   ", "{# c #}", "{#- c -#}\n", "#}", "\r\n", "\n {#+ c +#} \n"])

    def output(self, depth):
        kind = self.pick(["str", "str", "int", "float", "bool", "list", "dict", "any"])
        left, right = self.pick(["", "", "-"]), self.pick(["", "", "-"])
        return "{{" + left + " " + self.expr(kind, depth) + " " + right + "}}"

    def body(self, depth):
        return "".join(self.text() + self.statement(depth) for _ in range(self.r.randrange(1, 3))) + self.text()

    def statement(self, depth):
        c = self.r.randrange(16)
        if depth <= 0 or c < 7:
            return self.output(self.r.randrange(1, 4))
        if c == 7:
            return self.tag("if " + self.expr("bool", 2)) + self.body(depth - 1) + self.pick(
                ["", self.tag("else") + self.body(depth - 1),
                 self.tag("elif " + self.expr("any", 1)) + self.body(depth - 1) + self.tag("else") + "e"]) + self.tag("endif")
        if c == 8:
            name = self.pick(["a", "b"])
            self.extra["any"].append(name)
            return self.tag("set %s = %s" % (name, self.expr(self.pick(["str", "int", "list", "any"]), 2)))
        if c == 9:
            name = self.pick(["a", "c"])
            self.extra["str"].append(name)
            return self.tag("set " + name + self.pick(["", " | upper", " | trim"])) + self.body(depth - 1) + self.tag("endset")
        if c == 10:
            return self.tag("filter " + self.pick(["upper", "trim", "replace('a', 'b')", "indent(2)"])) + self.body(depth - 1) + self.tag("endfilter")
        if c == 11:
            return self.tag("with %s = %s" % (self.pick(["a", "v"]), self.expr("any", 1))) + self.body(depth - 1) + "{{ a }}{{ v }}" + self.tag("endwith")
        if c == 12:
            return (self.tag("macro f(p, q=%s)" % self.expr("int", 1)) + "[{{ p }}|{{ q }}]" + self.text() + self.tag("endmacro") +
                    "{{ f(%s) }}{{ f(%s, q=%s) }}{{ f() }}" % (self.expr("any", 1), self.expr("str", 1), self.expr("int", 1)))
        if c == 13:
            return "{% set ns = namespace(c=0, l=[]) %}" + self.tag("for i in " + self.expr("list", 1)) + \
                self.tag("set ns.c = ns.c + %s" % self.pick(["1", "loop.index", "i | string | length"])) + \
                "{% set ns.l = ns.l + [i] %}" + self.tag("endfor") + "{{ ns.c }}{{ ns.l }}"
        return self.loop(depth)

    def loop(self, depth):
        target, over = self.pick([("i", self.expr("list", 2)), ("i", self.expr("list", 1)), ("i", self.expr("str", 1)),
                                  ("k, v", self.expr("dict", 1) + ".items()"), ("k, v", self.expr("dict", 0) + " | dictsort"),
                                  ("i", self.expr("dict", 1)), ("i", "range(%s)" % self.expr("int", 0)), ("i", "missing")])
        test = self.pick(["", "", "", " if i", " if i is string", " if " + self.expr("bool", 1)])
        field = self.pick(["index", "index0", "first", "last", "length", "revindex", "revindex0", "previtem", "nextitem", "depth",
                           "cycle('a', 'b')", "changed(i)", "nothing"])
        inner = self.pick(["", "", self.tag("if loop.index0 == 1") + self.tag(self.pick(["break", "continue"])) + self.tag("endif")])
        name = target.split(",")[0]
        return (self.tag("for %s in %s%s" % (target, over, test)) + inner + "<{{ %s }}{{ loop.%s }}>" % (name, field) + self.body(depth - 1) +
                self.pick(["", self.tag("else") + "none"]) + self.tag("endfor"))


def template(rng):
    """(template, context)"""
    g = Grower(rng)
    return "".join(g.text() + g.statement(2) for _ in range(rng.randrange(1, 3))) + g.text(), CONTEXT


# What str's methods say of every character of a block, and of the whole block.
CHARACTERS = """{% for c in s %}{{ [c.isalpha(), c.isdigit(), c.isdecimal(), c.isnumeric(), c.isupper(), c.islower(),
c.isspace(), c.isprintable(), c.isalnum()] | map('int') | join }}{{ c.upper() ~ c.lower() ~ c.title() ~ c.capitalize() ~ c.swapcase() }}
{% endfor %}{{ [s] }}{{ s.title() }}{{ s | title }}{{ s.lower() }}{{ s.swapcase() }}{{ s.split() }}{{ s.splitlines() }}{{ s.strip() }}
{{ s | tojson(ensure_ascii=true) }}{{ s | wordcount }}{{ s.isupper() }}{{ s[::-3] }}{{ s | reverse | length }}"""


def character_blocks():
    """Contexts that together hold every code point below U+20000, and the last ones."""
    for start in list(range(0, 0x20000, 0x800)) + [0xE0000, 0x10F800]:
        if start != 0xD800:
            yield f"U+{start:04X}", {"s": "".join(map(chr, range(start, start + 0x800)))}
