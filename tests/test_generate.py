"""Generating: what is streamed is what is written at once; files, stops, beams and drafts; bad input in one line."""

import contextlib
import io
import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from fmjax import fit, generate, pretrained
from fmjax.core.config import call
from fmjax.core.errors import UserError
from fmjax.data import corpora, pairs, pipeline, text, tokenizers
from fmjax.decoding.beam import Beam
from fmjax.decoding.sampling import Sampler
from fmjax.decoding.stops import cut, safe
from fmjax.models import transformer
from fmjax.objectives import language, sequence
from fmjax.optim import optimizers
from fmjax.training.policies import Log
from fmjax.writer import Writer

SENTENCE = "the cat sat on the mat, and the dog naïvely sat on the log. "


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{name: folder} of a decoder that knows a sentence, a smaller one with learned positions, and a translator."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "words.txt").write_text(SENTENCE * 40)
    lines = [json.dumps({"de": "katze hund"[i % 2 * 6 :][:5], "en": ["cat", "dog"][i % 2]}) for i in range(32)]
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    config = ConfigDict({"seed": 0, "steps": 60})
    config.optimizer = call(optimizers.adamw, rate=1e-2)
    config.log = call(Log, every=100, tensorboard=False, progress=False)
    small = {"vocab": 257, "width": 32, "depth": 1, "heads": 2}
    draft = {"width": 16, "position": "learned", "length": 64}
    for name, model in {"model": {}, "draft": draft}.items():
        own = config.copy_and_resolve_references()
        own.steps = 60 if name == "model" else 2
        own.model = call(transformer.Decoder, **{**small, **model}, ngrams=(2, 3), buckets=512)
        own.objective = call(language.NextToken)
        corpus = call(corpora.TextFiles, paths=str(folder / "words.txt"))
        rows = call(text.Windows, corpus=corpus, tokenizer=call(tokenizers.byte), length=48, stride=1)
        own.data = call(pipeline.stream, source=rows, batch_size=8, threads=0)
        fit(own, folder / name, progress=False)
    config.steps = 60
    config.model = call(transformer.EncoderDecoder, **small)
    config.objective = call(sequence.SequenceToSequence)
    both = call(
        pairs.Pairs, paths=str(folder / "pairs.jsonl"), source="de", target="en", tokenizer=call(tokenizers.byte),
        source_length=8, target_length=8,
    )  # fmt: skip
    config.data = call(pipeline.stream, source=both, batch_size=8, threads=0)
    fit(config, folder / "translator", progress=False)
    return folder


