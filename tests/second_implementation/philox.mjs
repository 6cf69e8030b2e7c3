// The philox generator a second time, from the text of docs/generator.md and docs/orthogonal.md alone: slow, small, and
// without dependencies.
//
// Reads one JSON object a line, {law, dtype, seed, name, runs}, and answers each with the SHA-256 of the elements. For a
// tensor with parts the object is {law, dtype, seed, name, shape, parts}, with {slice, law, stream} for each part.

import { createHash } from "node:crypto";
import { createInterface } from "node:readline";

const f = Math.fround;
const mask32 = 0xffffffffn;
const f64 = new Float64Array(1);
const i64 = new BigInt64Array(f64.buffer);
const f32 = new Float32Array(1);
const i32 = new Int32Array(f32.buffer);

const bits64 = (x) => ((f64[0] = x), i64[0]);
const double = (bits) => ((i64[0] = bits), f64[0]);
const bits32 = (x) => ((f32[0] = x), i32[0]);
const float = (bits) => ((i32[0] = bits), f32[0]);

// -- keys and words ---------------------------------------------------------------------------------------------------

const streams = { data: 0, mask: 1, gaussian: 2, low: 3 };

function key(seed, name, stream) {
  const utf8 = Buffer.from(name, "utf8");
  const numbers = Buffer.alloc(12);
  numbers.writeBigUInt64LE(BigInt(seed), 0);
  numbers.writeUInt32LE(utf8.length, 8);
  const digest = createHash("sha256")
    .update("weightwell/philox4x32-10/1\0")
    .update(numbers)
    .update(utf8)
    .update(Buffer.of(streams[stream]))
    .digest();
  return [0, 4, 8, 12].map((at) => digest.readUInt32LE(at));
}

// Both halves of a product of 32-bit integers.
function multiply(a, b) {
  const [ah, al, bh, bl] = [a >>> 16, a & 0xffff, b >>> 16, b & 0xffff];
  const middle = ah * bl + ((al * bl) >>> 16); // below 2^32
  const cross = al * bh + (middle & 0xffff);
  return [(ah * bh + Math.floor(middle / 65536) + Math.floor(cross / 65536)) >>> 0, Math.imul(a, b) >>> 0];
}

function philox([x0, x1, x2, x3], k0, k1) {
  for (let round = 0; round < 10; round++) {
    const [ph, pl] = multiply(0xd2511f53, x0);
    const [qh, ql] = multiply(0xcd9e8d57, x2);
    [x0, x1, x2, x3] = [(qh ^ x1 ^ k0) >>> 0, ql, (ph ^ x3 ^ k1) >>> 0, pl];
    [k0, k1] = [(k0 + 0x9e3779b9) >>> 0, (k1 + 0xbb67ae85) >>> 0];
  }
  return [x0, x1, x2, x3];
}

// A function from flat index (BigInt) to word; it remembers the last block.
function words(seed, name, stream) {
  const [k0, k1, n0, n1] = key(seed, name, stream);
  let [last, block] = [-1n, []];
  return (index) => {
    if (index >> 2n !== last) {
      last = index >> 2n;
      block = philox([Number(last & mask32), Number(last >> 32n), n0, n1], k0, k1);
    }
    return block[Number(index & 3n)];
  };
}

// -- variates ---------------------------------------------------------------------------------------------------------

const G = [1.442695, -0.72135293, 0.4809167, -0.36022517, 0.28728887, -0.24927182, 0.23265257, -0.14275974];
const C = [
  1.2533141, -0.22743277, 0.0078497315, 0.0011041928, -3.7439087e-5, -7.9859055e-6, 1.2702136e-6, 3.3834067e-7,
  3.0980264e-8, 1.381865e-9, 2.5315992e-11, 0,
];
const T = [
  4.475362, -0.14806716, -0.0022437724, -6.524408e-5, -2.1941823e-6, -6.797055e-8, -1.0382165e-9, 1.1311778e-10,
  1.6280146e-11, 1.124669e-12, 4.1260178e-14, 6.270541e-16,
];

