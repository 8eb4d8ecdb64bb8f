"""The search against plain dictionaries of sets, against all orders of the labels, and against greedy decoding."""

import itertools
import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from ommatid.errors import InputError
from ommatid.nn.label_decoder import LabelDecoder, confident_labels
from ommatid.nn.set_beam_search import set_beam_search

BATCH, REGIONS, WIDTH = 4, 6, 5


class Memory(NamedTuple):
    """A hash of the order in which labels came."""

    code: Tensor


def made_decoder(num_labels, seed=0, end_symbol=False):
    torch.manual_seed(seed)
    decoder = LabelDecoder(num_labels, WIDTH, 6, 4, end_symbol=end_symbol).eval()
    with torch.no_grad():
        # Probabilities far apart that depend on what was chosen.
        decoder.output[3].weight.mul_(8)
        decoder.cell.weight_ih.mul_(3)
    features = torch.randn(BATCH, REGIONS, WIDTH)
    return decoder, features, torch.rand(BATCH, num_labels)


def reference(decoder, features, initial, width, max_steps, threshold, stop):
    """E12 and E13 for one sample, beam after beam, in dictionaries."""
    num_labels = decoder.num_labels
    beams = [((), 0.0, decoder.start(features, initial))]
    finished, first = [], None
    for steps in range(1, max_steps + 1):
        grown = {}
        for labels, logp, state in beams:
            chosen = torch.tensor([[label in labels for label in range(num_labels)]])
            after, logits, _ = decoder.step(state._replace(chosen=chosen), features)
            each = decoder.log_probs(logits)[0].tolist()
            if first is None:
                best = max(range(num_labels), key=lambda label: each[label])
                first = ((best,), each[best])
            options = [label for label in range(num_labels) if label not in labels]
            options += [num_labels] if decoder.end_symbol and labels else []
            options = sorted(options, key=lambda label: -each[label])[:width]
            alive = [label for label in options if math.exp((logp + each[label]) / steps) >= threshold]
            enough = bool(alive) and (stop == "all" or len(alive) == len(options))
            if not enough and labels:
                finished.append((logp / (steps - 1), labels))
            for label in alive:
                total = logp + each[label]
                if label == num_labels:
                    finished.append((total / steps, labels))
                    continue
                key = frozenset((*labels, label))
                if key not in grown or grown[key][1] < total:
                    grown[key] = ((*labels, label), total, after)
        beams = sorted(grown.values(), key=lambda beam: -beam[1])[:width]
    finished += [(logp / max_steps, labels) for labels, logp, _ in beams]
    score, labels = max(finished, key=lambda each: (each[0], len(each[1])), default=(first[1], first[0]))
    return labels, math.exp(score)


@pytest.mark.parametrize("stop", ["all", "any"])
@pytest.mark.parametrize("end_symbol", [False, True])
@pytest.mark.parametrize(("num_labels", "width", "max_steps"), [(5, 3, 4), (4, 2, 6), (6, 1, 3), (3, 8, 3)])
def test_the_answer_is_that_of_plain_dictionaries(num_labels, width, max_steps, end_symbol, stop):
    for seed, threshold in itertools.product(range(3), (0.0, 0.2, 0.5, 0.7, 0.999)):
        decoder, features, initial = made_decoder(num_labels, seed, end_symbol)
        keys = decoder.attention.keys(features)

        def step(state, chosen, decoder=decoder, features=features, keys=keys):
            state, logits, _ = decoder.step(state._replace(chosen=chosen), features, keys)
            return decoder.log_probs(logits), state

        start = decoder.start(features, initial)
        found = set_beam_search(step, start, num_labels, width, max_steps, threshold, end_symbol, stop)
        for row in range(BATCH):
            alone = features[row : row + 1], initial[row : row + 1]
            with torch.no_grad():
                labels, confidence = reference(decoder, *alone, width, max_steps, threshold, stop)
            assert tuple(label for label in found.sequence[row].tolist() if label >= 0) == labels
            assert found.labels[row].nonzero()[:, 0].tolist() == sorted(labels)
            assert float(found.confidence[row]) == pytest.approx(confidence, rel=1e-4)


@pytest.mark.parametrize("max_steps", [1, 2, 3, 4])
def test_a_beam_wide_enough_finds_the_best_of_all_orders(max_steps):
    """Where probabilities depend on the set alone, no order is lost by merging."""
    num_labels, samples = 4, 5
    table = torch.rand(samples, 2**num_labels, num_labels, generator=torch.Generator().manual_seed(0)).log()

    def code(chosen):
        return (chosen * 2 ** torch.arange(num_labels)).sum(dim=-1)

    def step(state, chosen):
        return table[torch.arange(samples)[:, None], code(chosen)], state

    start = Memory(torch.zeros(samples))
    found = set_beam_search(step, start, num_labels, width=8, max_steps=max_steps, threshold=0.0)
    for row in range(samples):
        paths = {}
        for order in itertools.permutations(range(num_labels), max_steps):
            sets = [sum(2**label for label in order[:steps]) for steps in range(max_steps)]
            paths[order] = sum(float(table[row, before, label]) for before, label in zip(sets, order, strict=True))
        best = max(paths, key=paths.__getitem__)
        assert tuple(found.sequence[row].tolist()) == best
        assert float(found.confidence[row]) == pytest.approx(math.exp(paths[best] / max_steps), rel=1e-5)


