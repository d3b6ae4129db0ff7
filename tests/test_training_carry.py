"""Perturbations carried per sample: where attacks start, what is kept, what moves with pixels."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from advphotoz import (
    FGSM,
    PGD,
    AdversarialTrainer,
    CrossEntropy,
    L2Ball,
    LinfBall,
    l2_pgd,
    mix_adversarial,
)
from advphotoz.datasets import CutoutDataset, random_dihedral
from advphotoz.training import Carry, numbered
from problems import BINS, Linear, TwoInputs

OBJECTIVE = CrossEntropy(BINS)
EPS, STEP = 1 / 8, 1 / 32  # sums of them are exact, in bfloat16 too
ONE = PGD(LinfBall(EPS), steps=1, step_size=STEP, objective=lambda output, target: output)


def half_square(x, *context):
    """Return a function of x whose gradient is x, so that the best step is sign(x)."""
    return x.square().flatten(1).sum(1) / 2


def samples(n=6, bands=3, size=4):
    """Return images of which no pixel changes its sign within EPS, numbers and redshifts."""
    x = torch.randn(n, bands, size, size)
    return x + x.sign(), torch.arange(n), torch.rand(n)


# The start of PGD.


@pytest.mark.parametrize("ball", [LinfBall(EPS), LinfBall([EPS, EPS / 2, EPS]), L2Ball(EPS)])
def test_a_start_is_brought_into_the_ball_and_followed(ball):
    model, (x, _, z) = Linear(3, 4, 4), samples()
    attack = PGD(ball, steps=1, step_size=STEP, objective=lambda output, target: output)
    start = torch.randn_like(x)
    found = attack(model, x, z, start=start)
    direction = ball.steepest(model.weight.detach().expand_as(x))
    expected = x + ball.project(ball.project(start) + STEP * direction)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert not torch.allclose(found, attack(model, x, z), atol=1e-3)


def test_where_the_start_is_nan_the_search_starts_as_usual():
    model, (x, _, z) = Linear(3, 4, 4), samples()
    start = torch.full_like(x, math.nan)
    for attack in (ONE, PGD(LinfBall(EPS), 1, STEP, True, objective=ONE.objective)):
        usual, given = (
            attack(model, x, z, generator=torch.Generator().manual_seed(3), start=s)
            for s in (None, start)
        )
        assert torch.equal(usual, given)
    start[2] = EPS
    moved = (ONE(model, x, z, start=start) != ONE(model, x, z)).flatten(1).any(1)
    assert moved.tolist() == [False, False, True, False, False, False]


def test_only_the_first_of_several_searches_takes_the_start():
    model, (x, _, z) = Linear(3, 4, 4), samples()
    best = EPS * model.weight.detach().sign().expand_as(x)
    twice = PGD(LinfBall(EPS), 1, STEP, restarts=2, objective=ONE.objective)
    torch.testing.assert_close(twice(model, x, z, start=best), x + best)
    # From the worst start the random search is better.
    once = ONE(model, x, z, start=-best)
    assert bool((model(twice(model, x, z, start=-best)) > model(once)).all())


def test_a_start_of_another_shape():
    x, _, z = samples()
    with pytest.raises(ValueError, match="start must be a perturbation in the shape of x"):
        ONE(half_square, x, z, start=torch.zeros(3, 4, 4))


def test_half_precision_keeps_the_promise():
    x, _, z = samples()
    x = x.bfloat16() * 100
    found = ONE(half_square, x, z, start=torch.full(x.shape, 0.3))
    assert found.dtype == torch.bfloat16
    assert (found.double() - x.double()).abs().max() <= EPS


# What is carried.


def test_steps_add_up_over_the_epochs():
    x, number, z = samples()
    carry = Carry(6)
    for epoch in range(7):
        carry.start_epoch(epoch)
        x_adv, same, _ = mix_adversarial(half_square, (x, number, z), carry.attack(ONE), 1.0)
        assert torch.equal(same, number)
        reached = min((epoch + 1) * STEP, EPS)
        torch.testing.assert_close(x_adv - x, reached * x.sign())
    assert torch.equal(carry.delta, (EPS * x.sign()).bfloat16())


def test_perturbations_follow_pixels_through_flips_and_turns():
    x, number, z = samples(n=40)
    carry, generator = Carry(50), torch.Generator().manual_seed(0)
    for epoch in range(3):
        order = torch.randperm(40)
        batch = (x[order], torch.rand(40, 2), number[order] + 10, z[order])
        turned = carry.transformed(batch, random_dihedral, generator)
        assert not torch.equal(turned[0], batch[0])
        x_adv = mix_adversarial(half_square, turned, carry.attack(ONE), 1.0)[0]
        # Each pixel has gone away from zero by one step per epoch, wherever it stood before.
        torch.testing.assert_close(x_adv - turned[0], (epoch + 1) * STEP * turned[0].sign())
        torch.testing.assert_close(carry.delta[10:].float(), (epoch + 1) * STEP * x.sign())
    assert bool(carry.delta[:10].isnan().all())


def test_the_transform_draws_and_moves_as_it_does_alone():
    x, number, z = samples(n=20, size=20)
    x = x.contiguous(memory_format=torch.channels_last)
    alone = random_dihedral(x, torch.Generator().manual_seed(5))
    moved, _, _ = Carry(20).transformed(
        (x, number, z), random_dihedral, torch.Generator().manual_seed(5)
    )
    assert torch.equal(moved, alone)
    assert moved.is_contiguous(memory_format=torch.channels_last)
    half = Carry(20).transformed((x.bfloat16(), number, z), random_dihedral)[0]
    assert half.dtype == torch.bfloat16  # which could not count to 400


def test_only_crafted_rows_are_kept():
    x, number, z = samples()
    carry = Carry(6)
    before = torch.zeros(6, dtype=torch.bool)
    for _ in range(4):
        kept = None if carry.delta is None else carry.delta.clone()
        mixed, _, _ = mix_adversarial(half_square, (x, number, z), carry.attack(ONE), 0.5)
        crafted = (mixed != x).flatten(1).any(1)
        assert int(crafted.sum()) == 3
        if kept is not None:
            assert torch.equal(carry.delta[~crafted].isnan(), kept[~crafted].isnan())
            known = ~crafted & before
            assert torch.equal(carry.delta[known], kept[known])
        before |= crafted
        assert torch.equal(carry.delta.flatten(1).isnan().any(1), ~before)


def test_of_a_sample_that_is_twice_in_a_batch_the_last_is_kept():
    x, _, z = samples()
    carry = Carry(2)
    number = torch.tensor([0, 1, 0, 1, 0, 0])
    mix_adversarial(half_square, (x, number, z), carry.attack(ONE), 1.0, torch.Generator())
    rows = torch.randperm(6, generator=torch.Generator())
    last = {int(number[row]): row for row in rows}
    for sample, row in last.items():
        assert torch.equal(carry.delta[sample].float(), STEP * x[row].sign())


def test_perturbations_are_forgotten_every_few_epochs():
    x, number, z = samples()
    carry = Carry(6, epochs=2)
    sizes = []
    for epoch in range(5):
        carry.start_epoch(epoch)
        mix_adversarial(half_square, (x, number, z), carry.attack(ONE), 1.0)
        sizes.append(carry.delta.float().abs().max().item() / STEP)
    assert sizes == [1, 2, 1, 2, 1]


def test_a_sample_without_one_starts_as_the_attack_does():
    x, number, z = samples(n=40)
    random = PGD(LinfBall(EPS), 1, 1e-6, random_start=True, objective=ONE.objective)
    carry = Carry(40)
    mix_adversarial(half_square, (x, number, z), carry.attack(random), 1.0)
    first = carry.delta.clone()
    assert 0.9 * EPS < first.float().abs().max() <= EPS * 1.004
    assert 0.4 * EPS < first.float().abs().mean() < 0.6 * EPS
    mix_adversarial(half_square, (x, number, z), carry.attack(random), 1.0)
    torch.testing.assert_close(carry.delta, first, rtol=1e-2, atol=3e-6)


def test_it_may_be_used_without_gradients_and_in_inference_mode():
    x, number, z = samples()
    x.requires_grad_()
    carry = Carry(6)
    with torch.inference_mode():
        mix_adversarial(half_square, (x, number, z), carry.attack(ONE), 1.0)
    mix_adversarial(half_square, (x, number, z), carry.attack(ONE), 1.0)
    assert torch.equal(carry.delta.float(), 2 * STEP * x.detach().sign())


def test_magnitudes_and_small_units():
    """Rows without pixels; and a unit in which float16 would lose everything."""
    x, z = torch.ones(4, 5), torch.rand(4)
    tiny = l2_pgd(1e-10, steps=1, step_size=1e-11, objective=ONE.objective)
    carry = Carry(4)
    for _ in range(3):
        batch = carry.transformed((x * 1e-9, torch.arange(4), z), lambda x, generator: x)
        mix_adversarial(lambda x: half_square(x) * 1e9, batch, carry.attack(tiny), 1.0)
    assert carry.delta.shape == (4, 5)
    norm = carry.delta.float().norm(dim=1)
    torch.testing.assert_close(norm, torch.full((4,), 3e-11), rtol=1e-2, atol=0)


def crop(x, generator):
    return nn.functional.pad(x[..., 1:], (0, 1))


@pytest.mark.parametrize(
    "transform",
    [
        crop,
        lambda x, generator: x + 0.01 * torch.randn_like(x),
        lambda x, generator: 2 * x,
        lambda x, generator: x + 0.25,
        lambda x, generator: x * math.nan,
        lambda x, generator: x[:, :, :-1],
        lambda x, generator: x.flip(0).roll(1, 1),
    ],
    ids=["crop", "noise", "scale", "offset", "nan", "smaller", "bands"],
)
def test_transforms_that_do_not_move_whole_pixels_are_refused(transform):
    x, number, z = samples()
    with pytest.raises(ValueError, match="must follow the pixels"):
        Carry(6).transformed((x, number, z), transform)


def test_bad_input():
    x, number, z = samples()

    def mix(batch, carry):
        mix_adversarial(half_square, batch, carry.attack(ONE), 1.0)

    with pytest.raises(TypeError, match="keyword start.*take PGD, with steps=1 in place of FGSM"):
        Carry(6).attack(FGSM(0.1))
    for last in ((), (torch.rand(6),), (number.int(),), (number.view(6, 1, 1),)):
        batch = (x, *last, z)
        with pytest.raises(TypeError, match=r"wrap the training set: DataLoader\(numbered\(data\)"):
            mix(batch, Carry(6))
        with pytest.raises(TypeError, match="number of each sample"):
            Carry(6).transformed(batch, random_dihedral)
    with pytest.raises(ValueError, match="room for 5 samples.*number 5"):
        mix((x, number, z), Carry(5))
    with pytest.raises(ValueError, match="room for 6 samples.*number -1"):
        mix((x, number - 1, z), Carry(6))
    carry = Carry(6)
    mix((x, number, z), carry)
    with pytest.raises(ValueError, match=r"\(6, 3, 4, 4\) perturbations are carried"):
        mix((x[:, :2], number, z), carry)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        Carry(0)
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        Carry(6, epochs=0)


def test_numbered():
    image = torch.randn(10, 3, 4, 4)
    data = CutoutDataset(image, torch.rand(10), torch.arange(10.0))
    assert len(numbered(data)) == 10
    x, _, number, z = numbered(data)[7]
    assert number == 7
    assert torch.equal(x, image[7])
    assert z == 7
    loader = DataLoader(numbered(data), 4, shuffle=True)
    for x, _, number, z in loader:
        assert number.dtype == torch.int64
        assert torch.equal(number.float(), z)
        assert torch.equal(x, image[number])

    class Reads(TensorDataset):
        def __getitems__(self, indices):
            reads.append(len(indices))
            return [self[index] for index in indices]

    reads = []
    list(DataLoader(numbered(Reads(image, torch.rand(10))), 4))
    assert reads == [4, 4, 2]

    class Stream(IterableDataset):
        def __iter__(self):
            return iter([])

    with pytest.raises(TypeError, match="iterable data set have no numbers"):
        numbered(Stream())


# In the trainer.


def make(seed=0, carry=None, attack=None, fraction=0.5, transform=random_dihedral, **settings):
    torch.manual_seed(seed)
    model = TwoInputs()
    return AdversarialTrainer(
        model,
        torch.optim.AdamW(model.parameters(), lr=1e-2),
        PGD(LinfBall(0.1), steps=1, step_size=0.05, random_start=True)
        if attack is None
        else attack,
        fraction,
        objective=OBJECTIVE,
        transform=transform,
        carry=carry,
        **settings,
    )


def dataset(n=24, seed=9):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, 16, 16, generator=generator)
    return TensorDataset(x, *torch.rand(2, n, generator=generator))


def loader(n=24, size=8):
    return DataLoader(
        numbered(dataset(n)), size, shuffle=True, generator=torch.Generator().manual_seed(1)
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a if k != "seconds")
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (a != a and b != b)


def test_the_model_never_sees_the_numbers_and_validation_needs_none():
    run = make(carry=Carry(24), valid_attack=PGD(LinfBall(0.1), steps=2))
    validation = DataLoader(dataset(8, seed=2), 8)
    history = run.fit(loader(), validation, epochs=2, progress=False)
    assert len(history) == 2
    assert math.isfinite(history[1]["valid_loss"])
    kept = run.carry.delta
    assert kept.shape == (24, 5, 16, 16)
    assert kept.dtype == torch.bfloat16
    assert 0.09 < kept.nan_to_num().float().abs().max() <= 0.1004


def test_one_step_is_the_mixed_step_written_out():
    by_hand = make(carry=Carry(24))
    run = make(carry=Carry(24))
    batch = next(iter(loader()))
    for _ in range(2):
        torch.manual_seed(4)
        value = run.step(batch)
        moved = by_hand.carry.transformed(batch, random_dihedral, by_hand.generator)
        craft = by_hand.carry.attack(by_hand.attack)
        x, ebv, _, z = mix_adversarial(by_hand.model, moved, craft, 0.5, by_hand.generator)
        torch.manual_seed(4)
        loss = OBJECTIVE(by_hand.model(x, ebv), z).mean()
        by_hand.optimizer.zero_grad()
        loss.backward()
        by_hand.optimizer.step()
        assert value == loss.item()
    assert same(run.model.state_dict(), by_hand.model.state_dict())


def test_a_resumed_training_carries_the_same(tmp_path):
    whole = make(carry=Carry(24, epochs=3))
    whole.fit(loader(), epochs=5, progress=False)

    for stop in (2, 3):  # in between, and where all is forgotten
        path = tmp_path / f"{stop}.pt"
        first = make(carry=Carry(24, epochs=3))
        first.fit(loader(), epochs=stop, progress=False, checkpoint=path)
        torch.manual_seed(12345)
        second = make(seed=99, carry=Carry(24, epochs=3))
        second.fit(loader(), epochs=5, progress=False, checkpoint=path)
        a, b = whole.state_dict(), second.state_dict()
        for key in a:
            assert same(a[key], b[key]), key
    assert not bool(a["carry"].isnan().all())


def test_what_is_carried_learns_the_epoch():
    run = make(carry=Carry(24))
    seen = []
    run.carry.start_epoch = seen.append
    run.fit(loader(), epochs=2, progress=False)
    assert seen == [0, 1]


def test_state_dict_copies_what_is_carried():
    run = make(carry=Carry(24))
    run.fit(loader(), epochs=1, progress=False)
    state = run.state_dict()
    kept = copy.deepcopy(state)
    other = make(carry=Carry(24))
    other.load_state_dict(state)
    for trainer in (run, other):
        trainer.fit(loader(), epochs=2, progress=False)
        assert same(state["carry"], kept["carry"])
        assert not same(trainer.carry.delta, kept["carry"])


def test_a_checkpoint_without_what_is_carried(tmp_path):
    make(transform=None).save(tmp_path / "plain.pt")
    with pytest.raises(ValueError, match="it lacks .*carry"):
        make(carry=Carry(24)).load(tmp_path / "plain.pt")
    assert "carry" not in make().state_dict()


def test_the_trainer_refuses():
    with pytest.raises(TypeError, match="in place of FGSM"):
        make(carry=Carry(24), attack=FGSM(0.1))
    model = TwoInputs()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="no attack that could start"):
        AdversarialTrainer(model, optimizer, None, 0, carry=Carry(3))
    plain = DataLoader(dataset(), 8)
    with pytest.raises(TypeError, match=r"numbered\(data\)"):
        make(carry=Carry(24)).fit(plain, epochs=1, progress=False)


def test_carried_steps_find_more_than_the_same_steps_from_zero():
    """Against a network that hardly changes, two steps per epoch become as strong as twenty."""
    model = TwoInputs().eval()
    x, ebv, z = dataset().tensors
    number = torch.arange(24)
    attack = PGD(LinfBall(0.1), steps=2, step_size=0.02, objective=OBJECTIVE)
    carry = Carry(24)
    for _ in range(6):
        crafted, *_ = mix_adversarial(model, (x, ebv, number, z), carry.attack(attack), 1.0)

    def loss(x):
        with torch.no_grad():
            return OBJECTIVE(model(x, ebv), z).mean().item()

    fresh = attack(model, x, z, context=(ebv,))
    strong = PGD(LinfBall(0.1), steps=20, step_size=0.02, objective=OBJECTIVE)
    gain = [loss(images) - loss(x) for images in (fresh, crafted, strong(model, x, z, (ebv,)))]
    assert gain[1] > 1.5 * gain[0]
    assert gain[1] > 0.97 * gain[2]
