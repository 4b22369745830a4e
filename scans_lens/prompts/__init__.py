"""Prompts: what we ask a model, harmful on one side and harmless on the other."""

from scans_lens.prompts.catalogue import JAILBREAKS, SOURCES, Source
from scans_lens.prompts.contrast import KINDS, Contrast, normalised
from scans_lens.prompts.files import own, own_contrast
from scans_lens.prompts.public import known, load
from scans_lens.prompts.sets import PromptSet
from scans_lens.prompts.shipped import anchors, borderline, pairs, twins
from scans_lens.prompts.tables import FOLDER_VARIABLE

__all__ = [
    "FOLDER_VARIABLE",
    "JAILBREAKS",
    "KINDS",
    "SOURCES",
    "Contrast",
    "PromptSet",
    "Source",
    "anchors",
    "borderline",
    "known",
    "load",
    "normalised",
    "own",
    "own_contrast",
    "pairs",
    "twins",
]
