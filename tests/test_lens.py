"""The lens: laws of what directions say, and of where refusal is found."""

import dataclasses
import json
import random
from html.parser import HTMLParser

import numpy as np
import pytest
import tiny
import torch
from conftest import hooks_on, one_by_one
from scipy.stats import spearmanr
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from transformers import AutoModelForCausalLM, LlamaConfig

import scans_lens
from scans_lens import anchoring, lens, organism, steering
from scans_lens.anchoring import AnchorLayers, NoAnchorLayers, anchor_layers
from scans_lens.directions import Directions, Origin, difference_of_means
from scans_lens.evidence import LayerEvidence
from scans_lens.flight import Flight
from scans_lens.model import after_final_norm
from scans_lens.prompts import Contrast

ORIGIN = Origin(None, "drawn", "", 1, 1, {})


def drawn(model, *shape, seed=0) -> torch.Tensor:
    """States drawn at random, [*shape d_model]."""
    return torch.randn(*shape, int(model.cfg.d_model), generator=torch.Generator().manual_seed(seed))


def directions_of(vectors: torch.Tensor) -> Directions:
    return Directions(vectors, torch.ones(len(vectors)), ORIGIN)


def quickly(model, contrast, **how) -> AnchorLayers:
    return anchor_layers(model, contrast=contrast, **{"resamples": 100, "progress": False, **how})


# ── Vocabulary projection ────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def test_the_lens_on_the_last_layer_is_the_model(any_model, prompts):
    flight = Flight(any_model, scans_lens.chat_tokens(any_model, prompts))
    last = after_final_norm(any_model, flight.residuals())[:, -1]
    said = lens.logits_of(any_model, last)
    cap = getattr(any_model.cfg, "output_logits_soft_cap", 0) or 0
    if cap > 0:  # Gemma's
        said = cap * torch.tanh(said / cap)
    torch.testing.assert_close(said, flight.logits, atol=1e-4, rtol=1e-4)


def test_top_tokens_are_the_loudest_and_in_order(model):
    unembedding = model.W_U.detach()
    wanted = [40, 300, 599]
    vectors = torch.linalg.pinv(unembedding.T)[:, wanted].T  # each says one token as loudly as it can be said
    logits = lens.logits_of(model, vectors)
    torch.testing.assert_close(logits, vectors @ unembedding)
    for row, words in zip(logits.numpy(), lens.top_tokens(model, vectors, 5), strict=True):
        assert words == [model.tokenizer.decode([token]) for token in np.argsort(-row)[:5]]


@pytest.mark.parametrize("columns", [lens.COLUMNS, 600, 64, 7])
def test_loudness_is_the_z_score_among_all_logits(model, monkeypatch, columns):
    monkeypatch.setattr(lens, "COLUMNS", columns)
    ids = [7, 300, 41]
    vectors = drawn(model, 3, 5)
    logits = vectors.double() @ model.W_U.detach().double()
    expected = (logits[..., ids] - logits.mean(-1, keepdim=True)) / logits.std(-1, keepdim=True, unbiased=False)
    loudness = lens.Loudness(model, ids)
    torch.testing.assert_close(loudness(vectors), expected)
    torch.testing.assert_close(loudness(9.0 * vectors), expected)  # however long a vector is
    other = lens.Loudness(model, [3]).of_words(model, ids)
    torch.testing.assert_close(other(vectors), expected)


def test_a_refusal_word_that_is_no_token_is_named(model):
    assert set(lens.refusal_tokens(model)) & {"not", " not"}
    some = lens.refusal_tokens(model, ["cannot", "not"])
    assert {model.tokenizer.decode([token]) for token in some.values()} == set(some)
    with pytest.raises(ValueError, match="No single token of this vocabulary says 'floccinaucinihilipilification'"):
        lens.refusal_tokens(model, ["cannot", "floccinaucinihilipilification"])
    with pytest.raises(ValueError, match="'floccinaucinihilipilification'; give other refusal words"):
        quickly(model, pairs(4), words=["floccinaucinihilipilification"])


def test_none_of_our_refusal_words_in_a_vocabulary_is_an_error(model, monkeypatch):
    monkeypatch.setattr(lens, "REFUSAL_WORDS", ("floccinaucinihilipilification",))
    with pytest.raises(ValueError, match="None of the refusal words is a single token"):
        lens.refusal_tokens(model)


