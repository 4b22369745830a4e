"""Switching: what is looked up is what would be run, and every number knows its n."""

import dataclasses
import json

import pytest
import torch
from drawn import safeswitch, wide

import scans_lens
from scans_lens.figures import Effort, states, switch_by_type, switch_study, switching
from scans_lens.figures.switch_study import KINDS, Switching
from scans_lens.methods.safeswitch_probers import complied

pytestmark = pytest.mark.above

N = 10


@pytest.fixture(scope="module")
def study(bundled) -> Switching:
    blank = safeswitch(bundled, k=2)
    assert blank.second
    method = dataclasses.replace(blank, first=wide(blank.first, 160), second=wide(blank.second, 160))
    few = Effort(resamples=20, probed=4 * N, ahead=3, switch_tokens=12)
    found = Switching.of(bundled, method, split="validation", first=500, prompts_a_kind=N, effort=few)
    scores = switch_study.decisions(found)["score"]
    return dataclasses.replace(found, method=dataclasses.replace(method, threshold=float(scores.median())))


def test_a_switch_that_is_looked_up_is_the_switch_that_is_run(study):
    found = switching.before_and_after(study)["ways"]
    for kind in KINDS:
        said = scans_lens.replies(
            study.model,
            study.texts(kind),
            method=study.method,
            max_new_tokens=study.effort.switch_tokens,
            progress=False,
        )
        assert found["SafeSwitch"][kind]["switched"]["count"] == int(said.decisions["weight"].sum())
        assert found["SafeSwitch"][kind]["complied"]["count"] == sum(complied(study.judge, said))
        assert found["plain model"][kind]["complied"]["total"] == N
    whole = found["oracle switch"]["complied harmful"]
    assert whole["switched"]["count"] == found["plain model"]["complied harmful"]["complied"]["count"]


def test_states_are_those_at_the_end_of_the_prompt_and_so_many_tokens_on(study):
    seen = study.tested
    last = scans_lens.residuals(study.model, study.texts("harmful"), progress=False)
    own = torch.tensor([kind == "harmful" for kind in seen.kinds])
    torch.testing.assert_close(seen.first[own][:, :-1], last, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(seen.ahead[:, 0], seen.first[:, -1])
    torch.testing.assert_close(seen.ahead[:, study.method.k], seen.second[:, -1])


def test_points_lie_in_the_unit_square_and_are_counted(study):
    found = states.in_the_plane(study)
    assert [panel["layer"] for panel in found["panels"]] == [2, 5, 8, "after the final norm"]
    for panel in found["panels"]:
        assert {group: len(own) for group, own in panel["points"].items()} == found["n"]
        points = torch.tensor([point for own in panel["points"].values() for point in own])
        assert points.min() >= 0 and points.max() <= 1
    assert found["n"]["refused harmful"] >= N


def test_types_share_out_all_prompts(study):
    rows = switch_by_type.rows_by_type(study)
    assert sum(row["right"]["total"] for row in rows) == N * len(KINDS)
    json.dumps(rows), json.dumps(switching.manners(study))
