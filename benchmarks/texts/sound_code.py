"""Sound texts of code: programs and tests whose parts resemble each other."""

from __future__ import annotations

import itertools
from random import Random

from .language import ADJECTIVES, NAMES, NOUNS, VERBS, Pieces, clause, endless, filled


def _name(rng: Random, joint: str = "_") -> str:
    return f"{rng.choice(ADJECTIVES)}{joint}{rng.choice(NOUNS)}"


def _camel(rng: Random) -> str:
    return rng.choice(ADJECTIVES) + rng.choice(NOUNS).capitalize()


def python(rng: Random) -> Pieces:
    def make() -> str:
        a, b, n = _name(rng), rng.choice(NOUNS), rng.randint(2, 99)
        body = rng.choice(
            (
                f'    if not {b}:\n        raise ValueError(f"{clause(rng)}: {{{b}}}")\n    return {b}[-{n}:]\n',
                f"    total = 0\n    for i, one in enumerate({b}):\n"
                f"        total += i * one.{a} % {n}\n    return total\n",
                f"    with open({b}) as file:\n        return [line.split()[{n % 7}] for line in file if line]\n",
                f"    return sorted({b}, key=lambda one: (one.{a}, -one.{rng.choice(NOUNS)}))[:{n}]\n",
                f"    self.{a} = {b}\n    self.{rng.choice(NOUNS)} = {{}}\n    return self\n",
            )
        )
        return f'def {rng.choice(VERBS)}_{a}({b}):\n    """{clause(rng).capitalize()}."""\n{body}\n\n'

    return endless(make)


def c(rng: Random) -> Pieces:
    def make() -> str:
        f, a, b = _name(rng), rng.choice(NOUNS), rng.choice(NOUNS)
        return (
            f"// {clause(rng)}\nstatic int {f}(const struct {a} * {a}, size_t n_{b}) {{\n"
            f"    if ({a} == NULL || n_{b} > {rng.randint(2, 4096)}) {{\n"
            f"        return -{rng.randint(1, 40)};\n    }}\n\n"
            f"    for (size_t i = 0; i < n_{b}; i++) {{\n        {a}->{rng.choice(NOUNS)}[i] "
            f"{rng.choice(('+=', '=', '^=', '|='))} {_name(rng)}({b}, i << {rng.randint(1, 9)});\n    }}\n\n"
            f"    return {rng.choice(('0', f'{a}->{b}', f'(int) n_{b}'))};\n}}\n\n"
        )

    return endless(make)


def javascript(rng: Random) -> Pieces:
    def make() -> str:
        f, a = _camel(rng), rng.choice(NOUNS)
        return (
            f"export async function {f}({a}, options = {{}}) {{\n"
            f"  const {{ {rng.choice(NOUNS)}, {rng.choice(NOUNS)} }} = await {_camel(rng)}({a});\n"
            f'  if (!options.{rng.choice(NOUNS)}) throw new Error("{clause(rng)}");\n'
            f"  return {a}.map((one) => one.{rng.choice(NOUNS)} {rng.choice(('+', '*', '-'))} {rng.randint(2, 99)});\n"
            "}\n\n"
        )

    return endless(make)


def go(rng: Random) -> Pieces:
    def make() -> str:
        kind, a = _camel(rng).capitalize(), rng.choice(NOUNS)
        return (
            f"// {kind} {rng.choice(VERBS)} {clause(rng)}.\ntype {kind} struct {{\n"
            f'\t{a.capitalize()} string `json:"{a}"`\n'
            f"\t{rng.choice(NOUNS).capitalize()} int\n}}\n\nfunc (x *{kind}) {_camel(rng).capitalize()}() error {{\n"
            f'\tif x.{a.capitalize()} == "" {{\n\t\treturn fmt.Errorf("{clause(rng)}: %v", x)\n\t}}\n'
            "\treturn nil\n}\n\n"
        )

    return endless(make)


