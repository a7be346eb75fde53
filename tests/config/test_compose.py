"""Composition: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict
from trialign.launch.settings import markdown

from trialign.config import unknown
from trialign.config.compose import compose, conf_dir, to_config
from trialign.config.config import Config
from trialign.config.embed import EncoderConfig
from trialign.config.instantiate import create
from trialign.config.registry import SCHEMAS, register
from trialign.config.stages import identity_of, locate_stage, needed_by
from trialign.config.unknown import known_keys
from trialign.errors import ConfigError
from trialign.generate.tasks import TASKS
from trialign.manifest import flatten

RUN = "run=/tmp/unused"
GROUP_FILES = sorted(
    (path.parent.relative_to(conf_dir()).as_posix(), path.stem)
    for path in conf_dir().rglob("*.yaml")
    if path.parent != conf_dir() and "experiment" not in path.relative_to(conf_dir()).parts
)
EXPERIMENTS = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))


@pytest.mark.parametrize(("group", "choice"), GROUP_FILES)
def test_every_yaml_composes(group: str, choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIALIGN_DATA", "/somewhere")
    files = {
        "interjson": ["data.interactions=a", "data.items=b"],
        "tables": ["data.events=a", "data.items=b"],
        "examples": ["data.train=a", "data.validation=b", "data.test=c", "data.items=d"],
        "from_config": ["train.backbone.file=a"],
        "pretrained": ["train.backbone.model=a"],
        "trialigngr8": ["enrich/captions=catalogue"],
        "lora": ["train/backbone=pretrained", "train.backbone.model=a"],
        "enrich/captions=builtin": ["enrich/clip=storefront"],
        **{
            f"enrich/{made}={backend}": [f"enrich.{made}.model=a"]
            for made in ("captions", "interests")
            for backend in ("endpoint", "transformers")
        },
        **{f"reward/judge={backend}": ["reward.judge.model=a"] for backend in ("endpoint", "transformers")},
    }
    chosen = f"{group}={choice}"
    more = files.get(choice, files.get(chosen, []))
    assert compose("pipeline", [RUN, chosen, *more]).run == Path("/tmp/unused")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_variant_of_every_experiment_composes(name: str) -> None:
    composed = [compose_variant(name, variant) for variant in variants_of(name)]
    for config, variant in zip(composed, variants_of(name), strict=True):
        assert config.run.name == ("rl_filter-0" if name == "rl_filter" else f"{variant}-0")
        assert {place.name for place in config.from_stage.values()} - {"start-0"} == {"shared"}
    # What variants share is made by one config.
    for verb in composed[0].from_stage if composed else ():
        assert len({repr(identity_of(verb, config)) for config in composed}) == 1


def test_every_variant_is_one_of_an_experiment() -> None:
    listed = {variant for name in EXPERIMENTS for variant in variants_of(name)}
    alone = {"enriched8_tokens", "enriched9", "catalogue", "catalogue_enriched"}  # typed for experiment=storefront
    assert {path.stem for path in (conf_dir() / "experiment" / "variant").glob("*.yaml")} == listed | alone
    for variant in alone:
        compose_variant("storefront", variant)


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("storefront_no_style", "data.style_weight", 0.0),
        ("storefront_no_purpose", "data.purpose_weight", 0.0),
        ("storefront_captions_permuted", "enrich.shuffle_captions", 0),
    ],
)
def test_a_control_differs_from_the_storefront_in_one_setting_and_shares_nothing_it_decides(
    name: str, setting: str, value: float
) -> None:
    for variant in variants_of(name):
        control, default = compose_variant(name, variant), compose_variant("storefront", variant)
        found, usual = flatten(control.identity), flatten(default.identity)
        assert {key: found[key] for key in found if found[key] != usual[key]} == {setting: value}
        decided = "prepare" if setting.startswith("data") else "enrich"
        assert control.run != default.run
        assert control.from_stage[decided] != default.from_stage[decided]


def variants_of(experiment: str) -> list[str]:
    """Return the variants that an experiment sweeps over; of most none."""
    params = compose_tree(experiment).hydra.sweeper.get("params") or {}
    return str(params["experiment/variant"]).split(",") if params else []


def compose_variant(experiment: str, variant: str) -> Config:
    tree = compose_tree(experiment, f"experiment/variant={variant}")
    HydraConfig.instance().set_config(tree)
    with open_dict(tree):
        del tree["hydra"]
    return to_config(tree)


def compose_tree(experiment: str, *more: str) -> DictConfig:
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra_compose("pipeline", [f"experiment={experiment}", *more], return_hydra_config=True)


def test_every_file_of_a_group_builds_on_a_schema() -> None:
    """A YAML whose keys are not checked by a schema would let a typo through."""
    for group, schemas in SCHEMAS.items():
        for path in (conf_dir() / group).glob("*.yaml"):
            content = yaml.safe_load(path.read_text()) or {}
            bases = [entry for entry in content.get("defaults", []) if isinstance(entry, str)]
            inherits = any(entry in schemas or (path.parent / f"{entry}.yaml").exists() for entry in bases)
            assert inherits, f"{path} builds on no schema of {sorted(schemas)}"
            assert path.stem not in schemas, f"{path} hides the schema of its name"
            assert content.keys() != {"defaults"} or len(content["defaults"]) > 2, f"{path} says nothing"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("assign.policy=sufix", "did you mean 'suffix'"),
        ("runtime.strategy=zero9", "did you mean 'zero"),
        ("assign.extend=a assign.index=b", "name that run with assign.extend"),
        ("sede=1", "did you mean 'seed'"),
        ("quantize.codebok_size=8", "did you mean 'quantize.codebook_size'"),
        ("train.backbone.hidden_sise=8", "did you mean 'train.backbone.hidden_size'"),
        ("from.embd=x", "did you mean 'from.embed'"),
        ("quantize.codebook_size=many", "quantize.codebook_size"),
        ("seed=first", "seed"),
        ("quantize=faiss", "rkmeans"),
        ("experiment=quickstrat", "quickstart"),
        ("evaluate.split=tset", "did you mean 'test'"),
        ("stream.global_batch_size=30", "micro_batch_size = 8"),
        ("evaluate.num_beams=10", "num_beams=50"),
        ("data.buckets=10", "16"),
        ("quantize.codebook_size=1", "at least 2"),
        ("train.tasks.titel_to_item=1", "did you mean 'train.tasks.title_to_item'"),
        ("train/tasks=text7", "text6"),
        ("train.tasks.title_to_item=-1", "set train.tasks.title_to_item=0"),
        ("train.tasks.title_to_item=nan", "set train.tasks.title_to_item=0"),
        ("train/tasks=trialigngr8", "from.enrich=DIR"),
        ("train.mixture=temprature", "did you mean 'temperature'"),
        ("train.temperature=2", "train.mixture=temperature"),
        ("train.mixture=temperature train.temperature=0", "train.temperature is above 0"),
        ("nonsense", "key=value"),
        ("train.backbone.hidden_size=64 train/backbone=pretrained", "choose train/backbone=scratch"),
        ("train/backbone=pretrained train.backbone.hiden_size=64", "a setting of train/backbone=scratch?"),
        ("train.lora.rank=4", "choose train/lora=lora"),
        ("embed/text=none embed.text.model=a", "embed/text=transformers"),
        (
            "data.colums.user=u",
            "'data.columns.user', a setting of data=tables or data=examples or data=movielens_posters",
        ),
        ("data=tables data.colums.user=u", "did you mean 'data.columns.user'?"),
        ("experimet=beauty", "did you mean 'experiment'?"),
        ("embed/txt=tfidf", "did you mean 'embed/text'?"),
        ("epochs=3", "did you mean 'train.epochs' or"),
        ("train.optimizer.lr=1", "train.learning_rate"),
        ("report.runs=a", "report.runs is a list, 'report.runs=[A,B]'"),
        ("train.precision=[a,b]", "train.precision is a text"),
        ("+train.foo=1", "unknown setting 'train.foo'"),
        ("++data.foo=1", "unknown setting 'data.foo'"),
        ("~train", "leave ~train out"),
        ("from.prepare=s3://bucket/run", "mount s3 as a folder"),
        ("data=tables data.root=gs://b data.events=e data.items=i", "data.root=gs://b is an address, not a path"),
        ("data=tables data.root=a data.events=[e,https://h/f] data.items=i", "data.events=https://h/f"),
        ("report.runs=[hdfs://a]", "report.runs=hdfs://a"),
        ("train.rl_holdout=1", "train.rl_holdout is at least 0 and below 1"),
        ("rl.validation.num_beams=49", "set rl.validation.num_beams=50"),
        ("enrich.shard=2 enrich.shards=2", "set enrich.shard between 0 and 1"),
        ("train.tasks.title_to_item=inf", "set train.tasks.title_to_item=0"),
        ("data.memory=lots", "set data.memory=2GB"),
        ("data.cut_shares=[0.9,0.9]", "the first below the second"),
        ("train.betas=[0.9]", "set 'train.betas=[0.9,0.98]'"),
    ],
)
def test_a_mistake_is_refused_with_the_way_out(override: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose("train", [RUN, *override.split()])
    assert told in str(caught.value), str(caught.value)


def test_a_task_whose_weight_was_forgotten_is_no_misspelled_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red: did you mean 'train.tasks.title_to_item'?"""
    (tmp_path / "title_to_brand.py").touch()
    monkeypatch.setattr(unknown, "_TASKS", tmp_path)
    with pytest.raises(ConfigError, match=r"TasksConfig has no field title_to_brand(.|\n)*in trialign/config/train.py"):
        compose("train", [RUN, "train.tasks.title_to_brand=1"])


