"""A row that was committed and is not there: once with SQLAlchemy's own pool, once with pidpool's.

    pip install '.[embedded,psycopg]' && python examples/hazard.py

It starts a throw-away PostgreSQL, and removes it afterwards.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import TYPE_CHECKING

from sqlalchemy import create_engine, text
from sqlalchemy.pool import QueuePool

from pidpool import PidPool
from pidpool.hazards import embedded

if TYPE_CHECKING:
    from sqlalchemy import Engine


def order_a_book(engine: Engine) -> None:
    """Store one order, and fork while doing so."""
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO orders VALUES ('a book')"))
        if os.fork() == 0:
            sys.exit()  # a child with nothing to do, deep down in some library
        os.wait()
    print("committed, without an error")

    with engine.connect() as connection:
        stored = connection.scalar(text("SELECT count(*) FROM orders"))
    print(f"{stored} of 1 orders stored")


def demonstrate(url: str, poolclass: type[QueuePool]) -> None:
    """Place the order in a shop with this pool."""
    print(f"{poolclass.__name__}:", flush=True)  # what is in the buffer at fork is printed by both processes
    engine = create_engine(url, poolclass=poolclass)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS orders"))
        connection.execute(text("CREATE TABLE orders (item text)"))
    order_a_book(engine)


def main() -> None:
    """Run each demonstration in a process of its own: what the child's sys.exit unwinds must not be this."""
    with embedded.postgresql() as url:
        for poolclass in (QueuePool, PidPool):
            shop = multiprocessing.get_context("spawn").Process(target=demonstrate, args=(url, poolclass))
            shop.start()
            shop.join()


if __name__ == "__main__":
    main()
