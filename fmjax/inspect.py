"""Look at the data of a config: `python -m fmjax.inspect --config=configs/vision/mlp_mnist.py`.

Prints the element spec, statistics, three examples and the throughput of `config.data` and of every
evaluator's data, and writes a picture of the first batch of images, and one of what the objective's augmentation
makes of them. Nothing else of the config is built.
"""

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

from fmjax.core.errors import ConfigError, exits

SHOWN = 64  # images on a picture
CELL = 64  # pixels an image is enlarged to, at least
ROWS, DRAWS = 8, 7  # images on a picture of augmentation, and how often each is drawn


def main(argv: list[str] | None = None) -> None:
    """Inspect the data of a config."""
    parser = argparse.ArgumentParser(prog="python -m fmjax.inspect", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--config", required=True, help="path/to/file.py, path/to/file.py:variant, or a saved config.json"
    )
    parser.add_argument("--batches", type=int, default=20, help="how many batches the statistics are of (default 20)")
    parser.add_argument("--out", default="inspect", help="folder for the pictures (default inspect/)")
    args, rest = parser.parse_known_args(argv)
    if args.batches < 1:
        parser.error("--batches is 1 or more")

    from fmjax.core.config import build, parse
    from fmjax.core.configfile import read

    config = read(args.config)
    parse(config, rest)
    parts = {}
    if config.get("data") is not None:
        parts["data"] = ("config.data", config.data)
    for name, node in (config.get("evals") or {}).items():
        if node.get("data") is not None:
            parts[f"evals.{name}"] = (f"config.evals.{name}.data", node.data)
    if not parts:
        raise ConfigError(f"{args.config} has no data to look at: neither config.data nor config.evals.<name>.data")
    node, objective = config.get("objective") or {}, None
    if "data" in parts and (node.get("augment") or node.get("mix")):
        objective = build(node, "config.objective")
    for number, (name, (at, node)) in enumerate(parts.items()):
        print("\n" * bool(number) + f"== {name}")
        augments = objective if name == "data" else None
        inspect(build(node, at), name, args.batches, Path(args.out), int(config.get("seed") or 0), augments)


def inspect(batches: Any, name: str, count: int, out: Path, seed: int = 0, objective: Any = None) -> None:
    """Print what `batches` holds, judged by its first `count` batches; `objective` is one that augments them."""
    from fmjax.core.config import did_you_mean
    from fmjax.core.types import KEYS

    source = batches.source
    print(f"{batches}: {batches.examples} examples, {len(batches)} batches a pass, fingerprint {batches.fingerprint}")
    start = time.perf_counter()
    spec = batches.spec()
    print(f"first example after {time.perf_counter() - start:.3f} s")
    for key in spec:
        if key not in KEYS:
            print(f"note: {key!r} is no word of fmjax.core.types.KEYS; {did_you_mean(key, KEYS)}")
    held = list(itertools.islice(batches.iterate(seed, stop=count), count))
    _print_statistics(spec, held)
    _print_labels(held, getattr(source, "classes", None))
    _print_examples(held[0], source)
    print(f"throughput: {_throughput(batches, seed, count)}")
    if held[0].get("image") is not None and held[0]["image"].ndim == 4:
        sheet = contact_sheet(held[0], getattr(source, "classes", None))
        print(f"picture of the first batch: {_save(sheet, out / f'{name}.png')}")
        if objective is not None:
            sheet = augmented_sheet(held[0], objective, seed)
            print(f"picture of its augmentation: {_save(sheet, out / f'{name}.augmented.png')}")


