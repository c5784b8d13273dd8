"""The fresh process: it plays one round of one workload and writes what it came to into a pipe."""

from __future__ import annotations

import os
from typing import Any

from pidpool.bench.rounds import Load, Round
from pidpool.bench.workloads import Site, workload
from pidpool.hazards import subject as find_subject
from pidpool.hazards.errors import Skip, summary
from pidpool.hazards.fresh import begin


def work(  # noqa: PLR0913 - what a job consists of
    *, name: str, subject: str, url: str, session_id: str, load: dict[str, Any], channel: int
) -> None:
    """Play a round of the workload `name` and end the process.

    Args:
        name: the workload's.
        subject: the pool's name.
        url: the database; empty for none.
        session_id: the query for the server's number of a session.
        load: the fields of a `Load`.
        channel: the descriptor that takes messages, one JSON object a line.
    """
    tell = begin(channel)
    tell({"ready": True})
    pid = os.getpid()
    try:
        result = workload(name).measure(Site(find_subject(subject), url, session_id, Load(**load)))
    except Skip as reason:
        result = Round("skipped", str(reason))
    except Exception as error:
        if os.getpid() != pid:
            raise  # a child on its way out
        result = Round("error", summary(error))
    tell(result.as_json())
    # Whatever the pool's own threads and finalizers would still do, the measuring is over.
    os._exit(0)
