"""timm's folders: what timm said of a tiny model of each family we say too, and everything else is refused in one line.

make_timm_goldens.py wrote what it said; the weights come from the names of the tensors, see tiny_images.py.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import load_file, save_file
from tiny_images import image, numbers, ours, tensor, write
from tiny_models import equal, rewrite

from fmjax import assembly, convert, pretrained
from fmjax.core import trees
from fmjax.core.config import build, call
from fmjax.core.errors import CheckpointError, ConfigError, UserError
from fmjax.data import arrays, pipeline
from fmjax.interop import folders, image_family, layouts, tensors, timm
from fmjax.models import convnet, convnext, efficientnet, resnet, vit
from fmjax.objectives import supervised
from fmjax.optim import optimizers
from fmjax.run import fit
from fmjax.training.policies import Log

GOLDENS = sorted((Path(__file__).parent / "goldens_timm").iterdir())


def golden(name):
    return json.loads((Path(__file__).parent / "goldens_timm" / f"{name}.json").read_text())


@pytest.fixture
def folder(tmp_path):
    """A bottleneck ResNet as timm saves it."""
    one = golden("resnet_bottleneck")
    write(tmp_path / "theirs", one["config"], one["shapes"])
    return tmp_path / "theirs"


def weights(module, channels=3):
    """(weights, other variables) of a module, not zero anywhere."""
    shapes, kinds = image_family.shapes(module, channels)
    parts = {"params": {}}
    for address, shape in shapes.items():
        parts.setdefault(kinds[address], {})[address] = numbers(address, shape) + 2
    parts = {kind: trees.nested(flat) for kind, flat in parts.items()}
    return parts.pop("params"), parts


def said(call, *args, **more):
    """The one line that is raised."""
    with pytest.raises(UserError) as caught:
        call(*args, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", GOLDENS, ids=lambda p: p.stem)
def test_logits_agree_and_tensors_come_back(path, tmp_path):
    one = golden(path.stem)
    before = write(tmp_path / "theirs", one["config"], one["shapes"])
    module, params, mutable = folders.load(tmp_path / "theirs")
    expected = np.array(one["expected"])
    assert np.abs(ours(module, params, mutable, image(one["image"])) - expected).max() <= 2e-5
    assert np.abs(expected[0] - expected[1]).max() > 0.1  # the images count
    if "model_type" in one["config"]:  # read, and not written
        argv = [f"--source={tmp_path / 'theirs'}", f"--out={tmp_path / 'timms'}"]
        if isinstance(module, vit.ViT):
            assert "eps=1e-12 (it has 1e-06)" in said(convert.main, argv)
        else:
            convert.main(argv)
            assert equal(timm.load(tmp_path / "timms")[1:], (params, mutable))
        return

    timm.save(tmp_path / "ours", module, params, mutable, kept=timm.kept(tmp_path / "theirs"))
    after = load_file(tmp_path / "ours" / tensors.ONE)
    counters = {name for name in before if name.endswith("num_batches_tracked")}  # which only training reads
    assert before.keys() - counters == after.keys()
    assert all(np.array_equal(before[k].view(np.uint32), x.view(np.uint32)) for k, x in after.items())
    assert build(timm.describe(tmp_path / "ours")) == module
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["pretrained_cfg"].get("mean") == one["config"]["pretrained_cfg"].get("mean")


def test_kernels_of_convolutions_lie_as_torch_s():
    kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    theirs = layouts.CONV.write(kernel)
    assert theirs.shape == layouts.CONV.shape(kernel.shape) == (5, 4, 2, 3)
    assert theirs[4, 3, 1, 2] == kernel[1, 2, 3, 4]
    np.testing.assert_array_equal(layouts.CONV.read(theirs, kernel.shape), kernel)
    assert layouts.POINT.write(kernel[0, 0]).shape == layouts.POINT.shape((4, 5)) == (5, 4, 1, 1)


@pytest.mark.parametrize(
    "node",
    [
        call(resnet.resnet18, depths=(1, 2, 1, 1), width=8, stem_width=64, classes=3),
        call(resnet.wide_resnet50_2, depths=(1, 1, 1, 1), width=16, stem_width=64),
        call(convnext.ConvNeXt, depths=(1, 1, 1, 1), widths=(4, 8, 8, 4), layer_scale=None, eps=1e-5),
        call(efficientnet.efficientnet_b0, classes=3, drop_path=0.0),
        call(vit.vit_s16, depth=1, width=8, heads=2, head_size=4, layer_scale=1e-4, remat="full"),
        call(vit.ViT, depth=1, width=8, heads=2, pool="gap", patch=(4, 8), image_size=(16, 24), inner=20),
    ],
    ids=lambda node: node.call.split(":")[1],
)
def test_a_model_of_ours_comes_back(node, tmp_path):
    module = build(node)
    params, mutable = weights(module, 2)
    timm.save(tmp_path, module, params, mutable)
    back, read, statistics = timm.load(tmp_path)
    assert timm.family_of(back).named(back)[:2] == timm.family_of(module).named(module)[:2]
    assert equal(read, params)
    assert equal(statistics, mutable)


REFUSED = {
    "stem": call(resnet.resnet18_cifar),
    "shortcut": call(resnet.resnet20),
    "preact": call(resnet.resnet18, preact=True),
    "norm": call(resnet.resnet50, norm="group"),
    "act": call(resnet.resnet50, act="silu"),
    "stages": call(efficientnet.EfficientNet, stages=3),
    "patch": call(convnext.ConvNeXt, patch=2),
    "depths": call(resnet.resnet18, depths=(2, 2, 2)),
    "widths": call(convnext.ConvNeXt, depths=(1, 1), widths=(4, 8)),
    "stem_stride": call(efficientnet.efficientnet_b0_cifar),
    "registers": call(vit.vit_s16, registers=4),
    "position": call(vit.vit_s16, position="rotary2d"),
    "qk_norm": call(vit.vit_s16, qk_norm=True),
    "experts": call(vit.vit_s16, experts=4),
    "use_bias": call(vit.vit_s16, use_bias=False),
}


@pytest.mark.parametrize("field", REFUSED)
def test_a_model_that_timm_has_no_name_for_is_refused_by_its_field(field, tmp_path):
    line = said(timm.save, tmp_path / "out", build(REFUSED[field]), {}, {})
    assert "no name" in line
    assert f"{field}=" in line
    assert not (tmp_path / "out").exists()


def test_one_of_another_kind_is_refused_too():
    assert "another kind" in said(timm.family_of, build(call(convnet.ConvNet, classes=3)))


def test_missing_unexpected_and_misshapen_tensors_are_listed(folder):
    held = load_file(folder / tensors.ONE)
    del held["layer1.0.bn1.running_mean"], held["layer2.0.conv1.weight"]
    held["fc.weight"] = np.zeros((5, 7), np.float32)
    held["layer9.0.conv1.weight"] = np.zeros(3, np.float32)
    save_file(held, folder / tensors.ONE)
    line = said(timm.load, folder)
    assert "missing: layer1.0.bn1.running_mean, layer2.0.conv1.weight" in line
    assert "of another shape: fc.weight (5, 7), not (5, 128)" in line
    assert "unexpected: layer9.0.conv1.weight" in line
    (folder / tensors.ONE).rename(folder / "pytorch_model.bin")
    line = said(timm.load, folder)
    assert "pytorch_model.bin: a pickle" in line
    assert f"timm.create_model('local-dir:{folder}', pretrained=True)" in line


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ("resnet05", "did you mean 'resnet50'?"),
        ("convnext_tinny", "did you mean 'convnext_tiny'?"),
        ("deit_small_distilled_patch16_224", "distillation token"),
        ("tf_efficientnet_b0", "pads as TensorFlow does"),
        ("swin", "there is resnet18"),
    ],
)
def test_an_architecture_that_is_not_here_says_what_is(folder, architecture, words):
    rewrite(folder, architecture=architecture)
    line = said(timm.describe, folder)
    assert f"no architecture {architecture!r}" in line
    assert words in line


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("resnet18", {"stem_type": "deep"}, "stem_type='deep'"),
        ("resnet18", {"channels": [8, 16, 24, 64]}, "twice"),
        ("resnet18", {"layers": 3}, "wrong kind"),
        ("resnet18", {"num_classes": 0}, "without a head"),
        ("resnet18", {"aa_layer": "blur"}, "aa_layer='blur' is not known"),
        ("convnext_tiny", {"conv_mlp": True}, "conv_mlp"),
        ("convnext_tiny", {"act_layer": "gleu"}, "did you mean 'gelu'?"),
        ("efficientnet_b0", {"pad_type": "same"}, "pad_type='same'"),
        ("vit_small_patch16_224", {"global_pool": "avg"}, "fc_norm=False"),
        ("vit_small_patch16_224", {"reg_tokens": 4}, "reg_tokens=4"),
        ("vit_small_patch16_224", {"depth": "twelve"}, "depth (in our words) is 'twelve'"),
    ],
)
def test_options_that_fmjax_has_not_are_refused(name, args, words, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": name, "model_args": args}))
    line = said(timm.describe, tmp_path)
    assert words in line
    assert str(tmp_path) in line


def test_the_older_form_of_a_config_is_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "deit_tiny_patch16_224", "num_classes": 7}))
    described = timm.describe(tmp_path)
    assert (described.classes, described.width, described.heads, described.eps) == (7, 192, 3, 1e-6)
    (tmp_path / "config.json").write_text("{}")
    assert "no architecture" in said(timm.describe, tmp_path)
    assert not folders.is_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", "model_type": "timm_wrapper"}))
    assert "'timm_wrapper'" in said(folders.describe, tmp_path)


def config_of(tmp_path, init, **changes):
    """A run on random images with the model of a folder."""
    images = {"image": (numbers("data", (8, 32, 32, 1)) * 99 + 99).astype(np.uint8), "label": np.arange(8) % 5}
    np.savez(tmp_path / "images.npz", **images)
    config = ConfigDict({"seed": 0, "steps": 1})
    config.model = pretrained.model(init.path, backend="xla", **changes)
    config.objective = call(supervised.Classify)
    config.optimizer = call(optimizers.sgd, rate=0.0)
    source = call(arrays.Arrays, path=str(tmp_path / "images.npz"))
    config.data = call(pipeline.stream, source=source, batch_size=8, threads=0)
    config.log = call(Log, every=1, tensorboard=False, progress=False)
    config.init = init
    return config


def program_of(config):
    return assembly.assemble(assembly.prepare(config.copy_and_resolve_references())[0]).program


def test_a_run_that_learns_nothing_gives_the_folder_back(folder, tmp_path, capsys):
    init = call(pretrained.weights, path=str(folder))
    config = config_of(tmp_path, init, momentum=1.0)  # running statistics stay as they were
    run = fit(config, tmp_path / "run", progress=False)
    convert.main([f"--source={tmp_path / 'run'}", f"--out={tmp_path / 'out'}"])
    assert "a resnet50 of timm" in capsys.readouterr().out
    before, after = load_file(folder / tensors.ONE), load_file(tmp_path / "out" / tensors.ONE)
    assert all(np.array_equal(before[name], x) for name, x in after.items())
    assert build(timm.describe(tmp_path / "out")) == build(timm.describe(folder))
    found = pretrained.load(str(tmp_path / "run"))  # which gives its statistics on as well
    assert equal(found.mutable, run.state.mutable["model"])


def test_another_head_is_refused_unless_it_may_be_fresh(folder, tmp_path):
    init = call(pretrained.weights, path=str(folder))
    config = config_of(tmp_path, init, classes=7)
    with pytest.raises(CheckpointError, match=r"head/kernel is \(128, 5\) there and \(128, 7\) here"):
        program_of(config).begin()
    init.fresh = ("^head/",)
    program = program_of(config)
    assert set(program.abstract.params["model"]) - {"head"} == {a.split("/")[0] for a in program.given["model"]}
    mean = program.given_mutable["model"]["batch_stats/stem/norm/mean"]
    np.testing.assert_array_equal(mean, tensor("bn1.running_mean", (64,)))


def test_a_folder_is_converted_to_bfloat16_and_never_to_shards(folder, tmp_path):
    convert.main([f"--source={folder}", f"--out={tmp_path / 'out'}", "--dtype=bfloat16"])
    assert timm.describe(tmp_path / "out") == timm.describe(folder)
    with pytest.raises(ConfigError, match="one file"):
        convert.main([f"--source={folder}", f"--out={tmp_path / 'more'}", "--shard_size=1MB"])
    assert not (tmp_path / "more").exists()
