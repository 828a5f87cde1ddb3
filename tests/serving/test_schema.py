"""Whatever fits the published schema, and whatever nearly does, is answered without a fault of the server."""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from serving_helpers import Live

from llada_uni.pipeline import LladaUni
from llada_uni.serving.lanes import EngineSettings
from llada_uni.serving.limits import Limits, ServerSettings

needs_schemathesis = pytest.mark.skipif(
    importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not installed: llada-uni[dev]"
)
SECONDS = 60.0
EXAMPLES = 100


@pytest.mark.slow
@needs_schemathesis
def test_requests_made_from_the_schema_never_meet_a_fault(model: LladaUni, photo_uri: str) -> None:
    import schemathesis
    from schemathesis import GenerationMode

    said = {"prompt": "a cat", "model": "tiny", "num_steps": 2}
    core: dict[str, dict[str, Any]] = {
        "POST /v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}], "model": "tiny"},
        "POST /v1/images/generations": said,
        "POST /v1/images/edits": {name: str(value) for name, value in said.items()} | {"image": photo_uri},
    }
    limits = Limits(max_pixels=1_000_000, max_side=128)
    counts: Counter[tuple[str, int]] = Counter()
    with Live(model, ServerSettings(names=("tiny",), limits=limits), EngineSettings(deadline_s=5.0)) as live:
        schema = schemathesis.openapi.from_url(f"{live.url}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        assert len(operations) >= 7
        tried = [(operation, GenerationMode.POSITIVE) for operation in operations]
        tried += [(operation, GenerationMode.NEGATIVE) for operation in operations if operation.body]
        end = time.monotonic()
        for operation, mode in tried:
            end += SECONDS / len(tried)
            _try(live, operation.as_strategy(generation_mode=mode), end, core, counts)
        live.idle()
        assert httpx.get(f"{live.url}/health", timeout=60).status_code == 200
    assert {label for label, _ in counts} == {operation.label for operation in operations}, counts
    assert all(counts[label, 200] and counts[label, 400] for label in core), counts


def _try(
    live: Live, cases: st.SearchStrategy, end: float, core: dict[str, dict[str, Any]], counts: Counter[tuple[str, int]]
) -> None:
    """Send requests until the time is over; a deadline of a request that asks for much is no fault.

    What a made-up request hardly ever has, a conversation or a picture, comes from ``core`` in every second one.
    """

    @seed(0)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases, repair=st.booleans())
    def one(case: Any, repair: bool) -> None:
        if time.monotonic() >= end:
            return
        label = case.operation.label
        if repair and label in core and isinstance(case.body, dict):
            case.body = case.body | core[label]
        reply = case.call(base_url=live.url, timeout=60)
        counts[label, reply.status_code] += 1
        assert reply.status_code < 500 or reply.status_code == 504, (reply.status_code, reply.text, case)

    one()
