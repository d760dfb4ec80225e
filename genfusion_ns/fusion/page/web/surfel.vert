#version 300 es
// A surfel becomes a quad that holds all pixels in which its opacity is 1/255 or more.
//
// With T = [a b m] (both tangents times their sizes, and the centre, in the camera) the map from the tangent plane to
// pixels is M = K T with the rows u, v, w (2DGS, Huang et al. 2024, equation 5). Pixels are counted from the projected
// centre here, which makes the last entries of u and v zero.
precision highp float;
precision highp int;
precision highp sampler2D;

uniform sampler2D places;   // xyz: centre; w: share of the photos that see it
uniform sampler2D firsts;   // xyz: first tangent times its size; w: opacity
uniform sampler2D seconds;  // xyz: second tangent times its size; w: sides that photos see, bits 1 (normal) and 2
uniform sampler2D colours;  // (degree + 1)^2 coefficients of spherical harmonics per surfel, one after the other
uniform mat4 viewmat;       // world to camera, OpenCV axes
uniform vec4 lens;          // fx, fy, cx, cy in pixels
uniform vec2 size;          // of the picture, pixels
uniform vec3 eye;
uniform float near;
uniform float variance;     // of the pixel filter, pixels squared; below 0: the low-pass disc of 2DGS
uniform int degree;
uniform int mode;           // 0 colour, 1 normals, 2 photos

in uint surfel;

flat out vec4 uv;      // u.xy, v.xy
flat out vec4 wo;      // w, opacity
flat out vec4 middle;  // projected centre; from there to the middle of the box of one standard deviation
flat out vec4 tiles;   // the tiles of 16 x 16 pixels that may show it: left, top, right, bottom
flat out vec3 value;

const float TILE = 16.0;
const float SIGMAS = 3.0;  // of the box that touches tiles
const vec4 NOWHERE = vec4(0.0, 0.0, 2.0, 1.0);

ivec2 texel(int index) { return ivec2(index & 4095, index >> 12); }

vec3 band(int first, int k) { return texelFetch(colours, texel(first + k), 0).rgb; }

// Real spherical harmonics in the order and with the signs of Gaussian splatting.
vec3 harmonics(int first, vec3 d) {
  vec3 rgb = 0.28209479 * band(first, 0);
  if (degree > 0) rgb += 0.48860251 * (-d.y * band(first, 1) + d.z * band(first, 2) - d.x * band(first, 3));
  if (degree > 1) {
    vec3 q = d * d;
    rgb += 1.09254843 * (d.x * d.y * band(first, 4) - d.y * d.z * band(first, 5) - d.x * d.z * band(first, 7));
    rgb += 0.31539157 * (2.0 * q.z - q.x - q.y) * band(first, 6) + 0.54627422 * (q.x - q.y) * band(first, 8);
    if (degree > 2) {
      rgb += -0.59004359 * d.y * (3.0 * q.x - q.y) * band(first, 9) + 2.89061144 * d.x * d.y * d.z * band(first, 10);
      rgb += -0.45704580 * (4.0 * q.z - q.x - q.y) * (d.y * band(first, 11) + d.x * band(first, 13));
      rgb += 0.37317633 * d.z * (2.0 * q.z - 3.0 * q.x - 3.0 * q.y) * band(first, 12);
      rgb += 1.44530572 * d.z * (q.x - q.y) * band(first, 14) - 0.59004359 * d.x * (q.x - 3.0 * q.y) * band(first, 15);
    }
  }
  return max(rgb + 0.5, 0.0);
}

vec3 shown(int index, vec3 a, vec3 b, vec4 place) {
  if (mode == 2) return vec3(place.w, 0.0, 0.0);
  if (mode == 0) return harmonics(index * (degree + 1) * (degree + 1), normalize(place.xyz - eye));
  vec3 normal = normalize(cross(a, b));
  return 0.5 + 0.5 * (dot(normal, place.xyz - eye) > 0.0 ? -normal : normal);
}

