"""The bar of a training: epoch, losses, the latest validation metric, and the time left of the whole training."""

import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class TrainingProgress(RichProgressBar):
    """Lightning's bar of one epoch, with what is left of all of them."""

    def __init__(self) -> None:
        super().__init__(leave=True)
        self.began, self.done_before = 0.0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        # A resumed training did a part of it in another process.
        self.began, self.done_before = time.monotonic(), share_done(trainer)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        shown = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        done = share_done(trainer) - self.done_before
        if trainer.training and done > 0:
            seconds = (time.monotonic() - self.began) * (1 - share_done(trainer)) / done
            shown["left"] = str(timedelta(seconds=round(max(seconds, 0.0))))
        return shown

    def _get_train_description(self, current_epoch: int) -> str:
        last = self.trainer.max_epochs or 0
        text = f"Epoch {current_epoch + 1}" + (f"/{last}" if last > 0 else "")
        return f"{text:{len(self.validation_description)}}"


def share_done(trainer: Trainer) -> float:
    """How much of the training is done, in [0, 1]: of the steps or of the epochs, whichever end
    first; 0 without an end."""
    epochs = trainer.current_epoch + trainer.fit_loop.batch_idx / max(float(trainer.num_training_batches), 1.0)
    limits = ((trainer.max_epochs or 0, epochs), (trainer.max_steps, trainer.global_step))
    return min(max((done / limit for limit, done in limits if limit > 0), default=0.0), 1.0)
