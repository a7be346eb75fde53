"""Byte-level BPE trained on the catalogue's own text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from trialign.errors import ConfigError, DataError
from trialign.generate.tasks import TASKS

PAD, END = "<|pad|>", "<|end|>"


def marker(task: str) -> str:
    """Return the token that opens every example of a task."""
    return f"<|{task}|>"


class TextTokenizer:
    """Text to tokens and back; the special tokens come first: pad, end, one marker per task.

    Args:
        tokenizer: a trained tokenizer whose vocabulary holds the special tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        # A title that happens to spell "<|end|>" is text; the special tokens enter by number only.
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.pad = self._special(PAD)
        self.end = self._special(END)

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int) -> TextTokenizer:
        """Learn the merges from `texts`, in any order and always alike.

        Args:
            texts: the catalogue's text.
            vocab_size: tokens at most, special ones and the 256 bytes included; a small text yields fewer.

        Raises:
            ConfigError: `vocab_size` leaves no room for the bytes.
        """
        specials = [PAD, END, *(marker(task) for task in TASKS)]
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
    def load(cls, path: Path) -> TextTokenizer:
        """Read what `save` wrote."""
        if not path.exists():
            raise DataError(
                f"{path} does not exist",
                rule="a generator is saved with its tokenizer",
                remedy="name a finished train folder, or run `trialign train` again",
            )
        return cls(Tokenizer.from_file(str(path)))

    @property
    def size(self) -> int:
        """Number of tokens."""
        return int(self._tokenizer.get_vocab_size())

    def marker(self, task: str) -> int:
        """Return the token that opens the examples of `task`.

        Raises:
            DataError: the tokenizer was made before that task existed.
        """
        return self._special(marker(task))

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without any special token."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens; special tokens are left out."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def save(self, path: Path) -> None:
        """Write one JSON file that transformers' tokenizers read too."""
        self._tokenizer.save(str(path))

    def _special(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise DataError(
                f"the tokenizer has no token {token}",
                rule="pad, end and one marker per task are in every vocabulary",
                remedy="train a generator with that task, or leave the task out",
            )
        return int(found)
