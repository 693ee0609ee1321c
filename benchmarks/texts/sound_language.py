"""Sound texts of words: prose, verse, contracts, thinking, proofs. Much in them repeats, and each goes somewhere."""

from __future__ import annotations

import itertools
from random import Random

from .language import (
    ADJECTIVES,
    NAMES,
    NOUNS,
    PLACES,
    TAILS,
    VERBS,
    Pieces,
    clause,
    endless,
    noun_phrase,
    paragraph,
    sentence,
)


def prose(rng: Random) -> Pieces:
    return endless(lambda: paragraph(rng) + "\n\n")


def dialogue(rng: Random) -> Pieces:
    a, b = rng.sample(NAMES, 2)
    return endless(
        lambda: f'"{sentence(rng)[:-1]}," said {a}.\n"{sentence(rng)[:-1]}?" asked {b}.\n\n"{sentence(rng)}"\n\n'
    )


def refrain(rng: Random) -> Pieces:
    """Verse: four new lines, then the same two."""
    lines = [clause(rng) for _ in range(2)]
    chorus = f"O {lines[0]},\n  and {lines[1]}!\n\n"
    return endless(lambda: "".join(f"{clause(rng).capitalize()},\n" for _ in range(4)) + chorus)


def cumulative(rng: Random) -> Pieces:
    """A song whose every verse repeats the earlier ones, as in "The House that Jack Built"."""
    chain = [f"{rng.choice(VERBS)} the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}" for _ in range(14)]
    last = f"that stood in the house of {rng.choice(NAMES)}"
    for i in range(1, len(chain) + 1):
        verse = ",\n".join(f"that {link}" for link in reversed(chain[:i]))
        yield f"This is the {rng.choice(NOUNS)}\n{verse},\n{last}.\n\n"


def gifts(rng: Random) -> Pieces:
    """A song of days, each with one gift more, and all those before it."""
    days = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
    counts = "a two three four five six seven eight nine ten eleven twelve".split()
    giver, fair, things = rng.choice(NAMES), rng.choice(PLACES), rng.sample(NOUNS, len(days))
    gifts = [f"{n} {rng.choice(ADJECTIVES)} {thing}{'s' * (n != 'a')}" for n, thing in zip(counts, things, strict=True)]
    for i, day in enumerate(days):
        lines = [*gifts[i:0:-1], f"{'and ' * (i > 0)}{gifts[0]}"]
        yield f"On the {day} day of {fair} Fair {giver} gave to me\n" + ",\n".join(lines) + ".\n\n"


def packing(rng: Random) -> Pieces:
    """A game in which everybody says what was said before, and one thing more."""
    things: list[str] = []
    for i in range(24):
        article = rng.choice(("the", "his", "her", "my"))
        things.append(f"{article} {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}")
        packed = " and ".join(filter(None, (", ".join(things[:-1]), things[-1])))
        yield f'"I packed my trunk," said {rng.choice(NAMES)}, "and I put in {packed}."\n' + "\n" * (i % 4 == 3)


def contract(rng: Random) -> Pieces:
    """Clauses with boilerplate."""
    for i in itertools.count(1):
        thing, other = rng.choice(NOUNS), rng.choice(NOUNS)
        yield f"{i}. {thing.capitalize()}s and {other}s\n\n"
        for j in range(1, rng.randint(3, 5)):
            kind = rng.choice(
                (
                    f"The Supplier shall, at its own expense, deliver the {thing}s to {rng.choice(PLACES)} within "
                    f"{rng.choice((7, 14, 30, 60))} days of the receipt of a written order",
                    f"The Customer shall not, without the prior written consent of the Supplier, {rng.choice(VERBS)} "
                    f"or otherwise dispose of the {rng.choice(ADJECTIVES)} {thing}s",
                    f"Neither party shall be liable to the other for any loss of {other}s that arises from "
                    f"{clause(rng)}",
                    f"Where {clause(rng)}, the Supplier may terminate this agreement by giving the Customer not less "
                    f"than {rng.choice((10, 20, 90))} days' notice in writing",
                    f"For the purposes of this clause a {thing} means {noun_phrase(rng)}, whether or not {clause(rng)}",
                )
            )
            yield f"{i}.{j} {kind}.\n"
        yield "\n"


def questions(rng: Random) -> Pieces:
    """A list of questions and answers in the same form."""
    return endless(
        lambda: (
            f"**Q: Can I use the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)} with the {rng.choice(NOUNS)}?**\n\n"
            f"A: {rng.choice(('Yes', 'No', 'In most cases'))}. {sentence(rng)}\n\n"
        )
    )


