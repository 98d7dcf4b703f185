"""A resumed training computes, bit for bit, what an unbroken one computes."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from wsis.data.artifacts import ProductReader
from wsis.data.mappers import build_mapper
from wsis.engine.checkpoint import build_network
from wsis.engine.manifest import Images
from wsis.engine.pipeline import load_pipeline
from wsis.engine.trainer import KeepBest, Trainer, build_train_loader
from wsis.errors import DataError, MachineError, UsageError, WSISError
from wsis.stopping import Terminated

from tests.tiny import PIPELINE, TINY, train_net_forked

LAST = 5  # iterations of every training here
# What each stage adds to the tiny settings; every one clips gradients and has momentum.
STAGES = {
    "classifier": [],
    "relation_network": [],
    "mask_rcnn": ["SOLVER.STEPS", "(2,4)", "SOLVER.WARMUP_ITERS", "2"],
}


class Stopped(Exception):
    """Stands for a kill between two iterations."""


@pytest.fixture
def trainer_of(shapes_root, tiny_run, tmp_path, monkeypatch):
    """``(folder, stage, *overrides) -> Trainer``, with what it needs from the finished run."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes_root))

    def build(folder, stage, *overrides):
        words = [word for pair in TINY for word in pair]
        words += ["MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", str(LAST), *STAGES[stage]]
        words += ["OUTPUT_DIR", str(tmp_path / folder), *map(str, overrides)]
        (planned,) = load_pipeline(PIPELINE, words).select(stage=stage)
        planned.folder.mkdir(parents=True, exist_ok=True)
        labels = ProductReader(tiny_run / "3_inter_pixel_label", "inter_pixel_label")
        products = {"inter_pixel_label": labels}
        mapper = build_mapper(planned.cfg, planned.stage.mapper, is_train=True, products=products)
        return Trainer(
            planned.cfg, Images().named(planned.cfg.DATASETS.TRAIN), mapper=mapper, weights=""
        )

    return build


def train(trainer, *, stop_after=None, rates=None):
    """Resume and train; stop between iterations where told."""
    trainer.resume_or_load()
    original = trainer.run_step

    def run_step():
        if trainer.iter == stop_after:
            raise Stopped
        if rates is not None:
            rates.append(trainer.optimizer.param_groups[0]["lr"])
        original()

    trainer.run_step = run_step
    trainer.train()
    return trainer


def signalled(trainer, iteration, *numbers):
    """Send signals to this process in the middle of an iteration."""
    original = trainer._inner.run_step

    def run_step():
        original()
        if trainer.iter == iteration:
            for number in numbers:
                signal.raise_signal(number)

    trainer._inner.run_step = run_step
    return trainer


def flat(value, prefix=""):
    """Leaves of nested dicts and lists."""
    if isinstance(value, dict):
        return {k: v for key, e in value.items() for k, v in flat(e, f"{prefix}.{key}").items()}
    if isinstance(value, list | tuple):
        return flat(dict(enumerate(value)), prefix)
    return {prefix: value}


def assert_same(one, other):
    one, other = flat(one), flat(other)
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[key]), key
        else:
            assert value == other[key], key


@pytest.mark.parametrize(
    ("stage", "stop"),
    [
        ("classifier", 1),
        ("classifier", 4),
        ("relation_network", 3),
        ("mask_rcnn", 1),
        ("mask_rcnn", 3),
    ],
)
def test_resumed_equals_unbroken(trainer_of, stage, stop):
    rates, resumed_rates = [], []
    unbroken = train(trainer_of("unbroken", stage), rates=rates)
    period = ("SOLVER.CHECKPOINT_PERIOD", stop)
    with pytest.raises(Stopped):
        train(trainer_of("broken", stage, *period), stop_after=stop, rates=resumed_rates)
    torch.rand(7)  # what the process drew in between must not matter
    resumed = train(trainer_of("broken", stage, *period), rates=resumed_rates)
    assert resumed.start_iter == stop
    assert resumed_rates == rates
    assert len(set(rates)) > 2, "the schedule must move, or this shows little"
    assert_same(resumed.model.state_dict(), unbroken.model.state_dict())
    assert_same(resumed.optimizer.state_dict(), unbroken.optimizer.state_dict())
    kernels = [parameter for parameter in resumed.model.parameters() if parameter.ndim == 4]
    assert all(k.is_contiguous(memory_format=torch.channels_last) for k in kernels)
    momenta = [state["momentum_buffer"] for state in resumed.optimizer.state.values()]
    assert any(momentum.abs().sum() > 0 for momentum in momenta)


