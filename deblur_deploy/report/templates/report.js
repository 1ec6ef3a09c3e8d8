"use strict";

const LARGEST_ZOOM = 8;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** One photograph: a divider between two of its versions, and a zoom that both share. */
class Comparison {
  constructor(figure) {
    this.figure = figure;
    this.frame = figure.querySelector(".frame");
    this.range = figure.querySelector(".range");
    this.views = [...figure.querySelectorAll(".view")];
    this.zoom = 1;
    this.x = 0;
    this.y = 0;
    this.pointers = new Map();
    this.range.addEventListener("input", () => this.show());
    for (const select of figure.querySelectorAll("select")) {
      select.addEventListener("change", () => this.choose(select));
    }
    for (const button of figure.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => this.press(button.dataset.zoom));
    }
    this.listen();
    this.show();
  }

  listen() {
    const frame = this.frame;
    frame.addEventListener("pointerdown", (event) => this.grab(event));
    frame.addEventListener("pointermove", (event) => this.move(event));
    for (const ending of ["pointerup", "pointercancel"]) {
      frame.addEventListener(ending, (event) => this.pointers.delete(event.pointerId));
    }
    frame.addEventListener("dblclick", (event) => this.zoomTo(this.zoom > 1 ? 1 : 3, event));
    frame.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    frame.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.show()).observe(frame);
  }

  side(name) {
    return this.views[this.figure.querySelector(`select[data-side="${name}"]`).value];
  }

  /** Two sides never show the same: the other side takes what this one had. */
  choose(select) {
    const other = this.figure.querySelector(`select[data-side="${select.dataset.side === "left" ? "right" : "left"}"]`);
    if (other.value === select.value) {
      other.value = this.views.findIndex((view) => view.classList.contains(select.dataset.side));
    }
    this.show();
  }

  show() {
    const left = this.side("left");
    const right = this.side("right");
    for (const view of this.views) {
      view.classList.toggle("left", view === left);
      view.classList.toggle("right", view === right);
      view.querySelector("img").setAttribute("aria-hidden", String(view !== left && view !== right));
    }
    const { width, height } = this.frame.getBoundingClientRect();
    this.x = clamp(this.x, width * (1 - this.zoom), 0);
    this.y = clamp(this.y, height * (1 - this.zoom), 0);
    for (const [name, value] of [["at", this.range.value], ["zoom", this.zoom], ["x", this.x], ["y", this.y]]) {
      this.frame.style.setProperty(`--${name}`, value);
    }
    this.frame.classList.toggle("zoomed", this.zoom > 1);
    this.figure.querySelector(".tag-left").textContent = left.dataset.note;
    this.figure.querySelector(".tag-right").textContent = right.dataset.note;
    this.figure.querySelector('[data-zoom="reset"]').textContent = `${Number(this.zoom.toFixed(1))}×`;
    const share = Number(this.range.value);
    this.range.setAttribute("aria-valuetext", `${share} % ${left.dataset.label}, ${100 - share} % ${right.dataset.label}`);
  }

  place(event) {
    const box = this.frame.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top, width: box.width, height: box.height };
  }

  grab(event) {
    if (event.pointerType === "mouse" && event.button !== 0) return;
    const place = this.place(event);
    const divider = (place.width * this.range.value) / 100;
    const moves = this.zoom === 1 || Math.abs(place.x - divider) < 26 ? "divider" : "picture";
    this.frame.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, { ...place, moves });
    if (moves === "divider" && event.pointerType === "mouse") this.slide(place);
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const place = this.place(event);
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId);
    if (others.length === 1) {
      this.pinch(before, place, others[0][1]);
    } else if (before.moves === "divider") {
      this.slide(place);
    } else {
      this.x += place.x - before.x;
      this.y += place.y - before.y;
      this.show();
    }
    this.pointers.set(event.pointerId, { ...place, moves: before.moves });
  }

  slide(place) {
    this.range.value = Math.round((100 * place.x) / place.width);
    this.show();
  }

  pinch(before, place, other) {
    const distance = (point) => Math.hypot(point.x - other.x, point.y - other.y);
    const middle = { x: (place.x + other.x) / 2, y: (place.y + other.y) / 2 };
    this.zoomAround((this.zoom * distance(place)) / Math.max(distance(before), 1), middle);
  }

  zoomTo(zoom, event) {
    const box = this.frame.getBoundingClientRect();
    this.zoomAround(zoom, event ? this.place(event) : { x: box.width / 2, y: box.height / 2 });
  }

  /** The point of the picture below `point` stays there. */
  zoomAround(wanted, point) {
    const zoom = clamp(wanted, 1, LARGEST_ZOOM);
    this.x = point.x - ((point.x - this.x) * zoom) / this.zoom;
    this.y = point.y - ((point.y - this.y) * zoom) / this.zoom;
    this.zoom = zoom;
    this.show();
  }

  wheel(event) {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    this.zoomTo(this.zoom * Math.exp(-event.deltaY / 200), event);
  }

  press(which) {
    this.zoomTo({ in: this.zoom * 2, out: this.zoom / 2, reset: 1 }[which]);
  }

  key(event) {
    if (event.target !== this.frame || event.ctrlKey || event.metaKey || event.altKey) return;
    const zooms = { "+": "in", "=": "in", "-": "out", 0: "reset" };
    const moves = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
    if (event.key in zooms) {
      this.press(zooms[event.key]);
    } else if (event.key in moves && this.zoom > 1) {
      this.x += moves[event.key][0];
      this.y += moves[event.key][1];
      this.show();
    } else {
      return;
    }
    event.preventDefault();
  }
}

/** Thumbnails as tabs: one photograph at a time, arrow keys go from one to the next. */
function chooseByThumbnail(list) {
  const tabs = [...list.querySelectorAll("[role=tab]")];
  const select = (chosen) => {
    for (const tab of tabs) {
      const panel = document.getElementById(tab.getAttribute("aria-controls"));
      panel.hidden = tab !== chosen;
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
    }
  };
  for (const [index, tab] of tabs.entries()) {
    tab.addEventListener("click", () => select(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(index + step + tabs.length) % tabs.length];
      event.preventDefault();
      select(next);
      next.focus();
    });
  }
  for (const panel of document.querySelectorAll(".compare")) {
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-label", panel.dataset.name);
  }
  list.hidden = tabs.length < 2;
  select(tabs[0]);
}

for (const figure of document.querySelectorAll(".compare")) new Comparison(figure);
for (const list of document.querySelectorAll("[role=tablist]")) chooseByThumbnail(list);
