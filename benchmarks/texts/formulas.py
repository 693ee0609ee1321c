"""Texts that work with formulas in LaTeX, as models write them: loops, and sound ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from random import Random

from .language import NAMES, NOUNS, Pieces, endless

Family = Callable[[Random], Pieces]


def shown(text: str) -> str:
    return f"\\[\n{text}\n\\]\n"


# loops


def counted_formula(rng: Random) -> Pieces:
    """Numbered steps that work out the same, and skip a number at times."""
    a, b, thing = rng.randint(2, 9), rng.randint(10, 99), rng.choice(NOUNS)
    work = shown(f"{a} \\times {b} = {a * b}")
    numbers = itertools.accumulate(iter(lambda: rng.choice((1, 1, 1, 2, 4)), 0), initial=rng.randint(1, 30))
    return (f"{n}. **Calculate the number of {thing}s:**\n{work}\n" for n in numbers)


def equation(rng: Random) -> Pieces:
    """One equation, or two by turns."""
    some = [
        shown(f"{rng.choice('ABxyn')} = {rng.randint(2, 99)}{rng.choice('ABxyn')}") for _ in range(rng.randint(1, 2))
    ]
    return itertools.cycle(some)


def solved_again(rng: Random) -> Pieces:
    """The same few transformations of an equation, in ever another order."""
    a, b, x = rng.randint(2, 9), rng.randint(2, 60), rng.choice("xynt")
    steps = (
        f"Simplifying both sides, we get:\n\n\\[ {a}{x} = {b} \\]\n\n",
        f"Dividing by {a}, we get:\n\n\\[ {x} = \\frac{{{b}}}{{{a}}} \\]\n\n",
        f"Multiplying both sides by {a}, we get:\n\n\\[ {a}{x} = {b} \\]\n\n",
        f"Since \\( {x} \\) must be an integer, we re-evaluate the equation.\n\n",
    )
    return endless(lambda: rng.choice(steps))


def substituted(rng: Random) -> Pieces:
    """A system of equations whose solution is put in once more."""
    names, values = rng.sample(NAMES, 3), rng.sample(range(2, 60), 3)

    def make() -> str:
        name, value = rng.choice(names), rng.choice(values)
        return f"So {name} has \\( x = {value} \\) of them. Putting it in: $$x + {value} = {2 * value}$$\n"

    return endless(make)


# sound


def times(rng: Random) -> Pieces:
    """Times tables."""
    for a in range(rng.randint(2, 9), 60):
        yield from (f"\\[ {a} \\times {b} = {a * b} \\]\n" for b in range(1, 13))
        yield "\n"


def interest(rng: Random) -> Pieces:
    """A balance, year by year."""
    value, rate = Fraction(rng.randint(100, 9000)), Fraction(100 + rng.randint(2, 9), 100)
    for year in itertools.count(1):
        before, value = value, Fraction(round(value * rate * 100) % 10**8, 100)
        work = shown(f"{float(before):.2f} \\times {float(rate)} = {float(value):.2f}")
        yield f"After year {year}:\n{work}"


def elimination(rng: Random) -> Pieces:
    """Systems of three equations brought into triangular form, one after another."""
    for n in itertools.count(1):
        rows = [[Fraction(rng.randint(-9, 9)) for _ in range(4)] for _ in range(3)]
        yield f"System {n}:\n{shown(_matrix(rows))}"
        for i in range(3):
            pivot = next((j for j in range(i, 3) if rows[j][i]), None)
            if pivot is None:
                continue
            rows[i], rows[pivot] = rows[pivot], rows[i]
            for j in range(i + 1, 3):
                k = rows[j][i] / rows[i][i]
                rows[j] = [a - k * b for a, b in zip(rows[j], rows[i], strict=True)]
                yield f"\\( R_{j + 1} \\to R_{j + 1} - {_number(k)} R_{i + 1} \\):\n{shown(_matrix(rows))}"


def newton(rng: Random) -> Pieces:
    """Square roots by Newton's method."""
    while True:
        a = rng.randint(2, 999)
        x = float(a)
        yield f"The square root of {a}, from \\( x_0 = {a} \\):\n"
        for n in range(1, 9):
            x, before = (x + a / x) / 2, x
            sides = f"{before:.6f} + \\frac{{{a}}}{{{before:.6f}}}"
            yield shown(f"x_{n} = \\frac{{1}}{{2}}\\left({sides}\\right) = {x:.6f}")


def euclid(rng: Random) -> Pieces:
    """Greatest common divisors."""
    while True:
        a, b = sorted((rng.randint(100, 9999), rng.randint(100, 9999)), reverse=True)
        yield f"\\( \\gcd({a}, {b}) \\):\n"
        while b:
            yield f"\\[ {a} = {a // b} \\times {b} + {a % b} \\]\n"
            a, b = b, a % b
        yield f"So it is \\( {a} \\).\n\n"


def unit_matrices(rng: Random) -> Pieces:
    """Identity matrices of a growing size."""
    for n in range(rng.randint(3, 8), 30):
        rows = [[Fraction(i == j) for j in range(n)] for i in range(n)]
        yield f"For \\( n = {n} \\):\n{shown(_matrix(rows))}"


def derivatives(rng: Random) -> Pieces:
    """Powers, and what they become."""
    x, a = rng.choice("xtz"), rng.randint(2, 9)
    return (f"\\[ \\frac{{d}}{{d{x}}} {a}{x}^{{{n}}} = {a * n}{x}^{{{n - 1}}} \\]\n" for n in itertools.count(2))


def _number(x: Fraction) -> str:
    return str(x) if x.denominator == 1 else f"\\frac{{{x.numerator}}}{{{x.denominator}}}"


def _matrix(rows: list[list[Fraction]]) -> str:
    lines = " \\\\\n".join(" & ".join(map(_number, row)) for row in rows)
    return f"\\begin{{pmatrix}}\n{lines}\n\\end{{pmatrix}}"


CHOOSE_LOOPS: tuple[Family, ...] = (counted_formula, equation)
REPORT_LOOPS: tuple[Family, ...] = (solved_again, substituted)
CHOOSE: tuple[Family, ...] = (times, interest, elimination)
REPORT: tuple[Family, ...] = (newton, euclid, unit_matrices, derivatives)
