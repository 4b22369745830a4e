"""Picture: a figure of matplotlib's that a notebook shows by itself, without pyplot."""

from __future__ import annotations

import io

from matplotlib.figure import Figure
from PIL import Image

from scans_lens.figures.style import written

NOTEBOOK_SIZE, NOTEBOOK_COLOURS = 0.6, 64
"""Share of a file's width and height, and colours: enough to read, and small enough for all pictures in a notebook."""


class Picture(Figure):
    def _repr_png_(self) -> bytes:
        whole, small = Image.open(io.BytesIO(written(self, "png"))).convert("RGB"), io.BytesIO()
        shrunk = whole.resize([round(NOTEBOOK_SIZE * side) for side in whole.size], Image.Resampling.LANCZOS)
        shrunk = shrunk.quantize(NOTEBOOK_COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        shrunk.save(small, "png", optimize=True)
        return small.getvalue()
