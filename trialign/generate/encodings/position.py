"""Item encoding `position`: an item is one position, and its codes are scored by vectors of the trie's nodes.

A few hundred code vectors cannot single out an item; the nodes of the trie can. A leaf's vector is the item's input
vector, a node's is the mean over the leaves below it. The joint level is the deepest level with few enough nodes: the
model is one softmax over its nodes, and a shorter prefix has the sum of the probabilities of the nodes below it. Below
the joint level, each node's children have a softmax of their own. Input, output and search share the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trialign.decode.index import PrefixIndex
from trialign.decode.path import Trie
from trialign.decode.step import Beams
from trialign.generate.backbone import HiddenStates
from trialign.generate.encodings.encoding import CodeEmbedding, ItemEncoding
from trialign.generate.encodings.repeats import RepeatTerm, Seen
from trialign.generate.loss import Predictions, TablePredictions
from trialign.generate.softmax import Marks, add_at
from trialign.types import NO_ITEM

_LEAST = -80.0
"""Smallest log-probability of a node that is told from others in the sum of a prefix."""


class PositionRows:
    """An item is one position with token `text_vocab + item`; the network handles its codes.

    Args:
        text_vocab: number of text tokens.
    """

    positions_per_item = 1

    def __init__(self, text_vocab: int) -> None:
        self._text_vocab = text_vocab

    def positions(self, items: NDArray[Any]) -> NDArray[np.int64]:
        """Return the tokens of a sequence of items, int64 [n]."""
        return items.astype(np.int64) + self._text_vocab

    def spread(self, per_item: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the values unchanged."""
        return per_item


