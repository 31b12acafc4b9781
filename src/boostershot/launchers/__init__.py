"""Configurations for `accelerate launch` that come with the program."""

from boostershot.shipped import Shipped

_shipped = Shipped(__name__)
names, text, description = _shipped.names, _shipped.text, _shipped.description
