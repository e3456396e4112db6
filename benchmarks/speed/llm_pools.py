"""How well a pool feeds vLLM: ours and Ray Data's LLM processor, beside the bare engine.

    python -m benchmarks.speed.llm_pools --rows 2000 --rounds 5

A tiny Qwen2 with random weights (benchmarks.tiny) answers synthetic questions, constrained to the record's schema.
Contenders, each in its own process, in turn, every second round in reverse:

- `bare`: `vllm.LLM` with all questions in it from the beginning. Nothing can feed an engine better.
- `calls`: one call of `LLM.chat` per batch, one after the other.
- `pool`: a language model's stage in the pipeline that `annotate` runs, with one worker: batches from the lake, answers
  parsed, outcomes into stage tables.
- `processor`: `ray.data.llm` with one replica.

Every engine computes with one thread, which is what Ray gives a worker, so that a second core is there for what feeds
it. Two figures: rows per second from the first finished batch to the last, where loading does not count, and the whole
time of the process. The answers must be the same, so that rows stand for tokens.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from benchmarks.tiny import make

from emoray.config import read_preset, validate
from emoray.corpora.synthetic.text import LEXICON, THINGS
from emoray.engines import EngineConfig, Question
from emoray.lake.tables import Lake, LakeConfig
from emoray.schema import empty_row, utterances_table
from emoray.stages.base import Row
from emoray.stages.guard import GuardConfig
from emoray.stages.semantics.language_model import LanguageModelConfig, LanguageModelSemantics
from emoray.stages.semantics.prompt import read_prompt
from emoray.stages.semantics.record import SemanticsRecord, decoding_schema, semantics_value
from emoray_jobs.cluster.session import session
from emoray_jobs.config import ClusterConfig
from emoray_jobs.pipeline.batches import write_batches
from emoray_jobs.pipeline.pending import PendingWork
from emoray_jobs.pipeline.pools import Pool

CONTENDERS = ("bare", "calls", "pool", "processor")
PHRASE, SENTENCE, TOKENS = 20, 40, 400
#: Number of each question that was answered, the answer's text, and when it was there.
Answers = list[tuple[int, str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-rows", type=int, default=64, help="rows of a batch; bare has them all")
    parser.add_argument(
        "--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS, metavar="CONTENDER", help="only these"
    )
    parser.add_argument("--out", type=Path, help="write the table here, as JSON")
    parser.add_argument(
        "--contender", choices=CONTENDERS, help="run one contender in this process and print what it took"
    )
    parser.add_argument("--model", help="folder of the checkpoint, with --contender")
    given = parser.parse_args()
    if given.contender:
        print(json.dumps(run_contender(given.contender, given.model, given.rows, given.batch_rows)))
        return
    with tempfile.TemporaryDirectory(prefix="emoray-llm-pools-") as work:
        model = make("qwen2", Path(work) / "qwen2")
        rounds = []
        for number in range(given.rounds):
            order = given.contenders[:: 1 if number % 2 == 0 else -1]
            rounds.append(
                {contender: _in_process(contender, model, given.rows, given.batch_rows) for contender in order}
            )
    table = summarise(rounds, given.contenders)
    print(json.dumps(table, indent=1))
    if given.out:
        setting = {"rows": given.rows, "batch_rows": given.batch_rows, "rounds": given.rounds}
        given.out.write_text(json.dumps({**setting, **table}, indent=1) + "\n")


def questions(rows: int) -> list[Question]:
    """Different questions with the shipped prompt."""
    prompt = read_prompt("text_llm_v2")
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
    """The laptop preset's engine, which takes 64 sequences at a time."""
    return validate(EngineConfig, read_preset("laptop")["annotate"]["semantics"]["engine"])


def run_contender(contender: str, model: str, rows: int, batch_rows: int) -> dict[str, Any]:
    """Rate of one contender, and a hash of its answers in order."""
    run = {"bare": _bare, "calls": _calls, "pool": _pool, "processor": _processor}[contender]
    answers = sorted(run(model, questions(rows), batch_rows))
    assert [number for number, _, _ in answers] == list(range(rows))
    finished = sorted(at for _, _, at in answers)
    # Where batches come as a whole, the first one ends at one moment; it is not counted, nor is as much of the others.
    began = finished[batch_rows - 1]
    counted = sum(at > began for at in finished)
    texts = json.dumps([text for _, text, _ in answers])
    return {
        "rows_per_s": counted / (finished[-1] - began),
        "answers": hashlib.sha256(texts.encode()).hexdigest()[:12],
    }


