"""MappedLoader: batches of any form become `(x, *context, target)`, and the rest stays."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from advphotoz.datasets import MappedLoader

NAMES = [
    "dataset",
    "sampler",
    "batch_sampler",
    "batch_size",
    "generator",
    "num_workers",
    "persistent_workers",
]


def rows(n: int = 10) -> list[dict[str, torch.Tensor]]:
    return [
        {"image": torch.full((2, 3, 3), float(k)), "ebv": torch.tensor(0.1), "z": torch.tensor(k)}
        for k in range(n)
    ]


def triple(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return batch["image"], batch["ebv"], batch["z"]


def test_each_epoch_maps_every_batch() -> None:
    loader = MappedLoader(DataLoader(rows(), batch_size=4), triple)
    for _ in range(2):
        batches = list(loader)
        assert [tuple(x.shape) for x, _, _ in batches] == [(4, 2, 3, 3)] * 2 + [(2, 2, 3, 3)]
        assert torch.cat([z for _, _, z in batches]).tolist() == list(range(10))
    assert len(loader) == 3


def test_shuffling_goes_on_from_epoch_to_epoch() -> None:
    def order(loader: Any, z: Any) -> list[list[int]]:
        return [[int(k) for batch in loader for k in z(batch)] for _ in range(2)]

    def shuffled() -> Any:
        return DataLoader(rows(), 4, shuffle=True, generator=torch.Generator().manual_seed(3))

    expected = order(shuffled(), lambda batch: batch["z"])
    assert expected[0] != expected[1]
    assert order(MappedLoader(shuffled(), triple), lambda batch: batch[2]) == expected


def test_attributes_are_those_of_the_loader() -> None:
    inner = DataLoader(rows(), 4, shuffle=True, generator=torch.Generator())
    loader = MappedLoader(inner, triple)
    assert loader.loader is inner
    assert loader.function is triple
    for name in NAMES:
        assert getattr(loader, name) is getattr(inner, name)
    for name in ("collate_fn", "_iterator", "no_such_name"):
        with pytest.raises(
            AttributeError, match=f"'MappedLoader' object has no attribute '{name}'"
        ):
            getattr(loader, name)
    assert not hasattr(MappedLoader([rows()[0]], triple), "sampler")


def test_copies_and_pickles() -> None:
    loader = MappedLoader([row for row in rows(2)], triple)  # noqa: C416
    for other in (copy.copy(loader), copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        assert [int(z) for _, _, z in other] == [0, 1]


def test_loaders_without_a_length() -> None:
    class Endless(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(rows(3))

    loader = MappedLoader(DataLoader(Endless(), batch_size=2), triple)
    assert len(list(loader)) == 2
    with pytest.raises(TypeError, match="no len"):
        len(loader)


def test_lists_are_batches_too() -> None:
    (batch,) = MappedLoader([rows()[0]], lambda b: [b["image"], b["z"]])
    assert isinstance(batch, list)


@pytest.mark.parametrize("result", [{"x": 1}, torch.zeros(2), None, "xz", iter(())])
def test_a_function_that_returns_something_else(result: Any) -> None:
    loader = MappedLoader([1], lambda _: result)
    with pytest.raises(
        TypeError, match=rf"a tuple or list \(x, \*context, target\), got {type(result).__name__}"
    ):
        next(iter(loader))


def test_loaders_of_one_epoch_and_functions_that_are_none_are_refused() -> None:
    with pytest.raises(TypeError, match="iterable more than once.*got list_iterator"):
        MappedLoader(iter(rows()), triple)
    with pytest.raises(TypeError, match="iterable more than once.*got generator"):
        MappedLoader((row for row in rows()), triple)
    with pytest.raises(TypeError, match="iterable more than once.*got int"):
        MappedLoader(3, triple)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="function must be callable, got str"):
        MappedLoader(rows(), "z")  # type: ignore[arg-type]