def test_weights_lie_in_memory_as_their_gradients_do(trainer_of, monkeypatch):
    """Else torch warns of it in several processes, as of depthwise kernels; 5 dimensions stay."""
    image = torch.ones(2, 4, 5, 5).contiguous(memory_format=torch.channels_last)

    def build(cfg):
        model = build_network(cfg)
        model.volume = torch.nn.Conv3d(2, 2, 3)
        model.kernels = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, groups=4))
        return model

    monkeypatch.setattr("wsis.engine.trainer.build_network", build)
    model = trainer_of("layouts", "classifier").model
    model.kernels(image).sum().backward()
    assert model.kernels[0].weight.grad.stride() == model.kernels[0].weight.stride()
    assert model.volume.weight.is_contiguous()


@pytest.mark.parametrize("schedule", ["WarmupMultiStepLR", "WarmupCosineLR"])
def test_an_extended_training_follows_the_longer_schedule(trainer_of, schedule):
    words = ("SOLVER.LR_SCHEDULER_NAME", schedule, "SOLVER.WARMUP_ITERS", 0)
    rates, unbroken_rates = [], []
    unbroken = train(trainer_of("a", "mask_rcnn", *words), rates=unbroken_rates)
    train(trainer_of("b", "mask_rcnn", *words, "SOLVER.MAX_ITER", 3), rates=rates)
    extended = train(trainer_of("b", "mask_rcnn", *words), rates=rates)
    assert extended.start_iter == 3
    assert rates[3:] == unbroken_rates[3:]
    if schedule == "WarmupMultiStepLR":  # its rates do not depend on the end
        assert_same(extended.model.state_dict(), unbroken.model.state_dict())


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(
    ("iteration", "number", "stop"),
    [
        (0, signal.SIGINT, KeyboardInterrupt),  # before the first periodic checkpoint
        (1, signal.SIGTERM, Terminated),  # where there is a periodic one
        (2, signal.SIGTERM, Terminated),
        (LAST - 1, signal.SIGINT, KeyboardInterrupt),
    ],
)
def test_a_signal_saves_the_iteration_and_changes_nothing(trainer_of, iteration, number, stop):
    unbroken = train(trainer_of("unbroken", "classifier"))
    with pytest.raises(stop):
        train(signalled(trainer_of("broken", "classifier"), iteration, number))
    handler = signal.getsignal(number)
    assert handler in (signal.default_int_handler, signal.SIG_DFL)
    resumed = train(trainer_of("broken", "classifier"))
    assert resumed.start_iter == iteration + 1
    assert_same(resumed.model.state_dict(), unbroken.model.state_dict())
    assert_same(resumed.optimizer.state_dict(), unbroken.optimizer.state_dict())


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_signal_does_not_wait(trainer_of):
    with pytest.raises(KeyboardInterrupt):
        train(signalled(trainer_of("a", "classifier"), 2, signal.SIGINT, signal.SIGINT))
    resumed = train(trainer_of("a", "classifier"))
    assert resumed.start_iter == 2  # from the periodic checkpoint


def test_a_batch_in_parts_trains_the_same_network(trainer_of):
    seen, frozen = [], ("MODEL.RESNETS.NORM", "FrozenBN", "SOLVER.MOMENTUM", "0.9")
    whole = train(trainer_of("whole", "classifier", *frozen)).model.state_dict()
    parts = trainer_of("parts", "classifier", *frozen, "WSIS.SOLVER.ACCUMULATE", 2)
    parts.model.register_forward_hook(lambda module, given, _: seen.append(len(given[0])))
    found = train(parts).model.state_dict()
    assert seen == [1] * 2 * LAST
    for key, value in whole.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6)


def test_a_batch_is_taken_in_equal_parts(trainer_of):
    with pytest.raises(UsageError, match="2 images of a process cannot be taken in 3 equal parts"):
        trainer_of("parts", "classifier", "WSIS.SOLVER.ACCUMULATE", 3)


