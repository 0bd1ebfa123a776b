"""What tools/make_bundles.py and tools/make_table_bundles.py are made of."""
