"""Which engine runs a model, and how. Nothing here enters a fingerprint."""

from __future__ import annotations

from typing import Any, Literal

from emoray.config import Section
from emoray.engines.client import AudioFormat


class VllmConfig(Section):
    """vLLM in the worker's own process. Whether it runs on CPUs or GPUs is its build's matter.

    Attributes:
        tensor_parallel_size: GPUs that one engine spans; on CPUs 1.
        dtype: Precision: `auto` takes the checkpoint's; CPUs are fastest with `float32`.
        gpu_memory_share: Share of a GPU's memory that the engine takes for itself; other pools share the GPU.
        cpu_cache_gib: Memory for keys and values on a CPU.
        max_sequences: Rows that are decoded at a time, at most. A worker takes as many batches at a time as keep the
            engine full.
        max_context_tokens: Longest prompt and answer together; null for the model's own. A smaller one saves memory.
        eager: No compilation and no CUDA graphs: ready in seconds instead of minutes, slower on GPUs.
        separate_process: Run the engine's core in its own process: faster under load, slow to start on a CPU.
        trust_remote_code: Run Python that comes with the model (some audio models' tokenizers need it). Without it such
            files are not even downloaded.
        limit_mm_per_prompt: Clips, images and videos in a prompt, at most, by modality. vLLM keeps memory for as many.
        reasoning_parser: vLLM's name of the parser of the model's thoughts, so that only what follows them must fit the
            schema; null for models that do not think, and with thoughts switched off (`chat.template_kwargs`).
        engine_kwargs: Further arguments of `vllm.LLM`, for example {quantization: fp8}. They win over those above.
        load_timeout_s: Loading that takes longer ends the process …
        timeout_s: … and so does an engine that finishes no row for so long: the pool then replaces the process, and
            the rows are tried again.
    """

    tensor_parallel_size: int
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    gpu_memory_share: float
    cpu_cache_gib: int
    max_sequences: int
    max_context_tokens: int | None
    eager: bool
    separate_process: bool
    trust_remote_code: bool
    limit_mm_per_prompt: dict[str, int]
    reasoning_parser: str | None
    engine_kwargs: dict[str, Any]
    load_timeout_s: float
    timeout_s: float


class EndpointConfig(Section):
    """A server that speaks OpenAI's protocol with `response_format: json_schema`: `vllm serve` and its like.

    Attributes:
        url: Base address, for example http://127.0.0.1:8001/v1.
        api_key_env: Environment variable that holds the key; null without one.
        max_parallel: Requests under way at a time. The pool of a stage behind an endpoint has one worker.
        audio_format: `wav`, which every server knows, or `flac`, half as many bytes (vLLM reads it). 16 bits either
            way.
        extra_body: Further fields of every request, for example {reasoning_effort: low}; null removes a field, for
            example {max_tokens: null, max_completion_tokens: 2048}. Not in the fingerprint: where a field changes what
            is answered, name another `revision`.
        timeout_s: Longest wait for one answer, to its last byte.
        max_attempts: Attempts at a request that the server fails at (500, broken or late replies). If it answers others
            meanwhile, the failure is then the row's error.
        patience_s: How long a server that is busy or away (429, 502, 503, 504, no connection) is waited for. After that
            the rows stay to do: the same command goes on with them.
        backoff_s: Longest first pause between attempts. It doubles each time; pauses are drawn at random below it, and
            a `Retry-After` is waited for.
        max_backoff_s: Longest pause but for a `Retry-After`.
    """

    url: str | None
    api_key_env: str | None
    max_parallel: int
    audio_format: AudioFormat
    extra_body: dict[str, Any]
    timeout_s: float
    max_attempts: int
    patience_s: float
    backoff_s: float
    max_backoff_s: float


class EngineConfig(Section):
    """Which engine.

    Attributes:
        kind: `vllm` runs the model in the worker's process, `endpoint` asks a server.
        vllm: Options of `vllm`.
        endpoint: Options of `endpoint`.
    """

    kind: Literal["vllm", "endpoint"]
    vllm: VllmConfig
    endpoint: EndpointConfig

    @property
    def rows_at_a_time(self) -> int:
        """Rows that the engine decodes at the same time. 0 for an endpoint: its client limits requests per call."""
        return self.vllm.max_sequences if self.kind == "vllm" else 0

    @property
    def gpus(self) -> int:
        """GPUs that one worker takes where there are any."""
        return self.vllm.tensor_parallel_size if self.kind == "vllm" else 0
