"""The one thread that talks to a device, and the queue before it.

Decides the order of work: as it came, except that levels of concurrent jobs under one key that wait at the same moment
are handed over together, so that they run as one. It must not know what a level is.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar, final

from coproc.errors import CoprocError
from coproc.executors.gpu.device import DeviceFailure, DeviceLost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coproc.executors.gpu.device import Device

T = TypeVar("T")
L = TypeVar("L")


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Waiting(Generic[L]):
    level: L
    future: Future[None]


class Owner(Generic[L]):
    """Owns a device from opening to closing; ``L`` is what one level of a job needs."""

    def __init__(
        self,
        open_device: Callable[[], Device],
        run_levels: Callable[[Device, Sequence[L]], None],
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
        while (item := waiting.popleft() if waiting else self._queue.get()) is not None:
            if not isinstance(item, _Waiting):
                item(device)
                continue
            while True:
                try:
                    waiting.append(self._queue.get_nowait())
                except Empty:
                    break
            group = [item]
            waiting = deque([other for other in waiting if not self._joins(item, other, group)])
            self._run_group(device, group)

    def _joins(
        self,
        item: _Waiting[L],
        other: Callable[[Device], None] | _Waiting[L] | None,
        group: list[_Waiting[L]],
    ) -> bool:
        if isinstance(other, _Waiting) and self._together(item.level, other.level):
            group.append(other)
            return True
        return False

    def _run_group(self, device: Device, group: list[_Waiting[L]]) -> None:
        wanted = [item for item in group if item.future.set_running_or_notify_cancel()]
        if not wanted:
            return
        together: Future[None] = Future()
        self._answer(together, lambda: self._run_levels(device, [item.level for item in wanted]))
        error = together.exception()
        for item in wanted:
            if error is None:
                item.future.set_result(None)
            else:
                item.future.set_exception(error)

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
