"""Models of timm, one a case, with the weights of tiny_images.py; imported only where torch and timm are."""

import json

import numpy as np
import timm
import torch
import transformers
from safetensors.numpy import load_file, save_file
from tiny_images import image, tensor

VIT = dict(img_size=16, patch_size=4, embed_dim=12, depth=2, num_heads=3, in_chans=1, num_classes=5)
SMALL = dict(layers=(1, 1, 1, 1), channels=(4, 8, 16, 32), in_chans=1, num_classes=5)
NEXT = dict(depths=(1, 2, 1, 1), dims=(4, 8, 8, 12), in_chans=1, num_classes=5)
# name: (architecture, arguments, rows and columns of an image)
CASES = {
    "resnet_basic": ("resnet18", {**SMALL, "layers": (2, 1, 1, 1)}, (40, 32)),
    "resnet_bottleneck": ("resnet50", SMALL, (32, 32)),
    "resnext": ("resnext50_32x4d", {**SMALL, "channels": (64, 128, 256, 512), "cardinality": 8, "base_width": 4},
                (32, 32)),
    "convnext": ("convnext_tiny", NEXT, (48, 32)),
    "convnext_options": ("convnext_base", {**NEXT, "kernel_sizes": 5, "ls_init_value": None,
                                           "act_layer": "relu", "norm_eps": 1e-3}, (32, 32)),
    "efficientnet": ("efficientnet_b0", {"num_classes": 5}, (32, 48)),
    "efficientnet_b1": ("efficientnet_b1", {"num_classes": 5, "in_chans": 1, "bn_eps": 1e-3}, (32, 32)),
    "vit": ("vit_small_patch16_224", VIT, (16, 16)),
    "vit_options": ("vit_base_patch32_384", {**VIT, "img_size": (16, 24), "patch_size": (4, 8), "init_values": 0.5,
                                             "mlp_ratio": 2.5, "act_layer": "gelu_tanh"}, (16, 24)),
    "vit_mean": ("vit_tiny_patch16_224", {**VIT, "class_token": False, "global_pool": "avg", "fc_norm": False},
                 (16, 16)),
    "deit": ("deit_tiny_patch16_224", VIT, (16, 16)),
}  # fmt: skip


def make(case, folder=None):
    """(model, size of an image) of a case; saved into `folder` as timm saves."""
    name, args, size = CASES[case]
    model = timm.create_model(name, **args).eval()
    state = {k: torch.from_numpy(tensor(k, tuple(v.shape))) for k, v in model.state_dict().items()}
    model.load_state_dict(state)
    if folder is not None:
        timm.models.save_for_hf(model, folder, safe_serialization=True)
    return model, (*size, args.get("in_chans", 3))


HF_VIT = dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=30, image_size=16,
              patch_size=4, num_channels=1, num_labels=5)  # fmt: skip
HF_RESNET = dict(embedding_size=64, hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1], num_channels=1, num_labels=5)
OF_TRANSFORMERS = {
    "transformers_vit": ("ViTForImageClassification", HF_VIT, (16, 16)),
    "transformers_resnet": ("ResNetForImageClassification", HF_RESNET, (32, 32)),
    "transformers_basic": ("ResNetForImageClassification", {**HF_RESNET, "layer_type": "basic"}, (32, 32)),
}


class Logits(torch.nn.Module):
    """A model of transformers that says only its logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).logits


def make_of_transformers(case, folder):
    """(model, size of an image), as `make`."""
    name, options, size = OF_TRANSFORMERS[case]
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**options)).eval()
    model.save_pretrained(folder)
    held = load_file(folder / "model.safetensors")
    held = {k: tensor(k, x.shape) for k, x in held.items()}
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    return Logits(kind.from_pretrained(folder).eval()), (*size, 1)


def config_of(folder):
    """What of a config.json is worth a golden."""
    config = json.loads((folder / "config.json").read_text())
    if "model_type" in config:
        return {k: v for k, v in config.items() if k != "transformers_version"}
    cfg = {
        k: config["pretrained_cfg"][k] for k in ("input_size", "mean", "std", "tag") if k in config["pretrained_cfg"]
    }
    return {**config, "pretrained_cfg": cfg}


def theirs(model, size):
    """Logits of the images of tiny_images.py."""
    x = torch.from_numpy(np.ascontiguousarray(image(size).transpose(0, 3, 1, 2)))
    with torch.no_grad():
        return model(x).numpy()
