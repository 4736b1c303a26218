"""The same work in PyTorch, written by hand, in the memory layout that suits its CPU kernels."""

import torch


def versions():
    return {"torch": torch.__version__}


def build(size):
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 5, padding=2),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(32, 64, 5, padding=2),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(64 * (size // 4) ** 2, 1024),
        torch.nn.ReLU(),
        torch.nn.Linear(1024, 10),
    ).to(memory_format=torch.channels_last)


def run(spec, data, turn):
    """Trains, and counts clean and adversarial accuracy, as `AdvTrain` does."""
    model = build(spec["size"])
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    loss = torch.nn.CrossEntropyLoss()
    epsilon, num_steps = spec["epsilon"], spec["num_steps"]
    images = torch.from_numpy(data[0].transpose(0, 3, 1, 2).copy())
    labels = torch.from_numpy(data[1])
    hits = torch.zeros(2)
    for _ in range(spec["epochs"]):
        turn.wait()
        for x, y in zip(
            images.split(spec["batch_size"]), labels.split(spec["batch_size"]), strict=True
        ):
            x = x.contiguous(memory_format=torch.channels_last)
            x_adv = (x + torch.empty_like(x).uniform_(-epsilon, epsilon)).clamp(0.0, 1.0)
            for _ in range(num_steps):
                x_adv.requires_grad_()
                # The gradient of the input only: no weight gradient is computed.
                gradient = torch.autograd.grad(loss(model(x_adv), y), x_adv)[0]
                moved = x_adv.detach() + 2.5 * epsilon / num_steps * gradient.sign()
                x_adv = torch.clamp(moved, x - epsilon, x + epsilon).clamp(0.0, 1.0)
            optimizer.zero_grad()
            outputs = model(x_adv)
            loss(outputs, y).backward()
            with torch.no_grad():
                hits[0] += (model(x).argmax(1) == y).sum()
                hits[1] += (outputs.argmax(1) == y).sum()
            optimizer.step()
        turn.done()
