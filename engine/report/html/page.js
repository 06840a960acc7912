"use strict";

// ---- Tables: a click on the heading of a column sorts by it, a second one in the other direction.

function valueOf(row, index) {
  const cell = row.cells[index];
  if (!("value" in cell.dataset)) return cell.textContent.trim().toLowerCase();
  return cell.dataset.value === "" ? null : Number(cell.dataset.value);
}

function sortBy(table, index) {
  const heads = [...table.tHead.rows[0].cells];
  const ascending = heads[index].getAttribute("aria-sort") !== "ascending";
  const isRemark = (row) => row?.className === "remark"; // on the row above, with which it moves
  const rows = [...table.tBodies[0].rows].filter((row) => !isRemark(row)).map((row) => {
    const below = row.nextElementSibling;
    return { lines: isRemark(below) ? [row, below] : [row], value: valueOf(row, index) };
  });
  const isMissing = (value) => value === null || value === "-" || value === "";
  rows.sort((a, b) => {
    if (isMissing(a.value) || isMissing(b.value)) return isMissing(a.value) - isMissing(b.value); // always last
    const order = typeof a.value === "number" && typeof b.value === "number"
      ? a.value - b.value
      : String(a.value).localeCompare(String(b.value), "en", { numeric: true });
    return ascending ? order : -order;
  });
  table.tBodies[0].append(...rows.flatMap((entry) => entry.lines));
  heads.forEach((head, i) => {
    if (i === index) head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  });
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, index) => {
    head.querySelector("button").addEventListener("click", () => sortBy(table, index));
  });
}

// ---- Viewer: the volumes lie in the page as compressed files in base64.

const byId = (name) => document.getElementById(name);

async function inflate(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

// Of maps: transparent at 0, then from blue over yellow to red at their highest value.
const HEAT = { R: [40, 40, 255, 255], G: [80, 120, 220, 30], B: [220, 255, 60, 30], A: [0, 110, 190, 255], I: [0, 26, 128, 255] };

// The voxels of a mask that have a neighbour outside it; shape is (z, y, x), and x runs fastest. Slices much thicker than
// the voxels are wide are outlined each on its own: the two end slices of a mask would otherwise be filled.
function shellOf(mask, [depth, height, width], areSlicesThick) {
  const shell = new Uint8Array(mask.length);
  for (let z = 0, i = 0; z < depth; z++) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        if (!mask[i]) continue;
        const isInner = x > 0 && mask[i - 1] && x < width - 1 && mask[i + 1]
          && y > 0 && mask[i - width] && y < height - 1 && mask[i + width]
          && (areSlicesThick
            || (z > 0 && mask[i - width * height] && z < depth - 1 && mask[i + width * height]));
        if (!isInner) shell[i] = 1;
      }
    }
  }
  return shell;
}

class Viewer {
  constructor(cases) {
    this.cases = cases; // scripts of the page that hold the volumes, worst case first
    this.opened = -1;
    this.latest = 0; // counts the cases that were asked for, so that a slow one does not replace a later one
    this.drawers = null;
    const choice = byId("viewer-case");
    cases.forEach((holder, i) => choice.append(new Option(holder.dataset.key, String(i))));
    byId("viewer-open").addEventListener("click", () => this.go(Number(choice.value)));
    choice.addEventListener("change", () => { if (this.opened >= 0) this.go(Number(choice.value)); });
    byId("viewer-previous").addEventListener("click", () => this.go(this.opened - 1));
    byId("viewer-next").addEventListener("click", () => this.go(this.opened + 1));
    byId("viewer-outline").addEventListener("change", () => this.restyle());
    byId("viewer-opacity").addEventListener("input", () => this.restyle());
    byId("viewer-window").addEventListener("change", () => this.restyle());
    for (const axis of "xyz") byId(`viewer-${axis}`).addEventListener("input", () => this.moveToSliders());
    for (const button of document.querySelectorAll(".turn")) {
      button.addEventListener("click", () => this.turn(...button.dataset.turn.split(",").map(Number)));
    }
    window.addEventListener("hashchange", () => this.openFromAddress());
    this.markButtons();
    this.openFromAddress();
  }

  go(index) {
    const address = `#view=${encodeURIComponent(this.cases[index].dataset.key)}`;
    if (location.hash === address) this.open(index);
    else location.hash = address;
  }

  openFromAddress() {
    if (!location.hash.startsWith("#view=")) return;
    const key = decodeURIComponent(location.hash.slice(6));
    const index = this.cases.findIndex((holder) => holder.dataset.key === key);
    if (index >= 0) this.open(index);
    else this.say(`${key} has no 3-D view on this page; the end of the page says why.`);
    byId("viewer").scrollIntoView();
  }