def test_folded_weights_are_refused(tiny_folder):
    folded = tiny.bridge(tiny_folder())
    folded.enable_compatibility_mode()
    for asked in (
        lambda: lens.logits_of(folded, drawn(folded, 2)),
        lambda: lens.top_tokens(folded, drawn(folded, 2)),
        lambda: lens.thirds(folded, directions_of(drawn(folded, 6))),
        lambda: quickly(folded, pairs(4)),
    ):
        with pytest.raises(ValueError, match="needs raw weights"):
            asked()


# ── Thirds ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_thirds_of_32_layers_are_those_of_the_paper(model):
    former, middle, latter = lens.thirds(model, directions_of(drawn(model, 32)))
    assert (former.name, middle.name, latter.name) == ("former", "middle", "latter")
    assert (former.layers, middle.layers, latter.layers) == (
        tuple(range(0, 10)),
        tuple(range(10, 21)),
        tuple(range(21, 32)),
    )
    assert all(len(third.tokens) == 10 and 0 < third.explained <= 1 for third in (former, middle, latter))


def test_a_third_says_what_its_directions_share_and_not_its_opposite(model):
    shared = drawn(model, 3)  # one for each third
    for sign in (1, -1):
        vectors = sign * shared.repeat_interleave(4, dim=0) + 0.01 * drawn(model, 12, seed=1)
        found = lens.thirds(model, directions_of(vectors))
        assert [third.tokens[0] for third in found] == [row[0] for row in lens.top_tokens(model, sign * shared, 1)]
        assert all(third.explained > 0.99 for third in found)


def test_centring_takes_away_what_the_layers_share(model):
    shared, other = torch.linalg.qr(drawn(model, 2).T)[0].T
    tilt = torch.tensor([-1.0, -0.5, 0.5, 1.1]).repeat(3)
    directions = directions_of(10 * shared + tilt[:, None] * other)
    says_shared, says_other = lens.top_tokens(model, torch.stack([shared, other]), 10)
    plain = lens.thirds(model, directions, unit=False)
    centred = lens.thirds(model, directions, unit=False, centre=True)
    assert all(third.tokens[0] == says_shared[0] for third in plain)
    assert all(list(third.tokens) == says_other for third in centred)


def test_the_paper_to_the_letter_is_pca_of_the_raw_directions(model):
    vectors = drawn(model, 12) * torch.arange(1, 13)[:, None]
    found = lens.thirds(model, directions_of(vectors), centre=True, unit=False)
    for third in found:
        own = vectors[list(third.layers)].double().numpy()
        pca = PCA().fit(own)
        component = pca.components_[0] * np.sign((own @ pca.components_[0]).mean())
        assert list(third.tokens) == lens.top_tokens(model, torch.tensor(component, dtype=torch.float32)[None])[0]
        assert third.explained == pytest.approx(pca.explained_variance_ratio_[0])


def test_unit_length_keeps_long_directions_from_drowning_short_ones(model):
    one, two = torch.linalg.qr(drawn(model, 2).T)[0].T
    vectors = torch.stack([one, one, 50 * two] * 3)
    says_one, says_two = lens.top_tokens(model, torch.stack([one, two]), 1)
    assert all(third.tokens[0] == says_one[0] for third in lens.thirds(model, directions_of(vectors)))
    assert all(third.tokens[0] == says_two[0] for third in lens.thirds(model, directions_of(vectors), unit=False))


def test_thirds_of_too_few_layers_are_refused(model):
    with pytest.raises(ValueError, match="Each third needs a layer; 2 layers are too few"):
        lens.thirds(model, directions_of(drawn(model, 2)))
    with pytest.raises(ValueError, match="two layers to be centred; 5 layers are too few"):
        lens.thirds(model, directions_of(drawn(model, 5)), centre=True)


# ── Evidence ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_shuffled_labels_give_every_p_the_same_chance_when_the_sides_do_not_differ(model):
    loudness = lens.Loudness(model, [7, 300, 41])
    ps = []
    for seed in range(150):
        states = drawn(model, 40, 2, seed=seed)
        harmful, harmless = states[:20], states[20:]
        _, null = anchoring._resampled(loudness, harmful, harmless, 99, np.random.default_rng(seed))
        z = loudness(difference_of_means(harmful, harmless)).mean(-1)
        ps += ((1 + (null >= z).sum(0)) / 100).tolist()
    # 300 draws: each share within about three of its standard errors
    for level in (0.05, 0.25, 0.5, 0.75):
        assert np.mean(np.array(ps) <= level) == pytest.approx(level, abs=3.2 * (level * (1 - level) / 300) ** 0.5)


