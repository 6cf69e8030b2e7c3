"""The statistics of a tensor are those of numpy, and agree with what its law says."""

from math import prod

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from weightwell_engine import inspection
from weightwell_engine.dtypes import DTYPES
from weightwell_engine.engine import Engine
from weightwell_engine.exceptions import InvalidSpec, TooLarge
from weightwell_engine.generators import DrawingStopped
from weightwell_engine.generators.devices import Cpu
from weightwell_engine.inspection import Inspection
from weightwell_engine.parsing import read_document, read_text_fields
from weightwell_engine.schemes import SCHEMES
from weightwell_engine.spec import Spec
from weightwell_engine.virtual_file import VirtualFile

ENGINE = Engine(Cpu(), threads=1)

# Required parameters, and others that make a law interesting.
PARAMETERS = {
    "constant": {"val": "0.1"},
    "trunc_normal": {"std": "0.02", "a": "-0.01", "b": "0.04"},
    "clamped_normal": {"std": "0.5", "a": "-0.4", "b": "1"},
    "sparse": {"sparsity": "0.3"},
    "randint": {"low": "-3", "high": "9", "dtype": "int8"},
    "power_of_two": {"low": "-3", "high": "4"},
    "values": {"values": "1,2,4,-3", "dims": "4"},
}
SHAPES = {"dirac": "24,16,3", "delta_orthogonal": "24,16,3", "values": "60,4"}


def opened(**fields: str) -> tuple[Spec, VirtualFile]:
    spec = read_text_fields(fields)
    return spec, ENGINE.open(ENGINE.plan(spec))


def result(spec: Spec, file: VirtualFile) -> Inspection:
    steps = ENGINE.inspect(spec, file)
    try:
        while True:
            next(steps)
    except StopIteration as end:
        inspected: Inspection = end.value
        return inspected


def inspected(**fields: str) -> Inspection:
    return result(*opened(**fields))


def numbers(**fields: str) -> NDArray[np.float64]:
    """The elements of a tensor, which has the dtype float32."""
    _, file = opened(**fields)
    (tensor,) = file.plan.tensors
    data = file.read(len(file.plan.header), file.nbytes)
    return np.frombuffer(data, "<f4").astype(np.float64).reshape(tensor.region.extent)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_law_of_every_scheme_says_how_its_elements_are_distributed(scheme: str) -> None:
    shape = SHAPES.get(scheme, "120,90")
    found = inspected(shape=shape, scheme=scheme, seed="1", **PARAMETERS.get(scheme, {}))
    for moment in (found.moments.mean, found.moments.std, found.moments.skewness, found.moments.kurtosis):
        if moment.standard_error and moment.theory is not None and moment.measured is not None:
            assert abs(moment.measured - moment.theory) < 5 * moment.standard_error
        elif moment.theory is not None:
            assert moment.measured == pytest.approx(moment.theory, rel=1e-6)
    assert found.histogram.expected is not None
    counts, expected = np.array(found.histogram.counts), np.array(found.histogram.expected)
    assert counts.sum() == found.count == prod(map(int, shape.split(",")))
    assert expected.sum() == pytest.approx(found.count, rel=3e-3)
    many = expected > 5
    chi2 = ((counts - expected)[many] ** 2 / expected[many]).sum()
    assert chi2 < stats.chi2.ppf(1 - 1e-6, max(int(many.sum()), 1))


@pytest.mark.parametrize("dtype", [name for name, each in DTYPES.items() if each.is_real])
@pytest.mark.parametrize("scheme", ["kaiming_uniform", "kaiming_normal"])
def test_the_expected_counts_are_those_of_the_rounded_law(scheme: str, dtype: str) -> None:
    found = inspected(shape="200,300", scheme=scheme, dtype=dtype)
    assert found.histogram.expected is not None
    counts, expected = np.array(found.histogram.counts), np.array(found.histogram.expected)
    many = expected > 5
    chi2 = ((counts - expected)[many] ** 2 / expected[many]).sum()
    assert chi2 < stats.chi2.ppf(1 - 1e-6, many.sum())


def test_the_statistics_are_those_of_numpy() -> None:
    fields = {"shape": "301,257", "scheme": "trunc_normal", **PARAMETERS["trunc_normal"]}
    found, values = inspected(**fields), numbers(**fields)
    flat = values.ravel()
    assert (found.smallest, found.largest, found.zeros) == (flat.min(), flat.max(), int((flat == 0).sum()))
    measured = [
        each.measured
        for each in (found.moments.mean, found.moments.std, found.moments.skewness, found.moments.kurtosis)
    ]
    theirs = [flat.mean(), flat.std(), stats.skew(flat), stats.kurtosis(flat, fisher=False)]
    assert measured == pytest.approx(theirs, rel=1e-9)
    counts, _ = np.histogram(flat, found.histogram.edges)
    assert tuple(counts) == found.histogram.counts
    quantiles = np.quantile(flat, found.quantiles.probabilities)
    assert np.allclose([each or 0.0 for each in found.quantiles.values], quantiles, atol=1e-5)


def test_the_standard_errors_are_the_spread_over_seeds() -> None:
    runs = [inspected(shape="2000", scheme="trunc_normal", seed=str(s), a="-1", b="3").moments for s in range(60)]
    for name in ("mean", "std", "skewness", "kurtosis"):
        moments = [getattr(each, name) for each in runs]
        spread = np.std([each.measured for each in moments], ddof=1)
        assert np.mean([each.standard_error for each in moments]) == pytest.approx(spread, rel=0.3)  # 3 sigma


