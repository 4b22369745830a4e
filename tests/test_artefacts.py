"""Artefacts: what a file says of itself, and what is said of a file that is not whole."""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import scans_lens
from scans_lens import artefacts
from scans_lens.classifier import TransitionClassifier
from scans_lens.directions import Directions, Origin
from scans_lens.methods.caa import CAA
from scans_lens.methods.caa import Trial as CAATrial
from scans_lens.methods.cast import CAST, Condition, Searched
from scans_lens.methods.cast import Trial as CASTTrial
from scans_lens.methods.false_refusal import FalseRefusal
from scans_lens.methods.false_refusal import Trial as FalseTrial
from scans_lens.methods.gated_push import GatedPush
from scans_lens.methods.gating import Trial as GatedTrial
from scans_lens.methods.jailbreak_antidote import JailbreakAntidote
from scans_lens.methods.jailbreak_antidote import Trial as AntidoteTrial
from scans_lens.methods.readers import Centred, InstructionEnd, Transitions
from scans_lens.methods.refusal_direction import RefusalDirection
from scans_lens.methods.refusal_direction import Trial as DirectionTrial
from scans_lens.methods.refusal_head import RefusalHead
from scans_lens.methods.ridge import RidgeGate
from scans_lens.methods.rules import Band, Continuous, Sign
from scans_lens.methods.safeswitch import SafeSwitch, Switched
from scans_lens.methods.scans import SCANS
from scans_lens.methods.thresholds import Trial
from scans_lens.model import Identity, identity
from scans_lens.prober import Prober, Quality

LAYERS, WIDTH, WORDS = 4, 64, 600


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def origin(model=None):
    own = Identity("LlamaForCausalLM", LAYERS, WIDTH, WORDS, "ab", "cd", "tiny") if model is None else identity(model)
    return Origin(own, "drawn", "ef", 3, 3, {"torch": "2"})


def some_directions(model=None):
    return Directions(drawn(LAYERS, WIDTH), drawn(LAYERS).abs() + 1, origin(model))


def some_scans(model=None, **how):
    own = {
        "classifier": TransitionClassifier(drawn(LAYERS, WIDTH, seed=1), (1, 2, 3), 0.1, "nothing"),
        "reader": Centred(InstructionEnd(), drawn(LAYERS, WIDTH)),
        "rule": Band(0.01, Continuous(0.2)),
        "trials": (Trial(0.0, 0.1, 0.2, (1, 2), (3, 4)),),
    }
    return SCANS(some_directions(model), (1, 2), 0.5, **{"unit": "residual norms", **own, **how})


def prober(name, hidden=5):
    layers = (drawn(hidden, WIDTH), drawn(2, hidden)), (drawn(hidden), drawn(2))
    return Prober(name, drawn(WIDTH), drawn(WIDTH).abs() + 1, *layers, slope=0.5, offset=0.1)


def of_every_kind(model=None):
    directions = some_directions(model)
    return {
        "directions": directions,
        "scans": some_scans(model),
        "caa": CAA(directions, 2, -1.5, (CAATrial(2, -1.5, (1, 2), (3, 4)),), "chosen"),
        "cast": CAST(
            directions,
            (1, 2),
            0.3,
            Condition(drawn(WIDTH), 1, 0.2, True),
            (Searched("harmful", 1, True, 0.2, 0.9),),
            (CASTTrial(0.0, (), None, (1, 2), (3, 4)), CASTTrial(0.3, (1, 2), "harmful", (1, 2), (3, 4))),
        ),
        "gated push": GatedPush(
            directions, (1, 2), 0.3, RidgeGate.fit(drawn(6, 2, WIDTH), torch.arange(6) < 3, torch.ones(6), (1, 2)),
            -0.2, 0.4, origin(model), (GatedTrial(0.3, -0.2, 0.4, (0, 1), (1, 2), (3, 4)),),
        ),
        "jailbreak antidote": JailbreakAntidote(directions, (1,), 0.1, (0.5,), (AntidoteTrial(0.1, (1, 2), (3, 4)),)),
        "refusal direction": RefusalDirection(
            drawn(2, LAYERS, WIDTH), -1, 2, (5, 6), (DirectionTrial(-1, 2, 0.1, 0.2, 0.3, True),), (1.0, 2.0),
            origin(model),
        ),
        "false refusal": FalseRefusal(
            drawn(2, LAYERS, WIDTH), drawn(2, LAYERS, WIDTH, seed=1), -1, 2, 1.0, (5, 6),
            (FalseTrial(-1, 2, 0.1, 0.2, 0.3, True),), (1.0, 2.0), origin(model), 7,
        ),
        "safeswitch": SafeSwitch(
            prober("harmful"), prober("complied"), RefusalHead(drawn(WIDTH, WORDS), 0.1, (2.0, 1.0)), origin(model),
            0.5,
            qualities=(Quality("harmful", 0.9, 0.95, 3, 6),), switched=(Switched("harmless", 0, 3),),
        ),
    }  # fmt: skip


