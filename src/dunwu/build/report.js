// The curves of a build. What is shared by all pages runs before it.

const labels = {
  en: { tokens: "tokens", step: "step", loss: "loss", range: "single steps", lr: "of peak", speed: "tokens/s" },
  "zh-Hans": { tokens: "词元", step: "步", loss: "损失", range: "单步", lr: "占峰值", speed: "词元/秒" },
};
const curves = JSON.parse(document.getElementById("curves").textContent);
const edge = { left: 46, right: 10, top: 10, bottom: 24 };
let logarithmic = false;

function draw(name, attributes, parent, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

function short(value) {
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= size) return `${+(value / size).toPrecision(3)}${unit}`;
  }
  return String(+value.toPrecision(3));
}

function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(+value.toPrecision(12));
  return found;
}

function powers(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    for (const factor of [1, 3]) {
      if (factor * 10 ** power >= low && factor * 10 ** power <= high) found.push(factor * 10 ** power);
    }
  }
  return found;
}

function around(values) {
  const known = values.filter((value) => value !== null);
  const low = Math.min(0, ...known), high = Math.max(0, ...known);
  return [low * 1.08, high * 1.08 || 1];
}

function limits(data, series) {
  const known = data[series].filter((value) => value !== null);
  if (data.step) return around([...known, ...(data[`held_out_${series}`] || data[`${series} high`] || []), ...(series === "reward" ? data.held_out_score || [] : [])]);
  if (series !== "loss") return [0, Math.max(...known) * 1.08 || 1];
  // The first steps of a run would flatten all the rest, so the axis ends near the loss after a fiftieth of it.
  const settled = data.high[Math.min(data.high.length - 1, Math.ceil(data.high.length / 50))];
  const top = Math.min(Math.max(...data.high), Math.max(settled, data.loss[0]) * 1.05);
  const bottom = Math.min(...data.low);
  return [Math.max(0, bottom - (top - bottom) * 0.06), top];
}

