// Draws the surfels: sorted by depth, blended from the back into a picture of half floats, then put before the
// surroundings of the scene.

const MODES = ["colour", "normals", "photos"];

class Viewer {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {object} scene near, variance, degree, mean, around, up, distance, photos: see packing.py and scene.py
   * @param {object} shaders sources by file name
   * @param {object} surfels as `unpack` gives them
   */
  constructor(canvas, scene, shaders, surfels) {
    this.canvas = canvas;
    this.scene = scene;
    const gl = (this.gl = canvas.getContext("webgl2", { alpha: false, antialias: false, powerPreference: "high-performance" }));
    if (!gl) throw new Error("this browser offers no WebGL 2");
    if (!gl.getExtension("EXT_color_buffer_float") && !gl.getExtension("EXT_color_buffer_half_float")) {
      throw new Error("this graphics card cannot draw into floating-point pictures");
    }
    this.count = surfels.seen.length;
    this.places = surfels.places;
    this.surfelProgram = new Program(gl, shaders["surfel.vert"], shaders["surfel.frag"]);
    this.screenProgram = new Program(gl, shaders["screen.vert"], shaders["screen.frag"]);
    this.sums = new Target(gl);
    this.upload(surfels);
    this.mode = "colour";
    this.order = null;
    this.sorter = new Sorter(surfels.places, scene.near, (order) => {
      this.take(order);
      this.onsorted();
    });
    this.onsorted = () => {};
  }

  upload(surfels) {
    const { gl, count } = this, most = Math.max(1, this.scene.photos);
    const share = Float32Array.from(surfels.seen, (photos) => Math.min(1, photos / most));
    this.textures = {
      places: dataTexture(gl, surfels.places, share, gl.RGBA32F),
      firsts: dataTexture(gl, surfels.firsts, surfels.opacities, gl.RGBA32F),
      seconds: dataTexture(gl, surfels.seconds, surfels.sides, gl.RGBA32F),
      colours: dataTexture(gl, surfels.colours, null, gl.RGBA16F),
    };
    this.list = gl.createVertexArray();
    this.ids = gl.createBuffer();
    gl.bindVertexArray(this.list);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.ids);
    gl.bufferData(gl.ARRAY_BUFFER, 4 * count, gl.DYNAMIC_DRAW);
    const place = gl.getAttribLocation(this.surfelProgram.program, "surfel");
    gl.enableVertexAttribArray(place);
    gl.vertexAttribIPointer(place, 1, gl.UNSIGNED_INT, 0, 0);
    gl.vertexAttribDivisor(place, 1);
    gl.bindVertexArray(null);
  }

  /** Use an order of drawing from now on. */
  take(order) {
    this.order = order;
    this.gl.bindBuffer(this.gl.ARRAY_BUFFER, this.ids);
    this.gl.bufferSubData(this.gl.ARRAY_BUFFER, 0, order);
  }

  /** Draw with the order that there is, and ask for a new one when the camera looks another way. */
  draw(pose, lens) {
    const row = viewmatOf(pose)[2];
    if (!this.order) this.take(sortByDepth(this.places, row, this.scene.near));
    else if (row.some((x, k) => x !== this.row[k])) this.sorter.ask(row);
    this.row = row;
    this.paint(pose, lens);
  }

  /** Draw with the exact order of this camera, at once. */
  drawSorted(pose, lens) {
    this.row = viewmatOf(pose)[2];
    this.take(sortByDepth(this.places, this.row, this.scene.near));
    this.paint(pose, lens);
  }

  paint(pose, lens) {
    const { gl, canvas, scene } = this, { width, height } = canvas, view = viewmatOf(pose);
    const shared = {
      viewmat: [0, 1, 2, 3].flatMap((k) => [view[0][k], view[1][k], view[2][k], k === 3 ? 1 : 0]),
      lens,
      size: [width, height],
      mode: MODES.indexOf(this.mode),
    };
    this.sums.fit(width, height);
    gl.viewport(0, 0, width, height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.sums.frame);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    this.surfelProgram.use(
      { ...shared, eye: column(pose, 3), near: scene.near, variance: scene.variance, degree: scene.degree },
      this.textures,
    );
    gl.bindVertexArray(this.list);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, this.order.length);
    gl.bindVertexArray(null);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.disable(gl.BLEND);
    this.screenProgram.use(
      { ...shared, mean: scene.mean, around: scene.around.flat(), empty: this.empty },
      { sums: this.sums.texture },
    );
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  /** What is behind normals and photos, 0..1. */
  empty = [0.5, 0.5, 0.5];

  /** Frames per second at the canvas' size with a turning camera, sorting included; waits for every frame. */
  measure(camera, frames) {
    const lens = camera.lens(this.canvas.width, this.canvas.height), pixel = new Uint8Array(4), { gl } = this;
    const began = performance.now();
    for (let k = 0; k < frames; k++) {
      camera.turn(0.01, 0);
      this.drawSorted(camera.pose, lens);
      gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);
    }
    return (1000 * frames) / (performance.now() - began);
  }
}

