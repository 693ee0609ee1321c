"""The part "later": families written when the numbers of rule "text" stood, all but one (docs/guardian.md)."""

from __future__ import annotations

import itertools
from random import Random

from .language import ADJECTIVES, NAMES, NOUNS, PLACES, VERBS, Pieces, clause, endless, noun_phrase, sentence, slots

# loops


def doubt(rng: Random) -> Pieces:
    """A paragraph of thinking that returns, each time with one sentence changed."""
    parts = [sentence(rng) for _ in range(5)]
    other = [sentence(rng) for _ in range(6)]

    def make() -> str:
        now = list(parts)
        now[rng.randrange(5)] = rng.choice(other)
        return f"Let me think about it again. {' '.join(now)}\n\n"

    return endless(make)


def diary(rng: Random) -> Pieces:
    """Days that pass, in a few words."""
    table = {
        "we": ("We", "The crew", "All of us", "The party"),
        "did": ("rested", "walked on", "waited", "sailed north", "saw nothing"),
        "weather": ("The wind was cold", "It rained", "The sky was clear", "There was fog"),
    }
    return (f"Day {i}. " + slots(rng, "{we} {did}. {weather}.\n", table) for i in itertools.count(3))


def equations(rng: Random) -> Pieces:
    """The same equation in LaTeX, for one number after another."""
    a = rng.randint(2, 9)
    return (
        f"For \\( n = {i} \\) we get \\( x_{{{i}}} = {a} \\cdot {i} + {a} \\), as before.\n" for i in itertools.count(1)
    )


def strings(rng: Random) -> Pieces:
    """An array whose strings come back."""
    known = [f'    "{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}",\n' for _ in range(8)]
    return endless(lambda: rng.choice(known))


def rows(rng: Random) -> Pieces:
    """Rows of a table, in random order."""
    known = [f"| {rng.choice(NAMES)} | {rng.choice(PLACES)} | {rng.choice(NOUNS)} |\n" for _ in range(6)]
    return endless(lambda: rng.choice(known))


def translation(rng: Random) -> Pieces:
    """A phrase and its translation, again and again, with small changes."""
    table = {
        "say": ("The translation is", "In German it is", "This means", "A better translation is"),
        "text": ("der alte Mann am Fluss", "der alte Mann vom Fluss", "ein alter Mann am Fluss"),
        "or": ("or rather", "more precisely", "or, in other words,"),
    }
    return endless(lambda: slots(rng, '{say} "{text}", {or} "{text}". ', table))


def korean(rng: Random) -> Pieces:
    known = (
        "다시 확인해 보겠습니다. |잠깐만요, 실수가 있을 수 있습니다. |따라서 답은 같습니다. |처음부터 다시 시작합시다. "
    )
    return endless(lambda: rng.choice(known.split("|")))


def comments(rng: Random) -> Pieces:
    """Comments in code that promise code."""
    table = {
        "do": ("TODO: implement", "Now we handle", "Here we check", "Finally we return", "Next we compute"),
        "what": ("the result", "the error", "the input", "the remaining cases", "the edge cases"),
    }
    return endless(lambda: slots(rng, "    // {do} {what}\n", table))


def hashtags(rng: Random) -> Pieces:
    known = [f"#{rng.choice(NOUNS)}{rng.choice(NOUNS)} " for _ in range(12)]
    return endless(lambda: rng.choice(known))


# sound texts


def diff(rng: Random) -> Pieces:
    for i in itertools.count(1):
        name = rng.choice(NOUNS)
        yield f"diff --git a/src/{name}.py b/src/{name}.py\n--- a/src/{name}.py\n+++ b/src/{name}.py\n"
        for _ in range(rng.randint(1, 3)):
            a, b = rng.choice(NOUNS), rng.choice(ADJECTIVES)
            yield f"@@ -{20 * i},4 +{20 * i},4 @@ def {rng.choice(VERBS)}_{a}():\n     {a} = {b}_{name}()\n"
            yield f"-    return {a}.{rng.choice(NOUNS)}\n+    return {a}.{rng.choice(NOUNS)}({rng.randint(0, 99)})\n"


def trace(rng: Random) -> Pieces:
    """Stack traces of Java."""
    packages = [f"com.example.{rng.choice(NOUNS)}" for _ in range(6)]
    while True:
        yield f"java.lang.IllegalStateException: {clause(rng)}\n"
        for _ in range(rng.randint(4, 9)):
            kind = rng.choice(NOUNS).capitalize()
            yield f"\tat {rng.choice(packages)}.{kind}.{rng.choice(VERBS)}({kind}.java:{rng.randint(10, 900)})\n"


def bibliography(rng: Random) -> Pieces:
    def make() -> str:
        who, year = f"{rng.choice(NAMES)} {rng.choice(PLACES)}", rng.randint(1960, 2024)
        return (
            f"@article{{{who.split()[1].lower()}{year},\n  author = {{{who}}},\n"
            f"  title = {{{noun_phrase(rng).title()}}},\n"
            f"  journal = {{Journal of {rng.choice(NOUNS).title()} Studies}},\n  year = {{{year}}},\n"
            f"  pages = {{{rng.randint(1, 300)}--{rng.randint(301, 400)}}}\n}}\n\n"
        )

    return endless(make)


def quiz(rng: Random) -> Pieces:
    for i in itertools.count(1):
        yield f"{i}. Who {rng.choice(VERBS)} the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}?\n"
        yield "".join(f"   {letter}) the {rng.choice(NOUNS)} of {rng.choice(PLACES)}\n" for letter in "abcd")
        yield f"   Answer: {rng.choice('abcd')}\n\n"


