"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const column = (text, Type) => new Type(Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0)).buffer);
  const byId = (id) => document.getElementById(id);
  const action = column(data.events.action, Uint8Array);
  const ofEvent = column(data.events.buffer, Int32Array);
  const opOf = column(data.events.op, Int32Array);
  const block = column(data.events.size, Float64Array);
  const size = column(data.buffers.size, Float64Array);
  const kind = column(data.buffers.kind, Int32Array);
  const band = column(data.buffers.band, Int32Array);
  const title = column(data.buffers.title, Int32Array);
  const spec = column(data.buffers.spec, Int32Array);
  const ops = { name: column(data.ops.name, Int32Array), place: column(data.ops.place, Int32Array) };
  const count = action.length, buffers = size.length;
  const ALLOC = 0, FREE = 1, RESERVE = 2, RELEASE = 3;

  // What happened: when each buffer lived, and the three curves.
  const start = new Int32Array(buffers).fill(-1), stop = new Int32Array(buffers).fill(count);
  const clock = new Float64Array(count);
  const curves = [0, 1, 2].map(() => new Float64Array(count));
  const now = [0, 0, 0];
  for (let at = 0; at < count; at++) {
    const index = ofEvent[at];
    clock[at] = at;
    if (action[at] === ALLOC) { start[index] = at; now[0] += size[index]; now[1] += block[at]; }
    else if (action[at] === FREE) { stop[index] = at; now[0] -= size[index]; now[1] -= block[at]; }
    else if (action[at] === RESERVE) now[2] += block[at];
    else if (action[at] === RELEASE) now[2] -= block[at];
    curves.forEach((curve, row) => { curve[at] = now[row]; });
  }

  // Words.
  const bytes = (value) => {
    for (const [factor, unit] of [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
      const scaled = value / factor;
      if (Math.abs(scaled) >= 1) return (Math.abs(scaled) >= 999.95 ? scaled.toFixed(0) : scaled.toPrecision(4)) + " " + unit;
    }
    return value + " B";
  };
  const whole = (value) => value.toLocaleString("en-US");
  const phaseAt = (at) => data.phases.find((phase) => phase[2] <= at && at < phase[3]);
  const opText = (op) => op < 0 ? "" : `, at ${data.texts[ops.name[op]]}${data.texts[ops.place[op]]}`;
  const moment = (at) => {
    const phase = phaseAt(at);
    return `event ${whole(at)}` + (phase ? `, ${phase[0]}` + (phase[1] ? ` of step ${phase[1]}` : "") : "") + opText(opOf[at]);
  };
  const storyOf = (index) => {
    const lines = [data.texts[title[index]], `${bytes(size[index])} (${whole(size[index])} bytes) ${data.texts[spec[index]]}`];
    lines.push(`allocated: ${moment(start[index])}`);
    lines.push(stop[index] < count ? `freed: ${moment(stop[index])}` : "never freed");
    const law = data.kinds[kind[index]][2];
    if (law) lines.push(`grows as ${law}`);
    return lines.join("\n");
  };

  // The stack: bands from the bottom up, in a band its buffers as they were allocated.
  const rank = (index) => band[index] * buffers + index;
  const aliveAt = (at) => {
    const found = [];
    for (let index = 0; index < buffers; index++) if (start[index] <= at && at < stop[index] && start[index] >= 0) found.push(index);
    return found.sort((a, b) => rank(a) - rank(b));
  };
  const bufferAt = (at, level) => {
    for (const index of aliveAt(at)) if ((level -= size[index]) < 0) return index;
    return -1;
  };
  const highest = (from, to) => {
    let best = from;
    for (let at = from + 1; at < to; at++) if (curves[0][at] > curves[0][best]) best = at;
    return best;
  };
  /** The moments that stand for each pixel from `low` to `high`, and the first event of each. */
  const moments = (low, high, pixels) => {
    const from = Math.max(0, Math.floor(low)), to = Math.min(count, Math.ceil(high) + 1);
    const columns = Math.max(1, Math.min(pixels, to - from)), edges = [];
    for (let part = 0; part <= columns; part++) edges.push(from + Math.floor((to - from) * part / columns));
    return edges.slice(0, -1).map((edge, part) => ({ from: edge, to: edges[part + 1], at: highest(edge, edges[part + 1]) }));
  };
  /** Calls `visit(moment, bytes by band, bytes below `chosen`)` for each of the moments, in one walk. */
  const walk = (list, visit, chosen = -1) => {
    const held = new Float64Array(data.bands.length), limit = chosen < 0 ? -1 : rank(chosen);
    let at = 0, below = 0;
    for (const item of list) {
      for (; at <= item.at; at++) {
        if (action[at] > FREE) continue;
        const index = ofEvent[at], change = action[at] === ALLOC ? size[index] : -size[index];
        held[band[index]] += change;
        if (rank(index) < limit) below += change;
      }
      visit(item, held, below);
    }
  };

  // The chart.
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const state = { at: data.peak, chosen: -1, kept: false, sort: 0, down: true, all: false };
  const drawBoxes = (u) => {
    const { ctx, bbox } = u, scale = u.scales.x;
    const x = (at) => Math.round(u.valToPos(at, "x", true)), y = (level) => u.valToPos(level, "y", true);
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    data.phases.forEach((phase, place) => {
      if (place % 2) return;
      ctx.fillStyle = css("--soft");
      ctx.fillRect(x(phase[2]), bbox.top, x(phase[3]) - x(phase[2]), bbox.height);
    });
    walk(moments(scale.min, scale.max, Math.round(bbox.width)), (item, held) => {
      const left = x(item.from), right = Math.max(left + 1, x(item.to));
      let level = 0;
      for (let row = 0; row < held.length; row++) {
        if (!held[row]) continue;
        ctx.fillStyle = data.bands[row].colour;
        ctx.fillRect(left, y(level + held[row]), right - left, y(level) - y(level + held[row]) + 0.5);
        level += held[row];
      }
    });
    ctx.fillStyle = css("--ink");
    ctx.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.textAlign = "center";
    for (const [name, step, from, to] of data.phases) {
      const left = Math.max(bbox.left, x(from)), right = Math.min(bbox.left + bbox.width, x(to)), words = step ? `${name} ${step}` : name;
      if (ctx.measureText(words).width < right - left - 4) ctx.fillText(words, (left + right) / 2, bbox.top + 14 * devicePixelRatio);
    }
    ctx.restore();
  };
  const mark = document.createElement("canvas");
  mark.className = "mark";
  const drawMark = (u) => {
    mark.width = u.over.clientWidth * devicePixelRatio;
    mark.height = u.over.clientHeight * devicePixelRatio;
    mark.style.width = u.over.clientWidth + "px";
    mark.style.height = u.over.clientHeight + "px";
    const index = state.chosen;
    if (index < 0) return;
    const ctx = mark.getContext("2d"), ratio = devicePixelRatio, low = Math.max(u.scales.x.min, start[index]), high = Math.min(u.scales.x.max, stop[index] - 1);
    if (high < low) return;
    const y = (level) => u.valToPos(level, "y") * ratio, x = (at) => u.valToPos(at, "x") * ratio;
    const upper = [], lower = [];
    walk(moments(low, high, mark.width), (item, held, below) => {
      if (item.at < start[index] || item.at >= stop[index]) return;
      for (const at of [item.from, item.to]) { upper.push([x(at), y(below + size[index])]); lower.push([x(at), y(below)]); }
    }, index);
    ctx.beginPath();
    [...upper, ...lower.reverse()].forEach(([left, top]) => ctx.lineTo(left, top));
    ctx.closePath();
    ctx.lineWidth = 1.5 * ratio;
    ctx.strokeStyle = css("--mark");
    ctx.fillStyle = "rgba(128,128,128,0.35)";
    ctx.fill();
    ctx.stroke();
  };

  const stepped = uPlot.paths.stepped({ align: 1 });
  const overlays = data.overlays.map((overlay) => ({ name: overlay.name, values: column(overlay.values, Float64Array) }));
  const series = [
    { label: "requested", stroke: () => css("--ink"), width: 1.5 },
    { label: "allocated", stroke: "#7a3ea8", width: 1, show: false },
    { label: "reserved", stroke: "#117733", width: 1, show: false },
    ...overlays.map((overlay, place) => ({ label: overlay.name, stroke: ["#c2185b", "#0a8f8f", "#8a6d00"][place % 3], width: 2, dash: [6, 4] })),
  ].map((row) => ({ ...row, paths: stepped, points: { show: false } }));
  const grid = { stroke: () => css("--line"), width: 1 };
  const room = () => Math.max(320, byId("chart").clientWidth);
  const chart = new uPlot({
    width: room(), height: 460, legend: { show: false },
    scales: { x: { time: false, range: (_u, low, high) => [low, Math.max(high, low + 1)] }, y: { range: (_u, _low, high) => [0, 1.08 * (high || 1)] } },
    axes: [
      { stroke: () => css("--quiet"), grid: { show: false }, ticks: grid, label: "time, in allocations and frees", labelSize: 18, values: (_u, splits) => splits.map(whole) },
      { stroke: () => css("--quiet"), grid, ticks: grid, size: 76, incrs: Array.from({ length: 46 }, (_, power) => 2 ** power), values: (_u, splits) => splits.map((value) => value ? bytes(value).replace(/\.?0+ /, " ") : "0") },
    ],
    series: [{}, ...series],
    cursor: { drag: { x: true, y: false, uni: 12 }, points: { show: false } },
    hooks: { drawAxes: [drawBoxes], draw: [drawMark] },
  }, [clock, ...curves, ...overlays.map((overlay) => overlay.values)], byId("chart"));
  chart.over.append(mark);

  // What is said about the cursor.
  const frame = (work) => { let asked = false; return () => { if (!asked) { asked = true; requestAnimationFrame(() => { asked = false; work(); }); } }; };
  const tell = frame(() => {
    byId("now").textContent = `${bytes(curves[0][state.at])} requested, ${bytes(curves[1][state.at])} allocated, ${bytes(curves[2][state.at])} reserved: ${moment(state.at)}` + (state.at === data.peak ? " (the peak)" : "");
    byId("story").textContent = state.chosen < 0 ? "Point at a box." : storyOf(state.chosen);
    byId("story").dataset.buffer = state.chosen;
    fillTable();
    drawMark(chart);
  });
  const point = (event) => { // the mouse's own movements only: uPlot moves its cursor too, when it is resized
    if (state.kept) return;
    const edge = chart.over.getBoundingClientRect();
    state.at = Math.max(0, Math.min(count - 1, Math.floor(chart.posToVal(event.clientX - edge.left, "x"))));
    state.chosen = bufferAt(state.at, chart.posToVal(event.clientY - edge.top, "y"));
    tell();
  };
  chart.over.addEventListener("mousemove", point);
  const go = (at) => {
    state.at = Math.max(0, Math.min(count - 1, at));
    if (state.chosen >= 0 && !state.kept && !(start[state.chosen] <= state.at && state.at < stop[state.chosen])) state.chosen = -1;
    const { min, max } = chart.scales.x;
    if (state.at < min || state.at > max) chart.setScale("x", { min: Math.max(0, state.at - (max - min) / 2), max: Math.min(count - 1, state.at + (max - min) / 2) });
    place();
    tell();
  };
  const place = () => chart.setCursor({ left: chart.valToPos(state.at + 0.5, "x"), top: chart.valToPos(curves[0][state.at], "y") });
  const zoom = (low, high) => { chart.setScale("x", { min: Math.max(0, low), max: Math.min(count - 1, high) }); place(); };
  const rescale = (factor) => { const { min, max } = chart.scales.x; zoom(state.at - (state.at - min) * factor, state.at + (max - state.at) * factor); };
  const keep = (kept) => { state.kept = kept && state.chosen >= 0; byId("story").style.borderColor = state.kept ? css("--mark") : ""; tell(); };
  const climb = (by) => {
    const alive = aliveAt(state.at), place_ = alive.indexOf(state.chosen);
    state.chosen = place_ < 0 ? alive[by > 0 ? 0 : alive.length - 1] ?? -1 : alive[Math.max(0, Math.min(alive.length - 1, place_ + by))];
    tell();
  };
  const keys = {
    ArrowLeft: (event) => go(state.at - stride(event)), ArrowRight: (event) => go(state.at + stride(event)),
    ArrowUp: () => climb(1), ArrowDown: () => climb(-1), Home: () => go(Math.ceil(chart.scales.x.min)), End: () => go(Math.floor(chart.scales.x.max)),
    p: () => go(data.peak), P: () => go(data.peak), "+": () => rescale(0.5), "=": () => rescale(0.5), "-": () => rescale(2),
    Enter: () => keep(true), Escape: () => keep(false),
  };
  const stride = (event) => event.shiftKey ? Math.max(1, Math.round((chart.scales.x.max - chart.scales.x.min) / 100)) : 1;
  byId("chart").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key](event);
  });
  chart.over.addEventListener("click", () => keep(!state.kept));

  // The table.
  const heads = ["Bytes", "Buffers", "Category", "What", ...(data.laws ? ["Grows as"] : [])];
  const headRow = byId("alive").tHead.rows[0];
  heads.forEach((words, place_) => {
    const cell = document.createElement("th"), button = document.createElement("button");
    cell.scope = "col";
    cell.className = place_ < 2 ? "number" : "";
    button.type = "button";
    button.textContent = words;
    button.addEventListener("click", () => { state.down = state.sort === place_ ? !state.down : place_ < 2; state.sort = place_; fillTable(); });
    cell.append(button);
    headRow.append(cell);
  });
  const rowsAt = (at) => {
    const rows = new Map();
    for (const index of aliveAt(at)) {
      const [name, category, law] = data.kinds[kind[index]];
      const row = rows.get(kind[index]) ?? { cells: [0, 0, data.categories[category].name, data.texts[name], law ?? ""], colour: data.categories[category].colour };
      row.cells[0] += size[index];
      row.cells[1] += 1;
      rows.set(kind[index], row);
    }
    const sign = state.down ? -1 : 1, key = state.sort;
    return [...rows.values()].sort((a, b) => sign * (key < 2 ? a.cells[key] - b.cells[key] : a.cells[key].localeCompare(b.cells[key])) || b.cells[0] - a.cells[0]);
  };
  const line = (cells, colour) => {
    const row = document.createElement("tr");
    cells.slice(0, heads.length).forEach((value, place_) => {
      const cell = row.insertCell();
      if (place_ === 0) { cell.title = `${whole(value)} bytes`; cell.dataset.bytes = value; }
      if (place_ < 2) cell.className = "number";
      if (place_ === 2 && colour) { const box = document.createElement("i"); box.style.background = colour; cell.append(box); }
      cell.append(place_ === 0 ? bytes(value) : place_ === 1 ? whole(value) : value);
    });
    return row;
  };
  const SHOWN = 15;
  const fillTable = () => {
    const rows = rowsAt(state.at), shown = state.all ? rows : rows.slice(0, SHOWN), left = rows.slice(shown.length);
    const sum = (list, key) => list.reduce((total, row) => total + row.cells[key], 0);
    const lines = shown.map((row) => line(row.cells, row.colour));
    if (left.length) lines.push(line([sum(left, 0), sum(left, 1), "", `${left.length} more kinds`, ""]));
    byId("alive").tBodies[0].replaceChildren(...lines);
    byId("alive").tFoot.replaceChildren(line([sum(rows, 0), sum(rows, 1), "", "all that is alive", ""]));
    [...headRow.cells].forEach((cell, place_) => cell.setAttribute("aria-sort", place_ !== state.sort ? "none" : state.down ? "descending" : "ascending"));
  };

  // Buttons, lines, legend, theme, size.
  byId("to-peak").addEventListener("click", () => { state.kept = false; go(data.peak); });
  byId("zoom-peak").addEventListener("click", () => { state.kept = false; zoom(data.peak - count / 40, data.peak + count / 40); go(data.peak); });
  byId("zoom-out").addEventListener("click", () => zoom(0, count - 1));
  byId("all").addEventListener("click", () => { state.all = !state.all; byId("all").setAttribute("aria-pressed", state.all); fillTable(); });
  series.forEach((row, place_) => {
    const label = document.createElement("label"), box = document.createElement("input"), swatch = document.createElement("i");
    box.type = "checkbox";
    box.checked = row.show !== false;
    box.addEventListener("change", () => chart.setSeries(place_ + 1, { show: box.checked }));
    swatch.style.borderColor = typeof row.stroke === "string" ? row.stroke : "currentColor";
    if (row.dash) swatch.style.borderTopStyle = "dashed";
    label.append(box, swatch, row.label);
    byId("lines").append(label);
  });
  for (const { name, colour } of data.categories) {
    const item = document.createElement("li"), box = document.createElement("i");
    box.style.background = colour;
    item.append(box, name);
    byId("legend").append(item);
  }
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  byId("theme").addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; chart.redraw(); });
  dark.addEventListener("change", () => chart.redraw());
  addEventListener("resize", frame(() => { chart.setSize({ width: room(), height: 460 }); place(); }));

  if (data.view[1] - data.view[0] < count) zoom(data.view[0], data.view[1]);
  go(data.view[0] <= data.peak && data.peak < data.view[1] ? data.peak : highest(data.view[0], data.view[1]));
  requestAnimationFrame(() => requestAnimationFrame(() => { document.documentElement.dataset.ready = Math.round(performance.now()); }));
})();
