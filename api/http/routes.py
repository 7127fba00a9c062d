"""The paths of the hot routes, as FastAPI writes them and as `/metrics` counts them."""

from __future__ import annotations

from typing import Final

PRODUCE_ROUTE: Final = "/topics/{topic}"
PRODUCE_PARTITION_ROUTE: Final = "/topics/{topic}/partitions/{partition}"
READ_ROUTE: Final = "/topics/{topic}/partitions/{partition}/records"
TAIL_ROUTE: Final = "/v1/topics/{topic}/tail"
