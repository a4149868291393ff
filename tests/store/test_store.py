"""What every store promises: the same tests hold memory and Postgres to it."""

from __future__ import annotations

import hashlib
from contextlib import aclosing
from dataclasses import replace

import pytest
import trio
import trio.lowlevel

from coproc.errors import InvalidInput, NotFound
from coproc.program.computation import Computation, Operation, Scalar
from coproc.store.base import Failure, GroupOutcome, KeyRecord, ResultEvent, State, Store, StoredCiphertext, Topic
from coproc.store.rules import INPUT_FAILED
from tests.store.builders import (
    KEY,
    TRANSACTION,
    add,
    batch,
    ciphertext,
    done,
    handle,
    pieces,
    with_inputs,
    with_key,
    work,
)

OTHER = b"u" * 32


async def test_keys_come_back_whole(store: Store) -> None:
    data = bytes(range(256)) * 40_000  # more than two chunks
    key_id = hashlib.sha256(data).digest()
    record = KeyRecord(key_id, len(data), "toy")
    chunks = [data[at : at + 1_000_003] for at in range(0, len(data), 1_000_003)]
    assert await store.get_key(key_id) is None
    assert await store.put_key(record, pieces(*chunks))
    assert not await store.put_key(record, pieces(*chunks))
    found = await store.get_key(key_id)
    assert found is not None
    assert replace(found, created_at=None) == record
    assert found.created_at is not None
    assert await store.read_key(key_id) == data


async def test_keys_are_stored_all_or_nothing(store: Store) -> None:
    data = b"x" * 100
    key_id = hashlib.sha256(data).digest()
    for record, sent, field in [
        (KeyRecord(key_id, 100, "toy"), data[:99], "size"),
        (KeyRecord(key_id, 99, "toy"), data, "size"),
        (KeyRecord(key_id, 100, "toy"), b"y" * 100, "key_id"),
    ]:
        async with aclosing(pieces(sent)) as chunks:
            with pytest.raises(InvalidInput) as caught:
                await store.put_key(record, chunks)
        assert caught.value.field == field
        assert await store.get_key(key_id) is None
    with pytest.raises(NotFound):
        await store.read_key(key_id)


async def test_uploads_are_idempotent_and_contradictions_are_refused(store: Store) -> None:
    (first,) = await with_inputs(store, 1)
    second = handle()
    assert await store.put_ciphertexts([ciphertext(first), ciphertext(second), ciphertext(second)]) == 1
    clear = StoredCiphertext(handle(), KEY, b"trivial", -(2**200), is_allowed=False)
    assert await store.put_ciphertexts([clear]) == 1
    assert await store.get_ciphertexts([first, clear.handle, handle()]) == {
        first: ciphertext(first),
        clear.handle: clear,
    }
    with pytest.raises(InvalidInput):
        await store.put_ciphertexts([ciphertext(handle()), ciphertext(first, b"other")])
    other_key = await with_key(store, b"another server key")
    with pytest.raises(InvalidInput):
        await store.put_ciphertexts([ciphertext(first, key_id=other_key)])
    with pytest.raises(NotFound):
        await store.put_ciphertexts([ciphertext(handle(), key_id=b"?" * 32)])
    third = handle()
    with pytest.raises(InvalidInput):
        await store.put_ciphertexts([ciphertext(third, b"1"), ciphertext(third, b"2")])
    assert await store.get_ciphertexts([third]) == {}
    status = (await store.get_status([first]))[first]
    assert (status.state, status.is_allowed, status.attempts) == (State.COMPLETED, True, 0)


async def test_a_batch_splits_into_connected_groups_that_keep_their_order(store: Store) -> None:
    a, b = await with_inputs(store, 2)
    middle = add(a, b, is_allowed=False)
    scaled = Computation(handle(), Operation.MUL, (middle.output, Scalar(b"\x07")), is_allowed=True)
    alone = add(a, a)
    assert await store.submit(batch(middle, alone, scaled)) == 3
    groups = await store.claim("worker", 10, 60)
    assert [group.computations for group in groups] == [(middle, scaled), (alone,)]
    assert [group.wanted for group in groups] == [{scaled.output}, {alone.output}]
    assert {(group.key_id, group.transaction_id, group.attempts) for group in groups} == {(KEY, TRANSACTION, 0)}


