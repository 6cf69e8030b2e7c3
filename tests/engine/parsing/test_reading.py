import asyncio
import json
import math
from collections.abc import Callable
from time import process_time
from typing import Annotated, Any, get_args, get_origin

import pytest
from fastapi import FastAPI, Request
from hypothesis import given
from hypothesis import strategies as st

from weightwell_engine.dtypes import DTYPES
from weightwell_engine.exceptions import InvalidSpec, InvalidSpecs, MalformedDocument, TooLarge, WeightwellError
from weightwell_engine.nonlinearities import NONLINEARITIES
from weightwell_engine.parsing import MAX_DIMENSIONS, MAX_NAME, MAX_SEED, MAX_SIZE, MAX_VALUES, read_document
from weightwell_engine.plan import make_plan
from weightwell_engine.schemes import ALIASES, SCHEMES, AxisList, SchemeParameter
from weightwell_engine.spec import GENERATORS, Spec
from weightwell_service import problems
from weightwell_service.queries import MAX_FIELDS, read_gain_query, read_query, split_query

Fields = dict[str, Any]

ONES = {"shape": [2, 3], "scheme": "ones"}
FIELDS = sorted(
    {
        "shape",
        "dtype",
        "seed",
        "slice",
        "name",
        "generator",
        "tensors",
        "rules",
        "preset",
        *(p.name for s in SCHEMES.values() for p in s.parameters),
    }
)


def body(fields: object) -> bytes:
    return json.dumps(fields).encode()


