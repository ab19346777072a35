"""Who draws: the project's adapter, its peers, any ComfyUI workflow, or a folder of pictures."""
