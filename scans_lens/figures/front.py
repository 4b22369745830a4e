"""Front: what every method trades, over-refusal against refusals of harm, and what a reply costs under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scans_lens.figures import captions
from scans_lens.figures.captions import Numbers
from scans_lens.figures.panels import mark
from scans_lens.figures.runs import comparison_of
from scans_lens.figures.style import FAINT, INK, SOFT, WIDTH, blank
from scans_lens.rates import unbeaten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scans_lens.figures.picture import Picture
    from scans_lens.figures.runs import Runs

ABOUT = "what every method trades: over-refusal against refusals of harm, and what a reply costs"
SAFE = "over-refusal"
AGAINST = {"harmful": "harmful prompts", "jailbreaks": "jailbreaks"}
"""What is to stay refused, one panel each, as far as it was asked."""
KEPT = ("together", "seconds a reply", "tuning")
"""What of a way is needed here; its rates set by set are the comparison's."""
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C4A7B")
MARKS = ("o", "s", "^", "D", "v")


def measure(runs: Runs) -> dict[str, Any]:
    """Of a comparison: by way and purpose, who is refused, and what a reply and the fit took.

    Raises:
        ValueError: no folder is given, it holds no comparison, or over-refusal and defence were not both asked.
    """
    found = comparison_of(runs, "front")
    ways = {name: way for name, way in found["ways"].items() if "together" in way}
    asked = {purpose for purpose in (SAFE, *AGAINST) if all(purpose in way["together"] for way in ways.values())}
    if not ways or SAFE not in asked or len(asked) < 2:
        raise ValueError(
            "This comparison has no front: it asked no prompts that only sound harmful, or no harmful ones (compare "
            "--sets), or an older version made it."
        )
    kept = ("model", "anchors", "besides", "validation", "sets", "settings", "made_with")
    return {name: found[name] for name in kept} | {
        "ways": {name: {key: way[key] for key in KEPT if key in way} for name, way in ways.items()}
    }


def caption(numbers: Numbers, settings: Numbers) -> str:
    plain = numbers["ways"]["plain"]["together"]
    asked = ", ".join(f"{rates['refused']['total']} {purpose}" for purpose, rates in plain.items())
    return captions.caption(
        captions.model(numbers),
        f"n = {asked} prompts, all sets of a purpose together. {captions.learned(numbers)}",
        "Lower right is better. Bars: 95 %, Clopper–Pearson where each prompt is an item of its own, else bootstrap",
        "over items. Line and names in a panel: its front, ways that no other",
        "one beats on one of its axes without losing on the other. Beside names: time of a reply, the plain model’s",
        "being 1, and replies that the knobs were chosen by.",
    )


def looks_of(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A colour and a mark for every way; the plain model is hollow."""
    looks: dict[str, dict[str, Any]] = {}
    for place, name in enumerate(name for name in names if name != "plain"):
        looks[name] = {"color": COLORS[place % len(COLORS)], "marker": MARKS[place // len(COLORS) % len(MARKS)]}
    return {"plain": {"color": INK, "marker": "o", "markerfacecolor": "white"}} | looks


def draw(numbers: Numbers, settings: Numbers) -> Picture:
    """One panel for harmful prompts and one for jailbreaks, and all ways with their cost beside them."""
    ways = numbers["ways"]
    against = [purpose for purpose in AGAINST if all(purpose in way["together"] for way in ways.values())]
    looks = looks_of(list(ways))
    picture = blank(WIDTH, 4.6, caption(numbers, settings))
    panels = picture.subplots(1, len(against), sharey=True, squeeze=False)[0]
    for ax, purpose in zip(panels, against, strict=True):
        _panel(ax, ways, purpose, looks)
    panels[0].set_ylabel("over-refusal: refused (%)")
    handles = [mark(_with_cost(name, ways), **look) for name, look in looks.items()]
    picture.legend(handles=handles, loc="outside right upper", frameon=False, alignment="left")
    return picture


def _with_cost(name: str, ways: Numbers) -> str:
    """A way with the time of a reply beside the plain model's, and the replies that it was tuned on."""
    seconds, plain = (ways[each].get("seconds a reply") for each in (name, "plain"))
    times = f"  {seconds / plain:.2f}×" if seconds and plain else ""
    tuned = ways[name].get("tuning", {}).get("replies")
    return f"{name}{times}{f', {tuned:,}' if tuned else ''}"


def front_of(places: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Of ways at (refused of harm, refused of harmless), those that none beats, from left to right."""
    front = unbeaten({name: (x, -y) for name, (x, y) in places.items()})
    return dict(sorted(((name, places[name]) for name in front), key=lambda entry: entry[1]))


def _panel(ax: Axes, ways: Numbers, purpose: str, looks: Mapping[str, dict[str, Any]]) -> None:
    sides = {name: [ways[name]["together"][each]["refused"] for each in (purpose, SAFE)] for name in looks}
    places = {name: (100 * x["value"], 100 * y["value"]) for name, (x, y) in sides.items()}
    for name, look in looks.items():
        at, (x, y) = places[name], sides[name]
        ax.plot([100 * edge for edge in x["interval"]], [at[1]] * 2, color=look["color"], lw=0.7, alpha=0.7)
        ax.plot([at[0]] * 2, [100 * edge for edge in y["interval"]], color=look["color"], lw=0.7, alpha=0.7)
        ax.plot(*at, ls="none", ms=6, zorder=3, **look)
    front = front_of(places)
    ax.plot(*zip(*front.values(), strict=True), color=FAINT, lw=2.5, zorder=0, drawstyle="steps-pre")
    for place, (name, at) in enumerate(front.items()):
        left = at[0] > 50
        ax.annotate(
            name, at, (-7 if left else 7, 5 if place % 2 else -5), textcoords="offset points",
            fontsize=7, color=SOFT, zorder=4, ha="right" if left else "left", va="center",
        )  # fmt: skip
    total = ways["plain"]["together"][purpose]["refused"]["total"]
    ax.set(title=f"against {AGAINST[purpose]} (n = {total})", xlabel="refused (%)", xlim=(-3, 103), ylim=(-5, None))
