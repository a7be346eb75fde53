"""The text tokenizer: byte-level BPE trained on the catalogue's text, or a pretrained model's tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from trialign.errors import ConfigError, DataError
from trialign.generate.tasks import TASKS

PAD, END = "<|pad|>", "<|end|>"


def task_token(task: str) -> str:
    """Return the token that opens every example of a task."""
    return f"<|{task}|>"


class TextTokenizer:
    """Encodes and decodes text, and has the special tokens: an end token and one task token per task.

    A vocabulary trained here begins with pad and these tokens. A pretrained model's vocabulary stays unchanged, with
    its own special tokens; ours get the ids after its last row.

    Args:
        tokenizer: a trained tokenizer.
        rows: rows of the pretrained model's embedding; None: the vocabulary itself holds the special tokens.
        own: the special tokens after those rows, in order.
    """

    def __init__(self, tokenizer: Tokenizer, rows: int | None = None, own: Sequence[str] = ()) -> None:
        # A title that contains "<|end|>" is encoded as text; special tokens are only added by id.
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.own = list(own)
        self._rows = int(tokenizer.get_vocab_size()) if rows is None else rows
        self.end = self._special(END)

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int) -> TextTokenizer:
        """Train BPE on `texts`; the result is deterministic and does not depend on their order.

        Args:
            texts: the catalogue's text.
            vocab_size: at most so many tokens, with special tokens and the 256 bytes; a small text yields fewer.

        Raises:
            ConfigError: `vocab_size` leaves no room for the bytes.
        """
        specials = [PAD, END, *(task_token(task) for task in TASKS)]
        least = len(specials) + 256
        if vocab_size < least:
            raise ConfigError(
                f"vocab_size={vocab_size}",
                rule=f"{len(specials)} special tokens and 256 bytes need {least}",
                remedy=f"set train.backbone.vocab_size={least} or more",
            )
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=specials,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def with_added_tokens(cls, tokenizer: Tokenizer, rows: int) -> TextTokenizer:
        """Return a pretrained model's tokenizer with our special tokens next to it; `rows` as in the class."""
        return cls(tokenizer, rows, [END, *(task_token(task) for task in TASKS)])

    @classmethod
    def load(cls, path: Path, rows: int | None = None, own: Sequence[str] = ()) -> TextTokenizer:
        """Read what `save` wrote; `rows` and `own` as in the class."""
        if not path.exists():
            raise DataError(
                f"{path} does not exist",
                rule="a generator is saved with its tokenizer",
                remedy="name a finished train folder, or run `trialign train` again",
            )
        return cls(Tokenizer.from_file(str(path)), rows, own)

    @property
    def size(self) -> int:
        """Number of tokens."""
        return self._rows + len(self.own)

    def task_token(self, task: str) -> int:
        """Return the token that opens the examples of `task`.

        Raises:
            DataError: the tokenizer was made before that task existed.
        """
        return self._special(task_token(task))

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without any special token."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens; special tokens are left out."""
        return str(self._tokenizer.decode([token for token in tokens if token < self._rows], skip_special_tokens=True))

    def save(self, path: Path) -> None:
        """Write one JSON file that transformers' tokenizers read too."""
        self._tokenizer.save(str(path))

    def _special(self, token: str) -> int:
        if token in self.own:
            return self._rows + self.own.index(token)
        # With added tokens, an equally spelled token of the pretrained vocabulary is a different token.
        found = None if self.own else self._tokenizer.token_to_id(token)
        if found is None:
            raise DataError(
                f"the tokenizer has no token {token}",
                rule="end and one task token per task are in every vocabulary",
                remedy="train a generator with that task, or leave the task out",
            )
        return int(found)
