"""The weights that profiles name: what each needs, under which licence, whether it is here and is what it was."""
