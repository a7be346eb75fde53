"""A finished run, read from its folder: what a notebook or a service starts from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trialign.config.stages import folder_of
from trialign.config.verbs import STAGES
from trialign.data.dataset import Dataset, User
from trialign.errors import ConfigError, DataError, StageError, suggest
from trialign.evaluate.record import EvaluationRecord
from trialign.generate.recommendation import Item, Recommendation
from trialign.manifest import MANIFEST, Manifest, trace
from trialign.record import read_record
from trialign.semid.table import SIDTable
from trialign.types import NO_ITEM, EvaluationSplit, Items

if TYPE_CHECKING:
    from trialign.generate.ranker import GeneratorRanker
    from trialign.stream.rows import RowBatch


class Run:
    """A finished run: its items, its dataset, its figures, and the generator that recommends.

    Nothing is loaded before it is asked for; the generator is loaded once.

    Args:
        folder: the run's directory, what `run=DIR` names on the command line.
        from_stage: folders of stages to take from other runs, as `from.STAGE=DIR` does. Those that the run was made
            with are found without.
        generator: the stage whose generator ranks, train or rl.
        accelerator: where it ranks: cpu, cuda, or auto.

    Raises:
        StageError: no stage of the run is finished.

    Examples:
        >>> run = trialign.Run("runs/quickstart")
        >>> (found,) = run.recommend([["item-0000007", "item-0000010"]], k=5)
        >>> for item, score in zip(found.items, found.scores):
        ...     print(f"{score:.2f} {item.key} {item.title}")  # doctest: +ELLIPSIS
        -... item-00000... ...
        >>> run.metrics("test")["model"]["recall@10"]  # doctest: +ELLIPSIS
        0...
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        from_stage: Mapping[str, Path] | None = None,
        generator: str = "train",
        accelerator: str = "auto",
    ) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self._from_stage = dict(from_stage or {})
        self._generator = _stage_named(generator)
        self._accelerator = accelerator
        self._rankers: dict[tuple[int, int], GeneratorRanker] = {}
        self._made: dict[int, Item] = {}
        self._folders = self._find_stages()
        if not self._folders:
            raise StageError(
                f"{self.folder} holds no finished stage",
                rule=f"a run is a directory with a folder per stage, and a finished stage holds {MANIFEST}",
                remedy=f"name the directory that `trialign pipeline run=DIR` was given, or run it: run={self.folder}",
            )

    def stage(self, verb: str) -> Path:
        """Return the folder of a finished stage: of this run, or of the one it was taken from.

        Raises:
            ConfigError: there is no such stage.
            StageError: it is not finished.

        Examples:
            >>> run.stage("assign").name
            'assign'
        """
        folder = self._folders.get(_stage_named(verb))
        if folder is None:
            folder = folder_of(verb, self.folder, self._from_stage)
            Manifest.read(folder)  # raises that it is not finished, with the remedy
        return folder

    def manifest(self, verb: str) -> Manifest:
        """Return the manifest of a finished stage; errors as `stage`.

        Examples:
            >>> run.manifest("prepare").config["data"]["split"]
            'leave_one_out'
        """
        return Manifest.read(self.stage(verb))

    def metrics(self, split: EvaluationSplit = "test", *, exclude_seen: bool = False) -> dict[str, dict[str, float]]:
        """Return the table of `trialign evaluate`: the figures of the model, every baseline and the oracle, by name.

        Args:
            split: whose users were ranked.
            exclude_seen: whether items that a user chose before are filtered.

        Raises:
            StageError: the run is not evaluated on that split.

        Examples:
            >>> figures = run.metrics("test")
            >>> sorted(figures)
            ['model', 'oracle', 'popularity']
            >>> 0 <= figures["model"]["ndcg@10"] <= 1
            True
        """
        folder = self.stage("evaluate") / split
        Manifest.read(folder)
        record = read_record(EvaluationRecord, folder / "metrics.json")
        results = record.stated if record.stated.exclude_seen == exclude_seen else record.other_protocol
        rows = {"model": results.model, **results.baselines}
        return rows if results.oracle is None else rows | {"oracle": results.oracle}

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset that `trialign prepare` made: its examples by split, its users, its item table."""
        return Dataset(self.stage("prepare"))

    @cached_property
    def sids(self) -> SIDTable:
        """The semantic IDs of all items, `codes_NL`, and the codebooks behind them."""
        return SIDTable.load(self.stage("assign"))

    def items(self) -> Iterator[Item]:
        """Yield every item of the catalogue, in the order of the item indices.

        Examples:
            >>> sum(1 for item in run.items())
            64
        """
        return map(self._item, range(self.dataset.num_items))

    def item(self, key: str) -> Item:
        """Return an item, its semantic ID included.

        Raises:
            DataError: the catalogue has no such item.

        Examples:
            >>> run.item("item-0000007").categories  # doctest: +ELLIPSIS
            (...)
        """
        return self._item(self.dataset.item_of(key))

    def item_of(self, sid: Sequence[int]) -> Item:
        """Return the item that a semantic ID stands for.

        Args:
            sid: L codes.

        Raises:
            DataError: no item has it.

        Examples:
            >>> run.item_of(run.item("item-0000007").sid).key
            'item-0000007'
        """
        codes = np.array(sid)
        item = int(self.sids.item_of(codes)) if codes.shape == (self.sids.num_levels,) else NO_ITEM
        if item == NO_ITEM:
            raise DataError(
                f"no item has the semantic ID {tuple(sid)}",
                rule=f"a semantic ID is one of {self.sids.num_items} tuples of {self.sids.num_levels} codes",
                remedy="take one from run.items(), e.g. " + str(self._item(0).sid),
            )
        return self._item(item)

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        num_beams: int = 50,
        allowed: Sequence[str] | None = None,
        blocked: Sequence[str] | None = None,
    ) -> list[Recommendation]:
        """Recommend items to B people by what they chose.

        Args:
            histories: B lists of item keys, oldest first; an empty list is legal.
            k: items for each.
            exclude_seen: whether the items of a history are left out.
            num_beams: beams of the search, at least `k`.
            allowed: keys of the items that may be recommended; None: all. The scores of the others do not change.
            blocked: keys of items that may not be.

        Returns:
            B recommendations, in the order of the histories.

        Raises:
            DataError: an item is not in the catalogue.
            ConfigError: `k` is less than 1 or more than the beams.
            StageError: the training is not finished, or was made with other semantic IDs.

        Examples:
            >>> found = run.recommend([["item-0000007"], []], k=3)
            >>> [len(one.items) for one in found]
            [3, 3]
            >>> "item-0000007" in [item.key for item in found[0].items]
            False
        """
        if isinstance(histories, str) or any(isinstance(history, str) for history in histories):
            raise DataError(
                f"histories={histories!r}",
                rule="histories is a list of lists of item keys",
                remedy="put one history in brackets of its own: run.recommend([[KEY, KEY]])",
            )
        read = [np.array([self.dataset.item_of(key) for key in history], np.int32) for history in histories]
        nothing = np.empty(0, np.int64)
        people = [User(items, nothing, items[:0]) for items in read]
        stock_N = self.dataset.stock(allowed, blocked)
        return self._recommend(people, k, exclude_seen=exclude_seen, num_beams=num_beams, stock_N=stock_N)

    def recommend_to(
        self,
        users: Sequence[str],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        num_beams: int = 50,
        allowed: Sequence[str] | None = None,
        blocked: Sequence[str] | None = None,
    ) -> list[Recommendation]:
        """Recommend items to users of the logs as of now, their held-out events included.

        Args:
            users: keys of B users.
            k: items for each.
            exclude_seen: whether items are left out that the user chose before, however long ago.
            num_beams: beams of the search, at least `k`.
            allowed: as `recommend`.
            blocked: as `recommend`.

        Returns:
            B recommendations, in the order of the users.

        Raises:
            DataError: the logs hold no such user; else as `recommend`.

        Examples:
            >>> (found,) = run.recommend_to(["user-0000002"], k=3)
            >>> {item.key for item in found.items} & {item.key for item in found.history}
            set()
        """
        people = [self.dataset.user(key) for key in users]
        stock_N = self.dataset.stock(allowed, blocked)
        return self._recommend(people, k, exclude_seen=exclude_seen, num_beams=num_beams, stock_N=stock_N)

    def ranker(self, *, num_beams: int = 50, batch_size: int = 64) -> GeneratorRanker:
        """Return what ranks arrays of item indices by the generator, loaded once.

        Args:
            num_beams: beams of the search: the most items that it can rank. Without meaning where the generator is
                one softmax over items, which is ranked exactly.
            batch_size: histories per search.

        Raises:
            StageError: the training is not finished, or was made with other semantic IDs.
            ConfigError: no beams or too many, or CUDA is asked for and not there.

        Examples:
            >>> history = np.array([7, 10], dtype=np.int32)
            >>> items_BK, scores_BK = run.ranker(num_beams=50).rank([history], 10, exclude=None)
            >>> items_BK.shape, scores_BK.dtype
            ((1, 10), dtype('float32'))
        """
        folder, how = self.stage(self._generator), (num_beams, batch_size)
        if how not in self._rankers:
            from trialign.generate.save_load import load_ranker  # imports torch
            from trialign.runtime.device import device_of

            device = device_of(self._accelerator)
            ranker = load_ranker(folder, self.sids, num_beams=num_beams, batch_size=batch_size, device=device)
            self._rankers = {how: ranker}  # one at a time: each holds a generator
        return self._rankers[how]

    def batches(self) -> Iterator[RowBatch]:
        """Yield the micro-batches of packed rows that the training read, in its order, without end.

        They are made anew from the dataset by the settings of the training, as one process reads them.

        Raises:
            StageError: a stage that the training reads is not finished.

        Examples:
            >>> batch = next(run.batches())
            >>> batch.tokens_RT.shape == batch.targets_RT.shape
            True
        """
        from trialign.config.compose import as_override, compose
        from trialign.generate.build import load_training_data, prepare_training

        train = self.stage("train")
        config = compose("train", [as_override("run", str(train.parent))])
        data = load_training_data({verb: self.stage(verb) for verb in Manifest.read(train).inputs})
        stream = replace(config.stream, sample_log=False, workers=0)
        runtime = replace(config.runtime, nodes=1, devices=1)
        made = prepare_training(data, train, config.train, stream, runtime, seed=config.seed, weights=False)
        return iter(made.rows.train_dataloader())

    def _find_stages(self) -> dict[str, Path]:
        """Return the folders of finished stages by verb: named ones, this run's, and those that either descend from."""
        own = {verb: folder_of(verb, self.folder, self._from_stage) for verb in STAGES}
        found = {verb: folder for verb, folder in own.items() if (folder / MANIFEST).exists()}
        for folder in list(found.values())[::-1]:
            for verb, (place, _) in trace(folder, Manifest.read(folder), self.folder)[0].items():
                if verb not in self._from_stage:
                    found.setdefault(verb, place)
        return found

    def _recommend(
        self, people: Sequence[User], k: int, *, exclude_seen: bool, num_beams: int, stock_N: NDArray[np.bool_] | None
    ) -> list[Recommendation]:
        if k < 1:
            raise ConfigError(f"k={k}", rule="at least one item is recommended", remedy="pass k=10")
        seen: list[Items] = [user.seen for user in people]
        ranker = self.ranker(num_beams=num_beams)
        items_BK, scores_BK = ranker.rank(
            [user.history for user in people], k, exclude=seen if exclude_seen else None, stock=stock_N
        )
        num_in_stock = self.dataset.num_items if stock_N is None else int(stock_N.sum())
        return [
            Recommendation(
                history=tuple(map(self._item, user.history.tolist())),
                items=tuple(self._item(item) for item in items if item != NO_ITEM),
                scores=tuple(score for item, score in zip(items, scores, strict=True) if item != NO_ITEM),
                num_older=len(user.older),
                num_filtered=len(set(filtered.tolist())) if exclude_seen else 0,
                num_in_stock=num_in_stock,
            )
            for user, filtered, items, scores in zip(people, seen, items_BK.tolist(), scores_BK.tolist(), strict=True)
        ]

    def _item(self, item: int) -> Item:
        if item not in self._made:
            (row,) = self.dataset.items.slice(item, 1).to_pylist()
            texts = {name: row[name] for name in ("key", "title", "description", "brand")}
            codes = tuple(self.sids.codes_NL[item].tolist())
            self._made[item] = Item(**texts, categories=tuple(row["categories"]), sid=codes)
        return self._made[item]


def _stage_named(verb: str) -> str:
    if verb not in STAGES:
        raise ConfigError(f"'{verb}' is not a stage", rule="stages are named by verbs", remedy=suggest(verb, STAGES))
    return verb
