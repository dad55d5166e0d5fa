import pytest
import torch
from torch import nn

from antivenom.models.architectures import architecture, make_network
from antivenom.models.parameters import ParameterCount, count, layer_counts, weights_of


def small():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    return network


def test_zeros_of_weights_count_and_those_of_norms_and_biases_do_not():
    network = small()
    network[0].weight.data[0] = 0
    network[3].weight.data[0, 0] = -0.0
    nn.init.zeros_(network[1].weight)
    nn.init.zeros_(network[0].bias)
    assert count(network) == ParameterCount(all=36 + 4 + 8 + 10, weights=36 + 4 + 8, zeros=10)


def test_what_is_left_is_printed_in_millions_as_the_papers_do():
    resnet34 = ParameterCount(all=21_290_000, weights=21_279_744, zeros=17_184_258)
    assert (resnet34.left("weights"), resnet34.printed("weights"), resnet34.printed("all")) == (4_095_486, "4.10", "4.11")


def test_shared_parameters_count_once():
    layer = nn.Conv2d(2, 2, 3, bias=False)
    other = nn.Conv2d(2, 2, 3, bias=False)
    other.weight = layer.weight
    network = nn.Sequential(layer, other)
    assert count(network).all == 36
    assert list(weights_of(network)) == ["0.weight"]


@pytest.mark.parametrize(
    ("name", "classes", "convolutions", "kind", "printed"),
    [
        ("resnet18", 10, 11_166_912, "all", "11.18"),
        ("resnet34", 5, 21_267_648, "weights", "21.28"),
        ("resnet34", 15, 21_267_648, "weights", "21.28"),
        ("resnet34", 7, 21_267_648, "all", "21.29"),
        ("resnet34+cbam", 7, 21_269_216, "weights", "21.44"),
    ],
)
def test_the_networks_of_chen_2021_have_the_sizes_that_were_printed(name, classes, convolutions, kind, printed):
    """On the meta device; the gates of CBAM bring linear layers, whose weights are weights too."""
    with torch.device("meta"):
        network = make_network(architecture(name), classes, 3)
    weights = [p.numel() for key, p in network.named_parameters() if key.endswith(".weight")]
    sizes = ParameterCount(sum(p.numel() for p in network.parameters()), sum(weights), 0)
    assert sum(weight.numel() for weight in weights_of(network).values()) == convolutions
    assert sizes.printed(kind) == printed


def test_the_table_has_a_row_for_each_layer_of_the_kinds_that_are_asked_for():
    network = small()
    network[0].weight.data[0] = 0
    (row,) = layer_counts(network)
    assert (row.name, row.shape, row.weights, row.kept, row.share) == ("0.weight", (4, 1, 3, 3), 36, 27, 0.75)
    assert [row.name for row in layer_counts(network, (nn.Conv2d, nn.Linear))] == ["0.weight", "3.weight"]
    assert layer_counts(network, (nn.Conv3d,)) == ()
