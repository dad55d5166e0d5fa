import pytest
import torch
from torch import nn

from antivenom.errors import SettingsError, WeightsError
from antivenom.models.architectures import ARCHITECTURES, architecture, build, known, make_network
from antivenom.models.execution import execute
from antivenom.models.kwta import ratios, set_ratio
from antivenom.models.parts import PARTS
from antivenom.models.tensor_files import read_safetensors, write_safetensors
from antivenom.models.weights import load, save
from antivenom.task import Task

TASK = Task(("normal", "pneumonia"))
FACTS = {"data_digest": "d" * 64, "seed": 1, "metrics": {}}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_answers_at_its_smallest_side(name):
    side = ARCHITECTURES[name].smallest
    model = build(name, TASK, channels=1, seed=0).eval()
    with torch.inference_mode():
        assert model(torch.rand(2, 1, side, side)).shape == (2, 2)
    assert model.backbone.get_submodule(ARCHITECTURES[name].head).out_features == 2
    assert model.backbone.get_submodule(ARCHITECTURES[name].stem).in_channels == 1


@pytest.mark.parametrize("name", ["densenet121", "vgg19"])
def test_images_below_the_smallest_side_are_resampled_and_it_is_said(name):
    model = build(name, TASK, channels=1, size=(28, 28), seed=0).eval()
    with torch.inference_mode():
        assert model(torch.rand(2, 1, 28, 28)).shape == (2, 2)
    assert model.size == (32, 32)
    assert "resampled to (32, 32)" in model.notes[0]


def test_the_seed_alone_decides_the_start_and_the_world_is_left_alone():
    world = torch.get_rng_state()
    one = build("resnet18", TASK, channels=1, seed=3)
    assert torch.equal(world, torch.get_rng_state())
    torch.rand(7)
    assert one.digest() == build("resnet18", TASK, channels=1, seed=3).digest()
    assert one.digest() != build("resnet18", TASK, channels=1, seed=4).digest()


def test_grey_stays_grey_unless_it_is_to_be_copied():
    grey, copied = (build("resnet18", TASK, channels=1, copy_grey=copy, seed=0) for copy in (False, True))
    assert (grey.backbone.conv1.in_channels, copied.backbone.conv1.in_channels) == (1, 3)
    assert grey.prepare(torch.rand(2, 1, 32, 32)).shape[1] == 1
    assert copied.prepare(torch.rand(2, 1, 32, 32)).shape[1] == 3


def test_a_fine_stem_keeps_twice_the_detail():
    images = torch.rand(1, 1, 64, 64)
    coarse, fine = (build(name, TASK, channels=1, seed=0).eval().backbone for name in ("resnet18", "resnet18-fine"))
    assert coarse.forward_features(images).shape[-1] == 2
    assert fine.forward_features(images).shape[-1] == 4


def test_published_sizes_are_met():
    """ResNet-18 as counted in Chen 2021, Tables 1 and 2; EfficientNet-B0 as counted by its authors."""
    ten = Task(tuple("abcdefghij"))
    count = {n: sum(p.numel() for p in build(n, ten, channels=3, seed=0).parameters()) for n in ("resnet18", "efficientnet_b0")}
    assert count == {"resnet18": 11_181_642, "efficientnet_b0": 4_007_548 + 1281 * 10}


def test_an_unknown_name_is_refused_with_those_that_are_known():
    with pytest.raises(SettingsError, match=r"'resnet19'; there are resnet18, .*vgg19"):
        build("resnet19", TASK, channels=1, seed=0)


@pytest.mark.parametrize("name", ["resnet18+cbam", "resnet18-fine+bam", "resnet18+self", "resnet18+se+eca", "resnet18+kwta"])
def test_a_network_with_parts_answers_and_learns(name):
    model = build(name, TASK, channels=1, seed=0)
    logits = model(torch.rand(2, 1, 64, 64))
    logits.logsumexp(1).sum().backward()
    assert logits.shape == (2, 2)
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.eval().features(torch.rand(2, 1, 32, 32)).shape == (2, 512)


