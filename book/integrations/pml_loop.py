"""Train with MDR and pytorch-metric-learning, also under torchrun."""

import torch
from pytorch_metric_learning import distances, losses, miners
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from mdrlib import distributed, normalize_by_mean_distance
from mdrlib.datasets import PKBatchSampler, load
from mdrlib.datasets.transforms import to_float
from mdrlib.losses import MDRRegularizer


def build(weight=0.2, nu=0.01):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(1024, 32))
    if distributed.world_size() > 1:
        model = DistributedDataParallel(model)
    # The default distances of loss and miner L2-normalize.
    euclidean = distances.LpDistance(normalize_embeddings=False)
    loss = losses.TripletMarginLoss(
        margin=0.2,
        distance=euclidean,
        embedding_regularizer=MDRRegularizer(level_weight=nu / weight),
        embedding_reg_weight=weight,
    )
    miner = miners.TripletMarginMiner(margin=0.2, distance=euclidean)
    return model, loss, miner


def train(model, loss, miner, epochs):
    # With several processes, model is in DistributedDataParallel.
    part = load("digits", "train")
    data = TensorDataset(to_float(part.images), part.labels)
    sampler = PKBatchSampler(part.labels, 64, 16)
    batches = DataLoader(data, batch_sampler=sampler)
    levels = {"params": loss.parameters()}  # of its regularizer
    levels["weight_decay"] = 0.0
    network = {"params": model.parameters()}
    optimizer = torch.optim.AdamW([network, levels], lr=1e-3)
    for _ in range(epochs):
        for images, labels in batches:
            # MDR sees the pairs of all processes.
            x = distributed.gather(model(images))
            labels = distributed.gather(labels)
            x = normalize_by_mean_distance(x)
            total = loss(x, labels, miner(x, labels))
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            sampler.step()  # counts this batch as used
    parts = dict(loss=loss, optimizer=optimizer, sampler=sampler)
    parts["model"] = getattr(model, "module", model)
    return {name: part.state_dict() for name, part in parts.items()}


if __name__ == "__main__":
    with distributed.processes():
        state = train(*build(), epochs=2)
        if distributed.rank() == 0:
            torch.save(state, "checkpoint.pt")
