"""vLLM's engine stepped by one thread, so that the requests of several callers are in it at the same time.

With one call of `LLM.chat` after the other the last rows of a batch leave the engine nearly empty, and then it waits
until the answers are stored and the next batch is there. Here a caller's rows join those that are being decoded.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from emoray.engines.budget import OutOfTimeError, left_s

#: Prompts that wait inside the engine, for each sequence that it decodes: it never waits for one, and the features of
#: thousands of clips need not be held.
PROMPTS_PER_SEQUENCE = 2


class EngineLoop:
    """A loaded engine and the thread that steps it.

    Args:
        llm: The loaded `vllm.LLM`; nobody else may use it.
        max_sequences: Rows that it decodes at a time.
        progress: Called whenever a row has been prepared or is done.
        adapter: vLLM's `LoRARequest`, for all rows; None without an adapter.

    Attributes:
        failure: What ended the engine; None while it runs.
        llm: The `vllm.LLM`.
        step_began_s: When the step under way began, on the clock of `time.monotonic`; None between steps.
    """

    def __init__(self, llm: Any, max_sequences: int, progress: Callable[[], None], adapter: Any = None) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        self.failure: Exception | None = None
        self.step_began_s: float | None = None
        self._dead = EngineDeadError
        self.llm = llm
        self._progress = progress
        self._adapter = adapter
        self._room = threading.Semaphore(PROMPTS_PER_SEQUENCE * max_sequences)
        self._order = threading.Lock()
        self._arrived: queue.SimpleQueue[tuple[Any, Any, Future[Any]]] = queue.SimpleQueue()
        self._under_way: dict[str, Future[Any]] = {}
        self._numbers = itertools.count()
        threading.Thread(target=self._run, name="vllm-loop", daemon=True).start()

    def submit(self, prepare: Callable[[Any], Any], sampling: Any) -> Future[Any]:
        """Hand a row to the engine; waits while there is no room, within the caller's budget.

        Args:
            prepare: Makes vLLM's input from the row, given the `vllm.LLM`: template, tokens, features.
            sampling: vLLM's parameters.

        Returns:
            Its output, or why the row has none: what `prepare` or the engine refused it for, `failure`, or an
            OutOfTimeError. The engine drops a row whose future is cancelled.
        """
        output: Future[Any] = Future()
        if not self._room.acquire(timeout=left_s()):
            output.set_exception(OutOfTimeError())
            return output
        output.add_done_callback(lambda _: self._room.release())
        # In this thread, beside the engine's steps, but one row at a time and in the order in which the engine gets
        # them: vLLM's cache of prepared audio is kept twice, and the two must see the same order.
        with self._order:
            try:
                if self.failure is not None:
                    raise self.failure
                self._arrived.put((prepare(self.llm), sampling, output))
            except Exception as error:
                output.set_exception(error)
        self._progress()
        return output

    def _run(self) -> None:
        try:
            while True:
                self._admit()
                self._drop_cancelled()
                if self._under_way:
                    self._step()
        except Exception as error:
            self._fail(error)

    def _admit(self) -> None:
        """Take what has arrived; wait for it if there is nothing else to do."""
        while True:
            try:
                prompt, sampling, output = self._arrived.get(block=not self._under_way)
            except queue.Empty:
                return
            number = str(next(self._numbers))
            self._under_way[number] = output
            try:
                self.llm.llm_engine.add_request(number, prompt, sampling, lora_request=self._adapter)
            except self._dead:
                raise
            except Exception as error:
                # Too long, for example.
                _settle(self._under_way.pop(number), error)

    def _drop_cancelled(self) -> None:
        gone = [number for number, output in self._under_way.items() if output.cancelled()]
        if gone:
            self.llm.llm_engine.abort_request(gone)
            for number in gone:
                del self._under_way[number]

    def _step(self) -> None:
        self.step_began_s = time.monotonic()
        try:
            outputs = self.llm.llm_engine.step()
        finally:
            self.step_began_s = None
        for output in outputs:
            if output.finished:
                _settle(self._under_way.pop(output.request_id), output)
                self._progress()

    def _fail(self, error: Exception) -> None:
        with self._order:
            self.failure, self.llm = error, None
        waiting = list(self._under_way.values())
        with contextlib.suppress(queue.Empty):
            while True:
                waiting.append(self._arrived.get_nowait()[2])
        for output in waiting:
            _settle(output, error)


def _settle(waiting: Future[Any], outcome: Any) -> None:
    """Set a row's output, or the exception in its place, unless its caller has given it up."""
    if not waiting.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Exception):
        waiting.set_exception(outcome)
    else:
        waiting.set_result(outcome)


class Turns:
    """Calls that run beside each other, and some that must run alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls = 0
        self._alone = False

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A call among others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._calls += 1
        try:
            yield
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """A call while no other runs. Those that come later wait for it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._alone = True
            self._changed.wait_for(lambda: not self._calls)
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
