"""Lightning: fit with validation, checkpoints, early stopping, average weights and metrics, then test and resume."""

import tempfile

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassF1Score


class Net(L.LightningModule):
    def __init__(self, width=256):
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, 2, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(1024, width),
            nn.ReLU(),
            nn.Linear(width, 10),
        )
        self.metrics = MetricCollection([MulticlassAccuracy(10), MulticlassF1Score(10)], prefix="val_")
        self.confusion = MulticlassConfusionMatrix(10)

    def training_step(self, batch, _):
        loss = nn.functional.cross_entropy(self.body(batch[0]), batch[1])
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, _):
        scores = self.body(batch[0])
        self.log("val_loss", nn.functional.cross_entropy(scores, batch[1]), prog_bar=True)
        self.metrics.update(scores, batch[1])
        self.confusion.update(scores, batch[1])
        self.log_dict(self.metrics)

    def on_validation_epoch_end(self):
        print(self.confusion.compute().shape)
        self.confusion.reset()

    test_step = validation_step

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), 1e-3)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)]


def loader(shuffle=False):
    return DataLoader(TensorDataset(torch.randn(128, 3, 32, 32), torch.randint(0, 10, (128,))), 32, shuffle=shuffle)


with tempfile.TemporaryDirectory() as folder:
    common = {
        "accelerator": "gpu",
        "devices": 1,
        "precision": "bf16-mixed",
        "logger": CSVLogger(folder),
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "default_root_dir": folder,
    }
    saver = ModelCheckpoint(folder, monitor="val_loss", save_last=True)
    callbacks = [saver, EarlyStopping("val_loss", patience=3), LearningRateMonitor(), StochasticWeightAveraging(1e-3)]
    model = Net()
    trainer = L.Trainer(max_epochs=2, callbacks=callbacks, gradient_clip_val=1.0, accumulate_grad_batches=2, **common)
    trainer.fit(model, loader(True), loader())
    print(trainer.callback_metrics)
    trainer.test(model, loader())
    again = L.Trainer(max_epochs=3, **common)
    again.fit(Net(), loader(True), loader(), ckpt_path=saver.last_model_path)
    print(Net.load_from_checkpoint(saver.best_model_path).device)