function polynomial(c, x) {
  const x2 = f(x * x);
  const x4 = f(x2 * x2);
  let total = 0;
  for (let j = c.length - 4; j >= 0; j -= 4) {
    const low = f(f(c[j]) + f(f(c[j + 1]) * x));
    const high = f(f(c[j + 2]) + f(f(c[j + 3]) * x));
    total = f(f(low + f(high * x2)) + f(total * x4));
  }
  return total;
}

function uniform32(w) {
  return (2 * (w >>> 8) + 1 - 2 ** 24) / 2 ** 24;
}

function normal32(w) {
  const c = 2 * (w >>> 1) + 1 - 2 ** 31;
  const rest = 2 ** 31 - Math.abs(c);
  const [v, Q] = [f(c) / 2 ** 31, f(rest) / 2 ** 31];
  const s = f(Q * f(2 - Q));
  const k = (bits32(s) - 0x3f3504f3) >> 23;
  const x = f(float(bits32(s) - (k << 23)) - 1);
  const l = f(k + f(x * polynomial(G, x)));
  return f(v * (rest < 2 ** 21 ? polynomial(T, f(l + 16)) : polynomial(C, l)));
}

function uniform64(W) {
  return Number(2n * (W >> 11n) + 1n - (1n << 53n)) / 2 ** 53;
}

const A = [
  [
    3.387132872796366608, 133.14166789178437745, 1971.5909503065514427, 13731.693765509461125, 45921.953931549871457,
    67265.770927008700853, 33430.575583588128105, 2509.0809287301226727,
  ],
  [
    1, 42.313330701600911252, 687.1870074920579083, 5394.1960214247511077, 21213.794301586595867, 39307.89580009271061,
    28729.085735721942674, 5226.495278852545925,
  ],
];
const M = [
  [
    1.42343711074968357734, 4.6303378461565452959, 5.7694972214606914055, 3.64784832476320460504, 1.27045825245236838258,
    0.24178072517745061177, 0.0227238449892691845833, 7.7454501427834140764e-4,
  ],
  [
    1, 2.05319162663775882187, 1.6763848301838038494, 0.68976733498510000455, 0.14810397642748007459,
    0.0151986665636164571966, 5.475938084995344946e-4, 1.05075007164441684324e-9,
  ],
];
const F = [
  [
    6.6579046435011037772, 5.4637849111641143699, 1.7848265399172913358, 0.29656057182850489123,
    0.026532189526576123093, 0.0012426609473880784386, 2.71155556874348757815e-5, 2.01033439929228813265e-7,
  ],
  [
    1, 0.59983220655588793769, 0.13692988092273580531, 0.0148753612908506148525, 7.868691311456132591e-4,
    1.8463183175100546818e-5, 1.4215117583164458887e-7, 2.04426310338993978564e-15,
  ],
];

const horner = (c, x) => c.reduceRight((total, coefficient) => total * x + coefficient, 0);
const rational = ([over, under], x) => horner(over, x) / horner(under, x);
const central = (q) => q * rational(A, 0.180625 - q * q);
const artanh = Array.from({ length: 11 }, (_, i) => 2 / (2 * i + 1));

function nlog(p, e) {
  const k = (bits64(p) - 0x3fe6a09e667f3bcdn) >> 52n;
  const x = double(bits64(p) - (k << 52n)) - 1;
  const s = x / (2 + x);
  return (e - Number(k)) * 0.6931471805599453 - s * horner(artanh, s * s);
}

function tail(t) {
  const r = Math.sqrt(t);
  if (r <= 5) return rational(M, r - 1.6);
  if (r <= 27) return rational(F, r - 5);
  let y = 2 * t;
  for (let step = 0; step < 4; step++) {
    const h = 1 / y;
    y = 2 * t + nlog(y, 0) - 1.8378770664093455 - h * (2 - h * (5 - h * (74 / 3)));
  }
  return Math.sqrt(y);
}

// An integer below 2^64 in units of 2^-64, rounded once.
const unit = (n) => (Number(n >> 32n) * 2 ** 32 + Number(n & mask32)) / 2 ** 64;