@pytest.mark.parametrize(
    "name",
    [f"{backbone}+{part}" for part in PARTS for backbone, row in ARCHITECTURES.items() if row.timm_name in PARTS[part].sites],
)
def test_every_part_finds_its_place_in_every_backbone_that_takes_it(name):
    """On the meta device: a name that is not there, or a width that is not its map's, fails."""
    row = architecture(name)
    with torch.device("meta"):
        network = make_network(row, 2, 3).eval()
        assert network(torch.empty(1, 3, 64, 64)).shape == (1, 2)
        plain = make_network(ARCHITECTURES[name.split("+")[0]], 2, 3)
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    assert {key: tensor.shape for key, tensor in plain.state_dict().items()}.items() <= shapes.items()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("resnet18+cbam", 89_880),
        ("resnet34+cbam", 162_796),
        ("resnet50+cbam", 2_532_592),
        ("resnet34+bam", 22_991),
        ("resnet50+bam", 358_067),
        ("resnet34+self", 328_321),
        ("resnet50+soft", 294_928 + 1),  # and gamma
        ("resnet34+kwta", 0),
        ("resnet34+cbam+kwta", 162_796),
    ],
)
def test_parts_cost_what_was_published(name, more):
    def count(name):
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in make_network(architecture(name), 2, 3).parameters())

    assert count(name) - count(name.split("+")[0]) == more


def test_the_convolutions_of_a_pruned_cbam_are_those_that_were_counted():
    """The gate's linear layers are not among what Chen 2021 prunes: 21,269,216 weights in convolutions."""
    with torch.device("meta"):
        network = make_network(architecture("resnet34+cbam"), 2, 3)
    assert sum(layer.weight.numel() for layer in network.modules() if isinstance(layer, nn.Conv2d)) == 21_269_216


def test_the_backbone_starts_as_it_does_without_parts():
    plain, built = (build(name, TASK, channels=1, seed=3).backbone.state_dict() for name in ("resnet18", "resnet18+cbam+kwta"))
    assert all(torch.equal(tensor, built[name]) for name, tensor in plain.items())
    assert len(built) > len(plain)


