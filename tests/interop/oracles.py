"""Models of transformers with random weights, one a case; imported only where torch and transformers are."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

LLAMA = dict(vocab_size=61, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64)  # fmt: skip
GEMMA = {**LLAMA, "head_dim": 16}
BERT = dict(vocab_size=61, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=40)  # fmt: skip
GPT2 = dict(vocab_size=61, n_positions=40, n_embd=16, n_layer=2, n_head=4)
T5 = dict(vocab_size=61, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, decoder_start_token_id=0)
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16, "rope_theta": 5e5}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}
CASES = {
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "gpt2_untied": ("GPT2LMHeadModel", {**GPT2, "tie_word_embeddings": False, "n_inner": 40,
                                        "activation_function": "relu"}),
    "llama": ("LlamaForCausalLM", LLAMA),
    "llama_llama3": ("LlamaForCausalLM", {**LLAMA, "tie_word_embeddings": True, "rope_parameters": LLAMA3}),
    "llama_linear": ("LlamaForCausalLM", {**LLAMA, "rope_parameters": LINEAR, "num_key_value_heads": 4,
                                          "attention_bias": True, "mlp_bias": True}),
    "llama_yarn": ("LlamaForCausalLM", {**LLAMA, "rope_parameters": YARN, "head_dim": 12, "rms_norm_eps": 1e-5}),
    "mistral": ("MistralForCausalLM", {**LLAMA, "sliding_window": 5, "head_dim": 16}),
    "qwen2": ("Qwen2ForCausalLM", {**LLAMA, "tie_word_embeddings": True}),
    "qwen2_window": ("Qwen2ForCausalLM", {**LLAMA, "use_sliding_window": True, "sliding_window": 6,
                                          "max_window_layers": 0, "rope_parameters": YARN}),
    "qwen3": ("Qwen3ForCausalLM", {**LLAMA, "head_dim": 16, "tie_word_embeddings": True}),
    "gemma": ("GemmaForCausalLM", {**GEMMA, "num_key_value_heads": 1}),
    "gemma2": ("Gemma2ForCausalLM", {**GEMMA, "num_hidden_layers": 3, "sliding_window": 5, "query_pre_attn_scalar": 13,
                                     "attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.5}),
    "gemma2_full": ("Gemma2ForCausalLM", {**GEMMA, "attn_logit_softcapping": None, "final_logit_softcapping": None,
                                          "layer_types": ["full_attention"] * 2, "tie_word_embeddings": False}),
    "gemma3_text": ("Gemma3ForCausalLM", {**GEMMA, "num_hidden_layers": 6, "sliding_window": 5}),
    "gemma3_linear": ("Gemma3ForCausalLM", {**GEMMA, "num_hidden_layers": 3, "sliding_window": 5, "layer_types": [
        "sliding_attention", "sliding_attention", "full_attention"], "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e3}}}),
    "bert": ("BertForPreTraining", BERT),
    "bert_masked": ("BertForMaskedLM", {**BERT, "hidden_act": "gelu_new"}),
    "bert_bare": ("BertModel", BERT),
    "bert_pairs": ("BertForNextSentencePrediction", BERT),
    "roberta": ("RobertaForMaskedLM", {**BERT, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "roberta_bare": ("RobertaModel", {**BERT, "type_vocab_size": 1}),
    "t5": ("T5ForConditionalGeneration", T5),
    "t5_v11": ("T5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
                                              "num_decoder_layers": 1, "d_kv": 12}),
}  # fmt: skip


def make(case: str, folder: Path | None = None, **more: Any) -> Any:
    """The model of a case with weights that all count, saved into `folder`."""
    name, options = CASES[case]
    torch.manual_seed(sum(map(ord, case)))
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**{**options, **more})).eval()
    if case.startswith("gemma"):
        model.set_attn_implementation("eager")  # the others leave out the bound on the scores
    with torch.no_grad():  # fresh weights have zero biases and equal norms
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        for key in ("lm_head", "shared"):
            if getattr(model, key, None) is not None and name.startswith("T5"):
                getattr(model, key).weight.mul_(0.3)
        if case == "t5_v11":  # transformers ties them unless they differ in the file
            model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight) * 0.2)
    if folder is not None:
        model.save_pretrained(folder)
    return model


def ids(case: str, config: Any, rows: int = 3, length: int = 24) -> dict[str, np.ndarray]:
    """A batch in transformers' names, the last row padded."""
    rng = np.random.default_rng(sum(map(ord, case)))
    tokens = rng.integers(3, config.vocab_size, (rows, length)).astype(np.int32)
    mask = np.ones_like(tokens)
    mask[-1, length - 5 :] = 0
    if config.model_type == "roberta":  # it counts positions over what is no padding
        tokens[mask == 0] = config.pad_token_id
    batch = {"input_ids": tokens, "attention_mask": mask}
    if config.model_type == "t5":
        batch["decoder_input_ids"] = rng.integers(3, config.vocab_size, (rows, length // 2)).astype(np.int32)
    if getattr(config, "type_vocab_size", 1) > 1:
        batch["token_type_ids"] = np.repeat(np.arange(2, dtype=np.int32), length // 2)[None].repeat(rows, 0)
    return batch


def theirs(model: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
    """Logits of tokens, or hidden states where there is no such head."""
    with torch.no_grad():
        out = model(**{k: torch.from_numpy(v).long() for k, v in batch.items()}, output_hidden_states=True)
    for key in ("prediction_logits", "logits"):
        if getattr(out, key, None) is not None and out[key].ndim == 3:
            return out[key].float().numpy()
    return (out.last_hidden_state if hasattr(out, "last_hidden_state") else out.hidden_states[-1]).float().numpy()
