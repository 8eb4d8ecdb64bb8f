"""Sentences as unit codes: what enters them, what they must rebuild, and that they stay where the words are."""

import pytest
import torch
from torch import nn

from ommatid.nn.recurrent import BidirectionalGRU
from ommatid.nn.sentence_autoencoder import SentenceAutoencoder, shared_space

DIM, CODE, ROWS, HIDDEN = 10, 6, 12, 8
LENGTHS = torch.tensor([5, 2, 4])
MASK = torch.arange(5) < LENGTHS[:, None]


def made(dim=DIM, code_dim=CODE, hidden=HIDDEN):
    torch.manual_seed(0)
    return SentenceAutoencoder(dim, code_dim, ROWS, BidirectionalGRU(dim, hidden), hidden)


@pytest.fixture
def model():
    return made()


@pytest.fixture
def sentences():
    """Three sentences of up to five words: their indices and vectors."""
    generator = torch.Generator().manual_seed(1)
    indices = torch.randint(2, ROWS, (3, 5), generator=generator) * MASK
    return indices, torch.randn(ROWS, DIM, generator=generator)[indices] * MASK[..., None]


def loss_of(model, sentences, weight=MASK.float()):
    indices, words = sentences
    return model.reconstruct(model.encode(words, MASK), words, indices, weight)


# --- codes (E1) ---


def test_codes_are_unit(model, sentences):
    codes = model.encode(sentences[1], MASK)
    assert codes.shape == (3, CODE)
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(3))
    assert not torch.allclose(codes[0], codes[2])


@torch.no_grad()
def test_a_code_is_the_weighted_mean_of_its_words(model, sentences):
    words = sentences[1]
    for row, length in enumerate(LENGTHS.tolist()):
        states = model.encoder(words[row : row + 1, :length], MASK[row : row + 1, :length])[0]
        share = [float((state @ model.attention.weight[0]).exp()) for state in states]
        mean = sum(part / sum(share) * word for part, word in zip(share, words[row], strict=False))
        code = model.code.weight @ mean
        torch.testing.assert_close(model.encode(words, MASK)[row], code / code.norm())


def test_padding_changes_nothing(model, sentences):
    indices, words = sentences
    noisy = torch.where(MASK[..., None], words, 50.0)
    torch.testing.assert_close(model.encode(noisy, MASK), model.encode(words, MASK))
    for row, length in enumerate(LENGTHS.tolist()):
        alone = indices[row : row + 1, :length], words[row : row + 1, :length], MASK[row : row + 1, :length]
        code = model.encode(alone[1], alone[2])
        torch.testing.assert_close(code[0], model.encode(noisy, MASK)[row])
        told = model.reconstruct(code, alone[1], alone[0], alone[2].float())
        torch.testing.assert_close(told[0], loss_of(model, (indices, noisy))[row])


def test_what_all_have_in_common_is_taken_off(model, sentences):
    raw = model.raw_code(sentences[1], MASK)
    model.mean.copy_(raw.mean(dim=0).detach())
    centred = model.encode(sentences[1], MASK) * (raw - model.mean).norm(dim=1, keepdim=True)
    torch.testing.assert_close(centred.sum(dim=0), torch.zeros(CODE), atol=1e-5, rtol=0)
    assert "mean" in model.state_dict()


# --- rebuilding (E2) ---


def one_by_one(model, code, words, indices, weight):
    """The likelihood of one sentence, a step of the decoder after the other."""
    cell = nn.GRUCell(words.shape[1] + len(code), HIDDEN)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in model.decoder.state_dict().items()})
    state, before, total = torch.tanh(model.start(code)), torch.zeros(words.shape[1]), 0.0
    for word, index, share in zip(words, indices, weight, strict=True):
        state = cell(torch.cat([before, code]), state)
        odds = model.word(state).exp()
        total = total - share * torch.log(odds[index] / odds.sum())
        before = word
    return total / weight.sum()


@torch.no_grad()
def test_the_loss_is_that_of_the_words_one_by_one(model, sentences):
    indices, words = sentences
    weight = torch.rand(3, 5, generator=torch.Generator().manual_seed(2)) * MASK
    codes, found = model.encode(words, MASK), loss_of(model, sentences, weight)
    for row, length in enumerate(LENGTHS.tolist()):
        known = words[row, :length], indices[row, :length], weight[row, :length]
        torch.testing.assert_close(found[row], one_by_one(model, codes[row], *known))


def test_a_word_is_guessed_from_the_code_and_the_words_before_it(model, sentences):
    indices, words = sentences
    code = model.encode(words, MASK).detach()
    for word in range(5):
        vectors = words.clone().requires_grad_()
        only = torch.zeros(3, 5)
        only[:, word] = 1.0
        model.reconstruct(code, vectors, indices, only)[0].backward()
        assert (vectors.grad[0, :word] != 0).any(dim=-1).all()
        assert (vectors.grad[0, word:] == 0).all()
    assert not torch.allclose(
        model.reconstruct(code, words, indices, MASK.float()), model.reconstruct(-code, words, indices, MASK.float())
    )