def java(rng: Random) -> Pieces:
    """Getters and setters."""
    fields = [(rng.choice(("String", "int", "long", "Date")), _camel(rng)) for _ in range(200)]
    for kind, name in fields:
        upper = name[0].upper() + name[1:]
        yield (
            f"    public {kind} get{upper}() {{\n        return this.{name};\n    }}\n\n"
            f"    public void set{upper}({kind} {name}) {{\n        this.{name} = {name};\n    }}\n\n"
        )


def sql(rng: Random) -> Pieces:
    """Rows to insert."""
    columns = rng.sample(NOUNS, 4)
    yield f"INSERT INTO {_name(rng)} ({', '.join(columns)}) VALUES\n"
    while True:
        yield (
            f"    ({rng.randint(1, 9999)}, '{rng.choice(NAMES)} {rng.choice(NOUNS).capitalize()}', "
            f"{rng.randint(0, 999) / 100}, '2024-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}'),\n"
        )


def rust(rng: Random) -> Pieces:
    """An enum and the match over it."""
    known = list(dict.fromkeys(_camel(rng)[0].upper() + _camel(rng)[1:] for _ in range(60)))
    yield "pub enum Kind {\n" + "".join(f"    {name},\n" for name in known) + "}\n\n"
    while True:
        yield f"impl {_camel(rng).capitalize()} for Kind {{\n    fn {_name(rng)}(&self) -> &'static str {{\n"
        yield "        match self {\n"
        for name in known:
            yield f'            Kind::{name} => "{_name(rng, " ")}",\n'
        yield "        }\n    }\n}\n\n"


def pytest(rng: Random) -> Pieces:
    """Tests in the same form."""
    f = _name(rng)
    return (
        f"def test_{f}_{i}():\n"
        f"    assert {f}({rng.randint(1, 999)}, {rng.randint(1, 999)}) == {rng.randint(1, 99999)}\n\n\n"
        for i in itertools.count(1)
    )


def jest(rng: Random) -> Pieces:
    """Tests in the same form, each with a name."""
    f = _camel(rng)
    return endless(
        lambda: (
            f"  it('{clause(rng)}', () => {{\n    const result = {f}({rng.randint(1, 99)}, '{rng.choice(NOUNS)}');\n"
            f"    expect(result).{rng.choice(('toBe', 'toEqual', 'toContain'))}('{rng.choice(NOUNS)}');\n  }});\n\n"
        )
    )


def parametrized(rng: Random) -> Pieces:
    """A table of a test's cases."""
    yield '@pytest.mark.parametrize(("text", "n", "expected"), [\n'
    while True:
        text = "".join(rng.choices("abcxyz", k=rng.randint(2, 8)))
        yield f'    ("{text}", {rng.randint(0, 9)}, {rng.choice(("True", "False", "None"))}),\n'


def css(rng: Random) -> Pieces:
    units = ("px", "em", "rem", "%")
    properties = "margin padding width height top left border-radius font-size line-height gap".split()
    return endless(
        lambda: (
            f".{_name(rng, '-')} {{\n"
            + "".join(
                f"  {p}: {rng.randint(0, 64)}{rng.choice(units)};\n" for p in rng.sample(properties, rng.randint(2, 4))
            )
            + f"  color: #{rng.randrange(1 << 24):06x};\n}}\n\n"
        )
    )


def assembler(rng: Random) -> Pieces:
    """A listing of machine code."""
    registers = "rax rbx rcx rdx rsi rdi r8 r9 r10".split()
    address = 0x401000
    while True:
        op = rng.choice(("mov", "add", "sub", "lea", "cmp", "xor", "test"))
        yield f"  {address:x}:\t{op}\t%{rng.choice(registers)}, {hex(rng.randrange(256))}(%{rng.choice(registers)})\n"
        address += rng.randint(2, 7)


def edit(rng: Random) -> Pieces:
    """A file, and the whole file again after a small change."""
    text = filled(python(rng), rng.choice((1_200, 3_000, 6_000)))
    name = rng.choice(NOUNS)
    yield f"The file:\n\n{text}\nWith the name changed to {name}:\n\n{text.replace('total', name)}"


CHOOSE = (python, javascript, java, pytest, parametrized, assembler)
REPORT = (c, go, sql, rust, jest, css, edit)