def recipe(rng: Random) -> Pieces:
    """Instructions in the same form."""
    do = "Add|Stir in|Pour|Fold in|Chop|Peel|Slice|Melt|Whisk|Sift|Roast|Season with|Drain".split("|")
    food = (
        "flour|butter|onions|two eggs|a pinch of salt|grated cheese|the carrots|lemon juice|parsley|sugar|cold water|"
        "the leeks|olive oil|mustard|the beans|a bay leaf|cream|almonds|the plums|yeast|paprika|barley|the trout"
    ).split("|")
    how = (
        "for {} minutes|until soft|until golden|over a low heat|little by little|in a large bowl|and cover|"
        "for about {} minutes, stirring often|and set aside|with a wooden spoon|then taste"
    ).split("|")
    return (
        f"{i}. {rng.choice(do)} {rng.choice(food)} {rng.choice(how).format(rng.randint(2, 40))}"
        f"{f'; {rng.choice(do).lower()} {rng.choice(food)}' if rng.random() < 0.5 else ''}.\n"
        for i in itertools.count(1)
    )


def litany(rng: Random) -> Pieces:
    """Invocations with the same answer."""
    return endless(lambda: f"{clause(rng).capitalize()} {rng.choice(TAILS)}:\n    hear us, we ask.\n")


def biographies(rng: Random) -> Pieces:
    """Entries of a directory."""
    towns = [place + end for place in PLACES for end in ("", "-on-Sea", " Cross", " St Mary")]

    def make() -> str:
        name = f"{rng.choice(NAMES)} {rng.choice(PLACES)}{rng.choice(('er', 'son', 'ov', 'a'))}"
        born = rng.randint(1700, 1930)
        return (
            f"{name} (born {rng.randint(1, 28)} {rng.choice(('March', 'May', 'July', 'October'))} {born} in "
            f"{rng.choice(towns)}; died {born + rng.randint(30, 90)} in {rng.choice(towns)}) was a "
            f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)} maker and the author of "
            f"\u201c{noun_phrase(rng).title()}\u201d.\n\n"
        )

    return endless(make)


def glossary(rng: Random) -> Pieces:
    """Words, and what they mean."""
    words = rng.sample(NOUNS, len(NOUNS))
    return (f"**{word}** (noun): {noun_phrase(rng)} that {rng.choice(VERBS)} {noun_phrase(rng)}.\n" for word in words)


def history(rng: Random) -> Pieces:
    """A changelog."""
    for i in itertools.count():
        yield f"\n## 1.{40 - i}.{rng.randint(0, 9)}\n\n"
        for _ in range(rng.randint(2, 6)):
            yield (
                f"- {rng.choice(('Fixed', 'Added', 'Removed', 'Improved', 'Renamed'))} the {rng.choice(NOUNS)} "
                f"{rng.choice(('of', 'in', 'for', 'behind'))} the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)} "
                f"(#{rng.randint(100, 9999)})\n"
            )


def draft(rng: Random) -> Pieces:
    """A letter thought over, then written out once more as it is."""
    text = "".join(f"{paragraph(rng)}\n\n" for _ in range(rng.choice((4, 8, 16))))
    yield f"Let me draft this first.\n\n{text}That should do. Here is the letter:\n\n{text}"


def versions(rng: Random) -> Pieces:
    """Three versions of a text, of which every third or fourth sentence changes."""
    parts = [sentence(rng) for _ in range(rng.choice((10, 20, 40)))]
    for i in range(1, 4):
        yield f"Version {i}:\n\n{' '.join(parts)}\n\n"
        parts = [sentence(rng) if rng.random() < 0.3 else part for part in parts]


# thinking and proofs


def recheck(rng: Random) -> Pieces:
    """Thinking that really checks: the same words, another sum each time."""
    oh = ("Wait, let me check that again.", "Let me double-check this.", "Hmm, is that right?", "Let me verify.")
    while True:
        a, b = rng.randint(12, 99), rng.randint(12, 99)
        t, u = b // 10 * 10, b % 10
        yield (
            f"{rng.choice(oh)} {a} * {b}: {a} * {t} = {a * t} and {a} * {u} = {a * u}, so together {a * t} + {a * u} = "
            f"{a * b}. {rng.choice(('Yes, that is right.', 'Good.', 'So the total was off by one.', 'OK.'))}\n"
        )


def reasoning(rng: Random) -> Pieces:
    """Thinking about a puzzle in words, with the phrases of one who thinks."""
    oh = "Wait,|Hmm,|Okay, so|But|Let me think.|Alternatively,|So|Actually,|Now,|Let me check:".split("|")
    return endless(
        lambda: (
            f"{rng.choice(oh)} if {clause(rng)}, then {clause(rng)}. "
            f"{f'{rng.choice(oh)} {sentence(rng)} ' if rng.random() < 0.6 else ''}"
            + ("\n\n" if rng.random() < 0.3 else "")
        )
    )


