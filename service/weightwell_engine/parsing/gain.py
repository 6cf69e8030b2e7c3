"""Questions for gains."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from weightwell_engine.exceptions import InvalidSpec
from weightwell_engine.parsing.models import Model, validate


class GainQuery(Model):
    """The parameters of ``/gain``."""

    nonlinearity: Annotated[
        str | None, Field(description="the nonlinearity; without it, the answer is the whole table", examples=["relu"])
    ] = None
    param: Annotated[
        float | None, Field(description="the parameter of the nonlinearity, such as the negative slope of leaky_relu")
    ] = None
    source: Annotated[
        Literal["torch", "quadrature"],
        Field(description="torch: the value that torch recommends; quadrature: computed for a normal input"),
    ] = "torch"
    bias_variance: Annotated[
        float | None,
        Field(ge=0, le=1e6, description="with quadrature: the bias variance of the edge of chaos"),
    ] = None


def read_gain(fields: Mapping[str, object], *, strings: bool = False) -> GainQuery:
    """Return the question in some fields, which are text if ``strings``; raise ``InvalidSpec`` or ``InvalidSpecs``."""
    query = validate(GainQuery, fields, strings=strings)
    if query.nonlinearity is None and query.param is not None:
        raise InvalidSpec("param", got=query.param, expected="given together with its nonlinearity")
    if query.bias_variance is not None and (query.nonlinearity is None or query.source != "quadrature"):
        expected = "given together with a nonlinearity and source=quadrature"
        raise InvalidSpec("bias_variance", got=query.bias_variance, expected=expected)
    return query
