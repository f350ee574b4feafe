"""What a service takes: from flags, or from a table that its user keeps."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tdtrain.options import Price

_TABLE = TypeAdapter(dict[str, Price])


def price_of(service: str, price: Price, table: Path | None) -> Price:
    """The price of a service and its model, such as claude/MODEL: what the table says, else `price`.

    Raises: ValueError where the table cannot be read, or does not know the service.
    """
    if table is None:
        return price
    try:
        known = _TABLE.validate_python(tomllib.loads(table.read_text()))
    except (OSError, ValueError) as error:  # tomllib's and pydantic's are ValueErrors
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else error
        raise ValueError(f"price_table={table} cannot be read ({why})") from error
    if service not in known:
        raise ValueError(f'price_table={table} has no ["{service}"]; it has {", ".join(known) or "nothing"}')
    return known[service]
