"""s3prl's upstream folder: `expert.py` (the interface), `hubconf.py` (the entries), `download.py`."""
