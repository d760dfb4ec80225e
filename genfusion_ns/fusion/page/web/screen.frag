#version 300 es
// What the surfels of a pixel add up to, before the surroundings of the scene.
precision highp float;
precision highp int;
precision highp sampler2D;

uniform sampler2D sums;
uniform mat4 viewmat;
uniform vec4 lens;
uniform vec2 size;
uniform int mode;
uniform vec3 mean;       // of the surroundings
uniform vec3 around[9];  // what differs from it, in spherical harmonics of degree 2
uniform vec3 empty;      // behind normals and photos

out vec4 colour;

vec3 surroundings(vec3 d) {
  vec3 q = d * d;
  vec3 sum = mean + 0.28209479 * around[0];
  sum += 0.48860251 * (-d.y * around[1] + d.z * around[2] - d.x * around[3]);
  sum += 1.09254843 * (d.x * d.y * around[4] - d.y * d.z * around[5] - d.x * d.z * around[7]);
  sum += 0.31539157 * (2.0 * q.z - q.x - q.y) * around[6] + 0.54627422 * (q.x - q.y) * around[8];
  return clamp(sum, 0.0, 1.0);
}

// Dark violet, blue, green, yellow: few photos to all of them. The page's legend has the same stops.
vec3 ramp(float x) {
  vec3 a = vec3(0.27, 0.08, 0.37), b = vec3(0.19, 0.41, 0.56), c = vec3(0.21, 0.72, 0.47), d = vec3(0.99, 0.91, 0.15);
  float t = 3.0 * clamp(x, 0.0, 1.0);
  return t < 1.0 ? mix(a, b, t) : t < 2.0 ? mix(b, c, t - 1.0) : mix(c, d, t - 2.0);
}

void main() {
  vec4 sum = texelFetch(sums, ivec2(gl_FragCoord.xy), 0);
  vec3 rgb;
  if (mode == 0) {
    vec2 pixel = vec2(gl_FragCoord.x, size.y - gl_FragCoord.y);
    vec3 ray = vec3((pixel - lens.zw) / lens.xy, 1.0);
    rgb = sum.rgb + (1.0 - sum.a) * surroundings(normalize(transpose(mat3(viewmat)) * ray));
  } else if (mode == 1) {
    vec3 normal = 2.0 * sum.rgb - sum.a;
    rgb = 0.5 + 0.5 * normal / max(length(normal), 1e-6);
    rgb = mix(empty, rgb, sum.a);
  } else {
    rgb = mix(empty, ramp(sum.r / max(sum.a, 1e-6)), sum.a);
  }
  colour = vec4(rgb, 1.0);
}
