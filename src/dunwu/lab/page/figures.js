
// ------------------------------------------------------------------------------------------------ figures
// Lines with bands on axes that may be logarithmic. Labels are text: they reach the page as text nodes or painted letters only.

const figures = JSON.parse(document.getElementById("figures").textContent);
const PHONE = 420;

function tone(name) {
  return getComputedStyle(page).getPropertyValue(name).trim();
}

function short(value) {
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size >= 1e15 || size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  for (const [unit, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (size >= unit) return `${+(value / unit).toPrecision(3)}${letter}`;
  }
  return String(+value.toPrecision(3));
}

function shown(value) {
  return Math.abs(value) >= 1e3 && Math.abs(value) < 1e9 && Number.isInteger(value) ? value.toLocaleString("en") : short(+value.toPrecision(4));
}

// ------------------------------------------------------------------------------------------------ axes

function roundSteps(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough * (1 - 1e-9));
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high * (1 + 1e-12) + step * 1e-9; at += 1) found.push(+(at * step).toPrecision(12));
  return found;
}

function powerSteps(low, high, count) {
  const decades = Math.log10(high / low);
  if (decades < 0.8) return roundSteps(low, high, count);
  const factors = decades < 1.6 ? [1, 2, 5] : decades < 3.2 && count > 4 ? [1, 3] : [1];
  const every = Math.max(1, Math.ceil(decades / count));
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high) + 1e-9; power += 1) {
    if (power % every) continue;
    for (const factor of factors) {
      const value = +(factor * 10 ** power).toPrecision(12);
      if (value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9)) found.push(value);
    }
  }
  return found.length > 1 ? found : roundSteps(low, high, count);
}

function padded(low, high, log) {
  if (low === null || high === null || low === undefined) return log ? [1, 10] : [0, 1];
  if (log) {
    const factor = high > low ? (high / low) ** 0.05 : 1.5;
    return [low / factor, high * factor];
  }
  const room = (high - low) * 0.05 || Math.abs(high) * 0.1 || 1;
  return [low - room, high + room];
}

function axis(steps, log, size, width) {
  const count = width < PHONE ? 4 : 7;
  return {
    stroke: tone("--muted"),
    font: "12px system-ui, sans-serif",
    size,
    grid: { stroke: tone("--rule"), width: 1 },
    ticks: { show: false },
    splits: (plot, index, low, high) => (log ? powerSteps : roundSteps)(low, high, steps || count),
    values: (plot, values) => values.map(short),
    filter: (plot, values) => values, // log axes of the library would hide some
  };
}

// ------------------------------------------------------------------------------------------------ data

// All lines over one list of x: a slot for each x, and for an x that a line has several times, one each.
function aligned(lines, xLog, yLog) {
  const slots = new Map();
  const ordered = lines.map((line) => {
    const order = line.x.map((x, i) => i).filter((i) => line.x[i] !== null && (!xLog || line.x[i] > 0));
    return order.sort((a, b) => line.x[a] - line.x[b] || a - b);
  });
  const keys = ordered.map((order, at) => {
    let last = null, times = 0;
    return order.map((i) => {
      const x = lines[at].x[i];
      times = x === last ? times + 1 : 0;
      last = x;
      const key = `${x} ${times}`;
      slots.set(key, [x, times]);
      return key;
    });
  });
  const sorted = [...slots.entries()].sort(([, a], [, b]) => a[0] - b[0] || a[1] - b[1]);
  const place = new Map(sorted.map(([key], i) => [key, i]));
  const spread = (values, at) => {
    const found = new Array(sorted.length); // undefined: another line's x, drawn across; null: a gap
    ordered[at].forEach((i, n) => { const y = values[i]; found[place.get(keys[at][n])] = y === null || (yLog && y <= 0) ? null : y; });
    return found;
  };
  return { xs: sorted.map(([, [x]]) => x), spread };
}

function seriesOf(line, number) {
  const stroke = tone(`--line-${(number % 8) + 1}`);
  const single = line.y.filter((y) => y !== null).length < 2;
  const points = { show: line.mark === "points" || line.mark === "both" || single, size: 7, fill: stroke, width: 0 };
  const dash = line.mark === "dashed" ? [7, 5] : number >= 8 ? [2, 3] : undefined;
  return { stroke, width: 2, points, dash, ...(line.mark === "points" ? { paths: () => null } : {}) };
}

const isBand = (line) => line.low !== null && (line.mark === "line" || line.mark === "dashed");

// ------------------------------------------------------------------------------------------------ one figure

function drawFigure(element) {
  const figure = figures[Number(element.dataset.figure)];
  const state = { xLog: figure.x_log, yLog: figure.y_log, on: figure.lines.map(() => true), plot: null, slot: null };
  const box = element.querySelector(".live");
  state.values = addSeries(element, figure, (number) => {
    state.on[number] = !state.on[number];
    showOnly(state);
    return state.on[number];
  });
  element.querySelector(".live-part").hidden = false;
  const again = () => build(element, box, figure, state);
  for (const button of element.querySelectorAll("[data-axis]")) {
    button.addEventListener("click", () => {
      const key = `${button.dataset.axis}Log`;
      state[key] = !state[key];
      button.setAttribute("aria-pressed", String(state[key]));
      again();
    });
  }
  element.querySelector(".whole").addEventListener("click", () => whole(state));
  box.addEventListener("keydown", (event) => onKey(event, element, figure, state));
  again();
  return { box, again, state };
}

