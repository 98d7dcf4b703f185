"""IRNet's loss against the plain way, its gradients, and the batch split over processes."""

import pytest
import torch
from plain.irnet import plain_losses, plain_path_index
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
    expected = plain_losses(logits, displacement, labels, radius=3, index=plain_path_index(6, 8, 3))
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


def _worker(rank, world, folder, queue):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    logits, displacement, labels = inputs(seed=5, count=4)
    mine = slice(0, 3) if rank == 0 else slice(3, 4)
    found = relation_losses(logits[mine], displacement[mine], labels[mine], radius=3)
    total = sum(found.values())
    gradient = torch.autograd.grad(total, logits)[0] / world  # as data-parallel training averages
    torch.distributed.all_reduce(gradient)
    total = total.detach() / world
    torch.distributed.all_reduce(total)
    if rank == 0:
        queue.put((total.item(), gradient.tolist()))
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_loss_of_the_joint_batch(tmp_path):
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    workers = [context.Process(target=_worker, args=(r, 2, tmp_path, queue)) for r in range(2)]
    for worker in workers:
        worker.start()
    total, gradient = queue.get()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    logits, displacement, labels = inputs(seed=5, count=4)
    expected = sum(relation_losses(logits, displacement, labels, radius=3).values())
    expected.backward()
    assert abs(total - expected.item()) < 1e-5
    torch.testing.assert_close(torch.tensor(gradient).double(), logits.grad, atol=1e-7, rtol=1e-5)
