"""bfloat16 where the processor has instructions for it, full precision elsewhere."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from advphotoz import fast_autocast, mixed_precision


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"avx512_bf16": True, "avx2": True}, torch.bfloat16),
        ({"amx_bf16": True, "avx512_bf16": False}, torch.bfloat16),
        ({"bf16": True, "neon": True}, torch.bfloat16),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, None),
        ({}, None),
    ],
)
def test_a_processor_without_instructions_for_bfloat16_gets_float32(found, expected, monkeypatch):
    cpu = SimpleNamespace(get_capabilities=lambda: found)
    monkeypatch.setattr(mixed_precision.torch, "cpu", cpu)
    assert fast_autocast() is expected
    assert fast_autocast(torch.device("cpu")) is expected


@pytest.mark.parametrize(("answer", "expected"), [(True, torch.bfloat16), (False, None)])
def test_an_older_pytorch_is_asked_another_way(answer, expected, monkeypatch):
    cpu = SimpleNamespace(_is_avx512_bf16_supported=lambda: answer)
    monkeypatch.setattr(mixed_precision.torch, "cpu", cpu)
    assert fast_autocast() is expected
    monkeypatch.setattr(mixed_precision.torch, "cpu", SimpleNamespace())
    assert fast_autocast() is None


@pytest.mark.parametrize(
    ("capability", "hip", "expected"),
    [((9, 0), None, torch.bfloat16), ((7, 5), None, None), ((7, 5), "6.2", torch.bfloat16)],
)
def test_cuda_from_ampere_on(capability, hip, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert fast_autocast("cuda:0") is expected


def test_other_devices_stay_in_full_precision():
    assert fast_autocast("meta") is None
