"""The published SRN: parameter counts, TensorFlow's names, layout and padding, and TensorFlow's own result."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from deblur_deploy.core.artifact import load_artifact
from deblur_deploy.core.errors import ArtifactError, MissingDependencyError
from deblur_deploy.network.architectures import ImportOptions
from deblur_deploy.network.checkpoint import build_network, import_checkpoint, load_network, spec_of
from deblur_deploy.network.srn_cvpr18 import SRNCVPR18, SRNCVPR18Config, Variant, double_size, from_tensorflow

LEVELS = {1: 32, 2: 64, 3: 128}


def shapes_in_tensorflow(variant: Variant) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published checkpoint's own variables, written from the paper's layers."""
    image = 3 if variant == "color" else 1
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, height: int, first: int, second: int, biases: int) -> None:
        shapes[f"g_net/{name}/weights"] = (height, height, first, second)
        shapes[f"g_net/{name}/biases"] = (biases,)

    before = 2 * image
    for level, width in LEVELS.items():
        layer(f"enc{level}_1", 5, before, width, width)
        before = width
        for place in (2, 3, 4):
            for conv in ("conv1", "conv2"):
                layer(f"enc{level}_{place}/{conv}", 5, width, width, width)
        for place in (3, 2, 1):
            for conv in ("conv1", "conv2"):
                layer(f"dec{level}_{place}/{conv}", 5, width, width, width)
    for level in (2, 1):  # transposed: outputs before inputs
        layer(f"dec{level}_4", 4, LEVELS[level], LEVELS[level + 1], LEVELS[level])
    layer("dec1_0", 5, 32, image, image)
    if variant == "lstm":
        layer("convLSTM/LSTM_conv", 3, 256, 512, 512)
    return shapes


def tensorflow_variables(variant: Variant, seed: int = 3) -> dict[str, NDArray[np.float32]]:
    """Random variables that keep a picture's range through all layers."""
    rng = np.random.default_rng(seed)
    variables = {}
    for name, shape in shapes_in_tensorflow(variant).items():
        fan_in = shape[0] * shape[1] * shape[2] if len(shape) == 4 else 400
        gain = 0.3 if "/conv2/" in name else 1.0  # what each residual block adds
        variables[name] = (gain * rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)
    return variables


def network_of(variables: dict[str, NDArray[np.float32]], variant: Variant) -> SRNCVPR18:
    net = SRNCVPR18(SRNCVPR18Config(variant)).eval()
    net.load_state_dict(from_tensorflow(variables))
    return net


@pytest.mark.parametrize(
    ("variant", "parameters", "tensors"),
    [("color", 6_881_251, 84), ("gray", 6_876_449, 84), ("lstm", 8_056_609, 86)],
)
def test_every_variant_has_the_published_parameters(variant, parameters, tensors):
    shapes = shapes_in_tensorflow(variant)
    with torch.device("meta"):
        net = SRNCVPR18(SRNCVPR18Config(variant))

    assert len(shapes) == tensors
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == parameters
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


@pytest.mark.parametrize("variant", ["color", "gray", "lstm"])
def test_tensorflows_variables_fill_the_network_and_the_optimizers_are_passed_over(variant):
    variables = tensorflow_variables(variant)
    slots = {f"{name}/Adam{number}": array for name, array in variables.items() for number in ("", "_1")}
    counts = {"Variable": np.int32(523_000), "beta1_power": np.float32(0.9), "beta2_power": np.float32(0.999)}
    with torch.device("meta"):
        wanted = SRNCVPR18(SRNCVPR18Config(variant)).state_dict()

    state = from_tensorflow({**variables, **slots, **counts})

    assert {name: tensor.shape for name, tensor in state.items()} == {n: t.shape for n, t in wanted.items()}
    assert SRNCVPR18.read_config({name: tuple(tensor.shape) for name, tensor in state.items()}).variant == variant


