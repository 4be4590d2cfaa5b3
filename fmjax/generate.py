"""Generate: `python -m fmjax.generate --workdir=RUN --prompt=TEXT` lets a trained language model continue a text."""

import argparse

from fmjax.core.errors import UserError, exits


def main(argv: list[str] | None = None) -> int:
    """Read the flags, continue the prompt, print the texts."""
    parser = argparse.ArgumentParser(prog="python -m fmjax.generate", description=__doc__, allow_abbrev=False)
    parser.add_argument("--workdir", required=True, help="the run folder")
    parser.add_argument("--step", type=int, help="the checkpoint (default: the latest, or the best of an early stop)")
    parser.add_argument("--prompt", default="", help="the text to continue (default: the start of a text)")
    parser.add_argument("--length", type=int, default=256, help="tokens to add")
    parser.add_argument("--samples", type=int, default=1, help="how many continuations")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top_k", type=int, default=0)
    parser.add_argument("--top_p", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.samples < 1:
        raise UserError(f"--samples={args.samples}: ask for one or more")

    from fmjax.start import start

    start()
    import numpy as np

    from fmjax.data import tokenizers
    from fmjax.decoding.sampling import Sampler
    from fmjax.run import Run
    from fmjax.training.folder import RunFolder

    folder = RunFolder(args.workdir, writes=False)
    if folder.exists and not folder.tokenizer.is_dir():
        raise UserError(f"{folder.path} is no run of a language model: it keeps no tokenizer")
    run = Run.load(args.workdir, args.step)
    tokenizer = tokenizers.load(str(folder.tokenizer))
    if not args.prompt and tokenizer.eos is None:
        raise UserError("this tokenizer has no end-of-text token to start from: give --prompt=TEXT")
    start_of_text = [] if tokenizer.eos is None else [tokenizer.eos]
    prompt = np.array([*start_of_text, *tokenizer.encode(args.prompt).tolist()], np.int32)
    sampler = Sampler(args.length, args.temperature, args.top_k, args.top_p, tokenizer.eos)
    seed = np.uint32(args.seed)
    rows = run.predict({"tokens": np.tile(prompt, (args.samples, 1)), "seed": seed}, sampler)["tokens"]
    for i, row in enumerate(rows):
        if args.samples > 1:
            print(f"--- {i + 1}")
        print(args.prompt + tokenizer.decode(row))
    return 0


if __name__ == "__main__":
    exits(main)()
