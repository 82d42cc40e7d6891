"""What is read in the text of a compiled program, on small ones written down by hand in the compiler's words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from ptjax.plan.cost import Cost, Work, cost
from ptjax.plan.groups import first_group
from ptjax.plan.hlo import Program, arrays

# Two turns around three; the inner body reads a layer of a stack, multiplies by it in a fusion, gathers in three pieces
# of one asynchronous collective, and writes into a stack in place.
LOOPS = """HloModule jit_traced, is_scheduled=true

%layer (param_0.1: bf16[3,8,16], param_1.2: s32[]) -> bf16[1,8,16] {
  %param_0.1 = bf16[3,8,16]{2,1,0:T(8,128)(2,1)} parameter(0)
  %param_1.2 = s32[]{:T(128)S(6)} parameter(1)
  %constant.1 = s32[]{:T(128)} constant(0)
  ROOT %dynamic-slice.1 = bf16[1,8,16]{2,1,0:T(8,128)(2,1)S(1)} dynamic-slice(%param_0.1, %param_1.2, /*index=2*/%constant.1, %constant.1), dynamic_slice_sizes={1,8,16}
}

%start (param_0.2: bf16[1,8,16]) -> (bf16[1,8,16], bf16[1,8,64]) {
  %param_0.2 = bf16[1,8,16]{2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.1 = bf16[1,8,64]{2,1,0:T(8,128)(2,1)} all-gather(%param_0.2), channel_id=5, replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}, dimensions={2}, use_global_device_ids=true
  ROOT %custom-call.1 = (bf16[1,8,16]{2,1,0:S(1)}, bf16[1,8,64]{2,1,0:S(1)}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%beside (param_0.3: bf16[32,8], param_1.3: bf16[1,8,16], param_2.3: bf16[3,32,16], param_3.3: s32[]) -> (bf16[3,32,16], bf16[1,8,64]) {
  %param_0.3 = bf16[32,8]{1,0:T(8,128)(2,1)} parameter(0)
  %param_1.3 = bf16[1,8,16]{2,1,0:T(8,128)(2,1)S(1)} parameter(1)
  %param_2.3 = bf16[3,32,16]{2,1,0:T(8,128)(2,1)} parameter(2)
  %param_3.3 = s32[]{:T(128)S(6)} parameter(3)
  %constant.3 = s32[]{:T(128)} constant(0)
  %bitcast.3 = bf16[8,16]{1,0:T(8,128)(2,1)S(1)} bitcast(%param_1.3)
  %convolution.1 = bf16[32,16]{1,0:T(8,128)(2,1)} convolution(%param_0.3, %bitcast.3), dim_labels=bf_io->bf
  %bitcast.4 = bf16[1,32,16]{2,1,0:T(8,128)(2,1)} bitcast(%convolution.1)
  %all-gather.2 = bf16[1,8,64]{2,1,0:T(8,128)(2,1)S(1)} all-gather(%param_1.3), channel_id=5, replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}, dimensions={2}, use_global_device_ids=true
  %dynamic-update-slice.1 = bf16[3,32,16]{2,1,0:T(8,128)(2,1)} dynamic-update-slice(%param_2.3, %bitcast.4, %param_3.3, %constant.3, %constant.3)
  ROOT %tuple.1 = (bf16[3,32,16]{2,1,0:T(8,128)(2,1)}, bf16[1,8,64]{2,1,0:S(1)}) tuple(%dynamic-update-slice.1, %all-gather.2)
}

%all-reduce-scatter.1 (input.1: bf16[8,16]) -> bf16[4,16] {
  %input.1 = bf16[8,16]{1,0} parameter(0)
  %all-reduce.1 = bf16[8,16]{1,0} all-reduce(%input.1), channel_id=7, replica_groups={{0,4},{1,5},{2,6},{3,7}}, use_global_device_ids=true, to_apply=%add
  %constant.2 = u32[] constant(0)
  ROOT %dynamic-slice.2 = bf16[4,16]{1,0} dynamic-slice(%all-reduce.1, %constant.2, %constant.2), dynamic_slice_sizes={4,16}
}

%body (state: (s32[], bf16[3,8,16], bf16[3,32,16], bf16[32,8])) -> (s32[], bf16[3,8,16], bf16[3,32,16], bf16[32,8]) {
  %state = (s32[]{:T(128)}, bf16[3,8,16]{2,1,0}, bf16[3,32,16]{2,1,0}, bf16[32,8]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %w = bf16[3,8,16]{2,1,0} get-tuple-element(%state), index=1
  %kept = bf16[3,32,16]{2,1,0} get-tuple-element(%state), index=2
  %x = bf16[32,8]{1,0} get-tuple-element(%state), index=3
  %fusion.1 = bf16[1,8,16]{2,1,0:T(8,128)(2,1)S(1)} fusion(%w, %i), kind=kLoop, calls=%layer
  %fusion.2 = (bf16[1,8,16]{2,1,0:S(1)}, bf16[1,8,64]{2,1,0:S(1)}) fusion(%fusion.1), kind=kCustom, frontend_attributes={kernel_metadata={
 "said":"in several lines"
}}, output_to_operand_aliasing={{0}: (0, {})}, calls=%start
  %fusion.3 = (bf16[3,32,16]{2,1,0}, bf16[1,8,64]{2,1,0:S(1)}) fusion(%x, %fusion.1, %kept, %i), kind=kOutput, calls=%beside, metadata={op_name="jit(traced)/while/body/mlp/up/dot_general"}
  %updated = bf16[3,32,16]{2,1,0} get-tuple-element(%fusion.3), index=0
  ROOT %tuple.2 = (s32[], bf16[3,8,16], bf16[3,32,16], bf16[32,8]) tuple(%i, %w, %updated, %x)
}

%condition (state.1: (s32[], bf16[3,8,16], bf16[3,32,16], bf16[32,8])) -> pred[] {
  %constant.4 = s32[]{:T(128)} constant(3)
  %state.1 = (s32[], bf16[3,8,16], bf16[3,32,16], bf16[32,8]) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  ROOT %lt = pred[] compare(%i.1, %constant.4), direction=LT
}

%outer_body (state.2: (s32[], bf16[3,8,16], bf16[3,32,16], bf16[32,8])) -> (s32[], bf16[3,8,16], bf16[3,32,16], bf16[32,8]) {
  %state.2 = (s32[], bf16[3,8,16], bf16[3,32,16], bf16[32,8]) parameter(0)
  ROOT %while.1 = (s32[], bf16[3,8,16], bf16[3,32,16], bf16[32,8]) while(%state.2), condition=%condition, body=%body
}

%outer_condition (state.3: (s32[], bf16[3,8,16], bf16[3,32,16], bf16[32,8])) -> pred[] {
  %constant.5 = s32[] constant(2)
  %state.3 = (s32[], bf16[3,8,16], bf16[3,32,16], bf16[32,8]) parameter(0)
  %i.3 = s32[] get-tuple-element(%state.3), index=0
  ROOT %lt.1 = pred[] compare(%i.3, %constant.5), direction=LT
}

ENTRY %main (state.4: (s32[], bf16[3,8,16], bf16[3,32,16], bf16[32,8]), g: bf16[8,16]) -> bf16[4,16] {
  %state.4 = (s32[], bf16[3,8,16], bf16[3,32,16], bf16[32,8]) parameter(0)
  %g = bf16[8,16]{1,0} parameter(1)
  %while.2 = (s32[], bf16[3,8,16], bf16[3,32,16], bf16[32,8]) while(%state.4), condition=%outer_condition, body=%outer_body
  ROOT %fusion.4 = bf16[4,16]{1,0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.1
}
"""  # noqa: E501


@pytest.fixture(scope="module")
def found():
    return cost(Program.parse(LOOPS), devices=8)


def test_loops_in_loops_count_as_often_as_they_turn(found):
    assert found.flops == 2 * 3 * (2 * 32 * 8 * 16)
    assert not found.loops and not found.kernels


def test_a_loop_of_two_steps_a_turn_turns_half_as_often():
    """As the compiler has one where a product waits for its operand to be gathered, a part at a time."""
    two = "  %two = s32[] constant(2)\n  %next = s32[] add(%i, %two)\n  ROOT %tuple.2 ="
    text = LOOPS.replace("  ROOT %tuple.2 =", two).replace("tuple(%i, %w,", "tuple(%next, %w,")
    assert cost(Program.parse(text), devices=8).flops == 2 * 2 * (2 * 32 * 8 * 16)


def test_slices_and_updates_in_place_move_only_themselves(found):
    (product,) = [work for work in found.work if work.flops]
    assert product.origin.endswith("mlp/up/dot_general")
    assert product.bytes == 2 * (32 * 8 + 32 * 16)  # x in, one layer of the stack out; the kernel is on the chip
    layer = next(work for work in found.work if work.times == 6 and not work.flops)
    assert layer.bytes == 2 * 8 * 16  # one layer of three; where it goes is on the chip


def test_a_fusion_in_a_fusion_reads_what_it_slices():
    text = """%inner (p0: f32[24,8,16], p1: s32[]) -> f32[8,16] {
  %p0 = f32[24,8,16]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %slice = f32[1,8,16]{2,1,0} dynamic-slice(%p0, %p1, %zero, %zero), dynamic_slice_sizes={1,8,16}
  ROOT %flat = f32[8,16]{1,0} bitcast(%slice)
}

%outer (q0: f32[24,8,16], q1: s32[], q2: f32[16,4]) -> f32[8,4] {
  %q0 = f32[24,8,16]{2,1,0} parameter(0)
  %q1 = s32[] parameter(1)
  %q2 = f32[16,4]{1,0:S(1)} parameter(2)
  %layer = f32[8,16]{1,0} fusion(%q0, %q1), kind=kLoop, calls=%inner
  ROOT %product = f32[8,4]{1,0} dot(%layer, %q2), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (a: f32[24,8,16], i: s32[], b: f32[16,4]) -> f32[8,4] {
  %a = f32[24,8,16]{2,1,0} parameter(0)
  %i = s32[]{:S(6)} parameter(1)
  %b = f32[16,4]{1,0:S(1)} parameter(2)
  ROOT %fusion = f32[8,4]{1,0} fusion(%a, %i, %b), kind=kOutput, calls=%outer
}
"""
    (work,) = cost(Program.parse(text), devices=1).work
    number = 4  # the index, which the fusion's own parameter has in main memory
    assert (work.flops, work.bytes) == (2 * 8 * 16 * 4, 4 * (8 * 16 + 8 * 4) + number)


def test_a_collective_in_pieces_counts_once_a_turn(found):
    gather, scatter = found.collectives
    assert (gather.kind, gather.times, gather.bytes, gather.group) == ("all-gather", 6, 2 * 8 * 64, (0, 1, 2, 3))
    assert (scatter.kind, scatter.times, scatter.bytes, scatter.group) == ("reduce-scatter", 1, 2 * 8 * 16, (0, 4))


def test_a_loop_without_a_constant_end_turns_as_often_as_the_formula_asks():
    text = LOOPS.replace("compare(%i.3, %constant.5)", "compare(%i.3, %i.3)")
    found, products = cost(Program.parse(text), devices=8), 2 * 32 * 8 * 16
    assert found.flops == 3 * products and found.loops == ("while.2",)
    even = found.balanced(30 * products)
    outside = 2 * (8 * 16 + 4 * 16)
    assert (even.turns, even.flops) == (10, 30 * products)
    assert even.bytes == outside + 10 * (found.bytes - outside)


def test_what_is_computed_again_is_not_the_formulas():
    works = (Work("a/dot", 1, 5.0, 0.0), Work("b", 2, 10.0, 1.0, open=True))
    again = Work("checkpoint/rematted_computation/b", 2, 10.0, 1.0, open=True)
    found = Cost((*works, again), ()).balanced(65.0)
    assert (found.turns, found.flops) == (3, 5 + 2 * 2 * 3 * 10)


@pytest.mark.parametrize("text", ["", "HloModule x\n"])
def test_what_is_no_program_is_refused(text):
    with pytest.raises(ValueError, match="no ENTRY"):
        Program.parse(text)


@pytest.mark.parametrize(
    "attributes, group",
    [
        ("replica_groups={{0,2},{1,3}}, dimensions={0}", (0, 2)),
        ("replica_groups=[2,4]<=[8]", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", tuple(range(8))),
        ("replica_groups=mesh['a'=8] {'a':(1)2}", (0, 4)),
        ("replica_groups=mesh['a'=8] {'a':(2)4}", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", (0, 1, 2, 3)),
        ("source_target_pairs={{0,3},{3,0}}", (0, 3)),
        ("replica_groups={}", tuple(range(8))),
    ],
)
def test_groups_of_devices(attributes, group):
    assert first_group(attributes, 8) == group


def test_shapes():
    one, two = arrays("(bf16[4,<=8]{1,0:T(8,128)(2,1)S(1)}, pred[])")
    assert (one.dims, one.bytes, one.space) == ((4, 8), 64, 1)
    assert (two.dims, two.bytes, two.space) == ((), 1, 0)


def test_products_written_as_convolutions_count_only_real_pairs():
    """As a TPU writes 'BLD,DHK->BLHK', a batched product, and one whose batch hides in holes."""

    def flops(lines: str, window: str) -> float:
        lines = lines.replace("WINDOW", f"window={{{window}}}")
        text = f"ENTRY %main (a: f32[]) -> f32[] {{\n{lines}\n}}"
        return cost(Program.parse(text), devices=1).flops

    projection = """  %a = bf16[4,512,1024,1]{3,2,1,0} parameter(0)
  %b = bf16[1024,16,64,1]{3,2,1,0} parameter(1)
  ROOT %c = bf16[4,512,16,64]{3,2,1,0} convolution(%a, %b), WINDOW, dim_labels=0bf1_i1o0->0b1f"""
    assert flops(projection, "size=1x16 pad=0_0x15_15 rhs_reversal=0x1") == 2 * 4 * 512 * 1024 * 16 * 64
    batched = """  %a = bf16[4,16,512,64]{3,2,1,0} parameter(0)
  %b = bf16[4,16,512,64]{3,2,1,0} parameter(1)
  ROOT %c = f32[4,16,512,512]{3,2,1,0} convolution(%a, %b), WINDOW, dim_labels=01bf_01oi->01bf"""
    assert flops(batched, "size=4x16 stride=3x15 lhs_dilate=4x16") == 2 * 4 * 16 * 512 * 512 * 64


@pytest.mark.parametrize("unroll", [False, True])
def test_a_scanned_product_costs_what_an_unrolled_one_does(unroll):
    """The compiler itself counts the scanned one once."""

    def step(w, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w, unroll=unroll)[0].sum()

    w, x = jnp.zeros((5, 64, 64)), jnp.zeros((32, 64))
    compiled = jax.jit(jax.grad(step)).lower(w, x).compile()
    products = 2 * 32 * 64 * 64
    found = cost(Program.parse(compiled.as_text()), devices=1)
    assert found.flops == pytest.approx(3 * 5 * products, rel=0.1)  # none for the gradient by the first input
    if not unroll:
        assert compiled.cost_analysis()["flops"] < found.flops / 2


def test_collectives_of_a_mesh_are_seen():
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    place = lambda *axes: jax.NamedSharding(mesh, jax.P(*axes))
    x = jax.ShapeDtypeStruct((64, 32), np.float32, sharding=place("a", "b"))
    compiled = jax.jit(lambda x: x @ x.T, out_shardings=place("a", None)).lower(x).compile()
    found = cost(Program.parse(compiled.as_text()), devices=8)
    assert {c.kind for c in found.collectives} <= {"all-gather", "all-reduce", "collective-permute", "all-to-all"}
    assert found.collectives and all(len(c.group) in (2, 4, 8) for c in found.collectives)