def summarise(rounds: list[dict[str, dict[str, Any]]], contenders: Sequence[str]) -> dict[str, Any]:
    """Median, least and most of each contender, and of its ratios to the bare engine and to Ray's processor."""
    table: dict[str, Any] = {}
    for contender in contenders:
        for figure in ("seconds", "rows_per_s"):
            table[f"{contender} {figure}"] = _spread([one[contender][figure] for one in rounds])
        if "bare" in contenders:
            ratios = [one[contender]["rows_per_s"] / one["bare"]["rows_per_s"] for one in rounds]
            table[f"{contender} rows_per_s over bare"] = _spread(ratios)
        if "processor" in contenders:
            ratios = [one[contender]["seconds"] / one["processor"]["seconds"] for one in rounds]
            table[f"{contender} seconds over processor"] = _spread(ratios)
    table["answers"] = {contender: sorted({one[contender]["answers"] for one in rounds}) for contender in contenders}
    return table


def _spread(values: list[float]) -> dict[str, float]:
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 3) for name, value in figures.items()}


def _in_process(contender: str, model: str, rows: int, batch_rows: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.speed.llm_pools", "--contender", contender, "--model", model]
    command += ["--rows", str(rows), "--batch-rows", str(batch_rows)]
    # Ray's workers give way to other processes by default; on a machine with others that would decide the comparison.
    own = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RAY_worker_niceness": "0"}
    own |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    own |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_LOGGING_LEVEL": "ERROR"}
    began = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | own)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    found["seconds"] = time.monotonic() - began
    print(f"{contender}: {found}", file=sys.stderr, flush=True)
    return found


def _llm(model: str) -> tuple[Any, Any]:
    """The engine as its documentation opens it, with our settings, and the parameters of sampling."""
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    form = StructuredOutputsParams(json=decoding_schema(PHRASE, SENTENCE))
    sampling = SamplingParams(temperature=0.0, max_tokens=TOKENS, structured_outputs=form)
    return LLM(model, seed=0, **_engine_arguments()), sampling


def _engine_arguments() -> dict[str, Any]:
    vllm = engine_config().vllm
    return {
        "dtype": vllm.dtype,
        "max_num_seqs": vllm.max_sequences,
        "max_model_len": vllm.max_context_tokens,
        "enforce_eager": vllm.eager,
        "distributed_executor_backend": "uni",
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    }


def _bare(model: str, asked: list[Question], _: int) -> Answers:
    llm, sampling = _llm(model)
    llm.enqueue_chat([question.messages() for question in asked], sampling, use_tqdm=False)
    found = []
    while llm.llm_engine.has_unfinished_requests():
        done = [output for output in llm.llm_engine.step() if output.finished]
        found += [(int(output.request_id), _text(output.outputs[0].text), time.time()) for output in done]
    return found


def _calls(model: str, asked: list[Question], batch_rows: int) -> Answers:
    llm, sampling = _llm(model)
    found = []
    for start in range(0, len(asked), batch_rows):
        batch = [question.messages() for question in asked[start : start + batch_rows]]
        outputs = llm.chat(batch, sampling, use_tqdm=False)
        found += [(start + place, _text(one.outputs[0].text), time.time()) for place, one in enumerate(outputs)]
    return found


class Ask(LanguageModelSemantics):
    """A language model's stage whose questions are in the column `transcript`."""

    kind = "text_llm"
    version = 1
    needs_norms = False

    def question(self, row: Row, number: int = 0) -> Question:
        """The row's question."""
        return Question(self.prompts[number].system, row["transcript"])


