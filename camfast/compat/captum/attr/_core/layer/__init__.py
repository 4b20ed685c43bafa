"""Methods that explain a layer."""
