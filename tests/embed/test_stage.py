"""The stages enrich and embed on a tiny storefront, as the command line runs them."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trialign.launch.cli import script

from trialign.config.compose import compose
from trialign.embed import encode
from trialign.embed.batches import PROGRESS, write_rows
from trialign.embed.image import OpenClipTower
from trialign.enrich.clip.model import build, save
from trialign.enrich.evidence import ItemInterests, write_interests
from trialign.errors import ConfigError, DataError, StageError
from trialign.manifest import Manifest
from trialign.stage import Stage

TINY = ["data.num_items=96", "data.num_users=40", "embed.text.dim=16", "embed.image.batch_size=16"]


def run(verb: str, folder: Path, *overrides: str) -> Stage:
    stage = script(verb)(compose(verb, [f"run={folder}", *TINY, *overrides]))
    assert isinstance(stage, Stage)
    return stage


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("stage")
    run("prepare", folder)
    return f"from.prepare={folder}"


def hashes(folder: Path) -> dict[str, str]:
    return {name: record["sha256"] for name, record in Manifest.read(folder / "embed").files.items()}


def test_nothing_is_made_where_nothing_is_asked_and_embed_does_not_wait_for_it(prepared: str, tmp_path: Path) -> None:
    assert run("enrich", tmp_path, prepared).read().files == {}
    run("embed", tmp_path / "other", prepared)
    assert set(Manifest.read(tmp_path / "other" / "embed").inputs) == {"prepare"}


def test_three_modalities_each_with_who_has_it(prepared: str, tmp_path: Path) -> None:
    counts = run("embed", tmp_path, prepared, "embed/collaborative=ppmi").counts
    assert set(counts) == {"text", "image", "collaborative"}
    assert counts["text"]["items"] == 96 > counts["image"]["items"] > 70
    ends = (".npy", ".present.npy")
    assert set(hashes(tmp_path)) == {f"{name}{end}" for name in counts for end in ends}


def test_embed_reads_the_small_clip_where_it_embeds_by_it(prepared: str, tmp_path: Path) -> None:
    short = ["enrich/clip=storefront", "enrich.clip.num_pairs=40", "enrich.clip.num_epochs=1", "runtime.progress=false"]
    made = run("enrich", tmp_path, prepared, *short)
    assert made.counts["clip"]["pairs"] == 36
    stage = run("embed", tmp_path, prepared, "embed/image=clip")
    assert stage.read().inputs["enrich"]["hash"] == made.read().hash
    assert stage.counts["image"]["notes"] == []
    joint = run("embed", tmp_path / "joint", prepared, f"from.enrich={tmp_path}", "embed/joint=clip")
    assert joint.read().inputs["enrich"]["hash"] == made.read().hash
    assert joint.counts["joint"]["items"] == 96
    assert run("enrich", tmp_path, prepared, *short).built is False


def test_the_small_clip_must_have_been_trained(prepared: str, tmp_path: Path) -> None:
    run("enrich", tmp_path, prepared)
    for modality in ("image", "joint"):
        with pytest.raises(ConfigError, match=f"{modality}.*does not exist") as raised:
            run("embed", tmp_path, prepared, f"embed/{modality}=clip")
        assert "enrich/clip=storefront" in raised.value.remedy
    assert not (tmp_path / "embed").exists(), "missed before texts are encoded"


def test_pictures_that_nobody_has_are_missed_before_texts_are_encoded(prepared: str, tmp_path: Path) -> None:
    shutil.copytree(Path(prepared.removeprefix("from.prepare=")) / "prepare", tmp_path / "bare" / "prepare")
    path = tmp_path / "bare" / "prepare" / "items.parquet"
    items = pq.read_table(path)
    nobody = pa.array([False] * items.num_rows)
    pq.write_table(items.set_column(items.column_names.index("has_image"), "has_image", nobody), path)
    bare = f"from.prepare={tmp_path / 'bare'}"
    with pytest.raises(DataError, match="none of 96 items has a picture") as raised:
        run("embed", tmp_path, bare)
    assert not (tmp_path / "embed").exists()
    followed = raised.value.remedy.removeprefix("set ")
    made = script("embed")(compose("embed", [f"run={tmp_path}", "embed.text.dim=16", bare, followed]))
    assert set(made.counts) == {"text"}


@pytest.mark.parametrize("made", [False, True])
def test_interests_that_nobody_has_are_missed_before_texts_are_encoded(
    prepared: str, tmp_path: Path, made: bool
) -> None:
    folder = run("enrich", tmp_path, prepared).folder
    if made:
        write_interests(folder, [ItemInterests(failure="no answer")] * 96)
    with pytest.raises(DataError if made else ConfigError, match="interests"):
        run("embed", tmp_path, prepared, "embed.interests=true")
    assert not (tmp_path / "embed").exists()


def test_a_checkpoint_with_other_content_is_another_checkpoint(prepared: str, tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "other")):
        save(build("trialign-tiny", None, seed, "embed.image")[0], "trialign-tiny", tmp_path / name)
    named = f"embed.image.model=local-dir:{tmp_path / 'one'}"
    assert run("embed", tmp_path, prepared, named).built
    assert not run("embed", tmp_path, prepared, named).built
    weights = "open_clip_model.safetensors"
    shutil.copyfile(tmp_path / "other" / weights, tmp_path / "one" / weights)
    with pytest.raises(StageError, match=r"source image\.model/open_clip_model\.safetensors has other bytes"):
        run("embed", tmp_path, prepared, named)


def test_an_interrupted_stage_goes_on_and_ends_in_the_same_bytes(
    prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("embed", tmp_path / "whole", prepared)
    rows, asked = OpenClipTower.rows, []

    def interrupted(self, images, item_keys, *, skip):  # type: ignore[no-untyped-def]
        for number, batch in enumerate(rows(self, images, item_keys, skip=skip)):
            if number == 2:
                raise KeyboardInterrupt
            yield batch

    def watched(self, images, item_keys, *, skip):  # type: ignore[no-untyped-def]
        asked.append(skip)
        yield from rows(self, images, item_keys, skip=skip)

    monkeypatch.setattr(encode, "write_rows", functools.partial(write_rows, seconds_between_saves=0.0))
    monkeypatch.setattr(OpenClipTower, "rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("embed", tmp_path / "cut", prepared)
    assert json.loads((tmp_path / "cut" / "embed" / f"image{PROGRESS}").read_text()) == {"rows": 32}
    monkeypatch.setattr(OpenClipTower, "rows", watched)
    run("embed", tmp_path / "cut", prepared)
    assert asked == [32]
    assert hashes(tmp_path / "cut") == hashes(tmp_path / "whole")


def test_leftovers_of_other_settings_are_not_taken_over(
    prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = OpenClipTower.rows

    def interrupted(self, images, item_keys, *, skip):  # type: ignore[no-untyped-def]
        yield next(rows(self, images, item_keys, skip=skip))
        raise KeyboardInterrupt

    monkeypatch.setattr(encode, "write_rows", functools.partial(write_rows, seconds_between_saves=0.0))
    with monkeypatch.context() as patch:
        patch.setattr(OpenClipTower, "rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("embed", tmp_path / "cut", prepared)
    run("embed", tmp_path / "cut", prepared, "embed.image.seed=1")
    run("embed", tmp_path / "whole", prepared, "embed.image.seed=1")
    assert hashes(tmp_path / "cut") == hashes(tmp_path / "whole")