@pytest.fixture(scope="module")
def weight_file(tmp_path_factory):
    """A plain ResNet-18 for other classes, as a stranger would hand it out, its batch-norms as if they had learnt."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        donor = timm.create_model("resnet18", num_classes=7)
        for module in donor.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data.uniform_(0.5, 1)
    path = tmp_path_factory.mktemp("donor") / "donor.safetensors"
    write_safetensors(path, donor.state_dict(), {})
    return path


@pytest.mark.parametrize("parts", ["cbam", "bam", "self", "soft", "se", "eca", "kwta:0.4", "cbam+bam+self+soft+kwta"])
def test_pretrained_weights_load_into_a_network_with_parts_as_into_the_plain_one(weight_file, parts):
    def start(name):
        said = []
        model = build(name, TASK, channels=3, seed=0, pretrained=weight_file, tell=said.append)
        return model, said[0]

    (plain, told), (built, told_of_parts) = start("resnet18"), start(f"resnet18+{parts}")
    given, own = read_safetensors(weight_file)[0], built.backbone.state_dict()
    body = [name for name in given if not name.startswith("fc.")]
    assert all(torch.equal(own[name], given[name]) for name in body)
    inserted = len(own) - len(plain.backbone.state_dict())
    assert f"{len(body)} of {len(body) + 2} tensors loaded" in told
    assert f"{len(body)} of {len(own)} tensors loaded" in told_of_parts
    assert f"{inserted} not in the file" in told_of_parts
    assert "before training" in " ".join(built.notes)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        same = torch.equal(plain.eval().features(images), built.eval().features(images))
    assert same == (parts == "self")


def test_the_ratio_of_a_name_stands_whatever_the_weights_were_trained_with(tmp_path):
    donor = build("resnet18+kwta:0.5", TASK, channels=1, seed=0)
    write_safetensors(tmp_path / "a.safetensors", donor.backbone.state_dict(), {})
    model = build("resnet18+kwta:0.3", TASK, channels=1, seed=1, pretrained=tmp_path / "a.safetensors", tell=lambda _: None)
    assert set(ratios(model.backbone).values()) == {0.3}
    assert torch.equal(model.backbone.fc.weight, donor.backbone.fc.weight)


def test_k_winners_take_the_place_of_every_relu_of_the_stages_and_of_no_other():
    with torch.device("meta"):
        resnet, dense = (make_network(architecture(f"{name}+kwta+cbam"), 2, 3) for name in ("resnet50", "densenet121"))
    left = {name for name, module in resnet.named_modules() if isinstance(module, nn.ReLU)}
    assert {name for name in left if ".cbam." not in name} == {"act1"}
    assert len(ratios(resnet)) == 3 * (3 + 4 + 6 + 3)
    left = {name for name, module in dense.named_modules() if isinstance(module, nn.ReLU)}
    assert {name for name in left if ".cbam." not in name} <= {
        "features.norm0.act",
        "features.norm5.act",
        "features.cbam.channel.mlp.1",
    }
    assert len(ratios(dense)) == 2 * (6 + 12 + 24 + 16) + 3


def test_cbam_weighs_a_branch_before_it_is_added():
    block = _learnt(build("resnet18+cbam", TASK, channels=1, seed=0).eval()).backbone.layer1[0]
    x = torch.rand(2, 64, 8, 8)
    branch = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
    torch.testing.assert_close(block(x.clone()), (x + block.se.cbam(branch)).relu())


def test_k_winners_warn_whoever_reads_a_figure_about_them():
    assert "hides gradients" in build("resnet18+kwta", TASK, channels=1, seed=0).notes[0]
    assert not build("resnet18+cbam", TASK, channels=1, seed=0).notes


def test_a_network_that_keeps_another_share_is_another_network():
    model = build("resnet18+kwta", TASK, channels=1, seed=0).eval()
    before = model.digest()
    set_ratio(model, 0.5)
    assert model.digest() != before
    set_ratio(model, 0.2)
    assert model.digest() == before


@pytest.mark.parametrize("name", ["resnet18+cbam", "resnet18-fine+kwta:0.3", "resnet18+bam+self"])
def test_a_checkpoint_rebuilds_the_parts(tmp_path, name):
    model, images = build(name, TASK, channels=1, size=(32, 32), seed=1).eval(), torch.rand(3, 1, 32, 32)
    save(model, tmp_path / "a.safetensors", **FACTS)
    again = load(tmp_path / "a.safetensors")
    with torch.inference_mode():
        assert torch.equal(again(images), model(images))
    assert (again.architecture, again.digest()) == (name, model.digest())


def test_a_network_that_is_not_what_its_name_says_is_not_saved(tmp_path):
    model = build("resnet18+kwta", TASK, channels=1, seed=1).eval()
    set_ratio(model, 0.6)
    with pytest.raises(WeightsError, match=r"stand at 0\.6, and its name says 0\.2"):
        save(model, tmp_path / "a.safetensors", **FACTS)


@pytest.mark.parametrize("part", ["cbam", "bam", "self", "soft", "se", "kwta"])
def test_folding_serves_a_network_with_parts(part):
    model = _learnt(build(f"resnet18+{part}", TASK, channels=1, seed=0).eval())
    like = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    twin = execute(model, like, "float32, folded").propose
    torch.testing.assert_close(twin(like), model(like), rtol=1e-3, atol=1e-4)
    assert not [module for module in twin.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("part", ["cbam", "bam", "self", "soft", "se"])
def test_a_halved_twin_serves_a_network_with_attention(part):
    model = _learnt(build(f"resnet18+{part}", TASK, channels=1, seed=0).eval())
    like = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    twin = execute(model, like, "bfloat16, folded, channels-last").propose
    torch.testing.assert_close(twin(like), model(like), rtol=0.05, atol=0.05)


def _learnt(model):
    """As if it had learnt: no batch-norm at its start, no gamma at nothing."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            for tensor, low in ((module.weight.data, 0.5), (module.running_var, 0.5), (module.bias.data, -0.1)):
                tensor.copy_(low + 0.5 * torch.rand(tensor.shape, generator=generator))
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            parameter.data.fill_(0.5)
    return model


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnet34+dropout", r"no part 'dropout' to build into resnet34; there are cbam, .*kwta"),
        ("resnet34+", "no part ''"),
        ("resnet19+cbam", "no architecture 'resnet19'"),
        ("vgg19+cbam", r"cbam does not go into vgg19; it goes into resnet18, .*efficientnet_b0"),
        ("densenet121+se", r"se does not go into densenet121"),
        ("efficientnet_b0+kwta", r"kwta does not go into efficientnet_b0; .*densenet121"),
        ("resnet34+cbam+kwta+cbam", "names cbam twice"),
        ("resnet34+kwta+kwta:0.3", "names kwta twice"),
        ("resnet34+cbam:0.3", "takes no number, got 'cbam:0.3'"),
        ("resnet34+kwta:1", "above 0 and below 1"),
        ("resnet34+kwta:0", "above 0 and below 1"),
        ("resnet34+kwta:nan", "above 0 and below 1"),
        ("resnet34+kwta:", "above 0 and below 1"),
        ("resnet34+kwta:many", "'kwta:many' needs a ratio"),
    ],
)
def test_a_name_that_says_nothing_is_refused_with_the_reason(name, reason):
    with pytest.raises(SettingsError, match=reason):
        architecture(name)
    assert not known(name)


def test_names_that_can_be_built_are_known():
    assert all(known(name) for name in (*ARCHITECTURES, "resnet34+cbam", "resnet34+kwta:0.3", "resnet34-fine+cbam+kwta"))
