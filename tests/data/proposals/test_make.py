"""Proposals of images of a data set: generated, converted, written in parallel and resumed."""

import json

import numpy as np
import pytest
from PIL import Image
from wsis.config import get_wsis_cfg
from wsis.data.artifacts import ArtifactFolder
from wsis.data.proposals import folder
from wsis.data.proposals.folder import images_in, write_proposals
from wsis.data.proposals.readers import ProposalSource, read_proposals
from wsis.data.proposals.store import proposals_from_artifact
from wsis.errors import DataError, UsageError
from wsis.stages import derive_proposals, proposal_source

from tests.data.proposals.files import masks_of, write
from tests.layers.test_segment_proposals import picture


@pytest.fixture
def images(tmp_path):
    for number in range(3):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(picture(number)[0]).save(tmp_path / "images" / f"p{number}.png")
    return images_in(tmp_path / "images")


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_folder_is_written_and_resumed(tmp_path, images):
    made = write_proposals(images, tmp_path / "a", source=ProposalSource())
    assert made["images"] == 3
    assert made["failed"] == {}
    whole = contents(tmp_path / "a")
    assert sorted(whole) == ["p0.npz", "p1.npz", "p2.npz", "proposals.json"]
    (tmp_path / "a" / "p1.npz").unlink()
    stamps = {name: (tmp_path / "a" / name).stat().st_mtime_ns for name in ("p0.npz", "p2.npz")}
    again = write_proposals(images, tmp_path / "a", source=ProposalSource(), jobs=1)
    assert (again["images"], again["before"]) == (1, 2)
    assert contents(tmp_path / "a") == whole
    for name, stamp in stamps.items():
        assert (tmp_path / "a" / name).stat().st_mtime_ns == stamp
    found = ArtifactFolder(tmp_path / "a")
    assert "p0" in found
    assert "q" not in found
    proposals = proposals_from_artifact(found["p0"], size=(64, 80))
    assert len(proposals) > 20


def test_other_settings_are_refused(tmp_path, images):
    write_proposals(images, tmp_path / "a", source=ProposalSource())
    cfg = get_wsis_cfg()
    cfg.WSIS.PROPOSALS.MAX_COUNT = 5
    with pytest.raises(UsageError, match="--force"):
        write_proposals(images, tmp_path / "a", source=proposal_source(cfg))
    write_proposals(images, tmp_path / "a", source=proposal_source(cfg), force=True)
    assert len(read_proposals(tmp_path / "a" / "p0.npz")) == 5


def test_a_forced_run_that_was_killed_mixes_nothing(tmp_path, images, monkeypatch):
    write_proposals(images, tmp_path / "a", source=ProposalSource())
    cfg = get_wsis_cfg()
    cfg.WSIS.PROPOSALS.MAX_COUNT = 5
    source = proposal_source(cfg)

    def killed(items, **_):
        yield next(iter(items))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(folder, "tqdm", killed)
        with pytest.raises(KeyboardInterrupt):
            write_proposals(images, tmp_path / "a", source=source, force=True)
    write_proposals(images, tmp_path / "a", source=source)
    assert [len(read_proposals(tmp_path / "a" / f"p{n}.npz")) for n in range(3)] == [5, 5, 5]


def test_conversion(tmp_path, images):
    masks = masks_of(size=(64, 80))
    for record in images:
        write(tmp_path / "mat", "mcg", masks).rename(
            tmp_path / "mat" / f"{record['image_key']}.mat"
        )
    source = ProposalSource(kind="mat", root=tmp_path / "mat")
    write_proposals(images, tmp_path / "a", source=source)
    found = read_proposals(tmp_path / "a" / "p2.npz")
    np.testing.assert_array_equal(found.regions.decode(), masks)
    (tmp_path / "mat" / "p1.mat").unlink()
    with pytest.raises(DataError, match="no proposals for image p1"):
        write_proposals(images, tmp_path / "b", source=source)
    left = write_proposals(images, tmp_path / "b", source=source, skip_errors=True)
    assert list(left["failed"]) == ["p1"]
    write(tmp_path / "mat", "mcg", masks_of()).rename(tmp_path / "mat" / "p1.mat")
    with pytest.raises(DataError, match="the image is .64, 80."):
        write_proposals(images, tmp_path / "b", source=source)


def test_the_stage_reads_its_config(tmp_path, images):
    cfg = get_wsis_cfg()
    made = derive_proposals(images[0], {}, cfg)
    write_proposals(images[:1], tmp_path / "a", source=ProposalSource())
    stored = ArtifactFolder(tmp_path / "a")["p0"]
    for name, value in made.items():
        np.testing.assert_array_equal(value, stored[name])
    cfg.WSIS.PROPOSALS.FORMAT, cfg.WSIS.PROPOSALS.ROOT = "npz", str(tmp_path / "a")
    cfg.WSIS.PROPOSALS.MAX_COUNT = 9
    few = proposals_from_artifact(derive_proposals(images[0], {}, cfg))
    expected = proposals_from_artifact(made).first(9).regions.decode()
    np.testing.assert_array_equal(few.regions.decode(), expected)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("FORMAT", "hdf", "must be one of generate, auto"),
        ("FORMAT", "mat", "is no folder"),
        ("MIN_AREA", 0, "min_area"),
    ],
)
def test_wrong_config_values_are_named(key, value, message):
    cfg = get_wsis_cfg()
    cfg.WSIS.PROPOSALS[key] = value
    with pytest.raises(UsageError, match=message):
        proposal_source(cfg)


def test_folders_without_images(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        images_in(tmp_path / "x")
    (tmp_path / "a.txt").touch()
    with pytest.raises(DataError, match="holds no image"):
        images_in(tmp_path)


def test_a_damaged_stamp_is_named(tmp_path, images):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "proposals.json").write_text("{")
    with pytest.raises(DataError, match=r"proposals\.json"):
        write_proposals(images, tmp_path / "a", source=ProposalSource())
    (tmp_path / "a" / "proposals.json").write_text(json.dumps({"kind": "mat"}))
    with pytest.raises(UsageError, match="made otherwise"):
        write_proposals(images, tmp_path / "a", source=ProposalSource())
