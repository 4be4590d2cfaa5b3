"""fmjax's side of benchmarks/steps.py: the step as a run takes it. Imports no torch."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import step_cases
from step_cases import Batch, Case

from fmjax import pretrained
from fmjax.core.config import build
from fmjax.core.nets import Objective
from fmjax.core.types import Tree
from fmjax.data import pipeline
from fmjax.data.source import InMemory
from fmjax.interop import timm
from fmjax.models import bert, convnet, gpt2, llama, mlp, rnn, t5
from fmjax.objectives import language, masked, sequence, supervised
from fmjax.optim import optimizers
from fmjax.sharding.mesh import make_mesh
from fmjax.training.feed import Resident
from fmjax.training.program import Program


def module(case: Case, dtype: str | None = None) -> nn.Module:
    """The network of a case, of fmjax's models."""
    if case.library == "timm":
        made = build(timm.KNOWN[case.network].describe(case.network, case.options)).clone(dtype=dtype)
    else:
        make, names = NETWORKS[case.network]
        made = make(**{ours: case.options[theirs] for theirs, ours in names.items()}, dtype=dtype)
    changes = {"attention": (case.attention, "auto"), "remat": (case.remat, "none")}
    return made.clone(**{field: value for field, (value, usual) in changes.items() if value != usual})


_GPT2 = {"vocab_size": "vocab", "n_positions": "length", "n_embd": "width", "n_layer": "depth", "n_head": "heads"}
_BERT = {
    "vocab_size": "vocab", "hidden_size": "width", "num_hidden_layers": "depth", "num_attention_heads": "heads",
    "intermediate_size": "inner", "max_position_embeddings": "length",
}  # fmt: skip
_LLAMA = {
    "vocab_size": "vocab", "hidden_size": "width", "num_hidden_layers": "depth", "num_attention_heads": "heads",
    "num_key_value_heads": "groups", "intermediate_size": "inner", "tie_word_embeddings": "tied",
}  # fmt: skip
_T5 = {
    "vocab_size": "vocab", "d_model": "width", "d_kv": "head_size", "d_ff": "inner", "num_layers": "depth",
    "num_heads": "heads",
}  # fmt: skip


def _bert(**sizes: Any) -> nn.Module:
    return bert.bert_base(**sizes, pairs=False, dropout=0.0, attention_dropout=0.0)


def _llama(**sizes: Any) -> nn.Module:
    return llama.llama(**sizes, eps=1e-6)  # which transformers has unless it is told


def _t5(width: int, **sizes: Any) -> nn.Module:
    return t5.t5_small(width=width, **sizes, logit_scale=width**-0.5, dropout=0.0)


def _lstm(**sizes: Any) -> nn.Module:
    return rnn.lstm(**sizes, residual=False, tied=False)


def _convnet(**sizes: Any) -> nn.Module:
    return convnet.ConvNet(**sizes, dropout=0.0)


NETWORKS: dict[str, tuple[Callable[..., nn.Module], dict[str, str]]] = {
    "GPT2LMHeadModel": (gpt2.gpt2, _GPT2),
    "BertForMaskedLM": (_bert, _BERT),
    "LlamaForCausalLM": (_llama, _LLAMA),
    "T5ForConditionalGeneration": (_t5, _T5),
    "lstm": (_lstm, {"vocab_size": "vocab", "width": "width", "depth": "depth"}),
    "mlp": (mlp.MLP, {}),
    "convnet": (_convnet, {}),
}


def objective(case: Case) -> Objective:
    """What a run of this kind would be given; only hidden tokens go through the head, as configs/ have it."""
    kinds: dict[str, Callable[[], Objective]] = {
        "next": language.NextToken,
        "masked": lambda: masked.MaskedTokens(most=step_cases.masked(case)),
        "pairs": sequence.SequenceToSequence,
        "images": supervised.Classify,
    }
    return kinds[case.batch]()


def initial(case: Case, folder: Path) -> Any:
    """The weights that PyTorch's side kept in a folder."""
    if case.library != "torch":
        return pretrained.weights(path=str(folder))
    with np.load(folder / step_cases.TENSORS) as tensors:
        return Tensors(case.network, dict(tensors))


def program(case: Case, example: Batch, initial: Any = None, dtype: str | None = None) -> Program:
    """The program of a run on one device."""
    return Program(
        modules={"model": module(case, dtype)},
        objective=objective(case),
        optimizers={"model": optimizers.adamw(rate=case.rate, decay=0.01, decay_on=".*")},
        mesh=make_mesh({"data": 1}, jax.devices()[:1]),
        example=example,
        initial=initial,
    )