def test_running_statistics_move_and_come_back(trainer_of):
    fresh = trainer_of("a", "classifier")
    before = {k: v.clone() for k, v in fresh.model.state_dict().items() if "running_mean" in k}
    train(fresh)
    assert before
    after = fresh.model.state_dict()
    assert any(not torch.equal(value, after[key]) for key, value in before.items())
    again = trainer_of("a", "classifier")
    again.resume_or_load()
    assert again.start_iter == LAST
    assert_same(again.model.state_dict(), after)


def test_a_finished_training_only_writes_what_is_lost(trainer_of):
    trainer = train(trainer_of("a", "classifier"))
    final = trainer.checkpointer.newest_readable()
    assert final.name == "model_final.pth"
    before = torch.load(final, weights_only=True)
    final.unlink()
    train(trainer_of("a", "classifier", "SOLVER.CHECKPOINT_PERIOD", 5))
    assert_same(torch.load(final, weights_only=True)["model"], before["model"])


def test_old_checkpoints_are_deleted_across_interruptions(trainer_of):
    period = ("SOLVER.CHECKPOINT_PERIOD", 1)
    for stop in (2, 4):
        with pytest.raises(Stopped):
            train(trainer_of("a", "classifier", *period), stop_after=stop)
    trainer = train(trainer_of("a", "classifier", *period))
    names = [path.name for path in trainer.checkpointer.periodic_files()]
    assert names == ["model_0000003.pth", "model_0000004.pth"]


def test_order_and_augmentation_continue_where_they_stopped(trainer_of):
    trainer = trainer_of("a", "classifier")
    loader = trainer.loader
    whole = [sample for _, batch in zip(range(4), loader, strict=False) for sample in batch]
    loader.batches.start = 2
    rest = [sample for _, batch in zip(range(2), loader, strict=False) for sample in batch]
    assert [s["image_key"] for s in rest] == [s["image_key"] for s in whole[4:]]
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(rest, whole[4:], strict=True))


def test_divergence_names_iteration_and_images_in_one_line(trainer_of, monkeypatch):
    trainer = trainer_of("a", "classifier")
    original = type(trainer.model).forward

    def forward(self, batch):
        losses = original(self, batch)
        if trainer.iter == 2:
            losses = {key: value * float("nan") for key, value in losses.items()}
        return losses

    monkeypatch.setattr(type(trainer.model), "forward", forward)
    with pytest.raises(WSISError) as caught:
        train(trainer)
    stream = trainer.loader.stream
    keys = [stream.dataset_dicts[stream.index_at(p)]["image_key"] for p in (4, 5)]
    assert f"diverged at iteration 2 on images {', '.join(keys)}: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert trainer.checkpointer.newest_readable().name == "model_0000001.pth"


def test_memory_that_runs_out_is_told_with_the_images(trainer_of, monkeypatch):
    trainer = trainer_of("a", "classifier")

    def forward(self, batch):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(type(trainer.model), "forward", forward)
    with pytest.raises(MachineError) as caught:
        train(trainer)
    stream = trainer.loader.stream
    keys = [stream.dataset_dicts[stream.index_at(p)]["image_key"] for p in (0, 1)]
    said = str(caught.value)
    assert said.startswith(f"iteration 0 on images {', '.join(keys)}: out of memory (")
    assert "lower SOLVER.IMS_PER_BATCH, the total over all processes" in said
    assert "half of SOLVER.BASE_LR and twice SOLVER.MAX_ITER and SOLVER.STEPS" in said


def test_what_a_loader_refuses(trainer_of, monkeypatch):
    trainer = trainer_of("a", "classifier")
    stream = trainer.loader.stream
    cfg = load_pipeline(PIPELINE, ["SOLVER.IMS_PER_BATCH", "3"]).stages[0].cfg
    with pytest.raises(UsageError, match="no image to train on in shapes_train"):
        build_train_loader(cfg, [], stream.mapper)
    monkeypatch.setattr("wsis.engine.trainer.comm.get_world_size", lambda: 2)
    with pytest.raises(UsageError, match="IMS_PER_BATCH 3 is not divisible by 2"):
        build_train_loader(cfg, stream.dataset_dicts, stream.mapper)


def test_a_broken_image_stops_training_or_is_replaced(trainer_of):
    trainer = trainer_of("a", "classifier")
    stream = trainer.loader.stream
    original, broken = stream.mapper, stream.dataset_dicts[stream.index_at(1)]["image_key"]

    def mapper(sample):
        if sample["image_key"] == broken:
            raise DataError(f"{broken} is truncated")
        return original(sample)

    stream.mapper = mapper
    with pytest.raises(DataError, match=f"{broken} is truncated"):
        next(iter(trainer.loader))
    stream.skip_broken = True
    batch = next(iter(trainer.loader))
    assert len(batch) == 2
    assert broken not in [sample["image_key"] for sample in batch]


