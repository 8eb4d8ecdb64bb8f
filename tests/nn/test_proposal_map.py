"""The proposal map and its convolutions against loops that follow their definitions literally."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ommatid.errors import InputError
from ommatid.nn.proposal_map import MaskedMapConv, ProposalMap, inverse, proposal_cells, span_max, valid_cells

# --- which cells exist ---


def cells_one_by_one(size, scales):
    """The definition: scale k adds lengths in steps of 2^k, at starts that are multiples of 2^k."""
    cells, length = set(), 0
    for k, count in enumerate(scales):
        for _ in range(count):
            length += 2**k
            cells |= {(i, i + length - 1) for i in range(0, size, 2**k) if i + length <= size}
    return cells


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 5))
def test_cells_are_those_of_the_definition(scales, extra):
    size = sum(2**k * count for k, count in enumerate(scales)) + extra
    start, end = proposal_cells(size, scales)
    found = list(zip(start.tolist(), end.tolist(), strict=True))
    assert found == sorted(cells_one_by_one(size, scales))


@pytest.mark.parametrize(
    ("size", "scales", "count"), [(16, (16,), 136), (64, (16, 8, 8), 1104), (128, (16, 8, 8, 8), 2548)]
)
def test_published_maps_reach_the_whole_video(size, scales, count):
    start, end = proposal_cells(size, scales)
    assert len(start) == len(cells_one_by_one(size, scales)) == count
    assert ((start == 0) & (end == size - 1)).any()


def test_one_scale_of_the_size_makes_every_moment_a_cell():
    assert torch.equal(ProposalMap(6, (6,)).mask, torch.ones(6, 6).triu().bool())


@pytest.mark.parametrize(
    ("scales", "sentence"),
    [
        ((), r"scales must name at least 1 length for each scale, found \(\)"),
        ((4, 0), r"scales must name at least 1 length for each scale, found \(4, 0\)"),
        ((4, 3), r"scales \(4, 3\) reach moments of 10 positions, expected at most the 8 of the map"),
    ],
)
def test_impossible_scales_are_refused_in_one_sentence(scales, sentence):
    with pytest.raises(InputError, match=sentence):
        ProposalMap(8, scales)


# --- features of the cells ---


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 20), st.randoms(use_true_random=False))
def test_a_span_holds_the_maximum_of_its_positions(size, draw):
    torch.manual_seed(draw.randrange(1000))
    sequence = torch.randn(2, size, 3)
    spans = [sorted(draw.choices(range(size), k=2)) for _ in range(30)]
    start, end = torch.tensor(spans).unbind(1)
    expected = torch.stack([sequence[:, i : j + 1].amax(dim=1) for i, j in spans], dim=1)
    assert torch.equal(span_max(sequence, start, end), expected)


def test_the_map_is_the_brute_force_map():
    torch.manual_seed(0)
    sequence, proposals = torch.randn(2, 7, 3), ProposalMap(7, (3, 2))
    expected = torch.zeros(2, 3, 7, 7)
    for b in range(2):
        for i, j in cells_one_by_one(7, (3, 2)):
            for c in range(3):
                expected[b, c, i, j] = max(sequence[b, p, c] for p in range(i, j + 1))
    assert torch.equal(proposals.scatter(proposals(sequence)), expected)


def test_gradients_of_the_map_are_right():
    proposals = ProposalMap(5, (3, 1))
    sequence = torch.randn(2, 5, 2, dtype=torch.double, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: proposals.scatter(proposals(x)), (sequence,))


def test_scatter_and_gather_are_inverse():
    proposals = ProposalMap(8, (4, 2))
    cells = torch.randn(2, len(proposals.start), 3)
    plane = proposals.scatter(cells)
    assert torch.equal(proposals.gather(plane), cells)
    assert not plane[:, :, ~proposals.mask].any()


def test_spans_of_the_cells_cut_the_sequence():
    proposals = ProposalMap(4, (4,))
    spans = {tuple(span) for span in proposals.spans().tolist()}
    assert spans == {(i / 4, (j + 1) / 4) for i in range(4) for j in range(i, 4)}


def test_the_map_adds_nothing_to_a_state_dict():
    assert ProposalMap(8, (4, 2)).state_dict() == {}


# --- convolutions on the map ---


def convolve_one_by_one(plane, mask, convs):
    """The definition, place after place; what lies beyond the padding is zero and not valid."""
    valid = mask
    for conv in convs:
        kernel, dilation, pad = conv.kernel_size[0], conv.dilation[0], conv.padding[0]
        size = plane.shape[-1]
        reach = size + 2 * pad - dilation * (kernel - 1)
        result = torch.zeros(plane.shape[0], len(conv.bias), reach, reach)
        seen = torch.zeros(reach, reach, dtype=torch.bool)
        for y in range(reach):
            for x in range(reach):
                total, count = conv.bias.expand(len(plane), -1), 0
                for a in range(kernel):
                    for b in range(kernel):
                        row, column = y - pad + a * dilation, x - pad + b * dilation
                        if 0 <= row < size and 0 <= column < size:
                            total = total + plane[:, :, row, column] @ conv.weight[:, :, a, b].T
                            count += int(valid[row, column])
                if count:
                    result[:, :, y, x] = total.clamp(min=0) / count
                    seen[y, x] = True
        plane, valid = result, seen
    return plane


@pytest.mark.parametrize(("kernel", "layers", "dilation"), [(3, 1, 1), (3, 2, 1), (2, 2, 1), (3, 2, 2), (5, 1, 1)])
def test_convolutions_are_divided_by_the_cells_they_saw(kernel, layers, dilation):
    torch.manual_seed(0)
    convs, proposals = MaskedMapConv(2, kernel, layers, dilation), ProposalMap(6, (2, 2))
    plane = torch.randn(2, 2, 6, 6) * proposals.mask
    found = convs(plane, proposals.mask)
    assert found.shape == plane.shape
    torch.testing.assert_close(found, convolve_one_by_one(plane, proposals.mask, convs.convs))


def test_the_first_convolution_pads_for_all():
    convs = MaskedMapConv(2, kernel=9, layers=4).convs
    assert [conv.padding for conv in convs] == [(16, 16), (0, 0), (0, 0), (0, 0)]


def test_a_constant_map_stays_constant_however_many_cells_are_missing():
    convs = MaskedMapConv(1, kernel=3, layers=1)
    torch.nn.init.ones_(convs.convs[0].weight)
    torch.nn.init.zeros_(convs.convs[0].bias)
    mask = ProposalMap(8, (4, 2)).mask
    found = convs(mask.float()[None, None], mask)[0, 0]
    torch.testing.assert_close(found[mask], torch.ones(int(mask.sum())))


def test_counts_are_whole_and_an_empty_neighbourhood_weighs_nothing():
    mask = torch.zeros(1, 1, 5, 5, dtype=torch.bool)
    mask[0, 0, :2, 0] = True
    count = valid_cells(mask, torch.nn.Conv2d(1, 1, 3, padding=1))
    assert count[0, 0, :, 0].tolist() == [2, 2, 1, 0, 0]
    assert inverse(count)[0, 0, :, 0].tolist() == [0.5, 0.5, 1, 0, 0]


def test_counts_stay_exact_in_half_precision():
    mask = torch.ones(1, 1, 20, 20, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        count = valid_cells(mask, torch.nn.Conv2d(1, 1, 15))
    assert (count == 225).all()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((8, 4, 3), "kernel must be odd for an odd number of layers, found 4 and 3 layers"),
        ((8, 0, 1), "kernel, layers and dilation must be at least 1, found 0, 1 and 1"),
    ],
)
def test_convolutions_that_cannot_keep_the_size_are_refused(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        MaskedMapConv(*arguments)