async def test_submitting_again_changes_nothing_and_another_definition_is_refused(store: Store) -> None:
    a, b = await with_inputs(store, 2)
    first = add(a, b)
    assert await store.submit(batch(first, first)) == 1
    assert await store.submit(batch(first)) == 0
    for contradiction in (add(b, a, output=first.output), replace(first, operation=Operation.SUB)):
        fresh = add(a, a)
        with pytest.raises(InvalidInput):
            await store.submit(batch(fresh, contradiction))
        assert await store.get_status([fresh.output]) == {}, "refused as a whole"
    other_key = await with_key(store, b"another server key")
    with pytest.raises(InvalidInput):
        await store.submit(batch(first, key_id=other_key))
    with pytest.raises(InvalidInput):
        await store.submit(batch(add(a, b, output=a)))
    with pytest.raises(InvalidInput):
        await store.submit(batch(add(a, output=(twice := handle())), add(b, output=twice)))
    with pytest.raises(NotFound):
        await store.submit(batch(add(a, b), key_id=b"?" * 32))
    with pytest.raises(InvalidInput):
        await store.put_ciphertexts([ciphertext(first.output)])
    assert await work(store) == 1


async def test_groups_wait_for_their_inputs(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    b, c = handle(), handle()
    waiting = add(a, b, c)
    await store.submit(batch(waiting))
    status = (await store.get_status([waiting.output]))[waiting.output]
    assert (status.state, set(status.missing)) == (State.WAITING, {b, c})
    await store.put_ciphertexts([ciphertext(b)])
    assert await store.claim("worker", 10, 60) == []
    await store.put_ciphertexts([ciphertext(c)])
    status = (await store.get_status([waiting.output]))[waiting.output]
    assert (status.state, status.missing) == (State.READY, ())
    assert await work(store) == 1
    assert (await store.get_status([waiting.output]))[waiting.output].state is State.COMPLETED


async def test_a_lease_is_exclusive_and_finishing_happens_once(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    computation = add(a)
    await store.submit(batch(computation))
    (group,) = await store.claim("one", 10, 60)
    assert await store.claim("two", 10, 60) == []
    assert await store.renew("two", [group.group_id], 60) == frozenset()
    assert not await store.finish("two", done(group, data=b"wrong"))
    assert await store.get_ciphertexts([computation.output]) == {}
    assert (await store.get_status([computation.output]))[computation.output].state is State.COMPUTING
    assert await store.renew("one", [group.group_id, 999], 60) == {group.group_id}
    assert await store.finish("one", done(group))
    assert not await store.finish("one", done(group, data=b"again"))
    assert (await store.get_ciphertexts([computation.output]))[computation.output].data == b"result"
    assert len(await store.results_after(0, 10)) == 1
    assert await store.renew("one", [group.group_id], 60) == frozenset()


async def test_an_expired_lease_is_taken_over(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    await store.submit(batch(add(a)))
    (group,) = await store.claim("slow", 10, 0)
    (again,) = await store.claim("quick", 10, 60)
    assert again == replace(group, attempts=1)
    assert not await store.finish("slow", done(group))
    assert await store.renew("slow", [group.group_id], 60) == frozenset()
    await store.release("slow", [group.group_id])
    assert await store.claim("third", 10, 60) == []
    assert await store.finish("quick", done(again))


async def test_a_late_worker_that_nobody_replaced_may_finish(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    await store.submit(batch(add(a)))
    (group,) = await store.claim("slow", 10, 0)
    assert await store.renew("slow", [group.group_id], 0) == {group.group_id}
    assert await store.finish("slow", done(group))


async def test_release_gives_back_without_counting(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    await store.submit(batch(add(a)))
    (group,) = await store.claim("one", 10, 60)
    await store.release("one", [group.group_id])
    assert await store.claim("two", 10, 60) == [group]


async def test_claims_are_limited_and_oldest_first(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    computations = [add(a) for _ in range(5)]
    for computation in computations:
        await store.submit(batch(computation))
    assert await store.claim("worker", 0, 60) == []
    first = await store.claim("worker", 2, 60)
    rest = await store.claim("worker", 10, 60)
    claimed = [group.computations[0].output for group in [*first, *rest]]
    assert len(first) == 2
    assert claimed == [computation.output for computation in computations]


async def test_concurrent_claims_never_overlap(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    await store.submit(batch(*(add(a) for _ in range(60))))
    taken: list[int] = []

    async def worker(name: str) -> None:
        while groups := await store.claim(name, 3, 60):
            taken.extend(group.group_id for group in groups)

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(worker, f"worker {number}")
    assert len(taken) == len(set(taken)) == 60


async def test_failures_spread_inside_the_group_and_to_waiting_groups(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    broken, fine = add(a), add(a)
    near = add(broken.output, fine.output)
    await store.submit(batch(broken, fine, near))
    (group,) = await store.claim("worker", 10, 60)
    far = add(near.output)
    independent = add(far.output, is_allowed=False)
    beside = add(fine.output)
    await store.submit(batch(far, independent, beside, transaction=OTHER))
    assert await store.finish("worker", done(group, [broken.output, near.output]))
    status = await store.get_status([broken.output, fine.output, near.output, far.output, independent.output])
    assert [entry.state for entry in status.values()] == [
        State.FAILED,
        State.COMPLETED,
        State.FAILED,
        State.FAILED,
        State.FAILED,
    ]
    assert status[broken.output].failure == Failure("BROKEN", "by the test")
    inherited = status[far.output].failure
    assert inherited is not None
    assert (inherited.rule, inherited.cause) == (INPUT_FAILED, near.output)
    events = {event.handle: event for event in await store.results_after(0, 10)}
    assert set(events) == {broken.output, fine.output, near.output, far.output}
    assert events[far.output].failure == inherited
    assert await work(store) == 1, "what does not depend on the failure goes on"
    assert (await store.get_status([beside.output]))[beside.output].state is State.COMPLETED


async def test_a_worker_need_not_name_dependants(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    broken = add(a, is_allowed=False)
    near = add(broken.output, is_allowed=False)
    last = add(near.output)
    await store.submit(batch(broken, near, last))
    (group,) = await store.claim("worker", 10, 60)
    failures = {broken.output: Failure("BROKEN", "x"), last.output: Failure("OWN", "y")}
    assert await store.finish("worker", GroupOutcome(group.group_id, (), failures))
    status = await store.get_status([near.output, last.output])
    assert status[near.output].failure == Failure(
        INPUT_FAILED, f"an input failed: {broken.output.hex()}: BROKEN: x", broken.output
    )
    assert status[last.output].failure == Failure("OWN", "y")


async def test_what_reads_a_failed_input_fails_at_once(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    broken = add(a)
    await store.submit(batch(broken))
    (group,) = await store.claim("worker", 10, 60)
    await store.finish("worker", done(group, [broken.output]))
    near = add(broken.output)
    after = add(near.output)
    survivor = add(a)
    joined = add(survivor.output, after.output)
    await store.submit(batch(near, after, survivor, joined, transaction=OTHER))
    statuses = await store.get_transaction(OTHER)
    assert [status.state for status in statuses] == [State.FAILED, State.FAILED, State.READY, State.FAILED]
    assert {status.failure.cause for status in statuses if status.failure} == {broken.output}
    assert {event.handle for event in await store.results_after(1, 10)} == {near.output, after.output, joined.output}
    (group,) = await store.claim("worker", 10, 60)
    assert group.computations == (survivor,)


async def test_intermediates_are_materialised_when_somebody_needs_them(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    hidden = add(a, is_allowed=False)
    shown = add(hidden.output)
    await store.submit(batch(hidden, shown))
    assert await work(store) == 1
    assert await store.get_ciphertexts([hidden.output]) == {}
    assert (await store.get_status([hidden.output]))[hidden.output].state is State.COMPLETED
    later = add(hidden.output)
    await store.submit(batch(later, transaction=OTHER))
    (group,) = await store.claim("worker", 10, 60)
    assert group.computations == (hidden,), "what is stored already is not computed again"
    assert (group.wanted, group.attempts) == ({hidden.output}, 1)
    assert await store.finish("worker", done(group))
    stored = (await store.get_ciphertexts([hidden.output]))[hidden.output]
    assert not stored.is_allowed
    assert await work(store) == 1
    events = await store.results_after(0, 10)
    assert [event.handle for event in events] == [shown.output, later.output]


async def test_needed_while_it_is_computed(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    hidden = add(a, is_allowed=False)
    shown = add(hidden.output)
    await store.submit(batch(hidden, shown))
    (group,) = await store.claim("worker", 10, 60)
    later = add(hidden.output)
    await store.submit(batch(later, transaction=OTHER))
    assert await store.finish("worker", done(group))
    (again,) = await store.claim("worker", 10, 60)
    assert (again.wanted, again.attempts) == ({hidden.output}, 0)
    assert await store.finish("worker", done(again))
    assert await work(store) == 1
    assert (await store.get_status([later.output]))[later.output].state is State.COMPLETED


async def test_permission_may_come_later(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    hidden = add(a, is_allowed=False)
    await store.submit(batch(hidden))
    assert await work(store) == 0, "nobody may read it, so nobody computes it"
    await store.submit(batch(replace(hidden, is_allowed=True), transaction=OTHER))
    assert await work(store) == 1
    assert [(event.transaction_id, event.sequence) for event in await store.results_after(0, 10)] == [
        (TRANSACTION, 1),
        (OTHER, 2),
    ]
    kept = add(a, is_allowed=False)
    await store.submit(batch(kept))
    await store.submit(batch(add(kept.output)))
    await work(store)
    before = await store.last_sequence()
    await store.submit(batch(replace(kept, is_allowed=True)))
    assert [event.handle for event in await store.results_after(before, 10)] == [kept.output]
    assert (await store.get_ciphertexts([kept.output]))[kept.output].is_allowed


async def test_an_output_that_was_awaited_before_its_computation_came(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    early = add(late := handle())
    await store.submit(batch(early))
    assert await store.claim("worker", 10, 60) == []
    await store.submit(batch(add(a, output=late, is_allowed=False), transaction=OTHER))
    assert await work(store) == 2
    assert (await store.get_status([early.output]))[early.output].state is State.COMPLETED


async def test_transactions_list_their_outputs_and_each_hears_of_results_once(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    first, second = add(a), add(a)
    await store.submit(batch(first, second))
    await work(store)
    assert await store.submit(batch(second, first, transaction=OTHER)) == 0
    assert await store.submit(batch(second, first, transaction=OTHER)) == 0
    assert [status.handle for status in await store.get_transaction(OTHER)] == [second.output, first.output]
    assert await store.get_transaction(b"?" * 32) == []
    events = await store.results_after(0, 10)
    assert [event.sequence for event in events] == [1, 2, 3, 4]
    assert {(event.transaction_id, event.handle) for event in events[2:]} == {
        (OTHER, first.output),
        (OTHER, second.output),
    }
    assert await store.results_after(0, 10, [OTHER]) == events[2:]
    assert await store.results_after(1, 2) == events[1:3]
    assert await store.results_after(0, 10, []) == []
    assert await store.last_sequence() == 4


async def test_an_outcome_that_does_not_fit_is_refused(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    computation = add(a)
    await store.submit(batch(computation))
    (group,) = await store.claim("worker", 10, 60)
    good = ciphertext(computation.output)
    foreign = ciphertext(handle())
    other_key = await with_key(store, b"another server key")
    for outcome in (
        GroupOutcome(group.group_id, ()),
        GroupOutcome(group.group_id, (good, foreign)),
        GroupOutcome(group.group_id, (good, good)),
        GroupOutcome(group.group_id, (replace(good, key_id=other_key),)),
        GroupOutcome(group.group_id, (good,), {good.handle: Failure("X", "y")}),
        GroupOutcome(group.group_id, (good,), {foreign.handle: Failure("X", "y")}),
    ):
        with pytest.raises(InvalidInput):
            await store.finish("worker", outcome)
    assert await store.get_ciphertexts([good.handle, foreign.handle]) == {}
    assert await store.finish("worker", done(group))


async def test_a_reader_that_resumes_by_sequence_misses_nothing(store: Store) -> None:
    (a,) = await with_inputs(store, 1)
    total = 40
    seen: list[int] = []
    outputs: set[bytes] = set()

    async def write(part: int) -> None:
        for number in range(total // 4):
            await store.submit(batch(add(a), transaction=bytes([part, number]) * 16))
            for group in await store.claim(f"writer {part}", 2, 60):
                await store.finish(f"writer {part}", done(group))

    async def read() -> None:
        while len(seen) < total:
            for event in await store.results_after(seen[-1] if seen else 0, 7):
                seen.append(event.sequence)
                outputs.add(event.handle)
            await trio.lowlevel.checkpoint()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            async with trio.open_nursery() as writers:
                for part in range(4):
                    writers.start_soon(write, part)
            await work(store)
    assert seen == list(range(1, total + 1))
    assert len(outputs) == total


async def test_concurrent_submitters_and_uploads_lose_no_wakeup(store: Store) -> None:
    """A group that starts to wait while its input is being stored must not wait for ever."""
    await with_key(store)
    pairs = [(handle(), handle()) for _ in range(25)]

    async def upload(name: int) -> None:
        await store.put_ciphertexts([ciphertext(pairs[name][0])])

    async def submit(name: int) -> None:
        await store.submit(batch(add(pairs[name][0], output=pairs[name][1])))

    async with trio.open_nursery() as nursery:
        for name in range(len(pairs)):
            nursery.start_soon(upload, name)
            nursery.start_soon(submit, name)
    assert await work(store) == len(pairs)


async def test_a_process_hears_of_what_it_stores_itself(store: Store) -> None:
    """The same as a reading would give, in the same order; nothing of what could not be stored."""
    first, second = await with_inputs(store, 2)
    heard: list[ResultEvent] = []
    with store.hearing(heard.extend):
        sums = [add(first, second) for _ in range(3)]
        broken = add(sums[0].output, first)
        reader = add(broken.output, second)
        await store.submit(batch(*sums, transaction=b"1" * 32))
        await store.submit(batch(broken, transaction=b"2" * 32))
        await store.submit(batch(reader, transaction=b"3" * 32))
        groups = await store.claim("worker", 10, 60)
        assert await store.finish_all("another", [done(group) for group in groups]) == frozenset()
        assert heard == []
        assert await store.finish_all("worker", [done(group) for group in groups])
        (group,) = await store.claim("worker", 10, 60)
        await store.finish("worker", done(group, failures=[broken.output]))
    assert [event.sequence for event in heard] == [1, 2, 3, 4, 5]
    assert {event.handle for event in heard[3:]} == {broken.output, reader.output}
    assert heard == await store.results_after(0, 100)
    await store.submit(batch(add(first, first)))
    await work(store)
    assert len(heard) == 5


async def test_wakeups(store: Store) -> None:
    await with_key(store)
    a = handle()
    computation = add(a)
    with trio.fail_after(10):
        async with store.wakeups() as channel, store.wakeups() as other:
            await store.submit(batch(computation))
            await store.put_ciphertexts([ciphertext(a)])
            assert await channel.receive() is Topic.WORK
            (group,) = await store.claim("worker", 10, 60)
            await store.release("worker", [group.group_id])
            assert await channel.receive() is Topic.WORK
            await work(store)
            assert await channel.receive() is Topic.RESULTS
            assert await other.receive() is Topic.WORK
        async with store.wakeups() as channel:
            with trio.move_on_after(0.05):
                raise AssertionError(await channel.receive())


async def test_errors_leave_a_subscription_as_they_are(store: Store) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with store.wakeups():
            raise KeyError("mine")
