"""Makes goldens_timm/: what timm and transformers say of images, with weights that tiny_images.py makes from names.

Run it where torch, timm and transformers are (the extra `oracle`): python tests/interop/make_timm_goldens.py
"""

import json
import tempfile
from pathlib import Path

from safetensors.numpy import load_file
from timm_oracles import OF_TRANSFORMERS, config_of, make, make_of_transformers, theirs

FOLDER = Path(__file__).parent / "goldens_timm"
CASES = ("resnet_basic", "resnet_bottleneck", "convnext", "efficientnet", "vit", "vit_mean", "deit",
         "transformers_vit", "transformers_resnet")  # fmt: skip


def main() -> None:
    """Write one file a case."""
    FOLDER.mkdir(exist_ok=True)
    for case in CASES:
        with tempfile.TemporaryDirectory() as home:
            model, size = (make_of_transformers if case in OF_TRANSFORMERS else make)(case, Path(home))
            held = load_file(Path(home) / "model.safetensors")
            golden = {
                "config": config_of(Path(home)),
                "image": size,
                "expected": theirs(model, size).tolist(),
                "shapes": {name: list(x.shape) for name, x in held.items()},
            }
        path = FOLDER / f"{case}.json"
        path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
        print(case, path.stat().st_size)


if __name__ == "__main__":
    main()
