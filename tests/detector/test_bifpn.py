"""The bidirectional feature pyramid: what is fused with what, sizes, and fusion weights."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from detector.config import PRESETS
from detector.model.bifpn import BiFPN, Node
from detector.train.optim import make_optimizers
from tests.detector.networks import P3_P7, small

# The inputs of each node by number: 0 to 4 are P3 to P7, then the nodes in order, with the level of each.
WIRING = {
    5: [((3, 4), 3), ((2, 5), 2), ((1, 6), 1), ((0, 7), 0),
        ((1, 7, 8), 1), ((2, 6, 9), 2), ((3, 5, 10), 3), ((4, 11), 4)],
    3: [((1, 2), 1), ((0, 3), 0), ((1, 3, 4), 1), ((2, 5), 2)],
}  # fmt: skip


@pytest.mark.parametrize("levels", [3, 5])
def test_a_cell_is_wired_as_published(levels):
    """Each node fuses the published inputs, resized to its level; the last node of each level is the output."""
    torch.manual_seed(0)
    cell = BiFPN((4, 4, 4), 8, levels, 1, "gn", separable=False).cells[0]
    for weight in cell.parameters():
        nn.init.uniform_(weight, -0.2, 1)
    inputs = [torch.randn(2, 8, *shape) for shape in ((12, 20), (6, 10), (3, 5), (2, 3), (1, 2))[:levels]]
    nodes = [*reversed(cell.top_down), *cell.bottom_up]
    made, level_of = list(inputs), list(range(levels))
    for node, (sources, level) in zip(nodes, WIRING[levels], strict=True):
        weights = node.weight.relu()
        total = 0
        for weight, source in zip(weights, sources, strict=True):
            x = made[source]
            if level_of[source] > level:
                x = F.interpolate(x, size=inputs[level].shape[-2:], mode="nearest")
            elif level_of[source] < level:
                x = F.max_pool2d(x, 3, 2, 1)
            total = total + weight * x / (weights.sum() + 1e-4)
        made.append(node.block.norms[0](node.block.conv(total * total.sigmoid())))
        level_of.append(level)
    last = {level: made[i] for i, level in enumerate(level_of)}
    for level, out in enumerate(cell(inputs, inputs, None)):
        torch.testing.assert_close(out, last[level])


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("size", [(32, 32), (96, 160), (416, 224), (800, 1344)])
def test_any_canvas_of_multiples_of_32_has_levels_of_half_the_size_rounded_up(size, separable):
    """Odd sizes of P6 and P7 fit together, from one cell to 800 x 1344."""
    neck = BiFPN((4, 6, 8), 8, 5, 2, "bn", separable).eval()
    shapes = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in P3_P7]
    with torch.no_grad():
        pyramid = neck([torch.randn(1, c, *shape) for c, shape in zip((4, 6, 8), shapes[:3], strict=True)])
    assert [tuple(level.shape[-2:]) for level in pyramid] == shapes


def test_fusion_is_a_mean_and_negative_weights_count_as_nought():
    """Equal inputs come through unchanged up to epsilon, whatever the weights; a negative weight adds nothing."""
    node = Node(3, 8, "none", False)
    x, seen = torch.randn(1, 8, 4, 4), []
    node.block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    with torch.no_grad():
        node.weight.copy_(torch.tensor([0.5, 2.0, -3.0]))
        node([x, x, x * 100], None)
    torch.testing.assert_close(seen[0], F.silu(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_fusion_weights_have_no_weight_decay(optimizer):
    """Neither have norms and biases; depthwise convolutions are not Muon's."""
    config = replace(PRESETS["fcos_r18_bifpn"], optimizer=optimizer, bifpn_separable=True, channels=16, width=16)
    model = small(neck="bifpn", bifpn_separable=True)
    optimizers = make_optimizers(model, config, torch.device("cpu"))
    groups = [group for each in optimizers for group in each.param_groups]
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    nodes = [module for module in model.modules() if isinstance(module, Node)]
    assert nodes and all(decay[id(node.weight)] == 0 for node in nodes)
    assert sum(map(len, (group["params"] for group in groups))) == len(list(model.parameters()))
    if optimizer == "muon":
        adam, muon = ({id(p) for g in each.param_groups for p in g["params"]} for each in optimizers)
        depthwise, pointwise = nodes[0].block.conv
        assert id(depthwise.weight) in adam and id(pointwise.weight) in muon


def test_each_use_of_a_feature_has_its_projection_in_the_first_cell():
    """C3 once, C4 twice, C5 three times where there is a P6."""
    uses = [
        sum(isinstance(module, nn.Conv2d) and module.in_channels == c for module in BiFPN((3, 5, 7), 8, 5).modules())
        for c in (3, 5, 7)
    ]
    assert uses == [1, 2, 3]
