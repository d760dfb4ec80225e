// The page around the viewer: buttons, cameras, sliders of rounds, the video.

const byId = (id) => document.getElementById(id);
const read = (id) => JSON.parse(byId(id).textContent);

/** Draws when something has changed, coarser while things move where the machine is slow. */
class Stage {
  constructor(viewer, camera, overlay) {
    Object.assign(this, { viewer, camera, overlay, scale: 1, last: 0, pending: false, rest: 0 });
    viewer.onsorted = () => this.redraw();
    new ResizeObserver(() => this.redraw()).observe(viewer.canvas);
  }

  /** Something moved. */
  moved() {
    this.moving = true;
    clearTimeout(this.rest);
    this.rest = setTimeout(() => {
      this.moving = false;
      this.redraw();
    }, 200);
    this.redraw();
  }

  redraw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame((now) => {
      this.pending = false;
      this.adapt(now - this.last);
      this.last = now;
      this.draw();
    });
  }

  /** Fewer pixels after slow frames, more after fast ones. */
  adapt(milliseconds) {
    if (!this.moving || milliseconds > 1000) return;
    if (milliseconds > 50) this.scale = Math.max(0.25, (milliseconds > 200 ? 0.5 : 0.8) * this.scale);
    else if (milliseconds < 25) this.scale = Math.min(1, 1.1 * this.scale);
  }

  draw() {
    const { viewer, camera } = this, { canvas } = viewer, box = canvas.getBoundingClientRect();
    if (!box.width || !box.height) return;
    const dense = Math.min(window.devicePixelRatio, 2, 1600 / box.width) * (this.moving ? this.scale : 1);
    const [width, height] = [box.width, box.height].map((side) => Math.max(2, Math.round(side * dense)));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    viewer.empty = colourOf("--sheet");
    viewer.draw(camera.pose, camera.lens(width, height));
    this.overlay.draw(camera, box.width, box.height);
  }
}

/** A colour of the style sheet as three numbers 0..1. */
function colourOf(name) {
  const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16) / 255);
}

/** Cameras as frusta over the picture, those of a path joined by a line; a click on a tip takes its camera. */
class Overlay {
  constructor(canvas, sets, length) {
    Object.assign(this, { canvas, sets, length, tips: [] });
  }

  draw(camera, width, height) {
    const dense = Math.min(window.devicePixelRatio, 2), context = this.canvas.getContext("2d");
    Object.assign(this.canvas, { width: Math.round(width * dense), height: Math.round(height * dense) });
    context.setTransform(dense, 0, 0, dense, 0, 0);
    const view = viewmatOf(camera.pose), lens = camera.lens(width, height), least = 0.02 * this.length;
    this.tips = [];
    const seen = (place) => view.map((row) => dot(row, [...place, 1]));
    for (const { shown, colour, cameras, path } of this.sets) {
      if (!shown) continue;
      context.strokeStyle = colour;
      context.lineWidth = 1.5;
      context.beginPath();
      const every = path ? Math.ceil(cameras.length / 12) : 1;
      cameras.forEach((one, k) => {
        const tip = seen(column(one.c2w, 3)), [x, y, z] = tip;
        if (z > least) this.tips.push({ camera: one, at: [(lens[0] * x) / z + lens[2], (lens[1] * y) / z + lens[3]] });
        if (path && k) line(context, lens, least, seen(column(cameras[k - 1].c2w, 3)), tip);
        if (k % every) return;
        const corners = frustum(one, 0.1 * this.length).map(seen);
        for (const [i, j] of EDGES) line(context, lens, least, corners[i], corners[j]);
      });
      context.stroke();
    }
  }

  /** The camera whose tip is within 14 pixels of a place, if any. */
  near(x, y) {
    const away = ({ at }) => Math.hypot(at[0] - x, at[1] - y);
    const [found] = this.tips.filter((tip) => away(tip) < 14).sort((a, b) => away(a) - away(b));
    return found?.camera;
  }
}

const EDGES = [[0, 1], [0, 2], [0, 3], [0, 4], [1, 2], [2, 3], [3, 4], [4, 1]];

/** The tip of a camera's frustum and the corners of its picture, from the upper left one around. */
function frustum({ c2w, fx, fy, cx, cy, width, height }, depth) {
  const axes = [0, 1, 2, 3].map((k) => column(c2w, k));
  const corner = (px, py) => {
    const along = [((px - cx) / fx) * depth, (-(py - cy) / fy) * depth, -depth];
    return along.reduce((at, step, k) => add(at, axes[k], step), axes[3]);
  };
  return [axes[3], corner(0, 0), corner(width, 0), corner(width, height), corner(0, height)];
}

