"""One self-contained page of an audit, from its records alone; no model is run."""
