// The surfels as they lie in the page, made into what the graphics card takes. The writing side is packing.py.

/** Bytes of a base64 text. */
function fromBase64(text) {
  const raw = atob(text.trim()), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

/** What zlib has compressed. */
async function inflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

const KINDS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array };

/**
 * Surfels with floating-point values.
 *
 * @param {ArrayBuffer} buffer all arrays, one after the other
 * @param {object} header count, degree, and per array its kind, offset, columns, and the range of each column
 * @returns places [3N], seen [N], sides [N], firsts and seconds [3N] (tangents times sizes), opacities [N], colours [3 N bands]
 */
function unpack(buffer, header) {
  const n = header.count, bands = (header.degree + 1) ** 2;
  const array = ({ kind, offset, columns }) => new KINDS[kind](buffer, offset, n * columns);
  const { place_low, place_high, quat, size, opacity, dc, rest, seen, sides } = header.arrays;
  const out = {
    places: new Float32Array(3 * n),
    firsts: new Float32Array(3 * n),
    seconds: new Float32Array(3 * n),
    colours: new Float32Array(3 * n * bands),
    opacities: new Float32Array(n),
    seen: array(seen),
    sides: array(sides),
  };
  const low = array(place_low), high = array(place_high), quats = array(quat), sizes = array(size);
  const opacities = array(opacity), constant = array(dc), more = rest && array(rest);
  const steps = (range, levels) => range.map(([least, most]) => [least, (most - least) / levels]);
  const [px, s, o] = [steps(place_low.range, 16777215), steps(size.range, 65535), steps(opacity.range, 65535)];
  const [c, r] = [steps(dc.range, 65535), rest && steps(rest.range, 255)];
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < 3; k++) {
      const j = 3 * i + k;
      out.places[j] = px[k][0] + px[k][1] * (65536 * high[j] + low[j]);
      out.colours[3 * i * bands + k] = c[k][0] + c[k][1] * constant[j];
    }
    out.opacities[i] = o[0][0] + o[0][1] * opacities[i];
    tangents(quats[i], out, 3 * i, Math.exp(s[0][0] + s[0][1] * sizes[2 * i]), Math.exp(s[1][0] + s[1][1] * sizes[2 * i + 1]));
    const width = 3 * (bands - 1);
    for (let k = 0; k < width; k++) out.colours[3 * i * bands + 3 + k] = r[k][0] + r[k][1] * more[i * width + k];
  }
  return out;
}

/** The first two axes of a rotation, times sizes. Three of the four numbers of a quaternion are kept, in 10 bits each. */
function tangents(packed, out, at, first, second) {
  const left = packed >>> 30, q = [0, 0, 0, 0];
  let sum = 0;
  for (let k = 0, bit = 20; k < 4; k++) {
    if (k === left) continue;
    q[k] = ((packed >>> bit) & 1023) / 1023 * Math.SQRT2 - Math.SQRT1_2;
    sum += q[k] * q[k];
    bit -= 10;
  }
  q[left] = Math.sqrt(Math.max(0, 1 - sum));
  const [w, x, y, z] = q;
  out.firsts.set([first * (1 - 2 * (y * y + z * z)), first * 2 * (x * y + w * z), first * 2 * (x * z - w * y)], at);
  out.seconds.set([second * 2 * (x * y - w * z), second * (1 - 2 * (x * x + z * z)), second * 2 * (y * z + w * x)], at);
}
