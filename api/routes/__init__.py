"""One module per noun; `api.app` lists them."""