def test_an_address_as_the_run_is_no_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for run in ("s3://bucket/run", "S3://bucket", "file:///tmp/run"):
        with pytest.raises(ConfigError, match="is an address, not a path"):
            compose("train", [f"run={run}"])
    assert list(tmp_path.iterdir()) == []
    assert compose("enrich", [RUN, "enrich/captions=endpoint", "enrich.captions.model=a"]).enrich.captions.url


def test_no_refusal_is_long() -> None:
    for override in ("experimet=beauty", "foo/bar=baz", "zzz=1", "a.b.c=1", "train=zzz", "data=zzz"):
        with pytest.raises(ConfigError) as caught:
            compose("train", [RUN, override])
        assert len(str(caught.value)) < 1200, len(str(caught.value))


def test_sets_of_tasks_and_single_weights() -> None:
    def on(*overrides: str) -> dict[str, float]:
        tasks = vars(compose("train", [RUN, "from.enrich=/tmp", *overrides]).train.tasks)
        return {name: weight for name, weight in tasks.items() if weight}

    assert set(vars(compose("train", [RUN]).train.tasks)) == set(TASKS)
    assert list(on("train/tasks=history")) == ["history_to_item"]
    assert [len(on(f"train/tasks={name}")) for name in ("text3", "text6", "trialigngr8")] == [3, 6, 8]
    weighted = on("train/tasks=text6", "train.tasks.titles_to_title=0.25", "train.tasks.item_to_caption=1")
    assert weighted == {**on("train/tasks=text6"), "titles_to_title": 0.25, "item_to_caption": 1}