  say(text) {
    byId("viewer-status").textContent = text;
  }

  markButtons() {
    byId("viewer-previous").disabled = this.opened <= 0;
    byId("viewer-next").disabled = this.opened < 0 || this.opened >= this.cases.length - 1;
  }

  async start() {
    if (!window.DecompressionStream) throw new Error("it is too old to decompress the volumes");
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("it has no WebGL 2");
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(await inflate(byId("niivue").textContent));
    document.head.append(script);
    const common = { dragAndDropEnabled: false, logLevel: "error", viewModeHotKey: "", clipPlaneHotKey: "",
      cycleClipPlaneHotKey: "", isRadiologicalConvention: true, scrollRequiresFocus: true, crosshairWidth: 0.4,
      crosshairWidthUnit: "mm", crosshairColor: [0.45, 0.75, 1, 0.9], fontColor: [0.8, 0.8, 0.8, 1] };
    const slices = new niivue.Niivue({ ...common, backColor: [0, 0, 0, 1], multiplanarShowRender: niivue.SHOW_RENDER.NEVER });
    const surface = new niivue.Niivue({ ...common, backColor: [0.07, 0.08, 0.1, 1], isOrientCube: true });
    await slices.attachToCanvas(byId("viewer-slices"));
    await surface.attachToCanvas(byId("viewer-surface"));
    // What the mouse does there, sliders and buttons do, too; the keys of NiiVue would only be found by chance.
    for (const name of ["viewer-slices", "viewer-surface"]) byId(name).tabIndex = -1;
    slices.onLocationChange = (place) => this.describe(place);
    surface.setSliceType(niivue.SLICE_TYPE.RENDER);
    surface.setRenderAzimuthElevation(180, 10); // from the front, as the coronal slice
    surface.setScale(0.75);
    this.drawers = { slices, surface };
  }

  async open(index) {
    const mine = ++this.latest;
    const holder = this.cases[index];
    this.say(`Opening ${holder.dataset.key} ...`);
    byId("viewer-body").hidden = false;
    try {
      this.starting ??= this.start();
      await this.starting;
      const content = JSON.parse(holder.textContent);
      const volumes = [await this.volume(content.scan, "scan", "gray", 1)];
      for (const [i, layer] of content.layers.entries()) {
        niivue.cmapper.addColormap(`layer${i}`, this.ramp(layer.colour));
        volumes.push(await this.volume(layer.mask, layer.name, `layer${i}`, 0));
      }
      niivue.cmapper.addColormap("probability", HEAT);
      for (const map of content.maps) volumes.push(await this.volume(map.values, map.name, "probability", 0, map.highest));
      const last = content.layers.length - 1;
      const meshes = await Promise.all(content.layers.map((layer, i) => this.mesh(layer, i === last ? 1 : 0.5)));
      if (mine !== this.latest) return;
      this.show(index, content, volumes, meshes);
      this.say(holder.dataset.about);
    } catch (error) {
      byId("viewer-body").hidden = this.opened < 0;
      this.say(`This browser cannot show the case: ${error.message}.`);
    }
  }

  // A mask has the values 0 and 1. Its colour does not change between them, only its opacity does.
  ramp([red, green, blue]) {
    return { R: [red, red, red], G: [green, green, green], B: [blue, blue, blue], A: [0, 120, 255], I: [0, 127, 255] };
  }

  async volume(base64, name, colormap, opacity, highest = 1) {
    const buffer = await inflate(base64);
    const image = await niivue.NVImage.new(buffer, `${name}.nii`, colormap, opacity);
    image.name = name;
    if (colormap !== "gray") [image.cal_min, image.cal_max] = [0, highest];
    return image;
  }

  async mesh(layer, opacity) {
    if (layer.surface === null) return null;
    const { gl } = this.drawers.surface;
    return niivue.NVMesh.readMesh(await inflate(layer.surface), "surface.mz3", gl, opacity,
      new Uint8Array([...layer.colour, 255]), true);
  }

  show(index, content, volumes, meshes) {
    const { slices, surface } = this.drawers;
    for (const old of [...slices.volumes]) slices.removeVolume(old);
    for (const old of [...surface.meshes]) surface.removeMesh(old);
    this.content = content;
    this.meshes = meshes;
    this.masks = volumes.slice(1, content.layers.length + 1).map((volume) => volume.img);
    this.shells = this.masks.map((mask) => shellOf(mask, content.shape, content.thick));
    this.opened = index;
    byId("viewer-case").value = String(index);
    this.markButtons();
    for (const volume of volumes) slices.addVolume(volume);
    for (const mesh of [...meshes].reverse()) if (mesh) surface.addMesh(mesh); // opaque ones first
    this.listLayers([...content.layers, ...content.maps]);
    this.setSliders(content.cross);
    this.restyle();
    this.moveToSliders();
  }