def test_two_orders_of_a_set_are_one_beam():
    """{0, 1} in both orders would fill a beam of two; merged, there is room for {0, 2}, which wins in the end."""
    after = {0: [0.9, 0.89, 0.8, 0.1], 1: [0.9, 0.89, 0.8, 0.1], 2: [0.1] * 4}

    def step(state, chosen):
        probs = torch.tensor([[after[int(sets.sum())] for sets in chosen[0]]])
        probs[..., 3] = torch.where(chosen[..., 2], 0.99, probs[..., 3])
        return probs.log(), state

    found = set_beam_search(step, Memory(torch.zeros(1)), 4, width=2, max_steps=3, threshold=0.0)
    assert found.sequence.tolist() == [[0, 2, 3]]


def test_each_beam_goes_on_with_the_state_of_its_own_parent():
    """The state is the order so far; a state of another beam would give another product."""
    num_labels = 4
    generator = torch.Generator().manual_seed(3)
    table = torch.rand(num_labels**3 * 2, num_labels, generator=generator).log()

    def step(state, chosen):
        return table[state.code], Memory(state.code)

    def follow(state, chosen):
        log_probs, state = step(state, chosen)
        return log_probs, Memory((state.code * 5 + (chosen * torch.arange(1, 5)).sum(dim=-1)) % len(table))

    found = set_beam_search(follow, Memory(torch.zeros(1, dtype=torch.long)), num_labels, 3, 3, 0.0)
    code, total, chosen = 0, 0.0, torch.zeros(num_labels, dtype=torch.bool)
    for label in found.sequence[0].tolist():
        total += float(table[code, label])
        code = (code * 5 + int((chosen * torch.arange(1, 5)).sum())) % len(table)
        chosen[label] = True
    assert float(found.confidence[0]) == pytest.approx(math.exp(total / 3), rel=1e-5)


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.6, 0.8, 0.99])
def test_one_beam_is_greedy_decoding(threshold):
    for seed in range(4):
        decoder, features, initial = made_decoder(6, seed)
        found = decoder.search(features, initial, width=1, max_steps=5, threshold=threshold)
        greedy = decoder.unroll(features, initial, 5)
        assert torch.equal(found.labels, confident_labels(greedy.labels, greedy.confidence, threshold, 6))
        count = found.labels.sum(dim=1)
        assert torch.equal(found.sequence, torch.where(torch.arange(5) < count[:, None], greedy.labels, -1))
        last = greedy.confidence.gather(1, count[:, None] - 1)[:, 0]
        torch.testing.assert_close(found.confidence, last)


def test_a_wider_beam_does_not_stop_good_paths():
    """Four labels are certain and all others are not: every width finds the four, unless a weak branch stops a beam."""
    probs = torch.tensor([0.95, 0.9, 0.85, 0.8, 0.02, 0.01])

    def step(state, chosen):
        return probs.log().expand(chosen.shape), state

    start = Memory(torch.zeros(1))
    for width in (1, 2, 3, 5):
        assert set_beam_search(step, start, 6, width, 6, 0.5).sequence.tolist() == [[0, 1, 2, 3, -1, -1]]
    assert set_beam_search(step, start, 6, 3, 6, 0.5, stop="any").sequence.tolist() == [[0, 1, -1, -1, -1, -1]]


def test_the_end_symbol_ends_a_beam_and_counts():
    probs = torch.tensor([0.5, 0.4, 0.1, 0.9])

    def step(state, chosen):
        return probs.log().expand(*chosen.shape[:2], 4), state

    found = set_beam_search(step, Memory(torch.zeros(1)), 3, 2, 4, 0.0, end_symbol=True)
    assert found.sequence.tolist() == [[0, -1, -1, -1]]
    assert float(found.confidence) == pytest.approx(math.sqrt(0.5 * 0.9), rel=1e-5)


def test_of_equally_confident_sets_the_largest_is_the_answer():
    for end_symbol in (False, True):

        def step(state, chosen, outputs=3 + end_symbol):
            return torch.zeros(*chosen.shape[:2], outputs), state

        found = set_beam_search(step, Memory(torch.zeros(1)), 3, 4, 5, 0.5, end_symbol)
        assert found.labels.tolist() == [[True] * 3]


def test_an_impossible_label_is_still_a_candidate_and_a_used_one_never():
    log_probs = torch.tensor([0.0, -torch.inf, -torch.inf])

    def step(state, chosen):
        return log_probs.expand(chosen.shape), state

    found = set_beam_search(step, Memory(torch.zeros(2)), 3, 2, 3, 0.0)
    assert found.sequence.sort(dim=1).values.tolist() == [[0, 1, 2]] * 2
    assert found.confidence.tolist() == [0.0, 0.0]


def test_samples_do_not_know_each_other():
    decoder, features, initial = made_decoder(6)
    together = decoder.search(features, initial, 3, 4, 0.4)
    for row in range(BATCH):
        alone = decoder.search(features[row : row + 1], initial[row : row + 1], 3, 4, 0.4)
        assert torch.equal(alone.sequence[0], together.sequence[row])


def test_the_search_can_be_exported():
    class Search(torch.nn.Module):
        def __init__(self, decoder):
            super().__init__()
            self.decoder = decoder

        def forward(self, features, initial):
            return tuple(self.decoder.search(features, initial, 3, 4, 0.4))

    decoder, features, initial = made_decoder(6)
    search = Search(decoder)
    program = torch.export.export(search, (features, initial)).module()
    for found, expected in zip(program(features.flip(0), initial), search(features.flip(0), initial), strict=True):
        torch.testing.assert_close(found, expected)


def test_settings_outside_their_range_are_refused():
    for settings, told in (
        ({"width": 0}, "width: found 0, expected at least 1"),
        ({"max_steps": 0}, "max_steps: found 0, expected at least 1"),
        ({"stop": "some"}, "unknown stop 'some': expected one of 'all', 'any'"),
    ):
        with pytest.raises(InputError, match=told):
            set_beam_search(lambda state, chosen: (chosen.float(), state), Memory(torch.zeros(1)), 3, **settings)