/** A program whose uniforms are set by name. */
class Program {
  constructor(gl, vertex, fragment) {
    this.gl = gl;
    this.program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(this.program, shader);
    }
    gl.linkProgram(this.program);
    if (!gl.getProgramParameter(this.program, gl.LINK_STATUS)) {
      const logs = gl.getAttachedShaders(this.program).map((shader) => gl.getShaderInfoLog(shader));
      throw new Error(`the shaders do not compile here: ${[gl.getProgramInfoLog(this.program), ...logs].join(" ")}`);
    }
    this.setters = {};
    for (let k = 0; k < gl.getProgramParameter(this.program, gl.ACTIVE_UNIFORMS); k++) {
      const { name, type } = gl.getActiveUniform(this.program, k), place = gl.getUniformLocation(this.program, name);
      this.setters[name.replace("[0]", "")] = {
        [gl.FLOAT]: (x) => gl.uniform1f(place, x),
        [gl.INT]: (x) => gl.uniform1i(place, x),
        [gl.SAMPLER_2D]: (x) => gl.uniform1i(place, x),
        [gl.FLOAT_VEC2]: (x) => gl.uniform2fv(place, x),
        [gl.FLOAT_VEC3]: (x) => gl.uniform3fv(place, x),
        [gl.FLOAT_VEC4]: (x) => gl.uniform4fv(place, x),
        [gl.FLOAT_MAT4]: (x) => gl.uniformMatrix4fv(place, false, x),
      }[type];
    }
  }

  use(values, textures) {
    const { gl } = this;
    gl.useProgram(this.program);
    Object.entries(textures).forEach(([name, texture], unitNumber) => {
      gl.activeTexture(gl.TEXTURE0 + unitNumber);
      gl.bindTexture(gl.TEXTURE_2D, texture);
      this.setters[name]?.(unitNumber);
    });
    for (const [name, value] of Object.entries(values)) this.setters[name]?.(value);
  }
}

/** A picture of half floats to draw into. */
class Target {
  constructor(gl) {
    this.gl = gl;
    this.frame = gl.createFramebuffer();
    this.width = this.height = 0;
  }

  fit(width, height) {
    const { gl } = this;
    if (this.width === width && this.height === height) return;
    gl.deleteTexture(this.texture ?? null);
    this.texture = emptyTexture(gl, gl.RGBA16F, width, height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.frame);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, this.texture, 0);
    [this.width, this.height] = [width, height];
  }
}

function emptyTexture(gl, format, width, height) {
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texStorage2D(gl.TEXTURE_2D, 1, format, width, height);
  for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
  for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, name, gl.CLAMP_TO_EDGE);
  return texture;
}

/** Triples, and one more number for each where there are some, as rows of 4096 texels. */
function dataTexture(gl, triples, fourths, format) {
  const count = triples.length / 3, rows = Math.ceil(count / 4096), texels = new Float32Array(4 * 4096 * rows);
  for (let i = 0; i < count; i++) {
    texels.set(triples.subarray(3 * i, 3 * i + 3), 4 * i);
    if (fourths) texels[4 * i + 3] = fourths[i];
  }
  const texture = emptyTexture(gl, format, 4096, rows);
  gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, 4096, rows, gl.RGBA, gl.FLOAT, texels);
  return texture;
}
