"""The one thread that talks to a device, and the queue before it.

Decides the order of work: as it came, except that levels of concurrent jobs under one key that wait at the same moment
are handed over together, so that they run as one. While a device runs levels, the next ones are prepared and given out,
so that it does not wait for the host. It must not know what a level is.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

from coproc.errors import CoprocError
from coproc.executors.gpu.device import DeviceFailure, DeviceLost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coproc.executors.gpu.device import Device, Mark

T = TypeVar("T")
L = TypeVar("L")

MOST_UNDER_WAY: Final = 2
"""Groups of levels that a device has been given and has not finished."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Waiting(Generic[L]):
    level: L
    future: Future[None]


@dataclass(frozen=True, slots=True, eq=False)
class _UnderWay:
    mark: Mark
    futures: list[Future[None]]


class Owner(Generic[L]):
    """Owns a device from opening to closing; ``L`` is what one level of a job needs."""

    def __init__(
        self,
        open_device: Callable[[], Device],
        run_levels: Callable[[Device, Sequence[L]], Mark],
        together: Callable[[L, L], bool],
    ) -> None:
        """Open the device in a thread of its own, and wait for that.

        Raises:
            CoprocError: what opening raises.
        """
        self._run_levels = run_levels
        self._together = together
        self._queue: SimpleQueue[Callable[[Device], None] | _Waiting[L] | None] = SimpleQueue()
        self.lost: DeviceLost | None = None
        """Why the device cannot be used any more."""
        opened: Future[Device] = Future()
        # A daemon: a hung device must not keep the process from ending.
        self._thread = threading.Thread(
            target=self._serve, args=(open_device, opened), name="coproc-device", daemon=True
        )
        self._thread.start()
        self.device = opened.result()

    def submit(self, work: Callable[[Device], T]) -> Future[T]:
        """Run ``work`` on the owner's thread."""
        future: Future[T] = Future()

        def run(device: Device) -> None:
            if future.set_running_or_notify_cancel():
                self._answer(future, lambda: work(device))

        self._queue.put(run)
        return future

    def submit_level(self, level: L) -> Future[None]:
        """Run one level, with others that wait at the same time; cancelling works until it has started."""
        future: Future[None] = Future()
        self._queue.put(_Waiting(level, future))
        return future

    def close(self) -> None:
        """End the thread after the work that waits; a hung device is left behind."""
        self._queue.put(None)

    def _serve(self, open_device: Callable[[], Device], opened: Future[Device]) -> None:
        try:
            device = open_device()
            device.activate()
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the thread that opens
            opened.set_exception(error)
            return
        opened.set_result(device)
        waiting: deque[Callable[[Device], None] | _Waiting[L] | None] = deque()
        under_way: deque[_UnderWay] = deque()
        while True:
            if not waiting and under_way and self._queue.empty():
                self._finish(device, under_way.popleft())
                continue
            item = waiting.popleft() if waiting else self._queue.get()
            if item is None:
                break
            if not isinstance(item, _Waiting):
                item(device)
                continue
            while len(under_way) >= MOST_UNDER_WAY:  # meanwhile others may come that can join
                self._finish(device, under_way.popleft())
            while True:
                try:
                    waiting.append(self._queue.get_nowait())
                except Empty:
                    break
            group = [item]
            waiting = deque([other for other in waiting if not self._joins(other, group)])
            under_way.extend(self._start(device, group))
        while under_way:
            self._finish(device, under_way.popleft())

    def _joins(self, other: Callable[[Device], None] | _Waiting[L] | None, group: list[_Waiting[L]]) -> bool:
        if isinstance(other, _Waiting) and all(self._together(item.level, other.level) for item in group):
            group.append(other)
            return True
        return False

    def _start(self, device: Device, group: list[_Waiting[L]]) -> list[_UnderWay]:
        wanted = [item for item in group if item.future.set_running_or_notify_cancel()]
        if not wanted:
            return []
        futures = [item.future for item in wanted]
        started: Future[Mark] = Future()
        self._answer(started, lambda: self._run_levels(device, [item.level for item in wanted]))
        if (error := started.exception()) is not None:
            _end(futures, error)
            return []
        return [_UnderWay(started.result(), futures)]

    def _finish(self, device: Device, group: _UnderWay) -> None:
        finished: Future[None] = Future()
        self._answer(finished, lambda: device.synchronize(group.mark))
        _end(group.futures, finished.exception())

    def _answer(self, future: Future[T], work: Callable[[], T]) -> None:
        if self.lost is not None:
            future.set_exception(self.lost)
            return
        try:
            future.set_result(work())
        except DeviceLost as error:
            self.lost = error
            future.set_exception(error)
        except CoprocError as error:
            future.set_exception(error)
        except Exception as error:  # noqa: BLE001 - the thread must outlive any single piece of work
            failure = DeviceFailure(f"the device's thread failed with {type(error).__name__}: {error}")
            failure.__cause__ = error
            future.set_exception(failure)


def _end(futures: Sequence[Future[None]], error: BaseException | None) -> None:
    for future in futures:
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
