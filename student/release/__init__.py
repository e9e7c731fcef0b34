"""Release: export, model card, push."""
