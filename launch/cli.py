"""`trialign VERB [overrides]`: runs the verb's script with a checked config.

Nothing heavy is imported before it is known what to do: `trialign --help` answers at once.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from trialign import __version__
from trialign.cluster.ends import note_end
from trialign.config.verbs import STAGES, VERBS, StageSpec
from trialign.errors import ConfigError, TrialignError, suggest
from trialign.foreign import LINES, harmless
from trialign.progress import BAR
from trialign.runtime.notice import INTERRUPTED, Interrupted, listen
from trialign.transcript import Stream, Transcript, recorded

if TYPE_CHECKING:
    from trialign.config.config import Config

_FOLDER = ("-cd", "--config-dir")
_VALUED = ("-c", "--cfg", "-p", "--package", "-i", "--info")
_PLAIN = ("-m", "--multirun", "--resolve")
"""Hydra's options that are let through."""

_OVERVIEW = """trialign {version}: generative recommenders over semantic IDs

usage: trialign VERB [key=value ...]        settings of a verb: trialign VERB --help
                                            sweep: trialign VERB -m key=a,b run='runs/${{key}}'
                                            on Slurm: add hydra/launcher=slurm cluster=NAME
verbs
{verbs}

  run=DIR            where the stages of this run live; each writes DIR/VERB/, manifest.json last
  from.STAGE=DIR     take a finished stage of another run
  experiment=NAME    a file of conf/experiment/:
{experiments}
  experiment/variant=NAME
                     a file of conf/experiment/variant/; experiments that compare variants sweep over them by themselves
  cluster=NAME       a Slurm cluster of conf/cluster/: trialign submit VERB cluster=NAME run=DIR [--dry-run]
  rebuild=true       make a finished stage again after a setting changed

first steps
  trialign pipeline experiment=quickstart run=runs/quickstart
  trialign recommend run=runs/quickstart recommend.user=user-0000042
"""


_UNFORESEEN = 70


def main() -> None:
    """Run the command line.

    Exit codes: 0, 1 (a stage failed, and says why), 2 (refused before any work), 70 (unforeseen), 75 (saved and
    stopped when asked), 130 (Ctrl-C).
    """
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # titles may hold any script
    listen()
    with recorded() as transcript:
        _answer(sys.argv[1:], transcript)


def _answer(arguments: list[str], transcript: Transcript) -> None:
    if "SLURM_STEP_ID" in os.environ:
        faulthandler.register(signal.SIGUSR2, all_threads=True)  # the supervisor sends it to a stuck rank
    try:
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            print(_overview())
        elif arguments[0] == "--version":
            print(__version__)
        elif arguments[0] not in VERBS:
            raise ConfigError(f"'{arguments[0]}' is no verb", rule="trialign VERB", remedy=suggest(arguments[0], VERBS))
        elif {"-h", "--help"} & set(arguments[1:]):
            from trialign.launch.settings import describe

            print(describe(arguments[0]), flush=True)
        else:
            _start(*_submitted(arguments), transcript)
    except TrialignError as error:
        _give_up(error)
    except BrokenPipeError:
        # `trialign VERB --help | head` closes the pipe early; that is no error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (KeyboardInterrupt, Interrupted):
        words = "interrupted; what was finished stays finished, and the same command continues from there"
        print(f"trialign: {words}", file=sys.stderr)
        _end(INTERRUPTED, words)
    except Exception as cause:
        # Python's own 1 would look like an error that is reported and comes again.
        print(harmless(traceback.format_exc(), keep=LINES), end="", file=sys.stderr)
        _end(_UNFORESEEN, harmless("".join(traceback.format_exception_only(cause)).strip(), keep=LINES))


def script(verb: str) -> Callable[..., Any]:
    """Return the `run(config)` of a verb's script.

    Raises:
        ConfigError: a verb of the table has no such script, or settings that are no field of `Config`.
    """
    from dataclasses import fields

    from trialign.config.config import Groups

    spec = VERBS[verb]
    read = [*(spec.groups if isinstance(spec, StageSpec) else ()), *spec.reads]
    if lacking := sorted(set(read) - {found.name for found in fields(Groups)}):
        raise ConfigError(
            f"{verb} reads the settings {', '.join(lacking)}, which Config does not have",
            rule="every group of settings that a verb reads is a dataclass and a field of Config",
            remedy=f"add the field {lacking[0]} to Groups in trialign/config/config.py",
        )
    name = f"trialign.launch.{verb}"
    if importlib.util.find_spec(name) is None or not hasattr(importlib.import_module(name), "run"):
        raise ConfigError(
            f"{verb} is in the table of verbs and has no script",
            rule="every verb has a script launch/VERB.py with a function run(config)",
            remedy=f"write launch/{verb}.py with a function run(config)",
        )
    run: Callable[..., Any] = importlib.import_module(name).run
    return run