def flops(case: Case, made: Program, causal: bool = False) -> float:
    """FLOPs of a step's products, backward pass included, of what is computed: tokens not hidden skip BERT's head.

    Args:
      causal: count only the half of attention that a token sees.
    """
    shapes, net = {k: v.shape for k, v in made.example.items()}, made.modules["model"]
    if case.batch != "masked":
        return 3.0 * net.flops(shapes, **({"causal": causal} if case.batch == "next" and causal else {}))
    skipped = case.rows * (case.length - step_cases.masked(case))
    return 3.0 * (net.flops(shapes) - 2.0 * skipped * net.width * (net.vocab + net.width))


def step(case: Case, made: Program, given: Sequence[Batch]) -> Callable[[], list[float]]:
    """What takes `case.steps` steps, compiling when first called, and returns their losses."""
    held: dict[str, Any] = {}
    taken = 0

    def streamed() -> list[float]:
        """A batch put on the device each step, unless they lie there; results are waited for once, at the end."""
        nonlocal taken
        if not held:
            held.update(step=made.compile(), state=made.begin())
            held["placed"] = [made.put(batch) for batch in given] if case.gpu else []
        told = []
        for _ in range(case.steps):
            k = taken % len(given)
            batch = held["placed"][k] if held["placed"] else made.put(given[k])
            held["state"], packed = held["step"](held["state"], batch)
            told.append(packed)
            taken += 1
        return [held["step"].unpack(np.asarray(packed))["loss"] for packed in told]

    def resident() -> list[float]:
        """Many steps a call, from rows that lie on the device."""
        nonlocal taken
        if not held:
            together = {name: np.concatenate([batch[name] for batch in given]) for name in given[0]}
            data = pipeline.stream(InMemory("given", together), case.rows, shuffle=False, resident=True)
            held.update(feed=Resident(made, data, case.steps), state=made.begin())
        losses: list[float] = []
        while len(losses) < case.steps:
            left = case.steps - len(losses)
            held["state"], packed, digests = held["feed"].advance(held["state"], taken, taken, left)
            taken += len(digests)
            rows = np.asarray(packed)[: len(digests)]
            losses += [held["feed"].compiled.unpack(row)["loss"] for row in rows]
        return losses

    return resident if case.resident else streamed


@dataclasses.dataclass(frozen=True)
class Tensors:
    """Weights of PyTorch's own networks as those a program begins with.

    Attributes:
      network: lstm, mlp or convnet.
      tensors: of its `state_dict`.
    """

    network: str
    tensors: Mapping[str, np.ndarray]

    def read(self, params: Mapping[str, Tree]) -> dict[str, dict[str, np.ndarray]]:
        """{net: {address: array}}."""
        return {"model": {"lstm": _of_lstm, "mlp": _of_mlp, "convnet": _of_convnet}[self.network](self.tensors)}


def _of_lstm(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = {"embed/embedding": tensors["embed.weight"], "head/kernel": tensors["head.weight"].T}
    for i in range(sum(name.startswith("lstm.weight_ih") for name in tensors)):
        at = f"block_{i}/lstm"
        found[f"{at}/input/kernel"] = tensors[f"lstm.weight_ih_l{i}"].T
        found[f"{at}/recurrent/kernel"] = tensors[f"lstm.weight_hh_l{i}"].T
        found[f"{at}/bias"] = tensors[f"lstm.bias_ih_l{i}"] + tensors[f"lstm.bias_hh_l{i}"]
    return found


def _of_mlp(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = {}
    for name, at in (("1", "dense_0"), ("3", "head")):
        found |= {f"{at}/kernel": tensors[f"{name}.weight"].T, f"{at}/bias": tensors[f"{name}.bias"]}
    return found


def _of_convnet(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = {}
    for i, name in enumerate(("0", "3", "6")):
        found |= {f"conv_{i}/kernel": tensors[f"{name}.weight"].transpose(2, 3, 1, 0)}
        found |= {f"conv_{i}/bias": tensors[f"{name}.bias"]}
    dense = tensors["10.weight"]
    side = round((dense.shape[1] / 128) ** 0.5)
    rows = dense.reshape(-1, 128, side, side).transpose(2, 3, 1, 0)  # flattened with the channels last here
    found |= {"dense/kernel": rows.reshape(dense.shape[1], -1), "dense/bias": tensors["10.bias"]}
    return found | {"head/kernel": tensors["12.weight"].T, "head/bias": tensors["12.bias"]}