function normal64(W) {
  const c = 2n * (W >> 1n) + 1n - (1n << 63n);
  const size = c < 0n ? -c : c;
  const q = unit(size);
  const z = q <= 0.425 ? central(q) : tail(nlog(unit((1n << 63n) - size), 0));
  return c < 0n ? -z : z;
}

function narrow(window, W) {
  const u = unit((window.side > 0 ? W ^ 0xffffffffffffffffn : W) | 1n);
  const p = window.start + u * window.span;
  if (window.side !== 0) return window.side * tail(nlog(p, window.e));
  if (Math.abs(p) <= 0.425) return central(p);
  return Math.sign(p) * tail(nlog(0.5 - Math.abs(p), 0));
}

// -- probabilities, as binary numbers m * 2^e with m of about B bits --------------------------------------------------

const B = 300n;
const one = 1n << B;

const product = (a, b) => (a * b) >> B;
const quotient = (a, b) => (a << B) / b;

function artanhInverse(n) {
  let [total, term] = [0n, one / n];
  for (let odd = 1n; term > 0n; odd += 2n, term /= n * n) total += term / odd;
  return total;
}
const ln2 = 2n * artanhInverse(3n);
function arctanInverse(n) {
  let [total, term, sign] = [0n, one / n, 1n];
  for (let odd = 1n; term > 0n; odd += 2n, term /= n * n, sign = -sign) total += (sign * term) / odd;
  return total;
}
const pi = 4n * (4n * arctanInverse(5n) - arctanInverse(239n));

function squareRoot(n) {
  let x = 1n << BigInt((n.toString(2).length + 1) >> 1);
  for (;;) {
    const next = (x + n / x) >> 1n;
    if (next >= x) return x;
    x = next;
  }
}
const sqrt2pi = squareRoot((2n * pi) << B);

// A binary64 as an integer in units of 2^-1074.
function exact(x) {
  const bits = bits64(Math.abs(x));
  const field = bits >> 52n;
  const significand = field === 0n ? bits : (bits & 0xfffffffffffffn) | (1n << 52n);
  return (x < 0 ? -1n : 1n) * (significand << (field === 0n ? 0n : field - 1n));
}

// exp(-x^2 / 2) as [m, e].
function gauss(x) {
  const square = product(x, x) / 2n;
  const e = square / ln2;
  let [total, term] = [one, one];
  for (let n = 1n; term !== 0n; n++) total += term = -product(term, square - e * ln2) / n;
  return [total, -e];
}

// Phi(-x) for x >= 0, as [m, e].
function upper(x) {
  const [density, e] = gauss(x);
  if (x < 4n * one) {
    let [total, term] = [0n, x];
    for (let odd = 3n; term > 0n; odd += 2n) {
      total += term;
      term = product(term, product(x, x)) / odd;
    }
    const middle = product(quotient(density, sqrt2pi), total);
    return [one / 2n - (middle >> -e), 0n];
  }
  let fraction = x;
  for (let level = 400n; level > 0n; level--) fraction = x + quotient(level * one, fraction);
  return [quotient(quotient(density, sqrt2pi), fraction), e];
}

const shifted = (n, places) => (places >= 0n ? n << places : n >> -places);
// [m, e] in units of 2^-B * 2^-places
const scaled = ([m, e], places) => shifted(m, e + places);
// An integer in units of 2^-B, rounded to binary64.
const rounded = (n) => Number(n) / 2 ** Number(B);

function window(law, n) {
  const bounds = [law.low, law.high].map((bound) => ((exact(bound) - exact(law.mean)) << B) / exact(law.std));
  const sides = bounds.map((x) => upper(x < 0n ? -x : x));
  const below = sides.map((side, i) => (bounds[i] < 0n ? scaled(side, 0n) : one - scaled(side, 0n)));
  const integers = (bits) => below.map((p) => ((p << bits) + one / 2n) >> B);
  const [low32, high32] = integers(32n);
  if (high32 - low32 >= 1n << 24n) {
    const [low, high] = integers(n);
    return { kind: "wide", low, width: high - low };
  }
  const far = one << 26n;
  if (bounds[0] >= far || bounds[1] <= -far) return { kind: "remote" };
  const limit = (75n * one) / 1000n;
  let side = 0;
  if (bounds[0] > 0n && scaled(sides[0], 0n) < limit) side = 1;
  else if (bounds[1] < 0n && scaled(sides[1], 0n) < limit) side = -1;
  if (side === 0) {
    const [start, end] = below.map((p) => p - one / 2n);
    return { kind: "narrow", side, start: rounded(start), span: rounded(end - start) };
  }
  const [near, beyond] = side > 0 ? sides : [sides[1], sides[0]];
  const e = B - BigInt(near[0].toString(2).length) - near[1];
  const start = scaled(beyond, e);
  return { kind: "narrow", side, e: Number(e), start: rounded(start), span: rounded(scaled(near, e) - start) };
}

