"""Compose YAML files and overrides into one typed, resolved `Config`.

Hydra composes; this module returns plain Python. Stages see dataclasses, never OmegaConf.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException, ValidationError

from trialign.config.bounds import check_bounds
from trialign.config.checks import check
from trialign.config.config import Config
from trialign.config.option import recorded, unhashed
from trialign.config.registry import BASE, BASES, OPTIONAL, SCHEMAS, register
from trialign.config.taken import Taken, taken_for, takes
from trialign.config.typed import as_typed
from trialign.config.unknown import typed_remedy, unknown_setting
from trialign.errors import ConfigError, suggest
from trialign.foreign import Json
from trialign.manifest import flatten

log = logging.getLogger(__name__)

_ROOT = ("run", "seed", "rebuild", "from")
_MAY_HOLD_ADDRESSES = ("cluster.", "enrich.captions.extra.", "enrich.interests.extra.", "reward.judge.extra.")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def conf_dir() -> Path:
    """Return the folder of the YAML files: `conf/` of a checkout, or its copy inside an installed wheel."""
    import trialign.conf  # setuptools maps conf/ to it

    return Path(trialign.conf.__path__[0])


def compose(verb: str, overrides: Sequence[str] = ()) -> Config:
    """Compose the config of a verb, as `trialign VERB OVERRIDES` does.

    Raises:
        ConfigError: an override is mistyped, of a wrong type, or in conflict with another.
    """
    try:
        words = as_typed(overrides)
        tree, taken = _composed(verb, words)
        if taken.words:
            tree = _composed_with(verb, [*words, *taken.words])
        if told := taken.told(tree):
            log.info(told)
        return to_config(tree)
    except (HydraException, OmegaConfBaseException) as cause:
        raise readable(cause) from cause
    except AssertionError as cause:
        raise readable_below_none(cause, overrides) from None


def words_of_run(verb: str, overrides: Sequence[str]) -> Taken:
    """Return the settings that `trialign VERB OVERRIDES` takes from its run; none if Hydra refuses or sweeps them."""
    if not takes(verb):
        return Taken()
    try:
        return _composed(verb, overrides)[1]
    except (HydraException, OmegaConfBaseException, AssertionError):
        return Taken()


def _composed(verb: str, overrides: Sequence[str]) -> tuple[DictConfig, Taken]:
    """Compose a verb's config; return it, and the settings to take from its run, which it does not have yet.

    Hydra may refuse the overrides together with those settings: the caller says so.
    """
    with _conf():

        def load(further: Sequence[str]) -> DictConfig:
            return hydra_compose(verb, [*overrides, *further], return_hydra_config=True)

        tree = load([])
        taken = taken_for(verb, tree, load)
    with open_dict(tree):
        del tree["hydra"]
    return tree, taken


def _composed_with(verb: str, overrides: Sequence[str]) -> DictConfig:
    with _conf():
        return hydra_compose(verb, list(overrides))


def to_config(tree: DictConfig) -> Config:
    """Convert a composed DictConfig into a `Config`; check the bounds of each value and the rules between them.

    Raises:
        ConfigError: a mandatory value is missing, a key is unknown, a value out of its bounds, or a rule broken.
    """
    _refuse_strays(tree)
    if OmegaConf.is_missing(tree, "run"):  # first: other settings interpolate it
        raise ConfigError(
            "no run directory",
            rule="a setting without a default must be given",
            remedy="add run=DIR, e.g. run=runs/first",
        )
    try:
        OmegaConf.resolve(tree)
        _refuse_addresses(tree)
        _complete(tree)
        check_bounds(tree)
        values: dict[str, Any] = {group: OmegaConf.to_object(tree[group]) for group in _groups()}
        config = Config(
            run=Path(tree.run).expanduser().absolute(),
            seed=tree.seed,
            rebuild=tree.rebuild,
            from_stage={str(k): Path(v).expanduser().absolute() for k, v in tree["from"].items() if v is not None},
            identity={group: _identity(tree[group]) for group in _groups()},
            recorded={group: _recorded(tree[group]) for group in _groups()},
            **values,
        )
    except (OmegaConfBaseException, HydraException) as cause:
        raise readable(cause) from cause
    check(config)
    return config


def _complete(tree: DictConfig) -> None:
    """Give untyped settings a schema: that of the class they name, or the group's base for a class from outside."""
    for path, schemas in SCHEMAS.items():
        key = path.replace("/", ".")
        node = OmegaConf.select(tree, key)
        if not isinstance(node, DictConfig) or OmegaConf.get_type(node) in schemas.values():
            continue
        target = node.get("_target_")
        ours = [schema for schema in schemas.values() if getattr(schema, "_target_", None) == target]
        if target is not None and ours:
            OmegaConf.update(tree, key, OmegaConf.merge(ours[-1], OmegaConf.to_container(node)), merge=False)
        elif path in BASES and not is_dataclass(OmegaConf.get_type(node)):
            base = OmegaConf.structured(BASES[path])
            OmegaConf.set_struct(base, False)
            OmegaConf.update(tree, key, OmegaConf.merge(base, node), merge=False)