def test_words_without_weight_need_not_be_rebuilt(model, sentences):
    indices, words = sentences
    code, some = model.encode(words, MASK), MASK.float()
    some[:, 1] = 0.0
    other = indices.clone()
    other[:, 1] = (other[:, 1] + 1) % ROWS
    torch.testing.assert_close(
        model.reconstruct(code, words, other, some), model.reconstruct(code, words, indices, some)
    )
    assert not torch.allclose(loss_of(model, (other, words)), loss_of(model, sentences))


def test_weights_share_out_one_mean(model, sentences):
    each = torch.stack([loss_of(model, sentences, torch.eye(5)[word].expand(3, -1)) for word in range(5)], dim=1)
    weight = torch.tensor([[2.0, 1, 1, 2, 1], [1, 2, 0, 0, 0], [2, 2, 1, 1, 0]])
    expected = (each * weight).sum(dim=1) / weight.sum(dim=1)
    torch.testing.assert_close(loss_of(model, sentences, weight), expected)
    torch.testing.assert_close(loss_of(model, sentences, 3 * weight), expected)


def test_a_sentence_without_any_weight_costs_nothing(model, sentences):
    weight = MASK.float()
    weight[1] = 0.0
    loss = loss_of(model, sentences, weight)
    assert loss[1] == 0
    loss.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


# --- learning ---


def test_everything_learns_but_the_projection(model, sentences):
    loss_of(model, sentences).mean().backward()
    resting = {name for name, p in model.named_parameters() if p.grad is None}
    assert resting == {"code.weight"}
    for name, parameter in model.named_parameters():
        # All words alike: where it is added, a softmax over them does not see it.
        if name not in resting:
            assert parameter.grad.abs().max() > 1e-7, name


def test_sentences_are_learnt_by_heart(sentences):
    model = made(hidden=24)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    first = float(loss_of(model, sentences).mean().detach())
    for _ in range(150):
        optimizer.zero_grad()
        loss = loss_of(model, sentences).mean()
        loss.backward()
        optimizer.step()
    assert first > 2
    assert float(loss.detach()) < 0.1


def test_the_code_comes_to_hold_the_words_that_must_be_rebuilt():
    """One word of four is to be rebuilt; word vectors are axes, so that a code shows how much each word counts."""
    torch.manual_seed(0)
    model = SentenceAutoencoder(ROWS, ROWS, ROWS, BidirectionalGRU(ROWS, 16), 16)
    with torch.no_grad():
        model.code.weight.copy_(torch.eye(ROWS))
    mask, content, filler = torch.ones(64, 4, dtype=torch.bool), torch.arange(2, 6), torch.arange(6, ROWS)

    def drawn():
        indices = filler[torch.rand(64, len(filler)).argsort(dim=1)[:, :4]]
        place = torch.randint(4, (64, 1))
        indices = indices.scatter(1, place, content[torch.randint(len(content), (64, 1))])
        return indices, torch.eye(ROWS)[indices], torch.zeros(64, 4).scatter(1, place, 1.0)

    def share_of_content():
        indices, words, weight = drawn()
        held = model.encode(words, mask).gather(1, indices)
        return float(((held * weight).sum(dim=1) / held.sum(dim=1)).mean().detach())

    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    assert share_of_content() < 0.35
    for _ in range(150):
        indices, words, weight = drawn()
        optimizer.zero_grad()
        model.reconstruct(model.encode(words, mask), words, indices, weight).mean().backward()
        optimizer.step()
    assert share_of_content() > 0.6
    indices, words, weight = drawn()
    codes, beside = model.encode(words, mask), weight.roll(1, dims=1)
    without_content, without_filler = (
        (codes * model.encode(words * (1 - gone[..., None]), mask)).sum(dim=1).mean() for gone in (weight, beside)
    )
    assert without_content < 0.8 < without_filler


# --- the shared space (E5) ---


@pytest.mark.parametrize("shape", [(6, 6), (4, 60), (60, 4)])
def test_a_shared_space_starts_near_the_identity(shape):
    torch.manual_seed(0)
    layer = nn.Linear(shape[1], shape[0], bias=False)
    shared_space(layer)
    assert layer.weight.requires_grad
    noise = layer.weight.detach() - torch.eye(*shape)
    assert 0.01 < float(noise.std()) < 0.03
    assert float(noise.abs().max()) < 0.1
    shared_space(layer, noise=0.0)
    features = torch.randn(3, shape[1])
    kept = min(shape)
    torch.testing.assert_close(layer(features)[:, :kept], features[:, :kept])
    assert (layer(features)[:, kept:] == 0).all()


def test_codes_start_in_the_space_of_the_words(sentences):
    model = made(dim=DIM, code_dim=CODE)
    with torch.no_grad():
        model.attention.weight.zero_()
    means = (sentences[1].sum(dim=1) / LENGTHS[:, None])[:, :CODE]
    alike = torch.nn.functional.cosine_similarity(model.encode(sentences[1], MASK), means, dim=1)
    assert (alike > 0.95).all()


# --- half precision ---


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(model, sentences, dtype):
    full = loss_of(model, sentences)
    with torch.autocast("cpu", dtype=dtype):
        half = loss_of(model, sentences)
        codes = model.encode(sentences[1], MASK)
    assert codes.dtype == half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.05)
    half.mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
