"""`python -m orchestrator.cli`: what `.venv/bin/muster` runs."""

import sys

import pydantic

from orchestrator.cli.app import app
from orchestrator.cli.client import ApiError
from orchestrator.cli.output import fail

if __name__ == "__main__":
    try:
        app(prog_name="muster")
    except ApiError as error:
        fail(str(error))
        sys.exit(1)
    except pydantic.ValidationError as error:  # of Settings: everything else is validated by the API
        for wrong in error.errors():
            fail(f"the environment variable for {'.'.join(map(str, wrong['loc']))} is wrong: {wrong['msg']}")
        sys.exit(2)