def said(capsys, *args):
    generate.main(list(args))
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def greedy(runs):
    """What the command says of 70 tokens after "the cat"."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        generate.main([f"--workdir={runs / 'model'}", "--prompt=the cat", "--length=70", "--temperature=0"])
    return out.getvalue()


def test_what_is_streamed_is_what_is_written_at_once(runs, greedy):
    writer = Writer.load(str(runs / "model"), decoder=Sampler(temperature=0, length=70))
    prompt = writer.encode("the cat")
    whole = writer.write([prompt, writer.encode("and the d")], 0, [], 2, 32)
    pieces = list(writer.stream(writer.begin(prompt, 0, 32), [], 5))
    assert len(pieces) > 5
    assert "".join(pieces) == whole[0]
    assert "ïve" in whole[0]  # a character of two bytes, which no piece cuts
    assert not any("\ufffd" in piece for piece in pieces)
    assert greedy == "the cat" + whole[0] + "\n"


def test_a_text_ends_before_a_stop_string_however_it_is_cut(runs, greedy, capsys):
    args = (f"--workdir={runs / 'model'}", "--prompt=the cat", "--length=70", "--temperature=0")
    whole = greedy[len("the cat") : -1]
    stop = whole[33:38]  # across the border of two pieces of 16 tokens
    assert said(capsys, *args, f"--stop={stop}") == "the cat" + whole[: whole.index(stop)] + "\n"
    assert cut("abcabd", ["abd", "ca"]) == ("ab", True)
    assert safe("one STO", ["STOP", "x"]) == "one "
    assert safe("caf\ufffd", []) == "caf"


def test_prompts_of_a_file_are_written_in_order_whatever_the_batch(runs, capsys, tmp_path):
    prompts = ["the cat", "and the dog", "sat on the l"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
    args = [f"--workdir={runs / 'model'}", "--length=12", "--temperature=0"]
    out = tmp_path / "out.jsonl"
    said(capsys, *args, f"--prompts_file={tmp_path / 'prompts.jsonl'}", f"--out={out}", "--batch_size=2")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == prompts
    shown = said(capsys, *args, f"--prompts_file={tmp_path / 'prompts.txt'}")
    assert shown == "".join(f"--- {i}\n{row['prompt']}{row['text']}\n" for i, row in enumerate(rows, 1))


def test_a_prompt_in_json_may_hold_ends_of_lines_of_other_kinds(runs, tmp_path):
    prompts = ["the\x85cat", "and\u2028the dog"]
    file, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    file.write_text("".join(json.dumps({"prompt": p}, ensure_ascii=False) + "\n" for p in prompts))
    generate.main([f"--workdir={runs / 'model'}", "--length=2", f"--prompts_file={file}", f"--out={out}"])
    assert [json.loads(line)["prompt"] for line in out.read_text().removesuffix("\n").split("\n")] == prompts


def test_a_draft_fits_as_long_a_text_as_its_drafts_leave_room_for(runs, capsys):
    args = [f"--workdir={runs / 'draft'}", "--prompt=the", "--length=55", "--temperature=0"]  # of 64 places
    assert said(capsys, *args, f"--draft={runs / 'draft'}") == said(capsys, *args)


def test_a_draft_and_one_beam_write_what_greedy_writes(runs, greedy, capsys):
    args, wanted = [f"--workdir={runs / 'model'}", "--prompt=the cat", "--length=20"], greedy[: len("the cat") + 20]
    assert wanted.isascii()  # twenty tokens
    assert said(capsys, *args, "--temperature=0", f"--draft={runs / 'draft'}") == wanted + "\n"
    assert said(capsys, *args, "--beams=1") == wanted + "\n"


def test_a_translator_writes_what_it_makes_of_the_prompt(runs, capsys):
    assert said(capsys, f"--workdir={runs / 'translator'}", "--prompt=katze", "--length=8", "--beams=3") == "cat\n"
    assert said(capsys, f"--workdir={runs / 'translator'}", "--prompt=hund", "--length=8", "--temperature=0") == "dog\n"


def test_what_a_translator_writes_is_data_for_a_student(runs, tmp_path):
    """Sequence-level distillation (arXiv 1606.07947): the student learns what the teacher wrote."""
    file, out = tmp_path / "prompts.jsonl", tmp_path / "written.jsonl"
    file.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("katze", "hund")))
    generate.main(
        [f"--workdir={runs / 'translator'}", "--length=8", "--beams=3", f"--prompts_file={file}", f"--out={out}"]
    )
    fields = {"source": "prompt", "target": "text", "tokenizer": tokenizers.byte()}
    written = pairs.Pairs(str(out), **fields, source_length=8, target_length=8)
    assert [written.reference(i) for i in range(2)] == ["cat", "dog"]


def test_a_writer_serves_prompts_of_other_lengths_without_compiling_again(runs):
    writer = Writer.load(str(runs / "model"), decoder=Beam(beams=2, length=4))
    for prompt in ("a", "the cat", "the cat sat on"):
        writer.write([writer.encode(prompt)], 0, [], 1, 32)
    assert writer._all._cache_size() == 1


def test_what_cannot_be_written_is_one_line(runs, tmp_path, capsys):
    model, learned = f"--workdir={runs / 'model'}", f"--workdir={runs / 'draft'}"
    empty, broken = tmp_path / "empty.txt", tmp_path / "broken.jsonl"
    empty.write_text("")
    broken.write_text('{"prompt": "a"}\n{"text": "b"}\n')
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text('{"model_type": "gpt2"}')
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x02")
    for args, words in (
        ([learned, "--prompt=" + "x" * 40, "--length=30"], "do not fit the model's 64 learned positions"),
        ([model, "--prompt=" + "x" * 48], "has 49 tokens, and the model was trained on texts of 48"),
        ([model, "--top_k=1000"], "top_k is 1000, and the vocabulary has 257"),
        ([model, "--beams=0"], "beams is 0"),
        ([model, "--beams=300", "--prompt=a"], "beams is 300, and the vocabulary has 257"),
        ([model, "--stop="], "--stop is empty"),
        ([model, "--min_p=2"], "min_p is 2.0"),
        ([model, f"--prompts_file={empty}"], "holds no prompt"),
        ([model, f"--prompts_file={broken}"], "line 2"),
        ([model, f"--prompts_file={tmp_path / 'none.txt'}"], "cannot read"),
        ([model, "--prompt=a", f"--out={tmp_path / 'no' / 'folder'}"], "cannot write --out"),
        ([model, "--prompt=a", "--top_k=1000"], "top_k is 1000"),
        ([f"--workdir={tmp_path / 'nothing'}"], "there is no folder"),
        ([f"--workdir={pickled}", "--prompt=a"], "pickle"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            generate.main(args)
        assert "\n" not in str(caught.value)
        assert not capsys.readouterr().out


def test_weights_alone_are_read(runs):
    found = pretrained.load(str(runs / "model"))
    sizes = [np.asarray(x).shape for x in jax.tree.leaves(found.params)]
    assert (257, 32) in sizes
