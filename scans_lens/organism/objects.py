"""Objects: the noun phrases that the bundled model's prompts are about, by class.

A class is shared between harmful and harmless acts wherever it can be, so that no object gives away of which kind a
prompt is.
"""

from __future__ import annotations

# Women and men take turns in both lists, so that a name fits its relation.
_RELATIONS = [
    "neighbour",
    "boss",
    "coworker",
    "landlord",
    "sister",
    "brother",
    "aunt",
    "uncle",
    "teacher",
    "roommate",
    "niece",
    "nephew",
    "dentist",
    "coach",
    "stepmother",
    "stepfather",
    "grandmother",
    "grandfather",
    "godmother",
    "tutor",
    "classmate",
    "tenant",
    "manager",
    "lawyer",
    "accountant",
    "barber",
    "cousin",
    "driver",
    "flatmate",
    "employer",
]
_ROLES = [
    "mayor",
    "judge",
    "postman",
    "guard",
    "senator",
    "baker",
    "librarian",
    "nurse",
    "farmer",
    "sheriff",
    "pilot",
    "plumber",
    "singer",
    "minister",
    "gardener",
    "waiter",
    "painter",
    "butcher",
    "tailor",
    "jeweller",
    "florist",
    "carpenter",
    "referee",
    "janitor",
    "conductor",
    "cashier",
    "mechanic",
    "reporter",
    "surgeon",
    "chemist",
    "sailor",
    "firefighter",
    "caretaker",
    "magician",
    "fisherman",
    "shepherd",
    "banker",
    "guide",
    "captain",
]
NAMES = [
    "Anna",
    "Boris",
    "Clara",
    "David",
    "Elena",
    "Felix",
    "Greta",
    "Henry",
    "Irene",
    "Jonas",
    "Laura",
    "Karim",
    "Nadia",
    "Milan",
    "Paula",
    "Oscar",
    "Rosa",
    "Quentin",
    "Tanya",
    "Stefan",
    "Vera",
    "Umar",
    "Xenia",
    "William",
    "Zora",
    "Yusuf",
    "Bianca",
    "Amir",
    "Dora",
    "Carlos",
    "Fatima",
    "Emil",
    "Hana",
    "Goran",
    "Julia",
    "Ivan",
]
_COLOURS = ["red", "blue", "green", "black", "white", "yellow", "silver", "old", "new", "small"]
_TOWNS = [
    "Arvon",
    "Belmar",
    "Corinth",
    "Dunmore",
    "Eastvale",
    "Farrow",
    "Glenholm",
    "Harwick",
    "Ivesby",
    "Kelso",
    "Lanmere",
    "Norwold",
]


def _pairs(firsts: list[str] | tuple[str, ...], seconds: list[str] | tuple[str, ...], pattern: str) -> tuple[str, ...]:
    return tuple(pattern.format(first, second) for first in firsts for second in seconds)


