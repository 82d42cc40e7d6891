"""MaxText: its own set-up and compiled step, with the block of GPT-3, in float32 on its synthetic data.

--options: remat, its default policy (else 'minimal').
"""

import tempfile
from pathlib import Path

import jax
import maxtext
from flax import nnx
from flax.linen import partitioning
from maxtext.trainers.pre_train import train

from . import worker


def main() -> None:
    arguments = worker.arguments()
    item, dropout = arguments.item, arguments.dropout
    worker.only("causal", item)
    settings = dict(
        run_name="peer",
        base_output_directory=tempfile.mkdtemp(),
        hardware="cpu",
        skip_jax_distributed_system=True,
        dataset_type="synthetic",
        steps=1_000_000,
        enable_checkpointing=False,
        enable_goodput_recording=False,
        log_config=False,
        decoder_block="gpt3",
        base_emb_dim=item.width,
        base_num_query_heads=item.heads,
        base_num_kv_heads=item.heads,
        head_dim=item.width // item.heads,
        base_mlp_dim=item.hidden,
        base_num_decoder_layers=item.layers,
        trainable_position_size=item.length,
        mlp_activations="['gelu']",
        vocab_size=item.vocab,
        logits_via_embedding=True,
        normalize_embedding_logits=False,
        fused_qkv=True,
        attention="dot_product",
        max_target_length=item.length,
        per_device_batch_size=item.batch,
        enable_dropout=dropout > 0,
        dropout_rate=dropout,
        dtype="float32",
        weight_dtype="float32",
        remat_policy="full" if "remat" in arguments.options else "minimal",
        gradient_clipping_threshold=0,
        adam_weight_decay=worker.DECAY,
        learning_rate=worker.RATE,
    )
    base = Path(maxtext.__file__).parent / "configs" / "base.yml"
    said = [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in settings.items()]
    config, recorder = train.initialize(["maxtext", str(base), *said])
    _, _, shardings, model, mesh, _, _, loader, _, _, state = train.train_utils.setup_train_loop(config, recorder)
    graph, state = nnx.split(state)
    of_params, shardings = train.sharding.maybe_update_params_sharding_with_opt(config, shardings)
    compiled, _ = train.train_utils.jit_train_and_eval_step(
        config, graph, mesh, state, shardings, train.train_step, train.eval_step, None, of_params
    )
    rules = getattr(train, "logical_axis_rules", partitioning.axis_rules)
    with jax.set_mesh(mesh), rules(config.logical_axis_rules):

        def step(i: int) -> float:
            nonlocal state
            state, metrics = compiled(state, loader.load_next_batch())
            return float(metrics["scalar"]["learning/loss"])

        worker.serve(step, "maxtext", "jax", "flax")


if __name__ == "__main__":
    main()
