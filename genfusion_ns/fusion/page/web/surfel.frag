#version 300 es
// A surfel in one pixel: its Gaussian where the pixel's ray meets its plane (2DGS, equations 8 to 11).
precision highp float;
precision highp int;

uniform vec2 size;
uniform float near;
uniform float variance;

flat in vec4 uv;
flat in vec4 wo;
flat in vec4 middle;
flat in vec4 tiles;
flat in vec3 value;

out vec4 colour;

const float LEAST = 1.0 / 255.0;
const float MOST = 0.999;

void main() {
  vec2 pixel = vec2(gl_FragCoord.x, size.y - gl_FragCoord.y);
  if (any(lessThan(pixel, tiles.xy)) || any(greaterThanEqual(pixel, tiles.zw))) discard;
  vec2 d = pixel - middle.xy, u = uv.xy, v = uv.zw;
  vec3 w = wo.xyz;

  // Where the ray meets the plane, in standard deviations from the centre.
  float below = u.x * v.y - u.y * v.x + d.x * (w.y * v.x - w.x * v.y) + d.y * (w.x * u.y - w.y * u.x);
  vec2 s = w.z * vec2(v.y * d.x - u.y * d.y, u.x * d.y - v.x * d.x) / below;
  float square = below == 0.0 ? 1e30 : dot(s, s), depth = dot(s, w.xy) + w.z, exponent;
  if (variance < 0.0) {
    // Never thinner than the disc of 2DGS around the middle of its box.
    vec2 off = d - middle.zw;
    float low_pass = 2.0 * dot(off, off);
    if (low_pass < square) depth = w.z;
    exponent = 0.5 * min(square, low_pass);
  } else {
    // Through the pixel (AA-2DGS, 2025), with the derivative j of the place in the plane by the pixel.
    if (below == 0.0) discard;
    vec2 du = d.x * w.xy - u, dv = d.y * w.xy - v;
    float scale = depth / below;
    vec2 jx = vec2(-dv.y, dv.x) * scale, jy = vec2(du.y, -du.x) * scale;
    vec2 crossed = s.x * vec2(jx.y, jy.y) - s.y * vec2(jx.x, jy.x);
    float area = variance * (jx.x * jy.y - jx.y * jy.x);
    float spread = 1.0 + variance * (dot(jx, jx) + dot(jy, jy)) + area * area;
    exponent = 0.5 * (square + variance * dot(crossed, crossed)) / spread + 0.5 * log(spread);
  }
  if (depth < near) discard;
  float alpha = min(wo.w * exp(-exponent), MOST);
  if (alpha < LEAST) discard;
  colour = vec4(value * alpha, alpha);
}