def test_enrich_is_read_only_where_captions_are() -> None:
    for verb in ("train", "evaluate"):
        assert "enrich" not in needed_by(verb, compose(verb, [RUN, "train/tasks=text6"]))
        assert "enrich" in needed_by(verb, compose(verb, [RUN, "train/tasks=trialigngr8", "from.enrich=/tmp"]))
    assert "enrich" in needed_by("evaluate", compose("evaluate", [RUN, "enrich/interests=builtin"]))
    without = ["train/tasks=trialigngr8", "train.tasks.caption_to_item=0", "train.tasks.caption_to_title=0"]
    assert "enrich" not in needed_by("train", compose("train", [RUN, *without]))


def test_a_run_directory_must_be_named() -> None:
    with pytest.raises(ConfigError, match="run=runs/first"):
        compose("train", [])


def test_an_appended_root_key_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown setting 'sed'"):
        compose("train", [RUN, "+sed=1"])


def test_what_cannot_change_the_numbers_is_not_part_of_the_identity() -> None:
    plain = compose("train", [RUN])
    other = compose(
        "train", [RUN, "stream.workers=2", "runtime.micro_batch_size=4", "evaluate.batch_size=7", "runtime.devices=2"]
    )
    assert plain.identity == other.identity
    assert plain.identity["train"] != compose("train", [RUN, "train.learning_rate=1"]).identity["train"]


