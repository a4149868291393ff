"""One tenant's long work holds up nobody else's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coproc.program.computation import Computation, Operation, Scalar
from coproc.program.types import FheType, new_handle
from coproc.scheduling.core import choose_batch, step
from coproc.scheduling.model import Candidate, Claimed, Held, Policy, Start, State, Tick
from coproc.store.base import WorkGroup

if TYPE_CHECKING:
    from collections.abc import Iterable


def candidate(group_id: int, tenant: bytes, *, cost: int = 10, path: int = 5, weight: float = 1.0) -> Candidate:
    output = new_handle(FheType.UINT8)
    computation = Computation(output, Operation.TRIVIAL_ENCRYPT, (Scalar(b"1"),), is_allowed=True)
    work = WorkGroup(group_id, b"k", b"t", (computation,), frozenset({output}), 0)
    return Candidate(work, tenant, cost, path, weight)


def started(actions: Iterable[object]) -> list[list[int]]:
    return [[work.group_id for work in action.groups] for action in actions if isinstance(action, Start)]


def test_an_addition_neither_waits_for_divisions_nor_joins_them() -> None:
    policy = Policy(jobs=2, guest_jobs=1, window=0.0, batch_groups=1)
    divisions = tuple(candidate(number, b"long", cost=9_000, path=1_200) for number in range(4))
    state, actions = step(State(policy), Claimed(divisions), 0.0)
    assert started(actions) == [[0], [1]]
    state, actions = step(state, Claimed((candidate(9, b"short"), candidate(10, b"long"))), 1.0)
    assert started(actions) == [[9]], "a guest gets a slot of its own, the busy tenant does not"
    assert started(step(state, Tick(), 2.0)[1]) == []


def test_short_work_of_another_tenant_does_not_join_a_long_job() -> None:
    ready = [Held(candidate(1, b"long", path=1_200), 0.0, 0.0), Held(candidate(2, b"short", path=5), 0.0, 0.0)]
    ready.append(Held(candidate(3, b"long", path=5), 0.0, 0.0))
    chosen, _, _ = choose_batch(State(Policy()), ready, 0.0)
    assert [held.candidate.work.group_id for held in chosen] == [1, 3]


def test_a_tenant_of_twice_the_weight_gets_twice_the_share() -> None:
    ready = [Held(candidate(number, b"heavy", weight=2.0), 0.0, 0.0) for number in range(90)]
    ready += [Held(candidate(100 + number, b"light"), 0.0, 0.0) for number in range(90)]
    chosen, _, _ = choose_batch(State(Policy(batch_groups=60)), ready, 0.0)
    heavy = sum(held.candidate.tenant == b"heavy" for held in chosen)
    assert 39 <= heavy <= 41
