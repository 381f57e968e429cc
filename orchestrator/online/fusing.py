"""The fuse stage of a query: which way to merge, and the aggregator's text as it comes."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import AsyncGenerator

import anyio.to_thread

from orchestrator import prompts
from orchestrator.fusion import aggregators, choosing, fusion
from orchestrator.fusion.choosing import Choice
from orchestrator.fusion.fusion import Fused
from orchestrator.online.generating import Asking, Generation, ended, failed
from orchestrator.online.query import Event, Piece, Stage, Usage
from orchestrator.online.transport import Trouble, WorkerLost
from orchestrator.online.visible_stream import VisibleStream
from orchestrator.pool.pool import Expert
from orchestrator.recruiting.values import Answered
from workers.messages import Completion, Request

STREAM_CHARS = 24
"""A text that is known already is streamed in pieces of about this size."""


class Fusing:
    """Runs the stage; afterwards `fused`, `finish_reason`, `usage`, `notes` and `seconds` tell how it went."""

    def __init__(self, asking: Asking, generation: Generation) -> None:
        self._asking = asking
        self._generation = generation
        self._answered: list[Answered] = []
        self._shown = ""
        self.fused: Fused | None = None
        self.finish_reason = "stop"
        self.usage = Usage()
        self.asked: tuple[tuple[str, Completion], ...] = ()
        self.notes: list[str] = []
        self.seconds = 0.0

    async def events(self) -> AsyncGenerator[Event, None]:
        """The chosen way, then the fused text in pieces (none where the only recruit's were streamed already)."""
        begun = time.monotonic()
        self._answered = await self._generation.answered()
        choice = await self._choice()
        if choice.method == "aggregate":
            async with contextlib.aclosing(self._aggregate(self._aggregator(), choice)) as events:
                async for event in events:
                    yield event
        else:
            fused = choice.explains(await self._counted(choice))
            yield Stage(stage="fusing", detail={"method": fused.method, "expert": fused.expert})
            self._settle(fused)
        self.seconds = time.monotonic() - begun
        for piece in self._unsaid():
            yield Piece(text=piece)

    async def _choice(self) -> Choice:
        """The fusion asked for, or the best by what is known, as far as calls and residency allow."""
        options, decision = self._asking.query.options, self._asking.decision
        if self._asking.is_single:
            return Choice(method="best_single", otherwise="best_single", why="one expert was asked")
        aggregator, recruitment = self._aggregator(), self._generation.recruitment
        choice = await anyio.to_thread.run_sync(
            functools.partial(
                choosing.choose,
                recruitment,
                self._answered,
                self._asking.query.question,
                wanted=options.fusion or "auto",
                aggregator=aggregator.name,
                learnt=decision.pool.synthesis,
            )
        )
        if choice.method != "aggregate":
            return choice
        if len(self._answered) >= decision.calls:
            return choice.without_aggregator("the budget left no call for an aggregator")
        if options.fusion == "aggregate" or options.aggregator or await self._is_ready(aggregator):
            return choice
        return choice.without_aggregator(f"the aggregator {aggregator.name} is not loaded")

    async def _is_ready(self, expert: Expert) -> bool:
        """Whether it can answer without a load before it."""
        return expert.model.engine != "vllm" or expert.model.key in await self._asking.transport.resident()

    def _aggregator(self) -> Expert:
        decision = self._asking.decision
        name = self._asking.query.options.aggregator or aggregators.pick(
            decision.pool.aggregators,
            [match.skill for match in decision.recruitment.skills],
            [recruit.expert for recruit in self._generation.recruitment.recruits],
        )
        return self._asking.expert(name)

    async def _counted(self, choice: Choice) -> Fused:
        merge = fusion.vote if choice.method == "vote" else fusion.best_single
        return await anyio.to_thread.run_sync(merge, self._generation.recruitment, self._answered)

    async def _aggregate(self, aggregator: Expert, choice: Choice) -> AsyncGenerator[Event, None]:
        """The aggregator's text as it comes; where it fails, the vote instead."""
        yield Stage(stage="fusing", detail={"method": "aggregate", "expert": aggregator.name})
        request, visible = self._request(aggregator), VisibleStream()
        completion = failed(request.id, WorkerLost("the answer broke off"))
        # A choice is overruled by the vote if none can be read from the text, so it is shown once that is known.
        is_live = not self._asking.query.question.options
        stream = self._asking.transport.stream(request, aggregator.model, deadline_s=self._asking.deadline_s)
        try:
            async with contextlib.aclosing(stream) as deltas:
                async for delta in deltas:
                    completion = ended(delta.completion) if delta.completion is not None else completion
                    if is_live and (piece := visible.feed(delta.text)):
                        self._shown += piece
                        yield Piece(text=piece)
        except Trouble as error:
            completion = failed(request.id, error)
        if completion.error:
            self.notes.append(f"aggregator {aggregator.name}: {completion.error}")
        elif rest := visible.end():
            self._shown += rest
            yield Piece(text=rest)
        self.usage = Usage.of(completion)
        self.asked = ((aggregator.name, completion),)
        self._settle(choice.explains(await self._read(aggregator, completion)), completion)

    def _request(self, aggregator: Expert) -> Request:
        query = self._asking.query
        sampling = query.sampling(self._asking.limited(aggregator.sampling))
        asked_chars = len(query.question.rendered()) + query.chars
        room = (aggregator.model.context_tokens - sampling.max_tokens) * prompts.CHARS_PER_TOKEN_MIN - asked_chars
        messages = prompts.aggregator_messages(
            self._asking.asked(aggregator),
            self._answered,
            seed=self._asking.decision.seed,
            max_chars=max(1, min(prompts.MAX_FUSED_CHARS, room)),
            max_tokens=sampling.max_tokens,
        )
        return Request(id=f"{query.id}.fuse", messages=messages, sampling=sampling, adapter=aggregator.adapter)

    async def _read(self, aggregator: Expert, completion: Completion) -> Fused:
        reason = "error" if completion.error else completion.finish_reason
        merged = Answered(expert=aggregator.name, text=completion.text, answer="", finish_reason=reason)
        return await anyio.to_thread.run_sync(
            fusion.read_aggregate,
            self._generation.recruitment,
            self._answered,
            self._asking.query.question,
            merged,
        )

    def _settle(self, fused: Fused, aggregated: Completion | None = None) -> None:
        """Take the result; a text written before anybody knew it would win is brought within the client's limits."""
        if fused.method == "aggregate" and aggregated is not None:
            self.fused, self.finish_reason = fused, aggregated.finish_reason
            return
        completions = {each.recruit.expert: each.completion for each in self._generation.generated}
        completion = completions.get(fused.expert or "")
        if completion is None:
            self.fused = fused
            return
        text, self.finish_reason = within_limits(
            fused.text,
            completion,
            stop=self._asking.query.overrides.get("stop", ()),
            max_tokens=self._asking.query.overrides.get("max_tokens"),
        )
        self.fused = dataclasses.replace(fused, text=text)

    def _unsaid(self) -> list[str]:
        """The fused text, as far as it was not streamed yet, in pieces."""
        if self._asking.is_single or self.fused is None:
            return []
        text = self.fused.text
        if text.startswith(self._shown.rstrip()):
            text = text[len(self._shown) :]
        elif self._shown:
            # The aggregator broke off in mid-stream: what was said cannot be taken back.
            text = f"\n\n{text}" if self.fused.method != "aggregate" else ""
        return [text[start : start + STREAM_CHARS] for start in range(0, len(text), STREAM_CHARS)]


def within_limits(
    text: str, completion: Completion, *, stop: tuple[str, ...], max_tokens: int | None
) -> tuple[str, str]:
    """(text, finish reason) cut at the first `stop`, and at about `max_tokens` by the completion's own rate."""
    reason: str = completion.finish_reason
    ends = [place for word in stop if word and (place := text.find(word)) >= 0]
    if ends:
        text, reason = text[: min(ends)], "stop"
    if max_tokens is not None and completion.completion_tokens > max_tokens:
        room = len(completion.text) * max_tokens // completion.completion_tokens
        if len(text) > room:
            text, reason = text[:room].rpartition(" ")[0] or text[:room], "length"
    return text, reason
