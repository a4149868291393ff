"""What senders and actors can rely on of a mailbox."""

from __future__ import annotations

import contextvars

import pytest
import trio
import trio.testing

from coproc.errors import InvalidInput, Overloaded, RecoverableError
from nurseries.mailbox import Call, Mailbox, ask


async def test_messages_arrive_in_order() -> None:
    mailbox = Mailbox[int]("inbox", 3)
    for number in range(3):
        mailbox.offer(number)
    assert [await mailbox.receive() for _ in range(3)] == [0, 1, 2]


async def test_offer_to_a_full_mailbox_is_overloaded_and_counted() -> None:
    mailbox = Mailbox[int]("inbox", 2)
    mailbox.offer(1)
    mailbox.offer(2)
    with pytest.raises(Overloaded) as caught:
        mailbox.offer(3)
    assert caught.value.context == {"mailbox": "inbox", "retry_after": 1.0}
    statistics = mailbox.statistics
    assert (statistics.waiting, statistics.capacity, statistics.peak, statistics.refused) == (2, 2, 2, 1)
    assert await mailbox.receive() == 1
    mailbox.offer(3)


async def test_send_waits_for_room(nursery: trio.Nursery) -> None:
    mailbox = Mailbox[int]("inbox", 1)
    mailbox.offer(1)
    nursery.start_soon(mailbox.send, 2)
    await trio.testing.wait_all_tasks_blocked()
    assert mailbox.statistics.blocked_senders == 1
    assert await mailbox.receive() == 1
    assert await mailbox.receive() == 2


async def test_messages_outlive_the_actor_that_takes_them() -> None:
    mailbox = Mailbox[int]("inbox", 4)
    for number in range(4):
        mailbox.offer(number)
    taken: list[int] = []

    async def actor() -> None:
        async for number in mailbox:
            taken.append(number)
            if number == 1:
                raise ValueError(number)

    with pytest.raises(ValueError, match="1"):
        await actor()
    assert [await mailbox.receive(), await mailbox.receive()] == [2, 3]
    assert taken == [0, 1]


async def test_ask_gives_the_answer_and_carries_the_senders_context(nursery: trio.Nursery) -> None:
    span = contextvars.ContextVar("span", default="none")
    mailbox = Mailbox[Call[int, str]]("inbox", 1)

    async def actor() -> None:
        call = await mailbox.receive()
        with call.answering():
            call.answer(f"{call.message} in {call.context[span]}")

    nursery.start_soon(actor)
    span.set("request 7")
    assert await ask(mailbox, 5) == "5 in request 7"


async def test_an_error_of_ours_reaches_the_caller_and_spares_the_actor(nursery: trio.Nursery) -> None:
    mailbox = Mailbox[Call[int, int]]("inbox", 1)
    survived = trio.Event()

    async def actor() -> None:
        call = await mailbox.receive()
        with call.answering():
            raise InvalidInput("number", "must be even")
        survived.set()

    nursery.start_soon(actor)
    with pytest.raises(InvalidInput, match="must be even"):
        await ask(mailbox, 5)
    assert survived.is_set()


async def test_a_defect_crashes_the_actor_and_the_caller_may_try_elsewhere() -> None:
    call = Call[int, int](1)
    with pytest.raises(ZeroDivisionError), call.answering():
        call.answer(1 // 0)
    with pytest.raises(RecoverableError):
        await call.result()


async def test_a_cancelled_actor_still_tells_the_caller() -> None:
    call = Call[int, int](1)
    with trio.CancelScope() as scope:
        scope.cancel()
        with call.answering():
            await trio.sleep_forever()
    with pytest.raises(RecoverableError, match="stopped"):
        await call.result()


@pytest.mark.usefixtures("autojump_clock")
async def test_giving_up_cancels_the_work(nursery: trio.Nursery) -> None:
    mailbox = Mailbox[Call[int, int]]("inbox", 1)
    stopped_at: list[float] = []

    async def actor() -> None:
        call = await mailbox.receive()
        with call.answering():
            try:
                await trio.sleep(100)
            finally:
                stopped_at.append(trio.current_time())
        assert call.abandoned

    nursery.start_soon(actor)
    began = trio.current_time()
    with trio.move_on_after(2):
        await ask(mailbox, 1)
    await trio.testing.wait_all_tasks_blocked()
    assert stopped_at == [began + 2]


async def test_a_second_answer_is_ignored() -> None:
    call = Call[int, int](1)
    call.answer(1)
    call.answer(2)
    assert await call.result() == 1