function axes(svg, scale, width, height) {
  for (const value of ticks(...scale.yLimits, height > 150 ? 5 : 3)) {
    draw("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: scale.y(value), y2: scale.y(value) }, svg);
    draw("text", { x: edge.left - 8, y: scale.y(value) + 4, "text-anchor": "end" }, svg, short(value));
  }
  const [first, last] = scale.xLimits;
  for (const value of scale.log ? powers(first, last) : ticks(first, last, width > 420 ? 6 : 3)) {
    draw("text", { x: scale.x(value), y: height - 4, "text-anchor": "middle" }, svg, short(value));
  }
}

function scales(data, series, width, height) {
  const along = data.step || data.tokens;
  const last = along[along.length - 1];
  const log = logarithmic && !data.step;
  const xLimits = [log ? along[0] : 0, last];
  const yLimits = limits(data, series);
  const place = log ? Math.log : (value) => value;
  const span = place(xLimits[1]) - place(xLimits[0]) || 1;
  const x = (value) => edge.left + ((place(value) - place(xLimits[0])) / span) * (width - edge.left - edge.right);
  const y = (value) => {
    const share = (Math.min(value, yLimits[1]) - yLimits[0]) / (yLimits[1] - yLimits[0] || 1);
    return height - edge.bottom - share * (height - edge.top - edge.bottom);
  };
  return { x, y, xLimits, yLimits, along, log };
}

function plot(box) {
  const { stage, series } = box.dataset;
  const data = curves[stage];
  const values = data && data[series];
  if (!values || values.every((value) => value === null)) { box.closest("figure").hidden = true; return; }
  const width = box.clientWidth, height = box.clientHeight;
  if (!width) return;
  box.replaceChildren();
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}` }, box);
  const scale = scales(data, series, width, height);
  axes(svg, scale, width, height);
  const at = (list) => list.flatMap((value, i) => (value === null ? [] : [`${scale.x(scale.along[i]).toFixed(1)},${scale.y(value).toFixed(1)}`]));
  if (series === "loss") draw("polygon", { class: "band", points: [...at(data.high), ...at(data.low).reverse()].join(" ") }, svg);
  if (data[`${series} low`]) draw("polygon", { class: "band", points: [...at(data[`${series} high`]), ...at(data[`${series} low`]).reverse()].join(" ") }, svg);
  mark(svg, scale, data.marks || [], height);
  draw("polyline", { class: "line", points: at(values).join(" ") }, svg);
  (data[box.dataset.dots] || []).forEach((value, i) => { if (value !== null) draw("circle", { class: "held-out", r: 3, cx: scale.x(scale.along[i]), cy: scale.y(value) }, svg); });
  follow(box, svg, scale, data, series);
}

// What the doctor found: a line at its step, and its number in the list below where there is room for it.
function mark(svg, scale, marks, height) {
  for (const { step, severity, number } of marks) {
    const x = scale.x(step);
    draw("line", { class: `mark ${severity}`, x1: x, x2: x, y1: edge.top, y2: height - edge.bottom }, svg);
    if (height > 150) draw("text", { class: `mark ${severity}`, x: x + 3, y: edge.top + 8 + 12 * ((number - 1) % 4) }, svg, String(number));
  }
}

function follow(box, svg, scale, data, series) {
  const line = draw("line", { class: "cursor", y1: edge.top, y2: box.clientHeight - edge.bottom, visibility: "hidden" }, svg);
  const point = draw("circle", { class: "point", r: 4.5, visibility: "hidden" }, svg);
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  box.append(tip);
  const leave = () => { tip.hidden = true; for (const node of [line, point]) node.setAttribute("visibility", "hidden"); };
  const move = (event) => {
    const x = event.clientX - box.getBoundingClientRect().left;
    let best = 0;
    scale.along.forEach((value, i) => { if (Math.abs(scale.x(value) - x) < Math.abs(scale.x(scale.along[best]) - x)) best = i; });
    if (data[series][best] === null) { leave(); return; }
    const px = scale.x(scale.along[best]), py = scale.y(data[series][best]);
    for (const [key, value] of [["x1", px], ["x2", px], ["visibility", "visible"]]) line.setAttribute(key, value);
    for (const [key, value] of [["cx", px], ["cy", py], ["visibility", "visible"]]) point.setAttribute(key, value);
    tip.textContent = describe(data, series, best);
    tip.hidden = false;
    tip.style.left = `${Math.max(0, Math.min(px + 10, box.clientWidth - tip.offsetWidth))}px`;
  };
  svg.addEventListener("pointermove", move);
  svg.addEventListener("pointerdown", move);
  svg.addEventListener("pointerleave", leave);
}

function describe(data, series, i) {
  const words = labels[page.lang];
  if (data.step) return `${words.step} ${data.step[i].toLocaleString("en")} · ${+data[series][i].toPrecision(4)}`;
  const where = `${short(data.tokens[i])} ${words.tokens}`;
  if (series === "loss") return `${where} · ${words.loss} ${data.loss[i].toFixed(3)} (${words.range} ${data.low[i].toFixed(2)} – ${data.high[i].toFixed(2)})`;
  if (series === "lr") return `${where} · ${(100 * data.lr[i]).toFixed(1)} % ${words.lr}`;
  return `${where} · ${Math.round(data.speed[i]).toLocaleString("en")} ${words.speed}`;
}

const boxes = [...document.querySelectorAll(".chart")];
const drawAll = () => boxes.forEach(plot);
for (const button of document.querySelectorAll("button.log")) {
  button.addEventListener("click", () => {
    logarithmic = !logarithmic;
    button.setAttribute("aria-pressed", String(logarithmic));
    drawAll();
  });
}
drawAll(); // at once: an observer waits for a frame, which a busy machine may take long to give
if (window.ResizeObserver) {
  const watcher = new ResizeObserver((entries) => entries.forEach((entry) => plot(entry.target)));
  boxes.forEach((box) => watcher.observe(box));
} else {
  window.addEventListener("resize", drawAll);
}
