"""The schemes: their names, and the defaults of their parameters in the metadata of a file."""

from collections.abc import Mapping

Default = float | int | str | bool | None  # None: the metadata does not have the parameter

_AXES: Mapping[str, Default] = {"layout": None, "in_axis": None, "out_axis": None, "batch_axis": None}
_FANS: Mapping[str, Default] = {"fan_in": None, "fan_out": None, "groups": 1, "transposed": False, **_AXES}
_XAVIER: Mapping[str, Default] = {"gain": 1.0, "nonlinearity": None, "gain_source": None, **_FANS}
_KAIMING: Mapping[str, Default] = {
    "a": 0.0,
    "mode": "fan_in",
    "nonlinearity": "leaky_relu",
    "gain_source": None,
    **_FANS,
}

DEFAULTS: Mapping[str, Mapping[str, Default]] = {
    "constant": {},
    "ones": {},
    "zeros": {},
    "eye": {},
    "identity": {"gain": 1.0},
    "dirac": {"groups": 1},
    "values": {"dims": None},
    "uniform": {"a": 0.0, "b": 1.0},
    "normal": {"mean": 0.0, "std": 1.0},
    "trunc_normal": {"mean": 0.0, "std": 1.0, "a": -2.0, "b": 2.0},
    "truncated_normal": {"mean": 0.0, "std": 1.0, "lower": -2.0, "upper": 2.0},
    "clamped_normal": {"mean": 0.0, "std": 1.0, "a": -2.0, "b": 2.0},
    "randint": {"low": 0},
    "power_of_two": {},
    "xavier_uniform": _XAVIER,
    "xavier_normal": _XAVIER,
    "kaiming_uniform": _KAIMING,
    "kaiming_normal": _KAIMING,
    "variance_scaling": {"scale": 1.0, "mode": "fan_in", "distribution": "truncated_normal", **_FANS},
    "lecun_uniform": _FANS,
    "lecun_normal": _FANS,
    "orthogonal": {"gain": 1.0, **_AXES},
    "delta_orthogonal": {"gain": 1.0, **_AXES},
    "sparse": {"std": 0.01},
}

# Every name and alias of a scheme, with the name that the metadata of a file uses.
SCHEMES: dict[str, str] = {name: name for name in DEFAULTS} | {
    "glorot_uniform": "xavier_uniform",
    "glorot_normal": "xavier_normal",
    "he_uniform": "kaiming_uniform",
    "he_normal": "kaiming_normal",
}
