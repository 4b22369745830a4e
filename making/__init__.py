"""Making: training, measuring and describing the bundled model. Not in the wheel; the package never imports it."""