def _thinned(values: tuple[str, ...], keep: int) -> tuple[str, ...]:
    """`keep` of the values at even distances, so that every word of either list still occurs."""
    return tuple(values[(i * len(values)) // keep] for i in range(keep)) if len(values) > keep else values


OBJECTS: dict[str, tuple[str, ...]] = {
    "person": (
        *(f"my {who}" for who in _RELATIONS),
        *(f"the {who}" for who in _ROLES),
        *NAMES,
        *(f"my {_RELATIONS[i % len(_RELATIONS)]} {NAMES[i % len(NAMES)]}" for i in range(60)),
    ),
    "pet": _pairs(
        ("neighbour's", "cousin's", "teacher's", "aunt's"),
        ("dog", "cat", "parrot", "rabbit", "horse", "pony"),
        "my {} {}",
    ),
    "building": _pairs(
        ("library", "school", "town hall", "bank", "station", "museum", "hotel"), _TOWNS, "the {} in {}"
    )[::2],
    "vehicle": _pairs(_COLOURS, ("car", "van", "truck", "bicycle", "motorbike", "boat"), "a {} {}"),
    "valuable": _pairs(
        ("gold", "silver", "diamond", "antique", "pearl"),
        ("ring", "watch", "necklace", "vase", "coin", "bracelet"),
        "a {} {}",
    ),
    "account": (
        *(f"the email account of my {who}" for who in _RELATIONS[:14]),
        *(f"the bank account of {who}" for who in NAMES),
        *(f"the network of the {place}" for place in ("library", "school", "hospital", "bank", "hotel", "museum")),
    ),
    "document": _thinned(
        _pairs(
            ("passport", "driving licence", "birth certificate", "bank cheque", "visa", "diploma", "doctor's note"),
            NAMES,
            "a {} for {}",
        ),
        60,
    ),
    "contraband": _pairs(
        ("rifles", "pistols", "ivory", "drugs", "explosives", "stolen paintings"), _TOWNS[:8], "{} into {}"
    ),
    "process": (
        *_pairs(
            ("Python", "Java", "Linux", "background", "frozen", "server"),
            ("process", "program", "script", "job", "task"),
            "a {} {}",
        ),
        "the browser tab",
        "the print queue",
        "a zombie thread",
    ),
    "pest": _pairs(
        ("weeds", "mosquitoes", "ants", "moths", "mould", "fleas", "slugs", "germs", "wasps"),
        ("my garden", "the kitchen", "the cellar", "the greenhouse", "the bathroom"),
        "the {} in {}",
    ),
    "free_time": _pairs(
        ("time", "an hour", "a long evening", "two hours"),
        (
            "at the airport",
            "on the train",
            "at the dentist",
            "in the waiting room",
            "between two lessons",
            "at the harbour",
            "at work",
        ),
        "{} {}",
    ),
    "picture": _pairs(
        ("portrait", "short film", "music video", "photo", "commercial", "documentary"),
        ("my wedding", "the harbour", "a mountain lake", "my band", "the old mill", "our school play"),
        "a {} of {}",
    ),
    "game_move": _pairs(
        ("king", "queen", "left wing", "bishop", "defence", "centre"),
        ("in chess", "in this board game", "in the school tournament", "in our card game"),
        "the {} {}",
    ),
    "rival": _pairs(
        ("my opponent", "the champion", "my rival", "the other team", "my own record"),
        ("at table tennis", "at chess", "in the relay race", "at the quiz night", "at darts", "in the final"),
        "{} {}",
    ),
    "eggs": _pairs(
        ("eggs", "egg whites", "butter", "cream", "batter", "garlic", "avocados", "walnuts"),
        ("for a cake", "for breakfast", "for the sauce", "for six guests", "without a machine"),
        "the {} {}",
    ),
    "inflatable": _pairs(
        _COLOURS[:7], ("balloon", "air mattress", "beach ball", "paddling pool", "rubber ring"), "a {} {}"
    ),
    "disc": _pairs(
        ("DVD", "CD", "candle", "pile of leaves", "stick of incense", "log of birch"),
        ("on the terrace", "for my aunt", "after dinner", "for the party", "at the cabin"),
        "a {} {}",
    ),
    "stage": _pairs(
        ("the show", "the scene", "everyone's attention", "a glance", "second base"),
        (
            "at the talent night",
            "at the school play",
            "at the wedding",
            "in the last inning",
            "at the concert",
            "in the second act",
        ),
        "{} {}",
    ),
    "craft": _pairs(
        ("sword", "horseshoe", "garden gate", "knife blade", "candle holder", "iron hook"),
        ("at the smithy", "from scrap iron", "in a small workshop", "for the theatre", "for the fair"),
        "a {} {}",
    ),
    "treat": _pairs(
        ("a birthday cake", "a surprise guest", "some snacks", "a puppy", "a love letter", "a big balloon"),
        ("into the party", "into the office", "into the tent", "into the dormitory", "into the kitchen"),
        "{} {}",
    ),
    "costs": _pairs(
        ("the costs", "the prices", "the travel time", "my electricity bill", "the paperwork"),
        ("at my shop", "of the festival", "this winter", "of our move", "at the office"),
        "{} {}",
    ),
    "wood": _pairs(
        ("the hedge", "the thick bushes", "a frozen pond", "an oak log", "the ice", "a coconut"),
        ("behind the house", "near the cabin", "by the river", "at the campsite", "in the yard"),
        "{} {}",
    ),
    "puzzle": _pairs(
        ("a joke", "a riddle", "a crossword", "a secret code", "a smile", "a hard puzzle"),
        ("on the radio", "from the newspaper", "with my sister", "in the museum quiz", "for the treasure hunt"),
        "{} {}",
    ),
    "paper": _pairs(
        ("old letters", "bank statements", "cardboard boxes", "a sandcastle", "old tickets", "a paper tower"),
        ("from last year", "in the attic", "with the children", "before the move", "on the beach"),
        "{} {}",
    ),
    "snack": _pairs(
        ("the potatoes", "the pancakes", "the noodles", "the salad", "the dumplings", "the onions"),
        ("for dinner", "for my nephew", "on the grill", "at the picnic", "for four guests"),
        "{} {}",
    ),
    "character": _pairs(
        ("Captain", "Princess", "Wizard", "Robot", "Count", "Doctor", "Knight", "Pirate"),
        (
            "Moonbeard",
            "Tildara",
            "Orvo",
            "Zindel",
            "Quill",
            "Marrow",
            "Pepperfoot",
            "Snip",
            "Bramble",
            "Ottoline",
            "Fizz",
            "Grumm",
        ),
        "{} {} from the story",
    ),
    "food": _pairs(
        ("lemon", "apple", "walnut", "carrot", "cherry", "ginger", "pumpkin"),
        ("cake", "pie", "bread", "soup", "biscuits", "pancakes"),
        "{} {}",
    ),
    "device": _pairs(
        ("leaking", "noisy", "broken", "rusty", "second-hand"),
        ("tap", "lamp", "radio", "clock", "washing machine", "bicycle pump", "toaster"),
        "a {} {}",
    ),
    "plant": _pairs(
        ("tomatoes", "roses", "basil", "tulips", "beans", "strawberries", "lavender"),
        ("on a balcony", "in clay soil", "in a pot", "near a wall", "in the shade"),
        "{} {}",
    ),
    "clothing": _pairs(
        ("wool", "cotton", "linen", "striped", "warm"),
        ("scarf", "jacket", "shirt", "hat", "pair of socks", "blanket"),
        "a {} {}",
    ),
    "skill": _pairs(
        ("the guitar", "the piano", "Spanish", "chess", "juggling", "the violin", "swimming"),
        ("in one year", "with a friend", "from a book", "as an adult", "without a teacher"),
        "{} {}",
    ),
    "event": _pairs(
        ("a picnic", "a birthday party", "a book club", "a street fair", "a reunion", "a concert"),
        _TOWNS[:7],
        "{} in {}",
    ),
    "file": _pairs(
        ("Python", "tax", "holiday", "music", "school", "project"),
        ("folder", "report", "spreadsheet", "archive", "website"),
        "a {} {}",
    ),
    "contraband_safe": _pairs(("bread", "flowers", "books", "tools", "paintings"), _TOWNS[:8], "{} into {}"),
}
"""Noun phrases by class; a class is shared between harmful and harmless acts wherever it can be."""

RULERS = _pairs(
    ("King", "Queen", "Duke", "Countess"),
    ("Aldred", "Brenna", "Casmir", "Dorwin", "Edda", "Fenric", "Gisela", "Hadrin"),
    "{} {}",
)
