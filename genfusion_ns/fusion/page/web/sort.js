// Surfels from the farthest to the nearest. This function runs in a worker of its own as well, so it uses nothing else.

/**
 * Order in which to draw: by falling depth of the centres, and of equal depths the later one first.
 *
 * Depths above 0 are sorted exactly: as bits they have the order that they have as numbers, in two stable counting passes
 * over 16 bits each.
 *
 * @param {Float32Array} places x, y, z of each centre, one after the other
 * @param {number[]} row the third row of the world-to-camera matrix: four numbers that make the depth of a place
 * @param {number} near centres nearer than this are left out
 * @returns {Uint32Array} indices of the centres
 */
function sortByDepth(places, row, near) {
  const all = places.length / 3;
  const depths = new Float32Array(all), bits = new Uint32Array(depths.buffer);
  const [a, b, c, d] = row;
  let ids = new Uint32Array(all), count = 0;
  for (let i = 0; i < all; i++) {
    depths[i] = a * places[3 * i] + b * places[3 * i + 1] + c * places[3 * i + 2] + d;
    if (depths[i] >= near) ids[count++] = i;
  }
  ids = ids.subarray(0, count);
  let other = new Uint32Array(count);
  for (const shift of [0, 16]) {
    const starts = new Uint32Array(65537);
    for (let i = 0; i < count; i++) starts[((bits[ids[i]] >>> shift) & 65535) + 1]++;
    for (let k = 0; k < 65536; k++) starts[k + 1] += starts[k];
    for (let i = 0; i < count; i++) other[starts[(bits[ids[i]] >>> shift) & 65535]++] = ids[i];
    [ids, other] = [other, ids];
  }
  return ids.reverse();
}

/** Sorts away from the page, one request at a time: of those that came meanwhile only the newest is answered. */
class Sorter {
  constructor(places, near, done) {
    const code = `${sortByDepth}
      let places, near;
      onmessage = ({ data }) => {
        if (data.places) return void ({ places, near } = data);
        const order = sortByDepth(places, data.row, near);
        postMessage(order, [order.buffer]);
      };`;
    this.worker = new Worker(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
    this.worker.postMessage({ places, near });
    this.busy = false;
    this.next = null;
    this.worker.onmessage = ({ data }) => {
      this.busy = false;
      if (this.next) this.ask(this.next);
      done(data);
    };
  }

  /** Have the surfels sorted for a camera with this third row. */
  ask(row) {
    if (this.busy) return void (this.next = row);
    this.busy = true;
    this.next = null;
    this.worker.postMessage({ row });
  }
}
