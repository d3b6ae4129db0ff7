"""Perturbations carried from epoch to epoch, each the start of the next attack on its sample."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from advphotoz._checks import check_at_least_one
from advphotoz.attacks.attack import Attack

__all__ = ["Carry"]

Transform = Callable[[Tensor, Any], Tensor]  # of images and a generator or None


class Carry:
    r"""The last perturbation of every training sample, as the start of the next attack on it.

    .. math:: \delta_i^{(t)} = A_{\theta_t}\left(x_i, z_i;\ \delta_i^{(t - 1)}\right)

    From epoch to epoch the weights :math:`\theta_t` change little, and what misled them still
    does: one or two steps per epoch add up to the many of a search that starts over every time.
    A sample that is not drawn in an epoch keeps its perturbation.

    Batches are ``(x, *context, number, target)``, as a `numbered` data set yields them.

    Parameters
    ----------
    samples : int
        Number of training samples.
    epochs : int
        All perturbations are forgotten after so many epochs, since those of an early network
        mislead a later one less; 10 in the authors' code.

    Attributes
    ----------
    delta : Tensor or None
        bfloat16 on the CPU, (samples, C, ...), in the units of the image, NaN where there is none
        yet: 2 bytes per pixel and band, 4.1 GB for 100,000 images of 5 x 64 x 64. None before the
        first attack. Rounded to 0.4 %; PGD brings its start into the ball.

    Raises
    ------
    TypeError
        From `attack`, for an attack that takes no start; for batches without numbers.
    ValueError
        For a number outside the samples, images of another shape than before, a transform that
        does not move whole pixels.

    References
    ----------
    Zheng et al. 2020 (arXiv:1912.11969), where it is called ATTA.

    Examples
    --------
    >>> import torch
    >>> from advphotoz import PGD, LinfBall, mix_adversarial
    >>> x, number, z = torch.zeros(1, 2), torch.tensor([7]), torch.zeros(1)
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> model.weight.data = torch.tensor([[3.0, -4.0]])
    >>> step = PGD(LinfBall(1.0), 1, step_size=0.25, objective=lambda output, z: output[:, 0])
    >>> carry = Carry(samples=10)
    >>> for epoch in range(3):
    ...     carry.start_epoch(epoch)
    ...     x_adv, _, _ = mix_adversarial(model, (x, number, z), carry.attack(step), fraction=1)
    >>> x_adv
    tensor([[ 0.7500, -0.7500]])
    """

    def __init__(self, samples: int, epochs: int = 10) -> None:
        check_at_least_one(samples, "samples")
        check_at_least_one(epochs, "epochs")
        self.samples = samples
        self.epochs = epochs
        self.delta: Tensor | None = None

    def start_epoch(self, epoch: int) -> None:
        """Forget all perturbations if this epoch, counted from 0, is a multiple of `epochs`."""
        if self.delta is not None and epoch % self.epochs == 0:
            self.delta.fill_(math.nan)

    def attack(self, attack: Callable[..., Tensor]) -> Attack:
        """Return the attack with its start read from here and its result kept here.

        Parameters
        ----------
        attack : PGD, or any attack with a keyword `start`
            `start` is a perturbation in the shape of x, NaN where the attack shall start as usual.

        Returns
        -------
        Attack
            Called with ``context=(*context, number)``; the number is not passed on.
        """
        if "start" not in inspect.signature(attack).parameters:
            raise TypeError(
                f"only an attack with a keyword start can go on where it ended, and {attack!r} has "
                "none; take PGD, with steps=1 in place of FGSM"
            )

        def carried(
            model: Callable[..., Any],
            x: Tensor,
            target: Tensor,
            context: Sequence[Tensor] = (),
            generator: torch.Generator | None = None,
        ) -> Tensor:
            *shown, number = _numbers_last(context)
            with torch.inference_mode(False), torch.no_grad():
                rows, came_from = self._split(number)
                start = self._read(x, rows, came_from)
                x_adv = attack(
                    model, x, target, context=tuple(shown), generator=generator, start=start
                )
                self._keep(x_adv - x, rows, came_from)
            return x_adv

        return carried

    def transformed(
        self,
        batch: Sequence[Tensor],
        transform: Transform | None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, ...]:
        """Transform the images of a batch so that their perturbations move with their pixels.

        Parameters
        ----------
        batch : sequence of Tensor
            ``(x, *context, number, target)``.
        transform : callable or None
            ``(x, generator) -> x``, which moves whole pixels, in all bands alike, such as
            `random_dihedral`. A last band of pixel numbers goes through it together with the
            images, and tells where each pixel came from.
        generator : torch.Generator, optional
            Handed on to the transform.

        Returns
        -------
        tuple of Tensor
            The batch with a new x; behind each number stand its pixels, (N, 1 + H W).
        """
        x, *context, target = batch
        *context, number = _numbers_last(context)
        if transform is None:
            return (x, *context, number, target)
        pixels = math.prod(x.shape[2:])
        # float32 at least: it counts to 4096 x 4096 pixels, bfloat16 to 16 x 16.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        place = torch.arange(pixels, device=x.device, dtype=wide.dtype).view(1, 1, *x.shape[2:])
        both = transform(torch.cat([wide, place.expand(len(x), -1, *x.shape[2:])], 1), generator)
        moved = both[:, :-1]
        came_from = both[:, -1:].flatten(1)
        if moved.shape != x.shape or not _is_permutation(came_from, pixels):
            raise ValueError(
                "a carried perturbation must follow the pixels of its image, but the transform "
                f"{transform!r} changes, drops or repeats some of them; leave that to the data "
                "set, or train without carry"
            )
        tag = torch.cat([number.view(-1, 1), came_from.long()], 1)
        return (torch.empty_like(x).copy_(moved), *context, tag, target)

    def _read(self, x: Tensor, rows: Tensor, came_from: Tensor | None) -> Tensor:
        """Return the start for images x, their pixels where the transform put them."""
        shape = (self.samples, *x.shape[1:])
        if self.delta is None:
            self.delta = torch.full(shape, math.nan, dtype=torch.bfloat16)
        if self.delta.shape != shape:
            raise ValueError(
                f"{tuple(self.delta.shape)} perturbations are carried, but {self.samples} samples "
                f"are expected, of {tuple(x.shape[1:])}"
            )
        start = self.delta[rows].to(x.device, x.dtype)
        if came_from is None:
            return start
        flat = start.view(*x.shape[:2], -1)
        return flat.gather(2, came_from.expand(-1, x.shape[1], -1)).view(x.shape)

    def _keep(self, delta: Tensor, rows: Tensor, came_from: Tensor | None) -> None:
        """Keep the perturbations, their pixels where the data set has them."""
        assert self.delta is not None
        if came_from is not None:
            flat = delta.reshape(*delta.shape[:2], -1)
            back = torch.empty_like(flat)
            delta = back.scatter_(2, came_from.expand_as(flat), flat).view(delta.shape)
        # One by one: of a sample that is twice in a batch the last is kept, on every machine.
        for row, found in zip(rows.tolist(), delta.to("cpu", torch.bfloat16), strict=True):
            self.delta[row] = found

    def _split(self, number: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the rows of `delta`, and the pixels (N, 1, H W) that the transform moved."""
        rows = number.view(len(number), -1)[:, 0].cpu()
        wrong = (rows < 0) | (rows >= self.samples)
        if bool(wrong.any()):
            raise ValueError(
                f"carry has room for {self.samples} samples, but a batch holds the number "
                f"{int(rows[wrong][0])}; make it Carry(len(data)) of the numbered data"
            )
        return rows, number[:, None, 1:] if number.ndim == 2 else None


def _numbers_last(context: Sequence[Tensor]) -> Sequence[Tensor]:
    """Refuse a context that does not end with the numbers of the samples."""
    last = context[-1] if len(context) else None
    if last is None or last.dtype != torch.int64 or last.ndim not in (1, 2):
        came = "nothing" if last is None else f"{last.dtype} of shape {tuple(last.shape)}"
        raise TypeError(
            "carry needs the number of each sample, int64 of shape (N,), before the target, got "
            f"{came}; wrap the training set: DataLoader(numbered(data), ...)"
        )
    return context


def _is_permutation(came_from: Tensor, pixels: int) -> bool:
    index = came_from.nan_to_num(0).clamp(0, pixels - 1).long()
    seen = torch.zeros_like(index, dtype=torch.bool).scatter_(1, index, True)
    return bool(seen.all() & (index == came_from).all())
