"""Train with MDR in PyTorch Lightning."""

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mdrlib import MDR, distributed, normalize_by_mean_distance
from mdrlib.datasets import PKBatchSampler, load
from mdrlib.datasets.transforms import to_float
from mdrlib.losses import TripletLoss


class Retrieval(lightning.LightningModule):
    def __init__(self, sampler):
        super().__init__()
        layers = nn.Flatten(), nn.Linear(1024, 32)
        self.network, self.sampler = nn.Sequential(*layers), sampler
        self.metric_loss = TripletLoss(margin=0.2)
        self.mdr = MDR()  # a submodule: saved and in eval mode with it

    def loss(self, raw, labels):
        x = normalize_by_mean_distance(raw)
        loss = self.metric_loss(x, labels) + 0.2 * self.mdr(x)
        return loss + 0.01 * self.mdr.level_penalty()

    def training_step(self, batch, index):
        self.sampler.step()  # counts this batch as used
        # MDR sees the pairs of all devices.
        raw = distributed.gather(self.network(batch[0]))
        return self.loss(raw, distributed.gather(batch[1]))

    def validation_step(self, batch, index):
        self.log("val", self.loss(self.network(batch[0]), batch[1]))

    def configure_optimizers(self):
        levels = {"params": self.mdr.parameters(), "weight_decay": 0.0}
        network = {"params": self.network.parameters()}
        return torch.optim.AdamW([network, levels], lr=1e-3)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["sampler"] = self.sampler.state_dict()

    def on_load_checkpoint(self, checkpoint):
        self.sampler.load_state_dict(checkpoint["sampler"])


def data(split):
    part = load("digits", split)
    return TensorDataset(to_float(part.images), part.labels)


def fit(ckpt_path=None, **settings):
    lightning.seed_everything(0)  # miners draw alike in all processes
    train, test = data("train"), data("test")
    sampler = PKBatchSampler(train.tensors[1], 64, 16)
    batches = DataLoader(train, batch_sampler=sampler)
    # The sampler divides batches among processes; Lightning must not.
    settings["use_distributed_sampler"] = False
    trainer, model = lightning.Trainer(**settings), Retrieval(sampler)
    trainer.fit(model, batches, DataLoader(test, 256), None, ckpt_path)
    return model, trainer


if __name__ == "__main__":
    fit(max_epochs=2)
