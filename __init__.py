"""ComfyUI's door into SD Unlearn.

This release has no nodes yet: ComfyUI loads the pack, finds nothing to add and goes on. The
headless command (`python install.py --demo`) is what works today.
"""

NODE_CLASS_MAPPINGS: dict[str, type] = {}
