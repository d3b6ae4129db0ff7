"""What a saved result says about how it was made."""

from __future__ import annotations

import builtins
import copy
import hashlib
import pickle
import platform
import re
import subprocess
import sys
import types
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from advphotoz import provenance
from advphotoz._version import __version__
from advphotoz.provenance import (
    DataDigest,
    command,
    machine,
    sample_digests,
    versions,
    weights_digest,
)

UNDER_PYTEST = provenance._under_pytest


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(5, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def test_there_is_one_version(repo_root: Path) -> None:
    citation = (repo_root / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [__version__]
    project = (repo_root / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^dynamic = \[.*"version".*\]$', project, re.MULTILINE)
    assert not re.search(r"^version\s*=", project, re.MULTILINE)
    [path] = re.findall(r'^\[tool.hatch.version\]\npath = "(.*)"$', project, re.MULTILINE)
    assert f'__version__ = "{__version__}"' in (repo_root / path).read_text(encoding="utf-8")
    assert metadata.version("advphotoz") == __version__
    assert __version__ not in (repo_root / "docs" / "conf.py").read_text(encoding="utf-8")


def test_the_changelog_and_the_citation_tell_of_the_same_release(repo_root: Path) -> None:
    changelog = (repo_root / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = (repo_root / "CITATION.cff").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(.*)\] - (.*)$", changelog, re.MULTILINE)
    assert newest is not None
    version, date = newest.groups()
    assert version == __version__
    # BibTeX's year comes from this date. Before a release there is none.
    released = re.findall(r'^date-released: "?(.*?)"?$', citation, re.MULTILINE)
    assert released == ([] if date == "unreleased" else [date])


def test_weights_digest_is_sha256_of_names_dtypes_shapes_and_bytes() -> None:
    network = nn.Linear(2, 1)
    expected = hashlib.sha256()
    for name, value in (("weight", network.weight), ("bias", network.bias)):
        expected.update(repr((name, "torch.float32", tuple(value.shape))).encode())
        expected.update(value.detach().numpy().tobytes())
    assert weights_digest(network) == expected.hexdigest()


def test_the_same_weights_have_the_same_digest() -> None:
    network = _network()
    digest = weights_digest(network)
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert weights_digest(copy.deepcopy(network)) == digest
    assert weights_digest(network.eval().requires_grad_(False)) == digest
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    assert not last[0].weight.is_contiguous()
    assert weights_digest(last) == digest


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_digest_is_the_same_on_a_gpu() -> None:
    network = _network()
    digest = weights_digest(network)
    assert weights_digest(network.cuda()) == digest
    assert machine("cuda")["device_name"] == torch.cuda.get_device_name()


@pytest.mark.parametrize(
    "change",
    [
        lambda network: network[0].weight.data[0, 0, 0, 0].mul_(1 + 1e-6),
        lambda network: network[1].running_mean.add_(1e-6),
        lambda network: network[1].num_batches_tracked.add_(1),
        lambda network: network.double(),
        lambda network: network.bfloat16(),
        lambda network: setattr(network[2], "bias", nn.Parameter(network[2].bias.data[None])),
        lambda network: network.insert(2, nn.ReLU()),
    ],
    ids=["weight", "buffer", "counter", "double", "bfloat16", "shape", "name"],
)
def test_other_weights_have_another_digest(change: Any) -> None:
    network = _network()
    digest = weights_digest(network)
    change(network)
    assert weights_digest(network) != digest


def test_extra_state_that_is_not_a_tensor_is_left_out() -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 1}

    network = Extra(2, 2)
    plain = nn.Linear(2, 2)
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if "extra" not in k})
    assert weights_digest(network) == weights_digest(plain)


def test_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(provenance, "_CPUINFO", cpuinfo)
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Chip 9000 \nmodel\t: 1\nmodel name\t: B\n")
    torch.set_num_threads(1)
    assert machine("cpu") == {
        "device": "cpu",
        "device_name": None,
        "cpu": "Chip 9000",
        "threads": 1,
    }
    assert machine(torch.device("meta"))["device"] == "meta"
    cpuinfo.write_text("processor\t: 0\n")  # as on ARM
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert machine("cpu")["cpu"] == platform.machine()
    cpuinfo.unlink()  # as on macOS
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert machine("cpu")["cpu"] == "arm"