// -- formats ----------------------------------------------------------------------------------------------------------

const formats = {
  float64: { width: 64, mantissa: 52, bias: 1023, max: Number.MAX_VALUE },
  float32: { width: 32, mantissa: 23, bias: 127, max: f(3.4028234663852886e38) },
  float16: { width: 16, mantissa: 10, bias: 15, max: 65504 },
  bfloat16: { width: 16, mantissa: 7, bias: 127, max: 3.3895313892515355e38 },
  float8_e4m3fn: { width: 8, mantissa: 3, bias: 7, max: 448 },
  float8_e5m2: { width: 8, mantissa: 2, bias: 15, max: 57344 },
  float8_e8m0fnu: { width: 8, mantissa: 0, bias: 127, unsigned: true },
  float4_e2m1fn_x2: { width: 4, mantissa: 1, bias: 1, max: 6 },
  int64: { width: 64 },
  int32: { width: 32 },
  int16: { width: 16 },
  int8: { width: 8 },
  uint8: { width: 8 },
  bool: { width: 8 },
};

function nearestInteger(x) {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
}

// [n, q]: the number is n * 2^q of the format, with n rounded as told.
function parts(format, x, round) {
  const exponent = x === 0 ? -5000 : Number((bits64(Math.abs(x)) >> 52n) & 0x7ffn) - 1023;
  const quantum = Math.max(exponent, 1 - format.bias) - format.mantissa;
  return [round(x / 2 ** (quantum / 2 | 0) / 2 ** (quantum - (quantum / 2 | 0))), quantum];
}

function roundTo(format, x, round) {
  if (format.width === 64) return x;
  const [n, quantum] = parts(format, Math.max(-format.max, Math.min(x, format.max)), round);
  return n * 2 ** quantum;
}

function encode(format, x) {
  if (format.width === 64) return bits64(x) & 0xffffffffffffffffn;
  let [n, quantum] = parts(format, Math.abs(x), nearestInteger);
  const power = quantum + format.mantissa + format.bias;
  const magnitude = BigInt(n) + (BigInt(power - 1) << BigInt(format.mantissa));
  const sign = x < 0 || Object.is(x, -0) ? 1n : 0n;
  return magnitude | (sign << BigInt(format.width - 1));
}

// -- laws -------------------------------------------------------------------------------------------------------------

const carrierOf = (dtype) => (dtype === "float64" ? "float64" : "float32");
const rounding = { float32: f, float64: (x) => x };
const clamp = (x, low, high) => Math.max(low, Math.min(x, high));

// What makes an element's bits of its variate.
function settle(dtype, carrier, scale, shift, low, high) {
  const format = formats[dtype];
  const ordinary = carrierOf(dtype);
  let [a, b] = [roundTo(format, low, Math.ceil), roundTo(format, high, Math.floor)];
  if (format.width === 64) [a, b] = [clamp(low, -format.max, format.max), clamp(high, -format.max, format.max)];
  if (a > b) a = b = roundTo(format, clamp(shift, low, high), nearestInteger);
  const m = Math.max(Math.abs(scale), Math.abs(shift));
  let e = 0;
  if (m > 0 && m < 2 ** (ordinary === "float64" ? -900 : -60)) {
    while (m * 2 ** Math.min(e, 1000) * 2 ** Math.max(e - 1000, 0) < 1) e++;
  }
  const enlarge = (x) => x * 2 ** Math.min(e, 1000) * 2 ** Math.max(e - 1000, 0);
  const round = rounding[carrier];
  const prepare = (x) => round(clamp(enlarge(x), -formats[carrier].max, formats[carrier].max)) + 0;
  [scale, shift, a, b] = [scale, shift, a, b].map(prepare);
  return (v) => {
    let y = clamp(round(round(v * scale) + shift), a, b);
    if (ordinary === "float32") y = f(f(y) * 2 ** -e);
    else y *= 2 ** -e;
    return encode(format, y);
  };
}

