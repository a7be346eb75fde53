"""Recommend items with the model of this folder, by an exact search through the catalogue's semantic IDs.

Needs torch, transformers, safetensors and numpy. Three ways in:

- `load(folder).rank([["item-1", "item-2"]], k=10)`: lists of item keys in, lists of (key, log-probability) out.
- `TrieProcessor(Catalogue(folder))`: a logits processor for the beam search of transformers.
- `generate`: what `model.generate` does where the model was loaded with `trust_remote_code=True`.

A semantic ID is L codes, the coarsest first, and each code is one token. The trie holds the codes of all items. Each
level's softmax is over the codes that some item continues with, so that the scores of all items sum to one. Names end
in the shapes of their arrays: N items, B histories, W beams, L levels, K codes per level, C children, V tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, DynamicCache, LogitsProcessor
from transformers.utils.hub import cached_file

NO_ITEM = -1
"""Fills a list that is shorter than it was asked for."""
_MOST_CELLS = 2**24
"""Of the largest tensor of one search, beams x beams of every history."""


class Seen(NamedTuple):
    """The distinct items of each of B histories: `rows_P`, `items_P`, int64, sorted."""

    rows_P: torch.Tensor
    items_P: torch.Tensor


class Level(NamedTuple):
    """The children of every node of a level, in the order of the nodes.

    `starts`: where each node's children begin; a child's place in the list is its own node number one level down.
    `codes`: the code that leads to each child, padded by `width - 1` zeros. `width`: the most children of a node.
    `parents`: each child's node. `sizes`: items below each child. `ends`: the first leaf after those below each child.
    """

    starts: torch.Tensor
    codes: torch.Tensor
    width: int
    parents: torch.Tensor
    sizes: torch.Tensor
    ends: torch.Tensor


class Catalogue:
    """The items of a bundle, their semantic IDs as a trie, and how a history is written as a prompt.

    Args:
        folder: of the bundle.
        device: where the arrays are.
    """

    def __init__(self, folder: Path | str, device: torch.device | str = "cpu") -> None:
        facts = json.loads(Path(_file(folder, "items/sids.json")).read_text())
        arrays = load_file(_file(folder, "items/trie.safetensors"), device=str(device))
        self.keys: list[str] = facts["keys"]
        self.max_history: int = facts["max_history"]
        self.codebook_size: int = facts["codebook_size"]
        self.first_code: int = facts["tokens"]["first_code"]
        self.task_token: int = facts["tokens"]["task_token"]
        self.repeat_bias: float | None = facts["tokens"]["repeat_bias"]
        self.codes_NL = arrays["codes_NL"]
        self.num_items, self.num_levels = self.codes_NL.shape
        self.item_of_leaf_N = arrays["item_of_leaf_N"]
        self.levels, self.node_LN = self._build()
        self._item_of = {key: item for item, key in enumerate(self.keys)}

    def _build(self) -> tuple[list[Level], torch.Tensor]:
        """Return the levels, and the node of every item below each of them."""
        sorted_NL = self.codes_NL[self.item_of_leaf_N]
        leaf_N = torch.arange(self.num_items, device=sorted_NL.device)
        new_N = leaf_N == 0
        node_N = torch.zeros_like(leaf_N)
        levels, nodes = [], []
        for level in range(self.num_levels):
            differs_N = functional.pad(sorted_NL[1:, level] != sorted_NL[:-1, level], (1, 0), value=True)
            above_N, new_N = node_N, new_N | differs_N
            node_N = new_N.cumsum(0) - 1
            first_C = torch.nonzero(new_N)[:, 0]
            parents_C, sizes_C = above_N[first_C], torch.bincount(node_N)
            counts = torch.bincount(parents_C)
            width = int(counts.max())
            codes_C = functional.pad(sorted_NL[first_C, level], (0, width - 1))
            starts = functional.pad(counts.cumsum(0), (1, 0))
            levels.append(Level(starts, codes_C, width, parents_C, sizes_C, first_C + sizes_C))
            nodes.append(torch.empty_like(node_N).scatter(0, self.item_of_leaf_N, node_N))
        return levels, torch.stack(nodes)

    def item_of(self, key: str) -> int:
        """Return the index of an item.

        Raises:
            KeyError: the catalogue has no such item.
        """
        if key not in self._item_of:
            raise KeyError(f"no item {key!r} among the {self.num_items} of this catalogue")
        return self._item_of[key]

    def prompt(self, items: Sequence[int]) -> list[int]:
        """Return the tokens of a history, oldest item first: the task's token, then the codes of the last items."""
        read = torch.tensor(items[-self.max_history :], dtype=torch.int64, device=self.codes_NL.device)
        return [self.task_token, *self.tokens(read).flatten().tolist()]

    def tokens(self, items: torch.Tensor) -> torch.Tensor:
        """Return the tokens [..., L] of items."""
        offsets_L = self.first_code + self.codebook_size * torch.arange(self.num_levels, device=items.device)
        return self.codes_NL[items] + offsets_L

    def level_of(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the level of each token's code; negative for text."""
        return torch.div(tokens - self.first_code, self.codebook_size, rounding_mode="floor")

    def read(self, tokens_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the item that ends at each token, NO_ITEM where none does, and the node each row's end leads to.

        A row that ends within a semantic ID leads to a node below the root; a node is -1 where no item begins so.
        """
        num_levels, depth_BT = self.num_levels, self.level_of(tokens_BT).clamp(min=-1, max=self.num_levels) + 1
        node_BT = torch.zeros_like(tokens_BT)
        for level, table in enumerate(self.levels):
            before_BT = functional.pad(node_BT, (1, 0))[:, :-1]
            expected_BT = (functional.pad(depth_BT, (1, 0))[:, :-1] == level) | (level == 0)
            here_BT = depth_BT == level + 1
            codes_BT = (tokens_BT - self.first_code) % self.codebook_size
            found_BT, is_child_BT = self._child(table, before_BT if level else torch.zeros_like(node_BT), codes_BT)
            legal_BT = is_child_BT & expected_BT & ((before_BT >= 0) | (level == 0))
            node_BT = torch.where(here_BT, torch.where(legal_BT, found_BT, -1), node_BT)
        ends_BT = (depth_BT == num_levels) & (node_BT >= 0)
        items_BT = torch.where(ends_BT, self.item_of_leaf_N[node_BT.clamp(min=0)], NO_ITEM)
        last_B = torch.where(depth_BT[:, -1] % num_levels == 0, 0, node_BT[:, -1])
        return items_BT, last_B

    def _child(self, table: Level, nodes: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the child that a code leads to from each node, and whether there is one."""
        keys_C = table.parents * self.codebook_size + table.codes[: len(table.parents)]
        wanted = nodes.clamp(min=0) * self.codebook_size + codes
        found = torch.searchsorted(keys_C, wanted.contiguous()).clamp(max=len(keys_C) - 1)
        return found, keys_C[found] == wanted

    def alive(self, stock: torch.Tensor | None) -> list[torch.Tensor | None]:
        """Return per level which children have an item in stock below them, bool [1 or B, children]; None: all."""
        if stock is None:
            return [None] * self.num_levels
        counts = functional.pad(stock[:, self.item_of_leaf_N].cumsum(1), (1, 0))
        return [counts[:, table.ends] > counts[:, table.ends - table.sizes] for table in self.levels]

    def legal(
        self, level: int, nodes_BW: torch.Tensor, logits_BWK: torch.Tensor, seen: Seen | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return each beam's first child, the codes of its children, and their log-probabilities.

        Children whose items are all in the history get the repeat bias. A beam with fewer than C children has -inf.
        """
        table = self.levels[level]
        first_BW = table.starts[nodes_BW]
        offsets_C = torch.arange(table.width, device=nodes_BW.device)
        missing_BWC = offsets_C >= (table.starts[nodes_BW + 1] - first_BW)[..., None]
        codes_BWC = table.codes[first_BW[..., None] + offsets_C]
        logits_BWC = logits_BWK.float().gather(-1, codes_BWC)
        if seen is not None and self.repeat_bias is not None:
            rows_Q, children_Q = self._all_seen(level, seen)
            marks_X, beams_X = torch.nonzero(nodes_BW[rows_Q] == table.parents[children_Q][:, None], as_tuple=True)
            rows_X, children_X = rows_Q[marks_X], children_Q[marks_X]
            logits_BWC[rows_X, beams_X, children_X - first_BW[rows_X, beams_X]] += self.repeat_bias
        return first_BW, codes_BWC, logits_BWC.masked_fill_(missing_BWC, -torch.inf).log_softmax(-1)

    def _all_seen(self, level: int, seen: Seen) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the histories and the nodes below `level` of which every item is in the history, int64 [Q]."""
        sizes_C = self.levels[level].sizes
        keys, counts = torch.unique(seen.rows_P * len(sizes_C) + self.node_LN[level][seen.items_P], return_counts=True)
        nodes = keys % len(sizes_C)
        whole = counts == sizes_C[nodes]
        return keys[whole] // len(sizes_C), nodes[whole]

    def seen(self, items_BT: torch.Tensor) -> Seen:
        """Return the distinct items of each row, of which NO_ITEM is none."""
        rows_P, columns_P = torch.nonzero(items_BT != NO_ITEM, as_tuple=True)
        pairs_P = torch.unique(rows_P * self.num_items + items_BT[rows_P, columns_P])
        return Seen(pairs_P // self.num_items, pairs_P % self.num_items)


class TrieProcessor(LogitsProcessor):  # type: ignore[misc]
    """Lets the beam search of transformers write items of the catalogue alone, with their exact scores.

    The prompt ends where an item begins or within one: the level is read off the last tokens.

    Args:
        catalogue: of the bundle, on the model's device.
        stock: bool [N], the items that may be recommended; None: all. The scores of the others stay as they are, which
            `renormalize_logits=True` would change: pass False with it.
    """

    def __init__(self, catalogue: Catalogue, stock: NDArray[np.bool_] | None = None) -> None:
        self.catalogue = catalogue
        mask = None if stock is None else torch.from_numpy(stock)[None].to(catalogue.codes_NL.device)
        self._alive = catalogue.alive(mask)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Return log-probabilities [B, V], -inf for all tokens that continue no item."""
        catalogue, size = self.catalogue, self.catalogue.codebook_size
        items_BT, node_B = catalogue.read(input_ids)
        level_B = (catalogue.level_of(input_ids[:, -1]) + 1).clamp(min=0) % catalogue.num_levels
        result = torch.full_like(scores, -torch.inf)
        seen = catalogue.seen(items_BT)
        for level in level_B.unique().tolist():
            rows = torch.nonzero((level_B == level) & (node_B >= 0))[:, 0]
            start = catalogue.first_code + level * size
            place_of = torch.full_like(level_B, -1).scatter(0, rows, torch.arange(len(rows), device=rows.device))
            kept = place_of[seen.rows_P] >= 0
            mine = Seen(place_of[seen.rows_P][kept], seen.items_P[kept])
            nodes_B1 = node_B[rows, None]
            first, codes, log_probs = catalogue.legal(level, nodes_B1, scores[rows, None, start : start + size], mine)
            alive = self._alive[level]
            if alive is not None:
                children = first[..., None] + torch.arange(codes.shape[-1], device=codes.device)
                log_probs = log_probs.masked_fill(~alive[0][children.clamp(max=alive.shape[1] - 1)], -torch.inf)
            best = result[rows].scatter_reduce(1, start + codes[:, 0], log_probs[:, 0].to(result.dtype), "amax")
            result[rows] = best
        # A beam that transformers keeps although it has probability 0 leads nowhere: it must not turn into NaN.
        return result.masked_fill((node_B < 0)[:, None], 0.0)  # type: ignore[return-value]


class _Reader:
    """The model with a batch of prompts: reads them once, then one code of every beam at a time.

    The W beams of a level are W positions of one sequence. A mask lets each see the prompt and its own ancestors, so
    the keys and values of a prompt are kept once for all beams.
    """

    def __init__(self, model: Any, catalogue: Catalogue, prompts: Sequence[torch.Tensor]) -> None:
        self._model, self._catalogue = model, catalogue
        self.tokens_BT = pad_sequence(list(prompts), batch_first=True)  # on the right: no prompt sees its padding
        self._lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=self.tokens_BT.device)
        self._cache = DynamicCache(config=model.config)
        self._level = 0

    def start(self) -> torch.Tensor:
        """Read the prompts and return the logits [B, 1, K] of the first level."""
        num_prompts, width = self.tokens_BT.shape
        places_T = torch.arange(width, device=self.tokens_BT.device)
        hidden_BTD = self._hidden(self.tokens_BT, places_T.expand(num_prompts, -1), None)
        self._sees_BWS = (places_T < self._lengths_B[:, None])[:, None]
        return self._logits(hidden_BTD[torch.arange(num_prompts, device=places_T.device), self._lengths_B - 1][:, None])

    def advance(self, codes_BW: torch.Tensor, parents_BW: torch.Tensor) -> torch.Tensor:
        """Read the last code of every beam and return the logits [B, W, K] of the next level."""
        num_prompts, num_beams = codes_BW.shape
        ancestors_BWS = self._sees_BWS.gather(1, parents_BW[..., None].expand(-1, -1, self._sees_BWS.shape[2]))
        itself_BWW = torch.eye(num_beams, dtype=torch.bool, device=codes_BW.device).expand(num_prompts, -1, -1)
        self._sees_BWS = torch.cat([ancestors_BWS, itself_BWW], dim=2)
        mask = torch.zeros(self._sees_BWS.shape, dtype=self._model.dtype, device=codes_BW.device)
        mask = mask.masked_fill_(~self._sees_BWS, -torch.inf)[:, None]
        tokens_BW = codes_BW + self._catalogue.first_code + self._level * self._catalogue.codebook_size
        positions_BW = (self._lengths_B + self._level)[:, None].expand(-1, num_beams)
        self._level += 1
        return self._logits(self._hidden(tokens_BW, positions_BW, mask))

    def _hidden(self, tokens: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        found = self._model.base_model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
        )
        hidden: torch.Tensor = found.last_hidden_state
        return hidden

    def _logits(self, hidden_BWD: torch.Tensor) -> torch.Tensor:
        start = self._catalogue.first_code + self._level * self._catalogue.codebook_size
        weight = self._model.get_output_embeddings().weight
        return functional.linear(hidden_BWD, weight[start : start + self._catalogue.codebook_size])


@torch.inference_mode()
def search(
    model: Any,
    catalogue: Catalogue,
    prompts: Sequence[torch.Tensor],
    num_beams: int,
    *,
    exclude: Sequence[NDArray[np.integer]] | None = None,
    stock: NDArray[np.bool_] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best items after prompts, int64 [B, W], and their log-probabilities; NO_ITEM and -inf fill up.

    Args:
        model: of the bundle.
        catalogue: on its device.
        prompts: B rows of tokens.
        num_beams: W, the prefixes that are kept at every level; with as many as items the search is exhaustive.
        exclude: per prompt the items that are left out of its list.
        stock: bool [N] or [B, N], the items that may be recommended. A prefix without one is not followed.
    """
    reader = _Reader(model, catalogue, prompts)
    device, num_prompts = reader.tokens_BT.device, len(prompts)
    seen = catalogue.seen(catalogue.read(reader.tokens_BT)[0])
    alive = catalogue.alive(None if stock is None else torch.from_numpy(np.atleast_2d(stock)).to(device))
    nodes_BW = torch.zeros((num_prompts, 1), dtype=torch.int64, device=device)
    scores_BW = torch.zeros((num_prompts, 1), device=device)
    logits_BWK = reader.start()
    for level, table in enumerate(catalogue.levels):
        first_BW, codes_BWC, log_probs_BWC = catalogue.legal(level, nodes_BW, logits_BWK, seen)
        totals_BX = (log_probs_BWC + scores_BW[..., None]).flatten(1)
        last, num_children = level == catalogue.num_levels - 1, len(table.parents)
        offsets_C = torch.arange(table.width, device=device)
        children_BX = (first_BW[..., None] + offsets_C).clamp(max=num_children - 1).flatten(1)
        alive_BC = alive[level]
        if alive_BC is not None:
            totals_BX = totals_BX.masked_fill(~alive_BC.expand(num_prompts, -1).gather(1, children_BX), -torch.inf)
        if last and exclude is not None:
            out_BN = _mask(exclude, catalogue.num_items).to(device)
            totals_BX = totals_BX.masked_fill(out_BN.gather(1, catalogue.item_of_leaf_N[children_BX]), -torch.inf)
        kept = min(num_beams, totals_BX.shape[1], num_children)
        scores_BW, chosen_BW = totals_BX.topk(kept, dim=1)
        parents_BW = chosen_BW // table.width
        # A missing child is replaced by its beam's first child with probability 0, so that every node exists.
        places_BW = (chosen_BW % table.width).masked_fill(scores_BW == -torch.inf, 0)
        nodes_BW = first_BW.gather(1, parents_BW) + places_BW
        if not last:
            logits_BWK = reader.advance(codes_BWC.flatten(1).gather(1, chosen_BW), parents_BW)
    items_BW = catalogue.item_of_leaf_N[nodes_BW].masked_fill(scores_BW == -torch.inf, NO_ITEM)
    missing = num_beams - items_BW.shape[1]
    return (
        functional.pad(items_BW, (0, missing), value=NO_ITEM),
        functional.pad(scores_BW, (0, missing), value=-torch.inf),
    )


class Recommender:
    """Ranks the catalogue for histories.

    Args:
        model: of the bundle, as `AutoModelForCausalLM.from_pretrained` returns it.
        catalogue: on the model's device.
        num_beams: the prefixes that a search keeps at every level, and the most items that it can return.
        batch_size: histories per search, at most; fewer if their beams need too much memory.
    """

    def __init__(self, model: Any, catalogue: Catalogue, *, num_beams: int = 50, batch_size: int = 64) -> None:
        self.model, self.catalogue = model.eval(), catalogue
        width = min(num_beams, catalogue.num_items)
        self.num_beams, self.batch_size = num_beams, max(1, min(batch_size, _MOST_CELLS // width**2))
        self.keys, self.max_history = catalogue.keys, catalogue.max_history

    def rank(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        exclude: Sequence[Sequence[str]] | None = None,
        allowed: Iterable[str] | None = None,
        blocked: Iterable[str] | None = None,
    ) -> list[list[tuple[str, float]]]:
        """Return the `k` best items of each history with their log-probabilities, best first.

        Args:
            histories: B lists of item keys, oldest first; the last `max_history` are read. An empty one is legal.
            k: how many items, at most `num_beams`.
            exclude: B lists of items that are left out, such as those a user knows.
            allowed: the only items that may be recommended to anybody; None: all.
            blocked: items that may be recommended to nobody.

        Raises:
            KeyError: the catalogue has no such item.
            ValueError: `k` is less than 1 or more than the beams.
        """
        stock = None
        if allowed is not None or blocked is not None:
            stock = np.full(len(self.keys), allowed is None)
            stock[self._items(allowed or ())] = True
            stock[self._items(blocked or ())] = False
        out = None if exclude is None else [self._items(keys) for keys in exclude]
        items_BK, scores_BK = self.rank_items([self._items(keys) for keys in histories], k, exclude=out, stock=stock)
        found = zip(items_BK.tolist(), scores_BK.tolist(), strict=True)
        return [
            [(self.keys[item], score) for item, score in zip(items, scores, strict=True) if item != NO_ITEM]
            for items, scores in found
        ]

    def rank_items(
        self,
        histories: Sequence[NDArray[np.integer]],
        k: int,
        *,
        exclude: Sequence[NDArray[np.integer]] | None = None,
        stock: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the `k` best items of each history by index, and their log-probabilities; arguments as `search`."""
        if not 1 <= k <= self.num_beams:
            raise ValueError(f"k={k} items from {self.num_beams} beams: ask for 1 to as many items as beams")
        items_BK = np.empty((len(histories), k), dtype=np.int32)
        scores_BK = np.empty((len(histories), k), dtype=np.float32)
        device, width = self.catalogue.codes_NL.device, max(k, min(self.num_beams, self.catalogue.num_items))
        order = np.argsort([len(history) for history in histories], kind="stable")  # those of a length together
        for start in range(0, len(histories), self.batch_size):
            rows = order[start : start + self.batch_size]
            prompts = [torch.tensor(self.catalogue.prompt(histories[row].tolist()), device=device) for row in rows]
            out = None if exclude is None else [exclude[row] for row in rows]
            kept = stock if stock is None or stock.ndim == 1 else stock[rows]
            items, scores = search(self.model, self.catalogue, prompts, width, exclude=out, stock=kept)
            items_BK[rows], scores_BK[rows] = items[:, :k].cpu().numpy(), scores[:, :k].cpu().numpy()
        return items_BK, scores_BK

    def _items(self, keys: Iterable[str]) -> NDArray[np.int64]:
        return np.array([self.catalogue.item_of(key) for key in keys], dtype=np.int64)


def load(folder: Path | str, *, device: str = "cpu", num_beams: int = 50) -> Recommender:
    """Return the recommender of a bundle.

    Args:
        folder: of the bundle.
        device: where it computes.
        num_beams: as `Recommender`.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", attn_implementation="sdpa")
    model.to(torch.device(device))  # type: ignore[arg-type]
    return Recommender(model, Catalogue(folder, device), num_beams=num_beams)


def generate(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    model: Any,
    num_beams: int | None = None,
    num_return_sequences: int | None = None,
    **others: Any,
) -> torch.Tensor:
    """Return each prompt followed by the tokens of one of its best items, [B * num_return_sequences, T + L].

    It is `model.generate` of a model that was loaded with `trust_remote_code=True`. Where a catalogue has fewer items
    than sequences are asked for, the last item is repeated.

    Raises:
        TypeError: an argument of another kind of generation.
    """
    if others:
        raise TypeError(f"{', '.join(others)}: this model's generate takes num_beams and num_return_sequences")
    settings = model.generation_config
    num_beams = settings.num_beams if num_beams is None else num_beams
    count = settings.num_return_sequences if num_return_sequences is None else num_return_sequences
    catalogue = Catalogue(model.name_or_path, input_ids.device)
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    prompts = [row[keep] for row, keep in zip(input_ids, mask.bool(), strict=True)]
    items_BW, _ = search(model, catalogue, prompts, max(num_beams, count))
    items_BK = torch.where(items_BW != NO_ITEM, items_BW, items_BW[:, catalogue.num_items - 1 :][:, :1])[:, :count]
    tokens_XL = catalogue.tokens(items_BK).flatten(0, 1)
    return torch.cat([input_ids.repeat_interleave(count, dim=0), tokens_XL], dim=1)


def text_encoder(tokenizer: Any, catalogue: Catalogue) -> Callable[[str], list[int]]:
    """Return what encodes a text of the catalogue, such as a title, for a prompt of another task.

    It reads all of it as text, as training did. The tokenizer itself reads `<a_1>` as the token of that name.
    """
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["id"] < catalogue.first_code]
    plain = type(tokenizer.backend_tokenizer).from_str(json.dumps(spec))
    plain.encode_special_tokens = True
    return lambda text: list(plain.encode(text, add_special_tokens=False).ids)


def _mask(lists: Sequence[NDArray[np.integer]], width: int) -> torch.Tensor:
    rows = np.zeros((len(lists), width), dtype=np.bool_)
    for row, items in zip(rows, lists, strict=True):
        row[items] = True
    return torch.from_numpy(rows)


def _file(folder: Path | str, name: str) -> str:
    """Return the path of a file of a bundle, be it a folder or a repository on the hub."""
    return str(cached_file(str(folder), name))