KINDS = of_every_kind()


def taken_apart(file):
    """Tensors and metadata with nothing of ours."""
    with safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118


def wrong(value):
    """Of another sort than this one."""
    return 3 if isinstance(value, (str, list, dict)) else ["three"]


def places(value, path=()):
    """The way to every field of a header, inner ones too; of a list's entries, the first one's."""
    if isinstance(value, dict):
        for name, own in value.items():
            yield (*path, name)
            yield from places(own, (*path, name))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


@pytest.fixture(params=KINDS)
def saved(request, tmp_path):
    kept = KINDS[request.param]
    kept.save(tmp_path / "saved.safetensors")
    return type(kept), tmp_path / "saved.safetensors"


def test_a_file_that_lacks_any_part_or_has_one_of_another_sort_is_one_sentence(saved):
    kind, file = saved
    assert isinstance(kind.load(file), kind)
    tensors, about = taken_apart(file)
    header = json.loads(about["header"])

    def refused(tensors, header, about=about):
        save_file(
            tensors, file, metadata={**about, "header": header if isinstance(header, str) else json.dumps(header)}
        )
        with pytest.raises(ValueError) as caught:
            kind.load(file)
        assert type(caught.value) is ValueError and str(file) in str(caught.value), caught.value

    for name in tensors:
        refused({own: tensor for own, tensor in tensors.items() if own != name}, header)
    refused(tensors | {"more": torch.ones(2)}, header)
    for path in places(header):
        if path[0] == "use" or path[-1] == "torch":  # what is for other programs, and any version
            continue
        lacking, odd = json.loads(json.dumps(header)), json.loads(json.dumps(header))
        for own, change in (
            (lacking, lambda at, name: at.pop(name)),
            (odd, lambda at, name: at.update({name: wrong(at[name])})),
        ):
            if own is lacking and path == ("window",):  # it came later
                continue
            at = own
            for step in path[:-1]:
                at = at[step]
            change(at, path[-1])
            refused(tensors, own)
    for text in ("", "{", "[]", "3"):
        refused(tensors, text)
    for missing in ("kind", "format"):
        refused(tensors, header, {name: value for name, value in about.items() if name != missing})
    whole = file.read_bytes()
    for size in (0, 7, 60, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="cut short"):
            kind.load(file)


def test_a_file_from_before_a_part_came_means_what_was_before(saved):
    kind, file = saved
    tensors, about = taken_apart(file)
    header = json.loads(about["header"])
    later = {one.name: one.default for one in dataclasses.fields(kind) if one.metadata.get("later")}
    assert later == ({"window": None} if kind in (SCANS, GatedPush) else {})
    for name in later:
        header.pop(name)
    save_file(tensors, file, metadata={**about, "header": json.dumps(header)})
    read = kind.load(file)
    assert {name: getattr(read, name) for name in later} == later