def _pool(model: str, asked: list[Question], batch_rows: int) -> Answers:
    import ray

    from emoray_jobs.pipeline import writer
    from emoray_jobs.pipeline.ray_pipeline import RayPipeline

    bounds = {"max_tokens": TOKENS, "phrase_characters": PHRASE, "sentence_characters": SENTENCE}
    preset = read_preset("laptop")["annotate"]["semantics"]["text_llm"]
    config = validate(LanguageModelConfig, preset | bounds | {"model": model, "revision": "r"})
    stage = Ask(config, engine_config(), None, against="speaker")
    ids = [f"u{number:06d}" for number in range(len(asked))]
    rows = pl.DataFrame({"utterance_id": ids, "seconds": 1.0, stage.name: True})
    work, prints = PendingWork([stage], rows), {stage.name: "benchmark"}
    annotate = read_preset("laptop")["annotate"]
    pool = Pool((stage.name,), uses_actors=True, workers=1, cpus=0.25, gpus=0, memory_bytes=0, fixed=True)
    with _lake() as lake, session(_cluster(), lake.config), lake.scratch("pool") as folder:
        table = utterances_table(
            [
                empty_row() | {"utterance_id": name, "corpus": "c", "audio_uri": name, "transcript": question.user}
                for name, question in zip(ids, asked, strict=True)
            ]
        )
        lake.write_utterances("c", table)
        utterances = lake.utterances_dataset("c")
        batches = write_batches(lake, folder, work, utterances, {}, max_rows=batch_rows, max_audio_s=1e9)
        sink = writer.start(lake.config, annotate["flush_rows"], annotate["flush_s"])
        guard = validate(GuardConfig, annotate["guard"])
        pipeline = RayPipeline([stage], {stage.name: stage.value_type}, prints, guard, lake.config, sink)
        times: list[float] = []
        for through in pipeline.run(batches, [pool], in_turn=False):
            times += [time.time()] * through
        report = ray.get(sink.finish.remote())
        assert not report.problems, report.problems
        outcomes = lake.stage_outcomes(stage.name, prints[stage.name])
        assert outcomes is not None
        values = outcomes.sort("utterance_id").collect()["value"].to_list()
    # Which row came when does not matter for the rate.
    return [(number, value["text"], at) for number, (value, at) in enumerate(zip(values, times, strict=True))]


def _processor(model: str, asked: list[Question], batch_rows: int) -> Answers:
    import ray.data
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    small = {"num_cpus": 0.1}
    config = vLLMEngineProcessorConfig(
        model_source=model,
        engine_kwargs=_engine_arguments(),
        batch_size=batch_rows,
        concurrency=1,
        accelerator_type=None,
        placement_group_config={"bundles": [{"CPU": 0.5}]},
        chat_template_stage=small,
        tokenize_stage=small,
        detokenize_stage=small,
    )
    # The schema as text: Arrow would make one struct of all its parts.
    form = {"json": json.dumps(decoding_schema(PHRASE, SENTENCE))}
    sampling = {"temperature": 0.0, "max_tokens": TOKENS, "structured_outputs": form}

    def before(row: dict[str, Any]) -> dict[str, Any]:
        turns = [{"role": "system", "content": row["system"]}, {"role": "user", "content": row["user"]}]
        return {"messages": turns, "sampling_params": sampling, "number": row["number"]}

    def after(row: dict[str, Any]) -> dict[str, Any]:
        return {"number": row["number"], "text": _text(row["generated_text"])}

    rows = [{"number": number, "system": one.system, "user": one.user} for number, one in enumerate(asked)]
    blocks = max(1, len(asked) // batch_rows)
    with _lake() as lake, session(_cluster(), lake.config):
        ray.data.DataContext.get_current().enable_progress_bars = False
        table = build_processor(config, preprocess=before, postprocess=after)(
            ray.data.from_items(rows, override_num_blocks=blocks)
        )
        return [(row["number"], row["text"], time.time()) for row in table.iter_rows()]


def _text(answer: str) -> str:
    """An answer as the stage keeps it."""
    return str(semantics_value(SemanticsRecord.model_validate_json(answer))["text"])


@contextlib.contextmanager
def _lake() -> Iterator[Lake]:
    with tempfile.TemporaryDirectory(prefix="emoray-llm-pools-") as root:
        yield Lake(LakeConfig(root=root, storage_options={}))


def _cluster() -> ClusterConfig:
    return validate(ClusterConfig, read_preset("laptop")["cluster"])


if __name__ == "__main__":
    main()
