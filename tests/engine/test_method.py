"""What every method inherits."""

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from engine.toy import Adversaries, PointData, Toy
from ommatid.engine.data import DataModule
from ommatid.engine.fit import evaluate, fit
from ommatid.engine.method import Method, frozen
from ommatid.engine.recipe import Recipe
from ommatid.errors import CheckpointError, InputError

BATCHES = 3


class Watched(Adversaries):
    """Keeps the rates and the size of each phase's steps."""

    def __init__(
        self, recipe: Recipe = Recipe("momentum", momentum=0.0), critic_recipe: Recipe = Recipe("adam")
    ) -> None:
        super().__init__(recipe, critic_recipe)
        self.rates: list[tuple[float, float]] = []

    def on_train_batch_start(self, *_) -> None:
        self.rates.append(tuple(self.optimizer(name).param_groups[0]["lr"] for name in ("critic", "line")))


def trained(method: Method, epochs: int = 1, data: DataModule | None = None) -> Method:
    fit(method, data or PointData(), trainer={"max_epochs": epochs, "limit_val_batches": 0})
    return method


# -- several optimisers --


def test_an_update_moves_the_named_phase_only():
    method = Adversaries()
    moved = []

    def step(batch, batch_idx):
        for name in ("critic", "line"):
            before = {key: value.clone() for key, value in method.state_dict().items()}
            loss = (method.critic(method(batch)[:, None])[:, 0] - batch.targets).square().mean()
            method.update(name, loss=loss)
            moved.append(
                {key.split(".")[0] for key, value in method.state_dict().items() if (value != before[key]).any()}
            )

    method.training_step = step
    trained(method)
    assert moved == [{"critic"}, {"line"}] * BATCHES


def test_one_loss_can_move_several_phases():
    method = Adversaries()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    method.training_step = lambda batch, batch_idx: method.update(
        "critic", "line", loss=method.critic(method(batch)[:, None]).square().mean()
    )
    trained(method)
    assert all((value != before[key]).any() for key, value in method.state_dict().items())


def test_schedules_move_with_updates_or_with_epochs():
    method = Watched(
        Recipe("momentum", lr=1e-3, momentum=0.0, schedule="linear"),
        Recipe("adam", lr=1e-2, schedule="linear", per="epoch"),
    )
    trained(method, epochs=2)
    critic, line = zip(*method.rates, strict=True)
    assert critic == pytest.approx([1e-2] * BATCHES + [5e-3] * BATCHES, rel=1e-4)
    assert line == pytest.approx([1e-3 * (1 - step / 6) for step in range(6)], rel=1e-4)


def test_a_schedule_by_epochs_ends_where_the_steps_end():
    method = Watched(critic_recipe=Recipe("adam", lr=1e-2, schedule="linear", per="epoch"))
    fit(method, PointData(), trainer={"max_epochs": -1, "max_steps": 9 * BATCHES, "limit_val_batches": 0})
    rates = [critic for critic, _ in method.rates]
    # Three updates a batch, so there are three epochs.
    assert rates == pytest.approx([1e-2] * BATCHES + [1e-2 * 2 / 3] * BATCHES + [1e-2 / 3] * BATCHES, rel=1e-4)


def test_a_schedule_by_updates_ends_where_the_steps_of_all_optimisers_end():
    method = Watched(Recipe("momentum", momentum=0.0, lr=1e-2, schedule="linear"))
    fit(method, PointData(), trainer={"max_epochs": -1, "max_steps": 4 * 3, "limit_val_batches": 0})
    assert [line for _, line in method.rates] == pytest.approx([1e-2, 7.5e-3, 5e-3, 2.5e-3], rel=1e-4)


def test_a_schedule_by_epochs_knows_accumulated_batches():
    rates = []
    method = Toy(recipe=Recipe("momentum", lr=1e-2, momentum=0.0, schedule="linear", per="epoch"))
    method.on_train_epoch_start = lambda: rates.append(method.optimizers().param_groups[0]["lr"])
    # Three batches, two at a time, are two updates an epoch.
    options = {"max_epochs": -1, "max_steps": 8, "accumulate_grad_batches": 2, "limit_val_batches": 0}
    fit(method, PointData(), trainer=options)
    assert rates == pytest.approx([1e-2, 7.5e-3, 5e-3, 2.5e-3], rel=1e-4)


def test_a_phase_of_several_updates_a_step_has_a_schedule_as_long():
    method = Watched(critic_recipe=Recipe("adam", lr=1e-2, schedule="linear"))
    trained(method)
    assert [critic for critic, _ in method.rates] == pytest.approx([1e-2, 1e-2 * 4 / 6, 1e-2 * 2 / 6], rel=1e-4)


@pytest.mark.parametrize("kind", [Toy, Adversaries])
def test_gradients_are_clipped_to_their_norm(kind):
    """Plain gradient descent with rate 1 moves by the gradient itself."""
    recipe = Recipe("momentum", lr=1.0, momentum=0.0, schedule="constant", clip_norm=0.25)
    method, steps = kind(recipe=recipe), []
    before = [torch.cat([p.detach().flatten().clone() for p in method.line.parameters()])]

    def note(*_) -> None:
        now = torch.cat([p.detach().flatten().clone() for p in method.line.parameters()])
        steps.append(float((now - before.pop()).norm()))
        before.append(now)

    method.on_train_batch_end = note
    trained(method, data=PointData(scale=1000.0))
    assert steps == pytest.approx([0.25] * BATCHES, rel=1e-3)


