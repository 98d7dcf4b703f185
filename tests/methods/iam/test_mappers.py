import numpy as np
import pytest
import torch
from PIL import Image
from wsis.config import get_wsis_cfg
from wsis.data.mappers import build_mapper
from wsis.data.proposals.store import by_rank, proposals_artifact
from wsis.errors import DataError, UsageError
from wsis.layers.regions import Regions

SIZE = (40, 60)


@pytest.fixture
def cfg():
    cfg = get_wsis_cfg()
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.STRETCH = (32, 48)
    return cfg


@pytest.fixture
def masks():
    """Columns from the left, the whole picture, and an empty one."""
    masks = np.zeros((4, *SIZE), dtype=bool)
    masks[0, :, :15] = True
    masks[1, :20] = True
    masks[2] = True
    return masks


@pytest.fixture
def sample(tmp_path):
    pixels = np.zeros((*SIZE, 3), dtype=np.uint8)
    pixels[:, :15, 0] = 200
    Image.fromarray(pixels).save(tmp_path / "a1.png")
    known = {"image_key": "a1", "image_id": 1, "height": SIZE[0], "width": SIZE[1]}
    return known | {"file_name": str(tmp_path / "a1.png"), "image_labels": [2], "annotations": []}


def mapper_of(cfg, masks, *, is_train=True):
    artifact = proposals_artifact(by_rank(Regions.from_masks(masks)))
    return build_mapper(
        cfg, "FillingMapper", is_train=is_train, products={"proposals": {"a1": artifact}}
    )


def test_proposals_follow_their_image(cfg, masks, sample):
    mapper, seen = mapper_of(cfg, masks), set()
    for seed in range(12):
        np.random.seed(seed)  # noqa: NPY002
        out = mapper(sample)
        assert out["image"].shape == (3, 32, 48)
        assert out["image_labels"] == [2]
        assert "annotations" not in out
        prepared = out["proposals"]
        assert prepared.regions.size == (32, 48)
        bright = (out["image"][0] > 100).numpy()
        np.testing.assert_array_equal(prepared.regions.decode([0])[0], bright)
        assert prepared.valid.tolist() == [True, True, False]  # the whole picture is left out
        seen.add(bool(bright[0, 0]))
    assert seen == {True, False}
    assert mapper_of(cfg, masks, is_train=False)(sample)["image"][0, 0, 0] > 100


def test_options(cfg, masks, sample):
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.MODEL.IAM.SAMPLER.PROPOSAL_COUNT = 1
    assert len(mapper_of(cfg, masks)(sample)["proposals"].regions) == 1
    cfg.MODEL.IAM.SAMPLER.PROPOSAL_COUNT = 0
    cfg.MODEL.IAM.SAMPLER.SIZE_LIMITS = (0.3, 0.9)
    assert mapper_of(cfg, masks)(sample)["proposals"].valid.tolist() == [False, True, False]
    cfg.INPUT.STRETCH = (30, 44)
    plain = mapper_of(cfg, masks)(sample)["proposals"].regions.areas
    cfg.MODEL.IAM.SAMPLER.SHRINK = True
    shrunk = mapper_of(cfg, masks)(sample)["proposals"].regions.areas
    assert shrunk[0] < plain[0]
    assert shrunk[2] == plain[2] == 0


def test_images_without_proposals(cfg, masks, sample):
    out = mapper_of(cfg, masks[:0])(sample)
    assert len(out["proposals"].regions) == 0
    assert torch.is_tensor(out["image"])


def test_proposals_of_another_size(cfg, masks, sample):
    with pytest.raises(DataError, match=r"image a1.*proposals --force"):
        mapper_of(cfg, masks[:, :-1])(sample)


def test_bad_flip(cfg, masks):
    cfg.INPUT.RANDOM_FLIP = "vertical"
    with pytest.raises(UsageError, match="RANDOM_FLIP"):
        mapper_of(cfg, masks)