@pytest.mark.parametrize("slice_", ["0:130,0:170", "7:100,3:169"])
def test_the_heat_map_has_the_means_of_its_cells(slice_: str) -> None:
    fields = {"shape": "130,170", "scheme": "normal", "slice": slice_}
    found, values = inspected(**fields).heat_map, numbers(**fields)
    assert (found.rows, found.cols) == values.shape
    edges = [np.arange(49) * size // 48 for size in values.shape]
    for row in (0, 13, 47):
        for col in (0, 40, 47):
            cell = values[edges[0][row] : edges[0][row + 1], edges[1][col] : edges[1][col + 1]]
            assert found.cells[row][col] == pytest.approx(cell.mean(), rel=1e-3)


def test_a_heat_map_is_the_same_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"shape": "37,211", "scheme": "eye"}
    whole = inspected(**fields).heat_map
    for block in (64, 1000):
        monkeypatch.setattr(inspection, "BLOCK", block)
        assert inspected(**fields).heat_map == whole


def test_the_singular_values_follow_the_law_of_marchenko_and_pastur() -> None:
    fields = {"shape": "150,300", "scheme": "normal", "std": "0.5"}
    found = inspected(**fields).singular_values
    assert found is not None
    assert found.expected is not None
    assert np.allclose(found.measured, np.linalg.svd(numbers(**fields), compute_uv=False))
    assert np.abs(np.subtract(found.measured, found.expected)).max() < 0.03 * found.expected[0]


def test_a_mean_moves_one_singular_value_out_of_the_law() -> None:
    found = inspected(shape="150,300", scheme="normal", mean="0.2", std="0.5").singular_values
    assert found is not None
    assert found.expected is not None
    assert found.measured[0] == pytest.approx(found.expected[0], rel=0.02)
    assert found.measured[0] > 2 * found.measured[1]


def test_eigenvalues_fill_a_disk_or_lie_on_a_circle() -> None:
    disk = inspected(shape="120,120", scheme="normal", std="0.1").eigenvalues
    circle = inspected(shape="120,120", scheme="orthogonal", gain="3").eigenvalues
    assert disk is not None
    assert circle is not None
    assert (disk.law, circle.law, circle.radius) == ("disk", "circle", 3.0)
    assert disk.radius == pytest.approx(0.1 * np.sqrt(120))
    radii = np.hypot(disk.real, disk.imaginary) / disk.radius
    assert stats.kstest(radii**2, "uniform").statistic < 0.15
    assert np.allclose(np.hypot(circle.real, circle.imaginary), 3.0, rtol=1e-5)


def test_a_part_of_an_orthogonal_matrix_has_no_known_spectrum() -> None:
    found = inspected(shape="64,64", scheme="orthogonal", slice="0:32,0:32")
    assert found.singular_values is not None
    assert found.eigenvalues is not None
    assert (found.singular_values.expected, found.eigenvalues.law) == (None, None)


def test_what_is_too_large_for_a_spectrum_says_so() -> None:
    found = inspected(shape="600,600", scheme="zeros")
    assert found.singular_values is None
    assert found.eigenvalues is None
    assert found.note is not None
    assert "600 x 600" in found.note
    assert inspected(shape="7", scheme="ones").note == "no singular values: the tensor is no matrix"


def test_numbers_at_the_ends_of_a_dtype_are_inspected() -> None:
    wide = inspected(shape="40,40", scheme="uniform", a="-8e307", b="8e307", dtype="float64")
    assert wide.moments.std.measured == pytest.approx(1.6e308 / np.sqrt(12), rel=0.05)
    tiny = inspected(shape="50", scheme="normal", std="1e-310", dtype="float64")
    assert sum(tiny.histogram.counts) == 50
    counter = inspected(shape="3", scheme="constant", val="9007199254740991", dtype="int64")
    assert counter.largest == 2.0**53 - 1


def test_a_tensor_of_parts_has_no_theory() -> None:
    parts = '[{"slice": "0:1,:", "scheme": "zeros"}]'
    body = f'{{"tensors": {{"w": {{"shape": [9, 64], "scheme": "normal", "parts": {parts}}}}}}}'
    spec = read_document(body.encode())
    found = result(spec, ENGINE.open(ENGINE.plan(spec)))
    assert (found.zeros, found.moments.mean.theory, found.histogram.expected) == (64, None, None)
    assert found.moments.mean.standard_error


def test_too_much_work_is_refused_with_the_number() -> None:
    _, file = opened(shape="4096,4096", scheme="normal")
    inspection.check(file)
    with pytest.raises(TooLarge, match="inspect a slice of fewer than 250000 elements"):
        inspection.check(file, most_nanoseconds=10_000_000)


def test_only_one_tensor_with_elements_is_inspected() -> None:
    _, empty = opened(shape="0,3", scheme="normal")
    with pytest.raises(InvalidSpec, match="a tensor with elements"):
        inspection.check(empty)
    two = read_document(b'{"tensors": {"a": {"shape": [1], "scheme": "ones"}, "b": {"shape": [1], "scheme": "ones"}}}')
    with pytest.raises(InvalidSpec, match="one tensor"):
        inspection.check(ENGINE.open(ENGINE.plan(two)))


def test_an_inspection_ends_when_its_file_is_closed() -> None:
    spec, file = opened(shape="1000,1000", scheme="normal")
    steps = ENGINE.inspect(spec, file)
    next(steps)
    file.close()
    with pytest.raises(DrawingStopped):
        next(steps)