def text(value: object) -> str:
    """Write a value of JSON as a query string does."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def errors(read: Any, *arguments: object) -> dict[str, InvalidSpec]:
    """Return the errors of a request, by field."""
    with pytest.raises((InvalidSpec, InvalidSpecs)) as caught:
        read(*arguments)
    return {error.field: error for error in caught.value.errors}  # type: ignore[attr-defined]


_FINITE = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)


def values(parameter: SchemeParameter) -> st.SearchStrategy[Any]:
    """Return a strategy for the values of a parameter, from its annotation."""
    if parameter.name == "nonlinearity":
        return st.sampled_from(sorted(NONLINEARITIES))
    if parameter.annotation == AxisList:
        return st.integers(-3, 3) | st.lists(st.integers(-3, 3), unique=True, max_size=3)
    if parameter.name in {"values", "dims"}:
        return st.lists(st.integers(0, 9) if parameter.name == "dims" else _FINITE, min_size=1, max_size=4)
    allowed = parameter.annotation
    if get_origin(allowed) is Annotated:
        kind, *constraints = get_args(allowed)
        allowed = Annotated[int if kind == int | None else kind, *constraints]
    return st.from_type(allowed).filter(lambda value: not isinstance(value, float) or math.isfinite(value))


def some(parameter: SchemeParameter) -> object:
    """Return a value of a parameter that has no default."""
    return [0.5] if parameter.name == "values" else 1 if parameter.name in {"low", "high"} else 0.5


@st.composite
def requests(draw: st.DrawFn) -> Fields:
    """Draw a request for one tensor that is right field by field, of any scheme of the registry."""
    alias = draw(st.sampled_from(sorted(ALIASES)))
    parameters = SCHEMES[ALIASES[alias]].parameters
    optional: Fields = {
        "dtype": st.sampled_from(list(DTYPES)),
        "seed": st.integers(0, MAX_SEED),
        "name": st.text(st.characters(codec="utf-8"), min_size=1, max_size=9).filter(
            lambda name: name != "__metadata__"
        ),
        "generator": st.sampled_from(GENERATORS),
    }
    named = {p.name: values(p) for p in parameters}
    required = {p.name: named.pop(p.name) for p in parameters if p.default is ...}
    shape = st.lists(st.integers(0, 9), max_size=5)
    fields = draw(st.fixed_dictionaries({"shape": shape, **required}, optional=optional | named))
    return {"scheme": alias, **{key: value for key, value in fields.items() if value is not None}}


# The same spec by both ways in ---------------------------------------------------------------------------------------


@given(requests())
def test_a_query_and_a_body_with_the_same_fields_are_the_same_spec(fields: Fields) -> None:
    assert read_query([(key, text(value)) for key, value in fields.items()]) == read_document(body(fields))


@given(requests())
def test_the_canonical_text_of_a_spec_is_the_spec(fields: Fields) -> None:
    spec = read_document(body(fields))
    again = read_document(spec.canonical().encode())
    assert again == spec
    assert again.canonical() == spec.canonical()


@given(requests(), st.randoms())
def test_the_order_of_the_fields_means_nothing(fields: Fields, random: Any) -> None:
    items = list(fields.items())
    random.shuffle(items)
    assert read_document(body(dict(items))).canonical() == read_document(body(fields)).canonical()


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_the_scheme_itself(alias: str) -> None:
    name = ALIASES[alias]
    required = {p.name: some(p) for p in SCHEMES[name].parameters if p.default is ...}
    spec = {"shape": [4, 4, 4], **required}
    assert read_document(body({**spec, "scheme": alias})) == read_document(body({**spec, "scheme": name}))


@pytest.mark.parametrize("name", SCHEMES)
def test_defaults_may_be_spelled_out(name: str) -> None:
    parameters = SCHEMES[name].parameters
    fields = {"shape": [4, 4], "scheme": name, **{p.name: some(p) for p in parameters if p.default is ...}}
    spelled = {"dtype": "float32", "seed": 0, "name": "weight", "generator": GENERATORS[0], "slice": ":,0:4"}
    spelled |= {p.name: p.default for p in parameters if p.default is not ...}
    assert read_document(body(fields | spelled)).canonical() == read_document(body(fields)).canonical()


def test_an_integer_is_the_number_that_it_equals() -> None:
    assert read_document(body({**ONES, "scheme": "constant", "val": 1})) == read_query(
        [("shape", "2,3"), ("scheme", "constant"), ("val", "1.0")]
    )


@pytest.mark.parametrize("mode", ["FAN_OUT", "Fan_Out", "fan_out"])
def test_a_mode_may_be_written_in_capitals_as_in_torch(mode: str) -> None:
    spec = read_document(body({**ONES, "scheme": "he_normal", "mode": mode}))
    assert spec.tensors[0].parameters["mode"] == "fan_out"


def test_null_is_the_same_as_absent_where_a_field_can_be_absent() -> None:
    nothing = {"dtype": None, "seed": None, "slice": None, "fan_in": None, "fan_out": None}
    xavier = {**ONES, "scheme": "xavier_normal"}
    assert read_document(body({**xavier, **nothing})) == read_document(body(xavier))


@pytest.mark.parametrize(("query", "shape"), [("", ()), ("3", (3,)), ("3,5", (3, 5)), (" 3 , 5", (3, 5)), ("0", (0,))])
def test_a_shape_is_sizes_between_commas_and_nothing_for_a_scalar(query: str, shape: tuple[int, ...]) -> None:
    assert read_query([("shape", query), ("scheme", "ones")]).tensors[0].shape == shape


@pytest.mark.parametrize(
    ("said", "query", "axes"),
    [(0, "0", (0,)), ([0], "0", (0,)), ([2, 1], "2,1", (1, 2)), ([-1, -2], " -1, -2", (-2, -1)), ([], "", ())],
)
@pytest.mark.parametrize("field", ["in_axis", "out_axis"])
def test_axes_are_one_or_a_list_in_any_order(field: str, said: object, query: str, axes: tuple[int, ...]) -> None:
    specs = [
        read_document(body({"shape": [2, 3, 4], "scheme": "he_normal", field: said})),
        read_query([("shape", "2,3,4"), ("scheme", "he_normal"), (field, query)]),
    ]
    assert specs[0] == specs[1]
    assert specs[0].tensors[0].parameters[field] == axes


@pytest.mark.parametrize("name", [name for name, scheme in SCHEMES.items() if scheme.needs in ("fans", "axes")])
def test_a_spec_without_axes_is_written_as_it_was_before_there_were_any(name: str) -> None:
    said: Fields = {"layout": "torch", "in_axis": None, "out_axis": None, "batch_axis": []}
    plain = {"shape": [4, 4, 4], "scheme": name}
    canonical = json.loads(read_document(body({**plain, **said})).canonical())["tensors"]["weight"]
    assert not said.keys() & canonical.keys()
    assert read_document(body({**plain, **said})) == read_document(body(plain))


@pytest.mark.parametrize("seed", [0, 2**53 - 1, 2**53, 2**53 + 1, MAX_SEED])
def test_a_seed_is_a_number_or_its_decimal_digits(seed: int) -> None:
    specs = [read_document(body({**ONES, "seed": given})) for given in (seed, str(seed))]
    assert specs[0].tensors[0].seed == seed
    assert specs[0] == specs[1]


@pytest.mark.parametrize(
    ("given_slice", "bounds"),
    [
        ("0:1,1:3", ((0, 1), (1, 3))),
        (":1", ((0, 1), (0, 3))),
        ("1:", ((1, 2), (0, 3))),
        (" : , 2 : 2 ", ((0, 2), (2, 2))),
        (":", None),
        (":,:", None),
        ("0:2,0:3", None),
    ],
)
def test_a_slice_is_a_start_and_a_stop_in_every_dimension(given_slice: str, bounds: object) -> None:
    assert read_document(body({**ONES, "slice": given_slice})).tensors[0].slice == bounds


# Manifests -----------------------------------------------------------------------------------------------------------


def test_what_a_manifest_says_holds_for_tensors_that_say_nothing_else() -> None:
    tensors = {"a": ONES, "b": {**ONES, "dtype": "float16", "seed": 7}}
    first, second = read_document(body({"dtype": "float64", "seed": "5", "tensors": tensors})).tensors
    assert (first.name, first.dtype, first.seed) == ("a", "float64", 5)
    assert (second.name, second.dtype, second.seed) == ("b", "float16", 7)


@given(st.permutations(["b", "a", "é", "\U0001d6fc", "B"]))
def test_the_tensors_of_a_manifest_stay_in_their_order(names: list[str]) -> None:
    spec = read_document(body({"tensors": dict.fromkeys(names, ONES)}))
    assert [tensor.name for tensor in spec.tensors] == names


def test_all_errors_of_a_manifest_are_listed_with_their_paths() -> None:
    tensors = {"a": {"shape": [-1], "scheme": "ones"}, "b": 5, "c": {**ONES, "std": 1, "seed": -1}, "d": ONES, "": ONES}
    found = errors(read_document, body({"tensors": tensors}))
    assert set(found) == {"tensors.a.shape", "tensors.b.spec", "tensors.c.std", "tensors.c.seed", "tensors..name"}


@pytest.mark.parametrize("tensors", [[], None, 5, "a", True])
def test_the_tensors_of_a_manifest_are_an_object(tensors: object) -> None:
    found = errors(read_document, body({"tensors": tensors}))
    assert list(found) == ["tensors"]
    assert "tensors must be an object" in found["tensors"].detail


def test_a_manifest_says_nothing_that_only_a_tensor_can_say() -> None:
    assert list(errors(read_document, body({"tensors": {}, "shape": [3], "name": "w"}))) == ["shape", "name"]


# Refusals, by both ways in -------------------------------------------------------------------------------------------

# By scheme and field, values that the field cannot have in a body.
REFUSED: dict[tuple[str, str], list[Any]] = {
    ("ones", "shape"): [
        *(None, 0, 3, True, False, {}, {"0": 1}, "x", "1,,2", "-1", ",", " ", "1.0", [1] * (MAX_DIMENSIONS + 1)),
        *([-1], [1.0], [True], [None], ["x"], ["-1"], [[1]], [math.inf], [MAX_SIZE + 1], [10**400], ["1" * 21]),
    ],
    ("ones", "seed"): [
        *(
            -1,
            MAX_SEED + 1,
            1.0,
            math.inf,
            True,
            [1],
            "x",
            "",
            "-1",
            "+1",
            " 1",
            "1_0",
            "\u0661",
            "0x1",
            str(MAX_SEED + 1),
        ),
    ],
    ("ones", "dtype"): ["float", "FLOAT32", "f32", "int4", "I32", 5, "", [], "x" * 10**6],
    ("ones", "scheme"): [None, "", "Ones", "ones_", "rand", 5, [], {}, True, "\ud800"],
    ("ones", "name"): ["", "__metadata__", "\ud800", "a\udfffb", "x" * (MAX_NAME + 1), 5, None, ["w"]],
    ("ones", "slice"): ["", "0", "0:1:1", "-1:", "a:b", ":,:,:", "0:1,", 5, [[0, 1]], "0:" + "9" * 21],
    ("ones", "generator"): [None, "", "numpy", "TORCH", 5],
    **{("ones", name): [1] for name in ("val", "std", "gain", "fan_in", "groups", "portable", "shapes", "Seed")},
    ("constant", "val"): [None, math.inf, -math.inf, True, "x", "1", [], 10**400],
    ("values", "values"): [
        *(None, 1, True, {}, [], "", "1,,2", "x", "0x1", "nan", "1_0", [True], [None], [[1]], [math.inf], ["inf"]),
        *([10**400], [2**53 + 1], ["1e999"], [0] * (MAX_VALUES + 1), ["9" * 500]),
    ],
    ("values", "dims"): [0, True, [-1], [1.0], "x", [None], [1] * (MAX_DIMENSIONS + 1)],
    ("randint", "low"): [0.5, 1.5, True, None, "x", [], 2**53 + 1, -(2**53) - 1],
    ("randint", "high"): [0.5, True, None, "x", [], 2**53 + 1, 10**400],
    ("power_of_two", "low"): [0.5, True, None, -1023],
    ("power_of_two", "high"): [0.5, True, None, 1025],
    ("normal", "std"): [-1, -5e-324, math.inf, True, None],
    ("sparse", "sparsity"): [-0.1, 1.0000000000000002, None],
    ("variance_scaling", "scale"): [0, -1],
    ("variance_scaling", "distribution"): ["cauchy", None],
    ("dirac", "groups"): [0, -1, 1.5, None, True],
    ("lecun_normal", "fan_in"): [0, -1, 1.5, True, 2**63, 10**400],
    ("he_normal", "mode"): ["fan_avg", "", None, 5, []],
    ("he_normal", "transposed"): [None, 2, "x", []],
    ("he_normal", "layout"): [None, "keras", "TORCH", "", 0, []],
    ("he_normal", "in_axis"): [
        True,
        0.0,
        "x",
        "0,",
        ",",
        "0;1",
        "+0",
        [0, 0],
        [0, None],
        [True],
        [[0]],
        {},
        64,
        -65,
        "1" * 9,
    ],
    ("orthogonal", "batch_axis"): [False, 1.5, "a", [0.0], ["x"], [-1, -1], list(range(65))],
}


@pytest.mark.parametrize(("scheme", "field"), REFUSED)
def test_a_body_with_a_value_that_cannot_be_is_refused_by_its_field(scheme: str, field: str) -> None:
    for value in REFUSED[scheme, field]:
        fields = json.dumps({"shape": [2, 3], "scheme": scheme, field: value}).replace("Infinity", "1e999")
        error = errors(read_document, fields.encode())[field]
        assert error.expected
        assert len(error.detail) < 1000


def test_a_misspelt_scheme_gets_a_suggestion_and_no_list() -> None:
    detail = errors(read_document, body({"shape": [3], "scheme": "kaiming_norml"}))["scheme"].detail
    assert detail == "there is no scheme 'kaiming_norml'; did you mean kaiming_normal? /schemes lists them"


def test_a_scheme_that_is_not_said_is_missing() -> None:
    assert errors(read_document, body({"shape": [3]}))["scheme"].detail == "scheme is missing; /schemes lists them"


# By field, text that the field of a glorot_normal cannot have in a query.
REFUSED_IN_A_QUERY = {
    "shape": ["x", "1,,2", "-1", ",", " ", "1.0", "true", "[2,3]", "1" * 21, "1," * 64 + "1", "2;3", "\u0663"],
    "seed": ["", "-1", "1.0", "true", " 1", "1_0", "\u0663", str(MAX_SEED + 1), "null"],
    "slice": ["", "0", "-1:", "0:1:1", "a:b"],
    "gain": ["", "x", "nan", "inf", "-inf", "1e999", "-1", "true", "1,0", "0x1p3", "null"],
    "fan_in": ["", "0", "1.5", "1e3", "nan", "9" * 400, "9" * 5000, "null"],
    "transposed": ["", "2", "null"],
    "layout": ["", "keras", "Torch"],
    "in_axis": ["x", "0,", "0 1", "[0,1]", "0,0", "1.0", "64", "null", "\u0663"],
    "name": ["", "__metadata__", "x" * (MAX_NAME + 1)],
    **{name: ["1"] for name in ("val", "a", "std", "tensors", "Gain")},
}


@pytest.mark.parametrize("field", REFUSED_IN_A_QUERY)
def test_a_query_with_a_value_that_cannot_be_is_refused_by_its_field(field: str) -> None:
    for value in REFUSED_IN_A_QUERY[field]:
        fields = {"shape": "2,3", "scheme": "glorot_normal", field: value}
        error = errors(read_query, fields.items())[field]
        assert error.expected
        assert error.got == value
        assert len(error.detail) < 1000


@pytest.mark.parametrize("missing", ["shape", "scheme"])
def test_shape_and_scheme_have_no_default(missing: str) -> None:
    fields = {key: value for key, value in ONES.items() if key != missing}
    assert list(errors(read_document, body(fields))) == [missing]
    assert list(errors(read_query, [(key, text(value)) for key, value in fields.items()])) == [missing]


@pytest.mark.parametrize("name", [name for name, s in SCHEMES.items() if any(p.default is ... for p in s.parameters)])
def test_a_parameter_without_a_default_has_to_be_given(name: str) -> None:
    required = [p.name for p in SCHEMES[name].parameters if p.default is ...]
    assert list(errors(read_document, body({"shape": [2, 3], "scheme": name}))) == required


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scheme_takes_no_parameter_of_another(name: str) -> None:
    own = {parameter.name for parameter in SCHEMES[name].parameters}
    others = {
        parameter.name: parameter for s in SCHEMES.values() for parameter in s.parameters if parameter.name not in own
    }
    required = {p.name: some(p) for p in SCHEMES[name].parameters if p.default is ...}
    for key, parameter in others.items():
        foreign = {key: 1 if parameter.default in (..., None) else parameter.default}
        assert list(errors(read_document, body({"shape": [2, 3], "scheme": name, **required, **foreign}))) == [key]


@pytest.mark.parametrize("read", [read_query, read_gain_query])
def test_a_field_given_twice_in_a_query_is_refused(read: Any) -> None:
    error = errors(read, [("seed", "1"), ("scheme", "ones"), ("seed", "1")])["seed"]
    assert error.detail == "seed is given twice"


def test_a_query_is_split_as_a_form_is_and_keeps_its_order() -> None:
    assert split_query(b"b=1+2&a=%E2%82%AC&&b=&c") == [("b", "1 2"), ("a", "\u20ac"), ("b", ""), ("c", "")]


def test_a_query_of_too_many_fields_is_refused_before_it_is_validated() -> None:
    assert len(split_query(b"&".join([b"x=1"] * MAX_FIELDS))) == MAX_FIELDS
    error = errors(split_query, b"&".join([b"x=1"] * (MAX_FIELDS + 1)))["query"]
    assert error.got == MAX_FIELDS + 1


# Bodies that cannot be read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Expecting value"),
        (b"shape=2,3&scheme=ones", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'{"shape":[2],"scheme":"ones"}}', "Extra data"),
        (b"[]", "an array"),
        (b'"x"', "a string"),
        (b"null", "null"),
        (b"true", "a boolean"),
        (b"5", "a number"),
        (b"1.5", "a number"),
        (b"NaN", "NaN"),
        (b'{"shape":[2],"scheme":"constant","val":NaN}', "NaN"),
        (b'{"shape":[2],"scheme":"constant","val":-Infinity}', "-Infinity"),
        (b'{"shape":[2],"shape":[3],"scheme":"ones"}', "'shape' twice"),
        (b'{"tensors":{"a":{"shape":[2],"scheme":"ones","seed":1,"seed":1}}}', "'seed' twice"),
        (b'{"tensors":{"a":{},"a":{}}}', "'a' twice"),
        (b'{"shape":[2],"scheme":"ones","name":"\xff"}', "utf-8"),
        (b'{"shape":[2],"scheme":"ones","name":"\xed\xa0\x80"}', "utf-8"),
        (json.dumps(ONES).encode("utf-16"), "utf-8"),
        (b"[" * 100_000, "recursion"),
        (b'{"a":' * 100_000, "recursion"),
        (b'{"shape":[' + b"9" * 5000 + b'],"scheme":"ones"}', "4300 digits"),
    ],
)
def test_a_body_that_is_no_json_object_is_malformed(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedDocument) as caught:
        read_document(data)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_byte_order_mark_is_no_obstacle() -> None:
    assert read_document(b"\xef\xbb\xbf" + body(ONES)) == read_document(body(ONES))


@pytest.mark.parametrize("blanks", [" " * 50_000, ":" + " " * 50_000 + "x", ":," * 50_000])
def test_a_slice_is_refused_in_a_time_that_is_linear_in_its_length(blanks: str) -> None:
    start = process_time()
    assert list(errors(read_query, [("shape", "3"), ("scheme", "ones"), ("slice", blanks)])) == ["slice"]
    assert process_time() - start < 0.5  # not the 17 s that it takes to try every way to part the blanks


@pytest.mark.parametrize("part", ["[]", "{}"])
def test_a_body_of_too_many_parts_is_not_parsed(part: str) -> None:
    with pytest.raises(TooLarge, match="holds more than 131072 objects or lists; split the manifest"):
        read_document(f'{{"tensors":{{"w":[{",".join([part] * 2**18)}]}}'.encode())  # and it does not end


def test_a_repeated_key_among_very_many_is_found_at_once() -> None:
    keys = ",".join(f'"{i}":0' for i in range(200_000))
    with pytest.raises(MalformedDocument, match="'199999' twice"):
        read_document(f'{{{keys},"199999":0}}'.encode())


# Whatever comes ------------------------------------------------------------------------------------------------------

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(sorted(ALIASES))
)
trees = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3))
junk = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=3), trees, max_size=5)


@pytest.fixture(scope="module")
def handlers() -> Any:
    app = FastAPI()
    problems.install(app)
    return app.exception_handlers


def rendered(handlers: Any, error: WeightwellError) -> Fields:
    """Return the problem body for an error, as a client reads it."""
    response = asyncio.run(handlers[type(error)](Request({"type": "http"}), error))
    problem = json.loads(response.body, parse_constant=pytest.fail)
    assert isinstance(problem, dict)
    return problem


def refusal(handlers: Any, read: Callable[[], Spec]) -> Fields:
    """Return the problem body for a request whose fields cannot be, and nothing for one that can be planned."""
    try:
        make_plan(read(), "any generator", portable=False, max_bytes=2**70)
    except (InvalidSpec, InvalidSpecs) as error:
        return rendered(handlers, error)
    return {}


@given(
    st.sampled_from([{}, ONES, {**ONES, "scheme": "he_normal"}, {**ONES, "scheme": "sparse"}, {"tensors": {}}]), junk
)
def test_any_json_object_is_a_spec_or_an_error_that_names_its_field(handlers: Any, base: Fields, extra: Fields) -> None:
    data = json.dumps(base | extra).replace("NaN", "1e999").replace("Infinity", "1e999").encode()
    problem = refusal(handlers, lambda: read_document(data))
    assert all(set(each) - {"hint"} == {"field", "got", "expected", "detail"} for each in problem.get("errors", []))
    assert not problem or problem["errors"]


@given(requests(), st.dictionaries(st.sampled_from(FIELDS), st.text(max_size=9), max_size=2))
def test_any_query_is_a_spec_or_an_error_that_names_its_field(
    handlers: Any, fields: Fields, extra: dict[str, str]
) -> None:
    problem = refusal(handlers, lambda: read_query([(key, text(value)) for key, value in (fields | extra).items()]))
    assert not problem or problem["errors"]


@given(st.binary())
def test_any_bytes_are_a_spec_or_an_error(data: bytes) -> None:
    with pytest.raises((MalformedDocument, InvalidSpec, InvalidSpecs)):
        read_document(data)


@pytest.mark.parametrize("depth", [10, 100, 500, 900, 950, 990])
@pytest.mark.parametrize(
    "pattern", ['{"scheme":"ones","shape":%s}', '{"tensors":{"w":%s}}', '{"scheme":%s}', '{"tensors":%s}']
)
def test_a_deeply_nested_value_is_refused_in_a_few_words(handlers: Any, pattern: str, depth: int) -> None:
    with pytest.raises(WeightwellError) as caught:
        read_document((pattern % ("[" * depth + "]" * depth)).encode())
    assert len(json.dumps(rendered(handlers, caught.value))) < 3000


@pytest.mark.parametrize(
    "value", ["x" * 10**6, "9" * 4000, [1] * 10**5, {"a": "x" * 10**6}, "\ud800" * 10**5], ids=range(5)
)
@pytest.mark.parametrize("field", ["shape", "dtype", "scheme", "seed", "slice", "name", "surplus"])
def test_an_error_does_not_send_back_all_that_it_was_sent(handlers: Any, field: str, value: object) -> None:
    with pytest.raises((InvalidSpec, InvalidSpecs)) as caught:
        read_document(body({**ONES, field: value}))
    assert len(json.dumps(rendered(handlers, caught.value))) < 5000


LONG = "x" * 10**6


@pytest.mark.parametrize(
    "text",
    [
        body({"tensors": {LONG: ONES}}),
        body({"tensors": {"w": {**ONES, LONG: 1}}}),
        body({"tensors": {}, LONG: 1}),
        body({"tensors": {}, "preset": {"name": "torch", LONG: 1}}),
        body({"shape": [2, 3], "scheme": "he_normal", "nonlinearity": LONG}),
        f'{{"{LONG}":1,"{LONG}":1}}'.encode(),
    ],
    ids=range(6),
)
def test_an_error_does_not_send_back_a_name_of_any_length(handlers: Any, text: bytes) -> None:
    with pytest.raises(WeightwellError) as caught:
        make_plan(read_document(text), "any generator", portable=True, max_bytes=2**70)
    assert len(json.dumps(rendered(handlers, caught.value))) < 10_000