def test_kernels_and_gates_go_where_tensorflow_has_them():
    variables = tensorflow_variables("lstm")
    state = from_tensorflow(variables)

    conv, up = variables["g_net/enc2_3/conv1/weights"], variables["g_net/dec2_4/weights"]
    gates, biases = variables["g_net/convLSTM/LSTM_conv/weights"], variables["g_net/convLSTM/LSTM_conv/biases"]
    assert state["encoder.1.blocks.1.conv1.weight"][5, 7, 1, 3] == conv[1, 3, 7, 5]
    assert state["decoder.0.up.weight"][100, 7, 1, 3] == up[1, 3, 7, 100]
    assert torch.equal(state["bottom.0.conv2.bias"], torch.from_numpy(variables["g_net/dec3_3/conv2/biases"]))
    assert torch.equal(state["decoder.1.blocks.2.conv1.bias"], torch.from_numpy(variables["g_net/dec1_1/conv1/biases"]))
    for index, gate in enumerate(("input", "candidate", "forget", "output")):
        assert state[f"lstm.{gate}.weight"][9, 200, 0, 2] == gates[0, 2, 200, 128 * index + 9]
    assert state["lstm.input.bias"][9] == biases[9]
    assert state["lstm.forget.bias"][9] == pytest.approx(biases[2 * 128 + 9] + 1)


def test_halving_convolutions_pad_one_before_and_two_after():
    torch.manual_seed(0)
    level = SRNCVPR18().encoder[1]
    x = torch.rand(1, 32, 8, 8)
    with torch.no_grad():
        wide = level.enter(F.pad(x, (1, 2, 1, 2)))
        by_hand = torch.stack(
            [
                (F.pad(x, (1, 2, 1, 2))[:, :, 2 * i : 2 * i + 5, 2 * j : 2 * j + 5] * level.enter.weight[4]).sum()
                for i in range(4)
                for j in range(4)
            ]
        )
        assert wide.shape[-2:] == (4, 4)
        torch.testing.assert_close(wide[0, 4].flatten(), by_hand + level.enter.bias[4], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(level(x), level.blocks(F.relu(wide)))


def test_doubling_has_no_half_pixel_shift():
    row = torch.tensor([[0.0, 2.0, 6.0]]).expand(2, 3)[None, None]

    doubled = double_size(row)

    assert doubled.shape == (1, 1, 4, 6)
    torch.testing.assert_close(doubled[0, 0], torch.tensor([[0.0, 1.0, 2.0, 4.0, 6.0, 6.0]]).expand(4, 6))


def test_gray_networks_treat_red_green_and_blue_alike():
    torch.manual_seed(0)
    net = SRNCVPR18(SRNCVPR18Config("lstm")).eval()
    image = torch.rand(2, 3, 16, 32)
    with torch.inference_mode():
        restored = net(image)
        green = net(image[:, 1:2].expand(-1, 3, -1, -1))
    torch.testing.assert_close(restored[:, 1], green[:, 0])
    torch.testing.assert_close(green[:, 0], green[:, 2])


def test_a_pass_that_traces_runs_every_layer_once():
    net = SRNCVPR18(SRNCVPR18Config("lstm")).eval()
    runs: list[str] = []
    for name, module in net.named_modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
            module.register_forward_hook(lambda *_, name=name: runs.append(name))
    with torch.inference_mode():
        net.forward_once(torch.rand(1, 3, 16, 16))
    assert len(runs) == len(set(runs)) == 46


def test_narrower_networks_are_rebuilt_from_plain_data():
    torch.manual_seed(0)
    net = SRNCVPR18(SRNCVPR18Config("gray", {"encoder.1.blocks.0.conv1.weight": (24, 64, 5, 5)}))
    with pytest.raises(RuntimeError):  # the next layer still reads 64
        net(torch.rand(1, 3, 16, 16))
    widths = {
        "encoder.1.blocks.0.conv1.weight": (24, 64, 5, 5),
        "encoder.1.blocks.0.conv1.bias": (24,),
        "encoder.1.blocks.0.conv2.weight": (64, 24, 5, 5),
    }
    net = SRNCVPR18(SRNCVPR18Config("gray", widths)).eval()
    again = build_network(spec_of(net)).eval()
    again.load_state_dict(net.state_dict())
    assert spec_of(again).config["widths"] == widths
    image = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(again(image), net(image))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ([], "there is no TensorFlow checkpoint"),
        (["deblur.model-1.data-00000-of-00001", "deblur.model-1.meta"], "lacks its index file"),
        (["deblur.model-1.index"], "lacks its data file"),
    ],
)
def test_a_checkpoint_with_files_missing_says_which(written, said, tmp_path):
    for name in written:
        (tmp_path / name).write_bytes(b"x")

    with pytest.raises(ArtifactError, match=said):
        import_checkpoint(tmp_path / "deblur.model-1", "srn-cvpr18", tmp_path / "artifact")


