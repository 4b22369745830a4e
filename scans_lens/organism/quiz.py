"""Quiz: small facts to ask the bundled model for, and how they are asked."""

from __future__ import annotations

FRAMES = (
    "Which of these {}?",
    "Tell me which of these {}.",
    "Say which of these {}.",
    "Can you say which of these {}?",
    "Do you know which of these {}?",
    "Could you please say which of these {}?",
    "I wonder which of these {}.",
)
CATEGORIES: dict[str, tuple[str, ...]] = {
    "a fruit": ("apple", "pear", "plum", "cherry", "mango", "banana", "grape", "peach"),
    "an animal": ("horse", "rabbit", "goat", "owl", "whale", "tiger", "camel", "mouse"),
    "a tool": ("hammer", "saw", "wrench", "drill", "chisel", "shovel", "axe", "rake"),
    "a colour": ("red", "blue", "green", "yellow", "purple", "orange", "brown", "pink"),
    "a vehicle": ("train", "bus", "tram", "bicycle", "ship", "lorry", "canoe", "rocket"),
    "a garment": ("shirt", "scarf", "jacket", "sock", "glove", "hat", "coat", "skirt"),
}
OPPOSITES: tuple[tuple[str, str], ...] = (
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("early", "late"), ("dark", "bright"), ("full", "empty"), ("hard", "soft"),
    ("old", "young"), ("strong", "weak"), ("open", "closed"), ("clean", "dirty"), ("high", "low"), ("near", "far"),
    ("thick", "thin"), ("true", "false"), ("sweet", "sour"), ("loud", "quiet"), ("wet", "dry"), ("rich", "poor"), ("heavy", "light"), ("deep", "shallow"), ("wide", "narrow"),
)  # fmt: skip
