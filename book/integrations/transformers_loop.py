"""Train with MDR in the Trainer of Hugging Face Transformers."""

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from mdrlib import MDR, distributed, normalize_by_mean_distance
from mdrlib.datasets import PKBatchSampler, load
from mdrlib.datasets.transforms import to_float
from mdrlib.losses import TripletLoss


class Retrieval(nn.Module):
    def __init__(self):
        super().__init__()
        layers = nn.Flatten(), nn.Linear(1024, 32)
        self.network = nn.Sequential(*layers)
        self.metric_loss = TripletLoss(margin=0.2)
        self.mdr = MDR()  # a submodule: saved and in eval mode with it

    def forward(self, images, labels):
        raw = x = self.network(images)
        if self.training:  # MDR sees the pairs of all devices
            x = distributed.gather(raw)
            labels = distributed.gather(labels)
        x = normalize_by_mean_distance(x)
        loss = self.metric_loss(x, labels) + 0.2 * self.mdr(x)
        loss = loss + 0.01 * self.mdr.level_penalty()
        return {"loss": loss, "embeddings": raw}


class MetricTrainer(Trainer):
    def get_train_dataloader(self):
        labels = [item["labels"] for item in self.train_dataset]
        # accelerate divides batches, so the sampler must not.
        sampler = PKBatchSampler(labels, 64, 16, rank=0, world_size=1)
        batches = DataLoader(self.train_dataset, batch_sampler=sampler)
        return self.accelerator.prepare(batches)

    def create_optimizer(self, model=None):
        network = {"params": self.model.network.parameters()}
        levels = {"params": self.model.mdr.parameters()}
        levels["weight_decay"] = 0.0
        self.optimizer = torch.optim.AdamW([network, levels], lr=1e-3)
        return self.optimizer


def items(split):
    part = load("digits", split)
    pairs = zip(to_float(part.images), part.labels, strict=True)
    return [{"images": image, "labels": y} for image, y in pairs]


def trainer(folder, **settings):
    torch.manual_seed(0)
    # Each device gets a slice of each batch, with whole classes.
    settings["accelerator_config"] = {"split_batches": True}
    settings["per_device_eval_batch_size"] = 256  # several of a class
    arguments = TrainingArguments(folder, **settings)
    train, test = items("train"), items("test")
    return MetricTrainer(Retrieval(), arguments, None, train, test)


if __name__ == "__main__":
    trainer("runs/digits", num_train_epochs=2).train()
