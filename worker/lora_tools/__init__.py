"""LoRA files outside of jobs: made from photos, mixed, subtracted, looked into, refined, drawn as strips of pictures.

Nothing here needs a database; `refine` alone may read and write one. The command line over it is `portraits lora`.
"""