@pytest.mark.parametrize(("steered", "voting"), [((9,), (1,)), ((1,), (9,)), ((1,), ())])
def test_layers_that_there_are_not_are_refused(tmp_path, steered, voting):
    classifier = TransitionClassifier(drawn(LAYERS, WIDTH), voting, 0.1, "nothing")
    dataclasses.replace(some_scans(classifier=classifier), layers=steered).save(tmp_path / "odd")
    with pytest.raises(ValueError, match=r"parts that do not go together: .*layers"):
        SCANS.load(tmp_path / "odd")


def test_a_file_of_an_older_format_says_to_fit_again(tmp_path):
    KINDS["scans"].save(tmp_path / "saved")
    tensors, about = taken_apart(tmp_path / "saved")
    save_file(tensors, tmp_path / "saved", metadata={**about, "format": "1"})
    with pytest.raises(ValueError, match="is in format 1, and this version reads format 2: fit it again"):
        SCANS.load(tmp_path / "saved")


def test_a_part_is_of_the_kind_that_it_was(tmp_path):
    """Where an annotation allows several dataclasses, the file says which."""
    for rule in (Sign(), Continuous(0.3), Band(0.1), Band(0.1, Continuous(0.3))):
        for reader in (Transitions(), Transitions(normed=True), InstructionEnd()):
            some_scans(rule=rule, reader=reader).save(tmp_path / "saved")
            found = SCANS.load(tmp_path / "saved")
            assert (found.rule, found.reader) == (rule, reader)
    some_scans().save(tmp_path / "saved")
    tensors, header = artefacts.read(tmp_path / "saved", "SCANS")
    artefacts.write(tmp_path / "odd", "SCANS", tensors, header | {"rule": {**header["rule"], "kind": "Prober"}})
    with pytest.raises(ValueError, match="its 'rule' is"):
        SCANS.load(tmp_path / "odd")


def test_a_header_is_read_without_torch(tmp_path):
    import subprocess
    import sys

    KINDS["scans"].save(tmp_path / "saved")
    program = f"""
import sys
from scans_lens import artefacts
print(artefacts.header_of({str(tmp_path / "saved")!r}, "SCANS")["scale"], "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "0.5 False\n"


# ── What a header says to other programs ─────────────────────────────────────────────────────────────────────


def test_every_file_says_how_its_tensors_are_used(saved):
    _, file = saved
    tensors, about = taken_apart(file)
    uses = json.loads(about["header"])["use"]
    assert uses and any(use["operation"] != "read" for use in uses)
    for use in uses:
        assert set(use) == {"operation", "site", "positions", "layers", "unit", "formula"}
        assert use["operation"] in ("read", "add", "take out", "unembed")
        assert all(use[name] for name in ("site", "positions", "unit", "formula"))
        assert all(0 <= layer < LAYERS for layer in use["layers"])
    assert any(name in use["formula"] for use in uses for name in tensors)


def plain_score(use, tensors, header, transitions):
    """The score by the header's formula alone."""
    assert use["operation"] == "read" and use["unit"].startswith("cosine")
    each = []
    for layer in use["layers"]:
        x, harm = transitions[:, layer].double(), tensors["classifier.harmful_transition"][layer].double()
        if "- reader.centre[layer]" in use["formula"]:
            x = x - tensors["reader.centre"][layer].double()
        each.append((x @ harm) / (x.norm(dim=1) * harm.norm()))
    return torch.stack(each).mean(dim=0)


