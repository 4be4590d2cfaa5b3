"""PyTorch's side of benchmarks/steps.py: the same networks, as its users write or load them. Imports no jax."""

import copy
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from step_cases import IGNORED, TENSORS, Batch, Case
from turns import quickest

from fmjax.core.errors import extra

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def network(case: Case, device: str = "cpu") -> Any:
    """A network with random weights, ready to train; the same each time."""
    torch = extra("torch", "oracle")
    torch.manual_seed(0)
    if case.network in OWN:
        return OWN[case.network](torch, case).train().to(device)
    with torch.device(device):  # made where it is used: on a CPU alone, large ones take long
        model = _timm(torch, case) if case.library == "timm" else _transformers(torch, case)
    if case.checkpointing:
        (model.set_grad_checkpointing if case.library == "timm" else model.gradient_checkpointing_enable)()
    return model.train().to(device)


def _timm(torch: Any, case: Case) -> Any:
    return extra("timm", "oracle").create_model(case.network, **case.options).to(memory_format=torch.channels_last)


def _transformers(torch: Any, case: Case) -> Any:
    transformers = extra("transformers", "oracle")
    kind = getattr(transformers, case.network)
    model = kind(kind.config_class(**case.options))
    if case.batch == "next":
        # transformers makes a mask under torch.compile before torch 2.14, which keeps fused attention from being used.
        transformers.AttentionInterface.register("causal", _causal)
        model.set_attn_implementation("causal")
    return model


def _causal(module: Any, q: Any, k: Any, v: Any, mask: Any, scaling: float | None = None, **_: Any) -> tuple[Any, None]:
    """Attention of whole sequences, which need no mask but the causal one."""
    torch = extra("torch", "oracle")
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


def save(case: Case, model: Any, folder: Path) -> dict[str, np.ndarray]:
    """Write a model of transformers or timm into `folder`; the tensors of another are returned instead."""
    if case.library == "timm":
        plain = copy.deepcopy(model).to(memory_format=extra("torch", "oracle").contiguous_format)
        extra("timm", "oracle").models.save_for_hf(plain, folder, safe_serialization=True)
        return {}
    if case.library == "transformers":
        model.save_pretrained(folder)
        return {}
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in model.state_dict().items()}


def keep(case: Case, model: Any, folder: Path) -> None:
    """Write a model into `folder` whatever it is of, for another process to read."""
    if tensors := save(case, model, folder):
        np.savez(folder / TENSORS, **tensors)


def step(
    case: Case,
    model: Any,
    given: Sequence[Batch],
    *,
    compiled: bool = False,
    device: str = "cpu",
    half: bool = False,
    optimizer: Any = None,
) -> Callable[[], list[float]]:
    """What takes `case.steps` steps and returns their losses.

    Args:
      compiled: by torch.compile, with the loss.
      half: compute in bfloat16 (autocast), weights in float32.
      optimizer: of the model's weights; None makes one.
    """
    torch = extra("torch", "oracle")
    # Fused is the fastest of its three forms, and decays every weight, as ours is told to.
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=case.rate, weight_decay=0.01, fused=True)
    find_loss = LOSSES[case.batch]

    def lost(batch: dict[str, Any]) -> Any:
        if not half:
            return find_loss(torch, model, batch)
        with torch.autocast(device, torch.bfloat16):
            return find_loss(torch, model, batch)

    loss_of = torch.compile(lost) if compiled else lost
    ready = [{name: _tensor(torch, case, array).to(device) for name, array in batch.items()} for batch in given]
    held = {name: torch.cat([batch[name] for batch in ready]) for name in ready[0]} if case.resident else {}
    taken = 0

    def one() -> Any:
        nonlocal taken
        k, taken = taken % len(ready), taken + 1
        rows = torch.arange(k * case.rows, (k + 1) * case.rows, device=device)  # what a shuffle would give
        batch = {name: array[rows] for name, array in held.items()} if case.resident else ready[k]
        optimizer.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def many() -> list[float]:
        return torch.stack([one() for _ in range(case.steps)]).float().tolist()  # waits once a turn

    return many