function independent(law, dtype, seed, name) {
  let [carrier, scale, shift] = [carrierOf(dtype), law.std, law.mean];
  let [low, high, variate] = [-Infinity, Infinity, "normal"];
  if (law.kind !== "normal") [low, high] = [law.low, law.high];
  let cut;
  if (law.kind === "uniform") {
    [variate, scale, shift] = ["uniform", 0.5 * high - 0.5 * low, 0.5 * high + 0.5 * low];
  } else if (law.kind === "truncated_normal") {
    const point = law.std === 0 || low === high;
    cut = point ? { kind: "remote" } : window(law, carrier === "float64" ? 64n : 32n);
    if (cut.kind === "remote") [variate, scale, shift] = ["uniform", 0, clamp(law.mean, low, high)];
    else variate = cut.kind;
    if (cut.kind === "narrow") carrier = "float64";
  }
  const element = settle(dtype, carrier, scale, shift, low, high);
  const data = words(seed, name, "data");
  const lower = words(seed, name, "low");
  const draw = (i) => (BigInt(data(i)) << 32n) | BigInt(lower(i));
  const widen = (w, n) => cut.low + ((w * cut.width) >> n);
  const variates = {
    float32: {
      uniform: (i) => uniform32(data(i)),
      normal: (i) => normal32(data(i)),
      wide: (i) => normal32(Number(widen(BigInt(data(i)), 32n))),
    },
    float64: {
      uniform: (i) => uniform64(draw(i)),
      normal: (i) => normal64(draw(i)),
      wide: (i) => normal64(widen(draw(i), 64n)),
      narrow: (i) => narrow(cut, draw(i)),
    },
  };
  const v = variates[carrier][variate];
  return (i) => element(v(i));
}

// Uniform integers and powers of two. A field of a word, or a draw, is scaled to the count of the integers.
function integers(law, dtype, seed, name) {
  const format = formats[dtype];
  const [low, high] = [BigInt(law.low), BigInt(law.high)];
  const count = high - low;
  const even = (count & (count - 1n)) === 0n;
  const field = even && count <= 1n << 32n ? [8n, 16n, 32n].find((n) => count <= 1n << n) : count <= 256n ? 32n : 64n;
  const data = words(seed, name, "data");
  const lower = words(seed, name, "low");
  const u = (i) => {
    if (field === 64n) return (BigInt(data(i)) << 32n) | BigInt(lower(i));
    const fields = 32n / field;
    return (BigInt(data(i / fields)) >> (field * (i % fields))) & ((1n << field) - 1n);
  };
  const [start, shift] = law.kind === "randint" ? [low, 0n] : [low + BigInt(format.bias), BigInt(format.mantissa)];
  return (i) => BigInt.asUintN(format.width, (start + ((u(i) * count) >> field)) << shift);
}

function constant(value, format) {
  if (format.mantissa === undefined) return BigInt.asUintN(format.width, BigInt(value));
  if (format.unsigned) return BigInt(Math.log2(value) + format.bias);
  if (format.width === 64) return encode(format, value);
  return encode(format, clamp(f(clamp(value, -formats.float32.max, formats.float32.max)), -format.max, format.max));
}

function lattice(law, dtype) {
  const bits = constant(law.value, formats[dtype]);
  const points = new Set();
  for (let i = 0; i < law.counts[0]; i++)
    for (let j = 0; j < law.counts[1]; j++) points.add(law.first + i * law.strides[0] + j * law.strides[1]);
  return (index) => (points.has(Number(index)) ? bits : 0n);
}

