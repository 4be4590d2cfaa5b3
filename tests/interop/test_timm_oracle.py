"""Against timm: the same logits from the same folder, and from what is saved back; shapes of all that have a name.

Needs the extra `oracle`; without it the goldens of test_timm.py say the same about one model a family.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
timms = pytest.importorskip("timm")
pytest.importorskip("transformers")

from timm_oracles import CASES, OF_TRANSFORMERS, make, make_of_transformers, theirs  # noqa: E402
from tiny_images import image, ours  # noqa: E402

from fmjax.core.config import build  # noqa: E402
from fmjax.interop import folders, image_family, timm  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and timm warn of what is theirs


@pytest.mark.parametrize("case", CASES)
def test_logits_agree_and_timm_reads_what_is_saved(case, tmp_path):
    model, size = make(case, tmp_path / "theirs")
    expected = theirs(model, size)
    module, params, mutable = timm.load(tmp_path / "theirs")
    scale = max(1, np.abs(expected).max())
    assert np.abs(ours(module, params, mutable, image(size)) - expected).max() <= 2e-5 * scale

    timm.save(tmp_path / "ours", module, params, mutable)
    again = timms.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval()
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    np.testing.assert_array_equal(theirs(again, size), expected)


@pytest.mark.parametrize("case", OF_TRANSFORMERS)
def test_folders_of_transformers_are_read(case, tmp_path):
    model, size = make_of_transformers(case, tmp_path)
    expected = theirs(model, size)
    assert np.abs(ours(*folders.load(tmp_path), image(size)) - expected).max() <= 2e-5 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("name", timm.KNOWN)
def test_every_architecture_has_the_tensors_of_timm(name):
    with torch.device("meta"):
        model = timms.create_model(name, num_classes=1000)  # 0 in some
    state = {k: tuple(v.shape) for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    family = timm.KNOWN[name]
    module = build(family.describe(name, {}))
    shapes, _ = image_family.shapes(module, 3)
    assert {row.name: row.shape(shapes) for row in family.rows(module)} == state
