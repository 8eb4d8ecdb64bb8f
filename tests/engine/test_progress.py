"""The bar tells how much of the whole training is done, and what is left."""

import pytest
from lightning.pytorch import Callback

from engine.toy import Adversaries, PointData, Toy
from ommatid.engine.fit import fit
from ommatid.engine.progress import TrainingProgress, share_done


class Watch(Callback):
    """The share that is done after every batch."""

    def __init__(self):
        self.shares = []

    def on_train_batch_end(self, trainer, *_):
        self.shares.append(share_done(trainer))


@pytest.mark.parametrize(
    ("method", "limits", "expected"),
    [
        (Toy, {"max_steps": 6, "max_epochs": -1}, [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0]),
        (Toy, {"max_epochs": 2}, [0.0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6]),
        (Adversaries, {"max_steps": 6, "max_epochs": -1}, [0.5, 1.0]),
        (Adversaries, {"max_epochs": 2}, [0.0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6]),
    ],
)
def test_share_grows_evenly_towards_the_end(method, limits, expected):
    """Three batches an epoch; every step of every optimiser counts; an epoch's last batch ends with the epoch."""
    watch = Watch()
    fit(method(), PointData(count=24, batch_size=8), trainer={**limits, "callbacks": [watch]})
    assert watch.shares == pytest.approx(expected)


def test_bar_shows_loss_and_time_left_of_all_epochs(monkeypatch):
    shown = []
    known = TrainingProgress.get_metrics
    monkeypatch.setattr(TrainingProgress, "get_metrics", lambda *given: shown.append(known(*given)) or shown[-1])
    trainer = fit(Toy(), PointData(count=24, batch_size=8), trainer={"max_epochs": 2}, progress=True)
    assert "train/loss" in shown[-1]
    assert "v_num" not in shown[-1]
    assert any(metrics.get("left", "").startswith("0:00:") for metrics in shown)
    bar = trainer.progress_bar_callback
    assert bar._get_train_description(0).rstrip() == "Epoch 1/2"