def contact_sheet(batch: dict[str, Any], classes: Any = None) -> Any:
    """The real images of a batch in a grid, enlarged without smoothing, their labels below."""
    from PIL import Image, ImageDraw

    images = batch["image"][batch["valid"] > 0][:SHOWN]
    labels = batch.get("label")
    images = _colors(images)
    scale = max(1, -(-CELL // max(images.shape[1:3])))
    height, width = (side * scale for side in images.shape[1:3])
    columns = min(len(images), max(1, round((len(images) * height / width) ** 0.5)))
    below = 14 if labels is not None and labels.ndim == 1 else 0
    sheet = Image.new(
        "RGB", (columns * (width + 4) + 4, -(-len(images) // columns) * (height + below + 4) + 4), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for i, image in enumerate(images):
        left, top = (i % columns) * (width + 4) + 4, (i // columns) * (height + below + 4) + 4
        sheet.paste(Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST), (left, top))
        if below:
            draw.text((left, top + height + 1), _label(int(labels[batch["valid"] > 0][i]), classes), fill="black")
    return sheet


def augmented_sheet(batch: dict[str, Any], objective: Any, seed: int = 0) -> Any:
    """Each row an image of a batch: as it is, then what `objective.prepare` made of it in several draws."""
    import dataclasses

    import jax
    import numpy as np
    from PIL import Image

    shown = np.flatnonzero(batch["valid"] > 0)[:ROWS]
    few = {key: array[shown] for key, array in batch.items() if array.dtype.kind not in "USO"}
    # What augmentation gives, before it is normalised for the model.
    fields = {field.name for field in dataclasses.fields(objective)}
    plain = {name: value for name, value in (("mean", (0.0,)), ("std", (1.0,))) if name in fields}
    objective = dataclasses.replace(objective, **plain)
    draw = jax.jit(lambda few, key: objective.prepare({}, few, {}, 0, key, True)[0]["image"])
    keys = jax.random.split(jax.random.key(seed), DRAWS)
    columns = [_colors(images) for images in (few["image"], *(np.asarray(draw(few, key)) for key in keys))]
    scale = max(1, -(-CELL // max(columns[0].shape[1:3])))
    height, width = (side * scale for side in columns[0].shape[1:3])
    sheet = Image.new("RGB", (len(columns) * (width + 4) + 12, len(shown) * (height + 4) + 4), "white")
    for i, column in enumerate(columns):
        left = i * (width + 4) + 4 + 8 * bool(i)
        for j, image in enumerate(column):
            big = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(big, (left, j * (height + 4) + 4))
    return sheet


def _colors(images: Any) -> Any:
    """(B, H, W, 3) uint8 of images of any kind."""
    import numpy as np

    if images.dtype != np.uint8:
        images = np.round(np.clip(images.astype(np.float32), 0, 1) * 255).astype(np.uint8)
    return images[..., :3] if images.shape[-1] >= 3 else images[..., :1].repeat(3, axis=-1)


def _save(sheet: Any, path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}; give --out=FOLDER") from None
    return path


def _print_statistics(spec: dict[str, Any], held: list[dict[str, Any]]) -> None:
    import numpy as np

    print(f"{'key':<14}{'shape':<22}{'dtype':<10}{'min':>10}{'max':>10}{'mean':>12}{'deviation':>12}")
    for key, (shape, dtype) in spec.items():
        line = f"{key:<14}{shape!s:<22}{dtype!s:<10}"
        real = [batch[key] if key == "valid" else batch[key][batch["valid"] > 0] for batch in held]
        size = sum(array.size for array in real)
        if dtype.kind in "iufb" and size:
            wide = [array.astype(np.float64) for array in real if array.size]
            mean = sum(array.sum() for array in wide) / size
            deviation = (sum(((array - mean) ** 2).sum() for array in wide) / size) ** 0.5
            low, high = min(array.min() for array in wide), max(array.max() for array in wide)
            line += f"{low:>10.4g}{high:>10.4g}{mean:>12.5g}{deviation:>12.5g}"
        print(line)


def _print_labels(held: list[dict[str, Any]], classes: Any) -> None:
    import numpy as np

    if "label" not in held[0]:
        return
    labels = np.concatenate([batch["label"][batch["valid"] > 0] for batch in held])
    if labels.ndim == 1:
        values, counts = np.unique(labels, return_counts=True)
        top = max(counts)
    else:
        values, counts = np.arange(labels.shape[1]), labels.sum(axis=0)
        top = max(counts.max(), 1)
    print(f"labels of {len(labels)} examples, {len(values)} different:")
    for value, count in list(zip(values, counts))[:30]:
        print(f"  {_label(int(value), classes):<20}{count:>8}  {'#' * round(30 * count / top)}")
    if len(values) > 30:
        print(f"  ... and {len(values) - 30} more")


def _print_examples(batch: dict[str, Any], source: Any) -> None:
    import numpy as np

    classes, decode = getattr(source, "classes", None), getattr(source, "decode", None)
    for i in range(min(3, int((batch["valid"] > 0).sum()))):
        print(f"example {i}:")
        for key, array in batch.items():
            value = np.asarray(array[i])
            if key == "valid":
                continue
            if key == "label" and value.ndim == 0:
                shown = f"{value} ({_label(int(value), classes)})" if classes else str(value)
            elif key == "image":
                shown = f"{value.dtype}{value.shape}, mean {value.mean():.4g}"
            else:
                shown = (
                    repr(str(value)) if value.dtype.kind == "U" else np.array2string(value, threshold=16, precision=4)
                )
            print(f"  {key}: {_short(shown)}")
            if key == "tokens" and decode is not None:
                print(f"  text: {decode(value)!r}"[:400])


def _throughput(batches: Any, seed: int, count: int) -> str:
    start, real = time.perf_counter(), 0
    for batch in batches.iterate(seed, stop=count):
        real += int(batch["valid"].sum())
    seconds = time.perf_counter() - start
    return f"{real / seconds:,.0f} examples/s ({real} examples in {seconds:.3g} s)"


def _label(value: int, classes: Any) -> str:
    return classes[value] if classes and value < len(classes) else str(value)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 160 else text[:157] + "..."


if __name__ == "__main__":
    exits(main)()
