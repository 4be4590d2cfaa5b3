"""Write a model for transformers or timm: python -m fmjax.convert --source=RUN|FOLDER|HUB_ID --out=FOLDER.

The folder holds model.safetensors, config.json and, where it can, the tokenizer: `from_pretrained(FOLDER)` of
transformers loads it, and so does everything here that takes weights. An image model's folder is timm's, which loads it
by the name `local-dir:FOLDER`.
"""

import argparse
from pathlib import Path
from typing import Any

from fmjax.core.errors import CheckpointError, ConfigError, exits

HELP = """\
families: gpt2, llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3_text, bert, roberta, t5. A model with options that
none of them has (n-grams, experts, ALiBi, ...) is refused, and the options are named.
For timm: resnet, resnext, wide_resnet, convnext, efficientnet, vit, deit.

examples:
  python -m fmjax.convert --source=runs/gpt --out=for_transformers/gpt
  python -m fmjax.convert --source=runs/gpt_lora --out=for_peft/gpt --adapter
  python -m fmjax.convert --source=downloads/llama --out=llama_bf16 --dtype=bfloat16 --shard_size=2GB"""


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m fmjax.convert",
        description="Write a run's model, or one of a folder, as a folder of transformers, or of timm for images.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--source", required=True, metavar="PATH", help="a run folder, one of transformers or timm, or a hub id")
    add("--out", required=True, metavar="FOLDER", help="the folder to make")
    add("--dtype", default="float32", help="of the weights: float32 (default) or bfloat16")
    add("--shard_size", metavar="SIZE", help="of a file, such as 2GB (default: all in one file)")
    add("--step", type=int, metavar="N", help="the checkpoint of a run (default: the latest)")
    add("--adapter", action="store_true", help="of an adapted run: only the products, in the layout of PEFT")
    add("--net", metavar="NAME", help="which of a run's models, where it has several")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Write the folder, whole or not at all."""
    args = arguments(argv)
    from fmjax.interop import folders, hugging_face, tensors, timm

    out = Path(args.out)
    if args.shard_size is not None:
        tensors.size_in_bytes(args.shard_size)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} holds something already: choose another --out")
    is_run = _is_run(Path(args.source))
    for flag, value in (("--step", args.step), ("--net", args.net), ("--adapter", args.adapter or None)):
        if value is not None and not is_run:
            raise ConfigError(f"{flag} is for a run, and {args.source} is none")
    if args.adapter:
        return _adapter(args, out)
    if is_run:
        module, params, mutable, kept, tokenizer = _of_run(args)
    else:
        module, params, mutable = folders.load(args.source)
        tokenizer = folders.locate(args.source)
        if timm.holds(module):
            kept = timm.kept(tokenizer) if timm.is_folder(tokenizer) else {}
        else:
            kept = hugging_face.kept(tokenizer)
    try:
        if timm.holds(module):
            _save_images(out, module, params, mutable, kept, args)
        else:
            _save_language(out, module, params, kept, tokenizer, args)
    except OSError as error:
        raise CheckpointError(f"cannot write {out}: {error.strerror}") from None
    return 0


def _save_language(out: Path, module: Any, params: Any, kept: Any, tokenizer: Any, args: argparse.Namespace) -> None:
    """Write a folder of transformers with its tokenizer, and say so."""
    from fmjax import convert_tokenizer
    from fmjax.data.atomic import atomic_folder
    from fmjax.interop import hugging_face, tensors

    family = hugging_face.family_of(module)
    convert_tokenizer.fits(tokenizer, module, family.name)
    with atomic_folder(out) as new:
        total = hugging_face.save(new, module, params, dtype=args.dtype, shard_size=args.shard_size, kept=kept)
        files = len(list(new.glob("*.safetensors")))
        missing = convert_tokenizer.write(new, tokenizer, module)
    print(
        f"{out}: a {family.name} model of {total // tensors.DTYPES[args.dtype].itemsize:,} numbers in {args.dtype}, "
        f"{total / 1e6:,.1f} MB in {files} file{'s' * (files > 1)}"
    )
    print(f"tokenizer: {missing}" if missing else "tokenizer: saved with it")


def _save_images(out: Path, module: Any, params: Any, mutable: Any, kept: Any, args: argparse.Namespace) -> None:
    """Write a folder of timm, and say so."""
    from fmjax.data.atomic import atomic_folder
    from fmjax.interop import tensors, timm

    if args.shard_size is not None:
        raise ConfigError("timm reads weights from one file: leave out --shard_size")
    with atomic_folder(out) as new:
        total = timm.save(new, module, params, mutable, dtype=args.dtype, kept=kept)
        name = timm.read_config(new)["architecture"]
    print(
        f"{out}: a {name} of timm of {total // tensors.DTYPES[args.dtype].itemsize:,} numbers in {args.dtype}, "
        f"{total / 1e6:,.1f} MB"
    )


def _is_run(path: Path) -> bool:
    from fmjax.interop import folders

    return (path / "config.json").is_file() and not folders.is_folder(path)


def _adapter(args: argparse.Namespace, out: Path) -> int:
    """Write what a run trained beside its base."""
    from fmjax import adaptation
    from fmjax.data.atomic import atomic_folder
    from fmjax.interop import hugging_face, peft
    from fmjax.run import Run

    run = Run.load(args.source, args.step)
    net = args.net or next(iter(run.parts.modules))
    module, params = run.parts.modules[net], run.nets()[net].params
    own, scale = adaptation.products(run.parts, run.state, net)
    init = run.config.init and run.config.init.get("path")
    base = None if not init or _is_run(Path(init)) else str(init)
    family = hugging_face.family_of(module)
    with atomic_folder(out) as new:
        size = peft.save(new, family, module, params, own, scale, base)
    print(f"{out}: an adapter of {size // 4:,} numbers for a {family.name} model, {base or 'its base is not named'}")
    return 0


def _of_run(args: argparse.Namespace) -> tuple[Any, Any, Any, dict[str, Any], Any]:
    """(module, weights, other variables, lines of config.json, tokenizer or None) of a run."""
    import jax

    from fmjax import adaptation, run_tokenizer
    from fmjax.core.config import did_you_mean
    from fmjax.run import Run

    run = Run.load(args.source, args.step)
    nets = run.nets()
    name = args.net or next(iter(nets))
    if name not in nets or (len(nets) > 1 and not args.net):
        hint = did_you_mean(name, nets) if args.net else f"there is {', '.join(nets)}"
        raise ConfigError(f"say which of the run's models with --net: {hint}")
    adaptation.must_merge(nets[name].module, "to convert", args.source)
    tokenizers = run_tokenizer.of(run.parts.data.source)
    if len(tokenizers) > 1:
        raise ConfigError(
            f"{args.source} has a tokenizer for each side ({', '.join(tokenizers)}), and a folder of transformers has "
            "one: train with one for both"
        )
    tokenizer = next(iter(tokenizers.values()), None)
    special = tokenizer.special if tokenizer else {}
    kept = {f"{part}_token_id": special[part] for part in ("bos", "eos", "pad", "sep") if part in special}
    start = run.config.objective.get("start") if "objective" in run.config else None
    if hasattr(nets[name].module, "encoder_depth") and start is not None:
        kept["decoder_start_token_id"] = start
    net = jax.device_get((nets[name].params, nets[name].mutable))
    return nets[name].module, *net, kept, tokenizer


if __name__ == "__main__":
    exits(main)()
