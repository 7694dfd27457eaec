"""``corecast run -- uvicorn app:app --workers 4``: a server whose processes find a hub."""

from __future__ import annotations

import sys

from ._corecast import launch


def main() -> int:
    """The program; gives its exit code."""
    return launch(["corecast", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