def as_override(key: str, value: str) -> str:
    """Return the Hydra override `key=value`, quoted as needed, for a text without interpolations."""
    if re.fullmatch("/[A-Za-z0-9_/.-]*", value):
        return f"{key}={value}"
    # Hydra reads a backslash literally, except before a quote.
    text = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"{key}='{text}'"


def _refuse_strays(tree: DictConfig) -> None:
    """Refuse keys that no schema has: +KEY=VALUE and a user's own YAML files can add keys anywhere.

    Raises:
        ConfigError: a key exists in no schema, or a group was taken out.
    """
    for group in _groups():
        if group not in tree:
            raise ConfigError(f"~{group} takes a group out", rule="every group is there", remedy=f"leave ~{group} out")
    for key in map(str, tree):
        if key not in (*_ROOT, *_groups()):
            raise unknown_setting(key, None, conf_dir())

    def walk(node: DictConfig, path: str) -> None:
        kind = OmegaConf.get_type(node)
        for key in map(str, node):
            if is_dataclass(kind) and kind not in BASES.values() and key not in {field.name for field in fields(kind)}:
                raise unknown_setting(f"{path}{key}", kind, conf_dir())
            if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
                child = node[key]
                if isinstance(child, DictConfig) and not child._is_none():
                    walk(child, f"{path}{key}.")

    walk(tree, "")


def _refuse_addresses(tree: DictConfig) -> None:
    """Refuse addresses such as s3://... in settings that name a file or folder: as a path, `s3:` is a local folder.

    Raises:
        ConfigError: a setting holds one.
    """
    for key, value in flatten(OmegaConf.to_container(tree)).items():  # type: ignore[arg-type]  # a mapping
        if key.endswith(".url") or key.startswith(_MAY_HOLD_ADDRESSES):
            continue
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and _ADDRESS.match(text):
                raise ConfigError(
                    f"{key}={text} is an address, not a path",
                    rule="runs, stages, logs, catalogues, pictures and models lie in folders that this machine sees",
                    remedy=f"mount {text.split(':')[0]} as a folder, or copy it here, and name that path by {key}",
                )