def test_machine_names_no_host() -> None:
    found = machine("cpu")
    assert found["cpu"]
    assert platform.node() not in map(str, found.values())


def test_versions() -> None:
    assert versions() == {
        "advphotoz": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    assert all(type(value) is str for value in versions().values())


@pytest.fixture
def as_script(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Make this process look like one that runs a script."""
    main = types.ModuleType("__main__")
    main.__file__ = "/home/somebody/work/attack.py"
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(provenance, "_under_pytest", lambda: False)
    monkeypatch.setattr(sys, "argv", ["/home/somebody/work/attack.py", "--eps", "0.01"])
    return main


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("0.01", "0.01"),
        ("--eps=0.01", "--eps=0.01"),
        ("-1e-3", "-1e-3"),
        ("runs/weights.pt", "runs/weights.pt"),
        ("../weights.pt", "../weights.pt"),
        ("./weights.pt", "./weights.pt"),
        ("--out=runs/a", "--out=runs/a"),
        ("nets:build", "nets:build"),
        ("a~b", "'a~b'"),
        ("/home/somebody/weights.pt", "weights.pt"),
        ("/home/somebody/", "somebody"),
        ("/home/some body/two words.pt", "'two words.pt'"),
        ("--out=/home/somebody/out", "--out=out"),
        ("out=/home/somebody/out", "out=out"),
        ("-o/home/somebody/out", "-oout"),
        ("~/out", "out"),
        ("~somebody/out", "out"),
        ("--out=~/out", "--out=out"),
        ("/home/somebody/a.pt,/home/somebody/b.pt", "b.pt"),
        ("data:/home/somebody/a.npz", "data:a.npz"),
        ("file:///home/somebody/a.npz", "file:a.npz"),
        (r"C:\Users\somebody\a.npz", "a.npz"),
        (r"--data=C:/Users/somebody/a.npz", "--data=a.npz"),
        (r"\\host\share\a.npz", "a.npz"),
        ("", "''"),
        ("/", "''"),
    ],
)
@pytest.mark.usefixtures("as_script")
def test_no_folder_of_the_machine_enters_a_command(argument: str, expected: str) -> None:
    sys.argv[1:] = [argument]
    assert command() == f"attack.py {expected}"


def test_a_command_is_the_script_or_the_module(as_script: types.ModuleType) -> None:
    assert command() == "attack.py --eps 0.01"
    as_script.__spec__ = types.SimpleNamespace(name="advphotoz.__main__")  # type: ignore[assignment]
    assert command() == "python -m advphotoz --eps 0.01"
    as_script.__spec__.name = "tools.attack"
    assert command() == "python -m tools.attack --eps 0.01"
    as_script.__spec__.name = "__main__"  # a folder or zip file with a __main__.py
    assert command() == "attack.py --eps 0.01"


def test_without_a_command_line_there_is_none(
    as_script: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command() is not None
    with monkeypatch.context() as patch:
        patch.setattr(sys, "ps1", ">>> ", raising=False)
        assert command() is None
    with monkeypatch.context() as patch:  # IPython and Jupyter
        patch.setattr(builtins, "__IPYTHON__", True, raising=False)
        assert command() is None
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "_under_pytest", UNDER_PYTEST)
        assert command() is None
    for first in ("-c", "-", ""):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [first, "x"])
            assert command() is None
    with monkeypatch.context() as patch:
        patch.delattr(sys, "argv")
        assert command() is None
    assert command() is not None
    del as_script.__file__
    assert command() is None


def test_command_of_a_script_that_a_test_has_started(tmp_path: Path) -> None:
    script = tmp_path / "attack.py"
    script.write_text("from advphotoz.provenance import command\nprint(command())\n")
    ran = subprocess.run(
        [sys.executable, str(script), "--out", str(tmp_path / "out"), "two words"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "attack.py --out out 'two words'\n"


def _batch(n: int = 7) -> tuple[torch.Tensor, ...]:
    ebv = torch.rand(n, dtype=torch.float64)
    return torch.rand(n, 5, 6, 4), ebv, torch.arange(n), torch.rand(n, 3).bfloat16()


def test_sample_digest_is_sha256_of_the_layout_and_the_rows() -> None:
    x, z = torch.rand(2, 5, 3), torch.rand(2)
    layout = repr([("torch.float32", (5, 3)), ("torch.float32", ())]).encode()
    expected = [
        hashlib.sha256(layout + x[i].numpy().tobytes() + z[i].numpy().tobytes()).digest()
        for i in range(2)
    ]
    assert sample_digests((x, z)) == expected


def test_sample_digests_depend_on_the_sample_alone() -> None:
    batch = _batch()
    digests = sample_digests(batch)
    assert len(set(digests)) == 7
    for i in range(7):
        assert sample_digests([t[i : i + 1] for t in batch]) == [digests[i]]
    order = torch.randperm(7)
    assert sample_digests([t[order] for t in batch]) == [digests[i] for i in order]
    image, *others = batch
    for same in (
        image.to(memory_format=torch.channels_last),
        image.transpose(2, 3).contiguous().transpose(2, 3),
        torch.stack([image, image], -1)[..., 0],
        image.clone().requires_grad_(),
    ):
        assert sample_digests((same, *others)) == digests
    assert sample_digests([t[:0] for t in batch]) == []
    assert len(set(sample_digests((torch.zeros(2, 0), torch.arange(2))))) == 2


@pytest.mark.parametrize("i", range(4))
def test_a_change_of_one_value_changes_that_samples_digest(i: int) -> None:
    batch = _batch()
    digests = sample_digests(batch)
    batch[i][3].view(-1)[-1] += 1
    changed = sample_digests(batch)
    assert [a == b for a, b in zip(digests, changed, strict=True)] == [j != 3 for j in range(7)]


def test_dtype_shape_and_number_of_tensors_count() -> None:
    x, z = torch.zeros(1, 4, 2), torch.zeros(1)
    variants = [
        (x, z),
        (z, x),
        (x,),
        (x.int(), z),
        (x.view(1, 2, 4), z),
        (x, z[:, None]),
        (x[:, :, 0], x[:, :, 1], z),
    ]
    assert len({sample_digests(batch)[0] for batch in variants}) == len(variants)


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ((), ValueError, r"at least one tensor.* got shapes \[\]"),
        ((torch.zeros(3, 2), torch.zeros(2)), ValueError, r"got shapes \[\(3, 2\), \(2,\)\]"),
        ((torch.zeros(3), torch.tensor(1.0)), ValueError, r"got shapes \[\(3,\), \(\)\]"),
        ((torch.zeros(3), np.zeros(3)), TypeError, "number 1 is ndarray"),
    ],
)
def test_refused_batches(batch: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        sample_digests(batch)


def test_data_digest_is_the_sum_whatever_the_order_and_the_parts() -> None:
    digests = [bytes([255 - i]) * 32 for i in range(9)]
    whole = DataDigest()
    whole.update(digests)
    total = sum(int.from_bytes(digest, "big") for digest in digests)
    assert total > 2**256
    assert whole.hexdigest() == f"{total % 2**256:064x}"
    assert whole.count == 9
    first, second = DataDigest(), DataDigest()
    first.update(digests[7:2:-1])
    second.update(iter(digests[:3]))
    second.update(digests[8:])
    first = pickle.loads(pickle.dumps(first))  # as it comes from another process
    second.merge(first)
    assert second == whole
    assert second.hexdigest() == whole.hexdigest()
    for other in (digests[:-1], [*digests, digests[0]], [*digests[:-1], bytes(32)]):
        changed = DataDigest()
        changed.update(other)
        assert changed != whole
        assert changed.hexdigest() != whole.hexdigest()
    assert DataDigest().hexdigest() == "0" * 64


def test_data_digest_refuses_what_is_no_sha256() -> None:
    digest = DataDigest()
    with pytest.raises(ValueError, match=r"32 bytes, from sample_digests; got lengths \[16, 32\]"):
        digest.update([bytes(32), hashlib.md5(b"").digest()])
    assert digest == DataDigest()
