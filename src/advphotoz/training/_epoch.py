"""What happens around the steps of an epoch: before the first, and after the last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

__all__ = ["mean_loss", "start_epoch", "step_scheduler", "summary"]


def start_epoch(loader: object, epoch: int) -> None:
    """Tell a DistributedSampler which epoch begins; without it, it deals the same order again."""
    set_epoch = getattr(getattr(loader, "sampler", None), "set_epoch", None)
    if set_epoch is not None:
        set_epoch(epoch)


def mean_loss(losses: Iterable[tuple[int, float]], name: str) -> float:
    """Return the mean loss per sample from (batch size, mean loss) pairs."""
    total, count = 0.0, 0
    for size, loss in losses:
        total, count = total + size * loss, count + size
    if not count:
        raise ValueError(f"{name} yields no sample: an empty loader, or a generator already used")
    return total / count


def step_scheduler(scheduler: LRScheduler | ReduceLROnPlateau | None, loss: float) -> None:
    """Step a scheduler, if there is one; only `ReduceLROnPlateau` looks at the loss."""
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(loss)
    elif scheduler is not None:
        scheduler.step()


def summary(row: Mapping[str, float]) -> str:
    """Return a row of the history in words."""
    return (
        f"train loss {row['train_loss']:.4f}, valid loss {row['valid_loss']:.4f}, "
        f"learning rate {row['learning_rate']:.3g}, {row['seconds']:.0f} s"
    )
