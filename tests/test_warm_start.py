"""Warm starts: where attacks begin, what is kept of each sample, what moves with its pixels."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from advphotoz import (
    PGD,
    L2Ball,
    LinfBall,
    SignedRedshift,
    UniformNoise,
    ZeroPoint,
    l2_pgd,
    mix_adversarial,
)
from advphotoz.batch import Batch, Indexed, SampleIndex, parse_batch
from advphotoz.datasets import CutoutDataset, random_dihedral
from advphotoz.training import IndexedDataset, WarmStart
from advphotoz.training.mixing import mixed
from advphotoz.training.warm_start import transformed
from problems import BINS, Linear, TwoInputs
from trainings import OBJECTIVE, Small, different, make, same, samples

EPS, STEP = 1 / 8, 1 / 32  # sums of them are exact, in bfloat16 too
ONE = PGD(LinfBall(EPS), steps=1, step_size=STEP / EPS, objective=lambda output, target: output)


def half_square(x, *context):
    """Return a function of x whose gradient is x, so that the best step is sign(x)."""
    return x.square().flatten(1).sum(1) / 2


def images(n=6, bands=3, size=4):
    """Return images of which no pixel changes its sign within EPS, numbers and redshifts."""
    x = torch.randn(n, bands, size, size)
    return x + x.sign(), torch.arange(n), torch.rand(n)


def indexed(x, number, *rest):
    """Return a batch as a DataLoader of an IndexedDataset yields it."""
    return Indexed((x, *rest), number)


# The start of PGD.


@pytest.mark.parametrize("ball", [LinfBall(EPS), LinfBall([EPS, EPS / 2, EPS]), L2Ball(EPS)])
def test_a_start_is_brought_into_the_ball_and_followed(ball):
    model, (x, _, z) = Linear(3, 4, 4), images()
    attack = PGD(ball, steps=1, step_size=STEP / EPS, objective=ONE.objective)
    start = torch.randn_like(x)
    found = attack(model, x, z, start=start)
    direction = ball.steepest(model.weight.detach().expand_as(x))
    expected = x + ball.project(x, ball.project(x, start) + STEP / EPS * direction)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert not torch.allclose(found, attack(model, x, z), atol=1e-3)


def test_where_the_start_is_nan_the_search_starts_as_usual():
    model, (x, _, z) = Linear(3, 4, 4), images()
    start = torch.full_like(x, math.nan)
    for attack in (ONE, PGD(LinfBall(EPS), 1, 0.25, random_start=True, objective=ONE.objective)):
        usual, given = (
            attack(model, x, z, generator=torch.Generator().manual_seed(3), start=s)
            for s in (None, start)
        )
        assert torch.equal(usual, given)
    start[2] = EPS
    moved = (ONE(model, x, z, start=start) != ONE(model, x, z)).flatten(1).any(1)
    assert moved.tolist() == [False, False, True, False, False, False]


def test_only_the_first_of_several_searches_takes_the_start():
    model, (x, _, z) = Linear(3, 4, 4), images()
    best = EPS * model.weight.detach().sign().expand_as(x)
    twice = PGD(LinfBall(EPS), 1, 0.25, restarts=2, objective=ONE.objective)
    torch.testing.assert_close(twice(model, x, z, start=best), x + best)
    # From the worst start the random search is better.
    once = ONE(model, x, z, start=-best)
    assert bool((model(twice(model, x, z, start=-best)) > model(once)).all())


def test_a_start_of_another_shape():
    x, _, z = images()
    with pytest.raises(ValueError, match="start must hold parameters of the set"):
        ONE(half_square, x, z, start=torch.zeros(3, 4, 4))


def test_half_precision_keeps_the_promise():
    x, _, z = images()
    x = x.bfloat16() * 100
    found = ONE(half_square, x, z, start=torch.full(x.shape, 0.3))
    assert found.dtype == torch.bfloat16
    assert (found.double() - x.double()).abs().max() <= EPS


# What is kept.


def test_steps_add_up_over_the_epochs():
    x, number, z = images()
    warm = WarmStart(ONE, 6)
    for epoch in range(7):
        warm.start_epoch(epoch)
        x_adv, _ = mix_adversarial(half_square, indexed(x, number, z), warm, 1.0)
        reached = min((epoch + 1) * STEP, EPS)
        torch.testing.assert_close(x_adv - x, reached * x.sign())
    assert torch.equal(warm.parameters, (EPS * x.sign()).bfloat16())


def turned(x, number, *rest, transform=random_dihedral, generator=None):
    return transformed(parse_batch(indexed(x, number, *rest)), transform, generator)


def test_perturbations_follow_pixels_through_flips_and_turns():
    x, number, z = images(n=40)
    warm, generator = WarmStart(ONE, 50), torch.Generator().manual_seed(0)
    for epoch in range(3):
        order = torch.randperm(40)
        rows = (x[order], number[order] + 10, torch.rand(40, 2), z[order])
        batch = turned(*rows, generator=generator)
        assert not torch.equal(batch.x, rows[0])
        x_adv = mix_adversarial(half_square, batch, warm, 1.0)[0]
        # Each pixel has gone away from zero by one step per epoch, wherever it stood before.
        torch.testing.assert_close(x_adv - batch.x, (epoch + 1) * STEP * batch.x.sign())
        torch.testing.assert_close(warm.parameters[10:].float(), (epoch + 1) * STEP * x.sign())
    assert bool(warm.parameters[:10].isnan().all())


def test_the_transform_draws_and_moves_as_it_does_alone():
    x, number, z = images(n=20, size=20)
    x = x.contiguous(memory_format=torch.channels_last)
    alone = random_dihedral(x, torch.Generator().manual_seed(5))
    moved = turned(x, number, z, generator=torch.Generator().manual_seed(5)).x
    assert torch.equal(moved, alone)
    assert moved.is_contiguous(memory_format=torch.channels_last)
    half = turned(x.bfloat16(), number, z).x
    assert half.dtype == torch.bfloat16  # which could not count to 400


def test_only_crafted_rows_are_kept():
    x, number, z = images()
    warm = WarmStart(ONE, 6)
    before = torch.zeros(6, dtype=torch.bool)
    for _ in range(4):
        kept = None if warm.parameters is None else warm.parameters.clone()
        attacked, _ = mix_adversarial(half_square, indexed(x, number, z), warm, 0.5)
        crafted = (attacked != x).flatten(1).any(1)
        assert int(crafted.sum()) == 3
        if kept is not None:
            assert torch.equal(warm.parameters[~crafted].isnan(), kept[~crafted].isnan())
            known = ~crafted & before
            assert torch.equal(warm.parameters[known], kept[known])
        before |= crafted
        assert torch.equal(warm.parameters.flatten(1).isnan().any(1), ~before)


def test_of_a_sample_that_is_twice_in_a_batch_the_last_is_kept():
    x, _, z = images()
    warm = WarmStart(ONE, 2)
    number = torch.tensor([0, 1, 0, 1, 0, 0])
    mix_adversarial(half_square, indexed(x, number, z), warm, 1.0, torch.Generator())
    rows = torch.randperm(6, generator=torch.Generator())
    last = {int(number[row]): row for row in rows}
    for sample, row in last.items():
        assert torch.equal(warm.parameters[sample].float(), STEP * x[row].sign())


def test_perturbations_are_forgotten_every_few_epochs():
    x, number, z = images()
    warm = WarmStart(ONE, 6, epochs=2)
    sizes = []
    for epoch in range(5):
        warm.start_epoch(epoch)
        mix_adversarial(half_square, indexed(x, number, z), warm, 1.0)
        sizes.append(warm.parameters.float().abs().max().item() / STEP)
    assert sizes == [1, 2, 1, 2, 1]


def test_a_sample_without_one_starts_as_the_attack_does():
    x, number, z = images(n=40)
    random = PGD(LinfBall(EPS), 1, 1e-5, random_start=True, objective=ONE.objective)
    warm = WarmStart(random, 40)
    mix_adversarial(half_square, indexed(x, number, z), warm, 1.0)
    first = warm.parameters.clone()
    assert 0.9 * EPS < first.float().abs().max() <= EPS * 1.004
    assert 0.4 * EPS < first.float().abs().mean() < 0.6 * EPS
    mix_adversarial(half_square, indexed(x, number, z), warm, 1.0)
    torch.testing.assert_close(warm.parameters, first, rtol=1e-2, atol=3e-6)


def test_it_may_be_used_without_gradients_and_in_inference_mode():
    x, number, z = images()
    x.requires_grad_()
    warm = WarmStart(ONE, 6)
    with torch.inference_mode():
        mix_adversarial(half_square, indexed(x, number, z), warm, 1.0)
    mix_adversarial(half_square, indexed(x, number, z), warm, 1.0)
    assert torch.equal(warm.parameters.float(), 2 * STEP * x.detach().sign())


def test_magnitudes_and_small_units():
    """Rows without pixels; and a unit in which float16 would lose everything."""
    x, z = torch.ones(4, 5), torch.rand(4)
    tiny = l2_pgd(1e-10, steps=1, step_size=0.1, objective=ONE.objective)
    warm = WarmStart(tiny, 4)
    for _ in range(3):
        batch = turned(x * 1e-9, torch.arange(4), z, transform=lambda x, generator: x)
        mix_adversarial(lambda x: half_square(x) * 1e9, batch, warm, 1.0)
    assert warm.parameters.shape == (4, 5)
    norm = warm.parameters.float().norm(dim=1)
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
    x, number, z = images()
    with pytest.raises(ValueError, match="must follow the pixels"):
        turned(x, number, z, transform=transform)


def test_bad_input():
    x, number, z = images()

    def mix(batch, warm):
        mix_adversarial(half_square, batch, warm, 1.0)

    def plain(model, x, target, context=(), generator=None):
        return x

    for attack in (UniformNoise(LinfBall(0.1)), plain, WarmStart(ONE, 6)):
        with pytest.raises(TypeError, match="takes none; take PGD"):
            WarmStart(attack, 6)
    with pytest.raises(
        TypeError, match=r"wrap the training set: DataLoader\(IndexedDataset\(data\)"
    ):
        mix((x, z), WarmStart(ONE, 6))
    for wrong in (number.int(), number.view(6, 1, 1), number[:5], 3, number.float()):
        with pytest.raises(TypeError, match="index of a batch must be an int64 tensor"):
            mix(indexed(x, wrong, z), WarmStart(ONE, 6))
    with pytest.raises(ValueError, match="room for 5 samples.*number 5"):
        mix(indexed(x, number, z), WarmStart(ONE, 5))
    with pytest.raises(ValueError, match="room for 6 samples.*number -1"):
        mix(indexed(x, number - 1, z), WarmStart(ONE, 6))
    warm = WarmStart(ONE, 6)
    mix(indexed(x, number, z), warm)
    with pytest.raises(ValueError, match="start must hold parameters|all images must have one"):
        mix(indexed(x[:, :2], number, z), warm)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        WarmStart(ONE, 0)
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        WarmStart(ONE, 6, epochs=0)


def test_indexed_dataset():
    image = torch.randn(10, 3, 4, 4)
    data = CutoutDataset(image, torch.rand(10), torch.arange(10.0))
    assert len(IndexedDataset(data)) == 10
    (x, _, z), number = IndexedDataset(data)[7]
    assert number == 7
    assert torch.equal(x, image[7])
    assert z == 7
    for batch in DataLoader(IndexedDataset(data), 4, shuffle=True):
        x, _, z, index = parse_batch(batch)
        assert index.number.dtype == torch.int64
        assert torch.equal(index.number.float(), z if z.ndim else batch.sample[-1])
        assert torch.equal(x, image[index.number])

    class Reads(TensorDataset):
        def __getitems__(self, indices):
            reads.append(len(indices))
            return [self[index] for index in indices]

    reads = []
    list(DataLoader(IndexedDataset(Reads(image, torch.rand(10))), 4))
    assert reads == [4, 4, 2]

    class Stream(IterableDataset):
        def __iter__(self):
            return iter([])

    with pytest.raises(TypeError, match="iterable data set have no position"):
        IndexedDataset(Stream())
    for rows in ([{"image": image[0], "z": 0.1}], image):
        with pytest.raises(TypeError, match=r"must be a tuple \(x, \*context, target\), got a"):
            IndexedDataset(rows)[0]


def test_the_rows_of_a_batch_keep_their_index():
    x, number, z = images()
    batch = turned(x, number, z, generator=torch.Generator().manual_seed(1))
    rows = torch.tensor([4, 1])
    some = batch.rows(rows)
    assert torch.equal(some.index.number, number[rows])
    assert torch.equal(some.index.pixels, batch.index.pixels[rows])


# Sets whose parameters are no pixels.


def brightness(x, *context):
    """Return a function of each band's flux, so that the worst zero points are known."""
    weight = torch.tensor([1.0, -2.0, 3.0])
    return (x.mean((2, 3)) * weight).sum(1)