def _submitted(arguments: list[str]) -> tuple[str, list[str]]:
    """Return (verb, overrides); the verb after `submit` and its `--dry-run` become overrides."""
    verb, *overrides = arguments
    if verb == "submit":
        overrides = ["cluster.dry_run=true" if word == "--dry-run" else word for word in overrides]
        if overrides and "=" not in overrides[0] and not overrides[0].startswith("-"):
            overrides[0] = f"cluster.verb={overrides[0]}"
    return verb, overrides


def _start(verb: str, overrides: list[str], transcript: Transcript) -> None:
    if verb == "recommend" and "--json" in overrides:
        raise ConfigError(
            "recommend --json", rule="settings read key=value", remedy="trialign recommend recommend.format=json ..."
        )
    if verb == "recommend" and not overrides:
        raise ConfigError(
            "trialign recommend without a run",
            rule="it takes a finished run, and a user of its logs or a list of items",
            remedy="trialign recommend run=DIR recommend.user=KEY, or run=DIR 'recommend.items=[KEY,KEY]'",
        )
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # exceptions reach `main` as they are
    import hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException
    from trialign.launch.sweep import register as register_plugins

    from trialign.config.compose import conf_dir, readable, readable_below_none, to_config, words_of_run
    from trialign.config.registry import register
    from trialign.config.typed import as_typed

    def job(tree: DictConfig) -> None:
        sys.argv = command  # by which Lightning starts further ranks
        try:
            if told := taken.told(tree):
                logging.getLogger("trialign").info(told)
            config = to_config(tree)
            # Steps differ in shape; oneDNN would keep a thousand kernels for them, which grow to gigabytes.
            os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
            if config.runtime.threads:
                # Read by torch and BLAS when they are imported, which has not happened yet.
                os.environ.setdefault("OMP_NUM_THREADS", str(config.runtime.threads))
            _tell(_made(verb, config, transcript))
        except TrialignError as error:
            _give_up(error)  # caught here, or Hydra would add its own message

    register()
    register_plugins()
    options, words = _parted(overrides)
    words = as_typed(words)
    taken = words_of_run(verb, words)
    # Only the result of `recommend` goes to stdout, so that a program can read it.
    _log_plainly("stderr" if verb == "recommend" else "stdout")
    command, sys.argv = sys.argv, [f"trialign {verb}", *options, *words, *taken.words]  # for Hydra's messages
    try:
        hydra.main(config_path=str(conf_dir()), config_name=verb, version_base="1.3")(job)()
    except (HydraException, OmegaConfBaseException) as cause:
        raise readable(cause) from cause
    except AssertionError as cause:
        raise readable_below_none(cause, overrides) from None


def _made(verb: str, config: Config, transcript: Transcript) -> Any:
    """Run a verb's script; if it fails over a finished stage with missing or truncated files, raise that error."""
    from trialign.config.stages import damage

    try:
        with _watched(verb, config, transcript):
            return script(verb)(config)
    except TrialignError:
        raise
    except Exception as cause:
        if (found := damage(config)) is None:
            raise
        raise found from cause