def test_data_root_does_not_belong_to_the_identity() -> None:
    here, there = (compose("prepare", [RUN, "data=scientific", f"data.root={root}"]) for root in ("/a", "/b"))
    assert here.identity["data"] == there.identity["data"]


def test_from_takes_a_run_or_a_stage_folder(tmp_path: Path) -> None:
    empty: dict[str, object] = {
        key: {} for key in ("config", "inputs", "lineage", "sources", "counts", "files", "versions")
    }
    empty |= {"stage": "embed", "hash": "", "seconds": 0.0, "created": "", "revision": "", "format": 2}
    (tmp_path / "embed").mkdir()
    (tmp_path / "embed" / "manifest.json").write_text(json.dumps(empty))
    for given in (tmp_path, tmp_path / "embed"):
        config = compose("quantize", [RUN, f"from.embed={given}"])
        assert locate_stage(config, "embed") == tmp_path / "embed"
    (tmp_path / "embed" / "embed").mkdir()
    (tmp_path / "embed" / "embed" / "manifest.json").write_text(json.dumps(empty))
    config = compose("quantize", [RUN, f"from.embed={tmp_path}/embed"])
    assert locate_stage(config, "embed") == tmp_path / "embed" / "embed"  # of a run that is called embed


def test_a_run_in_the_home_folder_lies_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = compose("train", ["run=~/runs/one", "from.embed=~/runs/other"])
    assert config.run == tmp_path / "runs" / "one"
    assert config.from_stage == {"embed": tmp_path / "runs" / "other"}


def test_the_control_of_reinforcement_asks_for_no_rewards() -> None:
    wanted = [RUN, "rl.rewards.quality_item=1", "train.rl_holdout=0.2"]
    assert "reward" in needed_by("rl", compose("rl", wanted))
    assert "reward" not in needed_by("rl", compose("rl", [*wanted, "rl.objective=sft"]))


def test_the_page_of_settings_is_the_schemas() -> None:
    page = (conf_dir().parent / "docs" / "configuration.md").read_text()
    assert page == markdown(), "run `make docs`"
    for key in known_keys():
        group = key.rsplit(".", 1)[0]
        if "." in key and not key.endswith("_target_") and not key.startswith("from."):
            assert f"`{key}`" in page or f"`{group}`" in page, f"{key} has no line"


def test_what_is_wrong_with_a_class_from_outside_is_named() -> None:
    def outside(target: str, **settings: object) -> EncoderConfig:
        found = EncoderConfig(target)
        vars(found).update(settings)
        return found

    stage = partial(outside, "trialign.config.verbs.StageSpec", help="", inputs=())
    assert create(stage(groups=()), "embed.text").inputs == ()
    with pytest.raises(ConfigError, match="did you mean 'groups'"):
        create(stage(group=()), "embed.text")
    with pytest.raises(ConfigError, match=r"embed\.text lacks groups"):
        create(stage(), "embed.text")
    with pytest.raises(ConfigError, match="cannot be imported"):
        create(outside("trialign.nowhere.Thing"), "embed.text")


@pytest.mark.parametrize("override", ["data.delimiter=;", "data.events=log[1].csv"])
def test_a_value_that_needs_quotes_is_told_so(override: str) -> None:
    with pytest.raises(ConfigError) as raised:
        compose("prepare", ["run=runs/x", "data=tables", "data.items=items.csv", override])
    assert override in raised.value.value
    assert "quotes" in raised.value.rule
