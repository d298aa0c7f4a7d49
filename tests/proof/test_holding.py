"""What a harness finds in a damaged file: a payload that cannot be read is damage, in whatever form it stands."""

from __future__ import annotations

import zlib

import pytest
from proof.holding import _label

PACKED = b"\x01" + zlib.compress(b'{"label": "order-1"}')


@pytest.mark.parametrize("value", ['{"label": "order-1"}', PACKED])
def test_a_label_is_read_from_text_and_from_what_was_compressed(value: str | bytes) -> None:
    assert _label(value) == "order-1"


@pytest.mark.parametrize("value", ['{"label', PACKED[:9], b"\x01\x00\x00", PACKED[:3] + b"\xff" + PACKED[4:]])
def test_a_damaged_payload_is_a_wrong_value(value: str | bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        _label(value)