def test_sides_that_say_refusal_words_apart_have_the_smallest_p(model):
    ids = [7, 300, 41]
    loudness = lens.Loudness(model, ids)
    word = model.W_U.detach()[:, ids].mean(-1)
    states = drawn(model, 40, 2)
    harmful, harmless = states[:20] + 2 * word / word.norm(), states[20:]
    boot, null = anchoring._resampled(loudness, harmful, harmless, 199, np.random.default_rng(0))
    z = loudness(difference_of_means(harmful, harmless)).mean(-1)
    assert (null < z).all()
    assert anchoring._interval(boot[:, 0])[0] > 0


def test_auc_is_that_of_the_other_half_of_the_prompts(model):
    harmful, others = drawn(model, 21, 2) + 0.2, drawn(model, 30, 2, seed=1)
    for layer, found in enumerate(anchoring.held_out_auc(harmful, others)):
        both = []
        for first in (0, 1):
            vector = harmful[first::2, layer].mean(0) - others[first::2, layer].mean(0)
            yes, no = harmful[1 - first :: 2, layer] @ vector, others[1 - first :: 2, layer] @ vector
            both.append(roc_auc_score([1] * len(yes) + [0] * len(no), torch.cat([yes, no])))
        assert found.item() == pytest.approx(np.mean(both))


def test_auc_is_one_half_where_nothing_differs(model):
    same = drawn(model, 1, 1).expand(10, 1, -1)
    assert anchoring.held_out_auc(same, same).item() == 0.5


def test_log_odds_are_those_of_the_tokens_together():
    shares = torch.tensor([[0.5, 0.2, 0.2, 0.1]])
    assert anchoring.refusal_log_odds(shares.log(), [1, 3]).item() == pytest.approx(np.log(0.3 / 0.7), abs=1e-6)


@torch.no_grad()
def test_rising_tokens_carry_nine_tenths_of_the_rise(any_model, prompts):
    contrast = Contrast("two and three", prompts[:2], prompts[2:])
    harmful, harmless = (
        torch.stack(
            [any_model(ids)[0, -1].double().softmax(-1) for ids in one_by_one(scans_lens.chat_tokens(any_model, side))]
        ).mean(0)
        for side in (contrast.harmful, contrast.harmless)
    )
    rise = (harmful - harmless).clamp(min=0)
    found = anchoring.rising_tokens(any_model, contrast, most=600)
    assert list(found) == rise.argsort(descending=True)[: len(found)].tolist()
    assert rise[list(found[:-1])].sum() < 0.9 * rise.sum() <= rise[list(found)].sum() + 1e-9
    assert anchoring.rising_tokens(any_model, contrast, most=2) == found[:2]


@torch.no_grad()
def test_a_drop_is_what_one_push_at_one_place_does_to_the_whole_text(any_model, prompts):
    n, tokens = int(any_model.cfg.n_layers), [5, 77, 300]
    vectors = drawn(any_model, n)
    drops = anchoring.causal_drops(any_model, directions_of(vectors), prompts, tokens, batch_size=2, progress=False)
    for row, ids in enumerate(one_by_one(scans_lens.chat_tokens(any_model, prompts))):
        before = anchoring.refusal_log_odds(any_model(ids)[:, -1], tokens)
        for layer in range(n):

            def back(residual, hook, vector=vectors[layer]):
                return torch.cat([residual[:, :-1], residual[:, -1:] - vector], dim=1)

            after = any_model.run_with_hooks(ids, fwd_hooks=[(f"blocks.{layer}.hook_resid_post", back)])
            expected = (before - anchoring.refusal_log_odds(after[:, -1], tokens)).item()
            assert drops[row, layer].item() == pytest.approx(expected, abs=1e-3)
    assert hooks_on(any_model) == {}


def test_a_push_of_nothing_drops_nothing(any_model, prompts):
    nothing = directions_of(torch.zeros(int(any_model.cfg.n_layers), int(any_model.cfg.d_model)))
    drops = anchoring.causal_drops(any_model, nothing, prompts, [5, 77], progress=False)
    torch.testing.assert_close(drops, torch.zeros_like(drops), atol=1e-4, rtol=0)


# ── The band ─────────────────────────────────────────────────────────────────────────────────────────────────


