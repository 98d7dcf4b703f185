"""IRNet's loss against the plain way, its gradients, and the batch split over processes."""

import pytest
import torch
from plain.irnet import path_index, plain_losses
from wsis.methods.irnet import losses
from wsis.methods.irnet.losses import pair_sums, relation_losses


def inputs(seed=0, count=3, size=(6, 8), dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 1, *size, generator=generator, dtype=dtype)
    displacement = torch.randn(count, 2, *size, generator=generator, dtype=dtype)
    choice = torch.tensor([0, 0, 1, 2, 255], dtype=torch.uint8)
    labels = choice[torch.randint(5, (count, *size), generator=generator)]
    return logits.requires_grad_(), displacement.requires_grad_(), labels


@pytest.mark.parametrize("pairs_at_once", [1, 1 << 21])
def test_equals_the_plain_way(monkeypatch, pairs_at_once):
    monkeypatch.setattr(losses, "_PAIRS_ON_CPU", pairs_at_once)
    logits, displacement, labels = inputs()
    index = path_index((6, 8), radius=3)
    expected = plain_losses(logits, displacement, labels, radius=3, index=index)
    wanted = torch.autograd.grad(sum(expected.values()), (logits, displacement))
    found = relation_losses(logits, displacement, labels, radius=3)
    got = torch.autograd.grad(sum(found.values()), (logits, displacement))
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name].double(), expected[name], atol=1e-6, rtol=1e-5)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-5)


def test_gradcheck():
    logits, displacement, labels = inputs(count=1, size=(4, 6))

    def terms(boundary, field):
        return pair_sums(boundary, field, labels, radius=2)[0]

    assert torch.autograd.gradcheck(terms, (logits[:, 0].sigmoid(), displacement))


@pytest.mark.parametrize("label", [255, 0, 4])
def test_missing_kinds_of_pairs_give_zero(label):
    logits, displacement, _ = inputs()
    labels = torch.full((3, 6, 8), label, dtype=torch.uint8)
    found = relation_losses(logits, displacement, labels, radius=3)
    sum(found.values()).backward()
    present = {255: "none", 0: "background", 4: "foreground"}[label]
    for name, value in found.items():
        assert torch.isfinite(value)
        assert (value > 0) == name.endswith(present), name
    assert torch.isfinite(logits.grad).all()


def test_a_map_without_sources_and_no_images():
    for count, size in ((2, (2, 9)), (0, (8, 8))):
        logits, displacement, labels = inputs(count=count, size=size)
        found = relation_losses(logits, displacement, labels, radius=4)
        assert all(value == 0 for value in found.values())
        sum(found.values()).backward()


def test_no_gradient_is_kept_where_none_is_wanted():
    logits, displacement, labels = inputs()
    with torch.no_grad():
        terms, _ = pair_sums(logits[:, 0].sigmoid(), displacement, labels, radius=3)
    assert not terms.requires_grad
    half = relation_losses(logits.detach().half(), displacement.detach().half(), labels, radius=3)
    full = relation_losses(logits.detach(), displacement.detach(), labels, radius=3)
    for name in full:
        torch.testing.assert_close(half[name], full[name], atol=5e-3, rtol=5e-3)


def _share(rank, meet):
    """Loss and gradient of one process, averaged over both as data-parallel training does."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meet}", rank=rank, world_size=2
    )
    logits, displacement, labels = inputs(seed=5, count=4)
    mine = slice(0, 3) if rank == 0 else slice(3, 4)
    found = relation_losses(logits[mine], displacement[mine], labels[mine], radius=3)
    total = sum(found.values())
    made = torch.cat([total.detach()[None], torch.autograd.grad(total, logits)[0].flatten()]) / 2
    torch.distributed.all_reduce(made)
    torch.distributed.destroy_process_group()
    return made[0], made[1:].view_as(logits)


def test_two_processes_give_the_loss_of_the_joint_batch(tmp_path):
    meet = tmp_path / "meet"
    other = torch.multiprocessing.get_context("spawn").Process(target=_share, args=(1, meet))
    other.start()
    total, gradient = _share(0, meet)
    other.join()
    assert other.exitcode == 0
    logits, displacement, labels = inputs(seed=5, count=4)
    expected = sum(relation_losses(logits, displacement, labels, radius=3).values())
    expected.backward()
    assert abs(total - expected.item()) < 1e-5
    torch.testing.assert_close(gradient, logits.grad, atol=1e-7, rtol=1e-5)
