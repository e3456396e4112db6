"""Which pool runs vLLM: Ray Data's LLM processor or `map_batches` actors of ours, beside a bare loop on the same cores.

    python -m benchmarks.speed.llm_pools --rows 2000 --rounds 3

A tiny Qwen2 with random weights (emoray.tiny) answers made-up questions held to the record's schema. Each side runs in
a process of its own, in turn. Two figures: rows per second from the first finished batch to the last, where loading
does not count, and the whole time with everything that comes before. The answers must be the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from emoray.config import read_preset, validate
from emoray.corpora.synthetic.text import LEXICON, THINGS
from emoray.engines import Answer, Chat, EngineConfig, Question, Reply, open_engine
from emoray.stages.semantics.prompt import read_prompt
from emoray.stages.semantics.record import decoding_schema
from emoray.tiny import make

SIDES = ("bare", "actors", "processor")
PHRASE, SENTENCE, TOKENS = 20, 40, 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-rows", type=int, default=256, help="rows handed to an engine at once")
    parser.add_argument("--out", type=Path, help="write the table here, as JSON")
    parser.add_argument("--side", choices=SIDES, help="run one side in this process and print what it took")
    parser.add_argument("--model", help="folder of the checkpoint, with --side")
    given = parser.parse_args()
    if given.side:
        print(json.dumps(run_side(given.side, given.model, given.rows, given.batch_rows)))
        return
    with tempfile.TemporaryDirectory(prefix="emoray-llm-pools-") as work:
        model = make("qwen2", Path(work) / "qwen2")
        rounds = [
            {side: _in_process(side, model, given.rows, given.batch_rows) for side in SIDES}
            for _ in range(given.rounds)
        ]
    table = summarise(rounds)
    print(json.dumps(table, indent=1))
    if given.out:
        given.out.write_text(json.dumps({"rows": given.rows, "batch_rows": given.batch_rows, **table}, indent=1) + "\n")


def questions(rows: int) -> list[Question]:
    """So many different ones under the shipped prompt."""
    prompt = read_prompt("text_llm")
    words = list(LEXICON)
    return [
        Question(
            prompt.system,
            prompt.user.format(
                transcript=f"The {THINGS[number % len(THINGS)]} was {words[number % len(words)]} in {number}.",
                language="en",
                delivery=f"Rather {words[number // 7 % len(words)]} and {words[number // 3 % len(words)]}.",
            ),
        )
        for number in range(rows)
    ]


def engine_config() -> EngineConfig:
    """The laptop preset's, whose engine takes 64 sequences at a time."""
    return validate(EngineConfig, read_preset("laptop")["annotate"]["semantics"]["engine"])


def run_side(side: str, model: str, rows: int, batch_rows: int) -> dict[str, Any]:
    """Times of one side, and a hash of its answers in order."""
    began = time.time()
    asked = questions(rows)
    pairs = {"bare": _bare, "actors": _actors, "processor": _processor}[side](model, asked, batch_rows)
    ended = time.time()
    answers = [text for _, text, _ in sorted(pairs)]
    finished = [at for _, _, at in pairs]
    after_first = sum(at > min(finished) for at in finished)
    return {
        "seconds": ended - began,
        "rows_per_s": after_first / (max(finished) - min(finished)),
        "answers": hashlib.sha256(json.dumps(answers).encode()).hexdigest()[:12],
    }


