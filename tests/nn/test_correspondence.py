"""Nodes of a video, messages among them, and correspondences: each against a slow computation one by one."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ommatid.nn.correspondence import (
    HierarchicalVideoNodes,
    Levels,
    VideoGraphAttention,
    VideoNodes,
    categorical_kl,
    correspondence_logits,
    gumbel_categorical,
    mass_by_step,
    matched_content,
    multi_scale_windows,
    posterior,
    relaxed_samples,
    slot_similarity,
    step_evidence,
    structured_correspondence,
    structured_prior,
    uniform_prior,
)
from ommatid.nn.semantic_graph import ADJECTIVE, NOTHING, NOUN, VERB, rule_parse

DIM, SLOTS = 6, 3
STEPS = torch.tensor([9, 5])
# person opens the red door ... stops; a sentence without a verb, padded.
TAGS = torch.tensor([[NOUN, VERB, NOTHING, ADJECTIVE, NOUN, VERB], [NOUN, NOTHING, ADJECTIVE, 0, 0, 0]])
WORD_MASK = torch.arange(6) < torch.tensor([[6], [3]])


@pytest.fixture
def graph():
    return rule_parse(TAGS, WORD_MASK)


@pytest.fixture
def video():
    torch.manual_seed(0)
    mask = torch.arange(9) < STEPS[:, None]
    inside = multi_scale_windows(mask)
    count = inside.shape[1]
    return VideoNodes(torch.randn(2, count, DIM), torch.randn(2, 9, DIM), torch.randn(2, 9, SLOTS, DIM), inside, mask)


@pytest.fixture
def logits(video):
    torch.manual_seed(1)
    return correspondence_logits(3 * torch.randn(2, 7, DIM), video)


# --- windows and nodes (E4) ---


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=4))
def test_windows_hold_the_steps_whose_middle_lies_in_them(lengths):
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    inside = multi_scale_windows(mask)
    for row, n in enumerate(lengths):
        expected = [
            [i * n <= (2 * t + 1) * scale < (i + 2) * n for t in range(n)] + [False] * (mask.shape[1] - n)
            for scale in (2, 4, 8)
            for i in range(2 * scale - 1)
        ]
        assert inside[row].tolist() == expected


def test_windows_are_halves_quarters_and_eighths_with_half_overlap():
    inside = multi_scale_windows(torch.ones(1, 32, dtype=torch.bool))[0]
    assert inside.sum(dim=1).tolist() == [16] * 3 + [8] * 7 + [4] * 15
    shared = (inside[:-1] & inside[1:]).sum(dim=1).tolist()
    assert shared[:2] == [8, 8]
    assert shared[3:9] == [4] * 6
    assert shared[10:] == [2] * 14


def test_every_step_lies_in_a_window_of_every_scale_whatever_the_length():
    for n in range(1, 40):
        halves = multi_scale_windows(torch.ones(1, n, dtype=torch.bool), (2,))
        assert halves.any(dim=1).all()


def test_nodes_are_those_of_their_equation():
    torch.manual_seed(0)
    module, video = HierarchicalVideoNodes(5, DIM, SLOTS), torch.randn(2, 9, 5)
    mask = torch.arange(9) < STEPS[:, None]
    nodes = module(video, mask)
    kernel, bias = module.across.weight[:, 0], module.across.bias
    for row, n in enumerate(STEPS.tolist()):
        steps = module.step(video[row, :n])
        for t in range(n):
            near = sum(kernel[:, k] * steps[t + k - 2] for k in range(5) if 0 <= t + k - 2 < n)
            torch.testing.assert_close(nodes.steps[row, t], steps[t] + near + bias)
            for k in range(SLOTS):
                weight = module.slot.weight[k * DIM : (k + 1) * DIM]
                slot = weight @ video[row, t] + module.slot.bias[k * DIM : (k + 1) * DIM]
                torch.testing.assert_close(nodes.slots[row, t, k], slot)
        for w, members in enumerate(nodes.inside[row]):
            if members.any():
                torch.testing.assert_close(nodes.windows[row, w], module.window(video[row][members].mean(0)))


def test_padded_steps_reach_no_node():
    module, video, mask = HierarchicalVideoNodes(5, DIM), torch.randn(2, 9, 5), torch.arange(9) < STEPS[:, None]
    layer = VideoGraphAttention(DIM, 4).eval()
    nodes = layer(module(video, mask))
    noisy = layer(module(torch.where(mask[..., None], video, 50.0), mask))
    alone = layer(module(video[1:, :5], mask[1:, :5]))
    seen = nodes.inside.any(dim=2)
    torch.testing.assert_close(noisy.windows[seen], nodes.windows[seen])
    torch.testing.assert_close(noisy.steps[mask], nodes.steps[mask])
    torch.testing.assert_close(noisy.slots[mask], nodes.slots[mask])
    torch.testing.assert_close(alone.windows[seen[1:]], nodes.windows[1:][seen[1:]])
    torch.testing.assert_close(alone.slots, nodes.slots[1:, :5])


def test_similarity_of_slots_is_the_mean_cosine_of_their_pairs(video):
    pairs = [
        F.cosine_similarity(video.slots[row, t, i], video.slots[row, t, j], dim=0)
        for row, n in enumerate(STEPS.tolist())
        for t in range(n)
        for i in range(SLOTS)
        for j in range(i)
    ]
    torch.testing.assert_close(slot_similarity(video), torch.stack(pairs).mean())
    assert slot_similarity(replace(video, slots=video.slots[:, :, :1])) == 0


# --- messages (E5-E7) ---


def edges_one_by_one(inside, steps):
    """E5 of one video as one dense matrix over windows, steps and slots, in this order."""
    windows, length = inside.shape
    step = [windows + t for t in range(length)]
    slot = [[windows + length + t * SLOTS + k for k in range(SLOTS)] for t in range(length)]
    edges = torch.zeros(windows + length + length * SLOTS, windows + length + length * SLOTS, dtype=torch.bool)
    for t in range(steps):
        pairs = [(w, step[t]) for w in range(windows) if inside[w, t]]
        pairs += [(step[t], slot[t][k]) for k in range(SLOTS)]
        if t + 1 < steps:
            pairs += [(step[t], step[t + 1])] + [(slot[t][k], slot[t + 1][k]) for k in range(SLOTS)]
        for i, j in pairs:
            edges[i, j] = edges[j, i] = True
    return edges


def test_messages_in_blocks_are_those_of_the_whole_matrix(video):
    torch.manual_seed(2)
    module = VideoGraphAttention(DIM, key_dim=4).eval()
    flat = torch.cat([video.windows, video.steps, video.slots.flatten(1, 2)], dim=1)
    edges = torch.stack([edges_one_by_one(inside, n) for inside, n in zip(video.inside, STEPS.tolist(), strict=True)])
    expected = module.layer(flat, edges)
    found = module(video)
    windows, steps, slots = expected.split([video.windows.shape[1], 9, 9 * SLOTS], dim=1)
    seen = video.inside.any(dim=2)
    torch.testing.assert_close(found.windows[seen], windows[seen])
    torch.testing.assert_close(found.steps[video.mask], steps[video.mask])
    torch.testing.assert_close(found.slots[video.mask], slots.view(2, 9, SLOTS, DIM)[video.mask])


def test_no_tensor_grows_with_all_pairs_of_slots():
    """Twice the steps hold at most about twice the numbers, windows aside."""
    largest = []
    for steps in (64, 128):
        video = HierarchicalVideoNodes(5, DIM, SLOTS)(torch.randn(1, steps, 5), torch.ones(1, steps).bool())
        sizes = []

        def keep(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            VideoGraphAttention(DIM, 4)(video)
        largest.append(max(sizes))
    assert largest[1] <= 2.1 * largest[0]


# --- correspondences (E8-E11, E15) ---


def test_logits_are_scaled_inner_products(video):
    nodes = torch.randn(2, 4, DIM)
    logits = correspondence_logits(nodes, video)
    scale = math.sqrt(DIM)
    torch.testing.assert_close(logits.windows[1, 2], nodes[1, 0] @ video.windows[1, 2] / scale)
    torch.testing.assert_close(logits.steps[0, 1, 4], nodes[0, 2] @ video.steps[0, 4] / scale)
    torch.testing.assert_close(logits.slots[1, 2, 3, 1], nodes[1, 3] @ video.slots[1, 3, 1] / scale)


def test_posteriors_are_distributions_over_what_exists(video, logits):
    probs = posterior(logits, video)
    for level in (probs.windows, probs.steps.flatten(0, 1), probs.slots.flatten(2).flatten(0, 1)):
        torch.testing.assert_close(level.sum(dim=-1), torch.ones(len(level)))
    assert not probs.windows[~video.inside.any(dim=2)].any()
    assert not probs.slots[1, :, 5:].any()
    every = logits.slots[1, 0, :5].flatten().softmax(0)
    torch.testing.assert_close(probs.slots[1, 0, :5].flatten(), every)


def slow_mass(probs, graph, video, row, node):
    """Mass of one node on every step."""
    steps = video.mask.shape[1]
    if node == 0:
        mass = [0.0] * steps
        for w, members in enumerate(video.inside[row].tolist()):
            for t in range(steps):
                mass[t] += probs.windows[row, w].item() * members[t] / max(sum(members), 1)
        return mass
    if graph.kind[row, node] == VERB:
        return probs.steps[row, node - 1].tolist()
    return [sum(probs.slots[row, node - 1, t].tolist()) for t in range(steps)]


def test_mass_by_step_and_the_prior_follow_the_parent(graph, video, logits):
    probs = posterior(logits, video)
    mass, prior = mass_by_step(probs, graph, video), structured_prior(probs, graph, video)
    for row, n in enumerate(STEPS.tolist()):
        for node in range(7):
            torch.testing.assert_close(mass[row, node], torch.tensor(slow_mass(probs, graph, video, row, node)))
            if node == 0 or graph.kind[row, node] == NOTHING:
                continue
            parent = slow_mass(probs, graph, video, row, int(graph.parent[row, node]))
            for t in range(n):
                action = (1 - 1e-3) * parent[t] + 1e-3 / n
                atom = (1 - 1e-3) * parent[t] / SLOTS + 1e-3 / (n * SLOTS)
                assert prior.steps[row, node - 1, t].item() == pytest.approx(action, rel=1e-4)
                assert prior.slots[row, node - 1, t].tolist() == pytest.approx([atom] * SLOTS, rel=1e-4)
        assert not prior.slots[row, :, n:].any()
    torch.testing.assert_close(prior.windows, uniform_prior(probs, graph, video).windows)


def slow_kl(q, p):
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(q, p, strict=True) if a > 0)


@pytest.mark.parametrize("prior", [structured_prior, uniform_prior])
def test_the_divergence_is_the_sum_over_nodes_by_their_number(graph, video, logits, prior):
    probs, divergence = structured_correspondence(logits, graph, video, prior)
    expected = prior(probs, graph, video)
    for row in range(2):
        total = 0.1 * slow_kl(probs.windows[row].tolist(), expected.windows[row].tolist())
        nodes = graph.mask[row].nonzero()[:, 0].tolist()
        for node in nodes[1:]:
            level = "steps" if graph.kind[row, node] == VERB else "slots"
            q, p = (getattr(x, level)[row, node - 1].flatten().tolist() for x in (probs, expected))
            total += slow_kl(q, p)
        assert divergence[row].item() == pytest.approx(total / len(nodes), rel=1e-4)


def test_an_atom_far_from_its_action_diverges_and_one_beside_it_does_not(graph, video):
    """The action (opens) looks at step 4; its atoms at the same step, or at another."""

    def divergence(place):
        steps, slots = torch.zeros(2, 6, 9), torch.zeros(2, 6, 9, SLOTS)
        steps[:, :, 4], slots[:, :, place] = 12.0, 12.0
        levels = Levels(torch.zeros_like(video.windows[..., 0]), steps, slots)
        return structured_correspondence(levels, graph, video)[1][0]

    assert divergence(1) > divergence(4) + 1


def test_both_sides_of_the_divergence_have_a_gradient(graph, video, logits):
    levels = Levels(*(level.detach().requires_grad_() for level in vars(logits).values()))
    probs = posterior(levels, video)
    prior = structured_prior(probs, graph, video)
    # Atoms of the first sentence: their divergence moves their own posterior and, through the prior, their action's.
    categorical_kl(probs.slots[0, 4].flatten(), prior.slots[0, 4].flatten()).backward()
    assert levels.slots.grad[0, 4].any()
    assert levels.steps.grad[0, 1].any()
    assert not levels.steps.grad[0, 5].any()


def test_contents_and_evidence_are_those_of_the_level(graph, video, logits):
    probs = posterior(logits, video)
    content, evidence = matched_content(probs, graph, video), step_evidence(logits, graph, video)
    for row, n in enumerate(STEPS.tolist()):
        windows = video.inside[row]
        torch.testing.assert_close(content[row, 0], probs.windows[row] @ video.windows[row])
        best = [logits.windows[row][windows[:, t]].max() for t in range(n)]
        torch.testing.assert_close(evidence[row, 0, :n], torch.stack(best))
        for word in range(6):
            if graph.kind[row, word + 1] == VERB:
                torch.testing.assert_close(content[row, word + 1], probs.steps[row, word] @ video.steps[row])
                torch.testing.assert_close(evidence[row, word + 1, :n], logits.steps[row, word, :n])
            else:
                slots = probs.slots[row, word].flatten() @ video.slots[row].flatten(0, 1)
                torch.testing.assert_close(content[row, word + 1], slots)
                torch.testing.assert_close(evidence[row, word + 1, :n], logits.slots[row, word, :n].amax(dim=1))
    assert not evidence[1, :, 5:].any()


# --- samples (E10) ---


def test_samples_near_zero_temperature_are_one_hot_as_often_as_likely():
    generator = torch.Generator().manual_seed(0)
    probs = torch.tensor([0.6, 0.3, 0.1])
    logits, mask = probs.log().expand(4000, 3), torch.tensor([True, True, True])
    samples = gumbel_categorical(logits, mask, 1e-4, torch.rand(4000, 3, generator=generator))
    assert samples.max(dim=1).values.mean() > 0.999
    torch.testing.assert_close(samples.mean(dim=0), probs, atol=0.02, rtol=0)


def test_a_sample_is_the_softmax_of_logits_plus_gumbel_noise():
    logits, noise = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([0.2, 0.9, 0.5])
    gumbel = torch.tensor([-math.log(-math.log(u)) for u in noise.tolist()])
    found = gumbel_categorical(logits, torch.ones(3).bool(), 0.7, noise)
    torch.testing.assert_close(found, ((logits + gumbel) / 0.7).softmax(0))


def test_the_smoother_the_warmer():
    logits, noise, mask = torch.randn(5, 8), torch.rand(5, 8), torch.ones(8).bool()
    peaks = [gumbel_categorical(logits, mask, t, noise).max(dim=1).values.mean() for t in (1.0, 0.3)]
    assert peaks[0] < peaks[1]


def test_extreme_noise_stays_finite():
    noise = torch.tensor([0.0, 1.0 - 2**-24, 1.0])
    assert gumbel_categorical(torch.zeros(3), torch.ones(3).bool(), 0.3, noise).isfinite().all()


def test_samples_of_every_level_are_distributions_with_gradients(video, logits):
    levels = Levels(*(level.detach().requires_grad_() for level in vars(logits).values()))
    samples = relaxed_samples(levels, video, torch.tensor(0.5))
    torch.testing.assert_close(samples.slots.sum(dim=(2, 3)), torch.ones(2, 6))
    assert not samples.steps[1, :, 5:].any()
    sum(level.square().sum() for level in vars(samples).values()).backward()
    assert all(level.grad.any() and level.grad.isfinite().all() for level in vars(levels).values())