// Where the element of an index is in what a tensor is a view of.
function inView({ sizes, strides }, index) {
  let [rest, at] = [Number(index), 0];
  for (let axis = sizes.length - 1; axis >= 0; axis--) {
    at += (rest % sizes[axis]) * strides[axis];
    rest = Math.floor(rest / sizes[axis]);
  }
  return at;
}

function given(law, dtype) {
  const bits = law.values.map((value) => constant(value, formats[dtype]));
  return (index) => bits[inView(law, index)];
}

function sparse(law, dtype, seed, name) {
  const normal = independent({ kind: "normal", mean: 0, std: law.std }, dtype, seed, name);
  const word = words(seed, name, "mask");
  const zeros = new Set();
  for (let c = 0; c < law.cols; c++) {
    const keys = Array.from({ length: law.rows }, (_, r) => {
      const index = r * law.cols + c;
      return { index, key: (BigInt(word(BigInt(index))) << 32n) | BigInt(r) };
    });
    keys.sort((x, y) => (x.key < y.key ? -1 : 1));
    for (const { index } of keys.slice(0, law.zeros)) zeros.add(index);
  }
  return (index) => (zeros.has(Number(index)) ? 0n : normal(index));
}

// -- orthogonal matrices: arrays of rows ------------------------------------------------------------------------------

const row = (cols, at) => Float64Array.from({ length: cols }, (_, j) => at(j));
const matrix = (rows, cols, at) => Array.from({ length: rows }, (_, i) => row(cols, (j) => at(i, j)));
const transpose = (a) => matrix(a[0].length, a.length, (i, j) => a[j][i]);

function orderedSum(count, term, round) {
  let total = 0;
  for (let start = 0; start < count; start += 64) {
    let sum = 0;
    for (let k = start; k < Math.min(start + 64, count); k++) sum = round(sum + round(term(k)));
    total = round(total + sum);
  }
  return total;
}

const times = (a, b, round) =>
  matrix(a.length, b[0].length, (i, j) => orderedSum(b.length, (k) => a[i][k] * b[k][j], round));
const sign = (x) => (x < 0 || Object.is(x, -0) ? -1 : 1);
const exactly = rounding.float64;

// V, T and d for the rows s, s + 1, ... of the columns of a block.
function reflectors(x, round) {
  const w = x[0].length;
  const v = matrix(x.length, w, (i, j) => (i > j ? x[i][j] : 0));
  const [c, d] = [[], []];
  for (let j = 0; j < w; j++) {
    const tau = orderedSum(x.length, (i) => v[i][j] * v[i][j], exactly);
    const h = x[j][j];
    if (tau !== 0) v[j][j] = round(h + sign(h) * Math.sqrt(h * h + tau));
    c.push(tau === 0 ? 1 : (v[j][j] * v[j][j] + tau) / 2);
    d.push(tau === 0 ? sign(h) : -sign(h));
  }
  const s = times(transpose(v), v, exactly);
  const t = matrix(w, w, () => 0);
  for (let i = w - 1; i >= 0; i--)
    for (let j = i; j < w; j++) {
      const sum = orderedSum(w - i - 1, (k) => s[i][i + 1 + k] * t[i + 1 + k][j], exactly);
      t[i][j] = ((i === j ? 1 : 0) - sum) / c[i];
    }
  return { v, t: t.map((row) => row.map(round)), d };
}

function haar(g, round) {
  if (g.length < g[0].length) return transpose(haar(transpose(g), round));
  const q = matrix(g.length, g[0].length, () => 0);
  const blocks = [];
  for (let s = 0; s < g[0].length; s += 64) {
    const block = reflectors(g.slice(s).map((row) => row.slice(s, s + 64)), round);
    block.d.forEach((sign, j) => (q[s + j][s + j] = sign));
    blocks.unshift({ s, ...block });
  }
  for (const { s, v, t } of blocks) {
    const change = times(v, times(t, times(transpose(v), q.slice(s), round), round), round);
    change.forEach((row, i) => row.forEach((x, j) => (q[s + i][j] = round(q[s + i][j] - x))));
  }
  return q;
}

