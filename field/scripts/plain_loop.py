"""Plain PyTorch with what a long run has: warm-up, EMA, early stopping, the best weights kept, resume, SWA."""

import copy
import tempfile
from pathlib import Path

import torch
from figures import states, told
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import DataLoader, TensorDataset, random_split

torch.manual_seed(0)
torch.backends.cuda.matmul.allow_tf32 = True
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
whole = TensorDataset(torch.randn(512, 256), torch.randint(0, 10, (512,)))
train, valid = random_split(whole, [448, 64], generator=torch.Generator().manual_seed(1))
loader = DataLoader(train, 64, shuffle=True, pin_memory=True, drop_last=True, num_workers=2, persistent_workers=True)
checks = DataLoader(valid, 64)


def make():
    return nn.Sequential(
        nn.Linear(256, 1024),
        nn.BatchNorm1d(1024),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(1024, 1024),
        nn.ReLU(),
        nn.Linear(1024, 10),
    ).to(device)


class Stopper:
    def __init__(self, patience=2):
        self.best, self.bad, self.patience, self.kept = float("inf"), 0, patience, None

    def __call__(self, value, model):
        if value < self.best - 1e-4:
            self.best, self.bad, self.kept = value, 0, copy.deepcopy(model.state_dict())
        else:
            self.bad += 1
        return self.bad > self.patience


with tempfile.TemporaryDirectory() as folder:
    path, start = Path(folder) / "last.pt", 0
    for run in range(2):
        model = make()
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
        swa = AveragedModel(model)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5)
        scheduler = torch.optim.lr_scheduler.SequentialLR(
            optimizer, [warm, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)], milestones=[5]
        )
        falls = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)
        scaler = torch.amp.GradScaler("cuda")
        stop = Stopper()
        if path.exists():
            saved = torch.load(path, map_location=device, weights_only=False)
            model.load_state_dict(saved["model"])
            average.load_state_dict(saved["average"])
            optimizer.load_state_dict(saved["optimizer"])
            scaler.load_state_dict(saved["scaler"])
            torch.set_rng_state(saved["rng"].cpu())
            start = saved["epoch"] + 1
            del saved
        for epoch in range(start, start + 3):
            model.train()
            total = torch.zeros((), device=device)
            for rows, labels in loader:
                rows, labels = rows.to(device, non_blocking=True), labels.to(device, non_blocking=True)
                with torch.autocast("cuda", torch.float16):
                    loss = nn.functional.cross_entropy(model(rows), labels)
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
                norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                scaler.step(optimizer)
                scaler.update()
                average.update_parameters(model)
                total += loss.detach()
            swa.update_parameters(model)
            scheduler.step()
            model.eval()
            losses, right = [], 0
            with torch.inference_mode():
                for rows, labels in checks:
                    scores = average(rows.to(device))
                    losses.append(nn.functional.cross_entropy(scores, labels.to(device)).item())
                    right += (scores.argmax(1).cpu() == labels).sum().item()
            falls.step(sum(losses) / len(losses))
            print(run, epoch, total.item() / len(loader), sum(losses), right, norm.item(), scheduler.get_last_lr())
            torch.save(
                {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict(),
                 "scaler": scaler.state_dict(), "epoch": epoch, "rng": torch.get_rng_state()}, path,
            )  # fmt: skip
            if stop(sum(losses), model):
                break
        if stop.kept is not None:
            model.load_state_dict(stop.kept)
        update_bn(loader, swa, device=device)
    mapped = torch.load(path, mmap=True, map_location="cpu", weights_only=True)
    make().load_state_dict(mapped["model"])
told(optimizer_state=states(optimizer))
