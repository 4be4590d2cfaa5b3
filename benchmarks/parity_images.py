"""The same folder in timm and here: `python benchmarks/parity_images.py [NAME ...]` compares, and writes rows.

Each model at its real size, with random weights, norms and running statistics, on 2 random images of 224x224: the
largest difference of the logits, in float32, and whether every tensor that is written back is bit-identical in timm.
Needs the extra `oracle`.
"""

import argparse
import importlib.metadata
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fmjax import results
from fmjax.core.errors import ConfigError, exits, extra
from fmjax.interop import timm

os.environ.setdefault("HF_HUB_OFFLINE", "1")
TARGET = "<= 2e-5"
MODELS = {
    "resnet18": "ResNet-18", "resnet50": "ResNet-50", "convnext_tiny": "ConvNeXt-T",
    "efficientnet_b0": "EfficientNet-B0", "vit_small_patch16_224": "ViT-S/16", "deit_small_patch16_224": "DeiT-S/16",
}  # fmt: skip


def random_model(name: str) -> Any:
    """A model of timm whose weights and statistics all count, its logits of the order of one."""
    torch, library = extra("torch", "oracle"), extra("timm", "oracle")
    torch.manual_seed(0)
    model = library.create_model(name).eval()
    with torch.no_grad():  # fresh ones have zero biases, equal norms, and branches that begin as nothing
        for key, x in model.state_dict().items():
            if key.endswith("running_var"):
                x.uniform_(0.5, 1.5)
            elif x.is_floating_point() and x.ndim == 1:
                x.add_(torch.randn_like(x) * 0.1)
            elif x.is_floating_point() and x.ndim == 2:
                x.add_(torch.randn_like(x) * 0.02)
        if name.startswith("efficientnet"):  # its gates and activations leave little of an image otherwise
            for key, x in model.state_dict().items():
                if "conv_pw" in key:
                    x.mul_(1.2)
    return model


def compare(name: str, write: bool) -> None:
    """Compare one model, print, and write its row.

    Raises:
      ConfigError: what was written back is not what was read.
    """
    torch, library = extra("torch", "oracle"), extra("timm", "oracle")
    model = random_model(name)
    rng = np.random.default_rng(0)  # patches of colours under noise: noise alone is the same image to a mean over it
    images = rng.standard_normal((2, 7, 7, 3)).repeat(32, 1).repeat(32, 2) + rng.standard_normal((2, 224, 224, 3)) / 2
    images = images.astype(np.float32)
    with tempfile.TemporaryDirectory() as home:
        theirs, ours = Path(home) / "theirs", Path(home) / "ours"
        library.models.save_for_hf(model, theirs, safe_serialization=True)
        module, params, mutable = timm.load(theirs)
        timm.save(ours, module, params, mutable)
        again = library.create_model(f"local-dir:{ours}", pretrained=True)
    with torch.no_grad():
        expected = model(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))).numpy()
    logits = np.asarray(jax.jit(module.apply)({"params": params, **mutable}, images))
    difference, reach = float(np.abs(logits - expected).max()), float(np.abs(expected).max())
    before, after = model.state_dict(), again.state_dict()
    same = before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    words = f"round trip of {len(before)} tensors bit-identical" if same else "ROUND TRIP DIFFERS"
    apart = float(np.abs(expected[0] - expected[1]).max())
    told = f"max |difference| {difference:.2e} of logits up to {reach:.2f}, images differ by {apart:.2f}"
    print(f"{name:24} {told}; {words}", flush=True)
    if not same:
        raise ConfigError(f"{name}: what was written back is not what was read")
    if write:
        versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("timm", "torch"))
        results.write_row(
            f"parity_{name}", task=f"{MODELS[name]}: logits beside timm", metric="max |difference|",
            command=f"python benchmarks/parity_images.py {name}", values=[difference], repeats=1, target=TARGET,
            note=f"{versions}; float32, random weights, 224x224; {words}; logits reach {reach:.1f}",
        )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Compare with timm and write the rows."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODELS)} (default: all)")
    parser.add_argument("--print", action="store_true", help="write no rows")
    args = parser.parse_args(argv)
    if odd := [name for name in args.names if name not in MODELS]:
        raise ConfigError(f"there is no {odd[0]!r}; there is {', '.join(MODELS)}")
    for name in args.names or MODELS:
        compare(name, not args.print)
    return 0


if __name__ == "__main__":
    sys.exit(exits(main)())