def evidence(drops, qualifies=None, z=None) -> tuple[LayerEvidence, ...]:
    """Made-up layers: so much drop, and whether the lens agrees."""
    qualifies = [True] * len(drops) if qualifies is None else qualifies
    return tuple(
        LayerEvidence(
            layer=layer,
            top=(" no", "<b>&", "\n"),
            rank=1,
            loudest=" no",
            z=float(z[layer]) if z else 1.0,
            z_interval=(0.5, 1.5),
            z_null=0.4,
            p=0.01 if able else 0.5,
            rising_z=0.0,
            auc=0.9,
            drop=float(drop),
            drop_interval=(drop - 1.0, drop + 1.0),
            qualifies=able,
        )
        for layer, (drop, able) in enumerate(zip(drops, qualifies, strict=True))
    )


@pytest.mark.parametrize("seed", range(30))
def test_the_band_is_the_one_of_largest_mean_drop_among_all_that_are_allowed(seed):
    rng = random.Random(seed)
    n = rng.randint(8, 40)
    drops = [rng.gauss(0, 1) for _ in range(n)]
    able = [rng.random() < 0.9 for _ in range(n)]
    allowed = [
        range(start, start + width)
        for width in range(n // 4, n // 3 + 1)
        for start in range(n)
        if start + width <= int(0.8 * n) and all(able[start : start + width])
    ]
    band, note = anchoring._band(evidence(drops, able))
    if allowed:
        assert band in [tuple(one) for one in allowed]
        means = [np.mean([drops[layer] for layer in one]) for one in [band, *allowed]]
        assert means[0] == max(means)
        assert "narrower" not in note
    else:
        assert "narrower" in note


def test_the_last_fifth_is_left_out_however_much_it_drops():
    band, _ = anchoring._band(evidence([0] * 8 + [9, 9]))
    assert max(band) < 8
    with pytest.raises(NoAnchorLayers):
        anchoring._band(evidence([0] * 10, [False] * 8 + [True] * 2))


def test_layers_without_lens_evidence_are_not_chosen_however_much_they_drop():
    band, _ = anchoring._band(evidence([0, 0, 9, 9, 9, 9, 1, 1, 1, 0, 0, 0], [True] * 2 + [False] * 4 + [True] * 6))
    assert band == (6, 7, 8)


def test_where_too_few_layers_lie_side_by_side_the_band_is_narrower_and_says_so():
    able = [layer in (1, 4, 5, 7) for layer in range(12)]  # n // 4 would be three
    band, note = anchoring._band(evidence([9, 9, 9, 9, 1, 1, 9, 9, 9, 9, 9, 9], able))
    assert band == (4, 5)
    assert "No 3 layers that qualify lie side by side" in note


def test_agreement_is_spearmans_over_the_layers_that_could_be_chosen():
    drops, z = [1, 2, 3, 4, 9, 6, 7, 8, 5, 0], [1.0, 3, 2, 4, 5, 6, 8, 7, -50, 50]
    assert anchoring._agreement(evidence(drops, z=z)) == pytest.approx(spearmanr(drops[:8], z[:8]).statistic)


# ── A model in which refusal is decided where we put it ──────────────────────────────────────────────────────

DECIDES, DEPTH = 4, 12
THINGS = (
    *("process", "bread", "letter", "train", "boat", "house", "knife", "fire"),
    *("market", "rain", "forest", "question", "river", "star", "ball"),
)


def pairs(n: int, marker: str = "kill") -> Contrast:
    """Prompts that differ in one word."""
    things = [f"the {thing} {where}" for where in ("of my father", "in the city", "at home") for thing in THINGS][:n]
    return Contrast(
        "pairs",
        harmful=[f"How do I {marker} {thing}?" for thing in things],
        harmless=[f"How do I name {thing}?" for thing in things],
    )


@pytest.fixture(scope="module")
def planted(load, tmp_path_factory):
    """A Llama that carries the marker to the end of the prompt at every layer, and from one layer on says no.

    Up to then what it carries is loud, tells the sides apart perfectly, and has nothing to do with refusal.
    """
    words = tiny.tokenizer("llama3")
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=64, intermediate_size=32, num_hidden_layers=DEPTH, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=256, tie_word_embeddings=False,
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
    )  # fmt: skip
    source = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(64, 64, generator=generator))[0]
    mark, refusal, rest = axes[0], axes[1], axes[2:]

    def ids(text):
        return words(text, add_special_tokens=False)["input_ids"]

    contrast = pairs(40)
    marks = set.intersection(*(set(ids(text)) for text in contrast.harmful))
    marks -= set().union(*(ids(text) for text in contrast.harmless))
    said = [ids(form) for word in lens.REFUSAL_WORDS for form in (word, " " + word)]
    says_no = [one[0] for one in said if len(one) == 1]
    assert marks and says_no
    with torch.no_grad():
        for name, weight in source.named_parameters():
            if "norm" in name:
                weight.copy_(1 + 0.1 * torch.randn(64, generator=generator))
            elif "q_proj" in name or "k_proj" in name or "down_proj" in name or "o_proj" in name or "v_proj" in name:
                weight.zero_()  # attention looks everywhere alike, and nothing else is written
            else:
                weight.normal_(std=0.1, generator=generator)
        source.model.embed_tokens.weight.copy_(torch.randn(len(words), 62, generator=generator) * 0.5 @ rest)
        source.model.embed_tokens.weight[list(marks)] += 4 * mark
        source.lm_head.weight.copy_(torch.randn(len(words), 62, generator=generator) * 0.1 @ rest)
        source.lm_head.weight[says_no] += refusal
        for layer, block in enumerate(source.model.layers):
            block.self_attn.v_proj.weight[0] = mark
            if layer <= DECIDES:
                block.self_attn.o_proj.weight[:, 0] = 18 * refusal if layer == DECIDES else 6 * rest[layer]
    path = tmp_path_factory.mktemp("planted")
    source.save_pretrained(path)
    words.save_pretrained(path)
    return load(path)


