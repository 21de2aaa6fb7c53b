"""Tests that need other versions than ours, in folders of their own: `make peers` makes them."""

import os

collect_ignore_glob = [] if "SVCO_PEERS" in os.environ else ["test_*"]
