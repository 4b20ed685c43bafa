"""What a graph can do without in evaluation mode: BatchNorm after a convolution, and whatever changes nothing."""

from __future__ import annotations

from collections import Counter

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from camfast.trace import called_module, is_identity


def drop_identities(part: fx.GraphModule) -> None:
    """Takes out dropout and the like."""
    for node in list(part.graph.nodes):
        if is_identity(node, called_module(part, node)) and isinstance(node.args[0], fx.Node):
            node.replace_all_uses_with(node.args[0])
            part.graph.erase_node(node)
    part.recompile()


def fold_batch_norm(part: fx.GraphModule) -> int:
    """Folds every BatchNorm2d that alone uses a convolution which runs once; how many there were."""
    calls = Counter(node.target for node in part.graph.nodes if node.op == "call_module")
    folded = 0
    for node in list(part.graph.nodes):
        norm = called_module(part, node)
        if type(norm) is not nn.BatchNorm2d or norm.running_mean is None or len(node.args) != 1:
            continue
        source = node.args[0]
        convolution = called_module(part, source) if isinstance(source, fx.Node) else None
        if type(convolution) is not nn.Conv2d or len(source.users) != 1 or calls[source.target] != 1:
            continue
        parent, _, name = str(source.target).rpartition(".")
        setattr(part.get_submodule(parent), name, fuse_conv_bn_eval(convolution, norm))
        node.replace_all_uses_with(source)
        part.graph.erase_node(node)
        folded += 1
    part.delete_all_unused_submodules()
    part.recompile()
    return folded