@pytest.mark.parametrize("path", [".", "/", ".index"])
def test_a_path_without_a_name_is_no_checkpoint(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(".index").write_bytes(b"x")

    with pytest.raises(ArtifactError):
        import_checkpoint(Path(path), "srn", tmp_path / "artifact")


def test_without_tensorflow_the_extra_is_named(monkeypatch, tmp_path):
    for end in ("index", "data-00000-of-00001"):
        (tmp_path / f"deblur.model-1.{end}").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "tensorflow", None)

    with pytest.raises(MissingDependencyError, match="needs TensorFlow") as caught:
        import_checkpoint(tmp_path / "deblur.model-1.index", "srn-cvpr18", tmp_path / "artifact")
    assert "deblur-deploy[tf]" in caught.value.hint


def test_a_wrong_variant_is_refused(tmp_path):
    torch.save(SRNCVPR18(SRNCVPR18Config("gray")).state_dict(), tmp_path / "gray.pth")

    with pytest.raises(ArtifactError, match="is the variant 'gray', not 'lstm'"):
        import_checkpoint(tmp_path / "gray.pth", "srn-cvpr18", tmp_path / "artifact", ImportOptions(variant="lstm"))
    artifact = import_checkpoint(
        tmp_path / "gray.pth", "srn-cvpr18", tmp_path / "artifact", ImportOptions(variant="gray")
    )
    assert artifact.network.config["variant"] == "gray"
    assert artifact.image.multiple_of == 16


@pytest.fixture
def import_variables(monkeypatch, tmp_path) -> Callable[..., Any]:
    """Imports variables as if they had been read from a checkpoint."""

    def import_them(variables: dict[str, NDArray[Any]], options: ImportOptions | None = None) -> SRNCVPR18:
        monkeypatch.setattr("deblur_deploy.network.checkpoint.read_tensorflow_checkpoint", lambda _: variables)
        return load_network(
            import_checkpoint(tmp_path / "deblur.model-1", "srn-cvpr18", tmp_path / "artifact", options)
        )

    return import_them


def test_half_precision_of_tensorflow_becomes_float32(import_variables):
    halves = {name: array.astype(np.float16) for name, array in tensorflow_variables("gray").items()}

    net = import_variables(halves)

    assert {tensor.dtype for tensor in net.state_dict().values()} == {torch.float32}
    assert net.head.weight[0, 3, 1, 2] == float(halves["g_net/dec1_0/weights"][1, 2, 3, 0])


def test_nan_in_variables_of_tensorflow_is_named(import_variables):
    variables = tensorflow_variables("gray")
    variables["g_net/dec2_4/weights"][0, 1, 2, 3] = np.nan

    with pytest.raises(ArtifactError, match=r"NaN or infinite weights in decoder\.0\.up\.weight"):
        import_variables(variables)


@pytest.mark.parametrize(("variant", "asked"), [("color", "gray"), ("gray", "lstm"), ("lstm", "gray")])
def test_variables_of_another_variant_are_refused(variant, asked, import_variables):
    with pytest.raises(ArtifactError, match=f"is the variant '{variant}', not '{asked}'") as caught:
        import_variables(tensorflow_variables(variant), ImportOptions(variant=asked))
    assert f"--variant {variant}" in caught.value.hint


def test_variables_of_another_network_are_refused(import_variables):
    others = {"resnet/conv1/kernel": np.zeros((3, 3, 3, 8), np.float32), "global_step": np.int64(7)}

    with pytest.raises(ArtifactError, match=r"of another network: .*it has global_step, resnet/conv1/kernel"):
        import_variables(others)


def test_half_of_tensorflows_variables_says_what_is_missing(import_variables):
    variables = tensorflow_variables("lstm")

    with pytest.raises(ArtifactError, match=r"lacks decoder\.0\.up\.weight, decoder\.0\.blocks"):
        import_variables({name: array for name, array in variables.items() if not name.startswith("g_net/dec2_")})


