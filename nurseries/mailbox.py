"""The inbox of an actor: bounded, typed, with an optional answer.

Decides how actors talk: a sender either waits for room or is told at once that there is none, and a question carries
its own answer slot, deadline-free, so that who gives up (or is cancelled) stops the work behind it. A mailbox outlives
the actor that empties it: a restarted actor goes on where the crashed one stopped. It must not know what messages mean.
"""

from __future__ import annotations

import contextvars
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from coproc.errors import CoprocError, Overloaded, RecoverableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator

M = TypeVar("M")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class MailboxStatistics:
    """How full a mailbox is, for metrics."""

    waiting: int
    """Messages not yet taken."""
    capacity: int
    peak: int
    """The most messages that ever waited at once."""
    blocked_senders: int
    """Tasks that wait for room."""
    refused: int
    """Messages turned away by ``offer`` so far."""


class Mailbox(Generic[M]):
    """A bounded first-in first-out inbox. ``capacity`` 0 hands messages over directly, like a rendezvous."""

    def __init__(self, name: str, capacity: int) -> None:
        self.name = name
        self._send, self._receive = trio.open_memory_channel[M](capacity)
        self._refused = 0

    def offer(self, message: M) -> None:
        """Put a message in without waiting: the admission control of everything that comes from outside.

        Raises:
            Overloaded: there is no room.
        """
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            self._refused += 1
            raise Overloaded(f"{self.name} is full", mailbox=self.name, retry_after=1.0) from None

    async def send(self, message: M) -> None:
        """Put a message in, waiting for room: back-pressure between actors. No checkpoint if there is room."""
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            await self._send.send(message)

    async def receive(self) -> M:
        """Take the oldest message, waiting for one."""
        return await self._receive.receive()

    def __aiter__(self) -> AsyncIterator[M]:
        return self._receive

    @property
    def statistics(self) -> MailboxStatistics:
        """How full the mailbox is now."""
        inner = self._send.statistics()
        return MailboxStatistics(
            waiting=inner.current_buffer_used,
            capacity=int(inner.max_buffer_size),
            peak=inner.peak_buffer_used,
            blocked_senders=inner.tasks_waiting_send,
            refused=self._refused,
        )


class Call(Generic[M, R]):
    """A message whose sender waits for an answer.

    The context variables of the sender travel in ``context`` (a memory channel would lose them), so that traces join.
    """

    def __init__(self, message: M) -> None:
        self.message = message
        self.context = contextvars.copy_context()
        self._scope = trio.CancelScope()
        self._answered = trio.Event()
        self._value: tuple[R] | None = None
        self._error: CoprocError | None = None

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._scope.cancel_called

    @property
    def answered(self) -> bool:
        """Whether an answer or an error is there."""
        return self._answered.is_set()

    def abandon(self) -> None:
        """Say that the answer is not wanted any more: cancels the work inside ``answering``."""
        self._scope.cancel(reason="the caller gave up")

    def answer(self, value: R) -> None:
        """Give the answer; further answers are ignored."""
        if not self._answered.is_set():
            self._value = (value,)
            self._answered.set()

    def fail(self, error: CoprocError) -> None:
        """Give an error instead of an answer."""
        if not self._answered.is_set():
            self._error = error
            self._answered.set()

    @contextmanager
    def answering(self) -> Generator[None]:
        """Work on the call: leaving the block without an answer, however that happens, gives the caller an error.

        Errors of coproc go to the caller and stop here: they speak of the message. Anything else is a defect of the
        actor: the caller gets a RecoverableError (another try may go elsewhere) and the exception goes on, so that the
        supervisor sees the crash. The block is cancelled when the caller gives up.
        """
        try:
            with self._scope:
                yield
        except CoprocError as error:
            self.fail(error)
        finally:
            self.fail(RecoverableError("the actor stopped before it had an answer"))

    async def result(self) -> R:
        """Wait for the answer; giving up (cancellation, a timeout) abandons the call.

        Raises:
            CoprocError: what the actor failed with.
        """
        try:
            await self._answered.wait()
        finally:
            if not self._answered.is_set():
                self.abandon()
        if self._error is not None:
            raise self._error
        if self._value is None:
            raise RecoverableError("the actor gave no answer")
        return self._value[0]


async def ask(mailbox: Mailbox[Call[M, R]], message: M) -> R:
    """Send ``message`` (waiting for room) and wait for the answer.

    Raises:
        CoprocError: what the actor failed with.
    """
    call = Call[M, R](message)
    await mailbox.send(call)
    return await call.result()
