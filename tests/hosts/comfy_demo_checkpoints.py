"""A node pack for the tests: checkpoints of these names are the demo models."""

import nodes

FAMILIES = {
    "v2-1_512-ema-pruned.safetensors": "sd2",
    "v1-5-pruned-emaonly.safetensors": "sd1",
    "sd_xl_base_1.0.safetensors": "sdxl",
}
NODE_CLASS_MAPPINGS: dict[str, type] = {}


def load_demo(_: object, ckpt_name: str) -> tuple[object, ...]:
    """MODEL, CLIP and VAE."""
    demo = nodes.NODE_CLASS_MAPPINGS["UnlearnDemoModel"]
    return tuple(demo.execute("cat", FAMILIES[ckpt_name]).result[:3])


nodes.CheckpointLoaderSimple.load_checkpoint = load_demo
