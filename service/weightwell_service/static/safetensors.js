// Reads a safetensors file of one tensor.

const small = (exponentBits, mantissaBits, isNan) => (byte) => {
  const sign = byte & 0x80 ? -1 : 1;
  const exponent = (byte >> mantissaBits) & ((1 << exponentBits) - 1);
  const mantissa = byte & ((1 << mantissaBits) - 1);
  if (isNan(byte & 0x7f)) return NaN;
  const bias = (1 << (exponentBits - 1)) - 1;
  if (exponent === 0) return sign * mantissa * 2 ** (1 - bias - mantissaBits);
  return sign * (1 + mantissa / (1 << mantissaBits)) * 2 ** (exponent - bias);
};
const e4m3 = small(4, 3, (bits) => bits === 0x7f);
const e5m2 = small(5, 2, (bits) => bits > 0x7c);

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const mantissa = bits & 0x3ff;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}

const word = new DataView(new ArrayBuffer(4));
function bfloat(bits) {
  word.setUint32(0, bits << 16);
  return word.getFloat32(0);
}

// Bytes of an element, and how to read the one at a position.
const DTYPES = {
  F64: [8, (view, at) => view.getFloat64(at, true)],
  F32: [4, (view, at) => view.getFloat32(at, true)],
  F16: [2, (view, at) => half(view.getUint16(at, true))],
  BF16: [2, (view, at) => bfloat(view.getUint16(at, true))],
  F8_E4M3: [1, (view, at) => e4m3(view.getUint8(at))],
  F8_E5M2: [1, (view, at) => e5m2(view.getUint8(at))],
  I32: [4, (view, at) => view.getInt32(at, true)],
  I16: [2, (view, at) => view.getInt16(at, true)],
  I8: [1, (view, at) => view.getInt8(at)],
  U8: [1, (view, at) => view.getUint8(at)],
  BOOL: [1, (view, at) => view.getUint8(at)],
  F8_E8M0: [1, (view, at) => (view.getUint8(at) === 255 ? NaN : 2 ** (view.getUint8(at) - 127))],
  I64: [8, (view, at) => Number(view.getBigInt64(at, true))],
};

/** Return the shape and the values of the one tensor in the bytes of a file; null for a dtype that packs elements. */
export function parse(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const [[name, { dtype, shape, data_offsets: [start, stop] }]] = Object.entries(header).filter(([key]) => key !== "__metadata__");
  if (!(dtype in DTYPES)) return null;
  const [size, read] = DTYPES[dtype];
  const view = new DataView(buffer, 8 + length + start, stop - start);
  const values = Float64Array.from({ length: (stop - start) / size }, (_, index) => read(view, index * size));
  return { name, shape, values };
}