function addSeries(element, figure, toggle) {
  const list = element.querySelector(".series");
  return figure.lines.map((line, number) => {
    const button = document.createElement("button");
    const swatch = document.createElement("span"), label = document.createElement("span"), value = document.createElement("span");
    button.type = "button";
    button.setAttribute("aria-pressed", "true");
    swatch.className = `swatch line-${(number % 8) + 1} ${line.mark === "points" ? "points" : line.mark === "dashed" || number >= 8 ? "dashed" : ""}`;
    label.textContent = line.label;
    value.className = "value";
    button.append(swatch, label, value);
    button.addEventListener("click", () => button.setAttribute("aria-pressed", String(toggle(number))));
    list.append(button);
    return value;
  });
}

function build(element, box, figure, state) {
  const width = box.clientWidth, height = box.clientHeight;
  if (!width) return;
  state.plot?.destroy();
  const { xs, spread } = aligned(figure.lines, state.xLog, state.yLog);
  const data = [xs], series = [{}], bands = [];
  state.columns = figure.lines.map((line, number) => {
    const columns = [data.length];
    data.push(spread(line.y, number));
    series.push(seriesOf(line, number));
    if (line.low !== null) {
      const limit = { stroke: "transparent", width: 0, points: { show: false }, ...(isBand(line) ? {} : { paths: () => null }) };
      for (const side of ["high", "low"]) {
        columns.push(data.length);
        data.push(spread(line[side], number));
        series.push({ ...limit });
      }
      if (isBand(line)) bands.push({ series: [columns[1], columns[2]], fill: faint(tone(`--line-${(number % 8) + 1}`)) });
    }
    return columns;
  });
  const crossing = figure.rules.filter(([along, at]) => along === "y" && (!state.yLog || at > 0)).map(([, at]) => at);
  const yRange = (plot, low, high) => padded(...[Math.min, Math.max].map((pick, i) => (low === null ? null : pick([low, high][i], ...crossing))), state.yLog);
  state.plot = new uPlot({
    width, height, series, bands,
    legend: { show: false },
    padding: [8, 12, 0, 0],
    scales: {
      x: { time: false, distr: state.xLog ? 3 : 1, range: (plot, low, high) => (state.zoomed ? [low, high] : padded(xs.length ? xs[0] : null, xs.length ? xs[xs.length - 1] : null, state.xLog)) },
      y: { distr: state.yLog ? 3 : 1, range: yRange },
    },
    axes: [axis(0, state.xLog, 28, width), axis(5, state.yLog, 52, width)],
    cursor: {
      y: false,
      drag: { x: true, y: false, setScale: false },
      points: { size: 9, width: 2 },
      dataIdx: (plot, column, hovered) => nearest(plot, column, hovered),
    },
    hooks: {
      setCursor: [(plot) => tell(element, figure, state, plot)],
      setSelect: [(plot) => zoom(element, state, plot)],
      draw: [(plot) => { errorBars(plot, figure, state); rules(plot, figure.rules, state); }],
    },
  }, data, box);
  state.plot.over.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch") state.plot.setCursor({ left: event.offsetX, top: event.offsetY });
  });
  state.plot.over.addEventListener("dblclick", () => whole(state));
  state.zoomed = false;
  element.querySelector(".whole").hidden = true;
  showOnly(state);
}

function faint(colour) {
  return `${colour}2e`; // six digits, as the style sheet has them, and how opaque
}

function showOnly(state) {
  state.plot.batch(() => state.columns.forEach((columns, number) => columns.forEach((column) => {
    if (state.plot.series[column].show !== state.on[number]) state.plot.setSeries(column, { show: state.on[number] });
  })));
}

// ------------------------------------------------------------------------------------------------ marks beside the lines

function errorBars(plot, figure, state) {
  figure.lines.forEach((line, number) => {
    if (line.low === null || isBand(line) || !state.on[number]) return;
    const [, high, low] = state.columns[number];
    plot.ctx.save();
    plot.ctx.strokeStyle = tone(`--line-${(number % 8) + 1}`);
    plot.ctx.lineWidth = 1.25 * devicePixelRatio;
    plot.data[0].forEach((x, i) => {
      const from = plot.data[low][i], to = plot.data[high][i];
      if (from == null || to == null || x < plot.scales.x.min || x > plot.scales.x.max) return;
      const at = plot.valToPos(x, "x", true);
      plot.ctx.beginPath();
      plot.ctx.moveTo(at, plot.valToPos(from, "y", true));
      plot.ctx.lineTo(at, plot.valToPos(to, "y", true));
      plot.ctx.stroke();
    });
    plot.ctx.restore();
  });
}