  listLayers(layers) {
    const field = byId("viewer-layers");
    const chosen = new Map([...field.querySelectorAll("input")].map((box) => [box.dataset.name, box.checked]));
    field.querySelectorAll("label").forEach((label) => label.remove());
    this.boxes = [{ name: "scan", shown: true }, ...layers].map((layer) => {
      const label = document.createElement("label");
      const box = document.createElement("input");
      box.type = "checkbox";
      box.dataset.name = layer.name;
      box.checked = chosen.get(layer.name) ?? layer.shown ?? false; // a choice holds for the next case, too
      box.addEventListener("change", () => this.restyle());
      label.append(box);
      if (layer.colour) {
        const swatch = document.createElement("span");
        swatch.className = "swatch";
        swatch.style.background = `rgb(${layer.colour.join(" ")})`;
        label.append(swatch);
      }
      label.append(layer.mask !== undefined && layer.surface === null ? `${layer.name} (empty)` : layer.name);
      if (layer.highest !== undefined) {
        const [range, scale, meaning] = ["range", "scale", "meaning"].map((name) => {
          const part = document.createElement("span");
          part.className = name;
          return part;
        });
        range.append("0", scale, String(layer.highest));
        meaning.textContent = layer.meaning;
        label.append(range, meaning);
      }
      field.append(label);
      return box;
    });
  }

  restyle() {
    if (this.opened < 0) return;
    const { slices, surface } = this.drawers;
    const opacity = Number(byId("viewer-opacity").value);
    const [low, high] = byId("viewer-window").value.split(",").map(Number);
    [slices.volumes[0].cal_min, slices.volumes[0].cal_max] = [low, high];
    const outline = byId("viewer-outline").checked;
    const strength = (i) => (this.masks[i - 1] && !outline ? opacity / 2 : opacity); // others are seen through a filled mask
    slices.volumes.forEach((volume, i) => {
      if (this.masks[i - 1]) volume.img = outline ? this.shells[i - 1] : this.masks[i - 1];
      volume.opacity = this.boxes[i].checked ? (i ? strength(i) : 1) : 0;
    });
    slices.updateGLVolume();
    this.meshes.forEach((mesh, i) => { if (mesh) mesh.visible = this.boxes[i + 1].checked; });
    surface.drawScene();
  }

  setSliders(shares) {
    ["z", "y", "x"].forEach((axis, i) => {
      const slider = byId(`viewer-${axis}`);
      [slider.min, slider.max] = [0, this.content.shape[i] - 1];
      slider.value = Math.min(this.content.shape[i] - 1, Math.floor(shares[i] * this.content.shape[i]));
    });
  }

  // NiiVue counts from the patient's left, from the back and from below; the arrays from the right and from the front.
  moveToSliders() {
    if (this.opened < 0) return;
    const [z, y, x] = ["z", "y", "x"].map((axis, i) => (Number(byId(`viewer-${axis}`).value) + 0.5) / this.content.shape[i]);
    const { slices } = this.drawers;
    slices.scene.crosshairPos = [1 - x, 1 - y, z];
    slices.createOnLocationChange();
    slices.drawScene();
  }

  describe(place) {
    if (this.opened < 0 || !this.content) return;
    const shares = [place.frac[2], 1 - place.frac[1], 1 - place.frac[0]];
    this.setSliders(shares);
    const { start, shape, factor, layers, maps } = this.content;
    const shown = shares.map((share, i) => Math.min(shape[i] - 1, Math.floor(share * shape[i])));
    const voxel = shown.map((index, i) => start[i] + Math.floor((index + 0.5) * factor[i]));
    const offset = (shown[0] * shape[1] + shown[1]) * shape[2] + shown[2];
    const inside = layers.filter((_, i) => this.masks[i][offset]).map((layer) => layer.name);
    byId("viewer-place").textContent = `z ${voxel[0]}, y ${voxel[1]}, x ${voxel[2]}: `
      + `${Math.round(place.values[0]?.value)} HU, ${inside.length ? `in ${inside.join(", ")}` : "in no mask"}`
      + maps.map((map, i) => `, ${map.name} ${place.values[layers.length + 1 + i]?.value.toFixed(2)}`).join("");
  }

  turn(azimuth, elevation) {
    const { scene } = this.drawers.surface;
    this.drawers.surface.setRenderAzimuthElevation(scene.renderAzimuth + azimuth, scene.renderElevation + elevation);
  }
}

if (byId("viewer")) new Viewer([...document.querySelectorAll("script.case")]);