def readable(cause: Exception) -> ConfigError:
    """Convert an error of Hydra or OmegaConf to one with value, rule and remedy, e.g. the nearest existing name."""
    inner = cause.__cause__ if isinstance(cause, ConfigCompositionException) and cause.__cause__ else cause
    text = str(inner).splitlines()[0]
    key = str(getattr(inner, "full_key", "") or "")
    if isinstance(inner, MissingMandatoryValue) or "Missing mandatory value" in text:
        key = key or text.rsplit(" ", 1)[-1]
        return ConfigError(
            f"Missing mandatory value: {key}",
            rule="a setting without a default must be given",
            remedy=f"add {key}=VALUE",
        )
    if "not in" in text and key:
        typed = re.match("Could not override '(.*)'", str(cause))  # the whole key; `key` ends at its unknown part
        kind = getattr(inner, "object_type", None)
        return unknown_setting(typed[1] if typed else key, kind, conf_dir())
    if isinstance(inner, ValidationError):
        return ConfigError(f"{key}: {text}", rule="a value has its setting's type", remedy=typed_remedy(key))
    if "Could not find" in text:
        options = [line.strip() for line in str(cause).splitlines() if line.startswith("\t")]
        known = [name for name in options if not name.startswith("provider=") and name != BASE]
        chosen = text.rstrip("'").rpartition("/")[2]
        return ConfigError(text, rule="a choice is one of the options of its group", remedy=suggest(chosen, known))
    if appended := re.search("Could not append to config. An item is already at '(.*)'", text):
        return ConfigError(
            f"+{appended[1]}, which has a value already",
            rule="+KEY=VALUE adds a key that is not there",
            remedy=f"write {appended[1]}=VALUE, without +",
        )
    if isinstance(cause, OverrideParseException):
        return ConfigError(
            f"{cause.override!r} cannot be read: {text.removeprefix('LexerNoViableAltException: ')}",
            rule="an override reads key=value; a value with ; [ ] or quotes is in quotes of its own",
            remedy="write it as 'key=\"value\"', the outer quotes for the shell; see `trialign --help`",
        )
    return ConfigError(str(cause).splitlines()[0], rule="overrides read key=value", remedy="see `trialign --help`")


@cache
def default_choices() -> dict[str, str]:
    """Return the option that every group composes unless another is chosen, e.g. `quantize` -> `rkmeans`."""
    with _conf():
        tree = hydra_compose("pipeline", return_hydra_config=True)
    return {str(group): str(choice) for group, choice in tree.hydra.runtime.choices.items()}


def choice_of(group: str, option: str) -> str:
    """Return the option that documents a group's schema: the schema itself, or the default option that extends it."""
    return default_choices()[group] if option == BASE else option


@cache
def composed(group: str, choice: str) -> dict[str, Json]:
    """Return the settings of one option of a group, with interpolations and mandatory values unresolved."""
    with _conf():
        node: Any = OmegaConf.to_container(hydra_compose(f"{group}/{choice}"), resolve=False)
    for name in group.split("/"):
        node = node[name]
    return dict(node)


@contextmanager
def _conf() -> Iterator[None]:
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


def readable_below_none(cause: AssertionError, overrides: Sequence[str]) -> Exception:
    """Convert OmegaConf's AssertionError for a setting of a group that is null; return any other `cause` as it is."""
    if "Unexpected type for root: NoneType" not in str(cause):
        return cause
    chosen = dict(override.split("=", 1) for override in overrides if "=" in override)
    groups = [path.replace("/", ".") for path in OPTIONAL if chosen.get(path, "none") == "none"]
    below = [key for key in chosen for group in groups if key.startswith(group + ".")]
    return unknown_setting(min(below), None, conf_dir()) if below else cause


def _groups() -> list[str]:
    return sorted({group.split("/")[0] for group in SCHEMAS})


def _identity(node: DictConfig) -> dict[str, Json]:
    """Return the hashed fields of a group and of its nested groups."""
    schema = OmegaConf.get_type(node)
    spared = unhashed(schema) if is_dataclass(schema) else set()
    kept = {str(key): node[key] for key in node if key not in spared}
    return {key: _identity(own) if isinstance(own, DictConfig) else _container(own) for key, own in kept.items()}


def _recorded(node: DictConfig) -> dict[str, Json]:
    """Return the fields of a group that are recorded but not hashed; those of nested groups by dotted names."""
    schema = OmegaConf.get_type(node)
    own = recorded(schema) if is_dataclass(schema) else set()
    kept: dict[str, Json] = {}
    for key in map(str, node):
        child = node[key]
        if key in own:
            kept[key] = _without_secrets(child) if isinstance(child, str) else _container(child)
        elif isinstance(child, DictConfig):
            kept |= {f"{key}.{below}": value for below, value in _recorded(child).items()}
    return kept


def _without_secrets(text: str) -> str:
    """Return an address without user, password and query; any other text as it is."""
    return re.sub(r"(?<=://)[^/@]*@|\?.*", "", text) if _ADDRESS.match(text) else text


def _container(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