def test_gradients_of_half_precision_are_clipped_in_their_own_units():
    recipe = Recipe("momentum", lr=1.0, momentum=0.0, schedule="constant", clip_norm=1.0)
    moved = []
    for scale in (1.0, 64.0):
        torch.manual_seed(0)
        method = Adversaries(recipe=recipe)
        before = method.line.weight.detach().clone()
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        half = MixedPrecision("16-mixed", "cpu", scaler)
        fit(method, PointData(), trainer={"max_epochs": 1, "limit_train_batches": 1, "plugins": [half]})
        moved.append(method.line.weight.detach() - before)
    assert 0 < moved[0].norm() <= 1
    torch.testing.assert_close(moved[1], moved[0], rtol=0.05, atol=1e-3)


def test_forgetting_clears_the_momenta_of_one_phase():
    method = Adversaries(critic_recipe=Recipe("adam"))
    states = []

    def note(*_) -> None:
        states.append(len(method.optimizer("critic").state))
        method.forget("critic")
        states.append(len(method.optimizer("critic").state))

    method.on_train_batch_end = note
    trained(method)
    assert states == [2, 0] * BATCHES


def test_frozen_parameters_collect_nothing_and_thaw_afterwards():
    method = Adversaries()
    method.critic.bias.requires_grad_(False)
    inputs = torch.ones(2, 1, requires_grad=True)
    with frozen(method.critic):
        method.critic(inputs).sum().backward()
    assert method.critic.weight.grad is None
    assert inputs.grad is not None
    assert method.critic.weight.requires_grad
    assert not method.critic.bias.requires_grad
    with pytest.raises(RuntimeError, match="inside"), frozen(method.critic):
        raise RuntimeError("inside")
    assert method.critic.weight.requires_grad


def test_endless_training_needs_a_schedule_without_end():
    data = PointData()
    endless = {"max_epochs": -1, "max_steps": -1, "limit_val_batches": 0, "max_time": {"seconds": 0}}
    fit(Toy(recipe=Recipe("momentum", schedule="constant")), data, trainer=endless)
    for schedule in ("linear", "cosine", "onecycle", "step"):
        with pytest.raises(
            InputError, match=f"schedule '{schedule}' needs to know .* trainer.max_steps or trainer.max_epochs"
        ):
            fit(Toy(recipe=Recipe("momentum", schedule=schedule)), data, trainer=endless)


# -- evaluation --


def test_metrics_are_means_over_the_split():
    method, data = Toy(), PointData(batch_size=5)
    whole = data.first_batch("test", 24)
    metrics = evaluate(method, data, "test")
    assert metrics["error"] == pytest.approx(method.score(whole)["error"].mean().item(), rel=1e-5)
    assert metrics["never"] != metrics["never"]


def test_the_monitored_metric_and_the_loss_are_logged():
    lightning = fit(Toy(), PointData(), trainer={"max_epochs": 1})
    assert {"train/loss", "val/error"} <= lightning.callback_metrics.keys()
    assert {"train/loss", "val/error"} <= lightning.progress_bar_metrics.keys()


def test_a_field_must_say_how_it_scores():
    class Nothing(Method):
        pass

    method = Nothing()
    for question in (method.identity, method.score):
        with pytest.raises(NotImplementedError):
            question(None)
    assert method.extras() == {}
    assert method.read_outs(PointData()) == {}
    assert method.training_loader() is None
    assert method.arguments_from(PointData()) == {}
    with pytest.raises(InputError, match=r"^Nothing knows no released weights$"):
        method.published_state({})


def test_no_pictures_unless_a_method_has_some(tmp_path):
    assert Toy().draw_training(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


# -- checkpoints --


def test_loaded_method_has_weights_settings_and_extras(tmp_path):
    method = Toy(bias=False, recipe=Recipe("adam", lr=0.5))
    loaded = Toy.load(method.save(tmp_path / "toy.safetensors"))
    assert torch.equal(loaded.line.weight, method.line.weight)
    assert (loaded.hparams.bias, loaded.recipe) == (False, method.recipe)
    assert loaded.names == ["a", "b"]
    assert not loaded.training


def test_arguments_can_be_replaced_on_loading(tmp_path):
    path = Toy().save(tmp_path / "toy.safetensors")
    assert Toy.load(path, recipe={"lr": 0.7}).recipe.lr == 0.7
    with pytest.raises(InputError, match="unknown argument of Toy 'bais': did you mean 'bias'"):
        Toy.load(path, bais=False)


def test_weights_of_another_shape_name_the_first_that_differs(tmp_path):
    path = Toy().save(tmp_path / "toy.safetensors")
    with pytest.raises(CheckpointError, match=r"line.weight has the shape \(1, 3\), expected \(1, 4\)") as caught:
        Toy.load(path, dim=4)
    assert str(caught.value).startswith(f"{path}: ")


def test_missing_and_surplus_weights_are_counted(tmp_path):
    path = Toy().save(tmp_path / "toy.safetensors")
    with pytest.raises(CheckpointError, match=r"0 missing, 1 not expected \(first: line.bias\)"):
        Toy.load(path, bias=False)
    path = Toy(bias=False).save(tmp_path / "toy.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing \(first: line.bias\), 0 not expected"):
        Toy.load(path, bias=True)


def test_settings_are_json_values():
    settings = Toy(recipe=Recipe(betas=(0.5, 0.9))).settings()
    assert settings["recipe"]["betas"] == [0.5, 0.9]
    assert settings.keys() == {"dim", "bias", "recipe"}


def test_parameters_are_counted():
    method = Toy()
    assert method.parameter_count() == 4
    method.line.bias.requires_grad_(False)
    assert method.parameter_count() == 3
    assert method.parameter_count(trained_only=False) == 4