/** The part of a line before the camera. */
function line(context, [fx, fy, cx, cy], least, a, b) {
  if (a[2] < least && b[2] < least) return;
  const cut = (p, q) => (p[2] >= least ? p : add(p, add(q, p, -1), (least - p[2]) / (q[2] - p[2])));
  const [[ax, ay, az], [bx, by, bz]] = [cut(a, b), cut(b, a)];
  context.moveTo((fx * ax) / az + cx, (fy * ay) / az + cy);
  context.lineTo((fx * bx) / bz + cx, (fy * by) / bz + cy);
}

/** Buttons above and below the picture. */
function buttons(stage, scene) {
  const { camera, viewer, overlay } = stage;
  const visit = (one) => {
    camera.take(one);
    stage.redraw();
  };
  for (const button of document.querySelectorAll("[data-mode]")) {
    button.onclick = () => {
      viewer.mode = button.dataset.mode;
      for (const other of document.querySelectorAll("[data-mode]")) other.setAttribute("aria-pressed", other === button);
      byId("legend").hidden = viewer.mode !== "photos";
      stage.redraw();
    };
  }
  for (const [name, set] of Object.entries({ "show-photos": 0, "show-generated": 1 })) {
    if (!byId(name)) continue;
    byId(name).onchange = ({ target }) => {
      overlay.sets[set].shown = target.checked;
      stage.redraw();
    };
  }
  if (byId("generated-round")) {
    byId("generated-round").onchange = ({ target }) => {
      overlay.sets[1].cameras = scene.generated[Number(target.value)].cameras;
      overlay.sets[1].shown = byId("show-generated").checked = true;
      stage.redraw();
    };
  }
  let at = 0;
  const step = (by) => () => {
    at = (at + by + scene.cameras.length) % scene.cameras.length;
    byId("photo-name").textContent = scene.cameras[at].name;
    visit(scene.cameras[at]);
  };
  byId("photo-name").textContent = scene.cameras[0].name;
  byId("previous").onclick = step(-1);
  byId("next").onclick = step(1);
  byId("back").onclick = step(0);
  byId("whole").onclick = () => (document.fullscreenElement ? document.exitFullscreen() : byId("stage").requestFullscreen());
  byId("save").onclick = () => {
    stage.draw();
    const link = Object.assign(document.createElement("a"), { href: viewer.canvas.toDataURL("image/png"), download: "view.png" });
    link.click();
  };
  viewer.canvas.addEventListener("click", ({ offsetX, offsetY }) => {
    const found = overlay.near(offsetX, offsetY);
    if (found) visit(found);
  });
}

/** Before and after: the picture on top is cut where the slider stands. */
function sliders() {
  for (const box of document.querySelectorAll(".compare")) {
    const slider = box.querySelector("input");
    slider.oninput = () => box.style.setProperty("--cut", `${slider.value}%`);
  }
}

/** The video as a file of its own in memory: some browsers cannot jump within one that is part of the page. */
function video() {
  if (!byId("video")) return;
  byId("film").src = URL.createObjectURL(new Blob([fromBase64(byId("video").textContent)], { type: "video/mp4" }));
}

/** What scripts may ask of the viewer, in the console or from a test. */
function hook(stage) {
  const { viewer, camera, overlay } = stage;
  return {
    camera,
    overlay,
    scene: viewer.scene,
    modes: MODES,
    count: viewer.count,
    /** Show the scene (colour, or one of `modes`) through any camera; the PNG of exactly that size as a data URL. */
    look(c2w, { fx, fy, cx, cy }, width, height, mode = "colour") {
      const before = viewer.mode;
      Object.assign(viewer.canvas, { width, height });
      viewer.mode = mode;
      viewer.drawSorted(c2w.slice(0, 3), [fx, fy, cx, cy]);
      const picture = viewer.canvas.toDataURL("image/png");
      viewer.mode = before;
      return picture;
    },
    /** Frames per second of a turning camera at this size. */
    measure(width, height, frames = 20) {
      Object.assign(viewer.canvas, { width, height });
      return viewer.measure(camera, frames);
    },
  };
}

async function start() {
  sliders();
  video();
  try {
    const scene = read("scene");
    const surfels = unpack(await inflated(fromBase64(byId("surfels").textContent)), scene.surfels);
    const viewer = new Viewer(byId("picture"), { ...scene, degree: scene.surfels.degree }, read("shaders"), surfels);
    const camera = new Camera(scene.cameras[0], scene.up, scene.distance);
    const last = scene.generated.length - 1;
    const overlay = new Overlay(
      byId("overlay"),
      [
        { shown: false, colour: "#e8a33d", cameras: scene.cameras },
        { shown: false, colour: "#4fb3d9", path: true, cameras: last < 0 ? [] : scene.generated[last].cameras },
      ],
      scene.distance,
    );
    const stage = new Stage(viewer, camera, overlay);
    new Controls(viewer.canvas, camera, () => stage.moved());
    buttons(stage, scene);
    byId("loading").hidden = true;
    stage.redraw();
    window.viewer = hook(stage);
  } catch (error) {
    byId("loading").textContent = `The scene cannot be shown: ${error.message}. The rest of the page is complete.`;
  }
}

start();
