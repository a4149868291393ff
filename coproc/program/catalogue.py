"""Programs that contracts run, written down the way their authors write them: one operation at a time.

Decides nothing; they are the yardstick of the planner. The figures beside them are what TFHE-rs 1.5.1 takes when each
operation is a call of its own: bootstraps as it counts them itself (``benchmarks/peers``, ``make count-peers``), rounds
of its default parallel algorithms by a re-implementation of their control flow.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from coproc.program.computation import Operation as Op
from coproc.program.types import FheType
from coproc.program.wordgraph import Constant, Input, Step, Value, WordGraph

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coproc.program.wordgraph import Operand

BOOL, U64, ADDRESS = FheType.BOOL, FheType.UINT64, FheType.UINT160


@dataclass(frozen=True, slots=True)
class Program:
    """One program."""

    graph: WordGraph
    tfhe_rs: tuple[int, int] | None
    """Bootstraps and rounds, one call at a time; None where nobody counted."""


class _Draft:
    """A word graph under construction; inputs come first."""

    def __init__(self, *inputs: FheType) -> None:
        self._inputs = inputs
        self._steps: list[Step] = []

    def inputs(self) -> list[Value]:
        return [Value(number) for number in range(len(self._inputs))]

    def __call__(self, operation: Op, result: FheType, *operands: Operand) -> Value:
        self._steps.append(Step(operation, result, operands))
        return Value(len(self._inputs) + len(self._steps) - 1)

    def done(self, *wanted: Value) -> WordGraph:
        inputs = tuple(Input(item) for item in self._inputs)
        return WordGraph(inputs, tuple(self._steps), tuple(value.number for value in wanted))


ZERO: Final = Constant(0)


def transfer() -> WordGraph:
    """Move an amount if the balance covers it: select with zero, add, subtract."""
    draft = _Draft(U64, U64, U64)
    source, target, amount = draft.inputs()
    enough = draft(Op.GE, BOOL, source, amount)
    moved = draft(Op.IF_THEN_ELSE, U64, enough, amount, draft(Op.TRIVIAL_ENCRYPT, U64, ZERO))
    return draft.done(draft(Op.ADD, U64, target, moved), draft(Op.SUB, U64, source, moved), moved)


def transfer_by_product() -> WordGraph:
    """Do the same with ``amount * enough``."""
    draft = _Draft(U64, U64, U64)
    source, target, amount = draft.inputs()
    enough = draft(Op.CAST, U64, draft(Op.GE, BOOL, source, amount))
    moved = draft(Op.MUL, U64, amount, enough)
    return draft.done(draft(Op.ADD, U64, target, moved), draft(Op.SUB, U64, source, moved), moved)


def transfer_by_two_selects() -> WordGraph:
    """Do the same by choosing between old and new balances."""
    draft = _Draft(U64, U64, U64)
    source, target, amount = draft.inputs()
    enough = draft(Op.GE, BOOL, source, amount)
    more, less = draft(Op.ADD, U64, target, amount), draft(Op.SUB, U64, source, amount)
    return draft.done(
        draft(Op.IF_THEN_ELSE, U64, enough, more, target), draft(Op.IF_THEN_ELSE, U64, enough, less, source)
    )


def swap_request() -> WordGraph:
    """Transfer to an exchange, and book what arrived twice."""
    draft = _Draft(*[U64] * 5)
    source, exchange, pending, total, amount = draft.inputs()
    enough = draft(Op.GE, BOOL, source, amount)
    after = draft(Op.IF_THEN_ELSE, U64, enough, draft(Op.ADD, U64, exchange, amount), exchange)
    left = draft(Op.IF_THEN_ELSE, U64, enough, draft(Op.SUB, U64, source, amount), source)
    sent = draft(Op.SUB, U64, after, exchange)
    return draft.done(after, left, draft(Op.ADD, U64, pending, sent), draft(Op.ADD, U64, total, sent))


def auction(bids: int) -> WordGraph:
    """Find the highest of sealed bids and its bidder's address, which is public; of equal bids the earlier wins."""
    bidders = [Constant(int.from_bytes(hashlib.sha256(bytes([number])).digest()[:20], "big")) for number in range(bids)]
    draft = _Draft(*[U64] * bids)
    offers = draft.inputs()
    best = offers[0]
    winner = draft(Op.TRIVIAL_ENCRYPT, ADDRESS, bidders[0])
    for offer, bidder in zip(offers[1:], bidders[1:], strict=True):
        higher = draft(Op.LT, BOOL, best, offer)
        best = draft(Op.IF_THEN_ELSE, U64, higher, offer, best)
        winner = draft(Op.IF_THEN_ELSE, ADDRESS, higher, draft(Op.TRIVIAL_ENCRYPT, ADDRESS, bidder), winner)
    return draft.done(best, winner)


