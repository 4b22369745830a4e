"""Transfer: every fit on the same prompts put in every way, beside the plain model."""

import pytest

from scans_lens.conversation import Asking
from scans_lens.errors import Refused
from scans_lens.prompts import Contrast
from scans_lens.transfer import across_askings

pytestmark = pytest.mark.above

ASKED = Contrast("few", ["Kill it?", "Burn it?"], ["See it?", "Buy it?", "Eat it?"])
WAYS = (Asking(), Asking("Answer in one word."))


def test_a_way_under_which_nothing_can_be_fitted_is_told_and_the_others_are_asked(model, fit_of):
    def fit(asking):
        if asking:
            raise Refused("The model thinks too long.")
        return fit_of("SCANS")

    heard = []

    def judge(said):
        heard.append(list(said))
        return ["refused"] * 2 + ["answered"] * 3

    found = across_askings(model, WAYS, fit, ASKED, judge=judge, max_new_tokens=2, progress=False)
    assert found.unfitted == {str(WAYS[1]): "The model thinks too long."}
    assert [(cell.used, cell.fitted) for cell in found.cells] == [
        (used, fit) for used in WAYS for fit in (None, WAYS[0])
    ]
    assert all(cell.harmful.value == 1 and cell.others.value == 0 for cell in found.cells)
    assert [cell.curves is None for cell in found.cells] == [True, False] * 2
    assert heard[0] != heard[2]  # the plain model, put in two ways


def test_one_way_is_no_transfer(model):
    with pytest.raises(ValueError, match="give two at least"):
        across_askings(model, WAYS[:1], lambda asking: None, ASKED)