def matmul_rate(device: str, precision: str, size: int, seconds: float = 1.0) -> float:
    """Measured FLOP/s of square products: the best of several."""
    torch = extra("torch", "oracle")
    x = torch.ones(size, size, dtype=getattr(torch, precision), device=device)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    return 2 * size**3 / quickest(lambda: (x @ x, wait()), seconds)


def evaluate(case: Case, model: Any, given: Sequence[Batch], compiled: bool = False) -> Callable[[], float]:
    """What finds the mean loss over batches of equal weight."""
    torch = extra("torch", "oracle")
    model, find_loss = model.eval(), LOSSES[case.batch]

    def lost(batch: dict[str, Any]) -> Any:
        return find_loss(torch, model, batch)

    loss_of = torch.compile(lost) if compiled else lost
    ready = [{name: _tensor(torch, case, array) for name, array in batch.items()} for batch in given]

    def whole() -> float:
        with torch.inference_mode():
            return torch.stack([loss_of(batch) for batch in ready]).mean().item()

    return whole


def _tensor(torch: Any, case: Case, array: np.ndarray) -> Any:
    tensor = torch.from_numpy(array)
    if tensor.ndim == 4:
        tensor = tensor.permute(0, 3, 1, 2)  # a view: channels stay last in memory, as its convolutions like it
    return tensor.long() if tensor.dtype == torch.int32 else tensor


def _logits(output: Any) -> Any:
    return getattr(output, "logits", output)


def _next_loss(torch: Any, model: Any, batch: dict[str, Any]) -> Any:
    logits = _logits(model(batch["tokens"][:, :-1]))
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["tokens"][:, 1:].flatten())


def _masked_loss(torch: Any, model: Any, batch: dict[str, Any]) -> Any:
    labels = batch["targets"].masked_fill(batch["weights"] == 0, IGNORED)
    logits = _logits(model(batch["tokens"]))
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def _pairs_loss(torch: Any, model: Any, batch: dict[str, Any]) -> Any:
    return model(input_ids=batch["tokens"], labels=batch["targets"]).loss


def _images_loss(torch: Any, model: Any, batch: dict[str, Any]) -> Any:
    return torch.nn.functional.cross_entropy(model(batch["image"]), batch["label"])


LOSSES = {"next": _next_loss, "masked": _masked_loss, "pairs": _pairs_loss, "images": _images_loss}


def _lstm(torch: Any, case: Case) -> Any:
    vocab, width, depth = case.vocab, case.options["width"], case.options["depth"]

    class LanguageModel(torch.nn.Module):
        """Embedding, nn.LSTM, output weights of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(vocab, width)
            self.lstm = torch.nn.LSTM(width, width, depth, batch_first=True)
            self.head = torch.nn.Linear(width, vocab, bias=False)
            for name, weight in self.lstm.named_parameters():
                if name.startswith("bias_hh"):  # a second bias, which only doubles the rate of the first
                    torch.nn.init.zeros_(weight)
                    weight.requires_grad_(False)

        def forward(self, tokens: Any) -> Any:
            return self.head(self.lstm(self.embed(tokens))[0])

    return LanguageModel()


def _mlp(torch: Any, case: Case) -> Any:
    nn, inputs = torch.nn, case.length**2 * case.channels
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 10))


def _convnet(torch: Any, case: Case) -> Any:
    nn, layers, inputs = torch.nn, [], case.channels
    for width in (32, 64, 128):
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        inputs = width
    after = case.length // 8
    layers += [nn.Flatten(), nn.Linear(128 * after**2, 512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


# Networks that PyTorch's users write themselves; the others are classes of transformers.
OWN = {"lstm": _lstm, "mlp": _mlp, "convnet": _convnet}


def packages(case: Case) -> tuple[str, ...]:
    """What the other side of a case is made of."""
    return ("torch",) if case.library == "torch" else (case.library, "torch")
