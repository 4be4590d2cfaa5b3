"""Generate: `python -m fmjax.generate --workdir=RUN --prompt=TEXT` lets a trained language model write, as you watch.

RUN is a run folder, a Hugging Face folder, or the id of a model on the hub. A decoder continues the prompt; an
encoder-decoder writes what it makes of it.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, TextIO

from fmjax.core.errors import ConfigError, DataError, UserError, exits

CHUNK = 16  # tokens from one look at the text to the next
BUCKET = 32  # prompts are padded to multiples, so that few lengths are compiled


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fmjax.generate", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--workdir", required=True, metavar="PATH", help="a run folder, a Hugging Face folder, or a hub id")
    add("--step", type=int, help="the checkpoint of a run (default: the latest, or the best of an early stop)")
    add("--prompt", default="", help="the text to continue (default: the start of a text)")
    add("--prompts_file", metavar="FILE", help="a prompt a line; .jsonl: the field 'prompt' of each line")
    add("--out", metavar="FILE", help="write JSON lines {prompt, text} here, instead of the screen")
    add("--length", type=int, default=256, help="tokens to write at most")
    add("--samples", type=int, default=1, help="how many texts a prompt")
    add("--temperature", type=float, default=0.8, help="0 takes the most likely token each time")
    add("--top_k", type=int, default=0)
    add("--top_p", type=float, default=1.0)
    add("--min_p", type=float, default=0.0)
    add("--repetition_penalty", type=float, default=1.0)
    add("--stop", action="append", default=[], metavar="TEXT", help="end where this text comes; may be given again")
    add("--beams", type=int, help="beam search with so many texts kept, instead of drawing")
    add("--length_penalty", type=float, default=1.0, help="of beam search: 0 prefers short texts, 1 compares means")
    add("--draft", metavar="PATH", help="a smaller model of the same tokenizer that drafts (speculative decoding)")
    add("--drafted", type=int, default=4, help="tokens drafted at a time")
    add("--batch_size", type=int, default=16, help="texts written at once")
    add("--beyond_context", action="store_true", help="allow prompts longer than the texts of training")
    add("--tensor", type=int, default=1, help="devices to split the model and its cache over")
    add("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.samples < 1 or args.batch_size < 1:
        raise UserError(f"--samples={args.samples} --batch_size={args.batch_size}: ask for one or more")
    if args.prompts_file and args.prompt:
        raise UserError("give either --prompt or --prompts_file")
    if args.beams is not None and (args.draft or args.samples > 1):
        raise UserError("--beams finds one text a prompt by itself: leave out --draft and --samples")
    if "" in args.stop:
        raise UserError("--stop is empty: name the text to end at")
    return args


def main(argv: list[str] | None = None) -> int:
    """Read the flags, write the texts."""
    args = arguments(argv)
    prompts = _prompts(args)

    from fmjax.start import start

    start()
    from fmjax.decoding.beam import Beam
    from fmjax.decoding.sampling import Sampler
    from fmjax.decoding.speculative import Speculative
    from fmjax.writer import Writer

    # A wrong flag is said before a model is read.
    choice = {
        "temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p, "min_p": args.min_p,
        "repetition_penalty": args.repetition_penalty, "length": args.length,
    }  # fmt: skip
    if args.beams is not None:
        decoder: Any = Beam(args.beams, args.length, args.length_penalty)
    elif args.draft:
        decoder = Speculative(**choice, drafted=args.drafted)
    else:
        decoder = Sampler(**choice)
    writer = Writer.load(args.workdir, args.step, args.draft, decoder, args.tensor)
    if args.beyond_context:
        writer = dataclasses.replace(writer, context=None)
    wanted = [prompt for prompt in prompts for _ in range(args.samples)]
    encoded = [writer.encode(prompt) for prompt in wanted]
    if len(wanted) == 1 and not args.out and isinstance(decoder, Sampler):
        begun = writer.begin(encoded[0], args.seed, BUCKET)  # what is wrong is said before anything is shown
        sys.stdout.write("" if writer.reads_and_writes else wanted[0])
        for piece in writer.stream(begun, args.stop, CHUNK):
            sys.stdout.write(piece)
            sys.stdout.flush()
        print()
        return 0
    out = _opened(args.out) if args.out else None
    try:
        for first in range(0, len(wanted), args.batch_size):
            part = slice(first, first + args.batch_size)
            texts = writer.write(encoded[part], args.seed + first, args.stop, args.batch_size, BUCKET)
            for i, (prompt, text) in enumerate(zip(wanted[part], texts, strict=True), first):
                if out:
                    out.write(json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False) + "\n")
                    continue
                if len(wanted) > 1:
                    print(f"--- {i + 1}")
                print(text if writer.reads_and_writes else prompt + text, flush=True)
    finally:
        if out:
            out.close()
    return 0


def _prompts(args: argparse.Namespace) -> list[str]:
    if not args.prompts_file:
        return [args.prompt]
    try:
        # Not splitlines: a text in JSON may hold other ends of lines as they are.
        lines = Path(args.prompts_file).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise DataError(f"cannot read {args.prompts_file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{args.prompts_file} is not UTF-8 text") from None
    if args.prompts_file.endswith(".jsonl"):
        lines = [_field(args.prompts_file, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if lines in ([], [""]):
        raise ConfigError(f"{args.prompts_file} holds no prompt")
    return lines


def _opened(path: str) -> TextIO:
    try:
        return open(path, "w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write --out={path}: {error.strerror}") from None


def _field(name: str, number: int, line: str) -> str:
    try:
        found = json.loads(line)["prompt"]
    except (ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, str):
        raise DataError(f"{name}, line {number}: want a JSON object with a text in 'prompt'")
    return found


if __name__ == "__main__":
    exits(main)()
