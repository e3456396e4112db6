"""A LoRA adapter for a tiny Qwen2, in peft's layout, with random weights: large enough to change what is said."""

from __future__ import annotations

import json
from pathlib import Path

RANK = 4


def write_adapter(model: str, folder: Path, *, seed: int) -> Path:
    """Write an adapter of a model's query projections."""
    import torch
    from safetensors.torch import save_file

    settings = json.loads((Path(model) / "config.json").read_text())
    width, layers = settings["hidden_size"], settings["num_hidden_layers"]
    random = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(layers):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights[f"{name}.lora_A.weight"] = torch.randn(RANK, width, generator=random)
        weights[f"{name}.lora_B.weight"] = torch.randn(width, RANK, generator=random)
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    adapter = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8 * RANK, "target_modules": ["q_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    return folder