def test_two_processes_train_the_network_that_one_trains(shapes_root, tmp_path):
    """Up to the order of sums, without batch norm's statistics, which are each process's own."""
    frozen = (("MODEL.RESNETS.NORM", "FrozenBN"),)
    moves, finals = [], []
    for processes in (1, 2):
        arguments = ("--stage", "classifier", "--num-gpus", 0, "--num-processes", processes)
        output = tmp_path / str(processes)
        done = train_net_forked(*arguments, datasets=shapes_root, output=output, extra=frozen)
        assert done.returncode == 0, done.stderr
        states = [
            torch.load(output / "1_classifier" / name)["model"]
            for name in ("model_0000001.pth", "model_final.pth")
        ]
        half, final = (torch.cat([v.flatten() for v in state.values()]) for state in states)
        moves.append(final - half)
        finals.append(final)
    assert moves[0].abs().max() > 1e-4
    assert (finals[1] - finals[0]).abs().max() < 1e-3 * moves[0].abs().max()
    assert (moves[1] - moves[0]).norm() < 1e-3 * moves[0].norm()


def figures_of(values):
    """An evaluation that gives one value after another."""
    values = iter(values)

    def evaluate(model):
        assert not model.training
        metrics = {"AP50": next(values)}
        return [{"stage": "s", "dataset": "d", "protocol": "voc", "metrics": metrics}]

    return evaluate


def test_the_best_network_is_kept_and_training_is_not_disturbed(trainer_of, tmp_path):
    plain = train(trainer_of("plain", "classifier"))
    trainer = trainer_of("best", "classifier")
    evaluate = figures_of([3.0, float("nan"), 9.0])
    trainer.register_hooks([KeepBest(evaluate, 2, trainer.checkpointer)])
    seen = {}
    original = trainer.checkpointer.save

    def save(name, **options):
        seen[name] = {k: v.clone() for k, v in trainer.checkpointer.model.state_dict().items()}
        original(name, **options)

    trainer.checkpointer.save = save
    train(trainer)
    assert_same(plain.checkpointer.model.state_dict(), trainer.checkpointer.model.state_dict())
    folder = tmp_path / "best" / "1_classifier"
    best = json.loads((folder / "best.json").read_text())
    expected = {"iteration": 5, "figure": "AP50", "value": 9.0, "dataset": "d", "protocol": "voc"}
    assert best == expected  # at 2, at 4 (no number) and at the end
    stored = torch.load(folder / "model_best.pth", weights_only=True)["model"]
    assert_same(stored, seen["model_best"])
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"


def test_a_worse_network_does_not_replace_the_best(trainer_of, tmp_path):
    trainer = trainer_of("best", "classifier")
    hook = KeepBest(figures_of([5.0, 4.0, 1.0]), 2, trainer.checkpointer)
    trainer.register_hooks([hook])
    train(trainer)
    folder = tmp_path / "best" / "1_classifier"
    assert json.loads((folder / "best.json").read_text())["iteration"] == 2
    assert torch.load(folder / "model_best.pth", weights_only=True)["iteration"] == 1


def test_the_number_of_processes_scales_the_schedule_where_it_is_asked_for():
    words = ["SOLVER.REFERENCE_WORLD_SIZE", "8", "SOLVER.IMS_PER_BATCH", "16"]
    words += ["SOLVER.BASE_LR", "0.08", "SOLVER.MAX_ITER", "100"]
    cfg = load_pipeline(PIPELINE, words, num_processes=2).stages[0].cfg
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER) == (4, 400)
    assert pytest.approx(0.02) == cfg.SOLVER.BASE_LR
    plain = load_pipeline(PIPELINE, words[2:], num_processes=2).stages[0].cfg
    assert (plain.SOLVER.IMS_PER_BATCH, plain.SOLVER.MAX_ITER) == (16, 100)
    words[3] = "15"
    with pytest.raises(UsageError, match="not divisible by SOLVER.REFERENCE_WORLD_SIZE 8"):
        load_pipeline(PIPELINE, words, num_processes=2)