def summarise(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Median, least and most of each side and of the ratios to the bare loop."""
    table: dict[str, Any] = {}
    for side in SIDES:
        for figure in ("seconds", "rows_per_s"):
            table[f"{side} {figure}"] = _spread([one[side][figure] for one in rounds])
        table[f"{side} rows_per_s over bare"] = _spread(
            [o[side]["rows_per_s"] / o["bare"]["rows_per_s"] for o in rounds]
        )
    table["answers"] = {side: sorted({one[side]["answers"] for one in rounds}) for side in SIDES}
    return table


def _spread(values: list[float]) -> dict[str, float]:
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 3) for name, value in figures.items()}


def _in_process(side: str, model: str, rows: int, batch_rows: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.speed.llm_pools", "--side", side, "--model", model]
    command += ["--rows", str(rows), "--batch-rows", str(batch_rows)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{side}: {found}", file=sys.stderr, flush=True)
    return found


def _text(answer: Answer) -> str:
    return answer.text if isinstance(answer, Reply) else str(answer)


def _bare(model: str, asked: list[Question], batch_rows: int) -> list[tuple[int, str, float]]:
    engine = open_engine(model, engine_config())
    schema = decoding_schema(PHRASE, SENTENCE)
    found = []
    for start in range(0, len(asked), batch_rows):
        answers = engine.answer(asked[start : start + batch_rows], schema, TOKENS, Chat())
        found += [(start + place, _text(answer), time.time()) for place, answer in enumerate(answers)]
    return found


class Ask:
    """Our actor: what a stage does with a batch."""

    def __init__(self, model: str) -> None:
        self._engine = open_engine(model, engine_config())
        self._schema = decoding_schema(PHRASE, SENTENCE)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answer a batch, all at once."""
        pairs = zip(batch["system"], batch["user"], strict=True)
        answers = self._engine.answer([Question(str(s), str(u)) for s, u in pairs], self._schema, TOKENS, Chat())
        return {"number": batch["number"], "text": [_text(one) for one in answers], "at": [time.time()] * len(answers)}


def _actors(model: str, asked: list[Question], batch_rows: int) -> list[tuple[int, str, float]]:
    import ray.data

    _start_ray()
    pool = ray.data.ActorPoolStrategy(size=1)
    table = _table(asked).map_batches(
        Ask, fn_constructor_args=(model,), batch_size=batch_rows, compute=pool, num_cpus=0.25
    )
    return [(row["number"], row["text"], row["at"]) for row in table.iter_rows()]


def _processor(model: str, asked: list[Question], batch_rows: int) -> list[tuple[int, str, float]]:
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    _start_ray()
    vllm = engine_config().vllm
    small = {"num_cpus": 0.1}
    config = vLLMEngineProcessorConfig(
        model_source=model,
        engine_kwargs={
            "dtype": vllm.dtype,
            "max_num_seqs": vllm.max_sequences,
            "max_model_len": vllm.max_context_tokens,
            "enforce_eager": vllm.eager,
            "distributed_executor_backend": "uni",
            "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        },
        batch_size=batch_rows,
        concurrency=1,
        accelerator_type=None,
        placement_group_config={"bundles": [{"CPU": 0.5}]},
        chat_template_stage=small,
        tokenize_stage=small,
        detokenize_stage=small,
    )
    sampling = {"temperature": 0.0, "max_tokens": TOKENS, "structured_outputs": {"json": _schema_text()}}

    def before(row: dict[str, Any]) -> dict[str, Any]:
        turns = [{"role": "system", "content": row["system"]}, {"role": "user", "content": row["user"]}]
        return {"messages": turns, "sampling_params": sampling, "number": row["number"]}

    def after(row: dict[str, Any]) -> dict[str, Any]:
        return {"number": row["number"], "text": row["generated_text"], "at": time.time()}

    processor = build_processor(config, preprocess=before, postprocess=after)
    return [(row["number"], row["text"], row["at"]) for row in processor(_table(asked)).iter_rows()]


def _schema_text() -> str:
    # As text: Arrow would make one struct of all the schema's parts.
    return json.dumps(decoding_schema(PHRASE, SENTENCE))


def _table(asked: list[Question]) -> Any:
    import ray.data

    return ray.data.from_items(
        [{"number": number, "system": one.system, "user": one.user} for number, one in enumerate(asked)],
        override_num_blocks=16,
    )


def _start_ray() -> None:
    import ray

    # The workers of both sides read these when they import vLLM.
    wanted = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    wanted |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    wanted["OMP_NUM_THREADS"] = str(os.cpu_count())
    ray.init(runtime_env={"env_vars": wanted}, include_dashboard=False, log_to_driver=False, configure_logging=False)
    ray.data.DataContext.get_current().enable_progress_bars = False


if __name__ == "__main__":
    main()
