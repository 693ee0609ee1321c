"""Words and sentences that the families draw from. English by a small grammar; it compresses about as prose does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

NOUNS = (
    "river stone garden window answer clock ladder winter paper question market island harvest castle feather morning "
    "bridge ledger miller ferry lantern orchard sailor harbour station engine valley kitchen letter village teacher "
    "mountain forest doctor captain basket candle chapter corner cousin daughter evening factory farmer festival "
    "fountain furnace glacier hammer journey keeper library machine meadow measure merchant mirror museum needle "
    "neighbour notebook painter passage pattern pepper pocket portrait prisoner quarry railway record rumour saddle "
    "scholar season secret shadow shelter signal silver soldier speech spring stable street summer surgeon tailor "
    "temple theatre thunder ticket timber tower traveller treaty tunnel uncle vessel violin wagon weather weaver "
    "whistle widow willow witness workshop archive balcony barrel beacon blanket bottle branch breeze butcher cabinet "
    "canal carpet cavern chimney coast collar column copper cottage council cradle curtain depth desert dialect "
    "dispute dragon drawer eagle echo estate fabric fence flood fortune gallery glove gravel guest habit hedge horizon"
).split()
PLACES = "Harl Lowen Tarsk Midvale Osterby Quillon Verrin Aldmoor Pellworth Senna Korvale Brindle Thorne Lisk".split()
NAMES = (
    "Ottilie Imre Agathe Bruno Celeste Dmitri Elena Farid Greta Hugo Ines Jonas Katya Lorenz Mirela Nadia Oskar Petra "
    "Quentin Rosa Stefan Tilda Ulrich Vera Wanda Xenia Yusuf Zora"
).split()
ADJECTIVES = (
    "quiet narrow bright heavy distant careful broken golden hollow patient sudden bitter gentle crooked ancient damp "
    "eager faithful frozen humble idle jealous lonely modest nervous obvious pale proud rapid rough sacred shallow "
    "sharp simple slender solid steady stubborn subtle tired tidy vague vivid weary wooden worthy cheap clumsy common "
    "dusty early empty foreign fragile generous hidden honest"
).split()
VERBS = (
    "carried noticed repaired counted forgot painted followed measured opened refused remembered sold traded watched "
    "answered avoided borrowed buried called closed collected compared crossed described dragged drew dropped drowned "
    "emptied escaped explained feared fetched filled guarded hid ignored inherited kept left lifted locked mended "
    "missed moved named needed opened ordered packed praised promised pulled questioned reached rejected returned "
    "saved searched shook studied trusted visited washed welcomed wrote"
).split()
TAILS = (
    "before the bells rang|without saying why|although nobody had asked|because the road was closed|"
    "while the others slept|in spite of the cold|as if it had always been so|when the water fell|until the snow came|"
    "which surprised no one|and that was the end of it|for reasons of its own|long after it mattered|"
    "as the law required|so that the children could see it|where the old wall stood|after a long silence|"
    "since there was no other way|to the delight of the whole town|and never spoke of it"
).split("|")
OPENINGS = (
    "In those days|Years later|By then|At first|As it happened|On the third day|Nobody knew that|It is said that|"
    "Still|Of course|Meanwhile|That autumn|Some say|For once|To be fair|In the end|Without warning|Even so"
).split("|")

Pieces = Iterator[str]


def noun_phrase(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.15:
        return rng.choice(NAMES)
    noun = rng.choice(NOUNS)
    article = rng.choice(("the", "the", "a", "her", "his", "their", "every", "no", "this"))
    adjective = rng.choice(ADJECTIVES) + " " if rng.random() < 0.55 else ""
    if article == "a" and (adjective or noun)[0] in "aeiou":
        article = "an"
    of = f" of {rng.choice(PLACES)}" if rng.random() < 0.12 else ""
    return f"{article} {adjective}{noun}{of}"


def clause(rng: Random) -> str:
    text = f"{noun_phrase(rng)} {rng.choice(VERBS)} {noun_phrase(rng)}"
    if rng.random() < 0.35:
        text += f" {rng.choice(('near', 'under', 'behind', 'from', 'beside', 'with', 'beyond'))} {noun_phrase(rng)}"
    return text


def sentence(rng: Random) -> str:
    text = clause(rng)
    shape = rng.random()
    if shape < 0.3:
        text += f", {rng.choice(('and', 'but', 'so', 'yet'))} {clause(rng)}"
    elif shape < 0.5:
        text += f" {rng.choice(TAILS)}"
    elif shape < 0.7:
        text = f"{rng.choice(OPENINGS)} {text}"
    return text[0].upper() + text[1:] + "."


def paragraph(rng: Random, n: int | None = None) -> str:
    return " ".join(sentence(rng) for _ in range(n or rng.randint(3, 7)))


def filled(pieces: Pieces, n: int) -> str:
    """The pieces, one after another, until there are `n` bytes; fewer where they end."""
    out, size = [], 0
    for piece in pieces:
        out.append(piece)
        size += len(piece.encode())
        if size >= n:
            break
    return "".join(out)


def endless(make: Callable[[], str]) -> Pieces:
    while True:
        yield make()


def prose(rng: Random) -> Pieces:
    return endless(lambda: paragraph(rng) + "\n\n")


def slots(rng: Random, template: str, table: dict[str, tuple[str, ...]]) -> str:
    """The template with each {name} drawn from the table."""
    return template.format_map({name: rng.choice(values) for name, values in table.items()})
