"""VISA: its sizes, what each of its losses wants, what its arms leave out, and words exchanged for others."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grounding.made import made_batch, silent, size
from ommatid.data.tagging import ADJECTIVE, ADVERB, NOUN, OTHER, PREPOSITION, VERB
from ommatid.engine.export import export_method
from ommatid.engine.fit import fit
from ommatid.engine.settings import build, merge
from ommatid.engine.sweep import locate
from ommatid.errors import InputError
from ommatid.grounding import visa
from ommatid.grounding.data import GroundingData
from ommatid.grounding.heads import dense_loss, steps_inside
from ommatid.grounding.visa import VISA, WordFusion, mass_inside_loss, replace_one_atom
from ommatid.nn.correspondence import slot_similarity

TAGS = [OTHER, OTHER, NOUN, VERB, ADJECTIVE, NOUN, ADVERB, VERB, PREPOSITION]
SMALL = {"feature_dim": 6, "word_dim": 5, "vocabulary_size": 9, "hidden_dim": 8, "encoder": "conv", "dropout": 0.0}
KINDS = {
    "visa": (VISA, {"key_dim": 4, "slots": 3}),
    "graph": (VISA, {"key_dim": 4, "slots": 3, "prior": "none"}),
    "uniform": (VISA, {"key_dim": 4, "slots": 3, "prior": "uniform"}),
    "contradicted": (VISA, {"key_dim": 4, "slots": 3, "negative_weight": 0.5}),
    "flat": (WordFusion, {}),
    "typed": (WordFusion, {"conjunctive": True}),
}


def small(name="visa", **given):
    torch.manual_seed(0)
    kind, own = KINDS[name]
    return silent(told_words(kind(**{**SMALL, **own, **given})))


def told_words(method):
    """As if data had brought vectors and parts of speech."""
    method.words.vectors[2:] = torch.randn(7, SMALL["word_dim"], generator=torch.Generator().manual_seed(3))
    method.words.tags.copy_(torch.tensor(TAGS))
    return method


@pytest.fixture
def batch():
    return made_batch()


# --- the card's sizes ---


def linear(inputs, outputs, bias=True):
    return inputs * outputs + bias * outputs


def gru(inputs, per_direction):
    return 2 * 3 * (inputs * per_direction + per_direction**2 + 2 * per_direction)


@pytest.fixture(scope="module")
def full():
    return silent(VISA())


def test_full_size_parts_have_the_sizes_of_their_equations(full):
    dim, key, kinds = 512, 256, 7
    layer = 2 * linear(dim, key) + dim**2 + 2 * dim  # E6, E7
    expected = {
        "words": 300,
        "sentence": gru(300, 256) + dim + kinds * dim + 2 * layer,  # E2
        "video": 2 * linear(500, dim) + 5 * dim + dim + linear(500, 4 * dim),  # E4
        "video_graph": 2 * layer,
        "look": dim**2,  # E8
        "seen": dim**2,
        "show": dim**2,  # E11
        "conjunction": dim + kinds,  # E12
        "join": linear(2 * dim + 1, dim),  # E13
        "fusion": gru(dim, 256),
        "head": 3 * linear(dim, dim) + linear(dim, 1) + linear(dim, 2) + linear(dim, 1),
    }
    assert {name: size(getattr(full, name)) for name in expected} == expected
    assert full.parameter_count() == sum(expected.values())


def test_full_size_settings_are_those_of_the_card(full):
    settings = full.hparams
    assert (settings.slots, settings.graph_layers, settings.temperatures) == (4, 2, (1.0, 0.3))
    assert (settings.divergence_weight, settings.rise, settings.dropout) == (0.1, 0.2, 0.2)
    assert (settings.recipe.optimizer, settings.recipe.lr) == ("adam", 4e-4)


def test_full_size_takes_one_step(full, batch):
    batch.video, batch.words = torch.randn(3, 7, 500), torch.where(batch.word_mask, 1, 0)
    loss = full.train().training_step(batch, 0)
    loss.backward()
    assert loss.isfinite()
    assert [name for name, parameter in full.named_parameters() if parameter.grad is None] == []


# --- forward and training step ---


@pytest.mark.parametrize("name", KINDS)
def test_there_is_one_moment_a_step_and_the_best_comes_first(batch, name):
    moments = small(name).eval()(batch)
    assert moments.spans.shape == (3, 7, 2)
    assert (moments.scores.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("encoder", ["gru", "conv"])
def test_padding_and_company_change_nothing(batch, name, encoder):
    method = small(name, encoder=encoder).eval()
    noisy = copy.copy(batch)
    noisy.video = torch.where(batch.video_mask[..., None], batch.video, 50.0)
    noisy.words = torch.where(batch.word_mask, batch.words, 8)
    expected = method(batch)
    torch.testing.assert_close(method(noisy).scores, expected.scores)
    torch.testing.assert_close(method(noisy).spans, expected.spans)
    alone = batch[1:2]
    alone.video, alone.video_mask = alone.video[:, :4], alone.video_mask[:, :4]
    torch.testing.assert_close(method(alone).scores, expected.scores[1:2, :4])
    torch.testing.assert_close(method(alone).spans, expected.spans[1:2, :4])


@pytest.mark.parametrize("name", KINDS)
def test_every_parameter_has_a_gradient(batch, name):
    method = small(name).train()
    batch.words[0, 0] = 1
    loss = method.training_step(batch, 0)
    loss.backward()
    assert loss.isfinite()
    assert [key for key, parameter in method.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in method.parameters())


@pytest.mark.parametrize("name", ["visa", "typed"])
def test_sentences_without_any_content_are_answered(batch, name):
    method = small(name).train()
    batch.words = torch.where(batch.word_mask, 1, 0)
    assert method.training_step(batch, 0).isfinite()
    assert method.eval()(batch).spans.isfinite().all()


@pytest.mark.parametrize("name", ["visa", "flat", "typed"])
def test_the_answer_depends_on_the_sentence_and_on_the_video(batch, name):
    method = small(name).eval()
    other_words, other_video = copy.copy(batch), copy.copy(batch)
    other_words.words = torch.where(batch.words == 2, 5, 2) * batch.word_mask
    other_video.video = batch.video + torch.randn_like(batch.video)
    for other in (other_words, other_video):
        assert not torch.allclose(method(other).scores, method(batch).scores)


def test_the_loss_is_the_weighted_sum_of_its_parts(batch):
    weights = {"divergence_weight": 0.3, "inside_weight": 0.7, "negative_weight": 0.4}
    method = small("visa", **weights).train()
    method.schedule(0.1)
    torch.manual_seed(2)
    loss = method.training_step(batch, 0)
    torch.manual_seed(2)
    found = method.understand(batch)
    inside = steps_inside(batch.video_mask, batch.span)
    parts = dense_loss(found.prediction, batch.span)
    expected = (
        parts.classification
        + parts.regression
        + parts.quality
        + 0.5 * 0.3 * found.divergence.mean()  # half of the rise
        + 0.7 * mass_inside_loss(found.mass, inside, found.graph.mask)
        + 0.1 * slot_similarity(method.video(batch.video, batch.video_mask))
        + 0.4 * method.contradiction(batch, found, inside)
    )
    torch.testing.assert_close(loss, expected)


def test_the_divergence_weighs_more_and_more_until_it_has_its_weight():
    method, seen = small(divergence_weight=0.1, rise=0.2), []
    for share in (0.0, 0.1, 0.2, 0.9):
        method.schedule(share)
        seen.append(method.divergence_weight.item())
    assert seen == pytest.approx([0.0, 0.05, 0.1, 0.1])


def test_samples_get_colder_while_training_goes_on(batch, monkeypatch):
    method, seen = small().train(), []
    original = visa.relaxed_samples
    monkeypatch.setattr(visa, "relaxed_samples", lambda *args: seen.append(float(args[2])) or original(*args))
    for share in (0.0, 0.5, 1.0):
        method.schedule(share)
        method.understand(batch)
    assert seen == pytest.approx([1.0, 0.65, 0.3])
    method.eval()(batch)
    assert len(seen) == 3  # the test uses probabilities


def test_the_schedule_follows_the_training():
    data = GroundingData(train_videos=6, test_videos=2, steps=8, batch_size=8)
    method, seen = build(VISA, {**VISA.arguments_from(data), "hidden_dim": 8, "key_dim": 4, "encoder": "conv"}), []
    method.report = lambda **_: seen.append((float(method.temperature), float(method.divergence_weight)))
    fit(method, data, trainer={"max_steps": 4, "max_epochs": -1, "limit_val_batches": 0, "accelerator": "cpu"})
    assert [temperature for temperature, _ in seen] == pytest.approx([1.0, 0.825, 0.65, 0.475])
    assert [weight for _, weight in seen] == pytest.approx([0.0, 0.1, 0.1, 0.1])


def test_without_a_prior_nothing_is_drawn_and_nothing_diverges(batch):
    with_prior, without = small("visa").train(), small("graph").train()
    torch.manual_seed(1)
    first = with_prior.understand(batch)
    assert not torch.equal(first.prediction.spans, with_prior.understand(batch).prediction.spans)
    found = without.understand(batch)
    assert torch.equal(found.prediction.spans, without.understand(batch).prediction.spans)
    assert not found.divergence.any()
    assert (first.divergence > 0).all()


def test_structured_and_uniform_priors_differ_in_the_divergence_only(batch):
    methods = [small(name).eval() for name in ("visa", "uniform")]
    structured, uniform = (method.understand(batch) for method in methods)
    torch.testing.assert_close(structured.mass, uniform.mass)
    assert not torch.allclose(structured.divergence, uniform.divergence)


def test_evidence_and_what_steps_are_told_follow_their_equations(batch, monkeypatch):
    """E12 and E13 for one step after the other."""
    method, joined = small("graph").eval(), []
    method.join.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    calls = {}
    for name in ("step_evidence", "matched_content"):
        original = getattr(visa, name)
        monkeypatch.setattr(
            visa, name, lambda *args, name=name, original=original: calls.setdefault(name, original(*args))
        )
    graph, nodes = method.read(batch.words, batch.word_mask)
    found = method.understand(batch)
    for row in range(3):
        exist = graph.mask[row].nonzero()[:, 0].tolist()
        weights = torch.cat([method.conjunction.score(nodes[row, i]) for i in exist]).softmax(0)
        for t in range(int(batch.video_mask[row].sum())):
            joint, told = 0.0, torch.zeros(8)
            for weight, i in zip(weights, exist, strict=True):
                bias = method.conjunction.bias.weight[graph.kind[row, i], 0]
                gate = (calls["step_evidence"][row, i, t] + bias).sigmoid()
                joint += float(weight.detach()) * math.log(gate.detach())
                told += weight * gate * calls["matched_content"][row, i]
            assert found.evidence[row, t].item() == pytest.approx(joint, abs=1e-5)
            torch.testing.assert_close(joined[0][row, t, 8:16], told)
            assert joined[0][row, t, 16].item() == pytest.approx(joint, abs=1e-5)


def test_mass_inside_is_wanted_for_every_node_alike():
    mass = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.9, 0.1, 0.0]]])
    inside, nodes = torch.tensor([[True, True, False]]), torch.tensor([[True, True, False]])
    expected = -(math.log(0.75) + math.log(0.2)) / 2
    assert mass_inside_loss(mass, inside, nodes).item() == pytest.approx(expected)


# --- a wrong word (E17) ---


sentences = st.lists(st.lists(st.integers(1, 8), min_size=1, max_size=5), min_size=1, max_size=4)


@settings(deadline=None, max_examples=100)
@given(sentences, st.integers(0, 2**31))
def test_one_atom_becomes_a_word_of_its_kind_that_only_others_say(said, seed):
    mask = torch.arange(5) < torch.tensor([[len(words)] for words in said])
    # What stands in the padding must not matter.
    words, tags = torch.tensor([[*row, *[5] * 5][:5] for row in said]), torch.tensor(TAGS)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(len(said), 5, generator=generator), torch.rand(len(said), 9, generator=generator)
    others, replaced = replace_one_atom(words, mask, tags, noise)
    for row, own in enumerate(said):
        elsewhere = {word for other in said for word in other} - set(own)
        place = noise[0][row].masked_fill(~(mask[row] & (tags[words[row]] != OTHER) & (tags[words[row]] != VERB)), -1)
        changed = (others[row] != words[row]).nonzero()[:, 0].tolist()
        if not replaced[row]:
            assert changed == []
            atoms = [word for word in own if TAGS[word] not in (OTHER, VERB)]
            chosen = own[int(place.argmax())] if atoms else None
            assert not atoms or not any(TAGS[word] == TAGS[chosen] for word in elsewhere)
            continue
        assert changed == [int(place.argmax())]
        new, old = int(others[row, changed[0]]), own[changed[0]]
        assert TAGS[new] == TAGS[old]
        assert TAGS[old] not in (OTHER, VERB)
        assert new in elsewhere


@pytest.mark.parametrize(("dropped", "cost"), [(0.0, 0.2), (0.05, 0.15), (-0.1, 0.3), (0.25, 0.0)])
def test_a_wrong_word_costs_what_its_evidence_drops_too_little(batch, dropped, cost):
    method = small("contradicted").eval()
    # Words without a vector are all alike: exchanging one changes nothing by itself.
    method.words.vectors.zero_()
    batch.words = torch.tensor([[2, 3, 4, 0, 0], [5, 3, 6, 8, 3], [7, 7, 0, 0, 0]])
    found, inside = method.understand(batch), steps_inside(batch.video_mask, batch.span)
    found.evidence = found.evidence + torch.where(inside, dropped, 9.0)
    torch.manual_seed(0)
    assert replace_one_atom(batch.words, batch.word_mask, method.words.tags)[1].any()
    torch.manual_seed(0)
    assert method.contradiction(batch, found, inside).item() == pytest.approx(cost, abs=1e-5)


# --- export, released names ---


@pytest.mark.parametrize("name", ["visa", "typed"])
def test_the_exported_program_gives_the_same_numbers(name, tmp_path):
    assert export_method(small(name), tmp_path / "method.pt2", "torch") < 1e-4


def test_names_of_another_network_are_refused(tmp_path):
    torch.save({"layers.0.ctx_layer.weight": torch.zeros(3, 3)}, tmp_path / "released.pth")
    with pytest.raises(InputError, match=r"sentence\.layers\.0\.content\.weight has the shape \(3, 3\)"):
        small().load_published(tmp_path / "released.pth")


# --- claim, embedded settings ---


def arm_method(claim, name):
    arm = claim.arms[name]
    kind = VISA if arm.method is None else locate(arm.method)
    return build(kind, merge({"feature_dim": 48, "word_dim": 48}, claim.model, arm.model))


def test_arms_of_equal_size_are_of_equal_size():
    claim = VISA.claims[0]
    sizes = {name: arm_method(claim, name).parameter_count() for name in claim.arms}
    assert sizes["visa"] == sizes["visa-noprior"] == sizes["graph"]
    for name in ("flat", "typed"):
        assert sizes[name] == pytest.approx(sizes["visa"], rel=0.02)


def test_the_claim_is_about_the_loss_from_known_to_novel_compositions():
    claim = VISA.claims[0]
    assert claim.data["view"] == "cg"
    gap, trivial, typed = claim.criteria
    arms = {
        "visa": {"novel_composition/R@1,IoU=0.5": 0.7, "test_trivial/R@1,IoU=0.5": 0.8},
        "flat": {"novel_composition/R@1,IoU=0.5": 0.6, "test_trivial/R@1,IoU=0.5": 0.81},
        "typed": {"novel_composition/R@1,IoU=0.5": 0.75, "test_trivial/R@1,IoU=0.5": 0.8},
    }
    assert gap.effect("visa", arms) == pytest.approx(0.11)
    assert trivial.effect("visa", arms) == pytest.approx(-0.01)
    assert (trivial.kind, trivial.margin) == ("not worse", 0.02)
    assert typed.effect("visa", arms) == pytest.approx(-0.05)
    assert {"flat", "typed"} == {gap.versus, typed.versus}


def test_embedded_settings_learn_to_ground():
    data = GroundingData(train_videos=24, test_videos=4, steps=16, batch_size=16)
    torch.manual_seed(0)
    small_model = {"hidden_dim": 24, "key_dim": 12}
    method = build(VISA, {**VISA.arguments_from(data), **VISA.embedded["model"], **small_model})
    losses = []
    method.report = lambda **parts: losses.append(float(parts["location"].detach()))
    fit(method, data, trainer={"max_steps": 40, "max_epochs": -1, "limit_val_batches": 0, "accelerator": "cpu"})
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"slots": 0}, "slots must be at least 1, found 0"),
        ({"temperatures": (1.0, 0.0)}, r"temperatures must be above 0, found \(1.0, 0.0\)"),
        ({"rise": 0.0}, r"rise must lie in \(0, 1\], found 0.0"),
    ],
)
def test_impossible_settings_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        small(**given)