// The matrices of a stack, each of which is made of the normals that follow those of the matrices before it.
function orthogonal(law, dtype, seed, name) {
  const { rows, cols, taps, centre, count = 1 } = law;
  const carrier = carrierOf(dtype);
  const gaussian = words(seed, name, "gaussian");
  const low = words(seed, name, "low");
  const normals = {
    float32: (i) => normal32(gaussian(i)),
    float64: (i) => normal64((BigInt(gaussian(i)) << 32n) | BigInt(low(i))),
  };
  const drawn = (b) => matrix(rows, cols, (r, c) => normals[carrier](BigInt((b * rows + r) * cols + c)));
  const q = Array.from({ length: count }, (_, b) => haar(drawn(b), rounding[carrier]));
  const element = settle(dtype, carrier, law.gain, 0, -Infinity, Infinity);
  return (index) => {
    const at = Number(index);
    if (at % taps !== centre) return 0n;
    const place = Math.floor(at / taps);
    const row = Math.floor(place / cols);
    return element(q[Math.floor(row / rows)][row % rows][place % cols]);
  };
}

// The elements of a stack, in a tensor whose axes are in another order.
function orthogonalStack(law, dtype, seed, name) {
  const element = orthogonal(law, dtype, seed, name);
  return (index) => element(inView(law, index));
}

function elements({ law, dtype, seed, name }) {
  if (law.kind === "constant") {
    const bits = constant(law.value, formats[dtype]);
    return () => bits;
  }
  if (law.kind === "lattice") return lattice(law, dtype);
  if (law.kind === "values") return given(law, dtype);
  if (law.kind === "randint" || law.kind === "power_of_two") return integers(law, dtype, seed, name);
  if (law.kind === "sparse") return sparse(law, dtype, seed, name);
  if (law.kind === "orthogonal") return orthogonal(law, dtype, seed, name);
  if (law.kind === "orthogonal_stack") return orthogonalStack(law, dtype, seed, name);
  return independent(law, dtype, seed, name);
}

// A tensor with parts. The element of an index is that of the last part that has it, or else of the tensor's own law.
function composed({ shape, parts, ...request }) {
  const own = elements(request);
  const layers = parts.map(({ slice, law, stream = `${request.name}[${slice}]` }) => {
    const bounds = slice.split(",").map((pair) => pair.split(":").map(Number));
    return { bounds, element: elements({ ...request, law, name: stream }) };
  });
  return (index) => {
    const position = [];
    let rest = Number(index);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      position[axis] = rest % shape[axis];
      rest = Math.floor(rest / shape[axis]);
    }
    for (const { bounds, element } of layers.toReversed()) {
      if (bounds.some(([start, stop], axis) => position[axis] < start || position[axis] >= stop)) continue;
      return element(BigInt(bounds.reduce((at, [start, stop], axis) => at * (stop - start) + position[axis] - start, 0)));
    }
    return own(index);
  };
}

function digest(request) {
  const single = request.parts ? composed(request) : elements(request);
  const { width } = formats[request.dtype];
  const size = Math.max(width / 8, 1);
  // Two elements of 4 bits are an item of a byte, the first in its low half.
  const element = width === 4 ? (i) => single(2n * i) | (single(2n * i + 1n) << 4n) : single;
  const whole = request.parts && { first: 0, length: request.shape.reduce((a, b) => a * b), stride: 0, count: 1 };
  const { first, length, stride, count } = request.runs ?? whole;
  const bytes = Buffer.alloc(length * count * size);
  const write = { 1: "writeUInt8", 2: "writeUInt16LE", 4: "writeUInt32LE", 8: "writeBigUInt64LE" }[size];
  for (let j = 0, at = 0; j < count; j++) {
    const start = BigInt(first) + BigInt(j) * BigInt(stride);
    for (let i = 0; i < length; i++, at += size) {
      const bits = element(start + BigInt(i));
      bytes[write](size === 8 ? bits : Number(bits), at);
    }
  }
  return createHash("sha256").update(bytes).digest("hex");
}

for await (const line of createInterface({ input: process.stdin })) console.log(digest(JSON.parse(line)));
