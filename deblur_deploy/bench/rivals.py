"""Networks from elsewhere beside ours: ONNX files, and factories of PyTorch networks."""

from __future__ import annotations

from pathlib import Path

from deblur_deploy.core.artifact import Artifact, NetworkSpec, Step, hash_file, load_artifact, new_step
from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.core.external_data import refuse_external_data
from deblur_deploy.core.images import ImageSpec

RIVAL_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What the code of a network that the user brings may raise; ours raises :class:`DeblurDeployError`."""


def load_contender(source: str, workspace: Path) -> tuple[Artifact, str | None]:
    """What the user has named, as something that runtimes take.

    Args:
        source: An artifact's directory, an ``.onnx`` file, or ``package.module:factory``.
        workspace: Folder for what has to be written to be run; it is needed for as long as the artifact is.

    Returns:
        The artifact, and the name of its rows where that is not its directory.

    Raises:
        ArtifactError: There is nothing there, or it is damaged.
        ConfigError: The network does not take and give pictures.
    """
    path = Path(source)
    if ":" in source and not path.exists():
        return _from_factory(source, workspace), source
    if path.suffix == ".onnx" and path.is_file() and not (path.parent / "manifest.json").is_file():
        return read_onnx_file(path), source
    return load_artifact(path), None


def read_onnx_file(path: Path) -> Artifact:
    """An ONNX file that is not an artifact, as runtimes take it.

    Raises:
        ArtifactError: It is not an ONNX file, or keeps weights in other files.
        ConfigError: It takes something else than one (N, 3, H, W) float32 tensor.
    """
    import onnx
    from google.protobuf.message import DecodeError

    refuse_external_data(path)
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except (DecodeError, OSError) as err:
        raise ArtifactError(f"{path} is not an ONNX file: {err}", hint="export it again") from err
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    kinds = [value.type.tensor_type for value in inputs]
    sizes = [[dim.dim_value for dim in kind.shape.dim] for kind in kinds]
    if len(inputs) != 1 or len(sizes[0]) != 4 or sizes[0][1] != 3 or kinds[0].elem_type != onnx.TensorProto.FLOAT:
        found = ", ".join(f"{value.name} {size}" for value, size in zip(inputs, sizes, strict=True))
        raise ConfigError(
            f"{path} takes {found or 'nothing'}, not one float32 picture of (N, 3, H, W)",
            hint="export it with one float32 input of three channels; casts may be inside",
        )
    _, _, height, width = sizes[0]
    image = ImageSpec(height=height or None, width=width or None)
    history = (Step("onnx-file", {}, {}, None, "", {}),)
    return Artifact("onnx", path, hash_file(path), NetworkSpec("onnx-file", {}), image, history)


def _from_factory(factory: str, workspace: Path) -> Artifact:
    """The network that a factory makes, with the weights that it gives it."""
    import torch

    from deblur_deploy.network.checkpoint import build_network, save_network

    torch.manual_seed(0)
    spec = NetworkSpec(factory, {})
    net = build_network(spec).eval()
    out = workspace / factory.replace(":", ".")
    return save_network(out, net, spec, new_step("factory", {"factory": factory}, None, {}))