vec4 on_screen(vec2 pixel) { return vec4(2.0 * pixel.x / size.x - 1.0, 1.0 - 2.0 * pixel.y / size.y, 0.0, 1.0); }

void main() {
  gl_Position = NOWHERE;
  int index = int(surfel);
  vec4 place = texelFetch(places, texel(index), 0);
  vec4 first = texelFetch(firsts, texel(index), 0);
  vec4 second = texelFetch(seconds, texel(index), 0);
  mat3 turn = mat3(viewmat);
  vec3 m = turn * place.xyz + viewmat[3].xyz, a = turn * first.xyz, b = turn * second.xyz;
  if (m.z < near) return;
  int sides = int(second.w + 0.5), side = dot(cross(first.xyz, second.xyz), eye - place.xyz) > 0.0 ? 1 : 2;
  if (sides != 0 && (sides & side) == 0) return;

  vec2 slope = m.xy / m.z;
  vec2 u = lens.x * (vec2(a.x, b.x) - slope.x * vec2(a.z, b.z));
  vec2 v = lens.y * (vec2(a.y, b.y) - slope.y * vec2(a.z, b.z));
  vec3 w = vec3(a.z, b.z, m.z);
  vec2 centre = lens.xy * slope + lens.zw;

  // The box of the ellipse of one standard deviation, and the tiles that three of them touch.
  float d = dot(w.xy, w.xy) - w.z * w.z;
  if (d == 0.0) return;
  vec2 box = vec2(dot(u, w.xy), dot(v, w.xy)) / d;
  vec2 squares = box * box - vec2(dot(u, u), dot(v, v)) / d;
  float blur = sqrt(max(variance, 0.0));
  float radius = ceil(SIGMAS * (sqrt(max(max(squares.x, squares.y), 1e-4)) + blur));
  vec2 at = centre + box;
  if (any(lessThanEqual(at + radius, vec2(0.0))) || any(greaterThanEqual(at - radius, size))) return;
  tiles = TILE * vec4(floor((at - radius) / TILE), ceil((at + radius) / TILE));

  float opacity = first.w;
  float reach = sqrt(2.0 * log(255.0 * opacity));  // in standard deviations; where its opacity falls to 1/255
  vec2 corner = vec2(float(gl_VertexID & 1), float(gl_VertexID >> 1)) * 2.0 - 1.0;
  if (reach * length(w.xy) > 0.99 * (w.z - near)) {
    // It crosses the near plane: its square in space, which the clipping cuts there.
    vec3 p = m + (reach + blur) * (corner.x * a + corner.y * b);
    vec2 scaled = lens.xy * p.xy + lens.zw * p.z;
    gl_Position = vec4(2.0 * scaled.x / size.x - p.z, p.z - 2.0 * scaled.y / size.y, p.z - 2.0 * near, p.z);
  } else {
    // The rectangle along the axes of its ellipse on the screen, wide enough for the disc.
    float k = reach * reach, e = k * dot(w.xy, w.xy) - w.z * w.z;
    vec2 from = k * vec2(dot(u, w.xy), dot(v, w.xy)) / e;
    float xx = from.x * from.x - k * dot(u, u) / e, yy = from.y * from.y - k * dot(v, v) / e;
    float xy = from.x * from.y - k * dot(u, v) / e;
    float mean = 0.5 * (xx + yy), half_difference = 0.5 * (xx - yy);
    float apart = length(vec2(half_difference, xy));
    float angle = apart > 0.0 ? 0.5 * atan(xy, half_difference) : 0.0;
    vec2 along = vec2(cos(angle), sin(angle));
    vec2 extent = sqrt(max(vec2(mean + apart, mean - apart), 0.0));
    if (variance < 0.0) extent = max(extent, 0.71 * reach + distance(from, box));
    else extent += 3.5 * blur + 0.5;
    extent *= corner;
    gl_Position = on_screen(centre + from + extent.x * along + extent.y * vec2(-along.y, along.x));
  }
  uv = vec4(u, v);
  wo = vec4(w, opacity);
  middle = vec4(centre, box);
  value = shown(index, first.xyz, second.xyz, place);
}