def test_zero_points_are_kept_per_band():
    x, number, z = images(n=4)
    x = x.abs()
    attack = PGD(ZeroPoint(0.1), steps=1, step_size=0.25, objective=ONE.objective)
    warm, generator = WarmStart(attack, 4), torch.Generator().manual_seed(0)
    for epoch in range(6):
        batch = turned(x, number, z, generator=generator)
        x_adv = mix_adversarial(brightness, batch, warm, 1.0)[0]
        p = min(1.0, 0.25 * (epoch + 1)) * torch.tensor([-1.0, 1.0, -1.0])
        assert warm.parameters.shape == (4, 3)
        torch.testing.assert_close(warm.parameters.float(), p.expand(4, 3))
        torch.testing.assert_close(x_adv, batch.x * (10 ** (-0.04 * p)).view(3, 1, 1))


def test_an_l2_ball():
    x, number, z = images(n=5)
    attack = PGD(L2Ball(1.0), steps=1, step_size=0.25, objective=ONE.objective)
    model, warm = Linear(3, 4, 4), WarmStart(attack, 5)
    direction = model.weight.detach() / model.weight.detach().norm()
    for epoch in range(6):
        x_adv = mix_adversarial(model, indexed(x, number, z), warm, 1.0)[0]
        size = min(1.0, 0.25 * (epoch + 1))
        torch.testing.assert_close(x_adv - x, (size * direction).expand_as(x), rtol=0.01, atol=1e-3)
        assert (x_adv.double() - x.double()).flatten(1).norm(dim=1).max() <= 1


