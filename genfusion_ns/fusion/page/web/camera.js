// The camera of the viewer. Poses are camera-to-world with OpenGL axes (x right, y up, z backward), as in nerfstudio:
// three rows of four numbers.

const add = (a, b, s = 1) => a.map((x, k) => x + s * b[k]);
const dot = (a, b) => a.reduce((sum, x, k) => sum + x * b[k], 0);
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = (a) => a.map((x) => x / Math.hypot(...a));
const column = (pose, k) => [pose[0][k], pose[1][k], pose[2][k]];
const posed = (...columns) => [0, 1, 2].map((row) => columns.map((part) => part[row]));

/** A vector turned about a unit axis by an angle in radians (Rodrigues). */
function turned(vector, axis, angle) {
  const c = Math.cos(angle), s = Math.sin(angle), along = dot(axis, vector) * (1 - c), across = cross(axis, vector);
  return vector.map((x, k) => c * x + s * across[k] + along * axis[k]);
}

class Camera {
  /**
   * @param {object} view a camera of the scene: c2w, fx, fy, cx, cy and width, height in pixels
   * @param {number[]} up what is upright in the scene, a unit vector
   * @param {number} distance from a camera to what it looks at, scene units
   */
  constructor(view, up, distance) {
    this.up = up;
    this.home = distance;
    this.take(view);
  }

  /** Stand where a camera of the scene stands, with its angle of view. */
  take(view) {
    this.view = view;
    this.distance = this.home;
    this.pose = view.c2w.map((row) => row.slice());
  }

  get eye() {
    return column(this.pose, 3);
  }

  get focus() {
    return add(this.eye, column(this.pose, 2), -this.distance);
  }

  /** fx, fy, cx, cy for a picture of another size that shows all that the camera's own does. */
  lens(width, height) {
    const { fx, fy, cx, cy, width: w, height: h } = this.view, scale = Math.min(width / w, height / h);
    return [fx * scale, fy * scale, width / 2 + scale * (cx - w / 2), height / 2 + scale * (cy - h / 2)];
  }

  /** Turn about the focus (or, with `still`, about the eye) by angles in radians. */
  turn(right, upward, still = false) {
    const pivot = this.focus, side = column(this.pose, 0);
    const lean = dot(column(this.pose, 2), this.up); // sine of the height from which it looks
    const most = Math.asin(0.995), height = Math.asin(Math.max(-1, Math.min(1, lean)));
    const pitch = Math.max(-most - height, Math.min(most - height, upward));
    const spin = (vector) => turned(turned(vector, side, -pitch), this.up, -right);
    const axes = [0, 1, 2].map((k) => unit(spin(column(this.pose, k))));
    this.pose = posed(...axes, still ? this.eye : add(pivot, axes[2], this.distance));
  }

  /** Go right, up and forward, in scene units. */
  move(right, upward, forward) {
    const steps = [right, upward, -forward];
    const eye = steps.reduce((at, step, k) => add(at, column(this.pose, k), step), this.eye);
    this.pose = posed(column(this.pose, 0), column(this.pose, 1), column(this.pose, 2), eye);
  }

  /** Come nearer to the focus by a factor below 1, or go away. */
  zoom(factor) {
    const focus = this.focus;
    this.distance *= factor;
    this.pose = posed(column(this.pose, 0), column(this.pose, 1), column(this.pose, 2), add(focus, column(this.pose, 2), this.distance));
  }
}

/** World-to-camera matrix with OpenCV axes of a pose, as three rows of four. */
function viewmatOf(pose) {
  const eye = column(pose, 3), signs = [1, -1, -1];
  return signs.map((sign, k) => {
    const axis = column(pose, k).map((x) => sign * x);
    return [...axis, -dot(axis, eye)];
  });
}

/** Let mouse, fingers and keys move a camera; `changed` is called after each move. */
class Controls {
  constructor(element, camera, changed) {
    Object.assign(this, { element, camera, changed, fingers: new Map(), keys: new Set(), before: 0 });
    element.addEventListener("pointerdown", (event) => this.press(event));
    element.addEventListener("pointermove", (event) => this.drag(event));
    for (const name of ["pointerup", "pointercancel"]) {
      element.addEventListener(name, (event) => this.fingers.delete(event.pointerId));
    }
    element.addEventListener("contextmenu", (event) => event.preventDefault());
    element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    element.addEventListener("keydown", (event) => this.key(event));
    element.addEventListener("keyup", (event) => this.keys.delete(event.code));
    element.addEventListener("blur", () => this.keys.clear());
  }

  press(event) {
    this.element.focus({ preventScroll: true });
    this.element.setPointerCapture(event.pointerId);
    this.fingers.set(event.pointerId, [event.clientX, event.clientY]);
  }

  /** One finger orbits; two pan and zoom; the right button or shift pans, ctrl looks around. */
  drag(event) {
    const last = this.fingers.get(event.pointerId);
    if (!last) return;
    const at = [event.clientX, event.clientY], [dx, dy] = [at[0] - last[0], at[1] - last[1]];
    const extent = this.element.clientHeight, { camera } = this;
    if (this.fingers.size === 2) {
      const [other] = [...this.fingers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      const apart = (place) => Math.hypot(place[0] - other[0], place[1] - other[1]) + 1;
      camera.zoom(apart(last) / apart(at));
      this.pan(dx / 2, dy / 2);
    } else if (event.buttons & 2 || event.shiftKey) {
      this.pan(dx, dy);
    } else if (event.ctrlKey) {
      camera.turn((-dx / extent) * 2, (-dy / extent) * 2, true);
    } else {
      camera.turn((dx / extent) * 3, (dy / extent) * 3);
    }
    this.fingers.set(event.pointerId, at);
    this.changed();
  }

  pan(dx, dy) {
    const { camera, element } = this, unitLength = camera.distance / camera.lens(element.clientWidth, element.clientHeight)[0];
    camera.move(-dx * unitLength, dy * unitLength, 0);
  }

  /** Zooms only where the viewer was clicked first, so that the page can be scrolled past it. */
  wheel(event) {
    if (document.activeElement !== this.element && !event.ctrlKey) return;
    event.preventDefault();
    this.camera.zoom(Math.exp(Math.max(-100, Math.min(100, event.deltaY)) * 0.0015));
    this.changed();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.code in STEPS)) return;
    event.preventDefault();
    if (!this.keys.size) {
      this.before = performance.now();
      requestAnimationFrame((now) => this.fly(now));
    }
    this.keys.add(event.code);
  }

  /** Half the distance to the focus in a second, or an eighth of a turn. */
  fly(now) {
    if (!this.keys.size) return;
    const seconds = Math.min(0.1, Math.max(0, now - this.before) / 1000), step = 0.5 * this.camera.home * seconds;
    this.before = now;
    for (const code of this.keys) {
      const [right, upward, forward, turn] = STEPS[code];
      this.camera.move(step * right, step * upward, step * forward);
      if (turn) this.camera.turn((turn * seconds * Math.PI) / 4, 0, true);
    }
    this.changed();
    requestAnimationFrame((later) => this.fly(later));
  }
}

const STEPS = {
  KeyW: [0, 0, 1, 0], KeyS: [0, 0, -1, 0], KeyA: [-1, 0, 0, 0], KeyD: [1, 0, 0, 0], KeyE: [0, 1, 0, 0], KeyQ: [0, -1, 0, 0],
  ArrowUp: [0, 0, 1, 0], ArrowDown: [0, 0, -1, 0], ArrowLeft: [0, 0, 0, -1], ArrowRight: [0, 0, 0, 1],
};