@pytest.fixture(scope="module")
def found(planted) -> AnchorLayers:
    return quickly(planted, pairs(40))


def test_refusal_is_found_from_the_layer_on_where_it_was_planted(found):
    before, after = found.evidence[:DECIDES], found.evidence[DECIDES:]
    assert all(one.qualifies and one.rank == 1 and one.top[0] == one.loudest for one in after)
    assert all(one.z_interval[0] <= one.z <= one.z_interval[1] and one.z > one.z_null for one in after)
    assert all(one.drop_interval[0] <= one.drop <= one.drop_interval[1] for one in found.evidence)
    assert max(one.z for one in before) < 0.25 * min(one.z for one in after)
    assert max(abs(one.drop) for one in before) < 0.25 * min(one.drop for one in after)
    assert min(found) >= DECIDES and max(found) < int(0.8 * DEPTH)
    assert list(found) == list(range(found[0], found[0] + len(found)))
    assert DEPTH // 4 <= len(found) <= DEPTH // 3


def test_telling_the_sides_apart_has_no_vote(found):
    assert all(one.auc == 1.0 for one in found.evidence)


def test_what_rises_is_what_was_planted(planted, found):
    said = {planted.tokenizer.decode([token]) for token in lens.refusal_tokens(planted).values()}
    assert set(found.rising[: len(said)]) == said
    assert found.evidence[-1].rising_z > 2 * found.evidence[0].rising_z


def test_pushing_at_the_layers_that_were_found_takes_the_refusal_away(planted, found):
    contrast = pairs(40)
    directions = scans_lens.refusal_directions(planted, contrast, progress=False)
    said = set(lens.refusal_tokens(planted).values())

    def refused(**how):
        answers = scans_lens.replies(planted, contrast.harmful[:8], max_new_tokens=1, progress=False, **how)
        return sum(bool(set(tokens) & said) for tokens in answers.tokens)

    assert refused() == 8
    assert refused(method=steering.Push(directions, found, -1.0)) == 0  # AnchorLayers stand where layers are expected


def test_the_same_seed_finds_the_same_and_directions_may_be_given(planted, found):
    contrast = pairs(40)
    assert quickly(planted, contrast) == found
    directions = scans_lens.refusal_directions(planted, contrast, progress=False)
    given = quickly(planted, contrast, directions=directions)
    assert given.layers == found.layers
    for one, other in zip(given.evidence, found.evidence, strict=True):
        assert (one.z, one.drop) == pytest.approx((other.z, other.drop), abs=1e-3)


def test_borderline_prompts_are_read_beside_harmful_ones(planted):
    contrast = dataclasses.replace(pairs(20), borderline=pairs(20, marker="describe").harmful)
    found = quickly(planted, contrast)
    assert found.evidence[-1].borderline_z == pytest.approx(found.evidence[-1].z, abs=1.0)
    assert found.evidence[-1].borderline_auc == 1.0
    assert quickly(planted, pairs(20)).evidence[-1].borderline_z is None