@pytest.mark.parametrize(
    ("rule", "centred"), [(Sign(), True), (Band(0.02), True), (Continuous(2.0), True), (Sign(), False)]
)
def test_a_header_alone_is_enough_to_score_and_to_push_as_scans_does(model, prompts, tmp_path, rule, centred):
    file = tmp_path / "scans.safetensors"
    reader = Centred(Transitions(), drawn(LAYERS, WIDTH)) if centred else Transitions()
    made = some_scans(model, rule=rule, reader=reader)
    tokens = scans_lens.chat_tokens(model, prompts)
    score = made.decide(scans_lens.reading.Flight(model, tokens))["score"].sort().values
    amid = dataclasses.replace(made.classifier, threshold=float(score[1] + score[2]) / 2)
    dataclasses.replace(made, classifier=amid).save(file)
    tensors, about = taken_apart(file)
    header = json.loads(about["header"])
    reading, push = header["use"]
    seen = {}

    def look(x, hook, layer):
        seen[layer] = x.detach().float().clone()

    # what the file says, with TransformerLens' own hooks and nothing of ours
    from functools import partial

    def states(ids, mask, hooks=()):
        points = [(push["site"].format(layer=layer), partial(look, layer=layer)) for layer in range(LAYERS)]
        with torch.no_grad(), model.hooks(fwd_hooks=[*hooks, *points]):
            model(ids, attention_mask=mask)
        return torch.stack([seen[layer] for layer in range(LAYERS)], dim=2)

    scores, pushed = [], []
    assert reading["site"] == push["site"] == "blocks.{layer}.hook_resid_post"
    assert reading["positions"].startswith("the last token of the prompt, minus the last token of 'Sure'")
    assert push["positions"].startswith("from the last token of the prompt on")
    opening = torch.tensor([scans_lens.chat.template(model).opening])
    for row, mask in zip(tokens.ids, tokens.mask, strict=True):
        ids = row[mask.bool()][None].cpu()
        end = ids.shape[1] - 1
        longer = states(torch.cat([ids, opening], dim=1), torch.ones(1, end + 1 + opening.shape[1], dtype=torch.long))[
            0
        ]
        score = plain_score(reading, tensors, header, (longer[end] - longer[-1])[None])
        over = float(score) - header["classifier"]["threshold"]
        sign = 1.0 if over >= 0 else -1.0
        if "clip((score - classifier.threshold) / rule.width, -1, 1)" in push["formula"]:
            sign = max(-1.0, min(1.0, over / header["rule"]["width"]))
        if "sign = 0 where |score - classifier.threshold| < rule.abstain" in push["formula"]:
            sign = 0.0 if abs(over) < header["rule"]["abstain"] else sign
        assert push["operation"] == "add" and push["formula"].startswith("x + sign * scale * directions.vectors[layer]")

        def add(x, hook, layer, size=sign * header["scale"], end=end):
            x = x.clone()
            x[:, end:] += size * tensors["directions.vectors"][layer].to(x)
            return x

        hooks = [(push["site"].format(layer=layer), partial(add, layer=layer)) for layer in push["layers"]]
        scores.append(score)
        pushed.append(states(ids, torch.ones_like(ids), hooks)[0, -1])
    ours = SCANS.load(file, model)
    rows = ours.decide(scans_lens.flight.Flight(model, tokens))
    assert torch.allclose(rows["score"].double().cpu(), torch.cat(scores), atol=2e-5)
    found = states(tokens.ids, tokens.mask, ours.hooks(model, tokens))[:, -1]
    assert torch.allclose(found, torch.stack(pushed), atol=2e-4)
    assert len({round(float(scale), 4) for scale in rows["scale"]}) > 1


def test_what_a_header_says_follows_what_is_in_the_file(tmp_path):
    """A reader must not be told of a centre, a width or a norm that there is not."""

    def uses(scans):
        scans.save(tmp_path / "saved")
        return artefacts.header_of(tmp_path / "saved", "SCANS")["use"]

    reading, push = uses(some_scans(reader=Transitions(), rule=Sign()))
    assert "centre" not in reading["formula"] and "norm" not in reading["formula"]
    assert "width" not in push["formula"] and "abstain" not in push["formula"] and "residual norm" in push["unit"]
    reading, push = uses(some_scans(reader=Centred(InstructionEnd(True), drawn(LAYERS, WIDTH)), unit="length"))
    assert "centre" in reading["formula"] and "after the final norm" in reading["formula"]
    assert "user's own words" in reading["positions"] and "of length 1" in push["unit"]
    assert "rule.beyond.width" in push["formula"] and "rule.abstain" in push["formula"]
    whole = dataclasses.replace(KINDS["cast"], whole_prompt=False)
    whole.save(tmp_path / "saved")
    assert artefacts.header_of(tmp_path / "saved", "CAST")["use"][1]["positions"].startswith("from the last token")
