"""Programs that print figures. `python -m benchmarks.NAME`, from a checkout, with the package installed."""