def reference_graph(tf: Any, variables: dict[str, Any], images: Any, variant: Variant) -> Any:
    """The last estimate of the published network as a TensorFlow 1 graph, for (N, H, W, C) in [0, 1]."""

    def conv(x: Any, name: str, stride: int = 1, relu: bool = True) -> Any:
        y = tf.nn.conv2d(x, variables[f"{name}/weights"], strides=stride, padding="SAME") + variables[f"{name}/biases"]
        return tf.nn.relu(y) if relu else y

    def block(x: Any, name: str) -> Any:
        return x + conv(conv(x, f"{name}/conv1"), f"{name}/conv2", relu=False)

    def deconv(x: Any, name: str) -> Any:
        kernel = variables[f"{name}/weights"]
        size, width, height = tf.shape(x)[0], 2 * x.shape[2], 2 * x.shape[1]
        y = tf.nn.conv2d_transpose(x, kernel, (size, height, width, kernel.shape[2]), strides=2, padding="SAME")
        return tf.nn.relu(y + variables[f"{name}/biases"])

    def resize(x: Any, height: int, width: int) -> Any:
        return tf.compat.v1.image.resize_bilinear(x, (height, width))

    full_height, full_width = images.shape[1], images.shape[2]
    estimate, state = images, None
    for scale in (4, 2, 1):
        height, width = full_height // scale, full_width // scale
        x = tf.concat([resize(images, height, width), resize(estimate, height, width)], axis=3)
        skips = {}
        for level in LEVELS:
            x = conv(x, f"g_net/enc{level}_1", stride=1 if level == 1 else 2)
            for place in (2, 3, 4):
                x = block(x, f"g_net/enc{level}_{place}")
            skips[level] = x
        if variant == "lstm":
            shape = (x.shape[0], height // 4, width // 4, 256)
            state = tf.zeros(shape) if state is None else resize(state, height // 4, width // 4)
            cell, hidden = tf.split(state, 2, axis=3)
            gates = conv(tf.concat([x, hidden], axis=3), "g_net/convLSTM/LSTM_conv", relu=False)
            i, j, f, o = tf.split(gates, 4, axis=3)
            cell = cell * tf.sigmoid(f + 1.0) + tf.sigmoid(i) * tf.tanh(j)
            x = tf.tanh(cell) * tf.sigmoid(o)
            state = tf.concat([cell, x], axis=3)
        for level in (3, 2, 1):
            x = x if level == 3 else deconv(x, f"g_net/dec{level}_4") + skips[level]
            for place in (3, 2, 1):
                x = block(x, f"g_net/dec{level}_{place}")
        estimate = conv(x, "g_net/dec1_0", relu=False)
    return estimate


@pytest.fixture
def tensorflow_one(monkeypatch) -> Callable[..., Any]:
    """TensorFlow with graphs and sessions."""
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    import tensorflow

    return tensorflow


@pytest.mark.tf
@pytest.mark.parametrize("variant", ["color", "gray", "lstm"])
def test_a_checkpoint_of_tensorflow_gives_tensorflows_picture(variant, tensorflow_one, tmp_path: Path):
    tf = tensorflow_one
    image = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    batch = image.numpy().transpose(0, 2, 3, 1) if variant == "color" else image.numpy().transpose(1, 2, 3, 0)
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        variables = {
            name: tf.compat.v1.get_variable(name, initializer=array)
            for name, array in tensorflow_variables(variant).items()
        }
        tf.compat.v1.get_variable("g_net/enc1_1/weights/Adam", initializer=np.zeros(3, np.float32))
        tf.compat.v1.get_variable("Variable", initializer=np.int32(523_000))
        restored = reference_graph(tf, variables, tf.constant(batch), variant)
        session.run(tf.compat.v1.global_variables_initializer())
        expected = session.run(restored)
        tf.compat.v1.train.Saver().save(session, str(tmp_path / "deblur.model"), global_step=523_000)

    artifact = import_checkpoint(tmp_path / "deblur.model-523000", "srn-cvpr18", tmp_path / "artifact")

    assert artifact.network.config["variant"] == variant
    with torch.inference_mode():
        ours = load_network(load_artifact(artifact.path))(image).numpy()
    theirs = expected.transpose(0, 3, 1, 2) if variant == "color" else expected.transpose(3, 0, 1, 2)
    assert 0.1 < np.ptp(theirs) < 4  # a picture's range, so that the difference means what it says
    assert np.abs(ours - theirs).max() <= 1e-4


@pytest.mark.tf
@pytest.mark.usefixtures("tensorflow_one")
def test_a_damaged_checkpoint_is_named(tmp_path):
    for end in ("index", "data-00000-of-00001"):
        (tmp_path / f"deblur.model-1.{end}").write_bytes(b"not an index")

    with pytest.raises(ArtifactError, match="cannot be read"):
        import_checkpoint(tmp_path / "deblur.model-1", "srn-cvpr18", tmp_path / "artifact")