def vote(ballots: int) -> WordGraph:
    """Count weighted ballots for and against."""
    draft = _Draft(U64, U64, *[BOOL] * ballots, *[U64] * ballots)
    yes, no, *rest = draft.inputs()
    zero = draft(Op.TRIVIAL_ENCRYPT, U64, ZERO)
    for choice, weight in zip(rest[:ballots], rest[ballots:], strict=True):
        yes = draft(Op.ADD, U64, yes, draft(Op.IF_THEN_ELSE, U64, choice, weight, zero))
        no = draft(Op.ADD, U64, no, draft(Op.IF_THEN_ELSE, U64, choice, zero, weight))
    return draft.done(yes, no)


def order_match() -> WordGraph:
    """Fill the smaller of two quantities if the prices meet."""
    draft = _Draft(*[U64] * 4)
    buy_price, sell_price, buy, sell = draft.inputs()
    meets = draft(Op.GE, BOOL, buy_price, sell_price)
    zero = draft(Op.TRIVIAL_ENCRYPT, U64, ZERO)
    filled = draft(Op.IF_THEN_ELSE, U64, meets, draft(Op.MIN, U64, buy, sell), zero)
    return draft.done(draft(Op.SUB, U64, buy, filled), draft(Op.SUB, U64, sell, filled))


def fee_split() -> WordGraph:
    """Take 30 of 10,000 for the treasury."""
    draft = _Draft(*[U64] * 3)
    amount, target, treasury = draft.inputs()
    fee = draft(Op.DIV, U64, draft(Op.MUL, U64, amount, Constant(30)), Constant(10_000))
    net = draft(Op.SUB, U64, amount, fee)
    return draft.done(draft(Op.ADD, U64, target, net), draft(Op.ADD, U64, treasury, fee))


def payroll(recipients: int) -> WordGraph:
    """Pay everybody or nobody."""
    draft = _Draft(U64, *[U64] * (2 * recipients))
    balance, *rest = draft.inputs()
    amounts, accounts = rest[:recipients], rest[recipients:]
    total = amounts[0]
    for amount in amounts[1:]:
        total = draft(Op.ADD, U64, total, amount)
    enough = draft(Op.GE, BOOL, balance, total)
    zero = draft(Op.TRIVIAL_ENCRYPT, U64, ZERO)
    paid = [
        draft(Op.ADD, U64, account, draft(Op.IF_THEN_ELSE, U64, enough, amount, zero))
        for account, amount in zip(accounts, amounts, strict=True)
    ]
    return draft.done(draft(Op.SUB, U64, balance, draft(Op.IF_THEN_ELSE, U64, enough, total, zero)), *paid)


def range_check() -> WordGraph:
    """Ask whether a value lies between two others."""
    draft = _Draft(*[U64] * 3)
    low, value, high = draft.inputs()
    above, below = draft(Op.GE, BOOL, value, low), draft(Op.LE, BOOL, value, high)
    return draft.done(draft(Op.BIT_AND, BOOL, above, below))


def address_in(count: int) -> WordGraph:
    """Ask whether an address is among others."""
    draft = _Draft(*[ADDRESS] * (count + 1))
    return draft.done(draft(Op.IS_IN, BOOL, *draft.inputs()))


PROGRAMS: Final[Mapping[str, Program]] = {
    "transfer": Program(transfer(), (313, 12)),
    "transfer_by_product": Program(transfer_by_product(), (281, 11)),
    "transfer_by_two_selects": Program(transfer_by_two_selects(), (441, 7)),
    "swap_request": Program(swap_request(), (744, 16)),
    "auction_4": Program(auction(4), (1060, 21)),
    "auction_16": Program(auction(16), (5420, 105)),
    "vote_8": Program(vote(8), (2640, 32)),
    "vote_32": Program(vote(32), (10560, 103)),
    "order_match": Program(order_match(), (456, 14)),
    "fee_split": Program(fee_split(), (1496, 28)),
    "payroll_8": Program(payroll(8), (2239, 37)),
    "range_check": Program(range_check(), (95, 6)),
    "address_in_8": Program(address_in(8), (811, 6)),
}
"""By name; on 64 bits, addresses have 160."""

WIDTHS: Final = (FheType.UINT8, FheType.UINT16, FheType.UINT32, FheType.UINT64, FheType.UINT128, FheType.UINT256)

