"""Capability: what the push costs in quiz answers and in foretold answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.panels import beside, dot, labelled
from scans_lens.figures.style import FAINT, INK, WIDTH, blank

if TYPE_CHECKING:
    from scans_lens.figures.picture import Picture
    from scans_lens.figures.study import Study
    from scans_lens.methods.scans import SCANS

ABOUT = "what the push costs (paper, table 3)"


def measure(study: Study) -> dict[str, Any]:
    """Quiz answers and foretold answers under SCANS' own sign and under either sign for everything.

    Raises:
        ValueError: not the bundled model, whose quiz and corpus these are.
    """
    from scans_lens import judges
    from scans_lens.figures import perplexity
    from scans_lens.figures.study import signed
    from scans_lens.organism import corpus, wordings
    from scans_lens.rates import Rate

    if not study.bundled:
        raise ValueError(
            "This figure is of the bundled model's own quiz and corpus; for other models scans_lens.questions has MMLU "
            "and scans_lens.likelihoods perplexity, and `python -m scans_lens reproduce --table 3` measures both."
        )
    scans = study.scans
    asked = corpus.asked("quiz", "test")[: len(study.test["plain"])]
    ways: dict[str, tuple[SCANS | None, SCANS | None, float | None]] = {
        "plain model": (None, None, None),
        "SCANS, each its own way": (scans, scans, None),
        "all away from refusal": (signed(scans, -1), scans, -1.0),
        "all towards refusal": (signed(scans, 1), scans, 1.0),
    }
    found = {}
    for way, (talks, reads, sign) in ways.items():
        said = study.replies([text for _, text in asked], talks, study.effort.quiz_tokens)
        right = [wordings.is_right(item, reply) for (item, _), reply in zip(asked, said, strict=True)]
        items = [item.phrase for item, _ in asked]
        found[way] = {
            "quiz": study.clustered(right, items),
            "quiz_refused": Rate.of(judges.refused(study.judge, said)),
            "pushed_towards": None if said.scale is None else Rate.of((said.scale > 0).tolist()),
            "perplexity": perplexity.of_corpus(study, reads, sign),
        }
    return {
        "ways": found,
        "scale": scans.scale,
        "unit": scans.unit,
        "layers": scans.layers,
        "tokens": study.effort.quiz_tokens,
    }


def caption(numbers: Numbers, settings: Numbers) -> str:
    ways = numbers["ways"]
    first = next(iter(ways.values()))
    quiz, corpus = first["quiz"], first["perplexity"]
    towards = ways["SCANS, each its own way"]["pushed_towards"]
    return captions.caption(
        captions.model(settings),
        captions.push(numbers),
        f"Quiz: {quiz['total']} test questions about {quiz['items']} items, replies of up to {numbers['tokens']}",
        "tokens; 95 %, " + ("Clopper–Pearson." if quiz["items"] == quiz["total"] else "bootstrap over the items."),
        f"{captions.perplexity(corpus)}; 95 % by bootstrap over the answers.",
        f"{captions.SAME_ANSWERS} Grey: the plain model.",
        f"SCANS itself pushes {towards['count']} of the {towards['total']} questions towards refusal.",
    )


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    ways = numbers["ways"]
    first = next(iter(ways.values()))
    quiz, corpus = first["quiz"], first["perplexity"]
    picture = blank(WIDTH, 3.3, caption(numbers, settings))
    left, right = picture.subplots(1, 2)
    for ax, key, times, form in ((left, "quiz", 100, ".1f"), (right, "perplexity", 1, ".3f")):
        ax.axvline(times * first[key]["value"], color=FAINT, lw=1, zorder=0)
        for y, part in enumerate(ways.values()):
            dot(ax, part[key], y, times=times, color=INK, marker="o")
            beside(ax, y, f"{times * part[key]['value']:{form}}")
        labelled(ax, list(ways), named=ax is left)
        ax.margins(x=0.1)
    left.set(xlabel="right (%)", title=f"Quiz questions right (n = {quiz['total']})")
    right.set(xlabel="perplexity (a token)", title=f"Answers foretold (n = {corpus['texts']})")
    return picture
