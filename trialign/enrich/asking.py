"""Ask a model one question per item: cached replies are reused, unusable replies are retried."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from trialign.config.enrich import AnnotatorConfig
from trialign.data.picture import BrokenPictureError
from trialign.enrich.cache import ReplyCache, request_key
from trialign.enrich.pictures import scaled
from trialign.enrich.protocol import Backend, Failure, Reply, Request
from trialign.enrich.templates import retry_prompt
from trialign.errors import StageError
from trialign.progress import Progress

Found = TypeVar("Found")
_HOPELESS = 20
"""So many questions without a reply, one after the other, end the asking."""


@dataclass(frozen=True)
class Part:
    """The share of a catalogue that one process asks about."""

    shard: int = 0
    shards: int = 1

    def __contains__(self, item: int) -> bool:
        return item % self.shards == self.shard

    @property
    def name(self) -> str:
        """The name of the process's cache file, without the suffix."""
        return f"{self.shard}-of-{self.shards}"


@dataclass
class AnnotationResult(Generic[Found]):
    """The result of an annotation: answers per item, and counts.

    Attributes:
        answers: per item the parsed reply, or a failure with its cause.
        replies: replies read, new or from the cache.
        asked: how many of them are new.
        retried: questions asked again, with the fault of the previous reply in the prompt.
        unwrapped: replies that could be parsed once the Markdown fence or text around their JSON was removed.
        tokens, seconds: cost of all these replies when they were generated.
        lost: items whose question got no reply.
        hopeless: asking ended early, after too many questions in a row without a reply.
    """

    answers: dict[int, Found | Failure] = field(default_factory=dict)
    replies: int = 0
    asked: int = 0
    retried: int = 0
    unwrapped: int = 0
    tokens: int = 0
    seconds: float = 0.0
    lost: set[int] = field(default_factory=set)
    hopeless: bool = False

    def counts(self) -> dict[str, Any]:
        """Return the counts for the manifest."""
        causes = Counter(answer.cause for answer in self.answers.values() if isinstance(answer, Failure))
        found = sum(not isinstance(answer, Failure) for answer in self.answers.values())
        return {
            "found": found,
            "failures": dict(sorted(causes.items())),
            "replies": self.replies,
            "asked_now": self.asked,
            "retried": self.retried,
            "unwrapped": self.unwrapped,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class Annotator(Generic[Found]):
    """Annotates the items of a catalogue with a model's replies.

    Attributes:
        what: `captions`, `interests` or `judge`.
        backend: the model that is asked.
        questions: yields the request for each of some items.
        read: parses a reply's text, or returns the failure that makes it unusable.
        prompt_hash: of the template.
        settings: how often a question is repeated, and which share of them may stay without a reply.
        max_side: longest side of a picture in pixels; larger ones are scaled down. Of no effect without pictures.
        bare: extracts the part of a reply that `read` parses, to count replies with text around it.
        group: config group named in errors.
    """

    what: str
    backend: Backend
    questions: Callable[[Collection[int]], Iterator[tuple[int, Request]]]
    read: Callable[[str], Found | Failure]
    prompt_hash: str
    settings: AnnotatorConfig
    max_side: int = 1
    bare: Callable[[str], str] = str.strip
    group: str = "enrich"

    def ask(self, items: Collection[int], cache: ReplyCache) -> AnnotationResult[Found]:
        """Ask about `items`; every reply is in the cache before it is used.

        Raises:
            StageError: too many questions got no reply; those that did are kept.
        """
        asked: AnnotationResult[Found] = AnnotationResult()
        wanted = dict.fromkeys(items, "")
        for number in range(self.settings.retries + 1):
            with Progress(self.what if not number else f"{self.what}, asked again", len(wanted)) as progress:
                wanted = _RetryRound(self, cache, asked, wanted, number, progress).run()
            self._judge(asked, len(items))
            if not wanted:
                break
        return asked

    def _judge(self, asked: AnnotationResult[Found], num_items: int) -> None:
        most = self.settings.max_failure_rate
        if not asked.hopeless and len(asked.lost) <= most * num_items:
            return
        failures = [failure for item in sorted(asked.lost) if isinstance(failure := asked.answers[item], Failure)]
        causes = ", ".join(f"{cause} {n}" for cause, n in Counter(found.cause for found in failures).most_common())
        detail = next((f" ({found.detail})" for found in failures if found.detail), "")
        raise StageError(
            f"{len(failures)} questions for {self.what} got no reply from {self.backend.source}: {causes}{detail}",
            rule=f"{self.group}.{self.what}.max_failure_rate={most} of {num_items} may go without",
            remedy="see to the server, the model's name or the key; the same command then asks only what is missing",
        )


class _RetryRound(Generic[Found]):
    """One round of questions, at most one for each wanted item."""

    def __init__(
        self,
        annotator: Annotator[Found],
        cache: ReplyCache,
        asked: AnnotationResult[Found],
        wanted: dict[int, str],
        number: int,
        progress: Progress,
    ) -> None:
        self._interview, self._cache, self._asked, self._progress = annotator, cache, asked, progress
        self._wanted, self._number = wanted, number
        self._waiting: dict[str, list[int]] = {}
        self._unusable: dict[int, str] = {}
        self._in_vain = 0

    def run(self) -> dict[int, str]:
        """Return the items to retry, each with the cause that made its reply unusable."""
        self._interview.backend.answer(self._open(), self._keep)
        return dict(sorted(self._unusable.items()))

    def _open(self) -> Iterator[tuple[str, Request]]:
        """Yield the questions that no cached reply answers; equal questions once."""
        identity = f"{self._interview.backend.identity} max_side={self._interview.max_side}"
        for item, request in self._interview.questions(self._wanted):
            if self._number:
                request = Request(retry_prompt(request.text, self._wanted[item], self._number), request.image)
            key = request_key(request, identity, self._interview.prompt_hash)
            if (reply := self._cache.get(key)) is not None:
                self._settle(item, reply)
                self._progress.add(reused=True)
            elif key in self._waiting:
                self._waiting[key].append(item)
            else:
                try:
                    image = None if request.image is None else scaled(request.image, self._interview.max_side)
                except BrokenPictureError as cause:
                    self._asked.answers[item] = Failure("broken_picture", str(cause))
                    continue
                self._waiting[key] = [item]
                yield key, Request(request.text, image)
            if self._in_vain >= _HOPELESS:
                self._asked.hopeless = True
                return

    def _keep(self, key: str, answer: Reply | Failure) -> None:
        if isinstance(answer, Reply):
            self._cache.put(key, answer)
            self._asked.asked += 1
            self._in_vain = 0
        else:
            self._in_vain += 1
        for item in self._waiting.pop(key):
            self._settle(item, answer)
            self._progress.add()

    def _settle(self, item: int, answer: Reply | Failure) -> None:
        asked = self._asked
        if isinstance(answer, Failure):
            asked.lost.add(item)
            asked.answers[item] = answer
            return
        asked.replies += 1
        asked.retried += self._number > 0
        asked.tokens += answer.tokens
        asked.seconds += answer.seconds
        found = Failure("cut_off", answer.text[-200:]) if answer.cut else self._interview.read(answer.text)
        asked.answers[item] = found
        if isinstance(found, Failure):
            self._unusable[item] = found.cause
        elif self._interview.bare(answer.text) != answer.text.strip():
            asked.unwrapped += 1
