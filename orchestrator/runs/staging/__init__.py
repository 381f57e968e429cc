"""The stages of a run: what each of its instances needs next. One module per kind of run."""
