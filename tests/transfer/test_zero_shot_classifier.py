import torch
import torch.nn.functional as F

from ommatid.transfer.zero_shot_classifier import ZeroShotClassifiers, fit_softmax
from ommatid.transfer.zero_shot_task import CHOOSING, TESTING


def blobs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat_interleave(30)
    return 3 * torch.eye(3, 5)[labels] + torch.randn(90, 5, generator=generator), labels


def test_it_separates_what_can_be_separated():
    features, labels = blobs()
    weight, bias = fit_softmax(features, labels, 3, steps=200, lr=0.05)
    assert float(((features @ weight.T + bias).argmax(dim=1) == labels).float().mean()) > 0.9


def test_its_updates_are_those_of_a_linear_layer_under_cross_entropy():
    features, labels = blobs()
    weight, bias = fit_softmax(features, labels, 3, steps=7, batch_size=16, lr=0.01, seed=4)
    layer = torch.nn.Linear(5, 3)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer, generator = torch.optim.Adam(layer.parameters(), lr=0.01), torch.Generator().manual_seed(4)
    for chosen in torch.randint(90, (7, 16), generator=generator):
        optimizer.zero_grad()
        F.cross_entropy(layer(features[chosen]), labels[chosen]).backward()
        optimizer.step()
    torch.testing.assert_close(weight, layer.weight.detach())
    torch.testing.assert_close(bias, layer.bias.detach())


def test_it_needs_no_gradients_and_disturbs_no_generator():
    features, labels = blobs()
    torch.manual_seed(1)
    expected = torch.rand(())
    torch.manual_seed(1)
    usual = fit_softmax(features, labels, 3, steps=5)
    with torch.inference_mode():
        inferred = fit_softmax(features, labels, 3, steps=5)
    assert torch.equal(torch.rand(()), expected)
    assert torch.equal(usual[0], inferred[0])


def test_only_classes_of_the_task_can_be_the_answer():
    made = ZeroShotClassifiers(4, num_seen=3, num_back=2, num_unseen=1)
    among_all, among_new = made(torch.randn(2, 4), torch.tensor([CHOOSING, TESTING]))
    assert among_all.isfinite().int().tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 1]]
    assert among_new.isfinite().int().tolist() == [[0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1]]


def test_without_new_classes_the_seen_ones_are_all_there_is():
    made = ZeroShotClassifiers(4, num_seen=3, num_back=0, num_unseen=1)
    among_all, among_new = made(torch.randn(1, 4), torch.tensor([CHOOSING]))
    assert among_all.isfinite().int().tolist() == among_new.isfinite().int().tolist() == [[1, 1, 1, 0]]


def test_a_fitted_classifier_answers_for_its_own_classes():
    made = ZeroShotClassifiers(4, num_seen=2, num_back=1, num_unseen=2)
    weight, bias = torch.randn(4, 4), torch.randn(4)
    made.keep(TESTING, 0, (weight, bias))
    features = torch.randn(6, 4)
    among_all, among_new = made(features, torch.full((6,), TESTING))
    torch.testing.assert_close(among_all[:, [0, 1, 3, 4]], features @ weight.T + bias)
    assert not among_new[:, 3:].any()
    again = ZeroShotClassifiers(4, num_seen=2, num_back=1, num_unseen=2)
    again.load_state_dict(made.state_dict())
    assert torch.equal(again(features, torch.full((6,), TESTING))[0], among_all)
    assert all(value.isfinite().all() for value in made.state_dict().values())
