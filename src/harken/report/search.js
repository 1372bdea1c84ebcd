"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector) => [...document.querySelectorAll(selector)];
  // The best run is drawn last, on top of the others.
  const lines = all("#lines polyline").sort((a, b) => a.dataset.run - b.dataset.run);
  const rows = all("#ranking tbody tr");
  const dots = all(".dots circle");
  const brushes = new Map(); // axis number → [low, high], as places on its scale
  const told = document.getElementById("told");
  const clear = document.getElementById("clear");
  const rowOf = new Map(rows.map((row) => [row.dataset.run, row]));

  // --- brushing: a run stays if it lies inside every chosen range ---

  const stays = (run) =>
    [...brushes].every(([axis, [low, high]]) => {
      const place = data.places[axis][run];
      return place >= low - 1e-6 && place <= high + 1e-6;
    });

  function show() {
    let count = 0;
    lines.forEach((line, run) => {
      const kept = stays(run);
      count += kept;
      line.classList.toggle("off", !kept);
      rowOf.get(String(run))?.classList.toggle("off", !kept);
    });
    dots.forEach((dot) => dot.classList.toggle("off", !stays(Number(dot.dataset.run))));
    all("#lines .axis").forEach((axis) => {
      const range = brushes.get(Number(axis.dataset.axis));
      const mark = axis.querySelector(".brush");
      mark.toggleAttribute("hidden", !range);
      if (range) {
        mark.setAttribute("y", data.top + (1 - range[1]) * data.height);
        mark.setAttribute("height", Math.max(2, (range[1] - range[0]) * data.height));
      }
    });
    told.textContent = brushes.size ? `${count} of ${lines.length} runs chosen` : "";
    clear.hidden = !brushes.size;
  }

  function placeOf(axis, event) {
    const svg = axis.ownerSVGElement;
    const point = new DOMPoint(event.clientX, event.clientY);
    const { y } = point.matrixTransform(svg.getScreenCTM().inverse());
    return Math.min(1.03, Math.max(-0.14, 1 - (y - data.top) / data.height));
  }

  function drag(axis, event) {
    const number = Number(axis.dataset.axis);
    const from = placeOf(axis, event);
    event.preventDefault();
    axis.focus({ preventScroll: true });
    brushes.delete(number);
    const move = (next) => {
      const to = placeOf(axis, next);
      if (Math.abs(to - from) > 0.012) brushes.set(number, [Math.min(from, to), Math.max(from, to)]);
      show();
    };
    const end = () => {
      window.removeEventListener("pointermove", move);
      window.removeEventListener("pointerup", end);
      window.removeEventListener("pointercancel", end);
      show();
    };
    window.addEventListener("pointermove", move);
    window.addEventListener("pointerup", end);
    window.addEventListener("pointercancel", end);
  }

  function press(axis, event) {
    const number = Number(axis.dataset.axis);
    const step = { ArrowUp: 0.05, ArrowDown: -0.05 }[event.key];
    if (event.key === "Escape") brushes.delete(number);
    else if (!step) return;
    else {
      const [low, high] = brushes.get(number) ?? [-0.14, 1.03];
      const range = event.shiftKey ? [low, high + step] : [low + step, high];
      if (range[0] < range[1] - 0.02) brushes.set(number, range);
    }
    event.preventDefault();
    show();
  }

  all("#lines .axis").forEach((axis) => {
    axis.querySelector(".hit").addEventListener("pointerdown", (event) => drag(axis, event));
    axis.addEventListener("keydown", (event) => press(axis, event));
  });
  clear?.addEventListener("click", () => {
    brushes.clear();
    show();
  });

  // --- one run, pointed at in the drawing, a plot or the table ---

  function point(run) {
    [lines, rows, dots].flat().forEach((mark) => mark.classList.toggle("on", mark.dataset.run === run));
    const line = run === null ? null : lines[Number(run)];
    if (line) line.parentNode.append(line);
  }
  [lines, rows, dots].flat().forEach((mark) => {
    mark.addEventListener("pointerenter", () => point(mark.dataset.run));
    mark.addEventListener("pointerleave", () => point(null));
  });

  // --- colours ---

  const colour = document.getElementById("colour");
  colour?.addEventListener("change", () => {
    const shares = data.colours[colour.value];
    lines.forEach((line, run) => line.style.setProperty("--share", shares[run]));
  });

  // --- sorting ---

  all("#ranking thead button").forEach((button) => {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const place = [...head.parentNode.children].indexOf(head);
      const rising = head.getAttribute("aria-sort") !== "ascending";
      all("#ranking th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const key = (row) => row.children[place].dataset.key ?? "";
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === "") || 0;
        const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : Number(x) - Number(y);
        return rising ? order : -order;
      };
      document.querySelector("#ranking tbody").append(...[...rows].sort(compare));
    });
  });
})();
