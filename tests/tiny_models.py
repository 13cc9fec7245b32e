"""Random causal language models of a few kilobytes, one for each way a family turns hidden states into logits."""

from __future__ import annotations

from typing import Any

import torch

# what each family adds to logits = hidden @ W.T
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "gpt2": ("GPT2Config", {}),  # tied, learned positions, Conv1D
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 8}),
    "gemma2": ("Gemma2Config", {"head_dim": 8, "final_logit_softcapping": 2.0, "sliding_window": 64}),
    "granite": ("GraniteConfig", {"logits_scaling": 0.25}),  # logits are divided by it
    "cohere": ("CohereConfig", {"logit_scale": 3.0}),  # logits are multiplied by it
    "mixtral": ("MixtralConfig", {"num_local_experts": 2, "num_experts_per_tok": 1}),
    "llama4": (  # its decoder goes by a name that transformers does not look for
        "Llama4TextConfig",
        {"head_dim": 8, "moe_layers": [], "num_local_experts": 2, "intermediate_size_mlp": 48},
    ),
    "phi": ("PhiConfig", {}),  # a bias in the head
}


def tiny_model(family: str, vocab_size: int = 61, *, seed: int = 0, **overrides: Any) -> torch.nn.Module:
    """A two-layer model of `family` with hidden size 32, random by `seed`, in eval mode, float32 on the CPU.

    The weights are drawn wide (0.3) so that the logits differ enough for a wrong scale, cap or bias to show.
    """
    import transformers

    name, special = FAMILIES[family]
    sizes: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.3,
    }
    if family == "gpt2":
        renamed = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
        renamed |= {"max_position_embeddings": "n_positions", "intermediate_size": "n_inner"}
        sizes = {renamed.get(key, key): value for key, value in sizes.items() if key != "num_key_value_heads"}
    config = getattr(transformers, name)(**{**sizes, **special, **overrides})
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        model = transformers.AutoModelForCausalLM.from_config(config)
        if family == "phi":
            torch.nn.init.normal_(model.lm_head.bias)  # transformers starts biases at 0, which would hide a lost one
    finally:
        torch.random.set_rng_state(state)
    return model.eval()
