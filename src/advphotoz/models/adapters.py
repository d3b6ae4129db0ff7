"""Adapters: networks with another call signature, or random outputs, as ``model(x, *context)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from advphotoz._checks import check_at_least_one

__all__ = ["Adapter", "AverageOverDraws"]


class Adapter(nn.Module):
    r"""A network called as ``model(x, *context)``, through a function that says how.

    .. math:: f(x, c_1, c_2, \ldots) = \mathrm{call}(\mathrm{network}, x, c_1, c_2, \ldots)

    The network is a submodule: train and eval mode, parameters, buffers and device are its own,
    and names in the state dict begin with ``network.``. Inputs and output are passed on as they
    are.

    Parameters
    ----------
    network : torch.nn.Module
        The network, of any call signature. It needs no adapter if it is already called as
        ``network(x, *context)``; one that takes no E(B-V) is called as ``network(x)``, with
        batches ``(x, target)``.
    call : callable
        Called as ``call(network, x, *context)``; returns the output. Use the network that it
        receives and no other variable, so that a copy of the adapter calls its own copy of the
        network. It must be differentiable in x. Where the adapter is pickled, it must be a
        function of a module; a lambda cannot be pickled.

    Raises
    ------
    TypeError
        If network is no torch.nn.Module or call is not callable.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> image, ebv = torch.rand(2, 5, 8, 8), torch.rand(2)

    A network that takes a dictionary:

    >>> class TakesDict(nn.Module):
    ...     def forward(self, batch):
    ...         return batch["image"].mean((1, 2, 3)) - batch["ebv"]
    >>> model = Adapter(TakesDict(), lambda net, image, ebv: net({"image": image, "ebv": ebv}))
    >>> model(image, ebv).shape
    torch.Size([2])

    A network that returns a tuple, of which the first is wanted:

    >>> class ReturnsTuple(nn.Module):
    ...     def forward(self, image, ebv):
    ...         return image.mean((2, 3)), {"ebv": ebv}
    >>> model = Adapter(ReturnsTuple(), lambda net, *inputs: net(*inputs)[0])
    >>> model(image, ebv).shape
    torch.Size([2, 5])

    A network whose first argument is not the image:

    >>> class ImageLast(nn.Module):
    ...     def forward(self, ebv, image):
    ...         return image.mean((1, 2, 3)) - ebv
    >>> model = Adapter(ImageLast(), lambda net, image, ebv: net(ebv, image))
    >>> model(image, ebv).shape
    torch.Size([2])

    A network trained on standardised redshifts, here of mean 0.1 and standard deviation 0.05:

    >>> standardised = nn.Sequential(nn.Flatten(), nn.Linear(320, 1))
    >>> model = Adapter(standardised, lambda net, x: 0.1 + 0.05 * net(x))
    >>> model(image).shape
    torch.Size([2, 1])

    A network that was trained on scaled pixels; the perturbation stays in the units of the image:

    >>> model = Adapter(standardised, lambda net, x: net(torch.asinh(x / 0.02)))
    >>> model(image).shape
    torch.Size([2, 1])
    """

    def __init__(self, network: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        _check_network(network)
        if not callable(call):
            raise TypeError(
                "call must be a function, called as call(network, x, *context); got "
                f"{type(call).__name__}."
            )
        self.network = network
        self.call = call

    @override
    def forward(self, x: Tensor, *context: Tensor) -> Any:
        return self.call(self.network, x, *context)

    @override
    def extra_repr(self) -> str:
        return f"call={getattr(self.call, '__qualname__', repr(self.call))}"


class AverageOverDraws(nn.Module):
    r"""The mean output of a network that draws random numbers in eval mode.

    Of such a network (dropout that stays on, randomised smoothing, a random resizing) one forward
    pass is one draw; an attack on one draw follows its noise. The mean over n draws estimates the
    expectation, and its gradient the gradient of the expectation (Athalye et al. 2018,
    arXiv:1707.07397, expectation over transformation), both with a scatter smaller by
    :math:`\sqrt n`:

    .. math:: f(x) = \frac{1}{n} \sum_{i=1}^n \mathrm{network}_i(x, \ldots)

    Parameters
    ----------
    network : torch.nn.Module
        Called as ``network(x, *context)`` n times, each with new draws; returns one tensor, of the
        same shape every time. Random numbers come from where the network takes them.
    draws : int
        Number n of forward passes, at least 1.

    Raises
    ------
    TypeError, ValueError
        If network is no torch.nn.Module or draws is not an integer of at least 1; when called, if
        the network does not return a tensor.

    Notes
    -----
    Time is that of n passes. Memory too where a gradient is asked for: the activations of all
    passes are kept until the backward pass, so that n draws of a batch of N need as much as one
    draw of n N samples; make the batch smaller. The mean is that of the outputs as they are: for
    logits it is, up to normalisation, the geometric mean of the PDFs and not their mean.

    Examples
    --------
    >>> import torch
    >>> class Noisy(torch.nn.Module):
    ...     def forward(self, x):
    ...         return x + torch.randn_like(x)
    >>> model = AverageOverDraws(Noisy(), draws=400)
    >>> _ = torch.manual_seed(0)
    >>> bool((model(torch.zeros(4, 1)).abs() < 0.2).all())  # the scatter is 1 / sqrt(400)
    True
    """

    def __init__(self, network: nn.Module, draws: int) -> None:
        super().__init__()
        _check_network(network)
        check_at_least_one(draws, "draws")
        self.network = network
        self.draws = draws

    @override
    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        # Copies, since a network may write into its inputs; every draw is to see the same.
        outputs = [
            self.network(x.clone(), *(value.clone() for value in context))
            for _ in range(self.draws)
        ]
        if not isinstance(outputs[0], Tensor):
            raise TypeError(
                "AverageOverDraws needs a network that returns one tensor; got "
                f"{type(outputs[0]).__name__}. Select the tensor first: "
                "Adapter(network, lambda net, *inputs: net(*inputs)[0])."
            )
        return torch.stack(outputs).mean(0)  # half precision is summed up in float32

    @override
    def extra_repr(self) -> str:
        return f"draws={self.draws}"


def _check_network(network: Any) -> None:
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"network must be a torch.nn.Module; got {type(network).__name__}. A plain function "
            "needs no adapter: an attack called by hand takes any model(x, *context)."
        )