function rules(plot, all, state) {
  const { left, top, width, height } = plot.bbox;
  const { ctx } = plot;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = tone("--muted");
  ctx.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
  ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
  ctx.lineWidth = devicePixelRatio;
  all.forEach(([along, value, label]) => {
    const scale = plot.scales[along];
    if (value < scale.min || value > scale.max || (state[`${along}Log`] && value <= 0)) return;
    const at = plot.valToPos(value, along, true);
    ctx.beginPath();
    ctx.moveTo(along === "x" ? at : left, along === "x" ? top : at);
    ctx.lineTo(along === "x" ? at : left + width, along === "x" ? top + height : at);
    ctx.stroke();
    if (along === "y") {
      ctx.textAlign = "right";
      ctx.fillText(label, left + width - 4 * devicePixelRatio, at - 4 * devicePixelRatio, width);
    } else {
      const right = at > left + width / 2;
      ctx.textAlign = right ? "right" : "left";
      ctx.fillText(label, at + (right ? -4 : 4) * devicePixelRatio, top + 12 * devicePixelRatio, width / 2);
    }
  });
  ctx.restore();
}

// ------------------------------------------------------------------------------------------------ under the cursor

// The line's own point that is nearest to the cursor, unless that is far.
function nearest(plot, column, hovered) {
  const values = plot.data[column];
  if (values[hovered] != null) return hovered;
  let before = hovered, after = hovered;
  while (before >= 0 && values[before] == null) before -= 1;
  while (after < values.length && values[after] == null) after += 1;
  const distance = (i) => (i < 0 || i >= values.length ? Infinity : Math.abs(plot.valToPos(plot.data[0][i], "x") - plot.cursor.left));
  const best = distance(before) <= distance(after) ? before : after;
  return distance(best) < 60 ? best : null;
}

function tell(element, figure, state, plot) {
  const { idx, left } = plot.cursor;
  const at = left < 0 || idx === null || idx === undefined ? null : idx;
  element.querySelector(".where").textContent = at === null ? "" : `${label(figure.x_label)} ${shown(plot.data[0][at])}`;
  state.columns.forEach(([column, high, low], number) => {
    const own = at === null || !state.on[number] ? null : plot.cursor.idxs[column];
    state.values[number].textContent = own === null || own === undefined ? "" : value(plot, own, column, high, low);
  });
}

function value(plot, i, column, high, low) {
  const y = shown(plot.data[column][i]);
  const limits = low !== undefined && plot.data[low][i] != null && plot.data[high][i] != null;
  return limits ? `${y} (${shown(plot.data[low][i])} – ${shown(plot.data[high][i])})` : y;
}

function label([english, chinese]) {
  return page.lang === "en" ? english : chinese;
}

function onKey(event, element, figure, state) {
  const { plot } = state;
  const xs = plot.data[0];
  const inside = xs.map((x, i) => i).filter((i) => xs[i] >= plot.scales.x.min && xs[i] <= plot.scales.x.max && state.columns.some(([column], n) => state.on[n] && plot.data[column][i] != null));
  if (event.key === "Escape") { whole(state); return; }
  const moves = { ArrowLeft: (n) => n - 1, ArrowRight: (n) => n + 1, Home: () => 0, End: () => inside.length - 1 };
  if (!(event.key in moves) || !inside.length) return;
  event.preventDefault();
  const now = inside.indexOf(plot.cursor.idx);
  const next = inside[Math.max(0, Math.min(inside.length - 1, moves[event.key](now < 0 ? (event.key === "ArrowLeft" ? inside.length : -1) : now)))];
  plot.setCursor({ left: plot.valToPos(xs[next], "x"), top: plot.over.clientHeight / 2 });
  const values = figure.lines.map((line, n) => (state.values[n].textContent ? `${line.label}: ${state.values[n].textContent}` : null));
  element.querySelector(".spoken").textContent = [`${label(figure.x_label)} ${shown(xs[next])}`, ...values.filter(Boolean)].join("; ");
}

function zoom(element, state, plot) {
  const { left, width } = plot.select;
  if (width < 8) return;
  state.zoomed = true;
  element.querySelector(".whole").hidden = false;
  plot.setScale("x", { min: plot.posToVal(left, "x"), max: plot.posToVal(left + width, "x") });
  plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
}

function whole(state) {
  state.zoomed = false;
  const xs = state.plot.data[0];
  state.plot.setScale("x", { min: xs[0], max: xs[xs.length - 1] });
  state.plot.root.closest(".figure").querySelector(".whole").hidden = true;
}

const drawn = [...document.querySelectorAll(".figure")].map(drawFigure);
const rebuild = () => drawn.forEach((one) => one.again());
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", rebuild);
if (window.ResizeObserver) {
  const watcher = new ResizeObserver((entries) => entries.forEach(({ target }) => {
    const one = drawn.find(({ box }) => box === target);
    if (!one.state.plot) one.again();
    else if (one.state.plot.width !== target.clientWidth) one.state.plot.setSize({ width: target.clientWidth, height: target.clientHeight });
  }));
  drawn.forEach(({ box }) => watcher.observe(box));
} else {
  window.addEventListener("resize", rebuild);
}
