"""The network `cnn` in a plain PyTorch loop: channels last, fused Adam.

A line with a number of steps is answered with their seconds, as JSON.
"""

import json
import sys
import time

import numpy as np
import torch
from torch import nn

batch_size, steps = (int(word) for word in sys.argv[1:])
torch.manual_seed(0)
model = nn.Sequential(
    *(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.2)),
    *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(64, 64, 3), nn.ReLU()),
    *(nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10)),
).to(memory_format=torch.channels_last)
optimizer = torch.optim.Adam(model.parameters(), fused=True)
loss_fn = nn.CrossEntropyLoss()
rng = np.random.default_rng(0)
images = torch.from_numpy(rng.integers(0, 256, (10_000, 3, 32, 32), np.uint8)).to(memory_format=torch.channels_last)
labels = torch.from_numpy(rng.integers(0, 10, 10_000))


def lap(steps: int) -> float:
    """Trains for some steps on shuffled batches; loss and accuracy are summed, and read at the end."""
    start = time.perf_counter()
    total = correct = torch.zeros(())
    for _ in range(steps):
        index = torch.randint(len(images), (batch_size,))
        x, y = images[index].float().mul_(1 / 255).contiguous(memory_format=torch.channels_last), labels[index]
        optimizer.zero_grad(set_to_none=True)
        predictions = model(x)
        loss = loss_fn(predictions, y)
        loss.backward()
        optimizer.step()
        total, correct = total + loss.detach(), correct + (predictions.argmax(1) == y).sum()
    print(float(total), float(correct), file=sys.stderr)
    return time.perf_counter() - start


lap(steps)
print(json.dumps({"version": torch.__version__}), flush=True)
for line in sys.stdin:
    if line.strip() == "end":
        break
    print(json.dumps({"seconds": lap(int(line))}), flush=True)