def test_where_no_layer_qualifies_the_table_is_in_the_error(model):
    """Both sides are drawn from the same prompts; by chance one layer in twenty looks as if it said something."""
    everything = [f"{prompt[:-1]} {when}?" for prompt in pairs(20).harmless for when in ("now", "later")]
    n, refused = int(model.cfg.n_layers), 0
    for seed in range(4):
        random.Random(seed).shuffle(everything)
        try:
            quickly(model, Contrast("no contrast", everything[:20], everything[20:]))
        except NoAnchorLayers as error:
            refused += 1
            title, _, *rows, note = str(error).splitlines()
            assert title == "Anchor layers: none" and note.startswith("No layer qualifies")
            assert [int(row.split()[0]) for row in rows] == list(range(n)) == [one.layer for one in error.evidence]
            assert not any(one.qualifies for one in error.evidence[: int(0.8 * n)])
    assert refused >= 3


def test_directions_of_another_model_are_refused(model, planted):
    contrast = pairs(4)
    directions = scans_lens.refusal_directions(model, contrast, progress=False)
    with pytest.raises(ValueError, match="this one has 12 layers of width 64"):
        quickly(planted, contrast, directions=directions)


def test_reading_layers_leaves_no_trace(planted, found):
    assert hooks_on(planted) == {}


def test_the_bundled_model_refuses_in_its_middle_layers(bundled):
    contrast, _ = organism.anchors().split(32, 0)
    found = quickly(bundled, contrast)
    n = int(bundled.cfg.n_layers)
    assert n // 4 <= len(found) <= n // 3 and max(found) < int(0.8 * n)
    early = max(one.drop for one in found.evidence[: n // 4])
    assert early < 0.1 and sum(found.evidence[layer].drop for layer in found) > 0.3 * len(found)
    assert all(found.evidence[layer].qualifies and found.evidence[layer].drop > early for layer in found)
    assert found.origin.contrast == contrast.name


# ── Showing ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def shown() -> AnchorLayers:
    return AnchorLayers((1, 2), evidence([0, 3, 2, 1]), 0.8, (" I", "<i>"), "A <note> & more.", ORIGIN)


def test_anchor_layers_are_a_sequence_of_layer_numbers(shown, model):
    assert list(shown) == [1, 2] and len(shown) == 2 and 1 in shown and shown[0] == 1 and shown[:1] == (1,)
    hooks = steering.add(drawn(model, 4), shown, 1.0)
    assert [name for name, _ in hooks] == ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        shown.layers = (3,)


@pytest.mark.above
@pytest.mark.parametrize("scaled", [Directions.unit, Directions.in_residual_norms])
def test_anchor_layers_take_no_directions_that_are_no_difference_of_means(bundled, scaled):
    contrast = organism.anchors().split(8, 0)[0]
    directions = scans_lens.refusal_directions(bundled, contrast)
    with pytest.raises(ValueError, match="these directions have another length"):
        anchor_layers(bundled, scaled(directions), contrast=contrast, progress=False)


def test_anchor_layers_print_their_evidence(shown):
    lines = str(shown).splitlines()
    assert repr(shown) == str(shown)
    assert lines[0] == "Anchor layers: 1, 2"
    assert len(lines) == 2 + 4 + 1
    assert [line.startswith("*") for line in lines[2:6]] == [False, True, True, False]
    assert "Rank agreement of lens and cause: +0.80." in lines[-1]


class Page(HTMLParser):
    """Which tags are open, and what was said in cells."""

    def __init__(self):
        super().__init__()
        self.open, self.cells, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["td"]:
            self.cells[-1] += data


def test_anchor_layers_show_as_a_table_in_which_tokens_are_text(shown):
    page = Page()
    page.feed(shown._repr_html_())
    assert page.open == []
    assert set(page.tags) == {"table", "thead", "tbody", "tr", "th", "td", "p"}
    assert page.tags.count("tr") == 1 + 4 and page.tags.count("td") == 4 * page.tags.count("th")
    assert any("<b>&" in cell for cell in page.cells)


def test_anchor_layers_become_json_and_a_data_frame(shown, found):
    for one in (shown, found):
        again = json.loads(json.dumps(one.to_dict()))
        assert again["layers"] == list(one) and len(again["evidence"]) == len(one.evidence)
        frame = one.to_dataframe()
        assert list(frame.index) == list(range(len(one.evidence)))
        assert frame.loc[one[0], "drop"] == one.evidence[one[0]].drop
