"""Mixed precision where the machine computes in it, and not where it would only be emulated."""

from __future__ import annotations

import torch

__all__ = ["fast_autocast"]


def fast_autocast(device: str | torch.device = "cpu") -> torch.dtype | None:
    """Return what to give as `autocast`: bfloat16 where the device has instructions for it.

    A processor without them emulates bfloat16, up to ten times slower than float32, and PyTorch
    does not say so.

    Parameters
    ----------
    device : str or torch.device
        Where the model runs.

    Returns
    -------
    torch.dtype or None
        ``torch.bfloat16`` on an x86-64 processor with AVX512_BF16 or AMX, on ARM with BF16, on CUDA
        from compute capability 8.0 (Ampere) and on ROCm. None, which is full precision, elsewhere
        and where PyTorch cannot tell.

    Raises
    ------
    RuntimeError
        From PyTorch, for a device that there is not.

    Examples
    --------
    >>> from advphotoz import PGD, LinfBall, fast_autocast
    >>> attack = PGD(LinfBall(0.01), autocast=fast_autocast())
    """
    device = torch.device(device)
    if device.type == "cpu":
        ask = getattr(torch.cpu, "get_capabilities", None)  # PyTorch 2.12 and later
        found = {} if ask is None else ask()
        fast = any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
        if ask is None:
            older = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
            fast = older is not None and bool(older())
        return torch.bfloat16 if fast else None
    if device.type == "cuda":
        ampere = torch.cuda.get_device_capability(device)[0] >= 8
        return torch.bfloat16 if ampere or torch.version.hip else None
    return None