class PositionEncoding(ItemEncoding):
    """Embeds an item as the sum of its code, feature and id vectors, and predicts it as a path through the trie.

    Args:
        codes_NL: the semantic IDs.
        text_vocab: number of text tokens; item i is token `text_vocab + i`.
        vectors_LKD: initial vectors of all codes.
        features_NF: fixed vectors of the items, added through a learned projection; None leaves them out.
        id_embedding: add a learned vector per item. It memorizes what codes cannot, and grows with the catalogue.
        joint_nodes: largest joint softmax; the deepest level with at most so many nodes is the joint level.
        read_scale: factor on an item's vector as input. As output vectors they should be short; as inputs that short
            they would be small next to what the first layers add (Vaswani et al. 2017, 3.4).
        repeats: learn the repeat term.
    """

    name = "position"
    items_only = True
    node_of_leaf_LN: torch.Tensor
    leaf_of_item_N: torch.Tensor
    codes_NL: torch.Tensor
    features_NF: torch.Tensor | None

    def __init__(
        self,
        codes_NL: NDArray[np.integer],
        text_vocab: int,
        vectors_LKD: torch.Tensor,
        *,
        features_NF: torch.Tensor | None,
        id_embedding: bool,
        joint_nodes: int,
        read_scale: float = 1.0,
        repeats: bool = False,
    ) -> None:
        super().__init__()
        num_levels, codebook_size, width = vectors_LKD.shape
        index = PrefixIndex.from_codes(codes_NL, codebook_size)
        trie = Trie.from_index(index)
        self.rows = PositionRows(text_vocab)
        self.text_vocab = text_vocab
        self.codebook_size = codebook_size
        self.joint_nodes = joint_nodes
        self.read_scale = read_scale
        self.widths = [level.width for level in index.levels]
        self.joint = max([0, *(i for i, level in enumerate(index.levels) if level.num_children <= joint_nodes)])
        # Rows of the item tables are in the order of the trie, so that the leaves of a node are adjacent.
        in_order = torch.from_numpy(np.array(codes_NL, np.int64))[index.items]
        for name, table in {
            "leaf_of_item_N": torch.argsort(index.items),
            "node_of_leaf_LN": trie.nodes_DN[1:, index.items],
            "codes_NL": in_order,
        }.items():
            self.register_buffer(name, table, persistent=False)
        for number, level in enumerate(index.levels):
            self.register_buffer(f"starts_{number}", level.starts, persistent=False)
            self.register_buffer(f"child_codes_{number}", level.codes, persistent=False)
        self.register_buffer("features_NF", None if features_NF is None else features_NF[index.items])
        self.code_embedding = CodeEmbedding(vectors_LKD)
        self.ids = nn.Embedding(len(index.items), width) if id_embedding else None
        if self.ids is not None:
            nn.init.normal_(self.ids.weight, std=float(vectors_LKD.std()))
        self.project = None if features_NF is None else nn.Linear(features_NF.shape[1], width, bias=False)
        self.repeats = RepeatTerm(trie) if repeats else None
        self.queries = nn.ModuleList(_Query(width) for _ in range(num_levels - self.joint))

    @property
    def settings(self) -> dict[str, str | float]:
        """The arguments that are neither weights nor features."""
        return {
            "encoding": self.name,
            "id_embedding": self.ids is not None,
            "joint_nodes": self.joint_nodes,
            "read_scale": self.read_scale,
            "repeats": self.repeats is not None,
            "feature_dim": 0 if self.project is None else self.project.in_features,
        }

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the vectors [..., D] of item tokens [...]."""
        return self._vectors(self.leaf_of_item_N[tokens - self.text_vocab]) * self.read_scale

    def read(self, tokens_RT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the item of each token, and where there is one: an item ends where it begins."""
        is_item_RT = tokens_RT >= self.text_vocab
        return torch.where(is_item_RT, tokens_RT - self.text_vocab, NO_ITEM), is_item_RT

    def predict(
        self, hidden_MD: torch.Tensor, answers_M: torch.Tensor, tasks_M: torch.Tensor, seen: Seen | None = None
    ) -> list[Predictions | TablePredictions]:
        """Return predictions for the joint level, then for each level below it over the children of the true parent."""
        leaves_M = self.leaf_of_item_N[answers_M - self.text_vocab]
        table_ND = self.leaf_vectors()
        nodes_M = self.node_of_leaf_LN[self.joint][leaves_M]
        nodes_SD = self._node_vectors(table_ND, self.joint)
        marks = None
        if self.repeats is not None and seen is not None:
            marks = Marks(*self._marked(self.joint, seen), self.repeats())
        groups: list[Predictions | TablePredictions] = [
            TablePredictions(self.queries[0](hidden_MD), nodes_SD, nodes_M, tasks_M, marks)
        ]
        for level in range(self.joint + 1, len(self.widths)):
            parents_M, nodes_M = nodes_M, self.node_of_leaf_LN[level][leaves_M]
            children_MC, legal_MC = self._children(level, parents_M)
            logits_MC = self.child_logits(hidden_MD[:, None], table_ND, level, children_MC[:, None]).squeeze(1)
            first_M = getattr(self, f"starts_{level}")[parents_M]
            if self.repeats is not None and seen is not None:
                rows_Q, nodes_Q = self._marked(level, seen)
                slots_Q = nodes_Q - first_M[rows_Q]
                here_Q = (slots_Q >= 0) & (slots_Q < legal_MC.shape[1])
                logits_MC = add_at(logits_MC, (rows_Q[here_Q], slots_Q[here_Q]), self.repeats())
            groups.append(Predictions(logits_MC.masked_fill(~legal_MC, -torch.inf), nodes_M - first_M, tasks_M))
        return groups

    def scorer(
        self,
        generator: HiddenStates,
        prompts: Sequence[NDArray[np.int64]],
        vectors: Sequence[torch.Tensor] | None = None,
    ) -> PositionScorer:
        """Return the `LevelScorer` of a batch of prompts."""
        return PositionScorer(generator, self, prompts, self.search_vectors() if vectors is None else vectors)

    @property
    def one_softmax(self) -> bool:
        """Whether the joint level is the last one."""
        return self.joint == len(self.widths) - 1

    def item_log_probs(
        self, generator: HiddenStates, prompts: Sequence[NDArray[np.int64]], vectors: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Return the log-probabilities [B, N] of all items after each prompt, where the joint level is the last."""
        return self.scorer(generator, prompts, vectors).joint_BS[:, self.leaf_of_item_N]

    def search_vectors(self) -> list[torch.Tensor]:
        """Return the node vectors [nodes, D] of the joint level and each level below; they do not depend on prompts."""
        table_ND = self.leaf_vectors()
        return [self._node_vectors(table_ND, level) for level in range(self.joint, len(self.widths))]

    def leaf_vectors(self) -> torch.Tensor:
        """Return the vectors [N, D] of all items, in the order of the trie."""
        return self._vectors(torch.arange(len(self.codes_NL), device=self.codes_NL.device))

    def child_logits(
        self, hidden_BWD: torch.Tensor, table_ND: torch.Tensor, level: int, nodes_BWC: torch.Tensor
    ) -> torch.Tensor:
        """Return the logits [B, W, C] of nodes of a level below the joint one."""
        query_BWD = self.queries[level - self.joint](hidden_BWD)
        vectors_BWCD = self._node_vectors(table_ND, level)[nodes_BWC]
        return torch.einsum("bwd,bwcd->bwc", query_BWD.expand(*nodes_BWC.shape[:2], -1), vectors_BWCD)

    def prefix_log_probs(self, chances_BS: torch.Tensor, level: int) -> torch.Tensor:
        """Return log-probabilities [B, nodes] of a level above the joint one, of probabilities `chances_BS`."""
        owner_S = torch.empty(chances_BS.shape[1], dtype=torch.int64, device=chances_BS.device)
        owner_S[self.node_of_leaf_LN[self.joint]] = self.node_of_leaf_LN[level]
        num_nodes = len(getattr(self, f"child_codes_{level}"))
        return chances_BS.new_zeros((len(chances_BS), num_nodes)).index_add_(1, owner_S, chances_BS).log_()

    def code_rows(self, level: int, nodes_BW: torch.Tensor, scores_BS: torch.Tensor) -> torch.Tensor:
        """Return the scores [B, W, K] of the codes that may follow nodes, -inf where no item continues that way.

        Args:
            level: the level of the codes.
            nodes_BW: the prefixes.
            scores_BS: of all nodes that the level's codes lead to.
        """
        children_BWC, legal_BWC = self._children(level, nodes_BW)
        found_BWC = scores_BS.gather(1, children_BWC.flatten(1)).view_as(children_BWC)
        # Missing children repeat the node's first child; they are scattered into a spare slot, which is cut off.
        codes_BWC = getattr(self, f"child_codes_{level}")[children_BWC]
        slots_BWC = codes_BWC.masked_fill(~legal_BWC, self.codebook_size)
        room = found_BWC.new_full((*nodes_BW.shape, self.codebook_size + 1), -torch.inf)
        return room.scatter_(-1, slots_BWC, found_BWC)[..., :-1]

    def biased(self, level: int, logits_BS: torch.Tensor, seen: Seen | None) -> torch.Tensor:
        """Return the logits of all nodes of a level with the repeat term."""
        if self.repeats is None or seen is None:
            return logits_BS
        return add_at(logits_BS, self._marked(level, seen), self.repeats())

    def _marked(self, level: int, seen: Seen) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the places and nodes of a level that the repeat term applies to."""
        assert self.repeats is not None
        rows_Q, items_Q = self.repeats.marked(level, seen)
        return rows_Q, self.repeats.node_LN[level][items_Q]

    def _children(self, level: int, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the children [..., C] of nodes [...] and which of them exist; missing ones repeat the first."""
        starts = getattr(self, f"starts_{level}")
        first, count = starts[nodes], starts[nodes + 1] - starts[nodes]
        offsets_C = torch.arange(self.widths[level], device=nodes.device)
        legal = offsets_C < count[..., None]
        return torch.where(legal, first[..., None] + offsets_C, first[..., None]), legal

    def _vectors(self, leaves: torch.Tensor) -> torch.Tensor:
        codes = self.codes_NL[leaves]
        levels_L = torch.arange(codes.shape[-1], device=codes.device)
        vectors: torch.Tensor = self.code_embedding(levels_L, codes).sum(dim=-2)
        if self.ids is not None:
            vectors = vectors + self.ids(leaves)
        if self.project is not None:
            assert self.features_NF is not None
            vectors = vectors + self.project(self.features_NF[leaves])
        return vectors

    def _node_vectors(self, table_ND: torch.Tensor, level: int) -> torch.Tensor:
        if level == len(self.widths) - 1:
            return table_ND
        owner_N = self.node_of_leaf_LN[level]
        num_nodes = int(owner_N[-1]) + 1
        sums = table_ND.new_zeros((num_nodes, table_ND.shape[1])).index_add(0, owner_N, table_ND)
        return sums / torch.bincount(owner_N, minlength=num_nodes)[:, None]


class PositionScorer:
    """A `LevelScorer` for encoding `position`: the backbone runs once per prompt, for any number of levels.

    Args:
        generator: in eval mode.
        items: its `PositionEncoding`.
        prompts: tokens of each prompt, at least one.
        vectors: `items.search_vectors()`.
    """

    def __init__(
        self,
        generator: HiddenStates,
        items: PositionEncoding,
        prompts: Sequence[NDArray[np.int64]],
        vectors: Sequence[torch.Tensor],
    ) -> None:
        self._items = items
        self._vectors = vectors
        self._level = 0
        device = items.codes_NL.device
        lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
        tokens_BT = nn.utils.rnn.pad_sequence([torch.from_numpy(p) for p in prompts], batch_first=True).to(device)
        self._seen = items.seen_in_prompts(tokens_BT)
        places_T = torch.arange(tokens_BT.shape[1], device=device)
        # Padding is on the right, hidden by causal attention; positions do not restart, so a row is one example.
        hidden_BTD = generator.hidden(tokens_BT, places_T.expand(len(tokens_BT), -1))
        self._hidden_BD = hidden_BTD[torch.arange(len(tokens_BT), device=device), lengths_B - 1]
        self.joint_BS = self._logits(items.joint).log_softmax(dim=1)
        """Log-probabilities of the nodes of the joint level."""

    def start(self) -> torch.Tensor:
        """Return the scores [B, K] of the first codes."""
        roots_B1 = torch.zeros((len(self._hidden_BD), 1), dtype=torch.int64, device=self._hidden_BD.device)
        return self._score(roots_B1)[:, 0]

    def advance(self, beams: Beams) -> torch.Tensor:
        """Return the scores [B, W, K] of the codes that may follow every beam."""
        self._level += 1
        return self._score(beams.nodes)

    def _score(self, nodes_BW: torch.Tensor) -> torch.Tensor:
        if self._level < self._items.joint:
            scores_BS = self._items.prefix_log_probs(self._chances, self._level)
        elif self._level == self._items.joint:
            scores_BS = self.joint_BS
        else:
            # One matrix product with all nodes reads each vector once; a gather per beam would read them W times.
            scores_BS = self._logits(self._level)
        return self._items.code_rows(self._level, nodes_BW, scores_BS)

    @cached_property
    def _chances(self) -> torch.Tensor:
        # Clamped, so that no logarithm is -inf and no arithmetic on denormals slows the search.
        return self.joint_BS.clamp_min(_LEAST).exp_()

    def _logits(self, level: int) -> torch.Tensor:
        """Return the logits [B, nodes] of all nodes of the joint level or of one below it."""
        place = level - self._items.joint
        logits_BS: torch.Tensor = self._items.queries[place](self._hidden_BD) @ self._vectors[place].T
        return self._items.biased(level, logits_BS.float(), self._seen)


class _Query(nn.Module):
    """The query of a level: LN(z + MLP(z))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        asked: torch.Tensor = self.norm(hidden + self.change(hidden))
        return asked
