"""What chains bring and take back: the same tests hold memory and Postgres to it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from coproc.errors import NotFound
from coproc.store.base import Failure, State
from coproc.store.chains import ChainBlock, ChainComputation, ChainMoved, Delegation, Fault
from coproc.store.rules import INPUT_FAILED
from tests.store.builders import KEY, TRANSACTION, add, batch, ciphertext, done, handle, with_inputs, work

if TYPE_CHECKING:
    from coproc.program.computation import Computation
    from coproc.program.types import Handle
    from coproc.store.chains import ChainStore

CHAIN = 31337
FIRST, SECOND = b"1" * 32, b"2" * 32


def block(
    number: int,
    *computations: Computation,
    allowed: tuple[Handle, ...] = (),
    fork: int = 0,
    parent_fork: int = 0,
    transaction: bytes = FIRST,
) -> ChainBlock:
    return ChainBlock(
        CHAIN,
        number,
        name(number, fork),
        name(number - 1, parent_fork),
        tuple(ChainComputation(transaction, computation) for computation in computations),
        allowed,
    )


def name(number: int, fork: int = 0) -> bytes:
    return bytes([fork]) * 24 + number.to_bytes(8, "big")


async def write(store: ChainStore, *blocks: ChainBlock, orphaned: tuple[bytes, ...] = ()) -> tuple[int, int, int]:
    change = await store.advance_chain(CHAIN, KEY, orphaned, blocks)
    return change.computations, change.retracted, change.faults


async def states(store: ChainStore, *handles: Handle) -> list[str]:
    found = await store.get_status(handles)
    return [found[item].state.name if item in found else "" for item in handles]


async def told(store: ChainStore, *transactions: bytes) -> list[Handle]:
    return [event.handle for event in await store.results_after(0, 1000, transactions or None)]


async def test_blocks_are_the_cursor(store: ChainStore) -> None:
    a, b = await with_inputs(store, 2)
    assert await store.chain_tail(CHAIN, 5) == []
    first, second = add(a, b), add(b, a)
    assert await write(store, block(7, first, allowed=(first.output,))) == (1, 0, 0)
    assert await write(store, block(8, second, allowed=(second.output,))) == (1, 0, 0)
    assert [item.number for item in await store.chain_tail(CHAIN, 5)] == [7, 8]
    assert [item.number for item in await store.chain_tail(CHAIN, 1)] == [8]
    assert await store.chain_tail(1, 5) == []
    for late in (block(8), block(10), block(9, parent_fork=3)):
        with pytest.raises(ChainMoved):
            await write(store, late)
    with pytest.raises(ChainMoved):
        await write(store, orphaned=(name(3),))
    with pytest.raises(NotFound):
        await store.advance_chain(CHAIN, b"k" * 32, (), [block(9)])
    assert await work(store) == 2
    assert await states(store, first.output, second.output) == ["COMPLETED", "COMPLETED"]
    assert await told(store, FIRST) == [first.output, second.output]


async def test_only_what_is_allowed_is_kept_even_if_it_is_allowed_later(store: ChainStore) -> None:
    a, b = await with_inputs(store, 2)
    inner = add(a, b)
    outer = add(inner.output, b)
    other = add(a, a)
    await write(store, block(1, inner, outer, other, allowed=(outer.output,)))
    assert await work(store) == 1
    assert await store.get_ciphertexts([inner.output, other.output]) == {}
    await write(store, block(2, allowed=(inner.output, other.output, handle())))
    assert await work(store) == 2
    assert set(await store.get_ciphertexts([inner.output, other.output])) == {inner.output, other.output}
    # ... and the blocks that allowed it are taken back.
    assert await write(store, orphaned=(name(2),)) == (0, 0, 0)
    found = await store.get_ciphertexts([inner.output, outer.output])
    assert [found[item].is_allowed for item in (inner.output, outer.output)] == [False, True]
    assert await told(store, FIRST) == [outer.output]
    sequence = await store.last_sequence()
    await write(store, block(2, allowed=(inner.output,), fork=1))
    assert [event.handle for event in await store.results_after(sequence, 10)] == [inner.output], "told again"


async def test_one_handle_may_be_asked_for_many_times(store: ChainStore) -> None:
    a, b = await with_inputs(store, 2)
    same = add(a, b)
    assert await write(store, block(1, same, same, allowed=(same.output,))) == (1, 0, 0)
    assert await write(store, block(2, same, transaction=SECOND)) == (0, 0, 0)
    assert await work(store) == 1
    assert sorted(await told(store)) == [same.output] * 2
    assert await write(store, orphaned=(name(2),)) == (0, 0, 0)
    assert await states(store, same.output) == ["COMPLETED"]
    assert await store.get_transaction(SECOND) == []
    assert await write(store, orphaned=(name(1),)) == (0, 1, 0)
    assert await states(store, same.output) == [""]
    assert await store.get_ciphertexts([same.output]) == {}
    assert await told(store) == []


async def test_what_somebody_else_needs_stays(store: ChainStore) -> None:
    a, b = await with_inputs(store, 2)
    inner = add(a, b)
    shared, alone = add(inner.output, a), add(inner.output, b)
    await write(store, block(1, inner, shared, alone, allowed=(shared.output, alone.output)))
    asked, reader = add(a, a), add(shared.output, b)
    await write(store, block(2, asked, allowed=(asked.output,)))
    await store.submit(batch(reader, asked))
    assert await write(store, orphaned=(name(2), name(1))) == (0, 1, 0)
    assert await states(store, alone.output) == [""]
    assert await work(store) > 0
    assert await states(store, reader.output, asked.output, shared.output) == ["COMPLETED"] * 3
    found = await store.get_ciphertexts([shared.output, asked.output])
    assert not found[shared.output].is_allowed, "a caller reads it, but was never allowed to see it"
    assert found[asked.output].is_allowed


async def test_what_comes_again_in_the_other_branch_is_not_done_again(store: ChainStore) -> None:
    a, b = await with_inputs(store, 2)
    again, lost, new = add(a, b), add(b, b), add(a, a)
    await write(store, block(1, again, lost, allowed=(again.output, lost.output)))
    assert await work(store) == 2
    sequence = await store.last_sequence()
    change = await write(store, block(1, new, again, allowed=(again.output, new.output), fork=1), orphaned=(name(1),))
    assert change == (1, 1, 0)
    assert await work(store) == 1
    assert await states(store, again.output, lost.output, new.output) == ["COMPLETED", "", "COMPLETED"]
    assert [event.handle for event in await store.results_after(sequence, 10)] == [new.output]
    assert [item.hash for item in await store.chain_tail(CHAIN, 5)] == [name(1, 1)]


async def test_work_in_flight_is_taken_back(store: ChainStore) -> None:
    a, b = await with_inputs(store, 2)
    inner = add(a, b)
    lost, kept = add(inner.output, a), add(inner.output, b)
    await write(store, block(1, inner, kept, allowed=(kept.output,)))
    await write(store, block(2, add(b, b), lost, allowed=(lost.output,)))
    groups = await store.claim("worker", 10, 60)
    assert len(groups) == 1, "what a block builds on comes first"
    assert await write(store, orphaned=(name(2),)) == (0, 2, 0)
    assert all([await store.finish("worker", done(group)) for group in groups])
    await write(store, block(2, lost, allowed=(lost.output,), fork=1))
    (group,) = await store.claim("worker", 10, 60)
    assert await write(store, orphaned=(name(2, 1),)) == (0, 1, 0)
    assert not await store.finish("worker", done(group))
    assert await store.get_ciphertexts([lost.output]) == {}
    assert await store.claim("worker", 10, 60) == []
    assert await states(store, kept.output) == ["COMPLETED"]


async def test_a_group_goes_on_without_what_was_taken_back(store: ChainStore) -> None:
    a, b = await with_inputs(store, 2)
    inner = add(a, b)
    left, right = add(inner.output, a), add(inner.output, b)
    await write(store, block(1, inner, left, right, allowed=(left.output, right.output)))
    await write(store, block(2, right, allowed=(right.output,), transaction=SECOND))
    (group,) = await store.claim("worker", 10, 60)
    change = await write(
        store,
        block(1, inner, right, fork=1),
        replace(block(2, right, fork=1, parent_fork=1, allowed=(right.output,))),
        orphaned=(name(2), name(1)),
    )
    assert change == (0, 1, 0)
    assert not await store.finish("worker", done(group))
    assert await work(store) == 1
    assert await states(store, left.output, right.output) == ["", "COMPLETED"]


async def test_faults_are_kept_and_pass_on(store: ChainStore) -> None:
    a, b = await with_inputs(store, 2)
    bad, good = add(a, b), add(b, a)
    after = add(bad.output, b)
    first = block(1, good, allowed=(bad.output, after.output, good.output))
    refused = ChainComputation(FIRST, bad, Failure("DIVISION_BY_ZERO", "DIV by a clear zero"))
    fault = Fault(3, FIRST, bytes(bad.output), "DIVISION_BY_ZERO", "why")
    first = replace(first, computations=(refused, ChainComputation(FIRST, after), *first.computations), faults=(fault,))
    assert await write(store, first) == (3, 0, 1)
    found = await store.get_status([bad.output, after.output])
    assert [found[item].failure and found[item].failure.rule for item in (bad.output, after.output)] == [  # type: ignore[union-attr]
        "DIVISION_BY_ZERO",
        INPUT_FAILED,
    ]
    assert await work(store) == 1
    # Another meaning of a handle, and of one that was uploaded, is refused by itself.
    other = add(b, b, output=good.output)
    uploaded, fine = add(b, b, output=a), add(a, a)
    assert await write(store, block(2, other, uploaded, fine, allowed=(fine.output,))) == (1, 0, 2)
    assert await work(store) == 1
    assert [item.rule for item in await store.chain_faults(CHAIN, 10)] == ["REDEFINED", "REDEFINED", "DIVISION_BY_ZERO"]
    assert (await store.chain_faults(CHAIN, 10))[2] == fault
    assert await write(store, orphaned=(name(2), name(1))) == (0, 4, 0)
    assert await store.chain_faults(CHAIN, 10) == []
    assert await states(store, bad.output, after.output, good.output) == ["", "", ""]
    # The same again, once its reason is gone.
    assert await write(store, block(1, bad, after, fork=2, allowed=(bad.output, after.output))) == (2, 0, 0)
    assert await work(store) == 1


async def test_delegations_follow_the_chain(store: ChainStore) -> None:
    await with_inputs(store, 1)
    who = (b"a" * 20, b"b" * 20, b"c" * 20)
    given, revoked = Delegation(0, *who, 1, 0, (1 << 64) - 1), Delegation(0, *who, 2, (1 << 64) - 1, 0)
    assert await store.chain_delegation(CHAIN, *who) is None
    await write(store, replace(block(1), delegations=(given,)), replace(block(2), delegations=(revoked,)))
    assert await store.chain_delegation(CHAIN, *who) == revoked
    await write(store, orphaned=(name(2),))
    assert await store.chain_delegation(CHAIN, *who) == given


async def test_inputs_that_come_late_are_waited_for(store: ChainStore) -> None:
    (a,) = await with_inputs(store, 1)
    late = handle()
    asks = add(a, late)
    await write(store, block(1, asks, allowed=(asks.output,)))
    found = await store.get_status([asks.output])
    assert (found[asks.output].state, found[asks.output].missing) == (State.WAITING, (late,))
    await store.put_ciphertexts([ciphertext(late)])
    assert await work(store) == 1


async def test_what_does_not_need_a_missing_input_does_not_wait_for_it(store: ChainStore) -> None:
    (a,) = await with_inputs(store, 1)
    missing = handle()
    first, stuck = add(a, a), add(a, missing)
    beside, after = add(first.output, a), add(stuck.output, first.output)
    computations = (first, stuck, beside, after)
    await write(store, block(1, *computations, allowed=tuple(item.output for item in computations)))
    assert await work(store) == 1
    assert await states(store, first.output, beside.output, stuck.output, after.output) == [
        *["COMPLETED"] * 2,
        *["WAITING"] * 2,
    ]
    await store.put_ciphertexts([ciphertext(missing)])
    assert await work(store) == 1
    assert await states(store, stuck.output, after.output) == ["COMPLETED"] * 2


async def test_callers_cannot_cancel_what_a_chain_asks_for(store: ChainStore) -> None:
    a, b = await with_inputs(store, 2)
    theirs, ours = add(a, b), add(b, a)
    await write(store, block(1, theirs, allowed=(theirs.output,)))
    await store.submit(batch(theirs, ours))
    assert await store.cancel(FIRST) == 0
    assert await store.cancel(TRANSACTION) == 1
    assert await work(store) == 1
    assert await states(store, theirs.output, ours.output) == ["COMPLETED", "FAILED"]


@pytest.mark.parametrize("seed", range(3))
async def test_after_any_reorganisations_what_is_done_is_what_the_chain_asks_for(store: ChainStore, seed: int) -> None:
    rng = random.Random(seed)
    inputs = await with_inputs(store, 3)
    chain: list[ChainBlock] = []
    everything: dict[Handle, Computation] = {}
    for fork in range(1, 25):
        depth = rng.randrange(min(len(chain), 4) + 1) if rng.random() < 0.5 else 0
        orphaned = tuple(item.hash for item in reversed(chain[len(chain) - depth :]))
        del chain[len(chain) - depth :]
        made: list[ChainBlock] = []
        for _ in range(max(1, depth)):
            there = [item.computation for old in [*chain, *made] for item in old.computations]
            sources = [*inputs, *(item.output for item in there)]
            asked = [add(rng.choice(sources), rng.choice(sources)) for _ in range(2)]
            asked += [item for item in everything.values() if set(item.inputs) <= set(sources) and rng.random() < 0.2]
            everything |= {item.output: item for item in asked}
            parent = [*chain, *made][-1] if chain or made else None
            number = parent.number + 1 if parent else 1
            made.append(
                replace(
                    block(number, *asked, allowed=tuple(item.output for item in asked), fork=fork),
                    parent=parent.hash if parent else name(0),
                )
            )
        await store.advance_chain(CHAIN, KEY, orphaned, made)
        chain += made
        if rng.random() < 0.3:
            for group in await store.claim("worker", 3, 60):
                await store.finish("worker", done(group))
    await work(store)
    expected = {item.computation.output for item_block in chain for item in item_block.computations}
    found = await store.get_status(list(everything))
    assert {item for item, status in found.items() if status.state is State.COMPLETED} == expected
    assert set(found) == expected
    assert set(await told(store)) == expected