def _parted(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return Hydra's options and the overrides; --config-dir becomes an override, so that jobs compose with it too.

    Raises:
        ConfigError: a word with dashes is not an option: Hydra would print its own usage.
    """
    options: list[str] = []
    settings: list[str] = []
    left = iter(arguments)
    for word in left:
        option, equals, value = word.partition("=")
        if not word.startswith("-"):
            settings.append(word)
        elif option in _FOLDER:
            settings.insert(0, _folder_of_yaml(value if equals else next(left, "")))
        elif option in _VALUED:
            options += [word] if equals else [word, *islice(left, 1)]
        elif option in _PLAIN:
            options.append(word)
        else:
            raise _no_option(word)
    return options, settings


def _folder_of_yaml(folder: str) -> str:
    """Return the override that makes Hydra search a folder of the user's YAML files, after ours."""
    from pathlib import Path

    from trialign.config.compose import as_override

    path = Path(folder).expanduser().absolute()
    if not folder or not path.is_dir():
        raise ConfigError(
            f"--config-dir {folder}".rstrip(),
            rule="a folder of your own YAML files, which lie in it as ours in conf/, e.g. experiment/mine.yaml",
            remedy="name a folder that is there: --config-dir DIR",
        )
    name, _, quoted = as_override("hydra.searchpath", f"file://{path}").partition("=")
    return f"{name}=[{quoted}]"


def _no_option(word: str) -> ConfigError:
    from trialign.config.compose import conf_dir
    from trialign.config.unknown import known_keys, unknown_setting

    option, _, value = word.partition("=")
    key = option.lstrip("-").replace("-", "_")
    near = f"did you mean '{key}'?" if key in known_keys() else unknown_setting(key, None, conf_dir()).remedy
    return ConfigError(
        f"'{word}' is no option",
        rule="settings read key=value, without dashes; options are --help, -m to sweep, --config-dir DIR",
        remedy=f"{near} Write it as KEY={value or 'VALUE'}" if near.startswith("did") else near,
    )


def _give_up(error: TrialignError) -> NoReturn:
    words = harmless(str(error), keep=LINES)
    print(f"trialign: {words}", file=sys.stderr)
    _end(error.exit_code, words)


def _end(code: int, words: str) -> NoReturn:
    note_end(code, words, at=time.time())
    sys.exit(code)


@contextmanager
def _watched(verb: str, config: Config, transcript: Transcript) -> Iterator[None]:
    """Record the console output of a stage or pipeline in its run, and draw a progress bar; on the first rank only."""
    from trialign.bar import bar
    from trialign.runtime.ranks import launched_rank

    if launched_rank() != 0 or verb not in (*STAGES, "pipeline"):
        yield
        return
    transcript.keep(config.run, ["trialign", *sys.argv[1:]])
    with bar(transcript.err.raw, wanted=config.runtime.progress) as above, transcript.below(above):
        yield


def _tell(made: Any) -> None:
    """Print the outcome and the folder of a stage; verbs that are not stages print their own results."""
    from trialign.stage import Stage

    if not isinstance(made, Stage) or made.name == "evaluate" or not made.finished:  # a shard of enrich is not
        return
    manifest = made.read()
    counts = [f"{name} {value:,}" for name, value in manifest.counts.items() if type(value) is int and value]
    outcome = f"built in {manifest.seconds:.1f} s" if made.built else "was finished, nothing to do"
    print(f"{made.name}: {outcome}; {', '.join([*counts, str(made.folder)])}", flush=True)


def _log_plainly(stream: str) -> None:
    """Log the package's own messages to the terminal, once and without a prefix."""
    from trialign.runtime.ranks import launched_rank

    log = logging.getLogger("trialign")
    if not log.handlers:
        handler = _Said(stream)
        handler.setFormatter(_Plain("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO if launched_rank() == 0 else logging.WARNING)
        log.propagate = False


class _Said(logging.StreamHandler[TextIO]):
    """Logs to the current `sys.stdout` or `sys.stderr`; messages that a bar shows go only to the run's log."""

    def __init__(self, name: str) -> None:
        logging.Handler.__init__(self)
        self._name = name

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # as in logging's own last-resort handler
        found: TextIO = getattr(sys, self._name)
        return found

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, BAR) and isinstance(self.stream, Stream) and self.stream.above_bar:
            self.stream.keep(self.format(record))
        else:
            super().emit(record)


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return harmless(super().format(record), keep=LINES)


def _overview() -> str:
    from pathlib import Path
    from textwrap import fill

    import trialign.conf

    folder = Path(trialign.conf.__path__[0]) / "experiment"
    names = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
    experiments = fill(names, 116, initial_indent=" " * 21, subsequent_indent=" " * 21)
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {verb.help}" for name, verb in VERBS.items())
    return _OVERVIEW.format(version=__version__, verbs=verbs, experiments=experiments)


if __name__ == "__main__":
    main()
