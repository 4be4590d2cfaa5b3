"""Makes goldens_timm/: what timm says of images with weights that tests/interop/tiny_images.py makes from names.

Run it where torch and timm are (the extra `oracle`): python tests/interop/make_timm_goldens.py
"""

import json
import tempfile
from pathlib import Path

from timm_oracles import config_of, make, theirs

FOLDER = Path(__file__).parent / "goldens_timm"
CASES = ("resnet_basic", "resnet_bottleneck", "convnext", "efficientnet", "vit", "vit_mean", "deit")


def main() -> None:
    """Write one file a case."""
    FOLDER.mkdir(exist_ok=True)
    for case in CASES:
        with tempfile.TemporaryDirectory() as home:
            model, size = make(case, Path(home))
            golden = {
                "config": config_of(Path(home)),
                "image": size,
                "expected": theirs(model, size).tolist(),
                "shapes": {name: list(x.shape) for name, x in model.state_dict().items()},
            }
        path = FOLDER / f"{case}.json"
        path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
        print(case, path.stat().st_size)


if __name__ == "__main__":
    main()