@pytest.mark.parametrize("changes", [ZeroPoint(0.1), L2Ball(0.5), LinfBall(0.1)])
def test_training_with_such_a_set_resumes(changes, tmp_path):
    def build(seed=0):
        return warm_training(seed, attack=PGD(changes, steps=1, random_start=True))

    whole = build()
    whole.fit(numbered_loader(), epochs=4, progress=False)
    build().fit(numbered_loader(), epochs=2, progress=False, checkpoint=tmp_path / "run.pt")
    again = build(seed=9)
    again.fit(numbered_loader(), epochs=4, progress=False, checkpoint=tmp_path / "run.pt")
    assert different(whole.state_dict(), again.state_dict()) == []


# In the trainer.


def warm_training(seed=0, attack=None, epochs=10, **settings):
    if attack is None:
        attack = PGD(LinfBall(0.1), steps=1, step_size=0.5, random_start=True)
    return make(seed, attack=WarmStart(attack, 24, epochs), **settings)


def numbered_loader(n=24, size=8):
    data = IndexedDataset(samples(n))
    return DataLoader(data, size, shuffle=True, generator=torch.Generator().manual_seed(1))


def kept(trainer):
    return trainer.loss.attack.parameters


@pytest.mark.parametrize("indexed_too", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_validation_starts_as_usual(indexed_too, own):
    """Also where the validation set has indices, which are none of the training set."""
    attack = PGD(LinfBall(0.1), steps=1, step_size=0.5)
    settings = {"valid_attack": PGD(LinfBall(0.1), steps=2)} if own else {}
    run = warm_training(attack=attack, **settings)
    other = samples(40, seed=2)  # more than WarmStart has room for
    validation = DataLoader(IndexedDataset(other) if indexed_too else other, 8)
    run.fit(numbered_loader(), validation, epochs=2, progress=False)
    before = kept(run).clone()
    loss = run.validate(validation)
    assert same(kept(run), before)
    usual = make(attack=settings.get("valid_attack", attack))
    usual.model.load_state_dict(run.model.state_dict())
    assert loss == usual.validate(DataLoader(other, 8)) == run.history[-1]["valid_loss"]
    assert before.shape == (24, 5, 8, 8)
    assert before.dtype == torch.bfloat16
    assert 0.049 < before.nan_to_num().float().abs().max() <= 0.1004


def test_one_step_is_the_mixed_step_written_out():
    by_hand, run = warm_training(), warm_training()
    batch = next(iter(numbered_loader()))
    for _ in range(2):
        torch.manual_seed(4)
        value = run.step(batch)
        moved = transformed(parse_batch(batch), random_dihedral, by_hand.generator)
        x, ebv, z = mix_adversarial(
            by_hand.model, moved, by_hand.loss.attack, 0.5, by_hand.generator
        )
        torch.manual_seed(4)
        loss = OBJECTIVE(by_hand.model(x, ebv), z).mean()
        by_hand.optimizer.zero_grad()
        loss.backward()
        by_hand.optimizer.step()
        assert value == loss.item()
    assert same(run.model.state_dict(), by_hand.model.state_dict())


def test_a_resumed_training_starts_where_it_ended(tmp_path):
    whole = warm_training(epochs=3)
    whole.fit(numbered_loader(), epochs=5, progress=False)
    for stop in (2, 3):  # in between, and where all is forgotten
        path = tmp_path / f"{stop}.pt"
        first = warm_training(epochs=3)
        first.fit(numbered_loader(), epochs=stop, progress=False, checkpoint=path)
        torch.manual_seed(12345)
        second = warm_training(seed=99, epochs=3)
        second.fit(numbered_loader(), epochs=5, progress=False, checkpoint=path)
        assert different(whole.state_dict(), second.state_dict()) == []
    assert not bool(kept(whole).isnan().all())


def test_it_learns_the_epoch():
    run = warm_training()
    seen = []
    run.loss.attack.start_epoch = seen.append
    run.fit(numbered_loader(), epochs=2, progress=False)
    assert seen == [0, 1]


def test_state_dict_copies_what_is_kept():
    run = warm_training()
    run.fit(numbered_loader(), epochs=1, progress=False)
    state = run.state_dict()
    before = copy.deepcopy(state)
    other = warm_training()
    other.load_state_dict(state)
    for trainer in (run, other):
        trainer.fit(numbered_loader(), epochs=2, progress=False)
        assert different(state, before) == []
        assert not same(kept(trainer), before["loss"]["attack"]["parameters"])


def test_a_checkpoint_of_another_attack(tmp_path):
    make().save(tmp_path / "plain.pt")
    warm_training().save(tmp_path / "warm.pt")
    make(attack=WarmStart(ONE, 25)).save(tmp_path / "other.pt")
    for name, trainer in (("plain", warm_training()), ("warm", make())):
        with pytest.raises(ValueError, match="one keeps something from epoch to epoch"):
            trainer.load(tmp_path / f"{name}.pt")
    with pytest.raises(ValueError, match="starts for 25 samples, and this WarmStart for 24"):
        warm_training().load(tmp_path / "other.pt")


def test_a_training_set_without_an_index_is_refused():
    run, before = warm_training(), warm_training().state_dict()
    with pytest.raises(TypeError, match=r"IndexedDataset\(data\)"):
        run.fit(DataLoader(samples(), 8), epochs=1, progress=False)
    assert different(run.state_dict()["model"], before["model"]) == []
    classical = warm_training(fraction=0)  # attacks nothing, and needs to know nothing
    classical.fit(DataLoader(samples(), 8), epochs=1, progress=False)


def test_an_objective_is_bound_and_the_memory_shared():
    warm = WarmStart(PGD(LinfBall(0.1), steps=2), 24)
    bound = warm.bind(OBJECTIVE)
    assert (warm.objective, bound.objective) == (None, OBJECTIVE)
    assert bound.bind(SignedRedshift(BINS)).objective == OBJECTIVE
    assert bound.name == "warm PGD-2 0.1"
    assert bound.set == LinfBall(0.1)
    model, (x, ebv, z) = Small(), samples().tensors
    bound(model, x, z, (ebv,), index=SampleIndex(torch.arange(24)))
    assert warm.parameters is bound.parameters
    assert warm.parameters is not None


def test_it_tells_all_that_its_attack_tells():
    model, (x, ebv, z) = Small().eval(), samples().tensors
    attack = PGD(LinfBall(0.1), steps=2, objective=OBJECTIVE)
    warm = WarmStart(attack, 24)
    mine, its = (a.find(model, x, z, (ebv,)) for a in (warm, attack))
    assert same(tuple(mine), tuple(its))
    assert warm.parameters is None  # no index, nothing to remember
    batch = Batch(x, (ebv,), z, SampleIndex(torch.arange(24)))
    mixed(model, batch, warm, 1.0, None)
    found = warm.find(model, x, z, (ebv,), index=batch.index)
    assert found.value.mean() > its.value.mean()
    assert bool((found.size <= 1).all())
    assert found.parameters.shape == x.shape


def test_warm_steps_find_more_than_the_same_steps_from_zero():
    """Against a network that hardly changes, two steps per epoch become as strong as twenty."""
    model = TwoInputs().eval()
    x, ebv, z = samples(size=16).tensors
    attack = PGD(LinfBall(0.1), steps=2, step_size=0.2, objective=OBJECTIVE)
    warm = WarmStart(attack, 24)
    for _ in range(6):
        crafted, *_ = mix_adversarial(model, indexed(x, torch.arange(24), ebv, z), warm, 1.0)

    def loss(x):
        with torch.no_grad():
            return OBJECTIVE(model(x, ebv), z).mean().item()

    fresh = attack(model, x, z, context=(ebv,))
    strong = PGD(LinfBall(0.1), steps=20, step_size=0.2, objective=OBJECTIVE)
    gain = [loss(images) - loss(x) for images in (fresh, crafted, strong(model, x, z, (ebv,)))]
    assert gain[1] > 1.5 * gain[0]
    assert gain[1] > 0.97 * gain[2]
