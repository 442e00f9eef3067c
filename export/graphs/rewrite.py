"""onnxscript's optimiser in a tenth of its time: each rewrite rule is tried only where its pattern ends.

`onnxscript.optimizer.optimize` tries all of its rules at every node, which was most of its time; one rule compares a
node with every pair of Slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import onnxscript.optimizer
from onnx_ir.passes import common as passes
from onnxscript.rewriter import RewritePass, RewriteRule, RewriteRuleSet
from onnxscript.rewriter.rules import common as rules

ITERATIONS = 2
# Those of the optimiser, in its order, but for rules of quantised graphs and of operators that no student has.
RULES: dict[str, Sequence[RewriteRule]] = {
    "Add": rules.add_0_rule.commute(),
    "BatchNormalization": [
        rules.fuse_batchnorm_into_conv_rule, rules.fuse_batchnorm_into_conv_transpose_rule,
        rules.fuse_batchnorm_into_gemm_rule,
    ],
    "Cast": [
        rules.cast_constant_of_shape_rule, rules.cast_constant_of_shape_without_value_rule, rules.cast_cast_rule,
        rules.no_op_cast_rule,
    ],
    "Clip": [rules.successive_clip_relu_rule, rules.successive_clip_rule],
    "Conv": [
        rules.normalize_pad_format_conv_rule, rules.fuse_pad_into_conv_rule, rules.remove_optional_bias_from_conv_rule,
    ],
    "ConvTranspose": [rules.remove_optional_bias_from_conv_transpose_rule],
    "Div": [rules.div_by_1_rule],
    "Dropout": [rules.dropout_zero_rule, rules.dropout_inference_rule],
    "Expand": [rules.no_op_expand_rule],
    "Flatten": [rules.flatten_to_reshape_rule],
    "Gemm": [rules.remove_optional_bias_from_gemm_rule],
    "Max": [rules.max_max_rule, rules.min_max_rule],
    "Min": [rules.min_min_rule, rules.max_min_rule],
    "Mul": rules.mul_by_1_rule.commute(),
    "Relu": [rules.successive_relu_clip_rule, rules.successive_relu_rule],
    "Reshape": [
        rules.two_reshapes_matmul_reshape_rule, rules.one_reshape_matmul_reshape_rule,
        rules.materialize_reshape_shape_rule, rules.reshape_reshape_rule, rules.squeeze_reshape_1d_rule,
    ],
    "ScatterND": [rules.no_op_dynamic_scatter_nd_rule, rules.no_op_static_scatter_nd_rule],
    "Slice": [rules.collapse_slice_rule, rules.collapse_slice2_rule, rules.slice_split_rule],
    "Sub": [rules.sub_0_rule],
    "Transpose": [rules.no_op_transpose_rule, rules.transpose_transpose_rule],
    "Unsqueeze": [rules.unsqueeze_unsqueeze_rule],
}  # fmt: skip


class At(RewriteRule):
    """A rule of onnxscript that is tried at the nodes of one operator only."""

    def __init__(self, operator: str, rule: RewriteRule) -> None:
        self.__dict__ |= vars(rule)  # its pattern and its hooks: a set of rules reads them
        self.operator, self.rule = operator, rule

    def try_rewrite(self, model: ir.Model, graph_or_function: Any, node: ir.Node, **rest: Any) -> Any:
        """What the rule makes of the node, None where it does not apply."""
        if node.op_type != self.operator:
            return None
        return self.rule.try_rewrite(model, graph_or_function, node, **rest)


def optimise(model: ir.Model) -> None:
    """Fold, rewrite and clean up `model` in place, as `onnxscript.optimizer.optimize` does."""
    passes.InlinePass()(model)
    rewrite = RewritePass(RewriteRuleSet([At(operator, rule) for operator, some in RULES.items() for rule in some]))
    for _ in range(ITERATIONS):
        folded = onnxscript.optimizer.fold_constants(model, onnx_shape_inference=True).modified
        rewritten = rewrite(model).modified
        passes.RemoveUnusedNodesPass()(model)
        if not folded and not rewritten:
            break
    ir.passes.Sequential(
        passes.RemoveUnusedNodesPass(), passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(), passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(), passes.OutputFixPass(), passes.NameFixPass(),
    )(model)  # fmt: skip
