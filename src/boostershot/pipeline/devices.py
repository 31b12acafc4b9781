"""Devices that a plan can be made for: data with sources in devices.yaml; this machine's processor is measured."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from boostershot.errors import InputError, choices

GIB = 2**30
TABLE = Path(__file__).with_name("devices.yaml")


@dataclass(frozen=True)
class Device:
    """One device.

    Args:
        name: in the table.
        memory: bytes.
        float32, bfloat16: dense matrix products, in operations a second.
        bandwidth: of its memory, in bytes a second.
        link: to its neighbours, one direction, in bytes a second.
        efficiency: the share of the operations that a training reaches.
        source: of the figures.
    """

    name: str
    memory: float
    float32: float
    bfloat16: float
    bandwidth: float
    link: float
    efficiency: float
    source: str


@cache
def device(name: str) -> Device:
    """The device of this name.

    Raises:
        InputError: there is none.
    """
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    if name not in table:
        raise InputError(f"--device {name}: no such device; {choices(name, table)}")
    row = table[name]
    here = None
    if row["float32"] is None:
        from boostershot.pipeline.estimate import multiply_speed

        here = multiply_speed()
    memory = row["memory"] * GIB if row["memory"] else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Device(
        name,
        memory,
        here or row["float32"] * 1e12,
        here or row["bfloat16"] * 1e12,
        row["bandwidth"] * 1e9,
        row["link"] * 1e9,
        row["efficiency"],
        row["source"],
    )