def exhaustion(rng: Random) -> Pieces:
    """A proof by cases."""
    m = rng.choice((7, 9, 11, 13))
    for k in itertools.count(2):
        yield f"We look at n^{k} modulo {m}.\n"
        for r in range(m):
            yield (
                f"Case {r + 1}: n = {m}q + {r}. Then n^{k} leaves the same remainder as {r}^{k} = {r**k}, and "
                f"{r**k} = {m} * {r**k // m} + {r**k % m}, so the remainder is {r**k % m}.\n"
            )
        seen = sorted({r**k % m for r in range(m)})
        yield f"So a power n^{k} leaves one of {', '.join(map(str, seen))} modulo {m}.\n\n"


def induction(rng: Random) -> Pieces:
    """Sums of a series, one after another."""
    a, d = rng.randint(1, 9), rng.randint(2, 9)
    total = 0
    for i in itertools.count():
        total += a + i * d
        yield (
            f"The term after {i} steps is {a} + {i} * {d} = {a + i * d}. Adding it to the sum so far gives "
            f"{total - a - i * d} + {a + i * d} = {total}.\n"
        )


def divisors(rng: Random) -> Pieces:
    """An enumeration that tests one number after another."""
    for n in itertools.count(rng.randint(100, 900)):
        found = [d for d in range(2, n) if n % d == 0]
        yield f"{n} is prime.\n" if not found else f"{n} has the divisors {', '.join(map(str, found))}.\n"


def drill(rng: Random) -> Pieces:
    """Conjugations of a made-up language."""
    ends = [
        "".join(rng.choice("aeiou") + rng.choice(("", "n", "s", "t", "m", "r")) for _ in range(1 + i % 2))
        for i in range(6)
    ]
    persons = ("I", "you", "she", "we", "you all", "they")
    for _ in itertools.count():
        stem = "".join(rng.choice("bdfgklmnprstv") + rng.choice("aeiou") for _ in range(2)) + rng.choice("klmnrst")
        verb = rng.choice(VERBS)
        yield f"{stem}i, which means that somebody {verb}:\n"
        for person, end in zip(persons, ends, strict=True):
            yield f"  {person} {verb}: {stem}{end}\n"


def numbers_in_words(rng: Random) -> Pieces:
    """Times tables in words."""
    ones = (
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
    )
    ones += ["seventeen", "eighteen", "nineteen"]
    tens = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()

    def words(n: int) -> str:
        if n < 20:
            return ones[n]
        if n < 100:
            return tens[n // 10] + (f"-{ones[n % 10]}" if n % 10 else "")
        return f"{ones[n // 100]} hundred" + (f" and {words(n % 100)}" if n % 100 else "")

    for a in itertools.count(2):
        for b in range(1, 13):
            yield f"{words(b).capitalize()} times {words(a % 80)} is {words(b * (a % 80) % 1000)}.\n"


def russian(rng: Random) -> Pieces:
    """Sentences in Cyrillic: common small words between made-up ones."""
    starts, vowels, ends = (
        "б в г д з к л м н п р с т ст пр гр кл".split(),
        "аеиоуы",
        "н р т л к ть ние ский ая ов".split(),
    )
    words = [
        "".join(rng.choice(starts) + rng.choice(vowels) for _ in range(rng.randint(1, 3))) + rng.choice(ends)
        for _ in range(900)
    ]
    weights = [1 / (i + 5) for i in range(len(words))]
    small = "и в на с по не что как но за к из у от для при это его она они был".split()

    def make() -> str:
        out = []
        for word in rng.choices(words, weights, k=rng.randint(5, 12)):
            out += [rng.choice(small), word] if rng.random() < 0.45 else [word]
        return " ".join(out).capitalize() + rng.choice((". ", ". ", ", говорят. ", "? "))

    return endless(make)


def chinese(rng: Random) -> Pieces:
    """Sentences of characters drawn from a few hundred."""
    known = (
        "天地山水火木金土日月星风雨雪云花草树鸟鱼虫马牛羊人口手足心目耳父母子女兄弟王民国家城市村庄道路车船门窗书笔纸画歌舞"
        "春夏秋冬东西南北上下左右前后大小多少长短高低新旧早晚来去出入开关买卖读写听说看见走跑坐立生死爱恨喜怒红黄蓝白黑"
    )
    return endless(lambda: "".join(rng.choice(known) for _ in range(rng.randint(6, 14))) + rng.choice("，。。"))


CHOOSE = (
    prose, refrain, contract, recipe, biographies, recheck, exhaustion, numbers_in_words, russian, history, draft,
    gifts, packing,
)  # fmt: skip
REPORT = (
    dialogue, cumulative, questions, litany, glossary, reasoning, induction, divisors, drill, chinese, versions,
)  # fmt: skip