# Bootstraps and rounds of TFHE-rs 1.5.1 on many threads at 8, 16, 32, 64, 128 and 256 bits.
TFHE_RS: Final[Mapping[str, Sequence[tuple[int, int]]]] = {
    "add": ((11, 3), (23, 3), (49, 4), (101, 5), (205, 8), (507, 8)),
    "sub": ((11, 3), (23, 3), (49, 4), (101, 5), (205, 8), (507, 8)),
    "neg": ((10, 3), (22, 3), (46, 3), (96, 4), (196, 5), (396, 8)),
    "mul": ((28, 5), (116, 7), (455, 9), (1772, 11), (6967, 14), (27702, 16)),
    "div": ((180, 22), (617, 48), (2234, 104), (8458, 231), (32846, 549), (140453, 1259)),
    "rem": ((180, 22), (617, 48), (2234, 104), (8458, 231), (32846, 549), (140453, 1259)),
    "bit_and": ((4, 1), (8, 1), (16, 1), (32, 1), (64, 1), (128, 1)),
    "bit_or": ((4, 1), (8, 1), (16, 1), (32, 1), (64, 1), (128, 1)),
    "bit_xor": ((4, 1), (8, 1), (16, 1), (32, 1), (64, 1), (128, 1)),
    "not": ((0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)),
    "eq": ((5, 2), (11, 3), (21, 3), (42, 4), (81, 4), (163, 5)),
    "ne": ((5, 2), (11, 3), (21, 3), (42, 4), (81, 4), (163, 5)),
    "lt": ((5, 2), (11, 3), (23, 4), (47, 5), (126, 7), (285, 8)),
    "le": ((5, 2), (11, 3), (23, 4), (47, 5), (126, 7), (285, 8)),
    "gt": ((5, 2), (11, 3), (23, 4), (47, 5), (126, 7), (285, 8)),
    "ge": ((5, 2), (11, 3), (23, 4), (47, 5), (126, 7), (285, 8)),
    "min": ((17, 4), (35, 5), (71, 6), (143, 7), (318, 9), (669, 10)),
    "max": ((17, 4), (35, 5), (71, 6), (143, 7), (318, 9), (669, 10)),
    "if_then_else": ((12, 2), (24, 2), (48, 2), (96, 2), (192, 2), (384, 2)),
    "shl": ((18, 3), (46, 4), (111, 5), (255, 6), (576, 7), (1280, 8)),
    "shr": ((18, 3), (46, 4), (111, 5), (255, 6), (576, 7), (1280, 8)),
    "rotl": ((21, 3), (49, 4), (114, 5), (258, 6), (579, 7), (1283, 8)),
    "rotr": ((21, 3), (49, 4), (114, 5), (258, 6), (579, 7), (1283, 8)),
    "sum_8": ((20, 5), (50, 5), (108, 6), (224, 7), (456, 10), (1014, 10)),
    "sum_32": ((72, 7), (166, 7), (352, 8), (724, 9), (1468, 12), (3050, 12)),
    "rand": ((4, 1), (8, 1), (16, 1), (32, 1), (64, 1), (128, 1)),
}

# Bootstraps on two threads, of the same widths as far as counted: fewer, in more rounds.
TFHE_RS_ON_TWO_THREADS: Final[Mapping[str, Sequence[int]]] = {
    "add": (8, 16, 32, 64, 128, 256),
    "sub": (8, 16, 32, 64, 128, 256),
    "neg": (7, 15, 31, 63, 127, 255),
    "mul": (28, 111, 440, 1737, 6892, 27453),
    "div": (164, 518, 1789, 6601, 25285),
    "rem": (164, 518, 1789, 6601, 25285),
    "bit_and": (4, 8, 16, 32, 64, 128),
    "bit_or": (4, 8, 16, 32, 64, 128),
    "bit_xor": (4, 8, 16, 32, 64, 128),
    "not": (0, 0, 0, 0, 0, 0),
    "eq": (5, 11, 21, 42, 81, 163),
    "ne": (5, 11, 21, 42, 81, 163),
    "lt": (5, 11, 23, 47, 126, 285),
    "le": (5, 11, 23, 47, 126, 285),
    "gt": (5, 11, 23, 47, 126, 285),
    "ge": (5, 11, 23, 47, 126, 285),
    "min": (17, 35, 71, 143, 318, 669),
    "max": (17, 35, 71, 143, 318, 669),
    "if_then_else": (12, 24, 48, 96, 192, 384),
    "shl": (18, 46, 111, 255, 576, 1280),
    "shr": (18, 46, 111, 255, 576, 1280),
    "rotl": (21, 49, 114, 258, 579, 1283),
    "rotr": (21, 49, 114, 258, 579, 1283),
    "sum_8": (20, 44, 92, 188, 380, 764),
    "sum_32": (72, 160, 336, 688, 1392, 2800),
    "rand": (4, 8, 16, 32, 64, 128),
}


def operation_graph(name: str, fhe_type: FheType) -> WordGraph:
    """Make the graph of one operation of ``TFHE_RS`` on encrypted operands."""
    if name.startswith("sum_"):
        draft = _Draft(*[fhe_type] * int(name.removeprefix("sum_")))
        return draft.done(draft(Op.SUM, fhe_type, *draft.inputs()))
    operation = Op[name.upper()]
    if operation is Op.RAND:
        draft = _Draft()
        return draft.done(draft(operation, fhe_type, Constant(0)))
    if operation in {Op.NEG, Op.NOT}:
        draft = _Draft(fhe_type)
    elif operation is Op.IF_THEN_ELSE:
        draft = _Draft(BOOL, fhe_type, fhe_type)
    else:
        draft = _Draft(fhe_type, fhe_type)
    compares = operation in {Op.EQ, Op.NE, Op.LT, Op.LE, Op.GT, Op.GE}
    return draft.done(draft(operation, BOOL if compares else fhe_type, *draft.inputs()))