def timetable(rng: Random) -> Pieces:
    """Trains that stop at the same places."""
    stops = rng.sample(PLACES, 6)
    for start in range(300, 1380, 20):
        yield f"Train {rng.randint(100, 999)}\n"
        for i, stop in enumerate(stops):
            minute = start + 11 * i + rng.randint(0, 3)
            yield f"  {stop:<10} {minute // 60:02}:{minute % 60:02}\n"


def session(rng: Random) -> Pieces:
    """A shell, and what it answers."""

    def make() -> str:
        name = rng.choice(NOUNS)
        return rng.choice(
            (
                f"$ ls -l {name}\n-rw-r--r-- 1 user user {rng.randint(1, 99999)} Mar {rng.randint(1, 28):2} "
                f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02} {name}.txt\n",
                f"$ grep -c {name} *.log\n" + "".join(f"{n}.log:{rng.randint(0, 50)}\n" for n in rng.sample(NOUNS, 3)),
                f"$ cat {name}.md\n{sentence(rng)}\n",
            )
        )

    return endless(make)


def minutes(rng: Random) -> Pieces:
    """Minutes of a meeting in Markdown."""
    for i in itertools.count(1):
        yield f"\n### {i}. The {rng.choice(NOUNS)}\n\n"
        for _ in range(rng.randint(2, 4)):
            yield f"- **{rng.choice(NAMES)}**: {sentence(rng)}\n"
        yield f"- **Action**: {rng.choice(NAMES)} will report by {rng.randint(1, 28)} March.\n"


def chain(rng: Random) -> Pieces:
    """A tale in which each who is asked sends on to another, and all of it is told again."""
    asked = [f"the {noun} of {rng.choice(PLACES)}" for noun in rng.sample(NOUNS, 18)]
    for i in range(2, len(asked)):
        told = ", who had been sent by ".join(reversed(asked[: i + 1]))
        yield f'"I come from {told}," said {rng.choice(NAMES)}. But {clause(rng)}.\n\n'


def song(rng: Random) -> Pieces:
    """Verses, and a chorus of eight lines after each."""
    chorus = "".join(f"{clause(rng).capitalize()}\n" for _ in range(4)) * 2
    for i in itertools.count(1):
        verse = "".join(f"{clause(rng).capitalize()}\n" for _ in range(6))
        yield f"[Verse {i}]\n{verse}\n[Chorus]\n{chorus}\n"


def fasta(rng: Random) -> Pieces:
    """Sequences of bases, with runs."""
    for i in itertools.count(1):
        yield f">sequence_{i} length=240\n"
        for _ in range(4):
            yield "".join(rng.choice("ACGT") * rng.choice((1, 1, 1, 2, 5)) for _ in range(60))[:60] + "\n"


def tablature(rng: Random) -> Pieces:
    """Six strings, mostly dashes."""
    while True:
        notes = {(rng.randrange(6), rng.randrange(28)): rng.randint(0, 9) for _ in range(8)}
        for row, string in enumerate("eBGDAE"):
            yield f"{string}|" + "".join(str(notes.get((row, i), "-")) for i in range(28)) + "|\n"
        yield "\n"


def strings_file(rng: Random) -> Pieces:
    """Texts of a program, by key."""
    return endless(
        lambda: f'  "{rng.choice(NOUNS)}.{rng.choice(NOUNS)}.{rng.choice(VERBS)}": "{sentence(rng)[:-1]}",\n'
    )


def checklist(rng: Random) -> Pieces:
    for i in itertools.count(1):
        yield f"\n## Week {i}\n\n"
        for _ in range(5):
            task = rng.choice(("Check", "Clean", "Order", "Repair"))
            yield f"- [{rng.choice(' x')}] {task} the {rng.choice(NOUNS)}\n"


def derivation(rng: Random) -> Pieces:
    """Algebra in LaTeX, line by line."""
    while True:
        a, b, x = rng.randint(2, 19), rng.randint(1, 99), rng.randint(-50, 50)
        yield (
            f"\\begin{{align}}\n{a}x + {b} &= {a * x + b} \\\\\n{a}x &= {a * x + b} - {b} = {a * x} \\\\\n"
            f"x &= \\frac{{{a * x}}}{{{a}}} = {x}\n\\end{{align}}\n\n"
        )


def conversions(rng: Random) -> Pieces:
    """A list that counts and converts."""
    return (f"- {i} miles are {i * 1.609344:.2f} kilometres\n" for i in range(rng.randint(1, 30), 400))


def greek(rng: Random) -> Pieces:
    """Made-up words between common ones."""
    small = "και το της στο με για δεν που ένα ήταν από θα να μια".split()
    parts = "κα λε μι πο ρι σα τη νο δρα φε χω ψι γλυ βα".split()
    words = [
        "".join(rng.choice(parts) for _ in range(rng.randint(2, 4))) + rng.choice(("ς", "ν", "")) for _ in range(600)
    ]
    weights = [1 / (i + 5) for i in range(len(words))]
    return endless(
        lambda: " ".join(
            itertools.chain.from_iterable(
                (rng.choice(small), word) if rng.random() < 0.5 else (word,)
                for word in rng.choices(words, weights, k=rng.randint(5, 11))
            )
        ).capitalize() + ". "
    )  # fmt: skip


LOOPS = (doubt, diary, equations, strings, rows, translation, korean, comments, hashtags)
SOUND = (
    diff, trace, bibliography, quiz, timetable, session, minutes, song, fasta, tablature, strings_file, checklist,
    derivation, conversions, greek, chain,
)  # fmt: skip
